"""Text in images: a font of a wanted height that carries the text, words wrapped to a width, lines on a ground."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from dicom_node.results import fonts
from dicom_node.results.legend import Sentence

Font: TypeAlias = ImageFont.FreeTypeFont

READABLE = 32
"""Text is at least one 32nd of an image's height: less was unreadable in viewers."""

BACKGROUND = (16, 18, 22)
TEXT = (236, 236, 236)
WARNING = (255, 190, 60)

_TRIAL = 128
_BINDING = frozenset({"Mn", "Mc", "Me", "Cf"})


class Line(NamedTuple):
    """One line of text.

    Attributes:
        text: what fits into the line.
        warning: whether it belongs to a warning.
        path: of the font file, "" for Pillow's own.
    """

    text: str
    warning: bool
    path: str


def font(height: int, text: str = "") -> Font:
    """The font for `text` in the smallest size whose Latin letters, with descenders, are `height` pixels high.

    It is the first that has every letter of `text`; where none has, Pillow's own, which then shows boxes.
    """
    return _sized(fonts.face(text) or fonts.BUILT_IN, height)


def printable(text: str) -> bool:
    """Whether a font of this host carries every letter of `text`, and `text` was decoded without loss."""
    return "\ufffd" not in text and fonts.face(text) is not None


def line_height(height: int) -> int:
    """Distance of two lines of text `height` pixels high."""
    return round(height * 1.3)


def wrap(text: str, chosen: Font, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word longer than a line is cut, never before a combining mark."""
    lines, words = [], text.split()
    while words:
        fits = _words_fitting(words, chosen, width)
        if fits or len(words[0]) == 1:
            lines.append(" ".join(words[: fits or 1]))
            words = words[fits or 1 :]
        else:
            letters = _fitting(words[0], chosen, width)
            lines.append(words[0][:letters])
            words[0] = words[0][letters:]  # what is left of it
    return lines


def lines_of(said: Iterable[Sentence], height: int, width: int) -> tuple[Line, ...]:
    """Sentences as lines of at most `width` pixels, each sentence in one font."""
    lines: list[Line] = []
    for sentence in said:
        path = fonts.face(sentence.text) or fonts.BUILT_IN
        lines += [Line(text, sentence.warning, path) for text in wrap(sentence.text, _sized(path, height), width)]
    return tuple(lines)


def font_names(lines: Iterable[Line]) -> tuple[str, ...]:
    """Names of the font files other than Pillow's own, sorted: with others the same text gives other pixels."""
    return tuple(sorted({Path(line.path).name for line in lines if line.path != fonts.BUILT_IN}))


def write(image: Image.Image, lines: Iterable[Line], height: int, place: tuple[int, int]) -> None:
    """Write `lines` below each other into `image`, beginning at `place` (x, y), all on the rhythm of the own font."""
    x, y = place
    baseline = round(font(height).getbbox("A", anchor="la")[3])
    for number, line in enumerate(lines):
        left, top, mask = _drawn(line.path, height, line.text)
        at = (x + left, y + number * line_height(height) + baseline + top)
        image.paste(WARNING if line.warning else TEXT, at, mask)


def length(text: str, chosen: Font) -> float:
    """How many pixels wide `text` is; every result says much that was said before."""
    return _length(chosen, text)


def _words_fitting(words: Sequence[str], chosen: Font, width: int) -> int:
    """How many of the first words are a line of at most `width` pixels; with each one more it is longer."""
    if length(" ".join(words), chosen) <= width:
        return len(words)
    fit, more = 0, len(words)
    while more - fit > 1:
        half = (fit + more) // 2
        if length(" ".join(words[:half]), chosen) <= width:
            fit = half
        else:
            more = half
    return fit


def _fitting(word: str, chosen: Font, width: int) -> int:
    """How many letters of `word` fit into `width` pixels, at least one."""
    fits = next((n for n in range(len(word) - 1, 1, -1) if length(word[:n], chosen) <= width), 1)
    while fits > 1 and unicodedata.category(word[fits]) in _BINDING:
        fits -= 1
    return fits


@lru_cache(maxsize=4096)
def _length(chosen: Font, text: str) -> float:
    return chosen.getlength(text)


@lru_cache(maxsize=256)
def _drawn(path: str, height: int, text: str) -> tuple[int, int, Image.Image]:
    """How much ink `text` has where, and where that begins beside the baseline's left end."""
    chosen = _sized(path, height)
    left, top, right, bottom = (round(edge) for edge in chosen.getbbox(text, anchor="ls"))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=chosen, anchor="ls")
    return left, top, mask


@lru_cache(maxsize=256)
def _sized(path: str, height: int) -> Font:
    size = max(6, height * _TRIAL // _rise(path, _TRIAL) - 2)
    while _rise(path, size) < height:
        size += 1
    return fonts.load(path, size)


@lru_cache(maxsize=1024)
def _rise(path: str, size: int) -> int:
    """From the lowest to the highest pixel of Latin letters."""
    _, top, _, bottom = fonts.load(path, size).getbbox("Ag")
    return round(bottom - top)
