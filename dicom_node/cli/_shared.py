"""What all commands share: options, exit statuses, errors in one line, and JSON where it is asked for.

An error is one line on standard error; with `--json` that line is the object {"error": what, "status": exit status}.
"""

import json
import os
import pwd
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from dicom_node.cli._places import sqlite_file
from dicom_node.errors import ConfigError, NodeError
from explain_core.errors import ExplainError

if TYPE_CHECKING:
    from dicom_node.settings.sections import Settings
    from dicom_node.storage.ledger import Ledger
    from dicom_node.watch.audit import Audit

WRONG_USE = 2

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="DICOM_NODE_CONFIG", help="Settings file (TOML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_json_wanted: ContextVar[bool] = ContextVar("json_wanted", default=False)


def fail(message: str, status: int = 1) -> typer.Exit:
    """Say what is wrong on standard error; raise what is returned."""
    said = json.dumps({"error": message, "status": status}) if _json_wanted.get() else f"error: {message}"
    print(said, file=sys.stderr)  # noqa: T201
    return typer.Exit(status)


class OneLine(TyperGroup):
    """Ends any command whose errors are ours in one line and with its exit status, never in a trace."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        """Run the program; wrong use is an object too where JSON is wanted."""
        given = list(sys.argv[1:] if args is None else args)
        token = _json_wanted.set("--json" in given)
        try:
            if not _json_wanted.get():
                return super().main(args, *others, **more)
            try:
                status = super().main(args, *others, **more | {"standalone_mode": False})
            except typer.TyperException as error:
                status = fail(error.format_message(), WRONG_USE).exit_code
            sys.exit(status or 0)
        finally:
            _json_wanted.reset(token)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # Typer brings a Click of its own
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise fail(str(error), WRONG_USE) from error
        except (NodeError, ExplainError) as error:
            raise fail(str(error)) from error
        except OSError as error:
            if error.filename is None:
                raise
            raise fail(f"{error.filename}: {error.strerror}") from error


class _Later(TyperGroup):
    """A group of commands whose module is loaded when one of them is asked for."""

    module: str

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return self._loaded().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The one of that name."""
        return self._loaded().get_command(ctx, cmd_name)

    def _loaded(self) -> TyperGroup:
        group = typer.main.get_command(import_module(self.module).app)
        if not isinstance(group, TyperGroup):
            raise TypeError(f"{self.module} is no group of commands")
        return group


def later(module: str, about: str) -> typer.Typer:
    """The group of commands that `module` defines as `app`, which is loaded only when it is needed.

    Args:
        module: its whole name.
        about: its help.
    """
    return typer.Typer(cls=type("Later", (_Later,), {"module": module}), no_args_is_help=True, help=about)


def settings_of(config: Path | None) -> "Settings":
    """The settings in a file, or the defaults; loaded only by a command that runs.

    Raises:
        ConfigError: they are wrong, in one line; or root asks of a node whose files are another's.
    """
    from dicom_node.settings.loading import load_settings  # noqa: PLC0415 - commands load only what they need

    settings = load_settings(config)
    _refuse_root(settings)
    return settings


def _refuse_root(settings: "Settings") -> None:
    """Whatever root writes of users, audit trail or ledger the node could not use after it.

    Raises:
        ConfigError: this is root, and the node's files are not; the message says as whom to ask.
    """
    if os.geteuid() != 0:
        return
    for path in (settings.node.spool, settings.audit.folder, settings.web.users):
        there = path if path.exists() else path.absolute().parent
        if there.exists() and (owner := there.stat().st_uid):
            try:
                name = pwd.getpwuid(owner).pw_name
            except KeyError:
                name = f"#{owner}"
            raise ConfigError(f"{there} is {name}'s, and what root writes there {name} cannot use: sudo -u {name} ...")


def ledger_of(settings: "Settings", *, make: bool = False) -> "Ledger":
    """The node's ledger, in its present schema.

    Raises:
        ConfigError: there is none, and none is to be made: an empty one would answer for a node that is elsewhere.
    """
    from dicom_node.app import open_ledger  # noqa: PLC0415

    path = sqlite_file(settings)
    if not make and path is not None and not path.exists():
        raise ConfigError(
            f"there is no ledger at {path.absolute()}: name the node's settings with --config or DICOM_NODE_CONFIG; of "
            "a new node `dicom-node serve` makes it"
        )
    return open_ledger(settings)


def audit_of(settings: "Settings", command: str) -> AbstractContextManager["Audit"]:
    """The audit of a command that uses patients' data or changes the node."""
    from dicom_node.app import open_audit  # noqa: PLC0415

    return open_audit(settings, command)


def console() -> Console:
    """Standard output for tables; text is shown as it is, brackets too, and in a pipe no line is ever folded."""
    out = Console(markup=False, highlight=False)
    if not out.is_terminal:
        out.width = _ENDLESS
    return out


def plain(*heads: str) -> Table:
    """A table without lines, which leaves room for words at 80 columns; no word of it is ever cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head in _SHORT, justify="right" if head in _NUMBERS else "left")
    return table


def coloured(state: str) -> Text:
    """A state, green where it is well and red where it is not; the word alone says it too."""
    word = state.partition(" ")[0]
    return Text(state, style="green" if word in _GOOD else "red" if word in _BAD else "")


_ENDLESS: Final = 1_000_000
_NUMBERS: Final = frozenset({"rev", "images", "waiting", "dead", "objects", "files", "items", "MB", "tries", "seconds"})
_SHORT: Final = _NUMBERS | {"state", "received (UTC)", "at (UTC)"}
_GOOD: Final = frozenset({"ok", "open", "explained", "sent", "committed", "done"})
_BAD: Final = frozenset({"WRONG", "FAILED", "failed", "dead", "paused", "troubled", "unknown", "not", "set"})


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON lacks becomes text."""
    print(json.dumps(value, indent=1, default=str))  # noqa: T201
