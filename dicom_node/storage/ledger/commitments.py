"""Ledger, answering side: what destinations were asked to commit to (PS3.4 Annex J), and what they said.

A delivery that was sent to such a destination waits for its request (`transaction_uid` is NULL), then for the answer:

    committed by the report                 committed
    failed, worth sending again             pending, as after a refused C-STORE; dead after so many attempts
    failed for good                         dead, with the reason in words
    no answer in time, or not named in it   asked again with a new Transaction UID; dead after so many requests
    Push Model not accepted                 sent, "not committed: ..."; asked again later, without end

A report changes only what has not been sent again since its request. The answer to an earlier request counts as long
as that holds: a tape library may take longer than we wait.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from dicom_node.nouns import (
    CommitmentReport,
    CommitmentRequest,
    CommitmentState,
    DeliveryState,
    Reference,
    SOPInstanceUID,
)
from dicom_node.status import failure
from dicom_node.storage.ledger.schema import commitment_references, commitments, deliveries
from dicom_node.storage.ledger.stand_ins import call_in_stand_ins
from dicom_node.storage.ledger.store import Store

NO_COMMITMENT: Final[dict[str, Any]] = {
    "commitment": False, "commitment_attempts": 0, "commitment_at": None, "transaction_uid": None,
}  # fmt: skip
"""Columns of a delivery whose destination is not asked; with every sending its commitment begins anew."""
MOST_ASKED = 1000
"""Objects in one request of ours."""
_NOT = "not committed: "
_OPEN = (CommitmentState.ASKING, CommitmentState.ASKED)

Again = Callable[[int], datetime | None]
"""When to try again after so many attempts; None: never, the delivery is dead."""


class Taken(Enum):
    """What became of a report: nothing is changed but by TAKEN."""

    UNKNOWN = auto()
    NOT_ASKED = auto()
    REPEATED = auto()
    TAKEN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a report changed: how many deliveries are committed, sent again, dead, or asked about again."""

    taken: Taken
    destination: str | None = None
    committed: int = 0
    resent: int = 0
    dead: int = 0
    unnamed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncommitted:
    """Objects that a destination has been sent and has not committed to.

    Attributes:
        reason: why not; None while an answer is awaited.
    """

    destination: str
    reason: str | None
    count: int


def settled_for_good() -> ColumnElement[bool]:
    """Of a row of `deliveries`: nobody will ask for its file again, unless an administrator says `rerun`.

    Committed; or sent, where no commitment is wanted; or downgraded (its stand-in has a row of its own); or on standby,
    when nothing that it may have to stand in for is open. What is dead is not settled: it may be replayed.
    """
    other = deliveries.alias("other")
    other_settled = or_(
        other.c.state.in_((DeliveryState.COMMITTED, DeliveryState.DOWNGRADED, DeliveryState.STANDBY)),
        and_(other.c.state == DeliveryState.SENT, ~other.c.commitment),
    )
    same_answer = and_(other.c.task_id == deliveries.c.task_id, other.c.destination == deliveries.c.destination)
    return or_(
        deliveries.c.state.in_((DeliveryState.COMMITTED, DeliveryState.DOWNGRADED)),
        and_(deliveries.c.state == DeliveryState.SENT, ~deliveries.c.commitment),
        and_(deliveries.c.state == DeliveryState.STANDBY, ~exists().where(same_answer, ~other_settled)),
    )


