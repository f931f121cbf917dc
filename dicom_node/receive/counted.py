"""What the listener counts: associations, objects, and how long an object takes to be safe."""

import time
from collections.abc import Iterable

from dicom_node.receive.intake import Outcome
from dicom_node.settings.callers import Caller
from dicom_node.status import REJECTIONS, Status
from dicom_node.watch import metrics

NO_ROOM = "too many connections without an association"


def know(callers: Iterable[Caller]) -> None:
    """Callers that are counted by name. Everything begins at 0, so that the first of a kind is seen to be one more."""
    names = [one.ae_title for one in callers]
    metrics.known_callers(names)
    for name in {*names, metrics.OTHER}:
        metrics.count("instances_received_total", 0, calling_aet=name)
    for status in Status:
        if status is not Status.SUCCESS:
            metrics.count("instances_refused_total", 0, calling_aet=metrics.OTHER, status=_hex(status))
    for reason in (NO_ROOM, *(one.meaning for one in REJECTIONS)):
        metrics.count("associations_rejected_total", 0, reason=reason)


def tell_object(calling: str, outcome: Outcome, began: float) -> None:
    """Count one object and its answer.

    Args:
        calling: AE title of the caller.
        outcome: the answer.
        began: by the monotonic clock, when its last byte was there.
    """
    metrics.time("store_seconds", time.monotonic() - began)
    if outcome.status is Status.SUCCESS:
        metrics.count("instances_received_total", calling_aet=calling)
    else:
        metrics.count("instances_refused_total", calling_aet=calling, status=_hex(outcome.status))


def tell_rejection(reason: str) -> None:
    """Count an association, or a connection, that was turned away; `reason` is one of ours."""
    metrics.count("associations_rejected_total", reason=reason)


def tell_open(change: int) -> None:
    """One association more, or one less."""
    metrics.count("associations_active", change)


def _hex(status: Status) -> str:
    return f"0x{status:04X}"
