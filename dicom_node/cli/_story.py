"""The story of one study on a terminal of 80 columns or more."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from pydicom.uid import UID
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from dicom_node.cli._shared import coloured, plain
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger.story import (
    Decided,
    DeliveryStory,
    ImageStory,
    RevisionStory,
    Story,
    TaskStory,
    what_next,
)

_STEPS: Final = (
    ("first image", "first_received", None),
    ("last image", "last_received", "received"),
    ("complete", "ready_at", "ready"),
    ("begun", "leased_at", "leased"),
    ("explained", "explained_at", "explained"),
    ("delivered", "delivered_at", "delivered"),
)
"""What happened, when (of the timeline), and after how long (of its seconds)."""
_Row = tuple[str | Text, ...]
_PAIR: Final = ("state", "")
"""Heads of a table that is shown without them."""


def as_json(story: Story, now: datetime) -> dict[str, Any]:
    """The story as it is printed with --json: every field, the seconds of each step, and what to do next."""
    told = asdict(story)
    for shown, revision in zip(told["revisions"], story.revisions, strict=True):
        shown["seconds"] = revision.timeline.seconds()
    return told | {"next": what_next(story, now)}


def render(story: Story, now: datetime) -> RenderableType:
    """The story for people: what to do first, then every revision, the newest first."""
    parts: list[RenderableType] = [Text(f"study {story.study_instance_uid}", style="bold")]
    todo = what_next(story, now)
    if todo:
        parts.append(_rows(_PAIR, [(Text("do", style="bold yellow"), line) for line in todo]))
    for revision in story.revisions:
        parts += _revision(revision, len(story.revisions))
    if story.quarantined:
        rows = [_named("set aside", one.sop_instance_uid, one.reason) for one in story.quarantined]
        parts += [Text("set aside", style="bold"), _rows(_PAIR, rows)]
    for said in story.verdicts:
        by = f" by {said.reader}" if said.reader else ""
        parts.append(Text(f"verdict{by}, {moment(said.given_at)}: {said.opinion.value}, on {said.model}"))
    return Group(*parts)


def moment(when: datetime | None) -> str:
    """A time in UTC to the second; "" for none."""
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def lasted(seconds: float | None) -> str:
    """A duration in the two largest units that matter: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min"; "" for none."""
    if seconds is None:
        return ""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = timedelta(seconds=round(seconds))
    minutes, rest = divmod(whole.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    units = ((whole.days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)


def _revision(one: RevisionStory, of: int) -> Iterator[RenderableType]:
    newest = f"revision {one.revision}" + (f" of {of}" if of > 1 else "")
    why = f": {one.reason}" if one.reason else ""
    yield Text.assemble((f"\n{newest}: ", "bold"), coloured(one.state.value), why)
    yield _rows(("step", "at (UTC)", "after"), list(_steps(one)))
    if one.images:  # of a revision whose rules were asked again the next one has them
        yield Text("images", style="bold")
        yield _rows(_PAIR, [_image(image) for image in one.images])
    for task in one.tasks:
        yield _task(task)
        for name in dict.fromkeys(sent.destination for sent in task.deliveries):
            sent = [_delivery(other) for other in task.deliveries if other.destination == name]
            yield Text(f"to {name}", style="bold")
            yield _rows(("state", "object", "tries", "at (UTC)", "remark"), sent)


def _steps(one: RevisionStory) -> Iterator[_Row]:
    took = one.timeline.seconds()
    for name, at, step in _STEPS:
        if (when := getattr(one.timeline, at)) is not None:
            said = "reported" if name == "explained" and one.state is not StudyState.EXPLAINED else name
            yield said, moment(when), lasted(took[step]) if step else ""
    if took["total"] is not None:
        yield "in all", "", lasted(took["total"])


def _image(one: ImageStory) -> _Row:
    of = f"{UID(one.sop_class_uid).name}, from {one.sender}"
    removed = ["its file was removed by retention"] if one.removed else []
    why = [f"because {one.reason}"] if one.reason else []
    return _named(one.fate.value, one.sop_instance_uid, of, *why, *map(_decision, one.decisions), *removed)


def _decision(said: Decided) -> str:
    word = "present" if said.positive else "absent"
    who = f"by {said.model_name} {said.model_version}" + (f", {said.role}" if said.role != "champion" else "")
    near = ", near the threshold" if said.near_threshold else ""
    far = ", unlike the images of its training" if said.far else ""
    return f"{word}, {said.probability:.3f} (threshold {said.threshold:.3f}) {who}{near}{far}"


def _task(task: TaskStory) -> Text:
    state = task.state.value if task.done is None else f"{task.state.value} {task.done:.0%}"
    more = f", {task.attempts} attempt{'s' if task.attempts != 1 else ''}"
    kept = ", results removed by retention" if task.emptied_at else ""
    why = f": {task.reason}" if task.reason else ""
    return Text.assemble((f"task {task.route or 'of no rule'}: ", "bold"), coloured(state), more, kept, why)


def _delivery(one: DeliveryStory) -> _Row:
    waits = one.state is DeliveryState.PENDING
    at = f"due {moment(one.next_attempt_at)}" if waits else moment(one.finished_at)
    instead = f"{one.stand_in.replace('_', ' ')} instead" if one.stand_in else ""
    asked = f"commitment {one.commitment}" if one.commitment in {"asked", "to be asked"} else ""
    remark = "; ".join(filter(None, (instead, asked, one.last_error)))
    return coloured(one.state.value), one.kind.replace("_", " "), str(one.attempts), at, remark


def _named(state: str, *lines: str) -> _Row:
    """A state, and what it is of: a UID first, which is never broken at 80 columns."""
    return coloured(state), "\n".join(lines)


def _rows(heads: Sequence[str], rows: Iterable[_Row]) -> RenderableType:
    """A table, indented; without heads where its cells speak for themselves."""
    table = plain(*heads)
    table.show_header = heads is not _PAIR
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell, overflow="fold") for cell in row))
    return Padding(table, (0, 0, 0, 2))
