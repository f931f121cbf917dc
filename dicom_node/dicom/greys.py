"""From stored values to grey, chosen once for an image (PS3.3 C.11.1, C.11.2, C.11.6).

What is chosen here makes the picture that the model sees and travels with it to every result, so that a workstation
shows the same greys. Lookup tables and windows are applied here and not by a library: CR and DX files hold tables of
10 to 14 bits or of 65536 entries, 8-bit tables for 12-bit images, negative slopes and unusable windows, which neither
pydicom 3.0 nor highdicom 0.28 maps right. The tests compare with pydicom wherever pydicom is right.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.dicom.elements import code, integer, items, numbers
from dicom_node.dicom.image_pixel import ImagePixel
from dicom_node.errors import DatasetUnreadable, Reason

ROBUST_PERCENTILES = (0.5, 99.5)

_BYTE = 8
_WORD = 1 << 16

Function: TypeAlias = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table: `entries[i]` is the output for `first + i`; inputs beyond take the end entries.

    Attributes:
        first: the first input.
        entries: outputs, whole numbers from 0, shape (count,).
    """

    first: int
    entries: NDArray[np.int32]

    @property
    def top(self) -> int:
        """Full scale of the entries (the number of bits in the descriptor is often wrong)."""
        return max(1, (1 << int(self.entries.max()).bit_length()) - 1)

    def look_up(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """The entries for `values`."""
        index = values if values.dtype.kind == "i" else np.rint(values).astype(np.int64)
        found: NDArray[np.int32] = self.entries[np.clip(index - self.first, 0, len(self.entries) - 1)]
        return found

    def grey(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The entries for `values` as parts of full scale, 0 to 1."""
        return self.look_up(values).astype(np.float32) / np.float32(self.top)


@dataclass(frozen=True, slots=True)
class Window:
    """A window with its function (PS3.3 C.11.2.1.2, C.11.2.1.3), valid for that function."""

    center: float
    width: float
    function: Function = "LINEAR"

    def grey(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """`values` as 0 to 1."""
        center, width = self.center, self.width
        if self.function == "SIGMOID":
            steps = np.clip(-4 * (values.astype(np.float32) - np.float32(center)) / np.float32(width), -80, 80)
            return np.asarray(1 / (1 + np.exp(steps)), dtype=np.float32)
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float32)
        scaled = (values.astype(np.float32) - np.float32(center)) / np.float32(width) + np.float32(0.5)
        return np.clip(scaled, 0, 1, out=scaled)


@dataclass(frozen=True, slots=True)
class Rescale:
    """Slope and intercept of the modality transformation, and what its output is (Rescale Type)."""

    slope: float = 1.0
    intercept: float = 0.0
    type: str = "US"

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return (self.slope, self.intercept) == (1.0, 0.0)

    def look_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Stored values -> output units; the values themselves where nothing changes."""
        return values if self.identity else values * self.slope + self.intercept


@dataclass(frozen=True, slots=True, kw_only=True)
class Greys:
    """What an image's stored values were shown by.

    Attributes:
        modality: stored values -> values after the modality transformation.
        voi: those -> grey, 0 to 1.
        inverse: whether grey 0 is shown white.
        shown_by: which of the file's tables or windows `voi` is, in words.
        passed_over: what else the file states before it, which is empty or shows nothing.
    """

    modality: Table | Rescale
    voi: Table | Window
    inverse: bool
    shown_by: str = "the range of its values"
    passed_over: tuple[str, ...] = ()


def greys_of(ds: Dataset, module: ImagePixel, modality: Table | Rescale, values: NDArray[Any]) -> Greys:
    """What an image is shown by: its first VOI LUT, or else its first window, that shows anything, else a range.

    Args:
        ds: the image's header.
        module: how its values are stored.
        modality: its modality transformation.
        values: after that, of the pixels that are no padding, at least two different ones.

    Raises:
        DatasetUnreadable: a table is damaged.
    """
    inverse = code(ds, "PresentationLUTShape") == "INVERSE" or module.photometric == "MONOCHROME1"  # once, not twice
    extremes = np.array([values.min(), values.max()])
    passed = _passed_over(ds, modality)
    for name, voi in _stated(ds):
        if voi is not None and np.ptp(voi.grey(values if isinstance(voi, Table) else extremes)) > 0:
            return Greys(modality=modality, voi=voi, inverse=inverse, shown_by=name, passed_over=tuple(passed))
        passed.append(name)
    low, high = _natural_range(module, modality, values, extremes)
    voi = Window((low + high) / 2 + 0.5, high - low + 1)
    return Greys(modality=modality, voi=voi, inverse=inverse, passed_over=tuple(passed))


def modality_of(ds: Dataset) -> Table | Rescale:
    """Modality LUT, else rescale slope and intercept, else nothing (PS3.3 C.11.1).

    Raises:
        DatasetUnreadable: the table is damaged.
    """
    for item in filter(_filled, items(ds, "ModalityLUTSequence")):
        return _table(ds, "ModalityLUTSequence", item)
    match numbers(ds, "RescaleSlope"), numbers(ds, "RescaleIntercept"):
        case (slope, *_), (intercept, *_) if slope != 0 and math.isfinite(slope) and math.isfinite(intercept):
            return Rescale(slope, intercept, code(ds, "RescaleType") or "US")
    return Rescale()


def _passed_over(ds: Dataset, modality: Table | Rescale) -> list[str]:
    """What the file states of its modality transformation, where that cannot be used."""
    if isinstance(modality, Table):
        return []
    slopes = numbers(ds, "RescaleSlope")
    named = {
        "its Modality LUT": bool(items(ds, "ModalityLUTSequence")),
        "its Rescale Slope": bool(slopes) and slopes[0] != modality.slope,
    }
    return [name for name, passed in named.items() if passed]


def _stated(ds: Dataset) -> Iterator[tuple[str, Table | Window | None]]:
    """Name and meaning of each VOI LUT and each window; None of what is empty, or not valid for its function."""
    for number, item in enumerate(items(ds, "VOILUTSequence"), 1):
        yield f"VOI LUT {number}", _table(ds, "VOILUTSequence", item) if _filled(item) else None
    stated = code(ds, "VOILUTFunction")
    function: Function = "SIGMOID" if stated == "SIGMOID" else "LINEAR_EXACT" if stated == "LINEAR_EXACT" else "LINEAR"
    pairs = zip(numbers(ds, "WindowCenter"), numbers(ds, "WindowWidth"), strict=False)
    for number, (center, width) in enumerate(pairs, 1):
        wide = width >= 1 if function == "LINEAR" else width > 0
        usable = wide and math.isfinite(center) and math.isfinite(width)
        yield f"window {number}", Window(center, width, function) if usable else None


def _natural_range(
    module: ImagePixel, modality: Table | Rescale, values: NDArray[Any], extremes: NDArray[Any]
) -> tuple[float, float]:
    """What to show as black and white when the file does not say.

    An image of up to 8 unsigned bits without modality transformation is ready for display: its whole range.
    Otherwise percentiles, so that markers and collimator edges do not decide the contrast.
    """
    plain = isinstance(modality, Rescale) and modality.identity
    if plain and module.stored <= _BYTE and not module.signed:
        return 0.0, float((1 << module.stored) - 1)
    low, high = np.percentile(values, ROBUST_PERCENTILES)
    if low == high:
        low, high = extremes
    return float(low), float(high)


def _filled(item: Dataset) -> bool:
    """Whether a LUT item holds anything; some equipment writes empty ones."""
    return bool(item.get("LUTDescriptor") or item.get("LUTData"))


def _table(ds: Dataset, keyword: str, item: Dataset) -> Table:
    try:
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count % _WORD or _WORD  # 0 means 65536
        entries = _entries(item.LUTData, count, bits, little=ds.original_encoding[1] is not False)
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetUnreadable(f"its {keyword} is damaged", Reason.PIXELS) from error
    if len(entries) < count:
        raise DatasetUnreadable(f"its {keyword} holds {len(entries)} of {count} entries", Reason.PIXELS)
    signed = integer(ds, "PixelRepresentation", 0) == 1 or numbers(ds, "RescaleIntercept", (0.0,))[0] < 0
    if signed and first >= _WORD // 2:
        first -= _WORD  # read as US where SS was due
    return Table(first, entries[:count])


def _entries(data: Any, count: int, bits: int, *, little: bool) -> NDArray[np.int32]:
    """LUT Data as numbers: 16-bit words, or bytes, or 8-bit entries packed two to a word."""
    if isinstance(data, bytes | bytearray):
        wide = len(data) >= 2 * count
        return np.frombuffer(data, ("<u2" if little else ">u2") if wide else "u1").astype(np.int32)
    words = np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.int32) & 0xFFFF
    if bits <= _BYTE and len(words) < count <= 2 * len(words):
        return np.stack([words & 0xFF, words >> 8], axis=1).ravel()
    return words
