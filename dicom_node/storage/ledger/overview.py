"""Ledger, for a list of studies that is read at a glance: state, decision, who has the results, how long it took."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import desc, func, literal, select

from dicom_node.nouns import DeliveryState, StudyState, TaskState
from dicom_node.storage.ledger.observations import observations
from dicom_node.storage.ledger.reports import ANSWERED, Reports, StudySummary, Timeline
from dicom_node.storage.ledger.schema import deliveries, instances, studies, tasks

_Key = tuple[str, int]
"""Study Instance UID and revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Highest:
    """The decision about the image of a study with the highest probability.

    Attributes:
        probability, threshold: 0 to 1.
        positive: whether the finding is called present.
        model: name and version.
    """

    probability: float
    threshold: float
    positive: bool
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One revision of one study, as a row of a list.

    Attributes:
        summary: what it is and where it stands.
        timeline: when each step happened.
        decided: what the model said, None where it said nothing (yet).
        sent: how many of its objects are in which state, by destination; those on standby are left out.
    """

    summary: StudySummary
    timeline: Timeline
    decided: Highest | None
    sent: Mapping[str, Mapping[DeliveryState, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """What was given up: a task of which nothing came, or a result that a destination did not take.

    Attributes:
        what: kind of the result; "task" for a task.
        destination: "" for a task.
        reason: of the last attempt.
        since: when it was given up.
    """

    study_instance_uid: str
    revision: int
    what: str
    destination: str
    attempts: int
    reason: str
    since: datetime | None


class Overviews(Reports):
    """What lists of studies are made from."""

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """What was given up and can be tried again, the newest first."""
        of_study = (tasks.c.study_instance_uid, tasks.c.revision)
        letters = (
            select(
                *of_study,
                deliveries.c.kind.label("what"),
                deliveries.c.destination,
                deliveries.c.attempts,
                func.coalesce(deliveries.c.last_error, "").label("reason"),
                deliveries.c.finished_at.label("since"),
            )
            .join(tasks, tasks.c.task_id == deliveries.c.task_id)
            .where(deliveries.c.state == DeliveryState.DEAD)
        )
        failed = select(
            *of_study,
            literal("task").label("what"),
            literal("").label("destination"),
            tasks.c.attempts,
            func.coalesce(tasks.c.outcome_reason, tasks.c.given_up, "").label("reason"),
            tasks.c.finished_at.label("since"),
        ).where(tasks.c.state == TaskState.FAILED)
        with self._read() as connection:
            found = [
                DeadLetter(**row)
                for query in (letters, failed)
                for row in connection.execute(query.order_by(desc("since")).limit(limit)).mappings()
            ]
        return sorted(found, key=lambda one: (one.since is not None, one.since), reverse=True)[:limit]

    def first_images(self, uids: Iterable[str]) -> dict[str, Path]:
        """The file of one image of each of these studies, of those that retention has not removed."""
        of = instances.c.study_instance_uid
        query = select(of, func.min(instances.c.path)).where(of.in_(set(uids)), instances.c.removed_at.is_(None))
        with self._read() as connection:
            return {uid: Path(path) for uid, path in connection.execute(query.group_by(of)).all()}

    def overview(
        self, limit: int = 50, state: StudyState | None = None, uids: Sequence[str] | None = None
    ) -> list[Overview]:
        """Study revisions, newest first.

        Args:
            limit: most of them.
            state: only those in this one.
            uids: only these studies.
        """
        found = self.studies(limit, state, uids)
        names = {one.study_instance_uid for one in found}
        with self._read() as connection:

            def rows(query: Any) -> list[Any]:
                return list(connection.execute(query).all())

            received = rows(
                select(
                    instances.c.study_instance_uid,
                    instances.c.revision,
                    func.min(instances.c.received_at).label("first"),
                    func.max(instances.c.received_at).label("last"),
                )
                .where(instances.c.study_instance_uid.in_(names))
                .group_by(instances.c.study_instance_uid, instances.c.revision)
            )
            closed = rows(select(studies).where(studies.c.study_instance_uid.in_(names)))
            made = rows(select(tasks).where(tasks.c.study_instance_uid.in_(names)))
            ids = [one.task_id for one in made]
            columns = (deliveries.c.task_id, deliveries.c.destination, deliveries.c.state)
            sent = rows(
                select(*columns, func.count().label("count"), func.max(deliveries.c.finished_at).label("last"))
                .where(deliveries.c.task_id.in_(ids), deliveries.c.state != DeliveryState.STANDBY)
                .group_by(*columns)
            )
            said = rows(
                select(observations)
                .where(observations.c.task_id.in_(ids), observations.c.role == "champion")
                .order_by(observations.c.probability)
            )
        of = {one.task_id: (one.study_instance_uid, one.revision) for one in made}
        return [
            Overview(
                summary=one,
                timeline=_timeline(key, received, closed, made, [row for row in sent if of[row.task_id] == key]),
                decided=_decided([row for row in said if of[row.task_id] == key]),
                sent=_sent([row for row in sent if of[row.task_id] == key]),
            )
            for one in found
            for key in [(one.study_instance_uid, one.revision)]
        ]


def _timeline(
    key: _Key, received: Iterable[Any], closed: Iterable[Any], made: Iterable[Any], sent: Sequence[Any]
) -> Timeline:
    uid, revision = key
    of = [one for one in received if one.study_instance_uid == uid]
    came = next((one for one in of if one.revision == revision), next((o for o in of if o.revision is None), None))
    study = next((one for one in closed if (one.study_instance_uid, one.revision) == key), None)
    leased = [one.leased_at for one in made if (one.study_instance_uid, one.revision) == key and one.leased_at]
    settled = [one.last for one in sent if one.state in ANSWERED]
    waiting = len(settled) < len(sent)
    return Timeline(
        first_received=None if came is None else came.first,
        last_received=None if came is None else came.last,
        ready_at=None if study is None else study.ready_at,
        leased_at=min(leased, default=None),
        explained_at=None if study is None else study.finished_at,
        delivered_at=max(settled) if settled and not waiting else None,
    )


def _decided(rows: Sequence[Any]) -> Highest | None:
    if not rows:
        return None
    one = rows[-1]
    return Highest(
        probability=one.probability,
        threshold=one.threshold,
        positive=one.positive,
        model=f"{one.model_name} {one.model_version}",
    )


def _sent(rows: Iterable[Any]) -> dict[str, dict[DeliveryState, int]]:
    found: dict[str, dict[DeliveryState, int]] = {}
    for one in rows:
        states = found.setdefault(one.destination, {})
        state = DeliveryState(one.state)
        states[state] = states.get(state, 0) + one.count
    return found
