"""The salient regions of an explanation as closed lines, and the few words that stand beside them."""

from explain_core import display
from explain_core.explanation import Explanation

MOST_POINTS = 8000
"""Of one line: its coordinates are 4-byte numbers in an element of at most 65534 bytes (PS3.5 7.1.2)."""


def contours(explanation: Explanation, *, most: int | None = None, holes: bool = True) -> tuple[display.Outline, ...]:
    """Outlines of the salient regions, largest first, then of the holes in them.

    Args:
        explanation: the explanation.
        most: how many at most.
        holes: whether the holes are wanted.

    Returns:
        closed lines of at most 8000 points in pixels from the image's top left corner, x before y, within
        0..columns and 0..rows; empty where nothing is salient.
    """
    lines = display.outlines(display.salient(explanation.attribution), most=most, holes=holes)
    return tuple(_thin(line) for line in lines)


def headline(explanation: Explanation) -> str:
    """What a marked region is, or that there is none; printable ASCII.

    Finding and probability are not named: they are of the whole image, and none of a region's.
    """
    attribution = explanation.attribution
    if display.salient(attribution).any():
        return "Salient region" if contours(explanation, most=1) else "Salient region: only specks, not outlined"
    if attribution.values.max() < attribution.scale.floor:
        return "No salient region: heatmap below its floor"
    return "No salient region"


def _thin(line: display.Outline) -> display.Outline:
    """`line` with every second, third ... point left out until it is short enough; still closed."""
    step = -(-(len(line) - 1) // (MOST_POINTS - 1))
    kept = [*range(0, len(line) - 1, step), len(line) - 1]
    return line[kept]
