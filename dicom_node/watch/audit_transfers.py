"""What goes over one association, for the audit: that a study's transfer began, and how it ended.

A message may speak of a single patient (PS3.15 A.5.3.3, A.5.3.7), so there are two for each study. The first is on
the disk before its first object is acknowledged: a process that is killed leaves it, without the second.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dicom_node.watch.audit_message import Outcome

MOST_STUDIES = 64
"""Studies whose end is not told yet; some peers keep an association open for weeks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What is known of one study's transfer.

    Attributes:
        study: Study Instance UID; "" of objects that could not be read.
        patient_id: of its patient, "" where there is none.
        sop_classes: how many instances of which.
        new: whether the receiver did not hold any of them before; None where that is not known.
        outcome: how it ended.
        description: why it did not end well.
    """

    study: str
    patient_id: str
    sop_classes: Mapping[str, int]
    new: bool | None = None
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""


class Tell(Protocol):
    """How the audit is told; of the beginning and of the end of a transfer."""

    def __call__(self, what: Transferred, *, ended: bool) -> None:
        """Write it down."""


@dataclass(slots=True)
class _Study:
    """Of one patient: where two come under one Study Instance UID there are two."""

    planned: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    known: int = 0
    why: str = ""


class Transfers:
    """What goes over one association; safe to call from several threads.

    Args:
        tell: writes it down.
        receiving: whether it is known what the receiver held before.
    """

    def __init__(self, tell: Tell, *, receiving: bool) -> None:
        self._tell = tell
        self._receiving = receiving
        self._studies: dict[tuple[str, str], _Study] = {}
        self._ended = False
        self._lock = threading.Lock()

    def plan(self, study: str, patient_id: str, sop_class: str) -> None:
        """An object is going to be sent; `begin` tells of all of them."""
        with self._lock:
            self._studies.setdefault((study, patient_id), _Study()).planned[sop_class] += 1

    def begin(self) -> None:
        """Tell of what was planned."""
        with self._lock:
            for key, one in self._studies.items():
                self._begin(*key, one.planned)

    def done(self, study: str, patient_id: str, sop_class: str, *, known: bool = False) -> None:
        """An object was handed over; `known` where the receiver had it before."""

        def count(one: _Study) -> None:
            one.done[sop_class] += 1
            one.known += known

        self._note(study, patient_id, sop_class, count)

    def failed(self, study: str, patient_id: str, sop_class: str, why: str) -> None:
        """An object was not handed over."""

        def count(one: _Study) -> None:
            one.failed[sop_class] += 1
            one.why = why

        self._note(study, patient_id, sop_class, count)

    def end(self) -> None:
        """Tell how it ended; what comes after that is told at once."""
        with self._lock:
            self._ended = True
            self._tell_all()

    def _note(self, study: str, patient_id: str, sop_class: str, count: Callable[[_Study], None]) -> None:
        with self._lock:
            one = self._studies.get((study, patient_id))
            if one is None:
                if len(self._studies) >= MOST_STUDIES:
                    self._tell_all()
                one = self._studies[study, patient_id] = _Study()
                self._begin(study, patient_id, Counter({sop_class: 1}))
            count(one)
            if self._ended:
                self._tell_all()

    def _begin(self, study: str, patient_id: str, sop_classes: Mapping[str, int]) -> None:
        if study:
            self._tell(Transferred(study=study, patient_id=patient_id, sop_classes=sop_classes), ended=False)

    def _tell_all(self) -> None:
        for (study, patient_id), one in self._studies.items():
            done, failed = one.done.total(), one.failed.total()
            outcome = Outcome.SUCCESS
            if failed:
                outcome = Outcome.MINOR_FAILURE if done else Outcome.SERIOUS_FAILURE
            told = Transferred(
                study=study,
                patient_id=patient_id,
                sop_classes=one.done if done else one.failed,
                new=done == 0 or one.known < done if self._receiving else None,
                outcome=outcome,
                description=f"{failed} of {done + failed} not transferred; the last: {one.why}" if failed else "",
            )
            self._tell(told, ended=True)
        self._studies.clear()