class Commitments(Store):
    """What the sender asks for and what reports change; every method is one transaction."""

    def open_commitment(
        self,
        destination: str,
        ae_title: str,
        now: datetime,
        seconds: float,
        *,
        patience: float,
        limit: int = MOST_ASKED,
    ) -> CommitmentRequest | None:
        """Begin a transaction for what a destination was sent and not asked about, oldest first.

        While a sender is at work there, it waits for the rest of the batch, at most `patience` seconds.

        Args:
            destination: its name.
            ae_title: whose report counts.
            now: the time.
            seconds: how long until the request counts as never made, should its sender be killed.
            patience: seconds.
            limit: most objects.

        Returns:
            the request to make; None when there is nothing to ask about.
        """
        due = and_(_waiting(destination), deliveries.c.transaction_uid.is_(None), deliveries.c.commitment_at <= now)
        query = select(deliveries).where(due).order_by(deliveries.c.commitment_at, deliveries.c.delivery_id)
        with self._write() as connection:
            rows = connection.execute(query.limit(limit).with_for_update()).mappings().all()
            more_to_come = len(rows) < limit and rows and rows[0]["commitment_at"] > now - timedelta(seconds=patience)
            if not rows or (more_to_come and _sending(connection, destination, now)):
                return None
            uid = f"2.25.{uuid4().int}"
            opened = {"transaction_uid": uid, "destination": destination, "ae_title": ae_title, "requested_at": now}
            opened |= {"state": CommitmentState.ASKING, "due_at": now + timedelta(seconds=seconds)}
            connection.execute(insert(commitments).values(opened))
            connection.execute(insert(commitment_references), [_reference_row(uid, row) for row in rows])
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id.in_([row["delivery_id"] for row in rows]))
                .values(transaction_uid=uid, commitment_attempts=deliveries.c.commitment_attempts + 1)
            )
        return CommitmentRequest(transaction_uid=uid, references=tuple(dict.fromkeys(map(_reference, rows))))

    def commitment_asked(self, transaction_uid: str, due_at: datetime) -> None:
        """The destination has taken the request; its report is due then. One that was quicker stays as it is."""
        with self._write() as connection:
            connection.execute(
                update(commitments)
                .where(commitments.c.transaction_uid == transaction_uid, commitments.c.state == CommitmentState.ASKING)
                .values(state=CommitmentState.ASKED, due_at=due_at)
            )

    def overdue_commitments(self, now: datetime) -> list[tuple[str, str]]:
        """Transaction UID and destination of every request whose answer, or whose sender, is overdue."""
        query = select(commitments.c.transaction_uid, commitments.c.destination)
        query = query.where(commitments.c.state.in_(_OPEN), commitments.c.due_at <= now)
        with self._read() as connection:
            return [(row[0], row[1]) for row in connection.execute(query.order_by(commitments.c.due_at))]

    def close_commitment(
        self, transaction_uid: str, why: str, again: Again, now: datetime, *, counts: bool = True
    ) -> tuple[int, int]:
        """Give a request up that was not answered: what it asks about is asked about again, or dead.

        Args:
            transaction_uid: of the request; nothing changes when it is closed already.
            why: a plain clause.
            again: by the number of requests so far.
            now: the time.
            counts: False where the request was no attempt: the destination does not take such requests at all.

        Returns:
            how many deliveries are asked about again, and how many are dead.
        """
        with self._write() as connection:
            if _opened(connection, transaction_uid) is None:
                return 0, 0
            _close(connection, transaction_uid, CommitmentState.CLOSED, now)
            rows = _asked_about(connection, transaction_uid)
            return _ask_again(connection, rows, why, again, now, attempt=0 if counts else -1)

    def report_commitment(self, report: CommitmentReport, ae_title: str, resend: Again, now: datetime) -> Verdict:
        """What a report changes, all of it or nothing.

        Args:
            report: as it came.
            ae_title: of the peer that sent it.
            resend: when to send an object again, by the number of times it was sent.
            now: the time.
        """
        uid = report.transaction_uid
        with self._write() as connection:
            query = select(commitments).where(commitments.c.transaction_uid == uid).with_for_update()
            opened = connection.execute(query).mappings().one_or_none()
            if opened is None or opened["ae_title"] != ae_title:
                return Verdict(taken=Taken.UNKNOWN)
            asked = commitment_references.c
            rows = connection.execute(
                select(asked.sop_class_uid, asked.sop_instance_uid).where(asked.transaction_uid == uid)
            ).mappings()
            if not {*report.committed, *report.failed} <= {_reference(row) for row in rows}:
                return Verdict(taken=Taken.NOT_ASKED, destination=opened["destination"])
            if opened["state"] == CommitmentState.ANSWERED:
                return Verdict(taken=Taken.REPEATED, destination=opened["destination"])
            _close(connection, uid, CommitmentState.ANSWERED, now)
            committed = _commit(connection, report, opened["requested_at"])
            rest = _asked_about(connection, uid)
            resent, dead = _fail(
                connection, [row for row in rest if _reference(row) in report.failed], report, resend, now
            )
            unnamed = [row for row in rest if _reference(row) not in report.failed]
            _ask_again(connection, unnamed, "the report does not name it", resend, now)
        counts = {"committed": committed, "resent": resent, "dead": dead, "unnamed": len(unnamed)}
        return Verdict(taken=Taken.TAKEN, destination=opened["destination"], **counts)

    def waive_commitments(self, wanted: Sequence[str]) -> int:
        """No longer wait for destinations that are not to be asked any more; `wanted` names those that are."""
        of_others = and_(
            deliveries.c.state == DeliveryState.SENT, deliveries.c.commitment, deliveries.c.destination.not_in(wanted)
        )
        with self._write() as connection:
            return connection.execute(update(deliveries).where(of_others).values(NO_COMMITMENT)).rowcount

    def uncommitted(self) -> list[Uncommitted]:
        """What destinations have been sent and have not committed to."""
        columns = (deliveries.c.destination, deliveries.c.last_error)
        query = select(*columns, func.count()).where(deliveries.c.state == DeliveryState.SENT, deliveries.c.commitment)
        with self._read() as connection:
            return [
                Uncommitted(destination=name, reason=why_not(error), count=count)
                for name, error, count in connection.execute(query.group_by(*columns).order_by(*columns))
            ]

    def commitment_counts(self) -> dict[str, int]:
        """How many requests of ours are in which state."""
        with self._read() as connection:
            rows = connection.execute(select(commitments.c.state, func.count()).group_by(commitments.c.state))
            return {row[0]: row[1] for row in rows}

    def forget_commitments(self, before: datetime) -> int:
        """Delete the requests that were answered, or given up, before a time; reports about them are unknown then."""
        with self._write() as connection:
            return connection.execute(delete(commitments).where(commitments.c.finished_at < before)).rowcount


