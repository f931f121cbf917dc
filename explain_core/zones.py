"""Where evidence lies, in the words of a report: side and zone of the lungs (NumPy only).

The zones are the thirds of the lungs' height. How high the lungs are in the image is estimated without a model: of all
pairs of boxes, those count most that are darker than what is between, below, above and beside them, and that are where
lungs usually are on a frontal film. Measured on the masks of 310 adult films (docs/results.md): the estimate puts 86 %
of the lungs' area into the right zone, the usual place alone 81 %, thirds of the image 75 %.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain_core.display import resize

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ZONES = ("upper", "middle", "lower")
OUTSIDE = "outside the lungs"
ENOUGH = 0.8
"""Zones are named, the strongest first, until they carry this share of the evidence."""
MARGIN = 0.1
"""Beyond the lungs' box by this share of the image is outside: the estimate is no nearer than that."""

_SIDE = 128
_USUAL = np.array([0.14, 0.75, 0.14, 0.85])  # top, bottom, left, right as shares of the image
_SPREAD = np.array([0.05, 0.10, 0.055, 0.075])
_LUNG = 0.38  # of the box's width, each
_WEIGHTS = {"between": 1.0, "below": 2.0, "above": 0.5, "beside": 1.0}
_SHARPNESS = 2.7


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle around both lungs, as shares of the image's rows and columns, 0 to 1."""

    top: float
    bottom: float
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Place:
    """One zone of one lung.

    Attributes:
        side: "right" or "left": the patient's where `sided`, else those of the picture.
        zone: "upper", "middle", "lower", or `OUTSIDE`, then with the side "".
        sided: whether the source says which side is which.
    """

    side: str
    zone: str
    sided: bool = True


def places_of(
    rows: Integers,
    columns: Integers,
    evidence: NDArray[np.floating],
    shape: tuple[int, ...],
    lungs: Box,
    orientation: tuple[str, str] | None,
) -> tuple[Place, ...]:
    """The zones that together carry 80 % of the evidence, the strongest first; none where there is no evidence.

    Args:
        rows: of each pixel that has any.
        columns: the same.
        evidence: how much it has, > 0.
        shape: rows and columns of the image.
        lungs: in the upright image.
        orientation: Patient Orientation of the rows and columns (PS3.3 C.7.6.1.1.1); None where it is not stated.
    """
    if not len(rows):
        return ()
    sided = bool({"L", "R"} & set(_axes(orientation)))
    y, x = _turned((rows + 0.5) / shape[0], (columns + 0.5) / shape[1], orientation)
    carried = np.bincount(_cells(y, x, lungs), evidence)
    order = np.argsort(-carried, kind="stable")
    share = carried[order].cumsum() / carried.sum()
    return tuple(_place(int(cell), sided=sided) for cell in order[: np.searchsorted(share, ENOUGH) + 1])


def in_words(found: tuple[Place, ...]) -> str:
    """Zones as a reader says them: "right lower zone", "both lower zones", "upper zone at image left"; "" of none."""
    by_side: dict[str, tuple[str, ...]] = {}
    for one in sorted(found, key=lambda place: (place.side != "right", place.zone == OUTSIDE)):
        if one.zone != OUTSIDE:
            zones = {place.zone for place in found if place.side == one.side}
            by_side[one.side] = tuple(zone for zone in ZONES if zone in zones)
    sided = all(one.sided for one in found)
    said = _both(by_side) or [_one(side, zones, sided=sided) for side, zones in by_side.items()]
    return " and ".join([*said, *([OUTSIDE] if any(one.zone == OUTSIDE for one in found) else [])])


def lungs_box(luminance: NDArray[np.float32]) -> Box:
    """About where the lungs are in a frontal chest radiograph: the mean of the boxes that could hold them.

    Args:
        luminance: the image the right way up, 0 to 1, shape (rows, columns).
    """
    small = resize(luminance, (_SIDE, _SIDE)).astype(np.float64)
    contrast = _contrast((small - small.mean()) / max(small.std(), np.finfo(np.float64).eps))
    boxes = _BOXES / _SIDE
    unusual = (((boxes - _USUAL) / _SPREAD) ** 2).sum(axis=1) / 2
    likely = _SHARPNESS * contrast - unusual
    weights = np.exp(likely - likely.max())
    return Box(*(weights @ boxes / weights.sum()).tolist())


