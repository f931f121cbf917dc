"""`dicom-node`: one program, a command per task. Exit status 0 done, 1 not done, 2 wrong use or configuration."""

import sys

import typer

from dicom_node.cli import data, drift, model, node, retrain
from dicom_node.cli._shared import WRONG_USE, fail
from dicom_node.errors import ConfigError, NodeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(node.app)
app.add_typer(data.app)
app.add_typer(drift.app)
app.add_typer(model.app, name="model")
app.add_typer(retrain.app, name="retrain")


def main() -> None:
    """Entry point of `dicom-node`: what no command has said already is said here, in one line."""
    try:
        app()
    except ConfigError as error:
        sys.exit(fail(str(error), WRONG_USE).exit_code)
    except NodeError as error:
        sys.exit(fail(str(error)).exit_code)
