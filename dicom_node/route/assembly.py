"""When is a study complete? A table first, code second; no clock, no socket, no file (sans-io).

    open associations   quiet time over   cap over      decision
    -----------------   ---------------   --------      --------
    any                 any               yes           Ready    a sender cannot hold it back
    none                yes               no            Ready
    none                no                no            Waiting  until the earlier of the two
    some                any               no            Waiting  until the cap

Quiet time runs from the last unassembled instance, the cap from the first one. A late image of a
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


def ready(activity: StudyActivity, now: datetime, quiet: timedelta, cap: timedelta) -> Ready | Waiting:
    """Decide whether the unassembled instances of a study make up a revision.

    Args:
        activity: the study, as the ledger sees it.
        now: the current time, aware.
        quiet: how long no instance may have arrived.
        cap: how long the first unassembled instance may wait at most.

    Raises:
        ValueError: a time is naive; local times must never decide about completeness.
    """
    if any(t.tzinfo is None for t in (now, activity.first_received, activity.last_received)):
        raise ValueError("times must be aware")
    capped_at = activity.first_received + cap
    quiet_at = activity.last_received + quiet
    study, revision = activity.study_instance_uid, activity.revision
    if activity.open_associations == 0 and now >= quiet_at:
        return Ready(study_instance_uid=study, revision=revision, because=Completion.QUIET)
    if now >= capped_at:
        return Ready(study_instance_uid=study, revision=revision, because=Completion.CAP)
    until = capped_at if activity.open_associations else min(quiet_at, capped_at)
    return Waiting(study_instance_uid=study, until=until)
