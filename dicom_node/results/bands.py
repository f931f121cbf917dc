"""A picture at its full width with a band of text above it and one below: what a person takes in at a glance.

+------------------------------+     Nothing covers the picture. The letters of the patient's sides stand at the ends
| R  one line                L |     of the bands, the scale in words is the first line below. A picture that is too
+------------------------------+     narrow for its lines stands in the middle of a wider ground.
|                              |
|           picture            |
|                              |
+------------------------------+
| weak [=====] strong evidence |
| one line                     |
+------------------------------+
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results.legend import Sentence
from dicom_node.results.sides import Sides
from dicom_node.results.text import BACKGROUND, TEXT, WARNING, Font, Line, font, length, line_height, lines_of, write
from explain_core import display
from explain_core.explanation import HeatmapScale

OUTLINE = (110, 220, 255)

SHARE = 46
"""Text is one 46th of the picture's longest side where its lines then fit, and never less than one 56th of it."""
LEAST_SHARE = 56

WEAK, STRONG = "weak", "strong evidence"
_LEAST = 10
_BAR = 6  # times the height of the text
_QUIET = (150, 154, 160)


class Box(NamedTuple):
    """Part of an image, in pixels."""

    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """What is said around a picture.

    Attributes:
        above, below: sentences, each in a line of its own as long as it fits.
        scale: of the colours, None where the picture has none.
        beside: what stands at the end of the scale's line, in the colour of outlines unless it warns; without a scale
            in a line of its own.
        marked: the sides whose letters are shown.
    """

    above: tuple[Sentence, ...]
    below: tuple[Sentence, ...]
    scale: HeatmapScale | None = None
    beside: Sentence | None = None
    marked: Sides | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are, in pixels.

    Attributes:
        rows, columns: the whole image.
        picture: the picture.
        text: height of the text.
        above, below: lines, from the top of each band downwards; the line of the scale is not among them.
        scale: the line of the scale, or nothing of the height 0.
    """

    rows: int
    columns: int
    picture: Box
    text: int
    above: tuple[Line, ...]
    below: tuple[Line, ...]
    scale: Box

    def saying(self, said: Bands) -> "Layout":
        """The same places with other lines in them, of which there is room for as many."""
        margin = self.text // 2
        width = self.columns - 2 * margin - 2 * _letters(self.text, said.marked)
        return replace(
            self,
            above=lines_of(said.above, self.text, width),
            below=lines_of(said.below, self.text, self.columns - 2 * margin - _foot(self.text, said.marked)),
            scale=self.scale if said.scale is not None or said.beside is not None else self.scale._replace(rows=0),
        )


def layout(shape: tuple[int, int], said: Bands) -> Layout:
    """The picture of `shape` with its bands; text as large as fits, within limits."""
    height, least = (max(_LEAST, -(-max(shape) // share)) for share in (SHARE, LEAST_SHARE))
    while height > least and _needed(said, height) > shape[1]:
        height -= 1
    columns = max(shape[1], min(_needed(said, height), max(shape)))
    margin, letters, foot = height // 2, _letters(height, said.marked), _foot(height, said.marked)
    above = lines_of(said.above, height, columns - 2 * margin - 2 * letters)
    below = lines_of(said.below, height, columns - 2 * margin - foot)
    top = 2 * margin + len(above) * line_height(height)
    bottom = top + shape[0]
    scale = line_height(height) * (said.scale is not None or said.beside is not None)
    return Layout(
        rows=bottom + 2 * margin + scale + len(below) * line_height(height),
        columns=columns,
        picture=Box(top, (columns - shape[1]) // 2, *shape),
        text=height,
        above=above,
        below=below,
        scale=Box(bottom + margin, margin, scale, columns - 2 * margin - foot),
    )


def framed(picture: Image.Image, place: Layout, said: Bands) -> NDArray[np.uint8]:
    """`picture`, which has the shape of `place.picture`, with its bands; uint8 sRGB of the shape of `place`."""
    image = Image.new("RGB", (place.columns, place.rows), BACKGROUND)
    box, margin, letters = place.picture, place.text // 2, _letters(place.text, said.marked)
    image.paste(picture, (box.left, box.top))
    write(image, place.above, place.text, (margin + letters, margin))
    write(image, place.below, place.text, (margin, place.scale.top + place.scale.rows))
    if said.scale is not None or said.beside is not None:
        _draw_scale(image, place, said)
    if said.marked is not None:
        _draw_letters(image, place, said.marked)
    return np.asarray(image)


def _needed(said: Bands, height: int) -> int:
    """The width in which every sentence is one line."""
    chosen, letters, foot = font(height), _letters(height, said.marked), _foot(height, said.marked)
    wide = [length(one.text, font(height, one.text)) + 2 * letters for one in said.above]
    wide += [length(one.text, font(height, one.text)) + foot for one in said.below]
    scale = sum(length(word, chosen) for word in (WEAK, STRONG)) + (_BAR + 1) * height if said.scale else 0
    beside = length(said.beside.text, chosen) + (height if said.scale else 0) if said.beside else 0
    return int(max(*wide, scale + beside + foot)) + 1 + 2 * (height // 2)


def _letters(height: int, marked: Sides | None) -> int:
    """The width of a letter and the gap beside it."""
    return 0 if marked is None else round(1.5 * height)


def _foot(height: int, marked: Sides | None) -> int:
    """The same of the letter that stands below, where the axis of the sides is upright."""
    return _letters(height, marked) if marked is not None and marked.upright else 0


def _draw_scale(image: Image.Image, place: Layout, said: Bands) -> None:
    """The scale in words with the colours between them, then what stands beside it."""
    draw, box, height, chosen = ImageDraw.Draw(image), place.scale, place.text, font(place.text)
    baseline, x = box.top + _rise(chosen), box.left
    if said.scale is not None:
        draw.text((x, baseline), WEAK, fill=TEXT, font=chosen, anchor="ls")
        x += round(chosen.getlength(WEAK)) + height // 2
        rows = max(4, round(0.6 * height))
        bar = Image.fromarray(display.colour_bar(rows, _BAR * height, said.scale))
        image.paste(bar, (x, baseline - rows))
        x += bar.width + height // 2
        draw.text((x, baseline), STRONG, fill=TEXT, font=chosen, anchor="ls")
    if said.beside is not None:
        colour, right = WARNING if said.beside.warning else OUTLINE, box.left + box.columns
        place_x, anchor = (right, "rs") if said.scale is not None else (x, "ls")
        draw.text((place_x, baseline), said.beside.text, fill=colour, font=chosen, anchor=anchor)


def _draw_letters(image: Image.Image, place: Layout, marked: Sides) -> None:
    """The letters of the patient's sides at the ends of the band above; of an upright axis one in either band."""
    draw, chosen, margin = ImageDraw.Draw(image), font(place.text), place.text // 2
    baseline = margin + _rise(chosen)
    right = place.columns - margin
    below = place.scale.top + _rise(chosen)
    draw.text((margin, baseline), marked.first, fill=_QUIET, font=chosen, anchor="ls")
    draw.text((right, below if marked.upright else baseline), marked.last, fill=_QUIET, font=chosen, anchor="rs")


def _rise(chosen: Font) -> int:
    """From the top of a line to its baseline."""
    return round(chosen.getbbox("A", anchor="la")[3])
