"""From stored values to grey, as elements that a presentation state repeats (PS3.3 C.11.1, C.11.6, C.11.8).

A viewer that applies a presentation state applies nothing of the image's own. What is written here is what the model
saw: the first VOI LUT, else the first valid window, else the range that was chosen for the file. Tables are written
with 16 bits and at full scale, because the number of bits that files state is often wrong and validators take no other
tables than those which use all their bits. For the same reason a Modality LUT and what follows it become one VOI LUT.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_node.dicom.elements import code, integer, numbers

_BYTE = 8
_BITS = 16
_WORD = 1 << _BITS


def transformations(header: Dataset, shown_range: tuple[float, float] | None = None) -> Dataset:
    """The Modality LUT, Softcopy VOI LUT and Softcopy Presentation LUT modules for an image.

    Args:
        header: the image's data set; `pixels.radiograph` has taken the image.
        shown_range: values after the modality transformation that were shown as black and as white, where the image
            itself does not say; see `pixels.Rendering`.

    Returns:
        the elements of the three modules; no VOI where neither the image nor `shown_range` states one.
    """
    ds = Dataset()
    table = _table(header, "ModalityLUTSequence")
    voi = _range(*shown_range) if shown_range is not None else _voi(header)
    if table is not None:
        shown = table.share if voi is None else voi.apply(table.entries)
        ds.SoftcopyVOILUTSequence = [_Table(table.first, np.rint(shown * (_WORD - 1)).astype(np.int64)).item()]
    elif voi is not None:
        ds.SoftcopyVOILUTSequence = [voi.item()]
    slope, intercept = _rescale(header)
    if table is None and (slope, intercept) != (1.0, 0.0):
        ds.RescaleIntercept, ds.RescaleSlope = format_number_as_ds(intercept), format_number_as_ds(slope)
        ds.RescaleType = code(header, "RescaleType") or "US"
    ds.PresentationLUTShape = "INVERSE" if _inverse(header) else "IDENTITY"
    return ds


@dataclass(frozen=True, slots=True)
class _Table:
    """A lookup table: `entries[i]` is the output for `first + i`; inputs beyond take the end entries."""

    first: int
    entries: NDArray[np.int64]

    @property
    def share(self) -> NDArray[np.float64]:
        """The entries as parts of the full scale of the bits that they use."""
        return self.entries / ((1 << int(self.entries.max()).bit_length()) - 1)

    def apply(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.share[np.clip(values - self.first, 0, len(self.entries) - 1)]

    def item(self) -> Dataset:
        """An item of Softcopy VOI LUT Sequence."""
        table, count = Dataset(), len(self.entries) % _WORD
        if self.first < 0:
            signed = count - _WORD if count >= _WORD // 2 else count
            table.add_new("LUTDescriptor", "SS", [signed, self.first, _BITS])
        else:
            table.add_new("LUTDescriptor", "US", [count, self.first, _BITS])
        data = np.rint(self.share * (_WORD - 1)).astype("<u2")
        table.add_new("LUTData", "OW", data.tobytes())
        item = Dataset()
        item.VOILUTSequence = [table]
        return item


@dataclass(frozen=True, slots=True)
class _Window:
    """A window with its function: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        center, width = self.center, self.width
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80))))
        if self.function == "LINEAR":
            center, width = center - 0.5, max(width - 1, 1e-6)
        return np.clip((values - center) / width + 0.5, 0, 1)

    def item(self) -> Dataset:
        """An item of Softcopy VOI LUT Sequence."""
        item = Dataset()
        item.WindowCenter, item.WindowWidth = format_number_as_ds(self.center), format_number_as_ds(self.width)
        if self.function != "LINEAR":
            item.VOILUTFunction = self.function
        return item


def _inverse(header: Dataset) -> bool:
    """Whether low values are bright; DX says so twice (PS3.3 C.8.11.3.1.2)."""
    stated = code(header, "PresentationLUTShape")
    return stated == "INVERSE" or code(header, "PhotometricInterpretation") == "MONOCHROME1"


def _rescale(header: Dataset) -> tuple[float, float]:
    match numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept"):
        case (slope, *_), (intercept, *_) if slope != 0:
            return slope, intercept
    return 1.0, 0.0


def _voi(header: Dataset) -> _Table | _Window | None:
    table = _table(header, "VOILUTSequence")
    if table is not None:
        return table
    stated = code(header, "VOILUTFunction")
    function = stated if stated in {"LINEAR_EXACT", "SIGMOID"} else "LINEAR"
    for center, width in zip(numbers(header, "WindowCenter"), numbers(header, "WindowWidth"), strict=False):
        valid = width >= 1 if function == "LINEAR" else width > 0
        if math.isfinite(center) and valid and width < math.inf:
            return _Window(center, width, function)
    return None


def _range(low: float, high: float) -> _Window:
    """`low` as black and `high` as white, by the function that every reader knows."""
    return _Window((low + high) / 2 + 0.5, high - low + 1)


def _table(header: Dataset, keyword: str) -> _Table | None:
    """The first table of a LUT sequence; None without one that shows anything."""
    sequence = header.get(keyword)
    if not sequence:
        return None
    count, first, bits = (int(value) for value in sequence[0].LUTDescriptor)
    count = count % _WORD or _WORD  # 0 means 65536
    little = header.original_encoding[1] is not False
    entries = _entries(sequence[0].LUTData, count, bits, little=little)[:count]
    signed = integer(header, "PixelRepresentation", 0) == 1 or numbers(header, "RescaleIntercept", (0.0,))[0] < 0
    if signed and first >= _WORD // 2:
        first -= _WORD  # read as US where SS was due
    return _Table(first, entries) if entries.min() < entries.max() else None


def _entries(data: Any, count: int, bits: int, *, little: bool) -> NDArray[np.int64]:
    """LUT Data as numbers: 16-bit words, or bytes, or 8-bit entries packed two to a word."""
    if isinstance(data, bytes | bytearray):
        wide = len(data) >= 2 * count
        return np.frombuffer(data, ("<u2" if little else ">u2") if wide else "u1").astype(np.int64)
    words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    if bits <= _BYTE and len(words) < count:
        return np.stack([words & 0xFF, words >> _BYTE], axis=1).ravel()
    return words
