"""Whether two files hold the same SOP Instance: by decoded elements and pixel data, not by the bytes of an encoding.

A PACS may send again what it was sent, in another transfer syntax. What may differ then: VRs that Implicit VR leaves
out, lengths and padding, Group Length, the character set of the same text, offset tables, and a lossless compression
(a lossy one makes another instance, PS3.3 C.7.6.1.1.5).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.encaps import generate_fragments, generate_frames
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pydicom.values import convert_SQ

from dicom_node.dicom import decoding, reading
from dicom_node.dicom.codestream import described
from dicom_node.dicom.elements import code, integer, numbers
from dicom_node.dicom.structure import not_read
from dicom_node.errors import OutOfResources
from dicom_node.watch.logs import without_warnings

MOST_BYTES = 256 << 20
"""Of a file that is compared; of larger ones only the same bytes are the same object."""

MOST_PIXELS = 40_000_000
"""Of an image that is decoded to be compared; the largest radiographs have half as many."""

_PIXELS = 0x7FE0
_TRAILING_PADDING = 0xFFFC
_CHARACTER_SET = Tag("SpecificCharacterSet")
_OF_COLOURS = frozenset({Tag("PhotometricInterpretation"), Tag("PlanarConfiguration")})
"""What a lossless compression of colours may change; the colours themselves are compared."""


def same_object(one: Path, other: Path) -> bool:
    """Whether two files in the DICOM File Format hold the same data set, however it is encoded.

    Compressed images of more than one frame are the same only with the same compressed frames; a file that cannot be
    read is the same as none.

    Raises:
        OutOfResources: this host cannot read one of them now.
    """
    try:
        if max(one.stat().st_size, other.stat().st_size) > MOST_BYTES:
            return False
        with without_warnings():
            first, second = reading.read(one), reading.read(other)
            return _same(first, second, pixels=False) and _same_pixels(first, second)
    except OutOfResources:
        raise
    except OSError as error:
        if isinstance(trouble := not_read(error, "the file cannot be read"), OutOfResources):
            raise trouble from error
        return False
    except Exception:  # noqa: BLE001 - files and elements that cannot be decoded: pydicom raises many kinds
        return False


def _same(one: Dataset, other: Dataset, *, pixels: bool = True) -> bool:
    """Whether all elements are the same; those of an item with its pixels, as of an icon, byte for byte."""
    tags = set(_tags(one, pixels=pixels))
    if tags != set(_tags(other, pixels=pixels)):
        return False
    text = one._character_set == other._character_set  # noqa: SLF001 - what pydicom decodes text by; not public
    return all(_same_element(one, other, tag, text=text) for tag in tags)


def _tags(ds: Dataset, *, pixels: bool) -> Iterator[BaseTag]:
    colours = integer(ds, "SamplesPerPixel", 1) > 1
    for tag in ds.keys():  # noqa: SIM118 - a data set iterates over its elements and decodes them
        passed = tag.element == 0 or tag.group == _TRAILING_PADDING or tag == _CHARACTER_SET
        passed = passed or (tag.group == _PIXELS and not pixels)
        if not passed and not (colours and tag in _OF_COLOURS):
            yield tag


def _same_element(one: Dataset, other: Dataset, tag: BaseTag, *, text: bool) -> bool:
    raw = [ds.get_item(tag) for ds in (one, other)]
    if all(isinstance(element, RawDataElement) and element.is_little_endian for element in raw):
        first, second = (element.value or b"" for element in raw)
        if first == second and (text or first.isascii()):
            return True
    decoded = one[tag], other[tag]
    if "SQ" in {element.VR for element in decoded}:
        items = [_items(element) for element in decoded]
        return len(items[0]) == len(items[1]) and all(map(_same, *items))
    return bool(decoded[0].value == decoded[1].value) or all(element.is_empty for element in decoded)


def _items(element: DataElement) -> Sequence[Dataset]:
    """The items of a sequence; of a private one, which Implicit VR leaves unknown, out of its bytes."""
    if element.VR == "SQ":
        return list(element.value or ())
    return list(convert_SQ(element.value or b"", is_implicit_VR=True, is_little_endian=True))


def _same_pixels(one: Dataset, other: Dataset) -> bool:
    if ("PixelData" in one) != ("PixelData" in other):
        return False
    if "PixelData" not in one:
        return all(one.get(name) == other.get(name) for name in ("FloatPixelData", "DoubleFloatPixelData"))
    first, second = (UID(ds.file_meta.TransferSyntaxUID) for ds in (one, other))
    if not first.is_compressed and not second.is_compressed:
        return np.array_equal(_words(one, first), _words(other, second))
    if first == second and _frames(one) == _frames(other):
        return True
    if integer(one, "NumberOfFrames", 1) > 1 or not _small(one, first) or not _small(other, second):
        return False
    return np.array_equal(_decoded(one, first), _decoded(other, second))


def _small(ds: Dataset, syntax: UID) -> bool:
    """Whether an image may be decoded here, beside other associations, and is of the size that its header says."""
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    said = described(next(generate_frames(ds.PixelData, number_of_frames=1)), syntax) if syntax.is_compressed else None
    return rows * columns <= MOST_PIXELS and (said is None or (said.rows, said.columns) == (rows, columns))


def _frames(ds: Dataset) -> bytes:
    """Encapsulated pixel data without items, tables and padding."""
    return b"".join(generate_fragments(ds.PixelData)).rstrip(b"\0")


def _words(ds: Dataset, syntax: UID) -> NDArray[Any]:
    """Pixel data as they lie, in the machine's order of bytes."""
    size = max(1, integer(ds, "BitsAllocated", 8) // 8)
    order = "<" if syntax.is_little_endian else ">"
    data: bytes = ds.PixelData
    count = integer(ds, "Rows", 0) * integer(ds, "Columns", 0) * integer(ds, "SamplesPerPixel", 1)
    whole = count * size * integer(ds, "NumberOfFrames", 1)
    data = data[:whole] if len(data) == whole + whole % 2 else data  # the padding to an even length
    return np.frombuffer(data[: len(data) // size * size], f"{order}u{size}")


def _decoded(ds: Dataset, syntax: UID) -> NDArray[np.generic]:
    options = {
        "rows": integer(ds, "Rows", 0),
        "columns": integer(ds, "Columns", 0),
        "samples_per_pixel": integer(ds, "SamplesPerPixel", 1),
        "photometric_interpretation": code(ds, "PhotometricInterpretation"),
        "bits_allocated": integer(ds, "BitsAllocated", 0),
        "bits_stored": integer(ds, "BitsStored", 0),
        "pixel_representation": integer(ds, "PixelRepresentation", 0),
        "planar_configuration": int((*numbers(ds, "PlanarConfiguration"), 0)[0]),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": ds["PixelData"].VR,
    }
    return decoding.decoded(ds.PixelData, syntax, options)  # one without compression too: here are no decoders
