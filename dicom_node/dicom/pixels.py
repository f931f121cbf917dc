"""Dataset -> Radiograph: from stored values to what a viewer shows (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N).

Lookup tables and windows are applied here and not by a library: CR and DX files hold tables of 10 to 14 bits
or of 65536 entries, 8-bit tables for 12-bit images, negative slopes and unusable windows, which neither
pydicom 3.0 nor highdicom 0.28 maps right. The tests compare with pydicom wherever pydicom is right.

Reasons in the errors finish the sentence "not analysed because ..."; they quote nothing of the patient.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from dicom_node.dicom import suitability
from dicom_node.dicom.elements import code, integer, numbers, orientation
from dicom_node.errors import DatasetUnreadable, Reason, StudyUnsuitable
from dicom_node.watch.logs import without_warnings
from explain_core.radiograph import Radiograph

ROBUST_PERCENTILES = (0.5, 99.5)

_BYTE = 8
_SIGN_16 = 1 << 15
_END_MARKED = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A data set's image as a viewer would show it.

    Attributes:
        radiograph: the image.
        shown_range: values after the modality transformation that are shown as black and white, where the file itself
            does not say it; None where its own VOI LUT or window was used.
    """

    radiograph: Radiograph
    shown_range: tuple[float, float] | None


def radiograph(ds: Dataset) -> Radiograph:
    """The image of `ds` as display luminance; see `render`."""
    return render(ds).radiograph


def render(ds: Dataset) -> Rendering:
    """The image of `ds` as display luminance; `ds` itself is left as it was.

    Stored values -> modality LUT or rescale -> first VOI LUT, else first valid window, else a robust range of
    the data without its padding -> inversion of MONOCHROME1.

    Returns:
        float32 luminance, shape (Rows, Columns), 0 = black to 1 = white, with spacing in mm and orientation.

    Raises:
        StudyUnsuitable: the object is no single frontal chest radiograph meant for display, or it is blank.
        DatasetUnreadable: the pixel data are missing parts, are not what the header says, or no decoder takes them.
    """
    suitability.check(ds)
    with without_warnings():
        stored = _significant_bits(_decode(ds), ds)
        luminance, shown_range = _luminance(stored, ds)
        image = Radiograph(
            pixels=luminance,
            spacing=pixel_spacing(ds),
            orientation=orientation(ds),
            source_id=str(ds.get("SOPInstanceUID", "")),
        )
    return Rendering(radiograph=image, shown_range=shown_range)


