"""The incoming side of one association: limits on what a peer may send, while objects are written to disk as they come.

pynetdicom reads a PDU of any length into memory, waits without end for the rest of one, and collects a data set
in memory or, by switches that hold for the whole process, in a temporary file. `Reception.guard` replaces, for
one association, the three functions through which bytes come in:

    AssociationSocket.recv                   makes the handshake of TLS; refuses a PDU that is too long; one deadline
                                             for each whole PDU, a floor under the pace of each message
    DULServiceProvider._decode_pdu           is given an A-ASSOCIATE-RQ that it can read (`association_request`)
    DIMSEServiceProvider.receive_primitive   hands the data set of a C-STORE to a PartFile, of Storage Commitment to a
                                             buffer with a limit, of any other message to nobody; what is no message
                                             ends the association as an invalid PDU does (PS3.8 9.2, Evt19)
"""

import socket
import ssl
import struct
import threading
import time
import uuid
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

import structlog
from pynetdicom.association import Association as Acceptor
from pynetdicom.dimse_messages import C_STORE_RQ, N_ACTION_RQ, N_EVENT_REPORT_RQ, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.dicom.commitment import Information
from dicom_node.errors import DatasetUnreadable
from dicom_node.receive.association_request import ASSOCIATE_RQ, tidied
from dicom_node.receive.pace import Pace
from dicom_node.receive.part_file import PartFile
from dicom_node.receive.same_association import SameAssociation
from dicom_node.receive.secure import Handshake
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit_transfers import Transfers

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = structlog.get_logger(__name__)

_REQUESTS_THAT_ARE_LATE = frozenset(
    (event, state) for event in ("Evt7", "Evt8", "Evt9", "Evt14", "Evt15") for state in ("Sta1", "Sta13")
)
"""Answers to an A-ASSOCIATE or A-RELEASE, P-DATA and A-ABORT requests of ours where the connection is closed or
closing: no entry of PS3.8 table 9-10."""

INVALID_PDU = "Evt19"  # PS3.8 table 9-10
PDU_HEADER = struct.Struct(">BxL")  # PS3.8 9.3.1
P_DATA_TF, ABORT = 0x04, 0x07
_ABORT_REASON = slice(8, 10)
"""Source and reason of an A-ABORT (PS3.8 9.3.8); nobody asks for them."""
PDU_TYPES = range(0x01, 0x08)
PDU_SLACK = 1024
"""Bytes more than the negotiated length that are forgiven: some peers leave PDV headers out of their sum."""
LONGEST_OTHER_PDU = 262_144
"""Bytes of an A-ASSOCIATE: 128 presentation contexts with all transfer syntaxes take about half of it."""
LONGEST_COMMAND = 65_536
MOST_UNANSWERED = 16
"""Objects that a peer sends before it has any answer; no asynchronous operations are negotiated."""


class _Nowhere(BytesIO):
    """Takes the data set of a message that this node has no use for."""

    def write(self, buffer: "ReadableBuffer", /) -> int:
        return memoryview(buffer).nbytes


