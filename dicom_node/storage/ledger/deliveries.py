"""Ledger, answering side: the outbox. One row per result object and destination.

A sender leases all due deliveries of one destination together: one association at a time per destination,
and a destination that does not answer holds up nobody but itself (see `unreachable`).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, func, or_, select, update

from dicom_node.nouns import Delivery, DeliveryState
from dicom_node.storage.ledger.commitments import NO_COMMITMENT
from dicom_node.storage.ledger.schema import deliveries, tasks, unreachable
from dicom_node.storage.ledger.stand_ins import call_in_stand_ins
from dicom_node.storage.ledger.store import Store, insert_missing, noun_of, row_of
from dicom_node.storage.ledger.unreachable import left_in_peace

LEASE_SECONDS = 30.0
"""Of a batch, renewed while its sender lives: how long what a killed sender held has to wait."""


class Deliveries(Store):
    """What the dispatcher reads and the sender writes."""

    def deliveries_to_submit(self, now: datetime, older_than: timedelta) -> list[Delivery]:
        """One due delivery for each destination that no sender is busy with.

        Its message wakes a sender, which takes the whole batch. A delivery that was submitted less than
        `older_than` ago is still on its way and left out.
        """
        with self._read() as connection:
            free = [one for one in waited_for(connection, now) if not _is_busy(connection, one, now)]
            first = [row for destination in free for row in _due_rows(connection, now, 1, destination)]
        return [
            _delivery(row) for row in first if row["submitted_at"] is None or row["submitted_at"] <= now - older_than
        ]

    def delivery_submitted(self, delivery_id: str, now: datetime) -> None:
        """Record that the broker took a message for this delivery."""
        with self._write() as connection:
            connection.execute(
                update(deliveries).where(deliveries.c.delivery_id == delivery_id).values(submitted_at=now)
            )

    def lease_deliveries(
        self, delivery_id: str, owner: str, now: datetime, seconds: float, limit: int = 100, *, pause_after: int = 3
    ) -> list[Delivery]:
        """Take the due deliveries of the destination that `delivery_id` goes to; counts one attempt each.

        Args:
            delivery_id: the delivery that the message named.
            owner: unique for each call.
            now: the time.
            seconds: how long until another sender may take what is not settled.
            limit: most deliveries in one batch.
            pause_after: attempts in a row without an answer, after which one delivery alone is a batch.

        Returns:
            the batch, oldest first; empty when nothing is due or another sender is at this destination.
        """
        with self._write() as connection:
            destination = connection.execute(
                select(deliveries.c.destination).where(deliveries.c.delivery_id == delivery_id)
            ).scalar_one_or_none()
            if destination is None or _is_busy(connection, destination, now):
                return []
            if destination in left_in_peace(connection, now):
                return []
            missed = select(unreachable.c.attempts).where(unreachable.c.destination == destination)
            paused = (connection.execute(missed).scalar_one_or_none() or 0) >= pause_after
            rows = _due_rows(connection, now, 1 if paused else limit, destination, least_tried=paused)
            due = [row["delivery_id"] for row in rows]
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id.in_(due), _found(), _free(now))
                .values(
                    owner=owner,
                    lease_until=now + timedelta(seconds=seconds),
                    attempts=deliveries.c.attempts + 1,
                )
            )
            leased = connection.execute(
                select(deliveries, tasks.c.study_instance_uid, tasks.c.revision)
                .join(tasks, tasks.c.task_id == deliveries.c.task_id)
                .where(deliveries.c.delivery_id.in_(due), _found(), deliveries.c.owner == owner)
                .order_by(deliveries.c.next_attempt_at, deliveries.c.delivery_id)
            ).mappings()
            return [_delivery(row) for row in leased]

    def renew_deliveries(self, owner: str, now: datetime, seconds: float) -> None:
        """Extend the lease on what this owner still holds."""
        with self._write() as connection:
            connection.execute(
                update(deliveries)
                .where(_pending(), deliveries.c.owner == owner)
                .values(lease_until=now + timedelta(seconds=seconds))
            )

    def delivery_sent(
        self, delivery_id: str, now: datetime, status: int, remark: str | None = None, *, commitment: bool = False
    ) -> None:
        """The destination has it: 0x0000, or a status with a remark, which is kept.

        Args:
            delivery_id: what was sent.
            now: the time.
            status: of C-STORE.
            remark: for people.
            commitment: whether the destination is to be asked to commit to it.
        """
        note = remark or (None if status == 0 else f"delivered with warning 0x{status:04X}")
        asked = NO_COMMITMENT | ({"commitment": True, "commitment_at": now} if commitment else {})
        done = (DeliveryState.SENT, DeliveryState.COMMITTED)
        with self._write() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id == delivery_id, deliveries.c.state.not_in(done))
                .values(_settled(DeliveryState.SENT, now) | asked | {"status": status, "last_error": note})
            )

    def delivery_retry(self, delivery_id: str, owner: str, next_at: datetime, error: str) -> None:
        """Try again at `next_at`; nothing changes when `owner` no longer holds the delivery."""
        with self._write() as connection:
            connection.execute(
                update(deliveries)
                .where(_held(delivery_id, owner))
                .values(
                    next_attempt_at=next_at,
                    last_error=error,
                    owner=None,
                    lease_until=None,
                    submitted_at=None,
                )
            )

    def delivery_untried(self, delivery_id: str, owner: str, error: str) -> None:
        """Its destination was not reached, which is no fault of its own: it counts no attempt, and is as it was."""
        with self._write() as connection:
            connection.execute(
                update(deliveries)
                .where(_held(delivery_id, owner))
                .values(
                    attempts=deliveries.c.attempts - 1,
                    last_error=error,
                    owner=None,
                    lease_until=None,
                    submitted_at=None,
                )
            )

    def delivery_dead(self, delivery_id: str, owner: str, error: str, now: datetime) -> None:
        """Dead letter: kept, shown, replayable; nothing changes when `owner` no longer holds it.

        What it stood in for gets another stand-in, or is dead too.
        """
        with self._write() as connection:
            _end(connection, delivery_id, owner, DeliveryState.DEAD, error, now)

    def delivery_refused(self, delivery_id: str, owner: str, error: str, now: datetime) -> Delivery | None:
        """The destination does not take the SOP Class: another object stands in, or the delivery is dead.

        In one transaction: the delivery is downgraded, and what was on standby for it is due now.

        Returns:
            the delivery as it is now; None when `owner` no longer holds it: nothing changes.
        """
        with self._write() as connection:
            if not _end(connection, delivery_id, owner, DeliveryState.DOWNGRADED, error, now):
                return None
            row = connection.execute(select(deliveries).where(deliveries.c.delivery_id == delivery_id))
            return _delivery(row.mappings().one())

    def deliveries(
        self, *, study: str | None = None, state: DeliveryState | None = None, limit: int = 1000
    ) -> list[Delivery]:
        """Deliveries of a study, or in a state, or all; oldest first."""
        query = select(deliveries).order_by(deliveries.c.created_at, deliveries.c.delivery_id).limit(limit)
        if study is not None:
            of_study = select(tasks.c.task_id).where(tasks.c.study_instance_uid == study)
            query = query.where(deliveries.c.task_id.in_(of_study))
        if state is not None:
            query = query.where(deliveries.c.state == state)
        with self._read() as connection:
            return [_delivery(row) for row in connection.execute(query).mappings()]


def insert_deliveries(connection: Connection, rows: Sequence[Delivery], now: datetime) -> None:
    """Add outbox rows inside the caller's transaction.

    A delivery that is there already stays as it is; one on standby is due when the destination now wants it.
    """
    for row in rows:
        reserve = row.state is DeliveryState.STANDBY
        new = insert_missing(connection, deliveries, row_of(row, deliveries, reserve=reserve, created_at=now))
        if not new and not reserve:
            waits = deliveries.c.state == DeliveryState.STANDBY
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id == row.delivery_id, deliveries.c.reserve)
                .values(reserve=False, state=case((waits, DeliveryState.PENDING), else_=deliveries.c.state))
            )


def _end(connection: Connection, delivery_id: str, owner: str, state: DeliveryState, error: str, now: datetime) -> bool:
    """Settle a held delivery that failed, and find stand-ins; False when `owner` does not hold it."""
    answer = connection.execute(
        select(deliveries.c.task_id, deliveries.c.destination).where(_held(delivery_id, owner))
    ).one_or_none()
    if answer is None:
        return False
    connection.execute(
        update(deliveries).where(_held(delivery_id, owner)).values(_settled(state, now) | {"last_error": error})
    )
    call_in_stand_ins(connection, answer.task_id, answer.destination, now)
    return True


def _pending() -> ColumnElement[bool]:
    return deliveries.c.state == DeliveryState.PENDING


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(_pending(), deliveries.c.next_attempt_at <= now, _free(now))


def _free(now: datetime) -> ColumnElement[bool]:
    return or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now)


def _found() -> ColumnElement[bool]:
    """Pending, of rows that are named by their keys: by the bare column SQLite would look through all that wait."""
    return func.coalesce(deliveries.c.state, "") == DeliveryState.PENDING


def _held(delivery_id: str, owner: str) -> ColumnElement[bool]:
    return and_(_pending(), deliveries.c.delivery_id == delivery_id, deliveries.c.owner == owner)


def waited_for(connection: Connection, now: datetime) -> Iterator[str]:
    """Destinations that a delivery waits for, but those that are left in peace: one look into the index for each."""
    resting = left_in_peace(connection, now)
    last = ""
    while last is not None:
        following = select(func.min(deliveries.c.destination)).where(_pending(), deliveries.c.destination > last)
        last = connection.execute(following).scalar_one()
        if last is not None and last not in resting:
            yield last


def _is_busy(connection: Connection, destination: str, now: datetime) -> bool:
    """Whether a sender holds deliveries of a destination; none is held that is settled."""
    held = select(deliveries.c.destination).where(deliveries.c.lease_until > now).distinct()
    return destination in set(connection.execute(held).scalars())


def _due_rows(
    connection: Connection, now: datetime, limit: int, destination: str, *, least_tried: bool = False
) -> list[RowMapping]:
    query = select(deliveries).where(_due(now), deliveries.c.destination == destination)
    if least_tried:
        query = query.order_by(deliveries.c.attempts)
    query = query.order_by(deliveries.c.next_attempt_at, deliveries.c.delivery_id).limit(limit)
    return list(connection.execute(query).mappings())


def _settled(state: DeliveryState, now: datetime) -> dict[str, Any]:
    return {"state": state, "finished_at": now, "owner": None, "lease_until": None}


def _delivery(row: RowMapping) -> Delivery:
    return noun_of(Delivery, row, path=Path(row["path"]), state=DeliveryState(row["state"]))
