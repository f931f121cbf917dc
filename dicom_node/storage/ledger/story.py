"""The whole story of one study, from its first image to its last delivery, and what to do where something is wrong."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from dicom_node.nouns import DeliveryState, SOPInstanceUID, StudyInstanceUID, StudyState, TaskState
from dicom_node.storage.ledger.reports import Timeline
from dicom_node.storage.ledger.verdicts import ReaderVerdict

PATIENCE: Final = timedelta(minutes=2)
"""How long a task may wait for a worker before somebody should look."""


class Fate(StrEnum):
    """What became of an image.

    RECEIVED: its study is not complete. WAITING: a task has it. EXPLAINED: the model said something of it.
    NOT_ANALYSED: a task had it, and the model said nothing of it. PASSED_BY: no route takes it. NO_IMAGE: a report,
    presentation state or result, which nothing is said about.
    """

    RECEIVED = "received"
    WAITING = "waiting"
    EXPLAINED = "explained"
    NOT_ANALYSED = "not analysed"
    PASSED_BY = "passed by"
    NO_IMAGE = "no image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What one model version said of one image.

    Attributes:
        role: in which role that version saw it; the challenger's decisions are never sent.
        digest: of the version's bundle.
        far: whether the image is unlike those that the model was trained with; None where it cannot say.
        task_id: in answer to what.
    """

    role: str
    model_name: str
    model_version: str
    digest: str
    probability: float
    threshold: float
    positive: bool
    near_threshold: bool
    far: bool | None
    observed_at: datetime
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStory:
    """One image of a study.

    Attributes:
        sender: calling AE title and address, "PACS@192.0.2.7"; the title alone where the association is forgotten.
        removed: whether retention has removed its file.
        reason: why it was not analysed, a plain clause that follows "because", or None.
        decisions: by time; empty where no model saw it.
    """

    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    series_instance_uid: str
    sender: str
    received_at: datetime
    size: int
    removed: bool
    fate: Fate
    reason: str | None
    decisions: tuple[Decided, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStory:
    """One result object on its way to one destination.

    Attributes:
        stand_in: of a downgraded one, the kind that is sent instead.
        next_attempt_at: of a pending one; None of every other.
        last_error: why the last attempt failed, the warning it was delivered with, or None.
        status: the C-STORE status that it was delivered with, or None.
        commitment: "" where none is wanted; "asked", "to be asked", "committed", or "not committed" (see last_error).
        commitment_asked_at: when the request that is open was made, or None.
    """

    delivery_id: str
    kind: str
    destination: str
    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    last_error: str | None
    status: int | None
    stand_in: str | None
    commitment: str
    commitment_asked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStory:
    """One task of a revision.

    Attributes:
        route: the rule that made it; "" for a study that no rule takes.
        images: how many it has to explain; 0 for one that reports why nothing is explained.
        reason: why it ended as it did, or why nothing is explained; or None.
        done: part of the analysis that is done, 0 to 1, while it is worked on.
        outcome: explained, ignored or failed; None until it has ended.
        emptied_at: when retention removed its results, or None.
        deliveries: in order of destination and kind.
    """

    task_id: str
    route: str
    images: int
    destinations: tuple[str, ...]
    state: TaskState
    attempts: int
    reason: str | None
    done: float | None
    outcome: StudyState | None
    created_at: datetime
    submitted_at: datetime | None
    leased_at: datetime | None
    finished_at: datetime | None
    emptied_at: datetime | None
    deliveries: tuple[DeliveryStory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionStory:
    """One revision of a study; the one that is being received has no tasks yet."""

    revision: int
    state: StudyState
    reason: str | None
    timeline: Timeline
    images: tuple[ImageStory, ...]
    tasks: tuple[TaskStory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A file of the study that was set aside."""

    sop_instance_uid: SOPInstanceUID
    reason: str
    quarantined_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the ledger knows of one study.

    Attributes:
        revisions: the newest first.
        quarantined: by time.
        verdicts: what radiologists said of it, by time.
        away: destinations of pending deliveries that do not answer, and the reason of the last try.
    """

    study_instance_uid: StudyInstanceUID
    revisions: tuple[RevisionStory, ...]
    quarantined: tuple[Quarantined, ...]
    verdicts: tuple[ReaderVerdict, ...]
    away: Mapping[str, str]


def what_next(story: Story, now: datetime) -> list[str]:
    """What to do where something is wrong, a line each, of the newest revision that is complete; empty: all is well.

    Args:
        story: of the study.
        now: the time.
    """
    uid = story.study_instance_uid
    lines = [f"{one.sop_instance_uid} was set aside: {one.reason}" for one in story.quarantined]
    complete = [one for one in story.revisions if one.state is not StudyState.RECEIVING]
    for revision in complete[:1]:
        lines += _of_tasks(uid, revision, now)
        lines += _of_deliveries(story, [one for task in revision.tasks for one in task.deliveries])
        if revision.state is StudyState.IGNORED:
            lines.append(
                "if it should be explained: `dicom-node rules test FILE` says which rule decides and why; "
                f"after the rule was changed, `dicom-node rerun {uid}` asks again"
            )
    return lines


def _of_tasks(uid: str, revision: RevisionStory, now: datetime) -> Iterator[str]:
    for task in revision.tasks:
        if task.state is TaskState.FAILED:
            yield f"task {task.route!r} failed: {task.reason}; see to it, then `dicom-node rerun {uid} --failed`"
        elif task.state is TaskState.PENDING and now - (task.submitted_at or task.created_at) > PATIENCE:
            yield "no worker takes its task: `dicom-node doctor` says whether Redis answers; is `dicom-node worker` up?"
        elif task.state is TaskState.DONE and not task.destinations:
            yield f"nobody gets its results: name destinations in the settings, then `dicom-node rerun {uid}`"


def _of_deliveries(story: Story, owed: list[DeliveryStory]) -> Iterator[str]:
    uid = story.study_instance_uid
    for name, reason in story.away.items():
        yield f"{name} does not answer ({reason}): `dicom-node echo {name}`; what waits for it goes by itself"
    dead = Counter((one.destination, str(one.last_error)) for one in owed if one.state is DeliveryState.DEAD)
    for (name, reason), count in dead.items():
        yield f"{count} dead at {name} ({reason}): see to it there, then `dicom-node rerun {uid} --failed`"
    refused = Counter((one.destination, str(one.last_error)) for one in owed if one.commitment == "not committed")
    for (name, reason), count in refused.items():
        yield f"{count} at {name} {reason}: look into its log; it is asked again by itself"
