"""What a benchmark's report calls its rows, and how it writes their figures."""

from collections.abc import Iterable, Mapping
from typing import Any

from training.benchmark import paper
from training.benchmark.profiles import BUNDLE_ROW, DELIVERED
from training.benchmark.rows import AUGMENTED, BLUR, CHANCE, SMOOTHED
from training.report.cells import Cell, Line, Table, finite, get

Result = Mapping[str, Any]

ABOVE, BELOW = "▲", "▼"
_OWN_NAMES = {
    DELIVERED: "delivered map of the bundle",
    BUNDLE_ROW: "generators of the bundle",
    "features": "generators on features, free",
    "features_gated": "generators on features, gated",
    "evidence": "evidence map of the classifier",
    "optimum": "optimum an image",
}
CONTROLS = {
    "location_prior": "control: location prior (mean of the training truths, no image)",
    "centre": "control: distance to the centre",
    "random": "control: random",
    "shuffled_boxes": "control: truth of another image",
    "perfect_mask": "ceiling: perfect mask",
}


def mapping(tree: Any, *keys: str | int) -> Mapping[str, Any]:
    """The mapping under nested keys, an empty one where there is none."""
    found = get(tree, *keys)
    return found if isinstance(found, Mapping) else {}


def number(value: Any, style: str = ".3f") -> str:
    """A number in a format style, "-" for anything that is no finite number."""
    return format(value, style) if finite(value) else "-"


def interval_text(value: Any, style: str = ".3f") -> str:
    """`low to high`, "" for anything that is no interval."""
    low, high = get(value, 0), get(value, 1)
    return f"{low:{style}} to {high:{style}}" if finite(low) and finite(high) else ""


def estimate(value: Any, interval: Any = None, published: float | None = None, style: str = ".3f") -> Cell:
    """A value of ours with its interval beside the paper's value."""
    printed = number(published, style) if published else ""
    return Cell(number(value, style), interval_text(interval, style), paper=printed)


def measured(entry: Any, name: str, published: float | None = None) -> Cell:
    """The figure `name` of an entry with the interval that stands beside it, and the paper's value."""
    return estimate(get(entry, name), get(entry, f"{name}_interval"), published)


def difference(entry: Any, name: str) -> Cell:
    """The paired difference `name` of an entry with its interval, marked where the interval excludes zero."""
    interval = get(entry, f"{name}_interval")
    low, high = get(interval, 0), get(interval, 1)
    known = finite(low) and finite(high)
    mark = ABOVE if known and low > 0 else BELOW if known and high < 0 else ""
    return Cell(number(get(entry, name), "+.3f"), interval_text(interval, "+.3f"), mark)


def row_name(row: str) -> str:
    """What a row is called in a table."""
    if row in CONTROLS:
        return CONTROLS[row]
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


def line(row: str, cells: Iterable[Cell]) -> Line:
    """A row of a table under the name that readers know it by."""
    return Line(row_name(row), tuple(cells), kind_of(row))


def left_out(result: Result, part: str, title: str, otherwise: str) -> Table:
    """A table that says only why a part of the result is not there."""
    return Table(title=title, notes=(f"Left out: {get(result, 'absent', part) or otherwise}.",))


def missing(result: Result, rows: Iterable[str], present: Mapping[str, Any]) -> tuple[str, ...]:
    """One note on the rows that have no value of ours, with the reasons that the result gives under "absent"."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row not in present:
            reason = get(result, "absent", row) or get(result, "absent", base_of(row)) or "not part of this run"
            reasons.setdefault(str(reason), []).append(row_name(row))
    return tuple(f"No value of ours ({reason}): {', '.join(names)}." for reason, names in reasons.items())