def pixel_spacing(ds: Dataset) -> tuple[float, float] | None:
    """Row and column spacing in mm: Pixel Spacing, else at the detector, else of scanned film (PS3.3 10.7).

    Returns:
        None when no attribute holds two positive finite numbers (some equipment writes two zeros).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        match numbers(ds, keyword):
            case (row, column) if 0 < row < math.inf and 0 < column < math.inf:
                return row, column
    return None


def _decode(ds: Dataset) -> NDArray[np.generic]:
    """Stored values as the transfer syntax yields them, shape (Rows, Columns)."""
    meta = getattr(ds, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise DatasetUnreadable("its transfer syntax is unknown", Reason.SYNTAX)
    _check_complete(ds, syntax)
    in_words = not syntax.is_compressed or syntax == RLELossless
    try:
        array = pixel_array(ds, correct_unused_bits=not in_words)  # pydicom's correction ignores High Bit
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever they like: these bytes are not an image.
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) cannot be decoded", Reason.PIXELS) from error
    if array.shape != (ds.Rows, ds.Columns):
        raise DatasetUnreadable(f"its pixel data decode to shape {array.shape}, not to Rows x Columns", Reason.PIXELS)
    return array


def _check_complete(ds: Dataset, syntax: UID) -> None:
    """Refuse truncated pixel data: several decoders fill up what is missing without a word."""
    data = ds.PixelData or b""
    if not data:
        raise DatasetUnreadable("its pixel data are empty or cut off", Reason.PIXELS)
    if not syntax.is_compressed:
        expected = math.ceil(ds.Rows * ds.Columns * ds.BitsAllocated / 8)
        if len(data) < expected:
            raise DatasetUnreadable(f"its pixel data are truncated: {len(data)} of {expected} bytes", Reason.PIXELS)
        if len(data) - expected >= ds.Columns * ds.BitsAllocated / 8:
            described = f"{ds.Rows} rows of {ds.Columns} pixels take {expected}"
            raise DatasetUnreadable(f"its pixel data have {len(data)} bytes, but {described}", Reason.PIXELS)
        return
    try:
        frame = next(iter(generate_frames(data, number_of_frames=1)))
    except (ValueError, StopIteration, EOFError) as error:
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) are wrongly encapsulated", Reason.PIXELS) from error
    # The JPEG family ends with FFD9, which entropy-coded data cannot contain; padding may follow.
    if syntax in _END_MARKED and b"\xff\xd9" not in frame[-64:]:
        raise DatasetUnreadable(
            f"its pixel data ({syntax.name}) are truncated: the end marker is missing", Reason.PIXELS
        )


def _significant_bits(array: NDArray[Any], ds: Dataset) -> NDArray[np.int32]:
    """Only the Bits Stored that end at High Bit, with their sign (PS3.5 8.1.1); above may be old overlays."""
    if array.dtype.kind not in "iu":
        raise DatasetUnreadable("its pixel data are not integers", Reason.PIXELS)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax != RLELossless:
        return array.astype(np.int32)  # the codestream has its own precision and sign
    stored, high = int(ds.BitsStored), integer(ds, "HighBit", int(ds.BitsStored) - 1)
    if not stored - 1 <= high < ds.BitsAllocated:
        high = stored - 1
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    cells = native.view(f"u{array.dtype.itemsize}").astype(np.int32) >> (high + 1 - stored)
    raw = cells & ((1 << stored) - 1)
    if integer(ds, "PixelRepresentation", 0) == 1:
        sign = 1 << (stored - 1)
        return (raw ^ sign) - sign
    if _wrapped(cells, raw):
        raise DatasetUnreadable(
            f"its pixel values do not fit into the {stored} bits that it says are stored", Reason.PIXELS
        )
    return raw


def _wrapped(cells: NDArray[np.int32], raw: NDArray[np.int32]) -> bool:
    """Whether the bits above High Bit belong to the values: with them the image is smoother than without.

    Old overlays and what equipment leaves there make it rougher.
    """
    return not np.array_equal(cells, raw) and _roughness(cells) < _roughness(raw)


def _roughness(values: NDArray[np.int32]) -> float:
    """Sum of the steps between neighbours, as a part of the range that most values lie in."""
    wide = values.astype(np.int64)
    low, high = np.percentile(wide, (10, 90))
    steps = sum(float(np.abs(np.diff(wide, axis=axis)).sum()) for axis in (0, 1))
    return steps / max(1.0, float(high - low))


def _luminance(stored: NDArray[np.int32], ds: Dataset) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    padding = _padding(stored, ds)
    kept = ~padding if padding is not None else np.ones(stored.shape, np.bool_)
    if not kept.any():
        raise StudyUnsuitable("it is blank: every pixel is padding", Reason.BLANK)
    low, high = int(stored[kept].min()), int(stored[kept].max())
    if low == high:
        raise StudyUnsuitable("it is blank: every pixel has the same value", Reason.BLANK)
    values = _modality(stored, ds)
    shown, shown_range = _value_of_interest(values, ds, kept)
    inverse_shape = code(ds, "PresentationLUTShape") == "INVERSE"
    if inverse_shape or code(ds, "PhotometricInterpretation") == "MONOCHROME1":
        shown = 1 - shown  # once, also when both say so, as DX requires (PS3.3 C.8.11.3.1.2)
    if padding is not None:
        shown[padding] = 0
    return np.ascontiguousarray(shown, dtype=np.float32), shown_range


def _padding(stored: NDArray[np.int32], ds: Dataset) -> NDArray[np.bool_] | None:
    """Where Pixel Padding Value (or its range) stands, in stored values (PS3.3 C.7.5.1.1.2)."""
    limits = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        found = numbers(ds, keyword)
        if found:
            value = int(found[0])
            bits = int(ds.BitsAllocated)
            if integer(ds, "PixelRepresentation", 0) == 1 and value >= 1 << (bits - 1):
                value -= 1 << bits  # written as US where SS was due
            limits.append(value)
        elif keyword == "PixelPaddingValue":
            return None
    mask: NDArray[np.bool_] = (stored >= min(limits)) & (stored <= max(limits))
    return mask if mask.any() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A lookup table: `entries[i]` is the output for `first + i`; inputs beyond take the end entries."""

    first: int
    entries: NDArray[np.int32]

    @property
    def top(self) -> int:
        """Full scale of the entries (the number of bits in the descriptor is often wrong)."""
        return max(1, (1 << int(self.entries.max()).bit_length()) - 1)

    def apply(self, values: NDArray[Any]) -> NDArray[np.int32]:
        index = values if values.dtype.kind == "i" else np.rint(values).astype(np.int64)
        mapped: NDArray[np.int32] = self.entries[np.clip(index - self.first, 0, len(self.entries) - 1)]
        return mapped


