"""The word across an image that was made artificially: cropping cannot remove it."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from dicom_node.results.text import font

_WATERMARK = "SYNTHETIC"
_WATERMARK_STRENGTH = 0.16
_WATERMARK_ANGLE = 30


def watermarked(picture: Image.Image, height: int) -> Image.Image:
    """A picture with the word across it, everywhere and faint: light on dark and dark on light.

    Args:
        picture: grey or RGB.
        height: of the letters in pixels.
    """
    ink = picture.convert("L").point([255 if level < 128 else 0 for level in range(256)])  # noqa: PLR2004 - middle grey
    marked = picture.copy()
    marked.paste(ink.convert(picture.mode), (0, 0), _pattern(*picture.size, height))
    return marked


@lru_cache(maxsize=4)
def _pattern(wide: int, high: int, height: int) -> Image.Image:
    """How much ink the mark has where: the word over and over, turned, on `wide` x `high` pixels."""
    side = int(np.hypot(wide, high)) + 1
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    word = f"{_WATERMARK}     "
    step = int(font(height).getlength(word))
    for number, y in enumerate(range(0, side, 4 * height)):
        for x in range(-(number % 2) * step // 2, side, step):
            draw.text((x, y), word, fill=round(255 * _WATERMARK_STRENGTH), font=font(height), anchor="la")
    left, top = (side - wide) // 2, (side - high) // 2
    turned = mask.rotate(_WATERMARK_ANGLE, Image.Resampling.BILINEAR)
    return turned.crop((left, top, left + wide, top + high))
