"""What all commands share: options, exit statuses, errors in one line."""

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dicom_node.errors import ConfigError, NodeError
from dicom_node.settings.sections import Settings
from explain_core.errors import ExplainError

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger
    from dicom_node.watch.audit import Audit

WRONG_USE = 2

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="DICOM_NODE_CONFIG", help="Settings file (TOML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str, status: int = 1) -> typer.Exit:
    """Say what is wrong on standard error; raise what is returned."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return typer.Exit(status)


class OneLine(TyperGroup):
    """Ends any command whose errors are ours in one line and with its exit status, never in a trace."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # Typer brings a Click of its own
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise fail(str(error), WRONG_USE) from error
        except (NodeError, ExplainError) as error:
            raise fail(str(error)) from error


def ledger_of(settings: Settings) -> "Ledger":
    """The node's ledger, in its present schema."""
    from dicom_node.app import open_ledger  # noqa: PLC0415 - commands load only what they need

    return open_ledger(settings)


def audit_of(settings: Settings, command: str) -> AbstractContextManager["Audit"]:
    """The audit of a command that uses patients' data or changes the node."""
    from dicom_node.app import open_audit  # noqa: PLC0415

    return open_audit(settings, command)


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON lacks becomes text."""
    print(json.dumps(value, indent=1, default=str))  # noqa: T201
