"""Commands about what was received and shown: a training set of it, and what radiologists say of results."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli import _completion
from dicom_node.cli._shared import (
    WRONG_USE,
    ConfigOption,
    JsonOption,
    audit_of,
    console,
    fail,
    ledger_of,
    plain,
    print_json,
    settings_of,
)
from dicom_node.nouns import Note, Opinion

if TYPE_CHECKING:
    from dicom_node.learn.export import Report
    from dicom_node.learn.labels import LabelsWrong
    from dicom_node.storage.ledger.verdicts import ReaderVerdict

app = typer.Typer()

_READER = re.compile(r"[A-Za-z0-9._-]{1,16}")
_EVERY = 100


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(help="New folder for the training set.")],
    labels: Annotated[
        Path | None, typer.Option(help="CSV of accession_number or study_instance_uid, and target.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only what was received on this day (UTC) or later.")
    ] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Also images without a target.")] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="The key is lost: start anew; no name of earlier exports comes again.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a de-identified training set of what the node has received.

    JSON: the report: counts, targets and what was left out; of wrong labels `problems`.
    """
    from dicom_node.learn.export import NothingExported, Wishes  # noqa: PLC0415
    from dicom_node.learn.export import export as run  # noqa: PLC0415
    from dicom_node.learn.labels import LabelsWrong  # noqa: PLC0415

    settings = settings_of(config)
    wishes = Wishes(labels=labels, since=since and since.replace(tzinfo=UTC), unlabelled=unlabelled, new_key=new_key)
    try:
        ledger = ledger_of(settings)
        with audit_of(settings, "export") as audit:
            report = run(settings, ledger, out, wishes, now=datetime.now(UTC), progress=_progress(), audit=audit)
    except LabelsWrong as error:
        _print_problems(error, as_json=as_json)
        raise
    except NothingExported as error:
        _print_report(error.report, out, as_json=as_json)
        raise
    _print_report(report, out, as_json=as_json)


@app.command()
def verdict(
    study: Annotated[str | None, typer.Argument(help="Study Instance UID.", autocompletion=_completion.studies)] = None,
    opinion: Annotated[Opinion | None, typer.Argument(help="What the reader says of the result.")] = None,
    *,
    image: Annotated[str | None, typer.Option(help="SOP Instance UID of the image that is meant.")] = None,
    by: Annotated[str, typer.Option(help="Sign of the reader: up to 16 letters, digits, dots and hyphens.")] = "",
    note: Annotated[Note | None, typer.Option(help="Why, in one of these words.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the verdicts, of all studies or of one.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what a radiologist says of a result: agree, disagree or wrong-place; or list what was said.

    JSON: `study_instance_uid`, `decisions`, `model`, `opinion`, `reader`, `note`, `given_at`; with --list, a list.
    """
    settings = settings_of(config)
    if listed:
        if opinion is not None:
            raise fail("--list takes no verdict", WRONG_USE)
        _list(ledger_of(settings).verdicts(study), as_json=as_json)
        return
    if study is None or opinion is None:
        raise fail(f"give a Study Instance UID and one of {', '.join(Opinion)}, or --list", WRONG_USE)
    if by and not _READER.fullmatch(by):
        raise fail("--by: a sign of 1 to 16 letters, digits, dots and hyphens", WRONG_USE)
    from dicom_node.learn.export import judge  # noqa: PLC0415
    from dicom_node.storage.spool import Spool  # noqa: PLC0415

    ledger, now, fetch = ledger_of(settings), datetime.now(UTC), Spool.of(settings).fetch
    kept = judge(ledger, study, opinion, image=image, reader=by, note=note, now=now, fetch=fetch)
    if as_json:
        print_json(asdict(kept))
    else:
        said = "present" if all(kept.decisions.values()) else "absent"
        print(f"kept: {opinion.value}, on {len(kept.decisions)} image(s) decided as {said} by {kept.model}")  # noqa: T201


@app.command()
def synthetic(
    folder: Annotated[Path, typer.Argument(help="What `python -m training synthesize` has made.")],
    *,
    out: Annotated[Path, typer.Option(help="New folder for the DICOM files.")],
    finding: Annotated[str, typer.Option(help="What the images were made to show.")] = "opacity",
    as_json: JsonOption = False,
) -> None:
    """Write artificial images as DICOM that nobody can take for radiographs of a patient.

    JSON: `present`, `absent`.
    """
    from dicom_node.offline.synthetic import write_dicom  # noqa: PLC0415

    written = write_dicom(folder, out, finding)
    if as_json:
        print_json(asdict(written))
    else:
        total = written.present + written.absent
        print(f"{total} synthetic images in {out}: {written.present} with {finding}, {written.absent} without")  # noqa: T201


def _list(verdicts: list["ReaderVerdict"], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in verdicts])
        return
    table = plain("given (UTC)", "by", "verdict", "images", "result", "study, and model")
    for one in verdicts:
        said = "/".join(sorted({"present" if positive else "absent" for positive in one.decisions.values()}))
        given = one.given_at.strftime("%Y-%m-%d %H:%M:%S")
        note = one.note.value if one.note is not None else ""
        images = str(len(one.decisions))
        verdict_ = one.opinion.value + (f": {note}" if note else "")
        table.add_row(given, one.reader, verdict_, images, said, f"{one.study_instance_uid}\n{one.model}")
    console().print(table)


def _progress() -> Callable[[str, int, int], None]:
    """Says on standard error how far it is, now and then."""

    def say(what: str, done: int, total: int) -> None:
        if done % _EVERY == 0 and 0 < done < total:
            print(f"{what}: {done} of {total}", file=sys.stderr)  # noqa: T201

    return say


def _print_problems(error: "LabelsWrong", *, as_json: bool) -> None:
    if as_json:
        print_json({"problems": [asdict(one) for one in error.problems]})
        return
    table = plain("line", "what is wrong")
    for problem in error.problems:
        table.add_row(str(problem.line), problem.what)
    console().print(table)


def _print_report(report: "Report", out: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
        return
    terminal = console()
    if report.images:
        terminal.print(f"Exported to {out}")
        table = plain("items", "")
        for name, count in report.counts.items():
            table.add_row(str(count), name)
        for target, count in sorted(report.targets.items()):
            table.add_row(str(count), {"0": "normal", "1": "opacity", "": "no target"}[target])
        for source, count in report.sources.items():
            table.add_row(str(count), {"csv": "targets of the table", "verdict": "targets of verdicts"}[source])
        terminal.print(table)
    rows = [
        ("received studies without a label", len(report.unlabelled)),
        ("studies whose patient has no ID, each a patient of its own", len(report.without_id)),
        ("images on which verdicts contradict each other or the table", len(report.contradicted)),
        *Counter(f"image left out: {one.reason}" for one in report.left_out).most_common(),
        *((f"region left out: {reason}", count) for reason, count in report.regions.most_common()),
    ]
    if any(count for _, count in rows):
        table = plain("items", "to know (--json names them)")
        for what, count in rows:
            if count:
                table.add_row(str(count), what)
        terminal.print(table)
