"""The viewer-safe copy: a true-colour Secondary Capture of the heatmap over the radiograph, with its legend.

+-----------------+----+     The whole image and the picture in it have the source's aspect ratio, so the
|                 |    |     margins are an L: the colour bar on the right, the text below. Nothing covers
|     picture     |bar |     the picture.
|                 |    |
+-----------------+    |
|  text                |
+----------------------+
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.results import _codes as codes
from dicom_node.results._context import ResultContext
from dicom_node.results._header import DISCLAIMER
from dicom_node.results._image import derivation, pixel_spacing, secondary_capture
from dicom_node.results._text import READABLE, Font, font, line_height, wrap
from explain_core import display
from explain_core.explanation import Explanation, HeatmapScale
from explain_core.radiograph import Radiograph

SHORTEST_LONG_EDGE = 512
"""The legend cannot be read on less: images smaller than this are enlarged."""

_BACKGROUND = (16, 18, 22)
_TEXT_COLOUR = (236, 236, 236)
_WARNING_COLOUR = (255, 190, 60)
_OUTLINE_COLOUR = (110, 220, 255)
_LEAST_SHARE = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are in the image, in pixels.

    Attributes:
        rows, columns: the whole image.
        picture: rows and columns of the picture, which begins at the top left corner.
        text: height of the text.
        lines: the text below the picture; the first `warning` of them are the disclaimer.
        warning: number of lines of the disclaimer.
    """

    rows: int
    columns: int
    picture: tuple[int, int]
    text: int
    lines: tuple[str, ...]
    warning: int


