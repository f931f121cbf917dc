"""Commands that show how the node is, try its destinations, and tidy up."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from dicom_node.cli import _completion
from dicom_node.cli._shared import (
    WRONG_USE,
    ConfigOption,
    JsonOption,
    coloured,
    console,
    fail,
    ledger_of,
    plain,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from dicom_node.settings.sections import Settings

app = typer.Typer()


@app.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Study Instance UID, or its begin or end: the whole story of that study.",
            autocompletion=_completion.studies,
        ),
    ] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Most studies in the list.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the node has received, explained, delivered and failed; of one study, everything and what to do next.

    JSON: `counts`, `studies`, `downgrades`, `queues`, `uncommitted`, `stores`. Of one study: `study_instance_uid`,
    `revisions` (the newest first), `quarantined`, `verdicts`, `away`, `next`.
    """
    settings = settings_of(config)
    if study is None:
        _all(settings, limit, as_json=as_json)
    else:
        _one(settings, study, as_json=as_json)


def _one(settings: "Settings", part: str, *, as_json: bool) -> None:
    from dicom_node.cli import _story  # noqa: PLC0415 - commands load only what they need

    ledger, now = ledger_of(settings), datetime.now(UTC)
    found = ledger.find_studies(part)
    if len(found) > 1:
        raise fail(f"{part} is a part of several Study Instance UIDs, say more of it: {', '.join(found)}", WRONG_USE)
    story = ledger.story(found[0]) if found else None
    if story is None:
        raise fail(f"{part}: no study is known whose UID is this, or begins or ends with it; it may never have come")
    if as_json:
        print_json(_story.as_json(story, now))
    else:
        console().print(_story.render(story, now))


def _all(settings: "Settings", limit: int, *, as_json: bool) -> None:
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
    out = console()
    table = plain("state", "received (UTC)", "rev", "images", "study, and why")
    for one in studies:
        state = one.state.value if one.done is None else f"{one.state.value} {one.done:.0%}"
        said = one.study_instance_uid + (f"\n{one.reason}" if one.reason else "")
        table.add_row(coloured(state), _moment(one.received_at), str(one.revision), str(one.instances), said)
    out.print(table)
    for name, found in lists.items():
        if found:
            title, columns, row = _TABLES[name]
            out.print(f"\n{title}", style="bold")
            table = plain(*columns)
            for one in found:
                table.add_row(*row(one))
            out.print(table)
    for kind, states in counts.items():
        out.print(f"{kind}: " + (", ".join(f"{state} {count}" for state, count in states.items()) or "none"))


def _moment(when: datetime | None) -> str:
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def _trouble(one: Any) -> str:
    if one.since is None:
        return ""
    return f"{one.reason}\nsince {_moment(one.since)}, tried again {_moment(one.next_attempt_at)}"


_Row = Callable[[Any], Sequence[str | Text]]
_TABLES: dict[str, tuple[str, Sequence[str], _Row]] = {
    "downgrades": (
        "Downgrades",
        ("destination", "does not take", "gets instead", "objects", "because"),
        lambda one: (one.destination, one.kind, one.stand_in, str(one.count), one.reason),
    ),
    "queues": (
        "Destinations",
        ("destination", "state", "waiting", "dead", "because"),
        lambda one: (one.destination, coloured(one.state), str(one.waiting), str(one.dead), _trouble(one)),
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
    """Remove what [retention] no longer keeps, as the node does by itself every minute.

    JSON: `dry_run`, `removed`. Of what is removed: `store`, `why`, `items`, `bytes`.
    """
    from dicom_node import app as node  # noqa: PLC0415

    gone = node.retention(settings_of(config)).clean(dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "removed": [asdict(one) for one in gone]})
        return
    table = plain("store", "because of", "items", "MB")
    for one in gone:
        table.add_row(one.store, one.why, str(one.items), f"{one.bytes / 1e6:,.1f}")
    out = console()
    out.print(("Would go" if dry_run else "Removed") if gone else "nothing to remove")
    if gone:
        out.print(table)


@app.command()
def echo(
    destination: Annotated[
        str | None,
        typer.Argument(help="Name of a destination; default: all of them.", autocompletion=_completion.destinations),
    ] = None,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try whether destinations can be reached: C-ECHO, or a search over DICOMweb; nothing is sent.

    JSON: a list of `destination`, `over`, `reached`, `seconds`, `said`, `advice`.
    """
    from dicom_node.deliver.echo import echo as try_one  # noqa: PLC0415

    settings = settings_of(config)
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
