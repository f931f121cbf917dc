"""Tables of a training run's report: text in cells, so that page and card say the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.gate import ALL, MEASURES, Measure
from training.report.cells import Cell, Line, Table, get
from training.report.evaluation import MAPS as NAMES

Figures = Mapping[str, Any]
BETTER, WORSE = "▲", "▼"
CLASSIFIER = ("auc", "average_precision", "ece", "sensitivity", "specificity")
COUNTERFACTUALS = (
    "kept_rate", "flip_rate", "flip_rate_positive", "flip_rate_negative", "psnr_similar", "ssim_similar",
    "psnr_adversarial", "ssim_adversarial",
)  # fmt: skip
LOCALISATION = ("iou_90", "pointing", "gain_over_prior", "gain_over_blur")
MAPS = {
    "delivered": NAMES["delivered"],
    "one_pass": NAMES["one_pass"],
    "equal_blur": "control: one pass blurred as smooth as the delivered map",
}
CONTROLS = ("location_prior", "centre", "random", "perfect_mask")


def number(value: Any, measure: Measure | None = None, *, signed: bool = False) -> str:
    """A number with its unit: three decimals, one for decibels; "-" where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-"
    decimals = 1 if measure is not None and measure.unit else 3
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def estimate(entry: Any, measure: Measure | None = None) -> Cell:
    """A figure with its 95 % interval."""
    return Cell(number(get(entry, "value"), measure), _interval(entry, measure))


def difference(entry: Any, measure: Measure) -> Cell:
    """A paired difference with its interval, marked where the interval lies on one side of 0."""
    interval = get(entry, "interval")
    mark = ""
    if interval is not None and (interval[0] > 0 or interval[1] < 0):
        mark = BETTER if (interval[0] > 0) == measure.higher else WORSE
    return Cell(number(get(entry, "value"), measure, signed=True), _interval(entry, measure, signed=True), mark)


def _interval(entry: Any, measure: Measure | None, *, signed: bool = False) -> str:
    interval = get(entry, "interval")
    return "" if interval is None else " to ".join(number(value, measure, signed=signed) for value in interval)


def _compared(figures: Figures, names: Sequence[str]) -> tuple[Line, ...]:
    lines = []
    for name in names:
        measure = MEASURES[name]
        own = get(figures, "models", "challenger", "figures", name, ALL)
        other = get(figures, "models", "champion", "figures", name, ALL)
        if own is None and other is None:
            continue
        gain = difference(get(figures, "differences", name, ALL), measure)
        images = Cell(str(get(own, "images") or "-"))
        text = measure.text[:1].upper() + measure.text[1:] + (", dB" if measure.unit else "")
        text += "" if measure.higher else " (less is better)"
        lines.append(Line(text, (images, estimate(own, measure), estimate(other, measure), gain)))
    return tuple(lines)


_COMPARED = ("images", "challenger", "champion", "difference")


def classifier(figures: Figures) -> Table:
    """The classifier's figures of both models on all labelled test images."""
    chance = {role: get(figures, "models", role, "calibration", "chance") for role in ("challenger", "champion")}
    note = "; ".join(f"{number(value)} ({role})" for role, value in chance.items())
    return Table(
        title="Classifier",
        columns=_COMPARED,
        lines=_compared(figures, CLASSIFIER),
        notes=(f"A perfectly calibrated model would show this ECE on as many images by chance alone: {note}.",),
    )


def confusion(figures: Figures, role: str) -> Table:
    """Decisions at the threshold against the labels, of one model."""
    found = get(figures, "models", role, "confusion") or {}

    def count(name: str) -> Cell:
        return Cell(str(found.get(name, "-")))

    label = str(figures.get("label", "finding"))
    return Table(
        title=f"{role.capitalize()}, threshold {found.get('threshold', '-')}",
        columns=("called present", "called absent"),
        lines=(
            Line(f"{label} present", (count("true_positive"), count("false_negative"))),
            Line(f"{label} absent", (count("false_positive"), count("true_negative"))),
        ),
        notes=tuple(
            f"{text}: {cell.text} ({cell.small})."
            for text, name in (("Present when called present", "ppv"), ("Absent when called absent", "npv"))
            for cell in [estimate(found.get(name))]
            if cell.small
        ),
    )


