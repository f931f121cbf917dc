"""The listener: Verification and Storage SCP (PS3.4 Annexes A and B) on pynetdicom.

Handlers are a few lines each: they translate between pynetdicom's events and `Reception` (what a peer may send),
`Intake` (what becomes of an object) and the ledger (which associations are open). The listener never computes.
"""

import copy
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association as Acceptor
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer

from dicom_node.dicom.negotiation import presentation_contexts
from dicom_node.errors import ConfigError, NodeError
from dicom_node.nouns import AETitle, Association
from dicom_node.receive.intake import Intake, Outcome, Request, refusal
from dicom_node.receive.reception import PartFile, Reception
from dicom_node.settings.sections import Settings
from dicom_node.status import Status, rejection
from dicom_node.storage.spool import Spool

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

log = structlog.get_logger(__name__)

HOUSEKEEPING_SECONDS = 0.25
STOP_SECONDS = 5.0
MOST_PENDING_PER_HOST = 8
"""Connections of one host without an association: a host that connects and stays silent takes no more slots."""
MOST_PENDING = 64
"""Connections of all hosts without an association; each costs two threads, for `acse_timeout` at most."""
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)
"""Result (transient), source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""


class Listener:
    """The node's Storage SCP.

    Args:
        settings: the node's settings.
        ledger: where acknowledged instances are recorded.
        spool: where they lie.
        clock: the time, aware.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: "Ledger",
        spool: Spool,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._node = settings.node
        self._ledger = ledger
        self._spool = spool
        self._clock = clock
        self._intake = Intake(ledger, spool)
        self._receptions: dict[Acceptor, Reception] = {}
        self._forgotten: list[Reception] = []
        self._to_close: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._entity: AE | None = None
        self._server: _Server | None = None

    def start(self) -> int:
        """Clean up after an earlier process, then listen in threads of this one.

        Returns:
            the port, also when the settings say 0.

        Raises:
            ConfigError: the address cannot be listened on.
            OutOfResources: the ledger does not answer.
        """
        self._entity = self._make_entity()
        try:
            server: Any = self._entity.make_server(
                (self._node.host, self._node.port),
                evt_handlers=[*self._handlers()],
                server_class=_Server,
                admit=self._admit,
                timeout=self._node.network_timeout,
            )
        except OSError as error:
            where = f"{self._node.host}:{self._node.port}"
            raise ConfigError(f"node.port: cannot listen on {where}: {error.strerror}") from error
        self._server = server
        self._entity._servers.append(server)  # noqa: SLF001 - as AE.start_server does; shutdown relies on it
        stale = self._ledger.close_stale_associations(self._clock(), self._spool.alive)
        swept = self._spool.sweep()
        if stale or swept:
            log.warning("cleaned up after an earlier process", associations=stale, parts=swept)
        if not self._node.calling_ae_titles and not self._node.accept_any_calling_ae:
            log.warning("nobody may send: node.calling_ae_titles is empty")
        for name, target in (("listener", self._serve), ("listener-housekeeping", self._keep_house)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        port: int = server.server_address[1]
        return port

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Stop accepting, let open associations finish for `grace` seconds, then abort them."""
        if self._server is None or self._entity is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + grace
        while self._receptions and time.monotonic() < deadline:
            time.sleep(0.02)
        self._entity.shutdown()
        self._stopping.set()
        for thread in self._threads:
            thread.join(HOUSEKEEPING_SECONDS + STOP_SECONDS)
        for acceptor in list(self._receptions):
            self._end(acceptor)
        for reception in self._forgotten:
            reception.close()
        self._close_in_ledger()
        self._server = None

    def serve_forever(self, stop: threading.Event | None = None) -> None:
        """Listen until `stop` is set."""
        self.start()
        try:
            (stop or self._stopping).wait()
        finally:
            self.stop()

    def _make_entity(self) -> AE:
        node = self._node
        entity = AE(ae_title=node.ae_title)
        entity.supported_contexts = presentation_contexts()
        entity.maximum_pdu_size = node.max_pdu
        # pynetdicom counts connections by it; associations are counted in _on_requested.
        entity.maximum_associations = node.max_associations + MOST_PENDING + 1
        entity.acse_timeout = node.acse_timeout
        entity.dimse_timeout = node.dimse_timeout
        entity.network_timeout = node.network_timeout
        entity.require_called_aet = True
        if not node.accept_any_calling_ae:
            # To pynetdicom an empty list means anybody; a title that nobody can know means nobody.
            entity.require_calling_aet = list(node.calling_ae_titles) or [secrets.token_hex(8)]
        return entity

    def _handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        return [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_C_ECHO, lambda _event: Status.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_ABORTED, lambda event: self._end(event.assoc)),
            (evt.EVT_CONN_CLOSE, self._on_connection_closed),
        ]

    def _serve(self) -> None:
        if self._server is not None:
            self._server.serve_forever(poll_interval=0.2)

    def _admit(self, host: str) -> bool:
        """Whether a new connection may be looked at; it costs two threads before its first byte."""
        with self._lock:
            receptions = list(self._receptions.values())
            hosts = [acceptor.requestor.address for acceptor in self._receptions]
        pending = [known for reception, known in zip(receptions, hosts, strict=True) if not reception.counted]
        admitted = len(pending) < MOST_PENDING and pending.count(host) < MOST_PENDING_PER_HOST
        if not admitted:
            log.warning("connection refused", peer=host, connections=len(receptions), pending=len(pending))
        return admitted

    def _on_connection(self, event: evt.Event) -> None:
        reception = Reception(
            event.assoc, self._spool, max_pdu=self._node.max_pdu, deadline=self._node.association_deadline
        )
        reception.guard()
        with self._lock:
            self._receptions[event.assoc] = reception

    def _on_connection_closed(self, event: evt.Event) -> None:
        reception = self._receptions.get(event.assoc)
        if reception is not None:
            reception.close()
        self._end(event.assoc)

    def _on_requested(self, event: evt.Event) -> None:
        """Count the association, or reject it; pynetdicom would count connections that never ask for one, too."""
        acceptor, titles = event.assoc, _titles(event.assoc)
        peer = (titles["peer"], titles["calling"])
        with self._lock:
            counted = [one for one in self._receptions.values() if one.counted and not one.lost]
            of_peer = sum(one.counted == peer for one in counted)
            full = len(counted) >= self._node.max_associations or of_peer >= self._node.max_associations_per_peer
            reception = self._receptions.get(acceptor)
            if reception is not None and not full:
                reception.counted = peer
        if full:
            log.warning(
                "association rejected",
                reason=rejection(*LOCAL_LIMIT_EXCEEDED),
                open=len(counted),
                of_peer=of_peer,
                **titles,
            )
            acceptor.acse.send_reject(*LOCAL_LIMIT_EXCEEDED)
            acceptor.kill()

    def _on_accepted(self, event: evt.Event) -> None:
        reception = self._receptions.get(event.assoc)
        if reception is not None:
            reception.opened_at = self._clock()
            log.info("association accepted", association=reception.association_id, **_titles(event.assoc))

    def _on_rejected(self, event: evt.Event) -> None:
        answer: Any = event.assoc.acceptor.primitive
        meaning = rejection(answer.result, answer.result_source, answer.diagnostic)
        log.warning("association rejected", reason=meaning, **_titles(event.assoc))

    def _on_store(self, event: evt.Event) -> Dataset:
        outcome = self._store(event)
        answer = Dataset()
        answer.Status = int(outcome.status)
        if outcome.comment:
            answer.ErrorComment = outcome.comment
        return answer

    def _store(self, event: evt.Event) -> Outcome:
        asked: Any = event.request
        reception, part = self._receptions.get(event.assoc), asked.DataSet
        if not isinstance(part, PartFile):
            return Outcome(status=Status.CANNOT_UNDERSTAND, comment="Request without a data set")
        if reception is None or not reception.claim(part):
            return Outcome(status=Status.PROCESSING_FAILURE, comment="The association has ended")
        try:
            received = part.finish()
            association = self._record(event.assoc, reception)
        except NodeError as error:
            part.discard()
            log.error(  # noqa: TRY400 - foreseen: no traceback
                "object not stored",
                association=reception.association_id,
                status=f"0x{error.status:04X}",
                reason=str(error),
            )
            return refusal(error)
        request = Request(
            sop_class_uid=str(asked.AffectedSOPClassUID),
            sop_instance_uid=str(asked.AffectedSOPInstanceUID),
            abstract_syntax=str(event.context.abstract_syntax),
            transfer_syntax=str(event.context.transfer_syntax),
            association=association,
        )
        return self._intake.take(request, received, self._clock())

    def _record(self, acceptor: Acceptor, reception: Reception) -> Association:
        """The association as a noun; the ledger learns of it with its first object."""
        titles = _titles(acceptor)
        association = Association(
            association_id=reception.association_id,
            calling_ae_title=AETitle(titles["calling"]),
            called_ae_title=AETitle(titles["called"]),
            peer_address=titles["peer"],
            opened_at=reception.opened_at or self._clock(),
            listener=self._spool.owner,
        )
        if not reception.recorded:
            self._ledger.open_association(association)
            reception.recorded = True
        return association

    def _end(self, acceptor: Acceptor) -> None:
        """Forget a connection, however it ended; called once or more for each.

        Its unclaimed parts go first: who sees no reception any more (`stop`, for one) may rely on an empty spool.
        """
        reception = self._receptions.get(acceptor)
        if reception is None:
            return
        reception.end()
        with self._lock:
            if self._receptions.pop(acceptor, None) is None:
                return
            self._forgotten.append(reception)
        if reception.opened_at is not None:
            log.info("association ended", association=reception.association_id)
        if reception.recorded:
            with self._lock:
                self._to_close.add(reception.association_id)
            self._close_in_ledger()

    def _close_in_ledger(self) -> None:
        """Record the ends of associations; those that the ledger does not take now are tried again."""
        with self._lock:
            waiting = list(self._to_close)
        for association_id in waiting:
            try:
                self._ledger.close_association(association_id, self._clock())
            except NodeError as error:
                log.warning("association's end not recorded yet", association=association_id, reason=str(error))
                return
            with self._lock:
                self._to_close.discard(association_id)

    def _keep_house(self) -> None:
        while not self._stopping.wait(HOUSEKEEPING_SECONDS):
            with self._lock:
                receptions = list(self._receptions.items())
            for acceptor, reception in receptions:
                if reception.lost:
                    self._end(acceptor)
            with self._lock:
                done = [one for one in self._forgotten if one.lost]
                self._forgotten = [one for one in self._forgotten if one not in done]
            for reception in done:
                reception.close()  # an aborted connection has no other event of its end
            self._close_in_ledger()


class _Server(AssociationServer):
    """pynetdicom's server with a check before each connection, no delay on answers, and time-outs at once.

    It sets an association up before it accepts the next connection, so that the check counts exactly.
    """

    request_queue_size = 64

    def __init__(self, *args: Any, admit: Callable[[str], bool], timeout: float, **kwargs: Any) -> None:
        self._admit = admit
        self._seconds = timeout
        super().__init__(*args, **kwargs)
        self.contexts = _Contexts(self.contexts)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's signature
        return self._admit(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        log.error("connection failed", peer=client_address[0], exc_info=True)  # noqa: LOG014 - called by one

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        connection.settimeout(self._seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


class _Contexts(list[PresentationContext]):
    """pynetdicom makes a deep copy for each connection before it accepts the next: 40 ms, of what nobody changes."""

    def __deepcopy__(self, _memo: object) -> list[PresentationContext]:
        return [copy.copy(one) for one in self]


def _titles(acceptor: Acceptor) -> dict[str, str]:
    """Who calls whom, for the log and the ledger."""
    requested = acceptor.requestor.primitive
    return {
        "calling": _legible(getattr(requested, "calling_ae_title", "")),
        "called": _legible(getattr(requested, "called_ae_title", "")),
        "peer": str(acceptor.requestor.address),
    }


def _legible(title: str | None) -> str:
    """An AE title as it may stand in a line of a log: whoever calls chooses its bytes."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in str(title or ""))
    return text.strip()[:16]
