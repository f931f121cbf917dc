"""What a compressed image says of itself, read from its first bytes, before a decoder is given any of it.

A decoder makes room for what the codestream says, not for what the header says: 2.7 kB of JPEG may describe 50,000 x
50,000 pixels. Sources: ITU-T T.81 B.2.2 (SOFn) and T.87 C.2.2 (SOF55); T.800 A.5.1 (SIZ), also of T.814 (HTJ2K).
"""

import struct
from dataclasses import dataclass

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

JPEG = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes])
JPEG_2000 = frozenset(JPEG2000TransferSyntaxes)
"""With HTJ2K."""

_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a segment: TEM, RSTn, SOI."""
_SOS, _EOI = 0xDA, 0xD9
_FRAME = struct.Struct(">BHHB")
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SIZ = struct.Struct(">HHLLLL16xHBBB")
_MOST_LOOKED_AT = 1 << 20
"""Bytes of a JPEG in which its frame begins, after profiles and comments."""
_MOST_BEFORE = 1 << 16
"""Bytes before the codestream of a file in the JP2 format, which some senders put in whole."""


@dataclass(frozen=True, slots=True)
class Codestream:
    """An image as its codestream describes it.

    Attributes:
        rows, columns: size in pixels.
        bits: precision of a sample.
        components: samples of a pixel.
        signed: whether samples are signed; None where the format has no word for it.
    """

    rows: int
    columns: int
    bits: int
    components: int
    signed: bool | None = None


def described(frame: bytes, syntax: UID) -> Codestream | None:
    """What a frame's codestream says.

    Args:
        frame: one frame, its fragments put together.
        syntax: the transfer syntax.

    Returns:
        None of a transfer syntax whose frames say nothing (RLE Lossless).

    Raises:
        ValueError: the frame has no such header.
    """
    if syntax in JPEG:
        return _jpeg(frame)
    if syntax in JPEG_2000:
        return _jpeg_2000(frame)
    return None


def _jpeg(frame: bytes) -> Codestream:
    frame, place = frame[:_MOST_LOOKED_AT], 2
    if frame[:place] != b"\xff\xd8":
        raise ValueError("no start of image")
    while place + 4 <= len(frame):
        if frame[place] != 0xFF:  # noqa: PLR2004 - every marker begins so
            break
        kind = frame[place + 1]
        if kind == 0xFF or kind in _ALONE:  # noqa: PLR2004 - fill bytes may stand before a marker
            place += 1 if kind == 0xFF else 2  # noqa: PLR2004
            continue
        if kind in {_SOS, _EOI}:
            break
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if kind in _SOF:
            if place + 4 + _FRAME.size > len(frame):
                break
            bits, rows, columns, components = _FRAME.unpack_from(frame, place + 4)
            return Codestream(rows, columns, bits, components)
        place += 2 + max(length, 2)
    raise ValueError("no start of frame")


def _jpeg_2000(frame: bytes) -> Codestream:
    place = frame.find(_SOC_SIZ, 0, _MOST_BEFORE)
    if place < 0 or place + 4 + _SIZ.size > len(frame):
        raise ValueError("no image and tile size")
    _, _, right, bottom, left, top, components, precision, across, down = _SIZ.unpack_from(frame, place + 4)
    if not (left < right and top < bottom and across and down):
        raise ValueError("an image without pixels")
    rows = -(-bottom // down) - -(-top // down)
    columns = -(-right // across) - -(-left // across)
    return Codestream(rows, columns, (precision & 0x7F) + 1, components, signed=bool(precision & 0x80))
