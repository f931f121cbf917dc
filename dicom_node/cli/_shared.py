"""What all commands share: options, exit statuses, errors in one line."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.errors import ConfigError
from dicom_node.settings.loading import load_settings
from dicom_node.settings.sections import Settings

WRONG_USE = 2

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="DICOM_NODE_CONFIG", help="Settings file (TOML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str, status: int = 1) -> typer.Exit:
    """Say what is wrong on standard error; raise what is returned."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return typer.Exit(status)


def settings_of(config: Path | None) -> Settings:
    """The settings.

    Raises:
        typer.Exit: they are wrong, which has been said.
    """
    try:
        return load_settings(config)
    except ConfigError as error:
        raise fail(str(error), WRONG_USE) from error


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON lacks becomes text."""
    print(json.dumps(value, indent=1, default=str))  # noqa: T201
