"""From an event to the trail: what cannot be written now waits, is said in the log, and is written later.

Clinical work goes on when the audit cannot be written, for a peer that is refused keeps nothing that the audit would
have kept, and a disk that is full refuses objects by itself. Nothing passes silently: the log has an error when it
begins and every minute, messages wait in memory, and once the trail can be written again it says since when it could
not (Audit Recording Stopped and Started, PS3.16 CID 403), and how many messages are lost for good.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from dicom_node.watch.audit_message import Message
from dicom_node.watch.audit_trail import Trail

MOST_WAITING = 1000
"""Messages that wait in memory for a trail that cannot be written; the oldest are kept, for they tell how it began."""
RETRY_SECONDS = 5.0
SAY_SECONDS = 60.0

log = structlog.get_logger(__name__)


class Recorder:
    """Writes messages to a trail, or keeps them until it can.

    Args:
        trail: where to.
        gap: makes the messages about a time without a trail: when it began, and how many messages are lost.
        clock: the time, aware.
    """

    def __init__(
        self,
        trail: Trail,
        gap: Callable[[datetime, int], tuple[Message, Message]],
        clock: Callable[[], datetime],
    ) -> None:
        self._trail = trail
        self._gap = gap
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Message] = []
        self._lost = 0
        self._since: datetime | None = None
        self._not_before = 0.0
        self._said = 0.0

    def write(self, messages: Sequence[Message]) -> None:
        """Write messages; whatever happens, the caller goes on."""
        with self._lock:
            if self._since is not None and time.monotonic() < self._not_before:
                self._keep(messages)  # a caller does not wait for a trail that has just failed
            else:
                self._write(messages)

    def retry(self) -> None:
        """Write what waits, if anything does and it is time; call this now and then."""
        with self._lock:
            if self._since is not None and time.monotonic() >= self._not_before:
                self._write([])

    def close(self) -> None:
        """The last try; what cannot be written now is lost, and the log says so."""
        with self._lock:
            if self._since is not None:
                self._write([])
            if self._since is not None:
                log.error("audit messages lost", count=len(self._waiting) + self._lost, since=self._since.isoformat())

    def _write(self, messages: Sequence[Message]) -> None:
        everything = list(messages)
        if self._since is not None:
            stopped, started = self._gap(self._since, self._lost)
            everything = [stopped, *self._waiting, started, *messages]
        try:
            self._trail.append(everything)
        except OSError as error:
            self._not_before = time.monotonic() + RETRY_SECONDS
            self._since = self._since or self._clock()
            self._keep(messages)
            self._say(error)
            return
        if self._since is not None:
            log.warning("audit is written again", since=self._since.isoformat(), lost=self._lost)
        self._since, self._waiting, self._lost = None, [], 0

    def _keep(self, messages: Sequence[Message]) -> None:
        room = MOST_WAITING - len(self._waiting)
        self._waiting += messages[:room]
        self._lost += len(messages[room:])

    def _say(self, error: OSError) -> None:
        if not self._said or time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            log.error(
                "audit cannot be written",
                folder=str(self._trail.folder),
                reason=error.strerror or type(error).__name__,
                waiting=len(self._waiting),
                lost=self._lost,
            )