def _table(ds: Dataset, keyword: str) -> _Table | None:
    """The first table of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1), or None."""
    sequence = ds.get(keyword)
    if not sequence:
        return None
    item = sequence[0]
    try:
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count % 65536 or 65536  # 0 means 65536
        entries = _entries(item.LUTData, count, bits, little=ds.original_encoding[1] is not False)
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetUnreadable(f"its {keyword} is damaged", Reason.PIXELS) from error
    if len(entries) < count:
        raise DatasetUnreadable(f"its {keyword} holds {len(entries)} of {count} entries", Reason.PIXELS)
    signed = integer(ds, "PixelRepresentation", 0) == 1 or numbers(ds, "RescaleIntercept", (0.0,))[0] < 0
    if signed and first >= _SIGN_16:
        first -= 2 * _SIGN_16  # read as US where SS was due
    return _Table(first=first, entries=entries[:count])


def _entries(data: Any, count: int, bits: int, *, little: bool) -> NDArray[np.int32]:
    """LUT Data as numbers: 16-bit words, or bytes, or 8-bit entries packed two to a word."""
    if isinstance(data, bytes | bytearray):
        wide = len(data) >= 2 * count
        return np.frombuffer(data, ("<u2" if little else ">u2") if wide else "u1").astype(np.int32)
    words = np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.int32) & 0xFFFF
    if bits <= _BYTE and len(words) < count <= 2 * len(words):
        return np.stack([words & 0xFF, words >> 8], axis=1).ravel()
    return words


def _modality(stored: NDArray[np.int32], ds: Dataset) -> NDArray[Any]:
    """Modality LUT, else rescale slope and intercept, else the stored values (PS3.3 C.11.1)."""
    table = _table(ds, "ModalityLUTSequence")
    if table is not None:
        return table.apply(stored)
    slope, intercept = numbers(ds, "RescaleSlope"), numbers(ds, "RescaleIntercept")
    if not slope or not intercept or slope[0] == 0 or (slope[0], intercept[0]) == (1.0, 0.0):
        return stored
    return stored * slope[0] + intercept[0]


def _value_of_interest(
    values: NDArray[Any], ds: Dataset, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Values as 0 to 1: first VOI LUT, else first valid window that shows anything, else a robust range, returned."""
    table = _table(ds, "VOILUTSequence")
    if table is not None:
        shown = table.apply(values).astype(np.float32) / np.float32(table.top)
        if np.ptp(shown[kept]) > 0:
            return shown, None
    for center, width in zip(numbers(ds, "WindowCenter"), numbers(ds, "WindowWidth"), strict=False):
        windowed = _window(values, center, width, code(ds, "VOILUTFunction") or "LINEAR")
        if windowed is not None and np.ptp(windowed[kept]) > 0:
            return windowed, None
    low, high = _natural_range(values, ds, kept)
    return _ramp(values, (low + high) / 2, high - low), (low, high)


def _window(values: NDArray[Any], center: float, width: float, function: str) -> NDArray[np.float32] | None:
    """The three functions of PS3.3 C.11.2.1.2 and C.11.2.1.3, scaled to 0..1; None for an invalid width."""
    if not (math.isfinite(center) and 0 < width < math.inf):
        return None
    if function == "SIGMOID":
        steps = np.clip(-4 * (values.astype(np.float32) - np.float32(center)) / np.float32(width), -80, 80)
        return np.asarray(1 / (1 + np.exp(steps)), dtype=np.float32)
    if function == "LINEAR_EXACT":
        return _ramp(values, center, width)
    if width < 1:
        return None
    if width == 1:
        return (values > center - 0.5).astype(np.float32)
    return _ramp(values, center - 0.5, width - 1)


def _ramp(values: NDArray[Any], center: float, width: float) -> NDArray[np.float32]:
    scaled = (values.astype(np.float32) - np.float32(center)) / np.float32(width) + np.float32(0.5)
    return np.clip(scaled, 0, 1, out=scaled)


def _natural_range(values: NDArray[Any], ds: Dataset, kept: NDArray[np.bool_]) -> tuple[float, float]:
    """What to show as black and white when the file does not say.

    An image of up to 8 unsigned bits without modality transformation is ready for display: its whole range.
    Otherwise percentiles, so that markers and collimator edges do not decide the contrast.
    """
    bits = int(ds.BitsStored)
    plain = values.dtype == np.int32 and not ds.get("ModalityLUTSequence")
    if plain and bits <= _BYTE and integer(ds, "PixelRepresentation", 0) == 0:
        return 0.0, float((1 << bits) - 1)
    data = values[kept]
    low, high = np.percentile(data, ROBUST_PERCENTILES)
    if low == high:
        low, high = data.min(), data.max()
    return float(low), float(high)
