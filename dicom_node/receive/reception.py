"""The incoming side of one association: limits on what a peer may send, while objects are written to disk as they come.

pynetdicom reads a PDU of any length into memory, waits without end for the rest of one, and collects a data set
in memory or, by switches that hold for the whole process, in a temporary file. `Reception.guard` replaces, for
one association, the four functions through which bytes come in:

    AssociationSocket.recv                   makes the handshake of TLS, limits lengths and times (`wire`)
    DULServiceProvider._read_pdu_data        writes the data of an object into its file at once (`data_path`)
    DULServiceProvider._decode_pdu           is given an A-ASSOCIATE-RQ that it can read (`association_request`)
    DIMSEServiceProvider.receive_primitive   hands the data set of a C-STORE to a PartFile, of Storage Commitment to a
                                             buffer with a limit, of any other message to nobody; what is no message
                                             ends the association as an invalid PDU does (PS3.8 9.2, Evt19)
"""

import threading
import time
import uuid
from collections.abc import Sequence
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
from dicom_node.receive.data_path import DataPath
from dicom_node.receive.pace import Pace
from dicom_node.receive.part_file import PartFile
from dicom_node.receive.same_association import SameAssociation
from dicom_node.receive.wire import Wire
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
ABORT = 0x07
_ABORT_REASON = slice(8, 10)
"""Source and reason of an A-ABORT (PS3.8 9.3.8); nobody asks for them."""
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
        self._max_pdu = max_pdu
        self._deadline = deadline
        self._handshake = handshake
        self._pace = pace
        self._wire: Wire | None = None
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
        return self._wire.secured if self._wire is not None else {}

    def guard(self) -> None:
        """Put the limits in place; before the association's threads start."""
        wrapper = self._acceptor.dul.socket
        if wrapper is not None and wrapper.socket is not None:
            self._wire = Wire(
                wrapper.socket,
                self.association_id,
                peer=str(self._acceptor.requestor.address),
                max_pdu=self._max_pdu,
                deadline=self._deadline,
                handshake=self._handshake,
                pace=self._pace,
                nobody=self._nobody_there,
            )
            wrapper.recv = self._wire.recv  # type: ignore[method-assign]
            path = DataPath(self._acceptor, self._wire, self._write)
            self._acceptor.dul._read_pdu_data = path.read  # type: ignore[method-assign]  # noqa: SLF001
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
        if self._wire is not None:
            self._wire.close()

    def end(self) -> None:
        """Remove the parts that nobody has claimed; a transfer that breaks off leaves nothing behind."""
        self.commitment.end()
        with self._lock:
            self._ended = True
            while self._parts:
                self._parts.pop().discard()

    def _nobody_there(self) -> None:
        """Wake the thread that waits for an A-ASSOCIATE-RQ when the peer has gone before one was there to be read.

        pynetdicom would keep both threads of the connection until `acse_timeout`.
        """
        self._acceptor.dul.to_user_queue.put(None)  # as if the time had run out

    def _write(self, part: PartFile, fragments: Sequence[memoryview]) -> bool:
        """Write data of an object; False when the association is over with that."""
        begun = time.monotonic()
        try:
            for fragment in fragments:
                part.write(fragment)
        except Exception as error:  # noqa: BLE001 - as in `_take`
            self._refuse(error)
            return False
        self._pace.held_up(time.monotonic() - begun)
        return True

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
            except Exception as error:  # noqa: BLE001 - pynetdicom raises whatever it likes
                self._refuse(error)
                return

    def _refuse(self, error: Exception) -> None:
        """End the association for what has been raised."""
        log.warning("invalid message", association=self.association_id, exc_info=error)
        self._acceptor.dimse.message = None
        self._acceptor.dul.event_queue.put(INVALID_PDU)

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
