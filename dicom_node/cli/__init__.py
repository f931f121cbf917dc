"""`dicom-node`: one program, a command per task. Exit status 0 done, 1 not done, 2 wrong use or configuration."""

import os

import typer

from dicom_node.cli import audit, data, doctor, drift, look, model, node, retrain, user
from dicom_node.cli._shared import OneLine

app = typer.Typer(cls=OneLine, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(node.app)
app.add_typer(look.app)
app.add_typer(doctor.app)
app.add_typer(data.app)
app.add_typer(drift.app)
app.add_typer(audit.app, name="audit")
app.add_typer(model.app, name="model")
app.add_typer(retrain.app, name="retrain")
app.add_typer(user.app, name="user")


def main() -> None:
    """Entry point of `dicom-node`; what any command or role writes is its own user's to read, and nobody else's."""
    os.umask(0o077)
    app()
