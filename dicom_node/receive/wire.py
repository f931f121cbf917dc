"""The bytes of one connection, a PDU at a time: no more than was negotiated, and none later than its deadline.

pynetdicom reads a PDU of any length into memory and waits without end for the rest of one. A `Wire` takes the place of
`AssociationSocket.recv`: it makes the handshake of TLS, refuses a PDU that is too long, gives each whole PDU one
deadline, and puts a floor under the pace of each message.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable

import structlog

from dicom_node.receive.pace import Pace
from dicom_node.receive.secure import Handshake

log = structlog.get_logger(__name__)

PDU_HEADER = struct.Struct(">BxL")  # PS3.8 9.3.1
P_DATA_TF = 0x04
PDU_TYPES = range(0x01, 0x08)
PDU_SLACK = 1024
"""Bytes more than the negotiated length that are forgiven: some peers leave PDV headers out of their sum."""
LONGEST_OTHER_PDU = 262_144
"""Bytes of an A-ASSOCIATE: 128 presentation contexts with all transfer syntaxes take about half of it."""


class Wire:
    """What a peer sends over one connection.

    Args:
        connection: the socket.
        association_id: ours, for the log.
        peer: its address, for the log.
        max_pdu: longest P-DATA-TF that was negotiated, in bytes.
        deadline: seconds for one PDU from its first byte to its last.
        handshake: seconds for the handshake of a TLS connection, from now on.
        pace: how slow the peer may be while it sends a message.
        nobody: called when the peer has gone before it has sent a whole PDU.

    Attributes:
        longest: bytes of the longest P-DATA-TF that is taken, its first six left out.
    """

    def __init__(
        self,
        connection: socket.socket,
        association_id: str,
        *,
        peer: str,
        max_pdu: int,
        deadline: float,
        handshake: float,
        pace: Pace,
        nobody: Callable[[], None],
    ) -> None:
        self.longest = max_pdu + PDU_SLACK
        self._connection = connection
        self._id = association_id
        self._peer = peer
        self._seconds = deadline
        self._deadline = 0.0
        self._pace = pace
        self._nobody = nobody
        self._handshake = Handshake(connection, handshake) if isinstance(connection, ssl.SSLSocket) else None
        self._body: int | None = None
        self._again = bytearray()
        self._asked = False

    @property
    def secured(self) -> dict[str, str]:
        """How the connection is secured, for the log; empty without TLS."""
        return (self._handshake.made if self._handshake is not None else None) or {}

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """The 6 bytes that begin a PDU, or the rest of it; fewer where the peer has closed. What was put back is first.

        Raises:
            OSError: the PDU is too long, or there is no TLS connection; pynetdicom closes the connection.
            TimeoutError: the deadline passed, or the peer is too slow.
        """
        if self._again:
            taken, self._again = self._again[:nr_bytes], self._again[nr_bytes:]
            return taken
        received = bytearray(nr_bytes)
        with memoryview(received) as view:
            count = self.recv_into(view)
        del received[count:]
        return received

    def recv_into(self, view: memoryview) -> int:
        """The same without a copy, for whoever has put nothing back; returns how many bytes came."""
        if not view:  # a PDU without a body
            self._body = None
            return 0
        if self._handshake is not None and self._handshake.made is None and not self._shake_hands(self._handshake):
            return 0
        begins, self._body = self._body is None, None
        if begins:
            self._deadline = time.monotonic() + self._seconds
        count = self._fill(view)
        if count == len(view):
            self._expect(view) if begins else self._count(count)
        return count

    def put_back(self, *read: "bytearray | memoryview") -> None:
        """Let bytes that were read come once more: a whole header at least, and of a body all that has come."""
        self._again = bytearray().join(read)

    def more_comes(self, seconds: float) -> bool:
        """Whether there is something to read, now or within so many seconds; not where the connection is closed."""
        connection, looked_at = self._connection, select.poll()
        try:
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                return True
            looked_at.register(connection, select.POLLIN)
        except ValueError:  # another thread has closed it
            return False
        return bool(looked_at.poll(1000 * seconds))

    def _fill(self, view: memoryview) -> int:
        connection, position = self._connection, 0
        while position < len(view):
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                log.warning("PDU took too long", association=self._id, seconds=self._seconds)
                raise TimeoutError("the PDU took too long")
            connection.settimeout(remaining)
            count = connection.recv_into(view[position:])
            if count == 0:
                self._nobody_there()
                break
            position += count
            acknowledge_now(connection)
        connection.settimeout(self._seconds)
        return position

    def _shake_hands(self, handshake: Handshake) -> bool:
        try:
            made = handshake.make(self._peer)
        except OSError:
            self._nobody_there()
            raise
        if not made:
            self._nobody_there()
        return made

    def _nobody_there(self) -> None:
        if not self._asked:
            self._nobody()

    def _expect(self, header: memoryview) -> None:
        kind, length = PDU_HEADER.unpack(header)
        if kind not in PDU_TYPES:  # pynetdicom reads nothing more of it
            return
        limit = self.longest if kind == P_DATA_TF else max(self.longest, LONGEST_OTHER_PDU)
        if length > limit:
            log.warning("PDU too long", association=self._id, length=length, limit=limit)
            raise OSError(f"PDU of {length} bytes refused, at most {limit}")
        self._body = length

    def _count(self, size: int) -> None:
        self._asked = True
        if not self._pace.keeps_up(time.monotonic(), size):
            log.warning("message came too slowly", association=self._id)
            raise TimeoutError("the message came too slowly")


def acknowledge_now(connection: socket.socket) -> None:
    """Acknowledge what was read without the usual delay: a peer with Nagle's algorithm on waits 40 ms for it."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
