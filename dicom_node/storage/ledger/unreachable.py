"""Ledger, answering side: the circuit breaker of each destination. It has a row while it does not answer.

closed     no row: batches are sent
troubled   a row: nothing is sent until its time; then a batch is tried
open       the same, after so many attempts in a row: one object alone is tried, the one that was tried the least
"""

from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, select, update

from dicom_node.nouns import Unreachable
from dicom_node.storage.ledger.schema import deliveries, unreachable
from dicom_node.storage.ledger.store import Store


class Breakers(Store):
    """What the sender records of destinations, and `status` shows."""

    def unreachable(self) -> list[Unreachable]:
        """Every destination that did not answer when last tried, by name."""
        with self._read() as connection:
            rows = connection.execute(select(unreachable).order_by(unreachable.c.destination)).mappings()
            return [Unreachable(**row) for row in rows]

    def destination_unreachable(self, destination: str, now: datetime, until: datetime, reason: str) -> None:
        """It has not answered once more: what waits for it waits until then, and keeps the attempts it has."""
        with self._write() as connection:
            again = connection.execute(
                update(unreachable)
                .where(unreachable.c.destination == destination)
                .values(attempts=unreachable.c.attempts + 1, next_attempt_at=until, reason=reason)
            )
            if not again.rowcount:
                row = {"destination": destination, "attempts": 1, "since": now, "reason": reason}
                connection.execute(insert(unreachable).values(row | {"next_attempt_at": until}))

    def destination_reached(self, destination: str) -> bool:
        """It has answered: what waits for it is due. True where it had not answered before."""
        with self._write() as connection:
            found = connection.execute(delete(unreachable).where(unreachable.c.destination == destination))
            return bool(found.rowcount)


def left_in_peace(now: datetime) -> ColumnElement[bool]:
    """Deliveries to destinations whose time has not come."""
    return deliveries.c.destination.in_(select(unreachable.c.destination).where(unreachable.c.next_attempt_at > now))
