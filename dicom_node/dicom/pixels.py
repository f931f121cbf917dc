"""Dataset -> Radiograph: from stored values to what a viewer shows (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N).

Reasons in the errors finish the sentence "not analysed because ..."; they quote nothing of the patient.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

from dicom_node.dicom import decoding, shutter, suitability
from dicom_node.dicom.codestream import JPEG, JPEG_2000, Codestream, described
from dicom_node.dicom.elements import numbers, orientation
from dicom_node.dicom.greys import Greys, greys_of, modality_of
from dicom_node.dicom.image_pixel import ImagePixel, image_pixel
from dicom_node.errors import DatasetUnreadable, Reason, StudyUnsuitable
from dicom_node.watch.logs import without_warnings
from explain_core.radiograph import Radiograph

_BYTE, _WORD = 8, 16


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
    the data without its padding -> inversion of MONOCHROME1 -> black where padding is, or a Display Shutter.

    Returns:
        float32 luminance, shape (Rows, Columns), 0 = black to 1 = white, with spacing in mm and orientation.

    Raises:
        StudyUnsuitable: the object is no single frontal chest radiograph meant for display, or it is blank.
        DatasetUnreadable: the pixel data are missing parts, are not what the header says, or no decoder takes them.
    """
    suitability.check(ds)
    with without_warnings():
        luminance, greys = _shown(*_stored(ds), ds)
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


def _stored(ds: Dataset) -> tuple[NDArray[np.int32], ImagePixel]:
    """Stored values, shape (Rows, Columns), and how they lay in the pixel data."""
    meta = getattr(ds, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise DatasetUnreadable("its transfer syntax is unknown", Reason.SYNTAX)
    data = _bytes(ds)
    codestream = _codestream(data, syntax) if syntax.is_compressed else None
    module = image_pixel(ds, codestream, native=not syntax.is_compressed)
    if not syntax.is_compressed:
        _check_length(data, module)
    array = _decode(ds, syntax, module, codestream)
    if array.shape != (module.rows, module.columns):
        raise DatasetUnreadable(f"its pixel data decode to shape {array.shape}, not to Rows x Columns", Reason.PIXELS)
    if array.dtype.kind not in "iu":
        raise DatasetUnreadable("its pixel data are not integers", Reason.PIXELS)
    if codestream is None:
        return _significant_bits(array, module), module
    return _of_codestream(array.astype(np.int32), codestream, module), module


def _bytes(ds: Dataset) -> bytes:
    """Pixel Data, whose VR a damaged file may have changed into any other, or none of the standard."""
    try:
        data: object = ds.PixelData
    except Exception as error:
        raise DatasetUnreadable("its pixel data are of another VR than OB or OW", Reason.PIXELS) from error
    if not isinstance(data, bytes | None):
        raise DatasetUnreadable("its pixel data are of another VR than OB or OW", Reason.PIXELS)
    if not data:
        raise DatasetUnreadable("its pixel data are empty or cut off", Reason.PIXELS)
    return data


def _decode(ds: Dataset, syntax: UID, module: ImagePixel, codestream: Codestream | None) -> NDArray[np.generic]:
    """What the transfer syntax yields: words as they lie, or what the codestream says with its own sign and depth."""
    bits = module.stored if codestream is None else codestream.bits
    signed = module.signed if codestream is None or codestream.signed is None else codestream.signed
    options = {
        "rows": module.rows,
        "columns": module.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": module.photometric,
        "bits_allocated": max(module.allocated, _BYTE if bits <= _BYTE else _WORD) if codestream else module.allocated,
        "bits_stored": bits,
        "pixel_representation": int(signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": ds["PixelData"].VR,
        "correct_unused_bits": syntax.is_compressed and syntax != RLELossless,  # pydicom's correction ignores High Bit
    }
    try:
        if syntax.is_compressed:
            return decoding.decoded(ds.PixelData, syntax, options)
        return decoding.as_array(ds.PixelData, syntax, options)
    except MemoryError:
        raise
    except decoding.CannotDecode as error:
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) cannot be decoded: {error}", Reason.PIXELS) from error
    except Exception as error:
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) cannot be decoded", Reason.PIXELS) from error


def _check_length(data: bytes, module: ImagePixel) -> None:
    """Refuse pixel data that are shorter or longer than the image."""
    if len(data) < module.length:
        raise DatasetUnreadable(f"its pixel data are truncated: {len(data)} of {module.length} bytes", Reason.PIXELS)
    if len(data) - module.length >= module.columns * module.allocated / 8:
        described = f"{module.rows} rows of {module.columns} pixels take {module.length}"
        raise DatasetUnreadable(f"its pixel data have {len(data)} bytes, but {described}", Reason.PIXELS)


