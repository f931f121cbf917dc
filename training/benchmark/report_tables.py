"""A benchmark's result as the list of tables that the Markdown and the HTML report both show."""

from collections.abc import Mapping
from typing import Any

from training.benchmark import paper
from training.benchmark.report_cells import (
    Result,
    base_of,
    estimate,
    left_out,
    line,
    mapping,
    measured,
    missing,
    number,
)
from training.benchmark.report_localisation import localisation_tables, smoothed_table
from training.report.cells import Cell, Line, Table, finite, get

_REFERENCE = "grad_cam"
_PROBLEMS_SHOWN = 20


def tables(result: Result) -> list[Table]:
    """Every table of the report, in order; no part of the result needs to be there."""
    described = [data_table(result), problems_table(result), classifier_table(result)]
    if get(result, "part") == "randomisation":
        rows = mapping(result, "localisation", "parts", "all", "rows")
        return [*described, smoothed_table(result, rows), faithfulness_table(result)]
    return [
        *described,
        *generator_tables(result),
        *localisation_tables(result),
        faithfulness_table(result),
        timing_table(result),
    ]


def data_table(result: Result) -> Table:
    """What the benchmark ran on."""
    data = mapping(result, "data")
    if not data:
        return Table(title="Data", notes=("The result does not say.",))
    names = {
        "spec": "source", "size": "grid in pixels", "classes": "classes", "images": "images", "patients": "patients",
        "boxed": "images with marked lesions", "train": "images for training", "validation": "images for validation",
        "test": "images for the test",
    }  # fmt: skip
    lines = [Line(name, (Cell(_words(data[key])),)) for key, name in names.items() if data.get(key) is not None]
    return Table(title="Data", columns=("value",), lines=tuple(lines))


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def problems_table(result: Result) -> Table:
    """What was wrong with the data: every kind with its count, then the first cases."""
    counts = mapping(result, "data", "problem_counts")
    if not counts:
        return Table(title="Problems of the data", notes=("None found.",))
    cases = get(result, "data", "problems") or []
    lines = tuple(Line(str(kind), (Cell(str(count)),)) for kind, count in counts.items())
    notes = [
        f"{get(case, 0)} - {get(case, 1)}: {get(case, 2)}"
        for case in cases[:_PROBLEMS_SHOWN]
        if get(case, 0) is not None
    ]
    more = sum(int(count) for count in counts.values() if finite(count)) - len(notes)
    if more > 0:
        notes.append(f"and {more} more")
    return Table(title="Problems of the data", columns=("count",), lines=lines, notes=tuple(notes))


def classifier_table(result: Result) -> Table:
    """The classifier that is explained."""
    entry = mapping(result, "classifier")
    if not entry:
        return Table(title="Classifier", notes=("The result does not say.",))
    lines = [Line("ROC AUC on the test images", (estimate(entry.get("auc"), entry.get("interval")),))]
    lines += [
        Line(str(key).replace("_", " "), (Cell(_words(value)),))
        for key, value in entry.items()
        if key not in {"auc", "interval"} and not isinstance(value, Mapping) and value is not None
    ]
    return Table(title="Classifier", columns=("value",), lines=tuple(lines))


def generator_tables(result: Result) -> list[Table]:
    """Tables IV and V and what else is known of the generated images."""
    entries = mapping(result, "generators")
    if not entries:
        title = "Generated images (Tables IV and V)"
        return [left_out(result, "generators", title, "no generators were trained or evaluated")]
    rows = list(dict.fromkeys([*paper.TABLE_IV, *entries]))
    notes = missing(result, rows, entries)
    auc, quality, decisions, reasons = [], [], [], []
    for row in rows:
        entry, printed = entries.get(row), paper.TABLE_IV.get(row, (None, None))
        names = ("similar_auc", "adversarial_auc")
        auc.append(line(row, (measured(entry, name, value) for name, value in zip(names, printed, strict=True))))
        quality.append(line(row, _quality(row, entry)))
        if row in entries:
            steps = Cell(number(get(entry, "steps"), "d"))
            decisions.append(line(row, (*(measured(entry, name) for name in _DECISIONS), steps)))
            reasons.append(line(row, (measured(entry, name) for name in _REASONS)))
    return [
        Table(
            title="Table IV: ROC AUC of the generated images",
            text="f(x_s) against the decision y(x), f(x_a) against the opposite one.",
            columns=("similar", "adversarial"),
            lines=tuple(auc),
            notes=notes,
        ),
        Table(
            title="Table V: SSIM and PSNR (dB) of the generated images",
            columns=tuple(f"{m} {pair}" for pair in ("x, x_s", "x, x_a", "x_s, x_a") for m in ("SSIM", "PSNR")),
            lines=tuple(quality),
            notes=notes,
        ),
        Table(
            title="Decisions on the generated images",
            text="Transfer: how many x_a also change the decision of a second, independently trained classifier.",
            columns=(*_DECISIONS.values(), "training steps"),
            lines=tuple(decisions),
        ),
        Table(
            title="Whether the change is the reason",
            text="Decisions that x with a part of x_a - x in it changes, pixels ranked by the map, random tenths in "
            "blocks; and decisions of the second classifier that x_a changes where both decided alike about x.",
            columns=tuple(_REASONS.values()),
            lines=tuple(reasons),
        ),
    ]


