"""What the Image Pixel Module (PS3.3 C.7.6.3) says of an image, with what is usual where it says nothing.

An element that is missing is taken as usual only where the length of the pixel data, or the codestream, allows no
other reading.
"""

import math
from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.dicom.codestream import Codestream
from dicom_node.dicom.elements import code, integer, numbers
from dicom_node.errors import DatasetUnreadable, Reason

USUAL = {
    "SamplesPerPixel": "1",
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": "the size of a pixel",
    "BitsStored": "all bits of a pixel",
    "HighBit": "the highest of them",
    "PixelRepresentation": "unsigned",
}
"""By the element: what is taken where it is missing, in words."""

_BYTE, _WORD = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePixel:
    """How the values of a single-frame image of one sample lie in its pixel data.

    Attributes:
        rows, columns: size in pixels.
        photometric: MONOCHROME1 or MONOCHROME2.
        allocated, stored, high: Bits Allocated, Bits Stored, High Bit; `stored - 1 <= high < allocated`.
        signed: whether values are in two's complement.
    """

    rows: int
    columns: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def length(self) -> int:
        """Bytes of the image where it is not compressed."""
        return math.ceil(self.rows * self.columns * self.allocated / _BYTE)


def image_pixel(ds: Dataset, codestream: Codestream | None = None, *, native: bool = True) -> ImagePixel:
    """The module of `ds`, which `suitability.check` has found to be of a grey image of some size.

    Args:
        ds: an image.
        codestream: what its compressed pixel data say, where they say anything.
        native: whether its pixel data are not compressed, so that their length counts.

    Raises:
        DatasetUnreadable: an element contradicts another, or is missing and nothing else tells its value.
    """
    rows, columns = _side(ds, "Rows"), _side(ds, "Columns")
    length = len(ds.PixelData or b"") if native else 0
    if codestream is not None:
        _check_same(rows, columns, codestream)
    allocated = integer(ds, "BitsAllocated", 0) or _allocated(rows * columns, length, codestream)
    if native and "SamplesPerPixel" not in ds and length >= 3 * rows * columns * (allocated // _BYTE or 1):
        raise DatasetUnreadable("Samples per Pixel is missing, and its pixel data are too long for 1", Reason.PIXELS)
    stored = integer(ds, "BitsStored", 0 if "BitsStored" in ds else _stored(allocated, codestream))
    if not 1 <= stored <= allocated:
        raise DatasetUnreadable(f"{stored} bits stored of {allocated} allocated contradict each other", Reason.PIXELS)
    high = integer(ds, "HighBit", stored - 1)
    return ImagePixel(
        rows=rows,
        columns=columns,
        photometric=code(ds, "PhotometricInterpretation") or USUAL["PhotometricInterpretation"],
        allocated=allocated,
        stored=stored,
        high=high if stored - 1 <= high < allocated else stored - 1,
        signed=integer(ds, "PixelRepresentation", 0) == 1,
    )


def _side(ds: Dataset, keyword: str) -> int:
    if len(set(numbers(ds, keyword))) > 1:
        raise DatasetUnreadable(f"{keyword} has several values", Reason.PIXELS)
    return integer(ds, keyword, 0)


def _check_same(rows: int, columns: int, codestream: Codestream) -> None:
    if (codestream.rows, codestream.columns) != (rows, columns):
        said = f"{codestream.rows} x {codestream.columns}"
        raise DatasetUnreadable(f"its compressed image is of {said} pixels, not of Rows x Columns", Reason.PIXELS)
    if codestream.components != 1:
        raise DatasetUnreadable(
            f"its compressed image has {codestream.components} samples per pixel, not 1", Reason.PIXELS
        )


def _allocated(pixels: int, length: int, codestream: Codestream | None) -> int:
    if codestream is not None:
        return _BYTE if codestream.bits <= _BYTE else _WORD
    for bits in (_BYTE, _WORD):
        if pixels * bits // _BYTE <= length <= pixels * bits // _BYTE + 1:
            return bits
    raise DatasetUnreadable("Bits Allocated is missing, and its pixel data do not tell it", Reason.PIXELS)


def _stored(allocated: int, codestream: Codestream | None) -> int:
    return min(allocated, codestream.bits) if codestream is not None else allocated
