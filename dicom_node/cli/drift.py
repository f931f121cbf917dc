"""Drift of what arrives and of what the model says; the challenger beside the champion."""

import typer

app = typer.Typer()
