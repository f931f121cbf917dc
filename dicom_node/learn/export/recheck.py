"""The re-check of an export: nothing that the sources' headers say is in it. Independent of the anonymiser.

Every text of every source's header is looked for, at any depth and in private elements too: names, identifiers,
dates, UIDs, institutions, descriptions, whole and in parts. Not by a list of attributes: what an export may contain is
so little that nothing of a header has business there.

    tables, manifest, names of files   must be ASCII. Parts of a value of 3 characters or more (digits alone: 5): as
                                       words, and those of 6 or more that are not hexadecimal also within words.
                                       Words of the export's own fixed text are no find.
    PNG                                header, pixels and end and no other chunk, nothing behind the end; values of 8
                                       bytes or more in all of the file, as they stand in the source and as UTF-8
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from dicom_node.dicom.reading import read_header
from dicom_node.errors import NodeError
from dicom_node.watch.logs import without_warnings

TEXTS = frozenset({"AE", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UN", "UR", "UT"})

_STANDARD_UID = "1.2.840.10008."  # SOP Classes, transfer syntaxes, ...: they name no patient
_LETTERS, _DIGITS, _WITHIN, _BYTES = 3, 5, 6, 8
_LONGEST_UNKNOWN = 1024
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_PARTS = re.compile(r"[\s,;\"'^=\\/()<>]+")
_WORDS = re.compile(r"[0-9a-z]+")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_OWN_NAMES = re.compile(r"(?<![0-9a-z])(?:[psi][0-9a-f]{20}|[0-9a-f]{64})(?![0-9a-z])")
_OWN_FACTS = re.compile(r'"(?:images|patients|studies|boxes|created_at)": (?:\d+|"[^"]*")')
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ENDS = [b"IHDR", b"IEND"]


class IdentifierFound(NodeError):
    """Something of a source is in the export; the message names the place and the attribute, never the value."""


@dataclass(frozen=True, slots=True)
class Texts:
    """All text of an export.

    Attributes:
        words: every run of letters and digits, in lower case.
        others: what is no pseudonym, digest or number, each once, in lower case.
    """

    words: frozenset[str]
    others: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Take `texts` apart."""
        words: set[str] = set()
        others: set[str] = set()
        for text in texts:
            low = text.casefold()
            words.update(_WORDS.findall(low))
            pieces = (_OWN_NAMES.sub("#", piece) for piece in _PARTS.split(low))
            others.update(piece for piece in pieces if not _NUMBER.fullmatch(piece))
        return cls(frozenset(words), "\n".join(sorted(others)))

    def has(self, part: str) -> bool:
        """Whether a part of a value, in lower case, is in it."""
        if len(part) >= _WITHIN and not _HEXADECIMAL.fullmatch(part):
            return part in self.others or part in self.words
        return part in self.words


def check(folder: Path, sources: Iterable[tuple[str, Path]], fixed: str) -> None:
    """Look for everything that the sources say of themselves in the files of an export.

    Args:
        folder: the export.
        sources: each exported image, as its name in the export and the file that was received.
        fixed: the text of an export of nothing: what is in it tells nothing of any source.

    Raises:
        IdentifierFound: there is something, or a file holds what no export holds.
    """
    texts, own = Texts.of(_texts(folder)), Texts.of([fixed])
    for name, source in sources:
        data = (folder / name).read_bytes()
        _check_picture(name, data)
        with without_warnings():
            found = list(_elements(read_header(source)))
        for element in found:
            if any(texts.has(part) and not own.has(part) for part in element.parts()):
                raise IdentifierFound(
                    f"a value of {element.keyword} of a source is in a table or in the name of a file"
                )
            if any(needle in data for needle in element.needles()):
                raise IdentifierFound(f"a value of {element.keyword} of its source is in {name}")


@dataclass(frozen=True, slots=True)
class _Element:
    """One element that holds text: its values without outer blanks, and its bytes where it was not decoded before."""

    keyword: str
    values: tuple[str, ...]
    raw: bytes

    def parts(self) -> set[str]:
        """What is long enough to be looked for in text, in lower case; what is not ASCII cannot be in a table."""
        pieces: set[str] = set()
        for value in self.values:
            low = value.casefold()
            pieces.update(_PARTS.split(low), _WORDS.findall(low))
            if date := _DATE.fullmatch(low):
                pieces.add("-".join(date.groups()))
        return {one for one in pieces if one.isascii() and len(one) >= (_DIGITS if one.isdigit() else _LETTERS)}

    def needles(self) -> set[bytes]:
        """What is too long to be met by chance in compressed pixels, as it stands in the source and as UTF-8."""
        wholes = {part.strip() for value in self.values for part in value.encode(errors="replace").split(b"=")}
        return {one for one in (wholes | {self.raw.strip(b"\0 ")}) if len(one) >= _BYTES}


def _elements(ds: Dataset) -> Iterator[_Element]:
    """Every element with text, at any depth, without UIDs of the standard."""
    for tag in list(ds.keys()):
        item = ds.get_item(tag)
        raw = item.value if isinstance(item, RawDataElement) and isinstance(item.value, bytes) else b""
        try:
            element = ds[tag]
            keyword, vr, value = element.keyword or str(tag), element.VR, element.value
        except Exception:  # noqa: BLE001 - bytes that are no value of their VR: pydicom raises many kinds
            keyword, vr, value = str(tag), "UN", raw
        if vr == "SQ":
            for part in value:
                yield from _elements(part)
        elif vr in TEXTS:
            texts = tuple(text for text in _texts_of(value) if text and not text.startswith(_STANDARD_UID))
            if texts:
                yield _Element(keyword, texts, raw)


def _texts_of(value: Any) -> list[str]:
    if isinstance(value, bytes):  # of an unknown VR
        text = value.decode("latin-1").strip("\0 ") if len(value) <= _LONGEST_UNKNOWN else ""
        return [text] if text.isprintable() else []
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return ["" if one is None else str(one).strip("\0 ") for one in several]


def _texts(folder: Path) -> Iterator[str]:
    """Names of all files, and the content of all that are no pictures.

    Raises:
        IdentifierFound: one holds anything but ASCII.
    """
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix != ".png":
            data = path.read_bytes()
            if not data.isascii():
                raise IdentifierFound(f"{path.name} holds letters that no export writes")
            yield _OWN_FACTS.sub("", data.decode("ascii"))


def _check_picture(name: str, data: bytes) -> None:
    """Only pixels: no text, time or other chunk, no bytes between, behind or inside that are none."""
    position, packed = len(_SIGNATURE), []
    kinds = []
    while data.startswith(_SIGNATURE) and position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        kinds.append(data[position + 4 : position + 8])
        packed.append(data[position + 8 : position + 8 + length] if kinds[-1] == b"IDAT" else b"")
        position += 12 + length
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(packed))
    except zlib.error:
        rows = b""
    columns, lines = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    in_order = kinds[:1] + kinds[-1:] == _ENDS and set(kinds[1:-1]) == {b"IDAT"}
    plain = in_order and position == len(data) and not inflater.unused_data
    if not plain or len(rows) != lines * (1 + 2 * columns):
        raise IdentifierFound(f"{name} holds more than 16-bit pixels")
