"""How a data set is built, looked at before any library makes objects of it: its nesting, its elements, their sizes.

A few kilobytes may hold thousands of sequences inside each other, a few megabytes a million elements; whoever reads
them needs stack and memory for each. Only the heads of elements are looked at here, in one pass without recursion, and
what makes no sense ends the look: whether the data set can be read is for the reader to say.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from pydicom.datadict import dictionary_VR
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from dicom_node.dicom.reading import MOST_LOOKED_AT, data_set_of
from dicom_node.errors import DatasetUnreadable

MOST_NESTED = 64
"""Sequences inside each other; reports of measurements have about ten."""
MOST_ELEMENTS = 1_000_000
"""Elements and items, of all levels, before the pixels; of a radiograph some hundreds."""
MOST_BYTES = 64 << 20
"""Of one private element, or of one that holds no bulk data."""

_ITEM, _SEQUENCE_END = 0xE000, 0xE0DD
_DELIMITERS, _PIXELS = 0xFFFE, 0x7FE0
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "UN"})


def check_structure(path: Path) -> None:
    """Refuse a data set that is nested too deep, or has too many or too large elements.

    Args:
        path: a file in the DICOM File Format; of a deflated data set the first megabytes are looked at.

    Raises:
        DatasetUnreadable: it is so, or there is no data set.
    """
    with data_set_of(path, MOST_LOOKED_AT) as (data, syntax):
        _Look(data, syntax).through()


class _Look:
    """One pass over the heads of a data set's elements."""

    def __init__(self, data: bytes | memoryview, syntax: UID) -> None:
        known = not syntax.is_private and syntax.is_transfer_syntax
        self._data = data
        self._order = "<" if not known or syntax.is_little_endian else ">"
        self._implicit = bool(known and syntax.is_implicit_VR)
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
            elif group >= _PIXELS and not self._open:
                return
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
        if length == _UNDEFINED and vr in {"OB", "OW"}:
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
        return place


def _vr_of(tag: BaseTag, unknown: str) -> str:
    """The VR of the dictionary; `unknown` where it has none, or the tag is private."""
    try:
        return unknown if tag.is_private else dictionary_VR(tag)
    except KeyError:
        return unknown
