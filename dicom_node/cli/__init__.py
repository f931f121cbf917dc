"""`dicom-node`: one program, a command per task. Exit status 0 done, 1 not done, 2 wrong use or configuration."""

import os

import typer

from dicom_node.cli import data, doctor, drift, init, look, node, send
from dicom_node.cli._shared import OneLine, later
from explain_core.processor import share_cores

app = typer.Typer(cls=OneLine, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
app.add_typer(init.app)
app.add_typer(node.app)
app.add_typer(look.app)
app.add_typer(doctor.app)
app.add_typer(send.app)
app.add_typer(data.app)
app.add_typer(drift.app)
app.add_typer(later("dicom_node.cli.audit", "The audit trail."), name="audit")
app.add_typer(later("dicom_node.cli.alert", "Alerts of the node itself."), name="alert")
app.add_typer(later("dicom_node.cli.model", "Models that the node runs."), name="model")
app.add_typer(later("dicom_node.cli.retrain", "Retraining jobs."), name="retrain")
app.add_typer(later("dicom_node.cli.user", "Who may log in to the dashboard."), name="user")


def main() -> None:
    """Entry point of `dicom-node`; what any command or role writes is its own user's to read, and nobody else's."""
    os.umask(0o077)
    share_cores()
    app()
