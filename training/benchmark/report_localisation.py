"""Tables VI to XI of the paper beside ours, with controls in each, and the strata."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from explain_core import blur
from training.benchmark import paper
from training.benchmark.profiles import BUNDLE_ROW, DELIVERED
from training.benchmark.report_cells import (
    ABOVE,
    BELOW,
    CONTROLS,
    Result,
    base_of,
    difference,
    estimate,
    kind_of,
    left_out,
    line,
    mapping,
    measured,
    missing,
    number,
    row_name,
)
from training.benchmark.rows import AUGMENTED, BLUR
from training.report.cells import Cell, Line, Table, finite, get

Published = Mapping[str, Sequence[float]]

_METHOD_OF_PRESET = {"adversarial_tv": "adversarial"}
_MIDDLE = 90
_AT_MIDDLE = paper.PERCENTILES.index(_MIDDLE)
_OURS = frozenset({BUNDLE_ROW, "features", "features_gated", "evidence", "optimum", *paper.PRESETS})
_GAIN = "gain over the prior"
_MAIN = (f"IoU@{_MIDDLE}", f"{_GAIN}, IoU@{_MIDDLE}", "total AUC", f"{_GAIN}, total AUC")


def localisation_tables(result: Result) -> list[Table]:
    """Every table about where a map points, or one note why there are none."""
    rows = mapping(result, "localisation", "parts", "all", "rows")
    if not rows:
        why = "the data mark no lesions on the test images"
        return [left_out(result, "localisation", "Localisation (Tables VI to XI)", why)]
    ours = [row for row in _plain(rows) if row in mapping(result, "generators") and row != "adversarial_tv"]
    further = [row for row in (*ours, *(f"{row}{AUGMENTED}" for row in ours)) if row in rows]
    generators = list(dict.fromkeys([*paper.TABLE_VI, *further]))
    baselines = list(dict.fromkeys([*paper.TABLE_VIII, *(row for row in _plain(rows) if row not in generators)]))
    pairs, timed_pairs = _pairs(paper.TABLE_X, rows), _pairs(paper.TABLE_XI, rows)
    return [
        verdict(result, rows),
        smoothed_table(result, rows),
        iou_table(result, "Table VI: IoU of the generators' maps", generators, paper.TABLE_VI),
        auc_table(
            result,
            "Table VII: precision-recall AUC of the generators' maps",
            [row for row in generators if base_of(row) != "duo_tv" or row in rows],
            paper.TABLE_VII,
        ),
        iou_table(result, "Table VIII: IoU of all methods", baselines, paper.TABLE_VIII),
        auc_table(
            result, "Table IX: precision-recall AUC and time of all methods", baselines, paper.TABLE_IX, timed=True
        ),
        iou_table(result, "Table X: IoU, plain and with augmentation", pairs, paper.TABLE_X),
        auc_table(
            result, "Table XI: AUC and time, plain and with augmentation", timed_pairs, paper.TABLE_XI, timed=True
        ),
        *_ahead(result),
        *_strata(result),
        other_measures(rows),
        *_conventions(rows),
    ]


def smoothed_table(result: Result, rows: Mapping[str, Any]) -> Table:
    """The delivered map beside every method's under the same Gaussian, and every control."""
    wanted = [row for row in rows if kind_of(row) == "smoothed"]
    wanted += [row for row in rows if kind_of(row) == "control"]
    return Table(
        title="Maps as they are delivered: every method under the same blur",
        text=f"{_on(result)} Gaussian of {100 * blur.BLUR:g} % of the width.",
        columns=(*_MAIN, "pointing game"),
        lines=tuple(line(row, (*_main(rows[row], _AT_MIDDLE), measured(rows[row], "pointing"))) for row in wanted),
    )


def remembered(result: Result) -> tuple[str, ...]:
    """Two lines to remember, where the maps point and whether they are the reason; none without the figures."""
    rows, best = mapping(result, "localisation", "parts", "all", "rows"), get(result, "localisation", "best")
    if not isinstance(best, str) or best not in rows:
        return ()

    def reached(row: str) -> str:
        return number(get(rows, row, "iou", _AT_MIDDLE), ".2f")

    others = [row for row in rows if kind_of(row) == "smoothed" and row != best and base_of(row) not in _OURS]
    values = {row: get(rows, row, "iou", _AT_MIDDLE) for row in others}
    others = sorted((row for row in others if finite(values[row])), key=lambda row: -float(values[row]))
    gain = _gain(rows[best], "iou_90")
    where = f"Where: the {row_name(best)} overlaps the boxes by IoU@{_MIDDLE} {reached(best)}, the average place of "
    where += f"lesions by {reached('location_prior')} (gain {gain.text}, {gain.small})"
    where += (
        f"; the best of {len(others)} other methods, {row_name(others[0])}, by {reached(others[0])}" if others else ""
    )
    made = mapping(result, "generators", BUNDLE_ROW if best == DELIVERED else base_of(best))
    named = {"flip_rate": "x_a", "part_hottest": "its hottest tenth alone", "part_random": "a random tenth"}
    shares = [f"{text} {number(made.get(name), '.2f')}" for name, text in named.items() if made.get(name) is not None]
    why = f"Why: decisions changed by {', '.join(shares)}" if shares else "Why: not measured"
    if made.get("transfer") is not None:
        why += f"; a second classifier's by x_a {number(made.get('transfer'), '.2f')}"
    return (f"{where}.", f"{why}.")


