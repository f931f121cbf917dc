"""How a data set is built, looked at before any library makes objects of it: its nesting, its elements, their sizes.

A few kilobytes may hold thousands of sequences inside each other, a few megabytes a million elements; whoever reads
them needs stack and memory for each. Only the heads of elements are looked at here, in one pass without recursion, and
what makes no sense ends the look: whether the data set can be read is for the reader to say.
"""

import contextlib
import errno
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources

MOST_NESTED = 64
"""Sequences inside each other; reports of measurements have about ten."""
MOST_ELEMENTS = 1_000_000
"""Elements and items, of all levels; of a radiograph some hundreds."""
MOST_BYTES = 64 << 20
"""Of one private element, or of one that holds no bulk data."""

MOST_LOOKED_AT = 8 << 20
"""Bytes of a deflated data set that are inflated to look at its header."""

_NOT_OF_THE_FILE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
        errno.EHOSTDOWN, errno.ENOTCONN,
    }
)  # fmt: skip
"""What this host cannot do now, or a share that is away: another day the same file may be read."""

_META_GROUP_LENGTH_END = 144  # preamble, "DICM", and the element (0002,0000) itself (PS3.10 7.1)
_ITEM, _SEQUENCE_END = 0xE000, 0xE0DD
_DELIMITERS = 0xFFFE
_PIXEL_DATA = Tag("PixelData")
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "UN"})


def check_structure(path: Path, most: int = MOST_LOOKED_AT) -> None:
    """Refuse a data set that is nested too deep, or has too many or too large elements.

    Args:
        path: a file in the DICOM File Format.
        most: bytes of a deflated data set that are looked at; of others all.

    Raises:
        DatasetUnreadable: it is so, or there is no data set.
    """
    with data_set_of(path, most) as (data, syntax):
        _Look(data, syntax).through()


@contextlib.contextmanager
def data_set_of(path: Path, most: int) -> Iterator[tuple[bytes | memoryview, UID]]:
    """The bytes of a file's data set as it is encoded, and its transfer syntax; nothing of it is read at once.

    Args:
        path: a file in the DICOM File Format.
        most: bytes to which a deflated data set is inflated.

    Raises:
        DatasetUnreadable: there is no file meta information, or no data set.
        OutOfResources: this host cannot read it now.
    """
    with contextlib.ExitStack() as held:
        try:
            meta = read_file_meta_info(path)
            syntax = UID(str(meta.get("TransferSyntaxUID", "")))
            if syntax == DeflatedExplicitVRLittleEndian:
                data: bytes | memoryview = inflated(path, meta, most)
            else:
                file = held.enter_context(path.open("rb"))
                whole = held.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                data = held.enter_context(memoryview(whole)[start_of(meta) :])
        except Exception as error:
            raise not_read(error, "Data set cannot be read") from error
        yield data, syntax


def not_read(error: Exception, text: str) -> NodeError:
    """What it means that a file was not read: it is no data set, which `text` says, or this host cannot read it now."""
    if isinstance(error, OSError) and error.errno is not None and of_this_host(error):
        return OutOfResources(f"a file cannot be read now: {os.strerror(error.errno)}")
    return DatasetUnreadable(text)


def of_this_host(error: Exception) -> bool:
    """Whether an error is what this host, or a share, cannot do now, and says nothing of the file."""
    return isinstance(error, OSError) and error.errno in _NOT_OF_THE_FILE


def start_of(meta: FileMetaDataset) -> int:
    """Where in a file its data set begins."""
    return _META_GROUP_LENGTH_END + int(meta.FileMetaInformationGroupLength)


def inflated(path: Path, meta: FileMetaDataset, most: int) -> bytes:
    """The first bytes of a deflated data set, at most `most`."""
    with path.open("rb") as file:
        file.seek(start_of(meta))
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(most), most)


