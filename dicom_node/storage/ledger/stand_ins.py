"""Ledger, answering side: what a destination gets instead of an object whose SOP Class it does not take.

A delivery names the kind that may stand in for it, which names the next: segmentation -> overlay ->
secondary_capture. The deliveries of one task to one destination are looked at together, in the transaction that
ends one of them:

    the chain has something that is sent, waits or is on standby     downgraded; what was on standby is due
    the chain has nothing more                                       dead, as is all that relied on it
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, RowMapping, and_, select, update

from dicom_node.nouns import DeliveryState
from dicom_node.storage.ledger.schema import deliveries

_ALIVE = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.PENDING, DeliveryState.STANDBY})


def call_in_stand_ins(connection: Connection, task_id: str, destination: str, now: datetime) -> None:
    """Find what stands in for every downgraded delivery of a task to a destination, inside the caller's transaction."""
    of_answer = and_(deliveries.c.task_id == task_id, deliveries.c.destination == destination)
    rows = connection.execute(select(deliveries).where(of_answer).with_for_update()).mappings().all()
    by_kind: dict[str, list[RowMapping]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    for row in rows:
        if row["state"] != DeliveryState.DOWNGRADED:
            continue
        kind = _stand_in(row["fallback"], by_kind)
        changes = {"state": DeliveryState.DEAD, "finished_at": now} if kind is None else {}
        connection.execute(
            update(deliveries)
            .where(deliveries.c.delivery_id == row["delivery_id"])
            .values(changes | {"stand_in": kind})
        )
        if kind is not None:
            connection.execute(
                update(deliveries)
                .where(of_answer, deliveries.c.kind == kind, deliveries.c.state == DeliveryState.STANDBY)
                .values(state=DeliveryState.PENDING, attempts=0, next_attempt_at=now, submitted_at=None)
            )


def _stand_in(fallback: str | None, by_kind: Mapping[str, Sequence[RowMapping]]) -> str | None:
    """The first kind of the chain that the destination has, will be sent or can be sent."""
    passed: set[str] = set()
    while fallback is not None and fallback in by_kind and fallback not in passed:
        found = by_kind[fallback]
        if any(row["state"] in _ALIVE for row in found):
            return fallback
        passed.add(fallback)
        fallback = found[0]["fallback"]
    return None
