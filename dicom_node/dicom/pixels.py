"""Dataset -> Radiograph: from stored values to what a viewer shows (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N).

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
from dicom_node.dicom.elements import integer, numbers, orientation
from dicom_node.dicom.greys import Greys, inverse_of, modality_of, voi_of
from dicom_node.errors import DatasetUnreadable, Reason, StudyUnsuitable
from dicom_node.watch.logs import without_warnings
from explain_core.radiograph import Radiograph

_END_MARKED = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A data set's image as a viewer would show it.

    Attributes:
        radiograph: the image.
        greys: what its stored values were shown by.
    """

    radiograph: Radiograph
    greys: Greys


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
        luminance, greys = _shown(stored, ds)
        image = Radiograph(
            pixels=luminance,
            spacing=pixel_spacing(ds),
            orientation=orientation(ds),
            source_id=str(ds.get("SOPInstanceUID", "")),
        )
    return Rendering(radiograph=image, greys=greys)


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


def _shown(stored: NDArray[np.int32], ds: Dataset) -> tuple[NDArray[np.float32], Greys]:
    """Luminance, 0 to 1, and what it was shown by."""
    padding = _padding(stored, ds)
    kept = ~padding if padding is not None else np.ones(stored.shape, np.bool_)
    if not kept.any():
        raise StudyUnsuitable("it is blank: every pixel is padding", Reason.BLANK)
    modality = modality_of(ds)
    values = modality.look_up(stored)
    if np.ptp(values[kept]) == 0:
        raise StudyUnsuitable("it is blank: every pixel has the same value", Reason.BLANK)
    greys = Greys(modality=modality, voi=voi_of(ds, modality, values[kept]), inverse=inverse_of(ds))
    luminance = greys.voi.grey(values)
    if greys.inverse:
        luminance = 1 - luminance
    if padding is not None:
        luminance[padding] = 0
    return np.ascontiguousarray(luminance, dtype=np.float32), greys


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
