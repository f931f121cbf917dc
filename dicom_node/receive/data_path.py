"""The data of an object on their short way, from the socket into its file: PDUs that hold nothing else.

pynetdicom copies a P-DATA-TF eight times and takes it through two queues and its state machine. What comes of it is
known beforehand: of an established association it is the data of the message under way, and nothing else changes
(PS3.8 table 9-10: Evt10 in Sta6 is DT-2, and Sta6 again). `DataPath` does that at once, PDU after PDU while they come.

It takes a PDU only where nothing else may come of it: the association is established, no event and no primitive waits,
the command of a C-STORE is complete, and the PDU is made of fragments of its data set, in its presentation context,
none of them the last. Every other PDU is put back for pynetdicom to read, whole; so is one that breaks a rule.
"""

import struct
from collections.abc import Callable, Sequence

from pynetdicom.association import Association as Acceptor

from dicom_node.receive.part_file import PartFile
from dicom_node.receive.wire import P_DATA_TF, PDU_HEADER, Wire

ESTABLISHED = "Sta6"  # PS3.8 table 9-10
CONNECTION_CLOSED = "Evt17"
WAIT_SECONDS = 0.005
"""For the next PDU of an object, before pynetdicom's loop looks at whatever else there is to do."""

_ITEM = struct.Struct(">LBB")
"""Length of a presentation data value item, its context, and the message control header (PS3.8 9.3.5.1, E.2)."""
_LENGTH_BYTES = 4
_COMMAND, _LAST = 0x01, 0x02


class DataPath:
    """Reads the PDUs of one association.

    Args:
        acceptor: pynetdicom's side of the association.
        wire: where PDUs come from.
        write: puts fragments into a part; False when the association is over with that.
    """

    def __init__(self, acceptor: Acceptor, wire: Wire, write: Callable[[PartFile, Sequence[memoryview]], bool]) -> None:
        self._acceptor = acceptor
        self._wire = wire
        self._write = write
        self._header, self._room = memoryview(bytearray(PDU_HEADER.size)), memoryview(bytearray(wire.longest))
        self._read_one = acceptor.dul._read_pdu_data  # noqa: SLF001 - `read` takes its place

    def read(self) -> None:
        """Read data of an object into its file as long as they come, or one other PDU as pynetdicom does."""
        under_way = self._object()
        if under_way is None:
            self._read_one()
        while under_way is not None:
            try:
                fragments = self._fragments(under_way[1])
            except OSError:  # `Wire` has said why
                self._acceptor.dul.event_queue.put(CONNECTION_CLOSED)
                return
            if fragments is None:
                self._read_one()
                return
            if not self._write(under_way[0], fragments) or not self._wire.more_comes(WAIT_SECONDS):
                return
            under_way = self._object()

    def _object(self) -> tuple[PartFile, int] | None:
        """Part and context of the object under way, where there is nothing else to do."""
        dul, message = self._acceptor.dul, self._acceptor.dimse.message
        if message is None or not isinstance(message.data_set, PartFile) or message.context_id is None:
            return None
        idle = dul.event_queue.empty() and dul.to_provider_queue.empty()
        if not idle or dul.state_machine.current_state != ESTABLISHED:
            return None
        return message.data_set, message.context_id

    def _fragments(self, context: int) -> list[memoryview] | None:
        """Read a PDU; None where it is not what this way is for, and was put back.

        Raises:
            OSError: there is no whole PDU.
        """
        self._read_into(self._header)
        kind, length = PDU_HEADER.unpack(self._header)
        if kind != P_DATA_TF:
            self._wire.put_back(self._header)
            return None
        body = self._room[:length]
        self._read_into(body)
        fragments = data_of(body, context)
        if fragments is None:
            self._wire.put_back(self._header, body)
        return fragments

    def _read_into(self, view: memoryview) -> None:
        if self._wire.recv_into(view) < len(view):
            raise ConnectionAbortedError("the peer has closed within a PDU")


def data_of(body: memoryview, context: int) -> list[memoryview] | None:
    """The fragments in the body of a P-DATA-TF that holds only such of one data set that goes on after it.

    Args:
        body: what follows the first six bytes of the PDU.
        context: identifier of the presentation context.

    Returns:
        None where there is anything else in it: a command, a last fragment, another context, a length that is wrong.
    """
    found, place = list[memoryview](), 0
    while place < len(body):
        if len(body) - place < _ITEM.size:
            return None
        length, identifier, control = _ITEM.unpack_from(body, place)
        start, end = place + _ITEM.size, place + _LENGTH_BYTES + length
        if not start <= end <= len(body) or identifier != context or control & (_COMMAND | _LAST):
            return None
        found.append(body[start:end])
        place = end
    return found or None
