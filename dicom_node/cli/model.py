"""Models that the node runs: versions, promotion, rollback."""

import typer

app = typer.Typer(no_args_is_help=True, help="Models that the node runs.")
