"""Ledger, for people: what there is, where it stands, how long it took."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Table, and_, func, select, true

from dicom_node.nouns import DeliveryState, StudyInstanceUID, StudyState, TaskState
from dicom_node.storage.ledger.schema import (
    associations,
    deliveries,
    instances,
    quarantine,
    studies,
    tasks,
)
from dicom_node.storage.ledger.store import Store

ANSWERED = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.DOWNGRADED)
"""Of deliveries with which nothing is left to do but to be committed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One revision of one study in a list.

    Attributes:
        instances: number of instances in this revision.
        reason: why it was ignored or failed, or None.
        done: part of the analysis that is done, 0 to 1, of the tasks that are worked on; None where none is.
    """

    study_instance_uid: StudyInstanceUID
    revision: int
    state: StudyState
    reason: str | None
    instances: int
    received_at: datetime
    finished_at: datetime | None
    done: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When each step of a study revision happened; None for what has not happened yet.

    Attributes:
        first_received, last_received: first and last instance durable in the spool.
        ready_at: the study was complete and its tasks were written.
        leased_at: a worker took the (first) task.
        explained_at: the last task was finished.
        delivered_at: the last delivery was acknowledged or downgraded; None while any waits or is dead.
    """

    first_received: datetime | None
    last_received: datetime | None
    ready_at: datetime | None
    leased_at: datetime | None
    explained_at: datetime | None
    delivered_at: datetime | None

    def seconds(self) -> dict[str, float | None]:
        """Seconds that each step took, and in all; None where an end is missing."""
        steps = {
            "received": (self.first_received, self.last_received),
            "ready": (self.last_received, self.ready_at),
            "leased": (self.ready_at, self.leased_at),
            "explained": (self.leased_at, self.explained_at),
            "delivered": (self.explained_at, self.delivered_at),
            "total": (self.first_received, self.delivered_at),
        }
        return {
            name: None if begin is None or end is None else (end - begin).total_seconds()
            for name, (begin, end) in steps.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Downgrade:
    """Objects of one kind that a destination did not take for one reason.

    Attributes:
        stand_in: the kind that was sent instead.
        count: number of objects of `kind`.
    """

    destination: str
    kind: str
    stand_in: str
    reason: str
    count: int


class Reports(Store):
    """What the CLI and the demo read."""

    def studies(
        self, limit: int = 100, state: StudyState | None = None, uids: Collection[str] | None = None
    ) -> list[StudySummary]:
        """Study revisions, newest first; those still receiving have the revision they will get.

        Args:
            limit: most of them.
            state: only those in this one.
            uids: only these studies.
        """
        receiving = [] if state not in (None, StudyState.RECEIVING) else self._receiving(limit, uids)
        closed = [] if state is StudyState.RECEIVING else self._closed(limit, state, uids)
        since = {(one.study_instance_uid, one.revision) for one in closed}  # closed between the two looks
        found = closed + [one for one in receiving if (one.study_instance_uid, one.revision) not in since]
        return sorted(found, key=lambda study: study.received_at, reverse=True)[:limit]

    def _receiving(self, limit: int, uids: Collection[str] | None) -> list[StudySummary]:
        of = true() if uids is None else instances.c.study_instance_uid.in_(uids)
        latest = (
            select(func.max(studies.c.revision))
            .where(studies.c.study_instance_uid == instances.c.study_instance_uid)
            .scalar_subquery()
        )
        query = (
            select(
                instances.c.study_instance_uid,
                (func.coalesce(func.max(latest), 0) + 1).label("revision"),
                func.count().label("count"),
                func.min(instances.c.received_at).label("received_at"),
            )
            .where(instances.c.revision.is_(None), of)
            .group_by(instances.c.study_instance_uid)
            .order_by(func.min(instances.c.received_at).desc())
            .limit(limit)
        )
        with self._read() as connection:
            return [
                _summary(row | {"state": StudyState.RECEIVING, "reason": None, "finished_at": None})
                for row in map(dict, connection.execute(query).mappings())
            ]

    def _closed(self, limit: int, state: StudyState | None, uids: Collection[str] | None) -> list[StudySummary]:
        newest = select(studies).order_by(studies.c.ready_at.desc()).limit(limit)
        if state is not None:
            newest = newest.where(studies.c.state == state)
        if uids is not None:
            newest = newest.where(studies.c.study_instance_uid.in_(uids))
        found = newest.subquery()
        of_revision = and_(
            instances.c.study_instance_uid == found.c.study_instance_uid, instances.c.revision == found.c.revision
        )
        worked_on = and_(
            tasks.c.study_instance_uid == found.c.study_instance_uid,
            tasks.c.revision == found.c.revision,
            tasks.c.state == TaskState.LEASED,
        )
        received = select(func.min(instances.c.received_at)).where(of_revision).scalar_subquery()
        query = select(
            found,
            select(func.avg(tasks.c.done)).where(worked_on).scalar_subquery().label("done"),
            select(func.count()).select_from(instances).where(of_revision).scalar_subquery().label("count"),
            func.coalesce(received, found.c.ready_at).label("received_at"),
        )
        with self._read() as connection:
            return [_summary(row) for row in map(dict, connection.execute(query).mappings())]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows are in which state, by kind; states that nothing is in are left out."""
        receiving = select(func.count(instances.c.study_instance_uid.distinct())).where(instances.c.revision.is_(None))
        with self._read() as connection:
            by_state = {
                "studies": _by_state(connection, studies, StudyState.EXPLAINED, StudyState),
                "tasks": _by_state(connection, tasks, TaskState.DONE, TaskState),
                "deliveries": _by_state(connection, deliveries, DeliveryState.SENT, DeliveryState),
            }
            if waiting := connection.execute(receiving).scalar_one():
                by_state["studies"][StudyState.RECEIVING.value] = waiting
            by_state["associations"] = {"open": _count(connection, associations, associations.c.closed_at.is_(None))}
            by_state["instances"] = {
                "stored": _count(connection, instances),
                "quarantined": _count(connection, quarantine),
            }
        return by_state

    def timeline(self, study_instance_uid: str, revision: int = 1) -> Timeline:
        """When each step of one revision happened."""
        of_task = and_(tasks.c.study_instance_uid == study_instance_uid, tasks.c.revision == revision)
        with self._read() as connection:
            received = connection.execute(
                select(func.min(instances.c.received_at), func.max(instances.c.received_at)).where(
                    instances.c.study_instance_uid == study_instance_uid, instances.c.revision == revision
                )
            ).one()
            study = connection.execute(
                select(studies.c.ready_at, studies.c.finished_at).where(
                    studies.c.study_instance_uid == study_instance_uid, studies.c.revision == revision
                )
            ).one_or_none()
            leased = connection.execute(select(func.min(tasks.c.leased_at)).where(of_task)).scalar_one()
            sent = connection.execute(
                select(deliveries.c.state, deliveries.c.finished_at).where(
                    deliveries.c.task_id.in_(select(tasks.c.task_id).where(of_task))
                )
            ).all()
        settled = [row.finished_at for row in sent if row.state in ANSWERED]
        waiting = any(row.state not in (*ANSWERED, DeliveryState.STANDBY) for row in sent)
        return Timeline(
            first_received=received[0],
            last_received=received[1],
            ready_at=study.ready_at if study else None,
            leased_at=leased,
            explained_at=study.finished_at if study else None,
            delivered_at=max(settled) if settled and not waiting else None,
        )

    def downgrades(self) -> list[Downgrade]:
        """What destinations got instead of objects that they do not take."""
        columns = (deliveries.c.destination, deliveries.c.kind, deliveries.c.stand_in, deliveries.c.last_error)
        query = (
            select(*columns, func.count().label("count"))
            .where(deliveries.c.state == DeliveryState.DOWNGRADED)
            .group_by(*columns)
            .order_by(*columns)
        )
        with self._read() as connection:
            return [
                Downgrade(
                    destination=row["destination"],
                    kind=row["kind"],
                    stand_in=row["stand_in"],
                    reason=row["last_error"],
                    count=row["count"],
                )
                for row in connection.execute(query).mappings()
            ]


def _by_state(connection: Connection, table: Table, usual: StrEnum, states: Iterable[StrEnum]) -> dict[str, int]:
    """How many rows are in which state; in the `usual` one, in which most are, those that are in no other."""
    counted = {one.value: _count(connection, table, table.c.state == one) for one in states if one is not usual}
    counted[usual.value] = _count(connection, table) - sum(counted.values())
    return {state: count for state, count in counted.items() if count}


def _count(connection: Connection, table: Table, *conditions: Any) -> int:
    return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()


def _summary(row: Mapping[str, Any]) -> StudySummary:
    return StudySummary(
        study_instance_uid=StudyInstanceUID(row["study_instance_uid"]),
        revision=row["revision"],
        state=StudyState(row["state"]),
        reason=row["reason"],
        instances=row["count"],
        received_at=row["received_at"],
        finished_at=row["finished_at"],
        done=row.get("done"),
    )
