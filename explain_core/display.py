"""Heatmaps for eyes: one palette, one declared scale, blending, outlines, the colour bar (NumPy and Pillow).

Nothing here looks at the range of the map it draws. A value has the same colour in every image of a model, and
below the scale's floor nothing is painted, so an image without evidence shows none.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from explain_core.explanation import HeatmapScale

Outline: TypeAlias = NDArray[np.float64]
"""A closed line, shape (points, 2): x (columns) and y (rows) in pixels from the top left corner of the image;
the first point is repeated at the end."""

# Red to orange: warm throughout, lightness rising all the way; yellow over grey would be olive.
PALETTE_ANCHORS = ("b8200e", "d63a0e", "ec5610", "fa7a1a", "ff9f2c")
OPACITY = 0.6
MAX_GRID = 512
MIN_REGION = 0.0005

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FINER = 4
_BYTE = 255
_AT_ONCE = 32  # rows, which stay in the processor's cache
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; y points down
_OUTWARD = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])  # from the region, which lies at the right of each step


def oklab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colours as OKLab (B. Ottosson, 2020), where equal distances look equally different.

    Args:
        colours: uint8 sRGB, shape (n, 3).
    """
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004
    lab: NDArray[np.float64] = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def _palette(size: int = 256) -> NDArray[np.uint8]:
    anchors = np.array([list(bytes.fromhex(anchor)) for anchor in PALETTE_ANCHORS], dtype=np.uint8)
    lab = oklab(anchors)
    places = np.concatenate([[0], np.linalg.norm(np.diff(lab, axis=0), axis=1).cumsum()])
    steps = np.linspace(0, places[-1], size)  # of equal colour difference
    lab = np.stack([np.interp(steps, places, axis) for axis in lab.T], axis=1)
    linear = np.clip((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


PALETTE = _palette()


def evidence(values: NDArray[np.float32], scale: HeatmapScale) -> NDArray[np.float32]:
    """How far heatmap values are from the declared floor (0, and below it) to full scale (1, and above); same shape."""
    above = np.nan_to_num(values) - np.float32(scale.floor)
    above /= np.float32(scale.full_scale - scale.floor) or np.finfo(np.float32).tiny
    return np.clip(above, 0, 1, out=above)


def fuse(luminance: NDArray[np.float32], values: NDArray[np.float32], scale: HeatmapScale) -> NDArray[np.uint8]:
    """The heatmap over the grey image; more opaque from the floor to full scale, and nothing up to the floor.

    Args:
        luminance: float32, 0 to 1, shape (rows, columns).
        values: the heatmap on the same grid, in the unit of `scale`.
        scale: the model's declared scale.

    Returns:
        uint8 sRGB, shape (rows, columns, 3).

    Raises:
        ValueError: the shapes differ.
    """
    if luminance.shape != values.shape:
        raise ValueError(f"image {luminance.shape} and heatmap {values.shape} differ in shape")
    fused = np.empty((*luminance.shape, 3), np.uint8)
    for first in range(0, len(fused), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        _fuse(luminance[rows].ravel(), evidence(values[rows], scale).ravel(), fused[rows].reshape(-1, 3))
    return fused


def _fuse(luminance: NDArray[np.float32], share: NDArray[np.float32], fused: NDArray[np.uint8]) -> None:
    """Write into `fused` the colours of pixels that are painted by so much of full scale; most are not painted."""
    grey = np.clip(luminance, 0, 1) * 255
    fused[:] = np.rint(grey).astype(np.uint8)[:, np.newaxis]
    painted = np.flatnonzero(share)
    alpha = OPACITY * share[painted]
    levels = np.rint(share[painted] * (len(PALETTE) - 1)).astype(np.uint8)
    below = grey[painted] * (1 - alpha)
    for channel in range(3):
        fused[painted, channel] = np.rint(below + PALETTE[levels, channel] * alpha)


def colour_bar(rows: int, columns: int, scale: HeatmapScale) -> NDArray[np.uint8]:
    """The scale as a reader meets it in the image: over middle grey, the floor at the left, full scale at the right.

    Returns:
        uint8 sRGB, shape (rows, columns, 3).
    """
    values = np.linspace(scale.floor, scale.full_scale, columns, dtype=np.float32)[np.newaxis].repeat(rows, axis=0)
    return fuse(np.full(values.shape, 0.5, np.float32), values, scale)


def resize(plane: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """`plane` on another grid: averaged when that is smaller, interpolated when it is larger."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def outlines(mask: NDArray[np.bool_], *, most: int | None = None, holes: bool = False) -> tuple[Outline, ...]:
    """The borders of the connected regions of `mask`, largest first.

    They are traced on a grid of at most 512 cells a side, and specks below 0.05 % of the image are dropped.

    Args:
        mask: bool, shape (rows, columns).
        most: how many to return at most.
        holes: also return the borders of holes, after the regions.
    """
    step = -(-max(mask.shape) // MAX_GRID)
    loops = _trace(_coarse(mask, step))
    areas = [area(loop) for loop in loops]
    least = MIN_REGION * mask.size / step**2
    order = sorted(range(len(loops)), key=lambda index: -areas[index])  # holes have negative areas
    kept = [index for index in order if areas[index] >= least or (holes and areas[index] <= -least)][:most]
    limit = np.array([mask.shape[1], mask.shape[0]], dtype=np.float64)
    return tuple(np.minimum(_simplify(loops[index], 0.4 if step == 1 else 0.15) * step, limit) for index in kept)


def inside(outline: Outline, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a grid of `shape` lie within `outline`."""
    image = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon([(x - 0.5, y - 0.5) for x, y in outline], fill=1, outline=1)
    return np.asarray(image, dtype=np.bool_)


def draw_outlines(
    image: Image.Image, lines: tuple[Outline, ...], *, colour: int | tuple[int, int, int], width: int
) -> None:
    """Draw closed lines `width` pixels wide, with smooth edges, into `image` (in place), whose grid theirs is."""
    for line in lines:
        low = np.floor(line.min(axis=0)).astype(int) - width - 1
        high = np.ceil(line.max(axis=0)).astype(int) + width + 1
        mask = Image.new("L", tuple((_FINER * (high - low)).tolist()))
        points = [(x - 0.5, y - 0.5) for x, y in _FINER * (line - low)]
        ImageDraw.Draw(mask).line(points, fill=255, width=_FINER * width, joint="curve")
        image.paste(colour, tuple(low.tolist()), mask.reduce(_FINER))


def _coarse(mask: NDArray[np.bool_], step: int) -> NDArray[np.float64]:
    """The share of `mask` in each cell of `step` x `step` pixels; a cell belongs to it from a half on."""
    if step == 1:
        return mask.astype(np.float64)
    rows, columns = (-(-side // step) for side in mask.shape)
    padded = np.zeros((rows * step, columns * step), np.uint8)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    down = padded.reshape(rows, step, columns * step).sum(axis=1, dtype=np.uint8 if step <= _BYTE else np.int64)
    share = np.zeros((rows, columns))
    for first in range(step):
        share += down[:, first::step]
    return share / step**2


def _trace(share: NDArray[np.float64]) -> list[Outline]:
    """Every border of the cells from a half on as a closed line, a point for each cell's edge, the region at right."""
    shares = np.pad(share, 1)
    padded = (shares >= 0.5).astype(np.int8)  # noqa: PLR2004 - a half
    down = np.diff(padded, axis=0)[:, 1:-1]  # row y: what changes from cell y-1 to y
    across = np.diff(padded, axis=1)[1:-1]
    ahead: dict[tuple[int, int], list[int]] = {}
    for direction, places, (dx, dy) in (
        (0, np.argwhere(down == 1), (0, 0)),
        (1, np.argwhere(across == -1), (0, 0)),
        (2, np.argwhere(down == -1), (1, 0)),
        (3, np.argwhere(across == 1), (0, 1)),
    ):
        for y, x in places.tolist():
            ahead.setdefault((x + dx, y + dy), []).append(direction)
    loops = []
    while ahead:
        start, (first, *_) = next(iter(ahead.items()))
        loops.append(_refined(*_follow(ahead, start, first), shares))
    return loops


def _follow(ahead: dict[tuple[int, int], list[int]], start: tuple[int, int], first: int) -> tuple[Outline, list[int]]:
    """Walk one border from `start` until it closes, taking its steps out of `ahead`: their middles and directions."""
    corner, direction, middles, directions = start, first, [], [first]
    while True:
        ahead[corner].remove(direction)
        if not ahead[corner]:
            del ahead[corner]
        dx, dy = _STEPS[direction]
        middles.append((corner[0] + dx / 2, corner[1] + dy / 2))
        corner = (corner[0] + dx, corner[1] + dy)
        right = (direction + 1) % 4  # where two regions touch at a corner, stay with the same one
        if corner == start and (corner not in ahead or right == first):
            return np.array([*middles, middles[0]]), [*directions, first]
        direction = right if right in ahead[corner] else ahead[corner][0]
        directions.append(direction)


def _refined(middles: Outline, directions: list[int], shares: NDArray[np.float64]) -> Outline:
    """Points moved across their edges to where the share, which is padded by 1, would be a half between two cells."""
    outward = _OUTWARD[directions]
    x, y = np.floor(middles - outward / 2).astype(int).T + 1
    within, beyond = shares[y, x], shares[y + outward[:, 1], x + outward[:, 0]]
    across = (within - 0.5) / (within - beyond) - 0.5
    return np.asarray(middles + outward * across[:, np.newaxis])


def area(loop: Outline) -> float:
    """What a line encloses, in units of its coordinates: positive for a region, negative for a hole."""
    x, y = loop.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def _simplify(loop: Outline, tolerance: float) -> Outline:
    """Fewer points, none of the dropped ones farther than `tolerance` from the line (Douglas and Peucker)."""
    far = int(np.argmax(np.linalg.norm(loop - loop[0], axis=1)))
    keep = {0, far, len(loop) - 1}
    spans = [(0, far), (far, len(loop) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:  # noqa: PLR2004 - nothing between them
            continue
        chord, points = loop[last] - loop[first], loop[first + 1 : last] - loop[first]
        length = float(np.hypot(*chord))
        offset = (points[:, 0] * chord[1] - points[:, 1] * chord[0]) / length if length else points.sum(axis=1)
        index = int(np.argmax(np.abs(offset)))
        if abs(offset[index]) > tolerance:
            middle = first + 1 + index
            keep.add(middle)
            spans += [(first, middle), (middle, last)]
    return loop[sorted(keep)]
