"""When is a study complete? A table first, code second; no clock, no socket, no file (sans-io).

    open associations   quiet time over   cap over      decision
    -----------------   ---------------   --------      --------
    any                 any               yes           Ready
    any                 yes               no            Ready    a router that never releases holds nothing back
    any                 no                no            Waiting  until the earlier of the two

Quiet time runs from the last unassembled instance, the cap from the first one. While an association that sent images of
the study is open, more may be on their way, and quiet time is another, longer one. A late image of a
study that was already assembled is an unassembled instance like any other: it makes the next revision
and never edits the one before.

Rule for editing: decisions depend on nothing but the arguments, and every time is an aware datetime.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dicom_node.nouns import StudyActivity, StudyInstanceUID


class Completion(StrEnum):
    """Why a study counts as complete."""

    QUIET = "quiet"
    CAP = "cap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The study revision can be handed to the rules now."""

    study_instance_uid: StudyInstanceUID
    revision: int
    because: Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing to do before `until`, unless something happens to the study."""

    study_instance_uid: StudyInstanceUID
    until: datetime


def ready(
    activity: StudyActivity, now: datetime, quiet: timedelta, open_quiet: timedelta, cap: timedelta
) -> Ready | Waiting:
    """Decide whether the unassembled instances of a study make up a revision.

    Args:
        activity: the study, as the ledger sees it.
        now: the current time, aware.
        quiet: how long no instance may have arrived, when every association that sent some has ended.
        open_quiet: the same while one is open.
        cap: how long the first unassembled instance may wait at most.

    Raises:
        ValueError: a time is naive; local times must never decide about completeness.
    """
    if any(t.tzinfo is None for t in (now, activity.first_received, activity.last_received)):
        raise ValueError("times must be aware")
    capped_at = activity.first_received + cap
    quiet_at = activity.last_received + (max(quiet, open_quiet) if activity.open_associations else quiet)
    study, revision = activity.study_instance_uid, activity.revision
    if now >= quiet_at:
        return Ready(study_instance_uid=study, revision=revision, because=Completion.QUIET)
    if now >= capped_at:
        return Ready(study_instance_uid=study, revision=revision, because=Completion.CAP)
    return Waiting(study_instance_uid=study, until=min(quiet_at, capped_at))
