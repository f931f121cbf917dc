"""The radiograph again, in grey at the source's depth, with two overlay planes that a viewer can switch off.

The pixel grid is the source's. Plane 6000 holds the outlines with a word on what they are, as graphics; plane 6002 the
region that carries half of the evidence, as a region of interest; without one there is no such plane. Only the
disclaimer and which image of the study it is are burned in, because the planes can be hidden.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import format_number_as_ds

from dicom_node.dicom.elements import integer
from dicom_node.results import codes
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.header import DISCLAIMER, plain
from dicom_node.results.image import derivation, pixel_spacing, secondary_capture
from dicom_node.results.notes import which
from dicom_node.results.regions import MARKED, contours, headline
from dicom_node.results.text import READABLE, font, line_height, wrap
from explain_core import display
from explain_core.explanation import Explanation

OUTLINE_GROUP = 0x6000
REGION_GROUP = 0x6002

_BYTE = 8
_WORD = 16
_ROWS = 16


def burned(luminance: NDArray[np.float32], shown: str = "") -> NDArray[np.float32]:
    """A copy of `luminance` with the disclaimer, and which image is shown, in white on black along its lower edge."""
    rows, columns = luminance.shape
    height = max(8, -(-rows // READABLE))
    said = f"{DISCLAIMER}. Image: {shown}" if shown else DISCLAIMER
    lines = wrap(said, font(height), columns - height)
    strip = Image.new("L", (columns, len(lines) * line_height(height) + height // 2))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        top = number * line_height(height) + height // 4
        draw.text((columns / 2, top), line, fill=255, font=font(height), anchor="ma")
    strip = strip.crop((0, 0, columns, min(strip.height, rows)))  # of a strip of an image
    left, _, right, _ = strip.getbbox() or (0, 0, columns, 0)
    box = slice(max(0, left - height // 2), min(columns, right + height // 2))
    copy = luminance.copy()
    copy[rows - strip.height :, box] = np.asarray(strip, dtype=np.float32)[:, box] / 255
    return copy


def stored(luminance: NDArray[np.float32], bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """`luminance`, 0 to 1, as whole numbers of so many bits; a few rows at a time, which the processor keeps near."""
    pixels = np.empty(luminance.shape, np.uint8 if bits == _BYTE else np.uint16)
    for first in range(0, len(pixels), _ROWS):
        rows = slice(first, first + _ROWS)
        pixels[rows] = np.rint(luminance[rows].astype(np.float64) * ((1 << bits) - 1))
    return pixels


def outline_plane(explanation: Explanation) -> NDArray[np.bool_]:
    """Outlines of half of the evidence, and what they are beside the largest one; without any, only that there is none.

    Returns:
        bool, shape (rows, columns) of the source.
    """
    rows, columns = explanation.attribution.values.shape
    image = Image.new("L", (columns, rows))
    lines = contours(explanation)
    display.draw_outlines(image, lines, colour=255, width=max(2, rows // 400))
    height = max(8, -(-rows // READABLE))
    words = wrap(headline(explanation), font(height), columns)
    x, y = lines[0].min(axis=0) if lines else (height, height + len(words) * line_height(height))
    wide = max(font(height).getlength(line) for line in words)
    left, top = max(0, min(x, columns - wide)), max(0, y - len(words) * line_height(height))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(words):
        draw.text((left, top + number * line_height(height)), line, fill=255, font=font(height), anchor="la")
    bits: NDArray[np.bool_] = np.asarray(image) >= 128  # noqa: PLR2004
    return bits


def add_plane(ds: Dataset, group: int, bits: NDArray[np.bool_], kind: str, label: str, description: str) -> None:
    """Put `bits` into an overlay plane on the image's own grid (PS3.3 C.9.2).

    Args:
        ds: the image.
        group: 0x6000, 0x6002, ... 0x601E.
        bits: bool, shape (rows, columns) of the image; packed without a gap between rows, to an even length.
        kind: G for graphics, R for a region of interest.
        label: what the plane is, of which printable ASCII is kept.
        description: the same in more words.
    """
    rows, columns = bits.shape
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    for element, vr, value in (
        (0x0010, "US", rows),
        (0x0011, "US", columns),
        (0x0022, "LO", plain(description)),
        (0x0040, "CS", kind),
        (0x0045, "LO", "AUTOMATED"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", plain(label)),
        (0x3000, "OW", packed + b"\0" * (len(packed) % 2)),
    ):
        ds.add_new((group, element), vr, value)


def add_statistics(ds: Dataset, group: int, values: NDArray[Any]) -> None:
    """Area, mean and standard deviation of a region of interest (PS3.3 C.9.2.1.2).

    Args:
        ds: the image.
        group: the region's plane.
        values: the image's pixel values in the region, as stored in `ds`; at least one.
    """
    ds.add_new((group, 0x1301), "IS", values.size)
    ds.add_new((group, 0x1302), "DS", format_number_as_ds(float(values.mean())))
    ds.add_new((group, 0x1303), "DS", format_number_as_ds(float(values.std())))


@dataclass(frozen=True, slots=True)
class Overlay:
    """Builds the grey Secondary Capture with the overlay planes."""

    name: str = "overlay"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 2
    fallback: str | None = "secondary_capture"

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - it fits every image
        """Every image can have it."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, context: ResultContext) -> Dataset:
        """The windowed radiograph on its own grid and at its own depth, with half of the evidence as overlays."""
        bits = min(max(integer(context.header, "BitsStored", _WORD), _BYTE), _WORD)
        pixels = stored(burned(context.radiograph.pixels, which(context.header)), bits)
        ds = secondary_capture(context, self.name, self.series, pixels)
        ds.BitsStored, ds.HighBit = bits, bits - 1
        ds.WindowCenter, ds.WindowWidth = str(1 << (bits - 1)), str(1 << bits)
        ds.SourceImageSequence[0].SpatialLocationsPreserved = "YES"
        pixel_spacing(ds, context.header, 1)
        derivation(
            ds,
            "Windowed source image with the region that carries half of the evidence, and its outline, as overlays. "
            f"{DISCLAIMER}.",
            codes.VISUAL_EXPLANATION,
        )
        explanation = context.explanation
        scale = explanation.attribution.scale
        region = explanation.attribution.half_of_evidence
        outline = outline_plane(explanation)
        add_plane(ds, OUTLINE_GROUP, outline, "G", f"{MARKED}: outline", headline(explanation))
        if region.any():  # a viewer may darken what is outside a region of interest: of an empty one, the whole image
            add_plane(ds, REGION_GROUP, region, "R", MARKED, f"{MARKED}: heatmap above {scale.floor:.3g}")
            add_statistics(ds, REGION_GROUP, pixels[region])
        return ds


PLUGIN = Overlay()
