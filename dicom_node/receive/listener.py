"""The listener: Verification, Storage and Storage Commitment (PS3.4 Annexes A, B and J) on pynetdicom.

Handlers are a few lines each: they translate between pynetdicom's events and `Reception` (what a peer may send),
`Intake` (what becomes of an object), `CommitmentProvider` (whether objects are safe) and the ledger (which associations
are open). The listener never computes.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association as Acceptor

from dicom_node.clock import utc_now
from dicom_node.dicom.commitment import Message
from dicom_node.dicom.negotiation import presentation_contexts
from dicom_node.errors import ConfigError, NodeError
from dicom_node.nouns import AETitle, Association
from dicom_node.receive import audited, counted
from dicom_node.receive.association_request import titles_of
from dicom_node.receive.commitment import CommitmentProvider
from dicom_node.receive.intake import Intake, Outcome, Request, refusal
from dicom_node.receive.pace import Pace
from dicom_node.receive.part_file import PartFile
from dicom_node.receive.reception import Reception
from dicom_node.receive.secure import ServerTLS
from dicom_node.receive.server import Server
from dicom_node.settings.callers import caller, why_not
from dicom_node.settings.sections import Settings
from dicom_node.status import CommitmentStatus, Status, rejection
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit, Node

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

log = structlog.get_logger(__name__)

HOUSEKEEPING_SECONDS = 0.25
STUCK_SECONDS = 30.0
STOP_SECONDS = 5.0
MOST_PENDING_PER_HOST = 8
"""Connections of one host without an association: a host that connects and stays silent takes no more slots."""
MOST_PENDING = 64
"""Connections of all hosts without an association; each costs two threads, for `acse_timeout` at most."""
REJECTED_PERMANENT = 0x01
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)
"""Result (transient), source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
CALLING_NOT_RECOGNISED = (0x01, 0x01, 0x03)
CALLED_NOT_RECOGNISED = (0x01, 0x01, 0x07)