def _plain(rows: Iterable[str]) -> list[str]:
    return [row for row in rows if not kind_of(row)]


def _pairs(published: Published, rows: Mapping[str, Any]) -> list[str]:
    """Each row followed by its augmented one, the paper's first."""
    bases = dict.fromkeys([*map(base_of, published), *(row for row in _plain(rows) if f"{row}{AUGMENTED}" in rows)])
    wanted = [row for base in bases for row in (base, f"{base}{AUGMENTED}")]
    return [row for row in wanted if row in rows or row in published]


def _with_controls(wanted: Sequence[str], rows: Mapping[str, Any]) -> list[str]:
    """`wanted`, each augmented row followed by its blur control, then the controls there are."""
    named: list[str] = []
    for row in wanted:
        named.append(row)
        if row != base_of(row):
            named += [blur for blur in (f"{BLUR}{row}", f"{BLUR}{base_of(row)}") if blur in rows][:1]
    return [*named, *(control for control in CONTROLS if control in rows)]


def _lines(wanted: Sequence[str], rows: Mapping[str, Any], cells: Any) -> tuple[Line, ...]:
    return tuple(line(row, cells(row)) for row in _with_controls(wanted, rows))


def _on(result: Result) -> str:
    images = get(result, "localisation", "parts", "all", "images")
    return f"{images} test images with marked lesions; 95 % bootstrap intervals over patients."


def iou_table(result: Result, title: str, wanted: Sequence[str], published: Published) -> Table:
    """IoU at percentiles of the `wanted` rows beside the paper's, with controls and the gain over the prior."""
    rows = mapping(result, "localisation", "parts", "all", "rows")
    percentiles = get(result, "localisation", "percentiles") or []

    def cells(row: str) -> list[Cell]:
        entry = rows.get(row)
        printed = dict(zip(paper.PERCENTILES, published.get(row, ()), strict=False))
        values = [_iou(entry, index, printed.get(percentile)) for index, percentile in enumerate(percentiles)]
        return [*values, _gain(entry, "iou_90")]

    columns = (*(f"IoU@{percentile}" for percentile in percentiles), f"{_GAIN}, IoU@{_MIDDLE}")
    lines, notes = _lines(wanted, rows, cells), missing(result, wanted, rows)
    return Table(title=title, text=_on(result), columns=columns, lines=lines, notes=notes)


def _gain(entry: Any, measure: str) -> Cell:
    gain = get(entry, "gain_over_prior")
    return difference(gain, measure) if gain else Cell()


def _iou(entry: Any, index: int, published: float | None = None) -> Cell:
    return estimate(get(entry, "iou", index), get(entry, "iou_interval", index), published)


def _main(entry: Any, middle: int) -> list[Cell]:
    """The cells of `_MAIN`; `middle` is where the percentile 90 stands."""
    return [_iou(entry, middle), _gain(entry, "iou_90"), measured(entry, "total_auc"), _gain(entry, "total_auc")]


def auc_table(result: Result, title: str, wanted: Sequence[str], published: Published, *, timed: bool = False) -> Table:
    """Total and partial AUC of the `wanted` rows beside the paper's; with seconds per image where `timed`."""
    rows = mapping(result, "localisation", "parts", "all", "rows")

    def cells(row: str) -> list[Cell]:
        entry, printed = rows.get(row), published.get(row)
        names = ("total_auc", "partial_auc")
        values = [measured(entry, name, get(printed, index)) for index, name in enumerate(names)]
        seconds = estimate(get(timing_of(result, row), "batch_1"), None, get(printed, 2), ".3g")
        times = [seconds if kind_of(row) in {"", "augmented"} else Cell()]
        return [*values, _gain(entry, "total_auc"), *(times if timed else ())]

    columns = ("total AUC", "partial AUC", f"{_GAIN}, total AUC", *(("seconds per image",) if timed else ()))
    notes = missing(result, wanted, rows)
    untimed = [row_name(row) for row in wanted if row in rows and not timing_of(result, row)]
    if timed:
        notes += (f"Not timed in this run: {', '.join(untimed)}.",) if untimed else ()
        notes += ("The paper prints GradCAM's total AUC as .324 in Table IX and .326 in Table XI.",)
    return Table(title=title, text=_on(result), columns=columns, lines=_lines(wanted, rows, cells), notes=notes)


