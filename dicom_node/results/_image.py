"""What the two Secondary Capture builders share: the modules of an image derived from a radiograph."""

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

from dicom_node.header import code, numbers, orientation
from dicom_node.results import _codes as codes
from dicom_node.results._context import ResultContext
from dicom_node.results._header import inherit, inherit_anatomy, reference, start

_ALWAYS_LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
_MAY_BE_LOSSY = frozenset({JPEG2000, HTJ2K})
_BYTE = 8
_DIRECTION = re.compile("[APRLHF]{1,3}")


def secondary_capture(context: ResultContext, kind: str, series: int, pixels: NDArray[Any]) -> Dataset:
    """A Secondary Capture (PS3.3 A.8.1) of `pixels`, uncompressed.

    Args:
        context: the explained image.
        kind: name of the builder.
        series: added to the site's first series number.
        pixels: uint8 RGB of shape (rows, columns, 3), or grey of shape (rows, columns).
    """
    ds = start(context, kind, SecondaryCaptureImageStorage)
    ds.Modality = "OT"
    ds.SeriesNumber = context.options.series_number_base + series
    inherit_anatomy(ds, context.header)
    ds.ConversionType = "WSD"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.ImageType = ["DERIVED", "SECONDARY"]
    directions = orientation(context.header) or ()
    ds.PatientOrientation = list(directions) if all(_DIRECTION.fullmatch(one) for one in directions) else None
    ds.BurnedInAnnotation = "YES"
    _lossy(ds, context.header)
    _source_image(ds, context)
    _pixels(ds, pixels)
    return ds


def pixel_spacing(ds: Dataset, source: Dataset, scale: float) -> None:
    """Pixel Spacing of a copy whose pixels are `scale` times as large; only if the source was calibrated.

    Imager Pixel Spacing has no place in a Secondary Capture; as Pixel Spacing it would pass for calibrated.
    """
    match numbers(source, "PixelSpacing"):
        case (row, column) if 0 < row < float("inf") and 0 < column < float("inf"):
            ds.PixelSpacing = [f"{row * scale:.8g}", f"{column * scale:.8g}"]
            kind = code(source, "PixelSpacingCalibrationType")
            if kind in {"GEOMETRY", "FIDUCIAL"}:
                ds.PixelSpacingCalibrationType = kind
                ds.PixelSpacingCalibrationDescription = "as in the source image"


def derivation(ds: Dataset, description: str, *what: Code) -> None:
    """How the pixels came to be, in words and codes (PS3.3 C.7.6.1.1.3)."""
    ds.DerivationDescription = description[:1024]
    ds.DerivationCodeSequence = [codes.item(one) for one in what]


def _lossy(ds: Dataset, source: Dataset) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); many sources do not say so themselves."""
    stated = code(source, "LossyImageCompression")
    meta = getattr(source, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
    if stated == "01" or syntax in _ALWAYS_LOSSY or (not stated and syntax in _MAY_BE_LOSSY):
        ds.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            inherit(source, ds, keyword)


def _source_image(ds: Dataset, context: ResultContext) -> None:
    item = reference(context.sources[0])
    item.PurposeOfReferenceCodeSequence = [codes.item(codes.SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "NO"
    ds.SourceImageSequence = [item]


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
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.add_new("PixelData", "OB" if ds.BitsAllocated == _BYTE else "OW", data + b"\0" * (len(data) % 2))
