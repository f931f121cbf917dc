"""The viewer-safe copy: a true-colour Secondary Capture of the heatmap over the radiograph, with its legend.

+------------------------------+     The picture has its true shape and the wanted size; the legend stands beside it,
| R +-----------------+ L text |     so the whole is larger. Nothing covers the picture: the letters of the patient's
|   |                 |   text |     sides stand in the margins.
|   |     picture     |   text |
|   |                 |   text |
|   +-----------------+   bar  |
+------------------------------+
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.header import code
from dicom_node.results import _codes as codes
from dicom_node.results._context import ResultContext, StudyContext
from dicom_node.results._encoding import compress
from dicom_node.results._header import DISCLAIMER
from dicom_node.results._image import derivation, pixel_shape, secondary_capture, square_pixel_spacing
from dicom_node.results._legend import Sentence, sentences
from dicom_node.results._notes import which
from dicom_node.results._patient import patient_lines
from dicom_node.results._sides import Sides, sides
from dicom_node.results._text import (
    BACKGROUND,
    READABLE,
    TEXT,
    Font,
    Line,
    font,
    font_names,
    line_height,
    lines_of,
    write,
)
from explain_core import display
from explain_core.explanation import Explanation, HeatmapScale
from explain_core.radiograph import Radiograph

SHORTEST_LONG_EDGE = 512
"""An outline cannot be read on less: images smaller than this are enlarged."""

OUTLINE = (110, 220, 255)
_LEAST_TEXT = 14
_LEGIBLE = 60
"""Text that is at least this part of the longest side, too, is large enough for a viewer that shows the whole."""
_MOST_TIMES = 3


class Box(NamedTuple):
    """Part of an image, in pixels."""

    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are in the image, in pixels.

    Attributes:
        rows, columns: the whole image.
        picture: the radiograph.
        text: height of the text.
        lines: the legend, from its top downwards.
        legend: the room of the legend: `lines`, and below them the colour bar.
        bar: the colour bar itself, with a line of text above and one below it.
    """

    rows: int
    columns: int
    picture: Box
    text: int
    lines: tuple[Line, ...]
    legend: Box
    bar: Box

    @property
    def longest(self) -> int:
        """The longest side of the whole image."""
        return max(self.rows, self.columns)


def picture_shape(shape: tuple[int, int], long_edge: int, pixel: tuple[float, float] = (1, 1)) -> tuple[int, int]:
    """Rows and columns of square pixels for a source of `shape`.

    Args:
        shape: rows and columns of the source.
        long_edge: wanted longest side; never more than the source's, never less than 512.
        pixel: height and width of the source's pixels, in any unit.
    """
    full = [size * step / min(pixel) for size, step in zip(shape, pixel, strict=True)]
    share = max(min(long_edge, max(full)), SHORTEST_LONG_EDGE) / max(full)
    return max(1, round(full[0] * share)), max(1, round(full[1] * share))