class Reception:
    """What one connection is sending.

    Args:
        acceptor: pynetdicom's side of the association.
        spool: where objects go.
        max_pdu: longest P-DATA-TF that was negotiated, in bytes.
        deadline: seconds for one PDU from its first byte to its last.
        handshake: seconds for the handshake of a TLS connection, from now on.
        pace: how slow the peer may be while it sends a message.

    Attributes:
        association_id: ours, for the ledger and the log.
        opened_at: when the association was accepted; None before.
        recorded: whether the ledger knows the association.
        counted: host and calling AE title of an association that takes one of the slots; None before it is asked for.
        commitment: what of Storage Commitment goes over it.
        transfers: what came over the association, for the audit; None before its first object.
    """

    def __init__(
        self, acceptor: Acceptor, spool: Spool, *, max_pdu: int, deadline: float, handshake: float, pace: Pace
    ) -> None:
        self.association_id = uuid.uuid4().hex
        self.opened_at: datetime | None = None
        self.recorded = False
        self.counted: tuple[str, str] | None = None
        self.commitment = SameAssociation(acceptor)
        self.transfers: Transfers | None = None
        self._acceptor = acceptor
        self._spool = spool
        self._longest_p_data = max_pdu + PDU_SLACK
        self._seconds = deadline
        self._deadline = 0.0
        self._pace = pace
        self._handshake_seconds = handshake
        self._handshake: Handshake | None = None
        self._body: int | None = None
        self._asked = False
        self._connection: socket.socket | None = None
        self._parts: set[PartFile] = set()
        self._ended = False
        self._lock = threading.Lock()

    @property
    def lost(self) -> bool:
        """Whether the threads of the connection have ended; pynetdicom does not always say so with an event."""
        started = self._acceptor.ident is not None
        return started and not (self._acceptor.is_alive() or self._acceptor.dul.is_alive())

    @property
    def ended(self) -> bool:
        """Whether the connection is over."""
        return self._ended

    @property
    def secured(self) -> dict[str, str]:
        """How the connection is secured, for the log; empty without TLS."""
        return (self._handshake.made if self._handshake is not None else None) or {}

    def guard(self) -> None:
        """Put the limits in place; before the association's threads start."""
        wrapper = self._acceptor.dul.socket
        if wrapper is not None:
            self._connection = wrapper.socket
            if isinstance(wrapper.socket, ssl.SSLSocket):
                self._handshake = Handshake(wrapper.socket, self._handshake_seconds)
            wrapper.recv = self._recv  # type: ignore[method-assign]
        decode = self._acceptor.dul._decode_pdu  # noqa: SLF001 - the only place where a PDU lies before it is read

        def decode_tidied(bytestream: bytearray) -> Any:
            if bytestream[0] == ABORT:
                bytestream[_ABORT_REASON] = bytes(2)  # pynetdicom's thread would die of one that is not defined
            request = bytestream[0] == ASSOCIATE_RQ  # data are passed on without being copied
            return decode(bytearray(tidied(bytes(bytestream))) if request else bytestream)

        self._acceptor.dul._decode_pdu = decode_tidied  # type: ignore[method-assign]  # noqa: SLF001
        self._receive_primitive = self._acceptor.dimse.receive_primitive
        self._acceptor.dimse.receive_primitive = self._receive  # type: ignore[method-assign]
        machine = self._acceptor.dul.state_machine
        act = machine.do_action

        def act_unless_closing(event: str) -> None:
            """An answer or a second abort may find the connection closing; pynetdicom's thread would die of it.

            So it would of a PDU with a value that its own classes refuse; to the peer that is an invalid PDU.
            """
            if (event, machine.current_state) in _REQUESTS_THAT_ARE_LATE:
                return
            try:
                act(event)
            except ValueError:
                if event == INVALID_PDU:
                    raise
                log.warning("invalid PDU", association=self.association_id, exc_info=True)
                self._acceptor.dul.event_queue.put(INVALID_PDU)

        machine.do_action = act_unless_closing  # type: ignore[method-assign]

    def claim(self, part: PartFile) -> bool:
        """Take over responsibility for a part; False when the connection ended and the part is gone."""
        with self._lock:
            if part not in self._parts:
                return False
            self._parts.remove(part)
            return True

    def close(self) -> None:
        """Close the socket: pynetdicom leaves it open when the peer has reset the connection."""
        if self._connection is not None:
            self._connection.close()

    def end(self) -> None:
        """Remove the parts that nobody has claimed; a transfer that breaks off leaves nothing behind."""
        self.commitment.end()
        with self._lock:
            self._ended = True
            while self._parts:
                self._parts.pop().discard()

    def _recv(self, nr_bytes: int) -> bytearray:
        """Read the 6 bytes that begin a PDU, or the rest of it.

        Raises:
            OSError: the PDU is too long, or there is no TLS connection; pynetdicom closes the connection.
            TimeoutError: the deadline passed, or the peer is too slow.
        """
        connection = self._connection
        if connection is None:
            raise OSError("the connection is closed")
        if self._handshake is not None and self._handshake.made is None and not self._shake_hands(self._handshake):
            return bytearray()
        if nr_bytes != self._body:
            self._deadline = time.monotonic() + self._seconds
        self._body = None
        received = bytearray(nr_bytes)
        view = memoryview(received)
        position = 0
        while position < nr_bytes:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                log.warning("PDU took too long", association=self.association_id, seconds=self._seconds)
                raise TimeoutError("the PDU took too long")
            connection.settimeout(remaining)
            count = connection.recv_into(view[position:])
            if count == 0:
                self._nobody_there()
                break
            position += count
            acknowledge_now(connection)
        connection.settimeout(self._seconds)
        view.release()
        del received[position:]
        if nr_bytes == PDU_HEADER.size and position == nr_bytes:
            self._expect(received)
        elif position == nr_bytes:
            self._asked = True
            if not self._pace.keeps_up(time.monotonic(), nr_bytes):
                log.warning("message came too slowly", association=self.association_id)
                raise TimeoutError("the message came too slowly")
        return received

    def _shake_hands(self, handshake: Handshake) -> bool:
        try:
            made = handshake.make(str(self._acceptor.requestor.address))
        except OSError:
            self._nobody_there()
            raise
        if not made:
            self._nobody_there()
        return made

    def _nobody_there(self) -> None:
        """Wake the thread that waits for an A-ASSOCIATE-RQ when the peer has gone before one was there to be read.

        pynetdicom would keep both threads of the connection until `acse_timeout`.
        """
        if not self._asked:
            self._acceptor.dul.to_user_queue.put(None)  # as if the time had run out

    def _expect(self, header: bytearray) -> None:
        kind, length = PDU_HEADER.unpack(header)
        limit = self._longest_p_data if kind == P_DATA_TF else max(self._longest_p_data, LONGEST_OTHER_PDU)
        if kind in PDU_TYPES and length > limit:
            log.warning("PDU too long", association=self.association_id, length=length, limit=limit)
            raise OSError(f"PDU of {length} bytes refused, at most {limit}")
        self._body = length

    def _receive(self, primitive: P_DATA) -> None:
        begun = time.monotonic()
        self._take(primitive)
        now = time.monotonic()
        self._pace.held_up(now - begun)
        self._pace.message(now, under_way=self._acceptor.dimse.message is not None)

    def _take(self, primitive: P_DATA) -> None:
        """Take a P-DATA primitive one fragment at a time, to see a command before its data set comes."""
        for value in primitive.presentation_data_value_list:
            try:
                fragment = P_DATA()
                fragment.presentation_data_value_list = [list(value)]  # type: ignore[list-item]  # it checks so
                self._receive_primitive(fragment)
                self._redirect(self._acceptor.dimse.message)
            except Exception:
                log.warning("invalid message", association=self.association_id, exc_info=True)
                self._acceptor.dimse.message = None
                self._acceptor.dul.event_queue.put(INVALID_PDU)
                return

    def _redirect(self, message: DIMSEMessage | None) -> None:
        """Choose where the data set of a message goes whose command is complete."""
        if message is not None and message.encoded_command_set.tell() > LONGEST_COMMAND:
            raise DatasetUnreadable("command set too long")
        if message is None or isinstance(message.data_set, PartFile | Information | _Nowhere):
            return
        if type(message) is DIMSEMessage:
            kept = message.data_set.tell() if message.data_set is not None else 0
            if message.encoded_command_set.tell() + kept > LONGEST_COMMAND:
                raise DatasetUnreadable("command set too long")
            return
        if isinstance(message, N_ACTION_RQ | N_EVENT_REPORT_RQ):
            message.data_set = self.commitment.begin()
            return
        if not isinstance(message, C_STORE_RQ):
            message.data_set = _Nowhere()
            return
        command = message.command_set
        context = self._acceptor._accepted_cx[message.context_id]  # type: ignore[index]  # noqa: SLF001
        with self._lock:
            if self._ended:
                return
            if len(self._parts) >= MOST_UNANSWERED:
                raise DatasetUnreadable("too many requests without waiting for an answer")
            part = PartFile(
                self._spool,
                str(command.AffectedSOPClassUID),
                str(command.AffectedSOPInstanceUID),
                str(context.transfer_syntax[0]),
            )
            self._parts.add(part)
            message.data_set = part


def acknowledge_now(connection: socket.socket) -> None:
    """Acknowledge what was read without the usual delay: a peer with Nagle's algorithm on waits 40 ms for it."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