class _Look:
    """One pass over the heads of a data set's elements."""

    def __init__(self, data: bytes | memoryview, syntax: UID) -> None:
        known = not syntax.is_private and syntax.is_transfer_syntax
        self._data = data
        self._order = "<" if not known or syntax.is_little_endian else ">"
        stated = bytes(data[4:6])  # some senders write the other encoding than they name: read as pydicom reads it
        self._implicit = not (len(stated) == 2 and stated.isalpha() and stated.isupper())  # noqa: PLR2004
        self._fragments = 0
        self._open: list[tuple[int | None, bool]] = []
        """Of each open sequence: where it ends, None until its delimiter, and whether it is in Implicit VR."""

    def through(self) -> None:
        for number, _ in enumerate(self._heads()):
            if number >= MOST_ELEMENTS:
                raise DatasetUnreadable(f"Data set has more than {MOST_ELEMENTS} elements")

    def _heads(self) -> Iterator[int]:
        """The places of elements and items, one after the other."""
        place, size = 0, len(self._data)
        while place + 8 <= size:
            while self._open and self._open[-1][0] is not None and place >= self._open[-1][0]:
                self._open.pop()
            group, element, length = struct.unpack_from(f"{self._order}HHL", self._data, place)
            yield place
            if group == _DELIMITERS:
                if element == _SEQUENCE_END and self._open:
                    self._open.pop()
                place += 8
            else:
                place = self._after(place, Tag(group, element), length)

    def _after(self, place: int, tag: BaseTag, length: int) -> int:
        """Where the next head lies: after an element's value, or in it where that is a sequence."""
        implicit = self._open[-1][1] if self._open else self._implicit
        vr, head = "", 8
        if not implicit:
            stated = bytes(self._data[place + 4 : place + 6])
            vr = stated.decode("ascii", "replace")
            if stated in _LONG:
                head = 12
                if place + head > len(self._data):
                    return len(self._data)
                (length,) = struct.unpack_from(f"{self._order}L", self._data, place + 8)
            else:
                (length,) = struct.unpack_from(f"{self._order}H", self._data, place + 6)
        begin = place + head
        if length == _UNDEFINED and (vr in {"OB", "OW"} or tag == _PIXEL_DATA):
            return self._after_fragments(begin)
        if vr == "SQ" or length == _UNDEFINED or (vr in {"", "UN"} and length and self._begins_item(begin, tag)):
            self._open.append((None if length == _UNDEFINED else begin + length, implicit or vr == "UN"))
            if len(self._open) > MOST_NESTED:
                raise DatasetUnreadable(f"Data set has more than {MOST_NESTED} sequences inside each other")
            return begin
        if (
            length > MOST_BYTES
            and begin + length <= len(self._data)
            and (tag.is_private or _vr_of(tag, vr) not in _BULK)
        ):
            raise DatasetUnreadable(f"Data set has an element of {length >> 20} MB that is no bulk data")
        return begin + length

    def _begins_item(self, place: int, tag: BaseTag) -> bool:
        """Whether the value of an element without a VR is a sequence of items; by the dictionary where that knows."""
        if _vr_of(tag, "SQ") != "SQ" or place + 4 > len(self._data):
            return False
        return bool(struct.unpack_from(f"{self._order}HH", self._data, place) == (_DELIMITERS, _ITEM))

    def _after_fragments(self, place: int) -> int:
        """Where the fragments of encapsulated pixel data end, as of an icon."""
        while place + 8 <= len(self._data):
            group, element, length = struct.unpack_from(f"{self._order}HHL", self._data, place)
            place += 8
            if (group, element) != (_DELIMITERS, _ITEM):
                break
            place += length
            self._fragments += 1
            if self._fragments > MOST_ELEMENTS:
                raise DatasetUnreadable(f"Data set has more than {MOST_ELEMENTS} fragments")
        return place


def _vr_of(tag: BaseTag, unknown: str) -> str:
    """The VR of the dictionary; `unknown` where it has none, or the tag is private."""
    try:
        return unknown if tag.is_private else dictionary_VR(tag)
    except KeyError:
        return unknown
