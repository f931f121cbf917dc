"""`dicom-node send`: files to an AE, a destination, or this node's own listener; each once, as it is."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.cli import _completion
from dicom_node.cli._shared import WRONG_USE, ConfigOption, JsonOption, audit_of, fail, print_json, settings_of
from dicom_node.nouns import AETitle, Destination, WebDestination

if TYPE_CHECKING:
    from dicom_node.deliver.files import Found
    from dicom_node.deliver.scu import StoreOutcome
    from dicom_node.settings.sections import Settings

app = typer.Typer()

_PEER: Final = re.compile(r"(?P<title>.{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s@:\[\]]+):(?P<port>\d{1,5})")
_MOST_PORT: Final = 65535


@app.command()
def send(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    *,
    to: Annotated[
        str | None,
        typer.Option(
            help="A destination of the settings, or AE@HOST:PORT; default: this node's own listener.",
            autocompletion=_completion.destinations,
        ),
    ] = None,
    calling: Annotated[
        str | None,
        typer.Option(
            help="Calling AE title; default: node.ae_title, towards this node the first that may call from here."
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="AE@HOST:PORT with TLS, by the files of [tls].")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send files, each once and as it is; exit status 1 when one was not taken.

    JSON: `to`, `calling`, `sent`, `failed`, `left_out`, `objects`. Of an object: `path`, `sop_instance_uid`, `sent`,
    `status`, `said`.
    """
    from dicom_node.deliver.files import objects_in  # noqa: PLC0415 - commands load only what they need

    settings = settings_of(config)
    for path in files:
        if not path.exists():
            raise fail(f"{path}: no such file or folder", WRONG_USE)
    there = _target(settings, to, tls=tls)
    title = calling or (_caller(settings) if to is None else settings.node.ae_title)
    found = objects_in(files)
    if not found.requests:
        raise fail(f"there is no DICOM object in {', '.join(map(str, files))}")
    begun, rows = time.monotonic(), []
    with _told(len(found.requests), quiet=as_json) as tell:
        for row in _sent(settings, there, title, found):
            rows.append(row)
            tell(row)
    failed = [one for one in rows if not one["sent"]]
    if as_json:
        counts = {"sent": len(rows) - len(failed), "failed": len(failed), "left_out": found.left_out}
        print_json({"to": _name(there), "calling": title, **counts, "objects": rows})
    else:
        _sum_up(there, title, rows, found, time.monotonic() - begun)
    raise typer.Exit(1 if failed else 0)


def _target(settings: "Settings", to: str | None, *, tls: bool) -> Destination | WebDestination:
    """Where the objects go.

    Raises:
        ConfigError: there is no such destination.
    """
    if to is None:
        return _ourselves(settings)
    if (peer := _PEER.fullmatch(to)) is None:
        if to not in (names := [one.name for one in settings.destinations]):
            known = f"there is: {', '.join(names)}" if names else "there is none"
            raise fail(f"--to {to}: neither AE@HOST:PORT, as PACS@192.0.2.7:104, nor a destination; {known}", WRONG_USE)
        return settings.destination(to)
    if not 0 < int(peer["port"]) <= _MOST_PORT:
        raise fail(f"--to {to}: a port is a number from 1 to {_MOST_PORT}", WRONG_USE)
    host, files = peer["host"].strip("[]"), settings.tls.files
    if tls and files.authorities is None:
        raise fail("--tls: set tls.authorities: whose signature makes the certificate of the peer good", WRONG_USE)
    return Destination(
        name=to, ae_title=AETitle(peer["title"]), host=host, port=int(peer["port"]),
        tls=files if tls else None, tls_name=host if tls else None,
    )  # fmt: skip


def _ourselves(settings: "Settings") -> Destination:
    """This node's listener: its certificate need not carry the address on which it is called from here."""
    node, host = settings.node, {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.node.host, settings.node.host)  # noqa: S104
    port = node.port if node.plain else settings.tls.port
    if port == 0:
        raise fail("--to: this node listens on a port of its own choice (node.port = 0): say AE@HOST:PORT", WRONG_USE)
    tls = None if node.plain else settings.tls.files
    return Destination(name="this node", ae_title=AETitle(node.ae_title), host=host, port=port, tls=tls)


def _caller(settings: "Settings") -> str:
    """An AE title that this node lets in from its own address."""
    from dicom_node.settings.callers import caller, why_not  # noqa: PLC0415

    host = _ourselves(settings).host
    callers = [caller(text) for text in settings.node.calling_ae_titles]
    titles = (one.ae_title for one in callers if why_not(callers, one.ae_title, host) is None)
    return next(titles, settings.node.ae_title)


def _sent(
    settings: "Settings", there: Destination | WebDestination, title: str, found: "Found"
) -> Iterator[dict[str, Any]]:
    """What became of every object, as soon as it is known; the audit is told too."""
    from dicom_node.deliver import scu  # noqa: PLC0415
    from dicom_node.deliver.audited import Sending  # noqa: PLC0415
    from dicom_node.deliver.stow import Stow  # noqa: PLC0415

    for path in found.unreadable:
        yield {"path": str(path), "sop_instance_uid": None, "sent": False, "status": None, "said": "no DICOM object"}
    uids, timeout = {one.key: one.sop_instance_uid for one in found.requests}, settings.delivery.timeout
    with audit_of(settings, "send") as audit:
        told = Sending(audit, there, found.requests)
        try:
            if isinstance(there, WebDestination):
                outcomes = Stow()(there, found.requests, calling_ae_title=title, timeout=timeout)
            else:
                outcomes = scu.store(there, found.requests, calling_ae_title=title, timeout=timeout)
            for one in outcomes:
                told.tell(one.key, one.error)
                row = {"path": one.key, "sop_instance_uid": uids[one.key], "sent": one.delivered, "status": one.status}
                yield row | {"said": _said(one)}
        finally:
            told.end()


def _said(outcome: "StoreOutcome") -> str:
    if outcome.error is not None:
        return str(outcome.error)
    return f"stored, with warning 0x{outcome.status:04X}" if outcome.status else "stored"


@contextmanager
def _told(total: int, *, quiet: bool) -> Iterator[Any]:
    """Says a line for each object; on a terminal a bar below says how far it is."""
    out = Console(markup=False, highlight=False, stderr=True)
    words = TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = out.is_terminal and not quiet
    with Progress(
        *words, console=out, transient=True, disable=not shown, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        bar = progress.add_task("", total=total)

        def tell(row: dict[str, Any]) -> None:
            progress.advance(bar)
            if not quiet:
                print(f"{row['path']}: {'' if row['sent'] else 'FAILED: '}{row['said']}", flush=True)  # noqa: T201

        yield tell


def _name(there: Destination | WebDestination) -> str:
    if isinstance(there, WebDestination):
        return there.url
    return f"{there.ae_title}@{there.host}:{there.port}" + (" over TLS" if there.tls is not None else "")


def _sum_up(
    there: Destination | WebDestination, title: str, rows: list[dict[str, Any]], found: "Found", seconds: float
) -> None:
    from dicom_node.deliver.echo import advice  # noqa: PLC0415

    failed = [one for one in rows if not one["sent"]]
    left = f"; {len(found.left_out)} other file(s) left out" if found.left_out else ""
    how = "" if isinstance(there, WebDestination) else f" as {title}"
    print(f"{len(rows) - len(failed)} of {len(rows)} stored at {_name(there)}{how}, {seconds:.1f} s{left}")  # noqa: T201
    for todo in dict.fromkeys(advice(one["said"]) for one in failed):
        if todo:
            print(f"to do: {todo}", file=sys.stderr)  # noqa: T201
