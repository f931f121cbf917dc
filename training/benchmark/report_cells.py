"""Cells, lines and tables of a benchmark report, and safe access to a result in which any part may be missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.benchmark import paper

Result = Mapping[str, Any]

CONTROLS = ("location_prior", "centre", "random", "shuffled_boxes", "perfect_mask")
AUGMENTED = "+aug"
SMOOTHED = "+blur"
BLUR = "blur:"
CHANCE = "random classifier:"
DELIVERED, BUNDLE = "delivered", "bundle"
ABOVE, BELOW = "▲", "▼"
_OWN_NAMES = {
    DELIVERED: "delivered map of the bundle",
    BUNDLE: "generators of the bundle",
    "features": "generators on features, free",
    "features_gated": "generators on features, gated",
    "evidence": "evidence map of the classifier",
    "optimum": "optimum an image",
}
_CONTROL_NAMES = {
    "location_prior": "control: location prior (mean of the training truths, no image)",
    "centre": "control: distance to the centre",
    "random": "control: random",
    "shuffled_boxes": "control: truth of another image",
    "perfect_mask": "ceiling: perfect mask",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of ours with its interval, the paper's value beside it, and a mark for an interval without zero."""

    ours: str = ""
    interval: str = ""
    paper: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: its name, its kind ("", "augmented", "smoothed", "blur" or "control") and its cells."""

    name: str
    kind: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a title, a sentence above and notes below; one without lines says only its notes."""

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()


def get(tree: Any, *keys: str | int) -> Any:
    """The value under nested keys and indices, None where any of them is missing."""
    for key in keys:
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, Sequence) and not isinstance(tree, str) and isinstance(key, int) and key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


def mapping(tree: Any, *keys: str | int) -> Mapping[str, Any]:
    """The mapping under nested keys, an empty one where there is none."""
    found = get(tree, *keys)
    return found if isinstance(found, Mapping) else {}


def finite(value: Any) -> bool:
    """Whether a value is a number that can be printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, style: str = ".3f") -> str:
    """A number in a format style, "-" for anything that is no finite number."""
    return format(value, style) if finite(value) else "-"


def interval_text(value: Any, style: str = ".3f") -> str:
    """`low to high`, "" for anything that is no interval."""
    low, high = get(value, 0), get(value, 1)
    return f"{low:{style}} to {high:{style}}" if finite(low) and finite(high) else ""


def estimate(value: Any, interval: Any = None, published: float | None = None, style: str = ".3f") -> Cell:
    """A value of ours with its interval beside the paper's value."""
    return Cell(number(value, style), interval_text(interval, style), number(published, style) if published else "")


def difference(value: Any, interval: Any) -> Cell:
    """A paired difference with its interval, marked where the interval excludes zero."""
    low, high = get(interval, 0), get(interval, 1)
    known = finite(low) and finite(high)
    mark = ABOVE if known and low > 0 else BELOW if known and high < 0 else ""
    return Cell(number(value, "+.3f"), interval_text(interval, "+.3f"), "", mark)


def row_name(row: str) -> str:
    """What a row is called in a table."""
    if row in _CONTROL_NAMES:
        return _CONTROL_NAMES[row]
    if row.startswith(BLUR):
        return f"control: {row_name(base_of(row.removeprefix(BLUR)))} under a Gaussian of equal bandwidth"
    if row.startswith(CHANCE):
        return f"control: {row_name(row.removeprefix(CHANCE))}, classifier of random weights"
    base = base_of(row)
    added = {AUGMENTED: " + augmentation", SMOOTHED: ", blurred"}.get(row.removeprefix(base), "")
    return _OWN_NAMES.get(base, paper.NAMES.get(base, base)) + added


def base_of(row: str) -> str:
    """A row's name without augmentation or blur."""
    return row.removesuffix(AUGMENTED).removesuffix(SMOOTHED)


def kind_of(row: str) -> str:
    """What kind of row it is: "control", "blur", "augmented", "smoothed" or ""."""
    if row in CONTROLS or row.startswith(CHANCE):
        return "control"
    if row.startswith(BLUR):
        return "blur"
    return "augmented" if row.endswith(AUGMENTED) else "smoothed" if row.endswith(SMOOTHED) or row == DELIVERED else ""


def missing(result: Result, rows: Iterable[str], present: Mapping[str, Any]) -> tuple[str, ...]:
    """One note on the rows that have no value of ours, with the reasons that the result gives under "absent"."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row not in present:
            reason = get(result, "absent", row) or get(result, "absent", base_of(row)) or "not part of this run"
            reasons.setdefault(str(reason), []).append(row_name(row))
    return tuple(f"No value of ours ({reason}): {', '.join(names)}." for reason, names in reasons.items())