_DECISIONS = {
    "kept_rate": "kept by x_s",
    "flip_rate": "changed by x_a",
    "flip_rate_positive": "changed, positives",
    "flip_rate_negative": "changed, negatives",
    "transfer": "transfer",
}
_REASONS = {
    "part_hottest": "hottest tenth alone",
    "part_random": "random tenth alone",
    "part_without": "without the hottest tenth",
    "agreed": "second classifier agrees about x",
    "transfer_positive": "transfer, positives of both",
    "transfer_negative": "transfer, negatives of both",
    "transfer_control_positive": "random smooth change, positives",
    "transfer_control_negative": "random smooth change, negatives",
}


def _quality(row: str, entry: Any) -> tuple[Cell, ...]:
    cells = []
    for pair in ("x_s", "x_a", "s_a"):
        printed = get(paper.TABLE_V, row, pair)
        cells.append(estimate(get(entry, f"ssim_{pair}"), None, get(printed, 0)))
        cells.append(estimate(get(entry, f"psnr_{pair}"), None, get(printed, 1), ".2f"))
    return tuple(cells)


def faithfulness_table(result: Result) -> Table:
    """Measures that need no boxes."""
    title, entries = "Faithfulness", mapping(result, "faithfulness")
    if not entries:
        return left_out(result, "faithfulness", title, "not part of this run")
    columns = {
        "deletion": "deletion AUC (lower is better)",
        "insertion": "insertion AUC (higher)",
        "road": "ROAD",
        "max_sensitivity": "max-sensitivity (lower)",
        "randomisation": "similarity after model randomisation (lower)",
        "stable_shift": "hottest tenths overlap, 2 px shift (higher)",
        "stable_noise": "noise of .01",
        "stable_jpeg": "JPEG of quality 90",
    }
    columns = {key: name for key, name in columns.items() if any(get(one, key) is not None for one in entries.values())}
    lines = tuple(line(row, (Cell(number(get(entry, key))) for key in columns)) for row, entry in entries.items())
    return Table(title=title, columns=tuple(columns.values()), lines=lines)


def timing_table(result: Result) -> Table:
    """Median seconds per image, the ratio to Grad-CAM in the same run, and peak memory."""
    title, entries = "Time and memory", mapping(result, "timing")
    if not entries:
        return left_out(result, "timing", title, "not part of this run")
    lines = []
    for row, entry in entries.items():
        cells = []
        for batch in ("batch_1", "batch_16"):
            seconds, reference = get(entry, batch), get(entries, _REFERENCE, batch)
            ratio = seconds / reference if finite(seconds) and finite(reference) and reference > 0 else None
            cells += [Cell(number(seconds, ".3g")), Cell(number(ratio, ".2f"))]
        peak = get(entry, "peak_bytes")
        cells.append(Cell(number(peak / 2**20 if finite(peak) else None, ".0f")))
        lines.append(line(row, cells))
    columns = ("s/image, batch 1", "of GradCAM's", "s/image, batch 16", "of GradCAM's", "peak memory, MiB")
    notes = () if _REFERENCE in map(base_of, entries) else ("GradCAM was not timed in this run: no ratios.",)
    return Table(
        title=title,
        text="Median of warm calls in one run; methods that search anew for each image are called once, cold.",
        columns=columns,
        lines=tuple(lines),
        notes=notes,
    )
