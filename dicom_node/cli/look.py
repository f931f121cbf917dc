"""Commands that show how the node is, try its destinations, and tidy up."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from dicom_node.cli._shared import WRONG_USE, ConfigOption, JsonOption, fail, ledger_of, print_json
from dicom_node.settings.loading import load_settings

app = typer.Typer()


@app.command()
def status(*, config: ConfigOption = None, limit: int = 20, as_json: JsonOption = False) -> None:
    """What the node has received, explained, delivered and failed."""
    settings = load_settings(config)
    ledger = ledger_of(settings)
    counts, studies = ledger.counts(), ledger.studies(limit)
    counts |= {"commitments": ledger.commitment_counts(), "commitment_reports": ledger.report_counts()}
    lists: dict[str, Sequence[Any]] = {
        "downgrades": ledger.downgrades(),
        "queues": ledger.queues([one.name for one in settings.destinations], settings.delivery.pause_after),
        "uncommitted": ledger.uncommitted(),
        "stores": ledger.sizes(),
    }
    if as_json:
        rows = [
            {"study_instance_uid": one.study_instance_uid, "revision": one.revision, "state": one.state.value,
             "reason": one.reason, "done": one.done, "instances": one.instances, "received_at": one.received_at}
            for one in studies
        ]  # fmt: skip
        told = {name: [asdict(one) for one in found] for name, found in lists.items()}
        print_json({"counts": counts, "studies": rows} | told)
        return
    console = Console()
    table = Table(Column("study", overflow="fold"), "revision", "state", "instances", "received", "reason")
    for one in studies:
        state = one.state.value if one.done is None else f"{one.state.value} {one.done:.0%}"
        when = _moment(one.received_at)
        table.add_row(one.study_instance_uid, str(one.revision), state, str(one.instances), when, one.reason or "")
    console.print(table)
    for name, found in lists.items():
        if found:
            title, columns, row = _TABLES[name]
            table = Table(*columns, title=title)
            for one in found:
                table.add_row(*row(one))
            console.print(table)
    for kind, states in counts.items():
        console.print(f"{kind}: " + (", ".join(f"{state} {count}" for state, count in states.items()) or "none"))


def _moment(when: datetime | None) -> str:
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


_Row = Callable[[Any], Sequence[str]]
_TABLES: dict[str, tuple[str, Sequence[str], _Row]] = {
    "downgrades": (
        "Downgrades",
        ("destination", "does not take", "gets instead", "objects", "because"),
        lambda one: (one.destination, one.kind, one.stand_in, str(one.count), one.reason),
    ),
    "queues": (
        "Destinations",
        ("destination", "state", "waiting", "dead", "since", "next attempt", "because"),
        lambda one: (
            one.destination, one.state, str(one.waiting), str(one.dead), _moment(one.since),
            _moment(one.next_attempt_at), one.reason or "",
        ),
    ),
    "uncommitted": (
        "Sent, not committed",
        ("destination", "objects", "because"),
        lambda one: (one.destination, str(one.count), one.reason or "no answer yet"),
    ),
    "stores": (
        "Stores",
        ("store", "files", "MB", "oldest", "measured"),
        lambda one: (
            one.name, str(one.files), f"{one.bytes / 1e6:,.1f}", _moment(one.oldest), _moment(one.measured_at),
        ),
    ),
}  # fmt: skip


@app.command()
def clean(
    *,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what [retention] no longer keeps, as the node does by itself every minute."""
    from dicom_node import app as node  # noqa: PLC0415

    gone = node.retention(load_settings(config)).clean(dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "removed": [asdict(one) for one in gone]})
        return
    table = Table("store", "because of", "items", "MB", title="Would go" if dry_run else "Removed")
    for one in gone:
        table.add_row(one.store, one.why, str(one.items), f"{one.bytes / 1e6:,.1f}")
    Console().print(table if gone else "nothing to remove")


@app.command()
def echo(
    destination: Annotated[str | None, typer.Argument(help="Name of a destination; default: all of them.")] = None,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try whether destinations can be reached: C-ECHO, or a search over DICOMweb; nothing is sent."""
    from dicom_node.deliver.echo import echo as try_one  # noqa: PLC0415

    settings = load_settings(config)
    names = [destination] if destination is not None else [one.name for one in settings.destinations]
    if not names:
        raise fail("destinations: there is none; add a [[destinations]] table", WRONG_USE)
    found = []
    for name in names:
        found.append(one := try_one(settings, name))
        if not as_json:
            outcome = "ok" if one.reached else "FAILED"
            said = one.said + (f": {one.advice}" if one.advice else "")
            print(f"{name}: {outcome} ({one.over}, {one.seconds:.2f} s): {said}")  # noqa: T201
    if as_json:
        print_json([asdict(one) for one in found])
    raise typer.Exit(0 if all(one.reached for one in found) else 1)
