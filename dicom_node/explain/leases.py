"""Time limits of a task.

Celery's own need its prefork pool, which CUDA forbids, so they are kept here:

- the lease is renewed every third of its length while the task runs, and how far it is is told with it; it runs out
  soon after the process dies;
- the soft limit interrupts Python code in the main thread (SIGALRM): the study is reported as not analysed;
- the hard limit ends the process at once (os._exit) from a thread, whatever the main thread hangs in. Before,
  the lease is ended, so that the reconciler offers the task again; the supervisor starts a fresh worker. So it does
  when a GPU is lost: no call of that process succeeds after it, and every study that it took would be answered so.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import datetime
from types import FrameType
from typing import Self

import structlog

from dicom_node.errors import OutOfResources
from dicom_node.settings.sections import BrokerSettings
from dicom_node.storage.ledger import Ledger

EXIT_HARD_LIMIT = 75  # EX_TEMPFAIL of sysexits.h: the supervisor starts a fresh process
GRACE_SECONDS = 5.0
_LOST = ("CUDA error", "CUDA driver error", "cuDNN error", "HIP error")

log = structlog.get_logger(__name__)


class SoftLimitExceeded(Exception):
    """The task ran longer than broker.soft_time_limit."""


class DeviceLost(Exception):
    """An accelerator failed in a way after which no call of this process succeeds."""

    @staticmethod
    def said_by(error: Exception) -> bool:
        """Whether an error of PyTorch says so; a lack of its memory does not, the next study may need less."""
        name = type(error).__name__
        if name == "OutOfMemoryError":
            return False
        return name == "AcceleratorError" or (isinstance(error, RuntimeError) and str(error).startswith(_LOST))


class Limits:
    """Keeps a lease while a task runs, and ends the process when it runs too long.

    Args:
        ledger, task_id, owner: the lease.
        limits: lease_seconds and hard_time_limit.
        clock: the time, for the ledger; durations are measured with a monotonic clock.
        end: ends the process; it is given EXIT_HARD_LIMIT.
    """

    def __init__(
        self,
        ledger: Ledger,
        task_id: str,
        owner: str,
        *,
        limits: BrokerSettings,
        clock: Callable[[], datetime],
        end: Callable[[int], None],
    ) -> None:
        self._ledger = ledger
        self._lease = (task_id, owner)
        self._limits = limits
        self._clock = clock
        self._end = end
        self._done = 0.0
        self._over = threading.Event()
        told = copy_context()  # their log lines are about the same study
        self._renewer = threading.Thread(target=told.run, args=(self._renew,), name="lease", daemon=True)
        guarded = copy_context()
        self._guard = threading.Thread(target=guarded.run, args=(self._watch,), name="hard-limit", daemon=True)

    def __enter__(self) -> Self:
        self._renewer.start()
        self._guard.start()
        return self

    def tell(self, part: float) -> None:
        """The part of the work that is done, 0 to 1; it goes into the ledger when the lease is renewed."""
        self._done = part

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._renewer.join(GRACE_SECONDS)
        self._guard.join(GRACE_SECONDS)

    def _renew(self) -> None:
        seconds = self._limits.lease_seconds
        while not self._over.wait(seconds / 3):
            try:
                if not self._ledger.renew_lease(*self._lease, self._clock(), seconds, self._done):
                    if not self._over.is_set():
                        log.warning("lease lost", task=self._lease[0])
                    return
            except OutOfResources as error:
                log.warning("lease not renewed", task=self._lease[0], reason=str(error))

    def _watch(self) -> None:
        """A thread of its own: it must end the process also when the ledger hangs."""
        if self._over.wait(self._limits.hard_time_limit):
            return
        self.end_process("hard time limit")

    def end_process(self, why: str) -> None:
        """End the lease, so that the task is offered again and this attempt counts, and then the process."""
        self._over.set()
        log.critical("the process ends", task=self._lease[0], reason=why)
        ending = threading.Thread(target=self._end_lease, daemon=True)
        ending.start()
        ending.join(GRACE_SECONDS)
        self._end(EXIT_HARD_LIMIT)

    def _end_lease(self) -> None:
        with contextlib.suppress(OutOfResources):
            self._ledger.expire_lease(*self._lease, self._clock())


@contextlib.contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise SoftLimitExceeded in the block after `seconds`; in the main thread only, elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise SoftLimitExceeded

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