def subgroups(figures: Figures) -> Table:
    """AUC and calibration error of each group, with the difference to the champion."""
    lines = []
    for group, counted in (figures.get("groups") or {}).items():
        cells = [Cell(str(counted[name])) for name in ("images", "patients", "positive", "negative")]
        for name in ("auc", "ece"):
            measure = MEASURES[name]
            cells.append(estimate(get(figures, "models", "challenger", "figures", name, group), measure))
            cells.append(estimate(get(figures, "models", "champion", "figures", name, group), measure))
            cells.append(difference(get(figures, "differences", name, group), measure))
        lines.append(Line(group, tuple(cells)))
    kinds = ("challenger", "champion", "difference")
    return Table(
        title="Groups of patients",
        columns=("images", "patients", "positive", "negative", *(f"{t} {k}" for t in ("AUC", "ECE") for k in kinds)),
        lines=tuple(lines),
        text="Groups of which no test image is known do not appear. ECE: less is better.",
    )


def explanations(figures: Figures) -> Table:
    """What the generated images and the heatmaps do, of both models."""
    return Table(
        title="Explanations",
        columns=_COMPARED,
        lines=_compared(figures, (*COUNTERFACTUALS, *LOCALISATION)),
        text="Similar image: shall keep the decision and look the same. Adversarial image: shall change the decision.",
        notes=("A PSNR of 100 dB means that the similar image is the image itself.",),
    )


def localisation(figures: Figures) -> Table | None:
    """Overlap of each kind of map with the boxes, both models and the controls; None without boxes."""
    found = get(figures, "localisation")
    if not found:
        return None
    lines = []
    for role in ("challenger", "champion"):
        rows = get(figures, "models", role, "localisation", "rows") or {}
        lines += [Line(f"{role}: {text}", _map_cells(rows[name])) for name, text in MAPS.items() if name in rows]
    controls = found["controls"]
    lines += [Line(NAMES[name], _map_cells(controls[name])) for name in CONTROLS if name in controls]
    widths = ", ".join(
        f"{get(figures, 'models', role, 'localisation', 'blur_sigma_pixels'):g} pixels ({role})"
        for role in ("challenger", "champion")
    )
    missing = () if "location_prior" in controls else ("No training image has boxes: there is no location prior.",)
    return Table(
        title="Heatmaps against the boxes, beside controls that see no image",
        columns=(*(f"IoU@{p}" for p in found["percentiles"]), "pointing"),
        lines=tuple(lines),
        text=f"{found['images']} of {found['of']} test images with boxes. Gaussian of equal roughness: {widths}.",
        notes=(
            "A heatmap that is no better than the location prior says no more about where than the average place does.",
            *missing,
        ),
    )


def _map_cells(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (*(estimate(entry) for entry in row["iou"]), estimate(row["pointing"]))


def data(figures: Figures) -> Table:
    """How many images and patients there are in each split, and of which kind."""
    splits: Mapping[str, Any] = get(figures, "data", "splits") or {}
    names = ("images", "patients", "positive", "negative", "labelled", "boxed")
    texts = {"boxed": "with boxes"}
    lines = [
        Line(texts.get(name, name), tuple(Cell(str(row.get(name, "-"))) for row in splits.values())) for name in names
    ]
    for kind, text in (("views", "view"), ("sexes", "sex"), ("ages", "age"), ("sources", "label by")):
        known = list(dict.fromkeys(key for row in splits.values() for key in row.get(kind, {})))
        lines += [
            Line(f"{text} {key}", tuple(Cell(str(row.get(kind, {}).get(key, 0))) for row in splits.values()))
            for key in known
        ]
    return Table(title="Data", columns=tuple(splits), lines=tuple(lines))