def timing_of(result: Result, row: str) -> Any:
    """The timing of a row: under its own name, else that of the method which its generators serve."""
    base = base_of(row)
    method = "similar_adversarial" if base in paper.PRESETS else _METHOD_OF_PRESET.get(base, base)
    return get(result, "timing", row) or get(result, "timing", method + row.removeprefix(base))


def verdict(result: Result, rows: Mapping[str, Any]) -> Table:
    """In words: which rows beat the location prior, which do not, and whom the best row is ahead of."""
    notes = []
    for measure, name in (("iou_90", f"IoU@{_MIDDLE}"), ("total_auc", "total AUC")):
        groups: dict[str, list[str]] = {ABOVE: [], "": [], BELOW: []}
        for row, entry in rows.items():
            if kind_of(row) in {"", "augmented", "smoothed"} and get(entry, "gain_over_prior"):
                groups[_gain(entry, measure).mark].append(row_name(row))
        heads = {ABOVE: "above", "": "not distinguishable from", BELOW: "below"}
        notes += [
            f"{name}, {heads[mark]} the location prior: {', '.join(names)}." for mark, names in groups.items() if names
        ]
    best, ahead = get(result, "localisation", "best"), mapping(result, "localisation", "ahead")
    if best and ahead:
        behind = [
            row_name(row)
            for row, entry in ahead.items()
            if any(difference(entry, measure).mark != ABOVE for measure in ("iou_90", "total_auc"))
        ]
        text = f"not ahead of {', '.join(behind)}" if behind else "ahead of every other row compared"
        notes.append(f"Row compared with all others: {row_name(best)}; in IoU@{_MIDDLE} and total AUC it is {text}.")
    return Table(
        title="Localisation in words", text="A difference counts where its interval excludes 0.", notes=tuple(notes)
    )


def _ahead(result: Result) -> list[Table]:
    ahead, best = mapping(result, "localisation", "ahead"), get(result, "localisation", "best")
    if not ahead or not best:
        return []
    measures = ("iou_90", "total_auc")
    lines = tuple(line(row, (difference(entry, one) for one in measures)) for row, entry in ahead.items())
    title = f"{row_name(best)} minus every other row, paired over images"
    return [Table(title=title, text=_on(result), columns=(f"IoU@{_MIDDLE}", "total AUC"), lines=lines)]


def _strata(result: Result) -> list[Table]:
    """One table a stratum: by size, number of lesions, view, and true positives only."""
    percentiles = get(result, "localisation", "percentiles") or []
    middle = percentiles.index(_MIDDLE) if _MIDDLE in percentiles else len(percentiles)
    tables = []
    for part, entry in mapping(result, "localisation", "parts").items():
        if part == "all":
            continue
        rows, title = mapping(entry, "rows"), f"Stratum: {str(part).replace('_', ' ')}"
        if not rows:
            tables.append(Table(title=title, notes=("No test image with a marked lesion is in it.",)))
            continue
        lines = tuple(line(row, _main(values, middle)) for row, values in rows.items())
        tables.append(Table(title=title, text=f"{get(entry, 'images')} images.", columns=_MAIN, lines=lines))
    return tables


def other_measures(rows: Mapping[str, Any]) -> Table:
    """Exact area under the precision-recall curve, pointing games, and IoU at the lesions' own area."""
    measures = {
        "auprc": "exact AUPRC",
        "pointing": "pointing game",
        "energy": "energy pointing game",
        "iou_matched_area": "IoU at the lesions' own area",
    }
    lines = tuple(line(row, (Cell(number(get(entry, key))) for key in measures)) for row, entry in rows.items())
    return Table(title="Other measures of localisation", columns=tuple(measures.values()), lines=lines)


def _conventions(rows: Mapping[str, Any]) -> list[Table]:
    """Total and partial AUC by each way to integrate; the paper does not say which one it used."""
    names = list(dict.fromkeys(name for entry in rows.values() for name in mapping(entry, "conventions")))
    if not names:
        return []

    def cell(way: Any) -> Cell:
        return Cell(f"{number(get(way, 0))} / {number(get(way, 1))}")

    lines = tuple(line(row, (cell(get(entry, "conventions", name)) for name in names)) for row, entry in rows.items())
    title = "Total / partial AUC by integration convention"
    return [Table(title=title, columns=tuple(name.replace("_", " ") for name in names), lines=lines)]
