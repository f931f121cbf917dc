"""Ledger, in numbers: what waits, since when, and when something last went well.

Each is asked so that an index answers it: it is asked every few seconds, of a ledger with years of studies. What is
done is not counted here (a count that retention makes smaller is no count): the processes count what they do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, func, select

from dicom_node.nouns import DeliveryState, StudyState, TaskState
from dicom_node.storage.ledger.deliveries import waited_for
from dicom_node.storage.ledger.schema import deliveries, instances, quarantine, studies, tasks
from dicom_node.storage.ledger.store import Store

LATELY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do, and what became of the last of it.

    Attributes:
        tasks: how many are pending, leased and failed.
        studies: how many are receiving, ready and explaining.
        dead: deliveries that were given up.
        waiting: deliveries that wait, standby left out.
        oldest_task: since when the oldest pending task waits; None where none does.
        oldest_delivery: since when a delivery is due at a destination that answers; None where none is.
        last_received: the last image.
        last_explained: the last task that was finished.
        last_result: the last delivery that was acknowledged.
        quarantined: objects set aside.
        answered_lately, failed_lately: studies of the last day, and how many of them could not be analysed.
    """

    tasks: Mapping[str, int]
    studies: Mapping[str, int]
    dead: int
    waiting: int
    oldest_task: datetime | None
    oldest_delivery: datetime | None
    last_received: datetime | None
    last_explained: datetime | None
    last_result: datetime | None
    quarantined: int
    answered_lately: int
    failed_lately: int


class Figures(Store):
    """What health, metrics and alerts are made of."""

    def work(self, now: datetime) -> Work:
        """How the work stands."""
        since = now - LATELY
        with self._read() as connection:
            return Work(
                tasks={
                    state.value: _count(connection, tasks, tasks.c.state == state)
                    for state in (TaskState.PENDING, TaskState.LEASED, TaskState.FAILED)
                },
                studies=_open_studies(connection),
                dead=_count(connection, deliveries, deliveries.c.state == DeliveryState.DEAD),
                waiting=_count(connection, deliveries, deliveries.c.state == DeliveryState.PENDING),
                oldest_task=_scalar(connection, func.min(tasks.c.created_at), tasks.c.state == TaskState.PENDING),
                oldest_delivery=_oldest_due(connection, now),
                last_received=_scalar(connection, func.max(instances.c.received_at), instances.c.removed_at.is_(None)),
                last_explained=_scalar(connection, func.max(tasks.c.finished_at), tasks.c.emptied_at.is_(None)),
                last_result=_last_result(connection),
                quarantined=_count(connection, quarantine),
                answered_lately=_count(connection, studies, studies.c.finished_at > since),
                failed_lately=_count(
                    connection, studies, and_(studies.c.state == StudyState.FAILED, studies.c.ready_at > since)
                ),
            )


def _open_studies(connection: Connection) -> dict[str, int]:
    receiving = select(func.count(instances.c.study_instance_uid.distinct())).where(instances.c.revision.is_(None))
    found = {StudyState.RECEIVING.value: connection.execute(receiving).scalar_one()}
    for state in (StudyState.READY, StudyState.EXPLAINING):
        found[state.value] = _count(connection, studies, studies.c.state == state)
    return found


def _oldest_due(connection: Connection, now: datetime) -> datetime | None:
    """By one look into the index for each destination that is not left in peace."""
    found = [
        _scalar(
            connection,
            func.min(deliveries.c.next_attempt_at),
            and_(deliveries.c.state == DeliveryState.PENDING, deliveries.c.destination == name),
        )
        for name in waited_for(connection, now)
    ]
    return min((one for one in found if one is not None and one <= now), default=None)


def _last_result(connection: Connection) -> datetime | None:
    """The last of the results that were sent, and of those that were committed to since."""
    found = [
        _scalar(connection, func.max(deliveries.c.finished_at), deliveries.c.state == state)
        for state in (DeliveryState.SENT, DeliveryState.COMMITTED)
    ]
    return max((one for one in found if one is not None), default=None)


def _scalar(connection: Connection, value: Any, condition: ColumnElement[bool]) -> datetime | None:
    found: datetime | None = connection.execute(select(value).where(condition)).scalar_one()
    return found


def _count(connection: Connection, table: Any, *conditions: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
