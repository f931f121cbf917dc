"""Pixel data as a destination wants them: native, or compressed with the attributes that go with it (PS3.5 8.2)."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.settings.answers import Compression

QUALITY = 95
"""Of JPEG, on the scale of libjpeg: steps of text and outlines stay sharp."""

_METHOD = "ISO_10918_1"
_LOSSLESS: dict[Compression, tuple[UID, str, str]] = {
    "rle": (RLELossless, "RGB", "pylibjpeg"),
    "jpeg-ls": (JPEGLSLossless, "RGB", "pyjpegls"),
    "jpeg-2000": (JPEG2000Lossless, "YBR_RCT", "pylibjpeg"),
}
"""Transfer syntax, what the colours then are called, and the codec: one fixed codec gives fixed bytes."""

TRANSFER_SYNTAXES = (*(syntax for syntax, _, _ in _LOSSLESS.values()), JPEGBaseline8Bit)


def compress(ds: Dataset, pixels: NDArray[np.uint8], compression: Compression) -> None:
    """Compress `ds`, whose Pixel Data are `pixels` in native form; "none" leaves it as it is.

    Args:
        ds: an image of 8-bit RGB by pixel, in Explicit VR Little Endian.
        pixels: uint8 RGB, shape (rows, columns, 3).
        compression: of the destination.
    """
    if compression == "none":
        return
    if compression == "jpeg":
        _baseline(ds, pixels)
        return
    syntax, colours, codec = _LOSSLESS[compression]
    ds.PhotometricInterpretation = colours
    ds.compress(syntax, pixels, encoding_plugin=codec, generate_instance_uid=False)


def _baseline(ds: Dataset, pixels: NDArray[np.uint8]) -> None:
    """JPEG Baseline (Process 1), colour at half the horizontal resolution, with what PS3.3 C.7.6.1.1.5 asks for."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="jpeg", quality=QUALITY, subsampling="4:2:2", optimize=False)
    data = buffer.getvalue()
    ds.PixelData = encapsulate([data])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PlanarConfiguration = 0
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.LossyImageCompression = "01"
    ratios, methods = _values(ds, "LossyImageCompressionRatio"), _values(ds, "LossyImageCompressionMethod")
    if len(ratios) != len(methods):
        ratios, methods = [], []  # earlier steps that cannot be matched would be misread
    ds.LossyImageCompressionRatio = [*ratios, f"{pixels.nbytes / len(data):.2f}"]
    ds.LossyImageCompressionMethod = [*methods, _METHOD]


def _values(ds: Dataset, keyword: str) -> list[Any]:
    value = ds.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
