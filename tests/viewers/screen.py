"""Where things are on a screenshot, and whether that is where the objects say they are.

Positions in an image are continuous, as in an SR's SCOORD (PS3.3 C.18.6.1.2): (0, 0) is the outer corner of
the first pixel. Positions on the screen are in the same way those of a screenshot.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCREENSHOT_WIDTH = 960


@dataclass(frozen=True)
class Placement:
    """Where a viewer says it shows an image: screen = origin + zoom * image, both as (x, y)."""

    origin: tuple[float, float]
    zoom: tuple[float, float]

    def to_screen(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points, float) * self.zoom + self.origin

    def box(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of an image of `shape` (rows, columns) on the screen."""
        (left, top), (right, bottom) = self.to_screen(np.array([(0, 0), shape[::-1]]))
        return round(left), round(top), round(right), round(bottom)

    def moved(self, share: float, shape: tuple[int, int]) -> "Placement":
        """The same, shifted right by a share of the image's width: the fault that tests must notice."""
        return Placement((self.origin[0] + share * shape[1] * self.zoom[0], self.origin[1]), self.zoom)


def picture_at(screen: np.ndarray, placement: Placement, shape: tuple[int, int], blocks: int = 96) -> np.ndarray:
    """The shown image, averaged to `blocks` along its longer side; parts outside the screen are black."""
    return blocks_of(Image.fromarray(screen).crop(placement.box(shape)), blocks)


def blocks_of(image: Image.Image, blocks: int = 96) -> np.ndarray:
    """An image averaged to `blocks` along its longer side; float, (rows, columns, 3)."""
    size = tuple(max(1, round(side * blocks / max(image.size))) for side in image.size)
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), float)


def agreement(shown: np.ndarray, expected: np.ndarray) -> float:
    """The share of blocks that differ by less than 12 of 256 levels in every channel."""
    return float((np.abs(shown - _fit(expected, shown)).max(axis=-1) < 12).mean())


def correlation(shown: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's correlation of two grey pictures: windows may differ, structures may not."""
    return float(np.corrcoef(shown.mean(-1).ravel(), _fit(expected, shown).mean(-1).ravel())[0, 1])


def _fit(expected: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Rounding may leave one row or column more or less."""
    rows, columns = shown.shape[:2]
    return np.pad(expected, ((0, 2), (0, 2), (0, 0)), mode="edge")[:rows, :columns]


def coloured(screen: np.ndarray, least: int = 40) -> np.ndarray:
    """Pixels that are not grey: their channels differ by at least `least` levels."""
    channels = screen.astype(int)
    return channels.max(axis=-1) - channels.min(axis=-1) >= least


def yellow_or_green(screen: np.ndarray, least: int = 100) -> np.ndarray:
    """OHIF's colours of annotations; its own controls are blue."""
    channels = screen.astype(int)
    return channels[..., 1] - channels[..., 2] >= least


def near(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The pixels within `pixels` (in a square) of the mask."""
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(grown) > 0


def drawn(lines: list[np.ndarray], placement: Placement, screen: np.ndarray) -> np.ndarray:
    """Polylines of image positions as they should be on the screen; a mask of the screen's shape."""
    image = Image.new("L", screen.shape[1::-1])
    for line in lines:
        points = [tuple(point) for point in placement.to_screen(line) - 0.5]
        ImageDraw.Draw(image).line(points, fill=255)
    return np.asarray(image) > 0


def on_screen(mask: np.ndarray, placement: Placement, screen: np.ndarray) -> np.ndarray:
    """A mask of the image's shape as it should be on the screen; nearest neighbour."""
    rows, columns = (
        np.floor((np.arange(count) + 0.5 - start) / zoom).astype(int)
        for count, start, zoom in zip(screen.shape[:2], placement.origin[::-1], placement.zoom[::-1], strict=True)
    )
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))
    return inside & mask[np.clip(rows, 0, mask.shape[0] - 1)][:, np.clip(columns, 0, mask.shape[1] - 1)]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def bounds(mask: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of what is set."""
    ys, xs = np.nonzero(mask)
    assert xs.size, "nothing of that colour is on the screen"
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def overlapping(boxes: np.ndarray) -> int:
    """How many pairs of boxes (left, top, right, bottom) share more than an edge."""
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return int(np.triu((high > low).all(axis=-1), 1).sum())


def save_small(screen: np.ndarray, path: Path) -> None:
    """A screenshot small enough for a repository: 960 pixels wide, 128 greys and 128 colours."""
    image = Image.fromarray(screen)
    height = round(image.height * SCREENSHOT_WIDTH / image.width)
    image = image.resize((SCREENSHOT_WIDTH, height), Image.Resampling.LANCZOS)
    colours = image.quantize(128, Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * 128]
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for grey in range(0, 256, 2) for level in (grey, grey, grey)] + colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
