"""What a batch on its way to a destination leaves for those who watch: log lines that name the study, counts, spans."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import structlog

from dicom_node.nouns import Delivery
from dicom_node.watch import metrics, traces

log = structlog.get_logger(__name__)


def entry(delivery: Delivery, **more: object) -> Any:
    """A log that says which delivery of which study it is about."""
    return log.bind(
        study=delivery.study_instance_uid,
        task=delivery.task_id,
        delivery=delivery.delivery_id,
        sop_instance_uid=delivery.sop_instance_uid,
        **more,
    )


OUTCOMES = ("sent", "warning", "retry", "unreachable", "downgraded", "dead")


def know(destinations: Iterable[str]) -> None:
    """Every outcome of every destination begins at 0, so that the first of a kind is seen to be one more."""
    for name in destinations:
        for status in OUTCOMES:
            metrics.count("results_sent_total", 0, destination=name, status=status)


def count(delivery: Delivery, status: str) -> None:
    """Count what became of a delivery: one of OUTCOMES."""
    metrics.count("results_sent_total", destination=delivery.destination, status=status)


class Passage:
    """One batch to one destination, as a span in the trace of each study that is in it.

    Args:
        destination: its name.
        clock: the time.
    """

    def __init__(self, destination: str, clock: Callable[[], datetime]) -> None:
        self._destination = destination
        self._clock = clock
        self._began = clock()
        self._last: dict[tuple[str, int], tuple[datetime, int]] = {}

    def tell(self, delivery: Delivery) -> None:
        """An object was answered for."""
        if delivery.study_instance_uid is not None and delivery.revision is not None:
            of = (delivery.study_instance_uid, delivery.revision)
            self._last[of] = (self._clock(), self._last.get(of, (self._began, 0))[1] + 1)

    def end(self) -> None:
        """The batch is over."""
        for (study, revision), (ended, objects) in self._last.items():
            traces.delivered(study, revision, self._began, ended, destination=self._destination, objects=objects)