def _codestream(data: bytes, syntax: UID) -> Codestream | None:
    """What compressed pixel data say of themselves; truncated ones are refused, for several decoders fill them up."""
    try:
        frame = next(iter(generate_frames(data, number_of_frames=1)))
    except (ValueError, StopIteration, EOFError, struct.error) as error:
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) are wrongly encapsulated", Reason.PIXELS) from error
    # The JPEG family ends with FFD9, which entropy-coded data cannot contain; padding may follow.
    if syntax in JPEG | JPEG_2000 and b"\xff\xd9" not in frame[-64:]:
        raise DatasetUnreadable(
            f"its pixel data ({syntax.name}) are truncated: the end marker is missing", Reason.PIXELS
        )
    try:
        return described(frame, syntax)
    except ValueError as error:
        raise DatasetUnreadable(f"its pixel data ({syntax.name}) are none: {error}", Reason.PIXELS) from error


def _of_codestream(values: NDArray[np.int32], codestream: Codestream, module: ImagePixel) -> NDArray[np.int32]:
    """The values of a codestream that may speak of another sign or depth than the header does.

    Of two signs the one with which the image is smoother is right: the other wraps values from one end of the range to
    the other.
    """
    if codestream.signed is not None and codestream.signed is not module.signed:
        cells = values & ((1 << codestream.bits) - 1)
        other = _with_sign(cells, codestream.bits) if module.signed else cells
        if not np.array_equal(other, values) and _steps(other) < _steps(values):
            values = other
    low, high = int(values.min()), int(values.max())
    least, most = (-(1 << (module.stored - 1)), 1 << (module.stored - 1)) if low < 0 else (0, 1 << module.stored)
    if low < least or high >= most:
        raise _do_not_fit(module)
    return values


def _significant_bits(array: NDArray[Any], module: ImagePixel) -> NDArray[np.int32]:
    """Only the Bits Stored that end at High Bit, with their sign (PS3.5 8.1.1); above may be old overlays."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    cells = native.view(f"u{array.dtype.itemsize}").astype(np.int32) >> (module.high + 1 - module.stored)
    raw = cells & ((1 << module.stored) - 1)
    if module.signed:
        return _with_sign(raw, module.stored)
    if _wrapped(cells, raw):
        raise _do_not_fit(module)
    return raw


def _with_sign(raw: NDArray[np.int32], bits: int) -> NDArray[np.int32]:
    """Values of so many bits in two's complement as numbers."""
    sign = 1 << (bits - 1)
    return (raw ^ sign) - sign


def _do_not_fit(module: ImagePixel) -> DatasetUnreadable:
    return DatasetUnreadable(
        f"its pixel values do not fit into the {module.stored} bits that it says are stored", Reason.PIXELS
    )


def _wrapped(cells: NDArray[np.int32], raw: NDArray[np.int32]) -> bool:
    """Whether the bits above High Bit belong to the values: with them the image is smoother than without.

    Old overlays and what equipment leaves there make it rougher.
    """
    return not np.array_equal(cells, raw) and _roughness(cells) < _roughness(raw)


def _roughness(values: NDArray[np.int32]) -> float:
    """Sum of the steps between neighbours, as a part of the range that most values lie in."""
    wide = values.astype(np.int64)
    low, high = np.percentile(wide, (10, 90))
    return _steps(wide) / max(1.0, float(high - low))


def _steps(values: NDArray[Any]) -> float:
    """Sum of the steps between neighbours."""
    return sum(float(np.abs(np.diff(values, axis=axis)).sum(dtype=np.int64)) for axis in (0, 1))


def _shown(stored: NDArray[np.int32], module: ImagePixel, ds: Dataset) -> tuple[NDArray[np.float32], Greys]:
    """Luminance, 0 to 1, and what it was shown by."""
    padding, behind = _padding(stored, module, ds), shutter.hidden(ds, stored.shape)
    if behind is not None:
        padding = behind if padding is None else padding | behind
    if padding is not None and padding.all():
        raise StudyUnsuitable("it is blank: every pixel is padding or behind its shutter", Reason.BLANK)
    modality = modality_of(ds)
    values = modality.look_up(stored)
    kept = values if padding is None else values[~padding]
    if np.ptp(kept) == 0:
        raise StudyUnsuitable("it is blank: every pixel has the same value", Reason.BLANK)
    greys = greys_of(ds, module, modality, kept)
    luminance = greys.voi.grey(values)
    if greys.inverse:
        luminance = 1 - luminance
    if padding is not None:
        luminance[padding] = 0
    return np.ascontiguousarray(luminance, dtype=np.float32), greys


def _padding(stored: NDArray[np.int32], module: ImagePixel, ds: Dataset) -> NDArray[np.bool_] | None:
    """Where Pixel Padding Value (or its range) stands, in stored values (PS3.3 C.7.5.1.1.2)."""
    limits = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        found = numbers(ds, keyword)
        if found:
            value = int(found[0])
            if module.signed and value >= 1 << (module.allocated - 1):
                value -= 1 << module.allocated  # written as US where SS was due
            limits.append(value)
        elif keyword == "PixelPaddingValue":
            return None
    mask: NDArray[np.bool_] = (stored >= min(limits)) & (stored <= max(limits))
    return mask if mask.any() else None
