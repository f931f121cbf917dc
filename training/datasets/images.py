"""Image files as luminance: JPEG and PNG through Pillow, DICOM through pydicom."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

THREADS = 4
"""That decode at a time."""

_HEADER_TAGS = [
    "Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "ViewPosition",
]  # fmt: skip
_JPEG_FAMILY = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes])
_JPEG_END = b"\xff\xd9"
_ENDS = {"JPEG": _JPEG_END, "PNG": b"IEND"}
_TAIL = 1024  # bytes in which the end marker must stand; some writers add a few after it
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16B", "I;16L"})
Found = TypeVar("Found")


class UnreadableImage(ValueError):
    """An image file cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says of itself: rows and columns in pixels, and the view where it names one, else ""."""

    shape: tuple[int, int]
    view: str


def header(path: Path) -> Header:
    """Read the header of an image file and check that its end is there; the pixels are not decoded.

    Raises:
        FileNotFoundError: no such file.
        UnreadableImage: no image, cut off, or more than one frame.
    """
    return _read(path, _dicom_header, _picture_header)


def load_pixels(path: Path) -> NDArray[np.float32]:
    """An image file as luminance, float32 in [0, 1], shape (rows, columns), 0 = black.

    Raises:
        FileNotFoundError: no such file.
        UnreadableImage: the pixels cannot be decoded.
    """
    return _read(path, _dicom, _picture)


def _read(path: Path, dicom: Callable[[Path], Found], picture: Callable[[Path], Found]) -> Found:
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        return dicom(path) if path.suffix.lower() == ".dcm" else picture(path)
    except (MemoryError, UnreadableImage):
        raise
    except Exception as error:  # decoders raise whatever they like: these bytes are not an image
        raise UnreadableImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        return file.read()


def _picture_header(path: Path) -> Header:
    with Image.open(path) as image:
        columns, rows = image.size
        end = _ENDS.get(image.format or "")
    if end is not None and end not in _tail(path):
        raise UnreadableImage("the file is cut off: its end marker is missing")
    return Header((rows, columns), "")


def _picture(path: Path) -> NDArray[np.float32]:
    with Image.open(path) as image:
        if image.mode in _SIXTEEN_BITS:
            return np.asarray(image, np.float32) / np.float32(65535)
        return np.asarray(image.convert("L"), np.float32) / np.float32(255)


def _dicom_header(path: Path) -> Header:
    ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
    rows, columns = int(ds.Rows), int(ds.Columns)
    if int(ds.get("NumberOfFrames") or 1) != 1 or int(ds.get("SamplesPerPixel") or 1) != 1:
        raise UnreadableImage("not a single grey frame")
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in _JPEG_FAMILY:
        if _JPEG_END not in _tail(path):
            raise UnreadableImage("the file is cut off: its end marker is missing")
    elif not syntax.is_compressed and path.stat().st_size < rows * columns * int(ds.BitsAllocated) // 8:
        raise UnreadableImage("the file is cut off: it is shorter than its pixels")
    return Header((rows, columns), str(ds.get("ViewPosition") or "").strip().upper())


def _dicom(path: Path) -> NDArray[np.float32]:
    """Modality and VOI transforms, then the full range of 8 bits or of the values found, MONOCHROME1 inverted."""
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array
    if stored.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise UnreadableImage(f"not a single grey frame: shape {stored.shape}")
    shown = apply_voi_lut(apply_modality_lut(stored, ds), ds)
    plain = shown is stored or np.array_equal(shown, stored)
    low, high = (0.0, 255.0) if plain and stored.dtype == np.uint8 else (float(shown.min()), float(shown.max()))
    luminance = np.clip((shown.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        luminance = 1 - luminance
    return np.ascontiguousarray(luminance, np.float32)
