"""Text in images: a font of a wanted height, and words wrapped to a width."""

from functools import lru_cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont

READABLE = 32
"""Text is at least one 32nd of an image's height: less was unreadable in viewers."""


@lru_cache(maxsize=64)
def font(height: int) -> Font:
    """The smallest size of Pillow's own font whose letters, with descenders, are `height` pixels high."""
    size = max(6, height // 2)
    while True:
        chosen = ImageFont.load_default(size)
        if not isinstance(chosen, ImageFont.FreeTypeFont):
            raise TypeError("Pillow was built without FreeType: it cannot write text of a chosen size")
        _, top, _, bottom = chosen.getbbox("Ag")
        if bottom - top >= height:
            return chosen
        size += 1


def line_height(height: int) -> int:
    """Distance of two lines of text `height` pixels high."""
    return round(height * 1.3)


def wrap(text: str, chosen: Font, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word longer than a line is cut."""
    lines, line = [], ""
    for word in text.split():
        candidate = f"{line} {word}".strip()
        if chosen.getlength(candidate) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        while chosen.getlength(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or chosen.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]  # noqa: PLW2901 - what is left of it
        line = word
    return [*lines, line] if line else lines