def _waiting(destination: str) -> ColumnElement[bool]:
    sent = and_(deliveries.c.state == DeliveryState.SENT, deliveries.c.commitment)
    return and_(sent, deliveries.c.destination == destination)


def _sending(connection: Connection, destination: str, now: datetime) -> bool:
    pending = and_(deliveries.c.state == DeliveryState.PENDING, deliveries.c.destination == destination)
    return connection.execute(select(exists().where(pending, deliveries.c.lease_until > now))).scalar_one()


def _opened(connection: Connection, transaction_uid: str) -> RowMapping | None:
    query = select(commitments).where(commitments.c.transaction_uid == transaction_uid, commitments.c.state.in_(_OPEN))
    return connection.execute(query.with_for_update()).mappings().one_or_none()


def _close(connection: Connection, transaction_uid: str, state: CommitmentState, now: datetime) -> None:
    of_it = commitments.c.transaction_uid == transaction_uid
    connection.execute(update(commitments).where(of_it).values(state=state, finished_at=now))


def _asked_about(connection: Connection, transaction_uid: str) -> Sequence[RowMapping]:
    """The deliveries whose open request this is."""
    still = and_(deliveries.c.state == DeliveryState.SENT, deliveries.c.transaction_uid == transaction_uid)
    query = select(deliveries).where(still).order_by(deliveries.c.delivery_id)
    return connection.execute(query.with_for_update()).mappings().all()


def _commit(connection: Connection, report: CommitmentReport, requested_at: datetime) -> int:
    """What the report commits to and has not been sent again since the request."""
    asked, named = commitment_references.c, {one.sop_instance_uid for one in report.committed}
    rows = connection.execute(
        select(asked.delivery_id, asked.sop_instance_uid).where(asked.transaction_uid == report.transaction_uid)
    )
    chosen = [row.delivery_id for row in rows if row.sop_instance_uid in named]
    no_remark = case((deliveries.c.last_error.startswith(_NOT), None), else_=deliveries.c.last_error)
    return connection.execute(
        update(deliveries)
        .where(
            deliveries.c.delivery_id.in_(chosen),
            deliveries.c.state == DeliveryState.SENT,
            deliveries.c.finished_at <= requested_at,
        )
        .values(state=DeliveryState.COMMITTED, transaction_uid=None, last_error=no_remark)
    ).rowcount


def _ask_again(
    connection: Connection, rows: Sequence[RowMapping], why: str, again: Again, now: datetime, *, attempt: int = 0
) -> tuple[int, int]:
    waiting = dead = 0
    for row in rows:
        attempts = row["commitment_attempts"] + attempt
        next_at = again(max(1, attempts))
        if next_at is None:
            _bury(connection, row, f"{_NOT}{why} ({attempts} requests)", now)
            dead += 1
        else:
            values = {"transaction_uid": None, "commitment_attempts": attempts, "commitment_at": next_at}
            _change(connection, row, values | {"last_error": f"{_NOT}{why}"})
            waiting += 1
    return waiting, dead


def _fail(
    connection: Connection, rows: Sequence[RowMapping], report: CommitmentReport, resend: Again, now: datetime
) -> tuple[int, int]:
    """Failed references: sent again as after a refused C-STORE, or dead."""
    resent = dead = 0
    for row in rows:
        reason = failure(report.failed[_reference(row)])
        next_at = resend(max(1, row["attempts"])) if reason.resend else None
        if next_at is None:
            _bury(connection, row, f"{_NOT}{reason.meaning}", now)
            dead += 1
        else:
            values = {"state": DeliveryState.PENDING, "next_attempt_at": next_at, "submitted_at": None}
            _change(connection, row, values | {"last_error": f"{_NOT}{reason.meaning}"})
            resent += 1
    return resent, dead


def _bury(connection: Connection, row: RowMapping, why: str, now: datetime) -> None:
    _change(connection, row, {"state": DeliveryState.DEAD, "finished_at": now, "last_error": why})
    call_in_stand_ins(connection, row["task_id"], row["destination"], now)


def _change(connection: Connection, row: RowMapping, values: dict[str, Any]) -> None:
    connection.execute(update(deliveries).where(deliveries.c.delivery_id == row["delivery_id"]).values(values))


def why_not(last_error: str | None) -> str | None:
    """Why the destination has not committed, of the `last_error` of a delivery; None where it says something else."""
    return last_error.removeprefix(_NOT) if last_error is not None and last_error.startswith(_NOT) else None


def _reference(row: RowMapping) -> Reference:
    return Reference(row["sop_class_uid"], SOPInstanceUID(row["sop_instance_uid"]))


def _reference_row(transaction_uid: str, row: RowMapping) -> dict[str, str]:
    names = ("delivery_id", "sop_class_uid", "sop_instance_uid")
    return {"transaction_uid": transaction_uid} | {name: row[name] for name in names}