def layout(shape: tuple[int, int], sentences: tuple[str, ...], long_edge: int) -> Layout:
    """Give the picture the room that the text below it leaves.

    Args:
        shape: rows and columns of the source.
        sentences: the disclaimer, then what else is to be said; each begins a line.
        long_edge: wanted longest side; never more than the source's, never less than 512.
    """
    longest = max(min(long_edge, max(shape)), SHORTEST_LONG_EDGE)
    rows, columns = (max(1, round(side * longest / max(shape))) for side in shape)
    height = -(-rows // READABLE)
    while True:
        margin = max(2, height // 2)
        wrapped = [wrap(sentence, font(height), columns - 2 * margin) for sentence in sentences]
        lines = tuple(line for sentence in wrapped for line in sentence)
        share = 1 - (len(lines) * line_height(height) + 2 * margin) / rows
        if share >= _LEAST_SHARE or height <= 8:  # noqa: PLR2004 - below this nothing is legible anyway
            break
        height -= 1
    share = max(share, _LEAST_SHARE)
    picture = (max(1, int(rows * share)), max(1, int(columns * share)))
    return Layout(rows=rows, columns=columns, picture=picture, text=height, lines=lines, warning=len(wrapped[0]))


def sentences(explanation: Explanation) -> tuple[str, ...]:
    """What the legend says, most important first."""
    prediction, model = explanation.prediction, explanation.provenance.model
    called = "called present" if prediction.positive else "not called"
    said = [
        DISCLAIMER,
        f"{prediction.label}: {prediction.probability:.1%}, {called} (threshold {prediction.threshold:.1%})",
    ]
    if explanation.adversarial is not None:
        crosses = "crosses the threshold" if explanation.decision_changed else "does NOT cross the threshold"
        said.append(f"Adversarial image: {explanation.adversarial.probability:.1%}, {crosses}")
    said.append(f"Colour: {explanation.attribution.scale.unit}")
    covered = float(explanation.attribution.covered.mean())
    if covered < 0.99:  # noqa: PLR2004 - a rim of a few pixels is not worth a line
        said.append(f"{1 - covered:.0%} of the image was not examined")
    said.append(f"Model {model.name} {model.version}, method {explanation.provenance.method}")
    return tuple(said)


def render(radiograph: Radiograph, explanation: Explanation, place: Layout) -> NDArray[np.uint8]:
    """The picture with its legend; uint8 sRGB, shape (rows, columns, 3) of `place`."""
    attribution = explanation.attribution
    fused = display.fuse(
        display.resize(radiograph.pixels, place.picture),
        display.resize(attribution.values, place.picture),
        attribution.scale,
    )
    picture = Image.fromarray(fused)
    zoom = np.array(place.picture[::-1]) / radiograph.pixels.shape[::-1]
    lines = tuple(line * zoom for line in display.outlines(display.salient(attribution), holes=True))
    display.draw_outlines(picture, lines, colour=_OUTLINE_COLOUR, width=max(1, place.rows // 500))
    image = Image.new("RGB", (place.columns, place.rows), _BACKGROUND)
    image.paste(picture, (0, 0))
    _write_text(image, place)
    _draw_bar(image, place, attribution.scale)
    return np.asarray(image)


def _write_text(image: Image.Image, place: Layout) -> None:
    draw, margin = ImageDraw.Draw(image), max(2, place.text // 2)
    for number, line in enumerate(place.lines):
        colour = _WARNING_COLOUR if number < place.warning else _TEXT_COLOUR
        top = place.picture[0] + margin + number * line_height(place.text)
        draw.text((margin, top), line, fill=colour, font=font(place.text), anchor="la")


def _draw_bar(image: Image.Image, place: Layout, scale: HeatmapScale) -> None:
    """The colour bar in the right margin, with 0, the salient value and full scale beside it."""
    draw, room = ImageDraw.Draw(image), place.columns - place.picture[1]
    ticks = [(scale.full_scale, f">={scale.full_scale:.3g}"), (0.0, "0")]
    if 0 < scale.salient < scale.full_scale:
        ticks.append((scale.salient, f"{scale.salient:.3g}"))
    gap = max(2, room // 16)
    width = max(4, room // 4)
    chosen = _fitting(("outline", *(text for _, text in ticks)), room - width - 3 * gap, place.text)
    top, rows = place.text, max(8, place.picture[0] - 2 * place.text)
    left = place.picture[1] + gap
    image.paste(Image.fromarray(display.colour_bar(rows, width, scale)), (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + rows), outline=_TEXT_COLOUR)
    for value, text in ticks:
        y = top + round((rows - 1) * (1 - value / scale.full_scale))
        colour = _OUTLINE_COLOUR if 0 < value < scale.full_scale else _TEXT_COLOUR
        draw.line((left, y, left + width + gap, y), fill=colour, width=max(1, place.rows // 500))
        draw.text((left + width + 2 * gap, y), text, fill=colour, font=chosen, anchor="lm")
        if value == scale.salient:
            below = (left + width + 2 * gap, y + chosen.size)
            draw.text(below, "outline", fill=colour, font=chosen, anchor="lm")


def _fitting(texts: tuple[str, ...], width: int, height: int) -> Font:
    """The largest font up to `height` in which every text takes at most `width` pixels."""
    while height > 8 and max(font(height).getlength(text) for text in texts) > width:  # noqa: PLR2004
        height -= 1
    return font(height)


@dataclass(frozen=True, slots=True)
class SecondaryCapture:
    """Builds the true-colour Secondary Capture."""

    name: str = "secondary_capture"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 1

    def build(self, context: ResultContext) -> Dataset:
        """The heatmap fused over the radiograph, with colour bar, decision, model and disclaimer."""
        place = layout(context.radiograph.pixels.shape, sentences(context.explanation), context.options.long_edge)
        pixels = render(context.radiograph, context.explanation, place)
        ds = secondary_capture(context, self.name, self.series, pixels)
        pixel_spacing(ds, context.header, context.radiograph.pixels.shape[0] / place.picture[0])
        derivation(
            ds,
            f"Heatmap ({context.explanation.provenance.method}) fused over the source image, resampled, with "
            f"a legend in the margins. {DISCLAIMER}.",
            codes.VISUAL_EXPLANATION,
            codes.SPATIAL_RESAMPLING,
        )
        return ds


PLUGIN = SecondaryCapture()