def layout(shape: tuple[int, int], said: tuple[Sentence, ...], scale: HeatmapScale, marked: Sides | None) -> Layout:
    """The picture with the narrowest legend beside it that is as high as the picture.

    Text is at least one 32nd of the height of the whole, and every sentence fits. Beside a wide picture such text would
    be too small for the length of the whole: then it is larger, and the legend higher than the picture.

    Args:
        shape: rows and columns of the picture.
        said: the sentences of the legend.
        scale: of the colour bar.
        marked: the sides whose letters stand in the margins.
    """
    least = height = max(_LEAST_TEXT, -(-shape[0] // (READABLE - 4)))
    best = _with_text(height, shape, said, scale, marked, higher=False)
    while best.longest > _LEGIBLE * best.text and height < _MOST_TIMES * least:
        height += -(-height // 16)
        larger = _with_text(height, shape, said, scale, marked, higher=True)
        best = min(best, larger, key=lambda place: place.longest / place.text)
    return best


def render(
    radiograph: Radiograph, explanation: Explanation, place: Layout, marked: Sides | None = None
) -> NDArray[np.uint8]:
    """The picture with its legend; uint8 sRGB, shape (rows, columns, 3) of `place`."""
    attribution, box = explanation.attribution, place.picture
    shape = (box.rows, box.columns)
    fused = display.fuse(
        display.resize(radiograph.pixels, shape), display.resize(attribution.values, shape), attribution.scale
    )
    picture = Image.fromarray(fused)
    zoom = np.array(shape[::-1]) / radiograph.pixels.shape[::-1]
    lines = tuple(line * zoom for line in display.outlines(display.salient(attribution), holes=True))
    display.draw_outlines(picture, lines, colour=OUTLINE, width=max(1, max(shape) // 500))
    image = Image.new("RGB", (place.columns, place.rows), BACKGROUND)
    image.paste(picture, (box.left, box.top))
    write(image, place.lines, place.text, (place.legend.left, place.legend.top))
    _draw_bar(image, place, attribution.scale)
    if marked is not None:
        _draw_letters(image, place, marked)
    return np.asarray(image)


def labels(scale: HeatmapScale) -> tuple[str, str, str]:
    """What stands at the floor, the salient value and full scale of the colour bar."""
    return (f"none below {scale.floor:.3g}", f"outlined from {scale.salient:.3g}", f"{scale.full_scale:.3g} or more")


def _with_text(
    height: int,
    shape: tuple[int, int],
    said: tuple[Sentence, ...],
    scale: HeatmapScale,
    marked: Sides | None,
    *,
    higher: bool,
) -> Layout:
    """The layout with text of one height; the legend may be `higher` than the picture if its text stays readable."""
    top, left, bottom, right = _margins(height, marked)
    rows, columns = top + shape[0] + bottom, left + shape[1] + right
    most = READABLE * height if higher else rows
    width = _least_width(scale, height)
    lines = lines_of(said, height, width)
    while _legend_rows(len(lines), height) > most and len(lines) > len(said):
        width += max(height, width // 16)
        lines = lines_of(said, height, width)
    rows = max(rows, _legend_rows(len(lines), height))
    bar = height // 2 + (len(lines) + 1) * line_height(height) + height // 4
    return Layout(
        rows=rows,
        columns=columns + width + height // 2,
        picture=Box(top, left, *shape),
        text=height,
        lines=lines,
        legend=Box(height // 2, columns, rows - height, width),
        bar=Box(bar, columns, height, width),
    )


def _margins(height: int, marked: Sides | None) -> tuple[int, int, int, int]:
    """Free pixels above, left of, below and right of the picture: room for letters where they stand."""
    little, letter = height // 2, round(1.5 * height)
    if marked is None:
        return little, little, little, little
    return (letter, little, letter, little) if marked.upright else (little, letter, little, letter)


def _least_width(scale: HeatmapScale, height: int) -> int:
    """What the labels of the colour bar need: two of them stand in one line."""
    floor, salient, full = (font(height).getlength(label) for label in labels(scale))
    return int(max(floor + full + height, salient)) + 1


def _legend_rows(lines: int, height: int) -> int:
    """Height of the text and of the colour bar with its labels, margins included."""
    return (lines + 2) * line_height(height) + 2 * height + height // 2


def _draw_bar(image: Image.Image, place: Layout, scale: HeatmapScale) -> None:
    """The colour bar from 0 to full scale, and where painting and outlines begin on it."""
    draw, box, chosen = ImageDraw.Draw(image), place.bar, font(place.text)
    bar = np.rot90(display.colour_bar(box.columns, box.rows, scale), -1)  # full scale from the top to the right
    image.paste(Image.fromarray(np.ascontiguousarray(bar)), (box.left, box.top))
    last, below = box.left + box.columns - 1, box.top + box.rows
    draw.rectangle((box.left, box.top, last, below - 1), outline=TEXT)
    floor, salient, full = labels(scale)
    tick, wide = max(1, place.text // 4), max(1, place.text // 12)
    for value, text, colour, above in ((scale.floor, floor, TEXT, False), (scale.salient, salient, OUTLINE, True)):
        x = box.left + round((box.columns - 1) * value / scale.full_scale)
        draw.line((x, box.top - tick if above else box.top, x, below - 1 + tick * (not above)), fill=colour, width=wide)
        most = last if above else last - round(chosen.getlength(full)) - place.text
        left = max(box.left, min(x - round(chosen.getlength(text) / 2), most - round(chosen.getlength(text))))
        _label(draw, (left, box.top - line_height(place.text) if above else below + tick), text, colour, chosen)
    _label(draw, (last - round(chosen.getlength(full)), below + tick), full, TEXT, chosen)


def _label(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple[int, int, int], chosen: Font
) -> None:
    draw.text(place, text, fill=colour, font=chosen, anchor="la")


def _draw_letters(image: Image.Image, place: Layout, marked: Sides) -> None:
    """The letters of the patient's sides, in the margins at the picture's edges."""
    draw, chosen = ImageDraw.Draw(image), font(place.text)
    for letter, (x, y) in zip((marked.first, marked.last), _letters_at(place, marked), strict=True):
        draw.text((x, y), letter, fill=TEXT, font=chosen, anchor="mm")


def _letters_at(place: Layout, marked: Sides) -> Iterator[tuple[int, int]]:
    """Middles of the letters, as x and y."""
    box, away = place.picture, round(0.75 * place.text)
    if marked.upright:
        x = box.left + box.columns // 2
        yield from ((x, box.top - away), (x, box.top + box.rows + away))
    else:
        y = box.top + place.text
        yield from ((box.left - away, y), (box.left + box.columns + away, y))


@dataclass(frozen=True, slots=True)
class SecondaryCapture:
    """Builds the true-colour Secondary Capture."""

    name: str = "secondary_capture"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 1
    fallback: str | None = None

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - it fits every image
        """Every image can have it."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, context: ResultContext) -> Dataset:
        """The heatmap fused over the radiograph, with colour bar, decision, model and disclaimer."""
        options, shape = context.options, context.radiograph.pixels.shape
        marked = sides(
            context.radiograph.orientation, quadruped=code(context.header, "AnatomicalOrientationType") == "QUADRUPED"
        )
        said = legend(context, marked)
        shown = picture_shape((shape[0], shape[1]), options.long_edge, pixel_shape(context.header))
        place = layout(shown, said, context.explanation.attribution.scale, marked)
        pixels = render(context.radiograph, context.explanation, place, marked)
        ds = secondary_capture(context, self.name, self.series, pixels, *options.picture, *font_names(place.lines))
        square_pixel_spacing(ds, context.header, (shape[0], shape[1]), shown)
        derivation(
            ds,
            f"Heatmap ({context.explanation.provenance.method}) fused over the source image, resampled, with "
            f"a legend in the margins. {DISCLAIMER}.",
            codes.VISUAL_EXPLANATION,
            codes.SPATIAL_RESAMPLING,
        )
        compress(ds, pixels, options.compression)
        return ds


def legend(context: ResultContext, marked: Sides | None) -> tuple[Sentence, ...]:
    """Everything that the picture of `context` says."""
    patient = patient_lines(context.header) if context.options.patient_in_image else ()
    shown = which(context.header)
    return (
        Sentence(DISCLAIMER, warning=True),
        *sentences(context.explanation),
        *(Sentence(line) for line in patient),
        *((Sentence(f"Image: {shown}"),) if shown else ()),
        *(() if marked is not None else (Sentence("Sides not stated by the source"),)),
        Sentence(f"Made on {context.moment:%Y-%m-%d} at {context.moment:%H:%M %z}"),
    )


PLUGIN = SecondaryCapture()
