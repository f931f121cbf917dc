"""Storage Commitment over an association that the peer has opened and goes on using: bounds, and reports of ours.

The SCP may report over the association of the request (PS3.4 J.3.3). pynetdicom's `send_n_event_report` takes whatever
comes next for the answer, also a C-STORE of the peer. Here a report is sent beside the association's own work, and its
answer is recognised by its Message ID. For one association two functions are replaced:

    DIMSEServiceProvider.send_msg    one message at a time: a report never comes between two fragments of an answer
    Association._serve_request       an answer to a report of ours is no request; requests are counted
"""

import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import structlog
from pydicom import Dataset
from pynetdicom.association import Association as Acceptor
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node.dicom.commitment import PUSH_MODEL, WELL_KNOWN, Information
from dicom_node.errors import DatasetUnreadable

log = structlog.get_logger(__name__)


MOST_REQUESTS = 1000
"""N-ACTIONs and N-EVENT-REPORTs over one association, which is aborted then."""
MOST_UNANSWERED = 2
"""Of these at a time: no asynchronous operations are negotiated, and there is one in each direction."""


class SameAssociation:
    """What of Storage Commitment goes over one association of a peer; safe to call from several threads.

    Args:
        acceptor: pynetdicom's side of the association.
    """

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = 0
        self._answers: dict[int, tuple[threading.Event, list[int]]] = {}
        self._ended = threading.Event()
        self._requests = self._unanswered = 0
        serve, send = acceptor._serve_request, acceptor.dimse.send_msg  # noqa: SLF001 - see above

        def serve_unless_answer(message: Any, context_id: int) -> None:
            if not (isinstance(message, N_EVENT_REPORT) and message.is_valid_response):
                self._serve(serve, message, context_id)
                return
            waiting = self._answers.get(int(message.MessageIDBeingRespondedTo or 0))
            if waiting is not None:
                waiting[1].append(int(message.Status or 0))
                waiting[0].set()

        def send_whole(primitive: Any, context_id: int) -> None:
            with self._sending:
                send(primitive, context_id)

        acceptor._serve_request = serve_unless_answer  # type: ignore[assignment,method-assign]  # noqa: SLF001
        acceptor.dimse.send_msg = send_whole  # type: ignore[method-assign]

    def begin(self) -> Information:
        """Where the data set of a request goes whose command has come.

        Raises:
            DatasetUnreadable: the peer does not wait for answers.
        """
        with self._lock:
            if self._unanswered >= MOST_UNANSWERED:
                raise DatasetUnreadable("too many commitment requests without waiting for an answer")
            self._unanswered += 1
        return Information()

    def _serve(self, serve: Callable[[Any, int], None], message: Any, context_id: int) -> None:
        """Let pynetdicom answer a request; of Storage Commitment there may be so many."""
        if not isinstance(message, N_ACTION | N_EVENT_REPORT):
            serve(message, context_id)
            return
        with self._lock:
            self._requests += 1
            too_many = self._requests > MOST_REQUESTS
        try:
            if too_many:
                log.warning("too many commitment requests over one association", limit=MOST_REQUESTS)
                self._acceptor.abort()
            else:
                serve(message, context_id)
        finally:
            told = message.ActionInformation if isinstance(message, N_ACTION) else message.EventInformation
            if isinstance(told, Information):
                with self._lock:
                    self._unanswered -= 1

    def end(self) -> None:
        """The association has ended: nobody need wait any longer."""
        self._ended.set()
        with self._lock:
            for answered, _ in self._answers.values():
                answered.set()

    def lasts(self, seconds: float) -> bool:
        """Wait so long; whether the association is still there then."""
        return not self._ended.wait(seconds) and self._acceptor.is_established

    def report(self, data_set: Dataset, event_type: int, context_id: int, seconds: float) -> int | None:
        """Send one report and wait for its answer.

        Args:
            data_set: the Event Information.
            event_type: Event Type ID.
            context_id: of the presentation context of the request.
            seconds: for the answer.

        Returns:
            the status, or None when there was no answer.
        """
        syntax = self._acceptor._accepted_cx[context_id].transfer_syntax[0]  # noqa: SLF001 - as pynetdicom itself does
        request = N_EVENT_REPORT()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = PUSH_MODEL, WELL_KNOWN
        request.EventTypeID = event_type
        request.EventInformation = BytesIO(encode(data_set, syntax.is_implicit_VR, syntax.is_little_endian) or b"")
        answered, statuses = threading.Event(), list[int]()
        with self._lock:
            self._numbers = self._numbers % 0xFFFF + 1
            request.MessageID = number = self._numbers
            self._answers[number] = (answered, statuses)
        try:
            if self.lasts(0):
                self._acceptor.dimse.send_msg(request, context_id)
                answered.wait(seconds)
        finally:
            with self._lock:
                del self._answers[number]
        return statuses[0] if statuses else None
