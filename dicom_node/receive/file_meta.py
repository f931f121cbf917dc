"""File meta information that a peer left inside a data set is dropped: what was negotiated decides (PS3.5 7.1).

Elements of group 0002 belong to files alone. Some senders write them in front of the data set; a reader that took them
for the file's own would decode the rest in the transfer syntax that they name.
"""

import struct
from typing import TYPE_CHECKING

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GROUP = 0x0002
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length takes four bytes, after two that are reserved (PS3.5 7.1.2)."""
_MOST = 64 << 10
"""Bytes of group 0002 that are looked through; what is longer is passed on as it came."""


class FileMetaFilter:
    """Passes the bytes of a data set on, without what comes first of group 0002.

    Args:
        transfer_syntax: that was negotiated, in which the data set is encoded.
    """

    def __init__(self, transfer_syntax: str) -> None:
        syntax = UID(transfer_syntax)
        deflated = syntax == DeflatedExplicitVRLittleEndian  # nothing can be seen in what is compressed
        known = not syntax.is_private and syntax.is_transfer_syntax
        self._explicit = not (known and syntax.is_implicit_VR)
        self._order = "<" if not known or syntax.is_little_endian else ">"
        self._waiting: bytes | None = None if deflated else b""
        self.dropped = 0

    def pass_on(self, part: "ReadableBuffer") -> "ReadableBuffer":
        """What of the next bytes belongs to the data set; nothing while that cannot be told yet."""
        if self._waiting is None:
            return part
        self._waiting += bytes(part)
        while (length := self._first_length(self._waiting)) is not None:
            if length == 0 or self.dropped + length > _MOST:
                return self.rest()
            if len(self._waiting) < length:
                return b""
            self._waiting = self._waiting[length:]
            self.dropped += length
        return b""

    def rest(self) -> bytes:
        """What is still held back when no more bytes come."""
        held, self._waiting = self._waiting or b"", None
        return held

    def _first_length(self, data: bytes) -> int | None:
        """Bytes of the first element where it is of group 0002, else 0; None where that cannot be told yet."""
        if len(data) < 2 or (len(data) < 8 and self._of_group(data)):  # noqa: PLR2004 - a group, an element's head
            return None
        if not self._of_group(data):
            return 0
        if not self._explicit:
            return 8 + int(struct.unpack_from(f"{self._order}L", data, 4)[0])
        if data[4:6] not in _LONG:
            return 8 + int(struct.unpack_from(f"{self._order}H", data, 6)[0])
        return 12 + int(struct.unpack_from(f"{self._order}L", data, 8)[0]) if len(data) >= 12 else None  # noqa: PLR2004

    def _of_group(self, data: bytes) -> bool:
        return bool(struct.unpack_from(f"{self._order}H", data)[0] == _GROUP)
