"""Retraining jobs: submit, status, cancel, logs."""

import typer

app = typer.Typer(no_args_is_help=True, help="Retraining jobs.")
