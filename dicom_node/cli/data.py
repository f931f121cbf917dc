"""Commands about what was received and shown: export, verdict, drift."""

import typer

app = typer.Typer()
