"""The radiograph again, in grey, with the salient region in an overlay plane that a viewer can switch off.

The pixel grid is the source's. The plane (6000,eeee) holds the outlines and the finding's name; only the
disclaimer is burned in, because the plane that says so can be hidden.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.header import integer
from dicom_node.results import _codes as codes
from dicom_node.results._context import ResultContext
from dicom_node.results._header import DISCLAIMER, plain
from dicom_node.results._image import derivation, pixel_spacing, secondary_capture
from dicom_node.results._text import READABLE, font, line_height, wrap
from explain_core import display
from explain_core.explanation import Explanation

_BYTE = 8
_STORED = 12


def burned(luminance: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of `luminance` with the disclaimer in white on black along its lower edge; same shape."""
    rows, columns = luminance.shape
    height = max(8, -(-rows // READABLE))
    lines = wrap(DISCLAIMER, font(height), columns - height)
    strip = Image.new("L", (columns, len(lines) * line_height(height) + height // 2))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        top = number * line_height(height) + height // 4
        draw.text((columns / 2, top), line, fill=255, font=font(height), anchor="ma")
    left, _, right, _ = strip.getbbox() or (0, 0, columns, 0)
    box = slice(max(0, left - height // 2), min(columns, right + height // 2))
    copy = luminance.copy()
    copy[rows - strip.height :, box] = np.asarray(strip, dtype=np.float32)[:, box] / 255
    return copy


def plane(explanation: Explanation) -> NDArray[np.bool_]:
    """The bits of the overlay: outlines of the salient regions, and the finding beside the largest one."""
    attribution, prediction = explanation.attribution, explanation.prediction
    rows, columns = attribution.values.shape
    image = Image.new("L", (columns, rows))
    lines = display.outlines(display.salient(attribution), holes=True)
    display.draw_outlines(image, lines, colour=255, width=max(2, rows // 400))
    height = max(8, -(-rows // READABLE))
    text = f"{prediction.label} {prediction.probability:.1%}" if lines else "No salient region"
    x, y = lines[0].min(axis=0) if lines else (height, 2 * height)
    wide = min(font(height).getlength(text), columns)
    place = (max(0, min(x, columns - wide)), max(0, y - line_height(height)))
    ImageDraw.Draw(image).text(place, text, fill=255, font=font(height), anchor="la")
    bits: NDArray[np.bool_] = np.asarray(image) >= 128  # noqa: PLR2004
    return bits


def add_overlay(ds: Dataset, bits: NDArray[np.bool_], label: str, description: str) -> None:
    """Put `bits` into overlay plane 6000 on the image's own grid (PS3.3 C.9.2)."""
    rows, columns = bits.shape
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    for element, vr, value in (
        (0x0010, "US", rows),
        (0x0011, "US", columns),
        (0x0022, "LO", plain(description)),
        (0x0040, "CS", "G"),
        (0x0045, "LO", "AUTOMATED"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", plain(label)),
        (0x3000, "OW", packed + b"\0" * (len(packed) % 2)),
    ):
        ds.add_new((0x6000, element), vr, value)


@dataclass(frozen=True, slots=True)
class Overlay:
    """Builds the grey Secondary Capture with the overlay plane."""

    name: str = "overlay"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 2

    def build(self, context: ResultContext) -> Dataset:
        """The windowed radiograph on its own grid, with the salient regions' outlines as overlay."""
        luminance, attribution = burned(context.radiograph.pixels), context.explanation.attribution
        bits = _BYTE if integer(context.header, "BitsStored", _STORED) <= _BYTE else _STORED
        full = (1 << bits) - 1
        pixels = np.rint(luminance * full).astype(np.uint8 if bits == _BYTE else np.uint16)
        ds = secondary_capture(context, self.name, self.series, pixels)
        ds.BitsStored, ds.HighBit = bits, bits - 1
        ds.WindowCenter, ds.WindowWidth = str(1 << (bits - 1)), str(1 << bits)
        ds.SourceImageSequence[0].SpatialLocationsPreserved = "YES"
        pixel_spacing(ds, context.header, 1)
        derivation(
            ds,
            f"Windowed source image with the outline of the salient region as overlay. {DISCLAIMER}.",
            codes.VISUAL_EXPLANATION,
        )
        scale = attribution.scale
        add_overlay(ds, plane(context.explanation), "Salient region", f"Heatmap >= {scale.salient:.3g}: {scale.unit}")
        return ds


PLUGIN = Overlay()
