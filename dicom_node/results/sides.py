"""Which edge of a picture is the patient's right and left, from Patient Orientation (PS3.3 C.7.6.1.1.1)."""

from dataclasses import dataclass

_OPPOSITE = {"L": "R", "R": "L"}
_QUADRUPED = {"LE": "L", "RT": "R"}


@dataclass(frozen=True, slots=True)
class Sides:
    """The letters at the ends of one axis of a picture.

    Attributes:
        upright: True when the letters stand at the top and bottom edges, False at the left and right ones.
        first: at the top or left edge, "L" or "R".
        last: at the bottom or right edge.
    """

    upright: bool
    first: str
    last: str


def sides(orientation: tuple[str, str] | None, *, quadruped: bool = False) -> Sides | None:
    """Where the patient's sides are, None when the source does not say.

    Args:
        orientation: directions of the rows and of the columns; the first letter of a direction is its main one.
        quadruped: whether directions are those of animals, of two letters (Anatomical Orientation Type).
    """
    for upright, direction in enumerate(orientation or ()):
        code = direction.strip().upper()
        last = _QUADRUPED.get(code[:2]) if quadruped else code[:1]
        if last in _OPPOSITE:
            return Sides(upright=bool(upright), first=_OPPOSITE[last], last=last)
    return None
