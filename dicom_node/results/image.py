"""What the builders of Secondary Captures share: the modules of an image derived from radiographs."""

import math
import re
from typing import Any

from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)

from dicom_node.dicom.elements import code, numbers, orientation
from dicom_node.results import codes
from dicom_node.results.context import Context, ResultContext, SourceReference
from dicom_node.results.header import inherit, inherit_anatomy, reference, start

_ALWAYS_LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
_MAY_BE_LOSSY = frozenset({JPEG2000, HTJ2K})
_BYTE = 8
_DIRECTION = re.compile("[APRLHF]{1,3}")
_LONGEST_PIXEL = 4
_ASPECT_STEPS = 10000


def capture(
    about: Context,
    kind: str,
    series: int,
    pixels: NDArray[Any],
    *choices: str,
    sop_class: str = SecondaryCaptureImageStorage,
) -> Dataset:
    """A Secondary Capture (PS3.3 A.8.1) of `pixels`, uncompressed, about all images that `about` names.

    Args:
        about: what is reported.
        kind: name of the builder.
        series: added to the site's first series number.
        pixels: uint8 RGB of shape (rows, columns, 3), or grey of shape (rows, columns).
        choices: see `_header.start`.
        sop_class: SOP Class, of one or several frames.
    """
    ds = start(about, kind, sop_class, *choices)
    ds.Modality = "OT"
    ds.SeriesNumber = about.series_number(series)
    inherit_anatomy(ds, about.header)
    ds.ConversionType = "WSD"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = None
    ds.BurnedInAnnotation = "YES"
    images = [_source_image(source) for source in dict.fromkeys(about.sources) if _may_be_image(source)]
    if images:
        ds.SourceImageSequence = images
    _pixels(ds, pixels)
    return ds


def secondary_capture(
    context: ResultContext,
    kind: str,
    series: int,
    pixels: NDArray[Any],
    *choices: str,
    sop_class: str = SecondaryCaptureImageStorage,
) -> Dataset:
    """A Secondary Capture that shows one radiograph the way up that it has in its source; see `capture`."""
    ds = capture(context, kind, series, pixels, *choices, sop_class=sop_class)
    ds.PatientOrientation = patient_orientation(context.header)
    for item in ds.get("SourceImageSequence", ()):
        item.SpatialLocationsPreserved = "NO"
    once_lossy(ds, context.header)
    return ds


def pixel_spacing(ds: Dataset, source: Dataset, scale: float) -> None:
    """Size and shape of the pixels of a copy, which are `scale` times as large as the source's.

    Pixel Spacing only if the source was calibrated: Imager Pixel Spacing has no place in a Secondary Capture, and as
    Pixel Spacing it would pass for calibrated. Pixel Aspect Ratio instead, where pixels are not square.
    """
    spacing = _calibrated(source)
    if spacing is not None:
        _set_spacing(ds, source, spacing[0] * scale, spacing[1] * scale)
        return
    high, wide = pixel_shape(source)
    if high != wide:
        ds.PixelAspectRatio = [round(_ASPECT_STEPS * high / wide), _ASPECT_STEPS]


def square_pixel_spacing(ds: Dataset, source: Dataset, shape: tuple[int, int], shown: tuple[int, int]) -> None:
    """Pixel Spacing of a copy of `shape` rows and columns that is shown in its true shape on `shown` square pixels."""
    spacing = _calibrated(source)
    if spacing is not None:
        _, millimetres = max(
            (drawn, size * step / drawn) for size, step, drawn in zip(shape, spacing, shown, strict=True)
        )
        _set_spacing(ds, source, millimetres, millimetres)


def pixel_shape(source: Dataset) -> tuple[float, float]:
    """Height and width of the source's pixels, in a unit of their own; 1 and 1 where it does not say.

    Spacing first, then Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7). What makes a pixel more than four times as long as
    wide is an error of the source and not the shape of a radiograph.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        match numbers(source, keyword):
            case (high, wide) if 0 < high < math.inf and 0 < wide < math.inf:
                return (high, wide) if 1 / _LONGEST_PIXEL <= high / wide <= _LONGEST_PIXEL else (1.0, 1.0)
    return 1.0, 1.0


def derivation(ds: Dataset, description: str, *what: Code) -> None:
    """How the pixels came to be, in words and codes (PS3.3 C.7.6.1.1.3)."""
    ds.DerivationDescription = description[:1024]
    ds.DerivationCodeSequence = [codes.item(one) for one in what]


def patient_orientation(header: Dataset) -> list[str] | None:
    """Patient Orientation of the source where its values are directions (PS3.3 C.7.6.1.1.1)."""
    directions = orientation(header)
    return list(directions) if directions and all(_DIRECTION.fullmatch(one) for one in directions) else None


def once_lossy(ds: Dataset, source: Dataset) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); many sources do not say so themselves."""
    stated = code(source, "LossyImageCompression")
    meta = getattr(source, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
    if stated == "01" or syntax in _ALWAYS_LOSSY or (not stated and syntax in _MAY_BE_LOSSY):
        ds.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            inherit(source, ds, keyword)


def _may_be_image(source: SourceReference) -> bool:
    name = UID(source.sop_class_uid).name
    return "Image" in name or name == source.sop_class_uid  # the name of an unknown class is its UID


def _source_image(source: SourceReference) -> Dataset:
    item = reference(source)
    item.PurposeOfReferenceCodeSequence = [codes.item(codes.SOURCE_IMAGE)]
    return item


def _calibrated(source: Dataset) -> tuple[float, float] | None:
    """Pixel Spacing of the source, if it is one."""
    match numbers(source, "PixelSpacing"):
        case (row, column) if 0 < row < math.inf and 0 < column < math.inf:
            return row, column
    return None


def _set_spacing(ds: Dataset, source: Dataset, row: float, column: float) -> None:
    ds.PixelSpacing = [f"{row:.8g}", f"{column:.8g}"]
    kind = code(source, "PixelSpacingCalibrationType")
    if kind in {"GEOMETRY", "FIDUCIAL"}:
        ds.PixelSpacingCalibrationType = kind
        ds.PixelSpacingCalibrationDescription = "as in the source image"


def _pixels(ds: Dataset, pixels: NDArray[Any]) -> None:
    rows, columns, *samples = pixels.shape
    ds.SamplesPerPixel = 3 if samples else 1
    ds.PhotometricInterpretation = "RGB" if samples else "MONOCHROME2"
    if samples:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 0
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    ds.add_new("PixelData", "OB" if ds.BitsAllocated == _BYTE else "OW", data + b"\0" * (len(data) % 2))