class Listener:
    """The node's Storage SCP, and what it answers of Storage Commitment.

    It listens on a plain port, a TLS port, or both; whoever comes by either is treated the same.

    Args:
        settings: the node's settings.
        ledger: where acknowledged instances are recorded.
        spool: where they lie.
        audit: is told who sent what, and who was turned away.

    Attributes:
        tls_port: the port of DICOM TLS once it has started, also when the settings say 0; None without TLS.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: "Ledger",
        spool: Spool,
        audit: Audit | None = None,
    ) -> None:
        self.tls_port: int | None = None
        self._node = settings.node
        self._tls_settings = settings.tls
        self._callers = tuple(caller(entry) for entry in settings.node.calling_ae_titles)
        counted.know(self._callers)
        self._audit = audit or Audit.nowhere()
        self._ledger = ledger
        self._spool = spool
        self._intake = Intake(ledger, spool)
        self._commitment = CommitmentProvider(settings, ledger, utc_now, spool.fetch)
        self._receptions: dict[Acceptor, Reception] = {}
        self._forgotten: list[Reception] = []
        self._to_close: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._entity: AE | None = None
        self._servers: list[Server] = []
        self._tls: ServerTLS | None = None

    def start(self) -> int:
        """Clean up after an earlier process, then listen in threads of this one.

        Returns:
            the port, also when the settings say 0: the plain one, or the one of TLS where no other is open.

        Raises:
            ConfigError: the address cannot be listened on, or a file of [tls] cannot be used.
            OutOfResources: the ledger does not answer.
        """
        tls = self._tls_settings
        if tls.serves:
            self._tls = ServerTLS(tls, utc_now)
        self._entity = self._make_entity()
        try:
            if self._node.plain:
                self._listen(self._entity, "node.port", self._node.port, None)
            if self._tls is not None:
                self.tls_port = self._listen(self._entity, "tls.port", tls.port, self._tls)
            stale = self._ledger.close_stale_associations(utc_now(), self._spool.alive)
        except NodeError:
            for server in self._servers:
                server.server_close()
            raise
        swept = self._spool.sweep()
        if stale or swept:
            log.warning("cleaned up after an earlier process", associations=stale, parts=swept)
        if not self._node.calling_ae_titles and not self._node.accept_any_calling_ae:
            log.warning("nobody may send: node.calling_ae_titles is empty")
        serve: list[Callable[[], None]] = [partial(one.serve_forever, poll_interval=0.2) for one in self._servers]
        for target in (*serve, self._keep_house):
            thread = threading.Thread(target=target, name="listener", daemon=True)
            thread.start()
            self._threads.append(thread)
        return int(self._servers[0].server_address[1])

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Stop accepting, let open associations finish for `grace` seconds, then abort them."""
        if not self._servers or self._entity is None:
            return
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + grace
        while self._receptions and time.monotonic() < deadline:
            time.sleep(0.02)
        self._entity.shutdown()
        self._stopping.set()
        for thread in self._threads:
            thread.join(HOUSEKEEPING_SECONDS + STOP_SECONDS)
        for acceptor in list(self._receptions):
            self._end(acceptor)
        self._commitment.close()
        for reception in self._forgotten:
            reception.close()
        self._close_in_ledger()
        self._servers = []

    def accepting(self) -> bool:
        """Whether every port has lately looked for connections; False also where its thread has died."""
        return bool(self._servers) and all(time.monotonic() - one.looked < STUCK_SECONDS for one in self._servers)

    def _listen(self, entity: AE, key: str, port: int, tls: ServerTLS | None) -> int:
        """Take a port; nobody is served yet."""
        try:
            server: Any = entity.make_server(
                (self._node.host, port),
                evt_handlers=[*self._handlers()],
                server_class=Server,
                admit=self._admit,
                timeout=self._node.network_timeout,
                tls=tls,
            )
        except OSError as error:
            raise ConfigError(f"{key}: cannot listen on {self._node.host}:{port}: {error.strerror}") from error
        entity._servers.append(server)  # noqa: SLF001 - as AE.start_server does; shutdown relies on it
        self._servers.append(server)
        taken: int = server.server_address[1]
        return taken

    def _make_entity(self) -> AE:
        node = self._node
        entity = AE(ae_title=node.ae_title)
        for one in presentation_contexts():  # the setter of all at once forgets their roles
            entity.add_supported_context(one.abstract_syntax or "", one.transfer_syntax, one.scu_role, one.scp_role)
        entity.maximum_pdu_size = node.max_pdu
        # pynetdicom counts connections by it; associations are counted in _on_requested.
        entity.maximum_associations = node.max_associations + MOST_PENDING + 1
        entity.acse_timeout = node.acse_timeout
        entity.dimse_timeout = node.dimse_timeout
        entity.network_timeout = node.network_timeout
        return entity

    def _handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        return [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_C_ECHO, lambda _event: Status.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_ABORTED, lambda event: self._end(event.assoc)),
            (evt.EVT_CONN_CLOSE, self._on_connection_closed),
        ]

    def _admit(self, host: str) -> bool:
        """Whether a new connection may be looked at; it costs two threads before its first byte."""
        with self._lock:
            receptions = list(self._receptions.values())
            hosts = [acceptor.requestor.address for acceptor in self._receptions]
        pending = [known for reception, known in zip(receptions, hosts, strict=True) if not reception.counted]
        admitted = len(pending) < MOST_PENDING and pending.count(host) < MOST_PENDING_PER_HOST
        if not admitted:
            counted.tell_rejection(counted.NO_ROOM)
            log.warning("connection refused", peer=host, connections=len(receptions), pending=len(pending))
        return admitted

    def _on_connection(self, event: evt.Event) -> None:
        node = self._node
        reception = Reception(
            event.assoc,
            self._spool,
            max_pdu=node.max_pdu,
            deadline=node.association_deadline,
            handshake=node.acse_timeout,
            pace=Pace(node.slowest_peer, node.slowest_peer_seconds),
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
        """Reject an association, or count it; pynetdicom would count connections that never ask for one, too."""
        acceptor, titles = event.assoc, titles_of(event.assoc)
        peer = (titles["peer"], titles["calling"])
        if titles["called"] != self._node.ae_title:
            self._reject(acceptor, CALLED_NOT_RECOGNISED)
            return
        if not self._node.accept_any_calling_ae and (because := why_not(self._callers, peer[1], peer[0])) is not None:
            self._reject(acceptor, CALLING_NOT_RECOGNISED, because=because)
            return
        with self._lock:
            open_now = [one for one in self._receptions.values() if one.counted and not one.lost]
            of_peer = sum(one.counted == peer for one in open_now)
            full = len(open_now) >= self._node.max_associations or of_peer >= self._node.max_associations_per_peer
            reception = self._receptions.get(acceptor)
            if reception is not None and not full:
                reception.counted = peer
        if full:
            self._reject(acceptor, LOCAL_LIMIT_EXCEEDED, open=len(open_now), of_peer=of_peer)

    def _reject(self, acceptor: Acceptor, answer: tuple[int, int, int], **more: Any) -> None:
        meaning, titles = rejection(*answer), titles_of(acceptor)
        log.warning("association rejected", reason=meaning, **more, **titles)
        counted.tell_rejection(meaning)
        if answer[0] == REJECTED_PERMANENT:
            self._audit.node_rejected(Node(ae_title=titles["calling"], address=titles["peer"]), meaning)
        acceptor.acse.send_reject(*answer)
        acceptor.kill()

    def _on_accepted(self, event: evt.Event) -> None:
        reception = self._receptions.get(event.assoc)
        if reception is not None:
            reception.opened_at = utc_now()
            counted.tell_open(1)
            log.info(
                "association accepted",
                association=reception.association_id,
                **titles_of(event.assoc),
                **reception.secured,
            )

    def _on_store(self, event: evt.Event) -> Dataset:
        began = time.monotonic()
        outcome = self._store(event)
        counted.tell_object(titles_of(event.assoc)["calling"], outcome, began)
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
        outcome = self._intake.take(request, received, utc_now())
        audited.tell_object(self._audit, reception, request, outcome)  # before the peer is answered
        return outcome

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        reception, calling = self._receptions.get(event.assoc), titles_of(event.assoc)["calling"]
        if reception is None:
            return int(CommitmentStatus.PROCESSING_FAILURE), None
        asked, context = Message.of_action(event), event.context.context_id
        return int(self._commitment.take(asked, calling, reception.commitment, context)), None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        heard = self._commitment.hear(Message.of_event_report(event), titles_of(event.assoc)["calling"])
        return int(heard), None

    def _record(self, acceptor: Acceptor, reception: Reception) -> Association:
        """The association as a noun; the ledger learns of it with its first object."""
        titles = titles_of(acceptor)
        association = Association(
            association_id=reception.association_id,
            calling_ae_title=AETitle(titles["calling"]),
            called_ae_title=AETitle(titles["called"]),
            peer_address=titles["peer"],
            opened_at=reception.opened_at or utc_now(),
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
        audited.tell_end(reception)
        if reception.opened_at is not None:
            counted.tell_open(-1)
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
                self._ledger.close_association(association_id, utc_now())
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
            if self._tls is not None:
                self._tls.look()
