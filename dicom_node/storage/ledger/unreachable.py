"""Ledger, answering side: the circuit breaker of each destination. It has a row while it does not answer.

closed     no row: batches are sent
troubled   a row: nothing is sent until its time; then a batch is tried
open       the same, after so many attempts in a row: one object alone is tried, the one that was tried the least
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from dicom_node.nouns import DeliveryState, Unreachable
from dicom_node.storage.ledger.schema import deliveries, unreachable
from dicom_node.storage.ledger.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits for one destination, for people.

    Attributes:
        state: "open" (things are sent), "troubled" (it did not answer when last tried), "paused" (nor before: one
            object is tried at a time) or "unknown" (it is not in the settings).
        waiting: deliveries that are pending.
        dead: those that were given up.
        since: since when it has not answered, or None.
        next_attempt_at: until then it is left in peace, or None.
        reason: why it is troubled or paused, or None.
    """

    destination: str
    state: str
    waiting: int
    dead: int
    since: datetime | None = None
    next_attempt_at: datetime | None = None
    reason: str | None = None


class Breakers(Store):
    """What the sender records of destinations, and `status` shows."""

    def unreachable(self) -> list[Unreachable]:
        """Every destination that did not answer when last tried, by name."""
        with self._read() as connection:
            rows = connection.execute(select(unreachable).order_by(unreachable.c.destination)).mappings()
            return [Unreachable(**row) for row in rows]

    def queues(self, destinations: Sequence[str], pause_after: int) -> list[Queue]:
        """Every destination of the settings, in their order, then others for which something waits.

        Args:
            destinations: names of those in the settings.
            pause_after: attempts in a row without an answer, after which a queue is paused.
        """
        shown = (DeliveryState.PENDING, DeliveryState.DEAD)
        columns = (deliveries.c.destination, deliveries.c.state)
        counted = select(*columns, func.count()).where(deliveries.c.state.in_(shown)).group_by(*columns)
        with self._read() as connection:
            numbers = {(name, state): number for name, state, number in connection.execute(counted).all()}
        waiting = {name for name, state in numbers if state == DeliveryState.PENDING}
        missed = {one.destination: one for one in self.unreachable()}
        found = []
        for name in (*destinations, *sorted(waiting - set(destinations))):
            trouble = missed.get(name)
            state = "open" if trouble is None else "paused" if trouble.attempts >= pause_after else "troubled"
            found.append(
                Queue(
                    destination=name,
                    state=state if name in destinations else "unknown",
                    waiting=numbers.get((name, DeliveryState.PENDING), 0),
                    dead=numbers.get((name, DeliveryState.DEAD), 0),
                    since=trouble.since if trouble else None,
                    next_attempt_at=trouble.next_attempt_at if trouble else None,
                    reason=trouble.reason if trouble else None,
                )
            )
        return found

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


def left_in_peace(connection: Connection, now: datetime) -> set[str]:
    """Destinations whose time has not come."""
    resting = select(unreachable.c.destination).where(unreachable.c.next_attempt_at > now)
    return set(connection.execute(resting).scalars())