def _candidates() -> Integers:
    """Top, bottom, left and right of every box that is tried, on a grid of 128 x 128 pixels."""
    sizes = np.meshgrid(range(2, 36, 2), range(44, 116, 4), range(48, 82, 2), range(64, 118, 6), indexing="ij")
    top, height, middle, width = (axis.ravel() for axis in sizes)
    left = middle - width // 2
    boxes = np.stack([top, top + height, left, left + width], axis=1)
    inside = (boxes[:, 1] < _SIDE) & (boxes[:, 2] > 0) & (boxes[:, 3] < _SIDE)
    return np.asarray(boxes[inside], dtype=np.int64)


_BOXES = _candidates()


def _contrast(image: Floats) -> Floats:
    """How much brighter the surroundings of two lungs are than the lungs, for each box; in standard deviations."""
    sums = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def mean(*parts: tuple[Integers, Integers, Integers, Integers]) -> Floats:
        total = sum(
            sums[low, end] - sums[top, end] - sums[low, start] + sums[top, start] for top, low, start, end in parts
        )
        pixels = sum((low - top) * (end - start) for top, low, start, end in parts)
        return np.asarray(total / np.maximum(pixels, 1))

    top, bottom, left, right = _BOXES.T
    lung = ((right - left) * _LUNG).astype(np.int64)
    rim = np.maximum(2, (bottom - top) // 8)
    above, below = np.maximum(top - rim, 0), np.minimum(bottom + rim, _SIDE)
    before, after = np.maximum(left - rim, 0), np.minimum(right + rim, _SIDE)
    around = {
        "between": mean((top, bottom, left + lung, right - lung)),
        "below": mean((bottom, below, left, right)),
        "above": mean((above, top, left, right)),
        "beside": mean((top, bottom, before, left), (top, bottom, right, after)),
    }
    lungs = mean((top, bottom, left, left + lung), (top, bottom, right - lung, right))
    weighted = sum(weight * (around[name] - lungs) for name, weight in _WEIGHTS.items())
    return np.asarray(weighted)


def _axes(orientation: tuple[str, str] | None) -> tuple[str, str]:
    """The main directions of rows and columns, each one letter; "" where not stated."""
    along, down = (direction.strip().upper()[:1] for direction in orientation or ("", ""))
    return along, down


def upright(plane: NDArray[np.floating], orientation: tuple[str, str] | None) -> NDArray[np.floating]:
    """`plane` as a frontal film is read: the head above and the patient's right at the left, as far as stated."""
    along, down = _axes(orientation)
    if along in {"H", "F"} or down in {"L", "R"}:
        plane, along, down = plane.T, down, along
    plane = plane[:, ::-1] if along == "R" else plane
    return plane[::-1] if down == "H" else plane


def _turned(y: Floats, x: Floats, orientation: tuple[str, str] | None) -> tuple[Floats, Floats]:
    """Points of the image, as shares of its rows and columns, in the upright one."""
    along, down = _axes(orientation)
    if along in {"H", "F"} or down in {"L", "R"}:
        y, x, along, down = x, y, down, along
    return 1 - y if down == "H" else y, 1 - x if along == "R" else x


def _cells(y: Floats, x: Floats, box: Box) -> Integers:
    """The zone of each point: 0 to 2 at the picture's left from above, 3 to 5 at its right, 6 outside the lungs."""
    zone = np.clip((y - box.top) / (box.bottom - box.top) * len(ZONES), 0, len(ZONES) - 1).astype(np.int64)
    cells = zone + len(ZONES) * (x > (box.left + box.right) / 2)
    beyond = np.maximum(np.maximum(box.top - y, y - box.bottom), np.maximum(box.left - x, x - box.right))
    return np.asarray(np.where(beyond > MARGIN, 2 * len(ZONES), cells))


def _place(cell: int, *, sided: bool) -> Place:
    if cell == 2 * len(ZONES):
        return Place(side="", zone=OUTSIDE, sided=sided)
    at_left = cell < len(ZONES)
    return Place(side="right" if at_left == sided else "left", zone=ZONES[cell % len(ZONES)], sided=sided)


def _both(by_side: dict[str, tuple[str, ...]]) -> list[str]:
    """Both lungs in one phrase, where they have the same zones or too many different ones to be listed."""
    zones = list(by_side.values())
    if len(zones) < 2:  # noqa: PLR2004 - one side only
        return []
    if zones[0] == zones[1] and len(zones[0]) < len(ZONES):
        return [f"both {' and '.join(zones[0])} zones"]
    return ["both lungs"] if sum(map(len, zones)) > 2 else []  # noqa: PLR2004 - two can be listed


def _one(side: str, zones: tuple[str, ...], *, sided: bool) -> str:
    if len(zones) == len(ZONES):
        return f"{side} lung" if sided else f"lung at image {side}"
    said = f"{' and '.join(zones)} zone{'s' if len(zones) > 1 else ''}"
    return f"{side} {said}" if sided else f"{said} at image {side}"
