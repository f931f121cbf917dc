"""Ledger, receiving side: the reports of Storage Commitment that peers have been promised (PS3.4 Annex J).

A request is a row before its N-ACTION is answered. Whoever holds the row sends the report: at first the listener, over
the association of the request; when `next_attempt_at` has come, a sender, over an association of its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, or_, select, update

from dicom_node.nouns import AETitle, CommitmentRequest, CommitmentState, Reference, SOPInstanceUID
from dicom_node.storage.ledger.schema import commitment_reports
from dicom_node.storage.ledger.store import Store, insert_missing

MOST_OWED = 1000
"""Reports that one peer may wait for at a time."""
_MOST = 10
"""Reports that are taken to be sent at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedReport:
    """One report that a peer waits for, held by who is about to send it.

    Attributes:
        attempts: to send it, this one included.
    """

    ae_title: AETitle
    request: CommitmentRequest
    attempts: int


class TransactionInUse(Exception):
    """The Transaction UID is that of a request for other objects, whose report is still owed."""


class TooManyOwed(Exception):
    """The peer waits for MOST_OWED reports."""


class CommitmentReports(Store):
    """What the listener records and the sender works off; every method is one transaction."""

    def owe_report(self, ae_title: str, request: CommitmentRequest, now: datetime, first: datetime) -> None:
        """Record a request. The same one again is one request; after its report it is a new one.

        Args:
            ae_title: of the peer that asks.
            request: what it asks.
            now: the time.
            first: when a sender may report it, unless the listener has.

        Raises:
            TransactionInUse, TooManyOwed: nothing is recorded.
        """
        asked = json.dumps([[one.sop_class_uid, one.sop_instance_uid] for one in request.references])
        row: dict[str, Any] = {"ae_title": ae_title, "transaction_uid": request.transaction_uid, "asked": asked}
        row |= {"state": CommitmentState.OWED, "attempts": 0, "requested_at": now, "next_attempt_at": first}
        this = _is(ae_title, request.transaction_uid)
        with self._write() as connection:
            known = (
                connection.execute(select(commitment_reports).where(this).with_for_update()).mappings().one_or_none()
            )
            if known is not None and known["state"] == CommitmentState.OWED:
                if known["asked"] != asked:
                    raise TransactionInUse
                return
            waiting = select(func.count()).where(
                commitment_reports.c.ae_title == ae_title, commitment_reports.c.state == CommitmentState.OWED
            )
            if connection.execute(waiting).scalar_one() >= MOST_OWED:
                raise TooManyOwed
            if known is None:
                insert_missing(connection, commitment_reports, row)
            else:
                connection.execute(update(commitment_reports).where(this).values(row))

    def who_is_owed(self, now: datetime) -> list[AETitle]:
        """The peers that a report is due for."""
        query = select(commitment_reports.c.ae_title).where(_due(now)).distinct()
        with self._read() as connection:
            return [AETitle(title) for title in connection.execute(query).scalars()]

    def lease_reports(
        self,
        ae_title: str,
        owner: str,
        now: datetime,
        seconds: float,
        *,
        transaction_uid: str | None = None,
    ) -> list[OwedReport]:
        """Take reports to one peer, oldest first; counts one attempt each.

        Args:
            ae_title: of the peer.
            owner: unique for each call.
            now: the time.
            seconds: how long until another may take what is not settled.
            transaction_uid: this one alone, whether a sender may have it yet or not; None: all that are due.
        """
        chosen = (
            and_(_due(now), commitment_reports.c.ae_title == ae_title)
            if transaction_uid is None
            else and_(_free(now), _is(ae_title, transaction_uid))
        )
        key = commitment_reports.c.transaction_uid
        query = select(key).where(chosen).order_by(commitment_reports.c.requested_at, key).limit(_MOST)
        with self._write() as connection:
            found = connection.execute(query.with_for_update()).scalars().all()
            held = {"owner": owner, "lease_until": now + timedelta(seconds=seconds)}
            connection.execute(
                update(commitment_reports)
                .where(chosen, key.in_(found))
                .values(held | {"attempts": commitment_reports.c.attempts + 1})
            )
            mine = select(commitment_reports).where(commitment_reports.c.owner == owner)
            rows = connection.execute(mine.order_by(commitment_reports.c.requested_at, key)).mappings().all()
        return [_owed(row) for row in rows]

    def report_sent(self, ae_title: str, transaction_uid: str, counts: tuple[int, int], now: datetime) -> None:
        """The peer has acknowledged the report; `counts` of objects: committed, failed."""
        values = {"state": CommitmentState.REPORTED, "committed": counts[0], "failed": counts[1], "asked": "[]"}
        self._settle(ae_title, transaction_uid, values | {"finished_at": now, "last_error": None})

    def report_failed(
        self,
        ae_title: str,
        transaction_uid: str,
        why: str,
        again: datetime | None,
        now: datetime,
        *,
        counts: bool = True,
    ) -> None:
        """The peer did not get it: again then, or never (None).

        Args:
            ae_title: of the peer.
            transaction_uid: of its request.
            why: a plain clause.
            again: when to try again.
            now: the time.
            counts: False where it was no attempt: over the association of the request, which has ended.
        """
        values: dict[str, Any] = {"last_error": why}
        if again is None:
            values |= {"state": CommitmentState.DEAD, "finished_at": now, "asked": "[]"}
        else:
            values |= {"next_attempt_at": again}
        if not counts:
            values |= {"attempts": commitment_reports.c.attempts - 1}
        self._settle(ae_title, transaction_uid, values)

    def report_counts(self) -> dict[str, int]:
        """How many reports are in which state."""
        query = select(commitment_reports.c.state, func.count()).group_by(commitment_reports.c.state)
        with self._read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def forget_reports(self, before: datetime) -> int:
        """Delete the reports that were acknowledged, or given up, before a time."""
        with self._write() as connection:
            old = commitment_reports.c.finished_at < before
            return connection.execute(delete(commitment_reports).where(old)).rowcount

    def _settle(self, ae_title: str, transaction_uid: str, values: dict[str, Any]) -> None:
        owed = and_(_is(ae_title, transaction_uid), commitment_reports.c.state == CommitmentState.OWED)
        with self._write() as connection:
            connection.execute(
                update(commitment_reports).where(owed).values(values | {"owner": None, "lease_until": None})
            )


def _is(ae_title: str, transaction_uid: str) -> ColumnElement[bool]:
    return and_(commitment_reports.c.ae_title == ae_title, commitment_reports.c.transaction_uid == transaction_uid)


def _free(now: datetime) -> ColumnElement[bool]:
    free = or_(commitment_reports.c.lease_until.is_(None), commitment_reports.c.lease_until <= now)
    return and_(commitment_reports.c.state == CommitmentState.OWED, free)


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(_free(now), commitment_reports.c.next_attempt_at <= now)


def _owed(row: RowMapping) -> OwedReport:
    pairs: Sequence[tuple[str, str]] = json.loads(row["asked"])
    references = tuple(Reference(sop_class, SOPInstanceUID(uid)) for sop_class, uid in pairs)
    request = CommitmentRequest(transaction_uid=row["transaction_uid"], references=references)
    return OwedReport(ae_title=AETitle(row["ae_title"]), request=request, attempts=row["attempts"])
