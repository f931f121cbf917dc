"""The numbers of an evaluation as Markdown: docs/model.md and the model card are made from one source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.measure.classification import GROUPS
from training.measure.localisation import AT_90, DELIVERED, EVIDENCE, PRIOR
from training.report.cells import get

Figures = Mapping[str, Any]
Path = tuple[str | int, ...]
_ALL = ("localisation", "parts", "all", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure with what it must reach.

    Attributes:
        name: what it is called.
        path: where it stands among the figures.
        floor: below it the product is not good enough.
        goal: what it is for.
        excludes_zero: whether the whole interval must lie above 0 as well.
        at_most: whether less is better; there is one limit then.
        unit: "dB", or "" for shares and areas.
    """

    name: str
    path: Path
    floor: float
    goal: float
    excludes_zero: bool = False
    at_most: bool = False
    unit: str = ""

    def verdict(self, figures: Figures) -> str:
        """In words whether it is met; "not measured" where there is no figure."""
        entry = get(figures, *self.path)
        if entry is None:
            return "not measured"
        value, interval = entry["value"], entry.get("interval")
        if self.at_most:
            return "met" if value <= self.floor else "**not met**"
        clear = not self.excludes_zero or (interval is not None and interval[0] > 0)
        if value < self.floor or not clear:
            return "**not met**"
        return "goal met" if value >= self.goal else "floor met"


TARGETS = (
    Target(name="AUC, all labelled", path=("classification", "all", "all_labelled", "auc"), floor=0.83, goal=0.88),
    Target(name="AUC, expert labels", path=("classification", "all", "expert", "auc"), floor=0.92, goal=0.95),
    Target(
        name="AUC, opacity against other abnormal",
        path=("classification", "all", "opacity_against_other", "auc"), floor=0.72, goal=0.80,
    ),
    Target(
        name="IoU@90 of the delivered map, gain over the prior",
        path=(*_ALL, DELIVERED, "gain", "iou", AT_90), floor=0.05, goal=0.12, excludes_zero=True,
    ),
    Target(
        name="IoU@90 of the evidence map, gain over the prior",
        path=(*_ALL, EVIDENCE, "gain", "iou", AT_90), floor=0.10, goal=0.18, excludes_zero=True,
    ),
    Target(
        name="area under precision-recall, delivered map", path=(*_ALL, DELIVERED, "auc"), floor=0.43, goal=0.52
    ),
    Target(name="pointing, delivered map", path=(*_ALL, DELIVERED, "pointing"), floor=0.68, goal=0.85),
    Target(name="decisions changed by x_a", path=("counterfactuals", "all", "flip_rate"), floor=0.90, goal=0.95),
    Target(name="decisions kept by x_s", path=("counterfactuals", "all", "kept_rate"), floor=0.99, goal=0.99),
    Target(name="PSNR(x, x_a)", path=("counterfactuals", "all", "psnr_x_a"), floor=32, goal=38, unit="dB"),
    Target(
        name="decisions changed by the hottest tenth of the difference alone",
        path=("faithfulness", "all", "hottest"), floor=0.75, goal=0.90,
    ),
    Target(
        name="the same by a random tenth, in blocks",
        path=("faithfulness", "all", "random"), floor=0.15, goal=0.15, at_most=True,
    ),
    Target(
        name="the same by the difference without its hottest tenth",
        path=("faithfulness", "all", "without"), floor=0.15, goal=0.15, at_most=True,
    ),
    Target(
        name="x_a changes a second classifier's decision, positives",
        path=("transfer", "x_a", "positive"), floor=0.50, goal=0.80,
    ),
    Target(
        name="x_a changes a second classifier's decision, negatives",
        path=("transfer", "x_a", "negative"), floor=0.30, goal=0.60,
    ),
    Target(name="hottest tenths overlap after a shift of 2 px", path=("stability", "shift"), floor=0.60, goal=0.80),
    Target(name="hottest tenths overlap under noise of .01", path=("stability", "noise"), floor=0.70, goal=0.85),
)  # fmt: skip
MAPS = {
    "delivered": "delivered map",
    "one_pass": "one pass, unblurred",
    "ten_copies": "averaged over ten registered copies, blurred",
    "evidence": "evidence map",
    "evidence_blurred": "evidence map, blurred",
    "optimum": "optimum an image, blurred",
    "equal_blur": "control: one pass blurred as smooth as ten copies",
    "shuffled_boxes": "control: delivered map, another image's boxes",
    "shuffled_evidence": "control: evidence map, another image's boxes",
    "location_prior": "control: mean of the training boxes, no image",
    "centre": "control: distance to the centre",
    "random": "control: random",
    "perfect_mask": "ceiling: perfect mask",
}
_COUNTERFACTUALS = {
    "flip_rate": "decisions changed by x_a",
    "flip_rate_positive": "... of those called positive",
    "flip_rate_negative": "... of those called negative",
    "kept_rate": "decisions kept by x_s",
    "similar_auc": "AUC of f(x_s) against the decision",
    "adversarial_auc": "AUC of f(x_a) against the opposite decision",
    "psnr_x_s": "PSNR(x, x_s), dB",
    "psnr_x_a": "PSNR(x, x_a), dB",
    "psnr_s_a": "PSNR(x_s, x_a), dB",
    "ssim_x_s": "SSIM(x, x_s)",
    "ssim_x_a": "SSIM(x, x_a)",
}
_PARTS = {
    "whole": "the whole of x_a - x",
    "hottest": "its hottest tenth alone",
    "random": "a random tenth alone, in blocks of a 14th of the side",
    "random_pixels": "a random tenth alone, single pixels",
    "without": "all but the hottest tenth",
}
_CHANGES = {
    "x_a": "x_a",
    "twice": "twice the change x_a - x",
    "smooth": "control: a random smooth change of the same energy",
    "other": "control: another image's change of the same decision",
    "opacity": "control: a real opacity, marked by radiologists, put into an image called negative",
}


def cell(entry: Any, *, signed: bool = False, unit: str = "") -> str:
    """`value (low to high)`; "-" where there is none."""
    if not isinstance(entry, Mapping) or entry.get("value") is None:
        return "-"
    style = ("+" if signed else "") + (".1f" if unit == "dB" or abs(entry["value"]) > 2 else ".3f")  # noqa: PLR2004 - dB
    interval = entry.get("interval")
    around = f" ({interval[0]:{style}} to {interval[1]:{style}})" if interval else ""
    return f"{entry['value']:{style}}{around}"


def summary(figures: Figures) -> list[str]:
    """Two lines to remember: where the map points, and whether it is the reason."""
    value = {name: get(figures, *path) for name, path in _REMEMBERED.items()}

    def number(name: str) -> str:
        entry = value[name]
        return "-" if entry is None else f"{entry['value']:.2f}"

    images = get(figures, "localisation", "parts", "all", "images")
    where = (
        f"**Where:** on {images} images of patients nobody trained on, the delivered map overlaps the radiologists' "
        f"boxes by IoU@90 {number('iou')} (the average place of opacities: {number('prior')}; gain "
        f"{cell(value['gain'], signed=True)}), and its brightest point lies in a box {number('pointing')} of the time "
        f"(average place: {number('prior_pointing')})."
    )
    why = (
        f"**Why:** the change that it shows reverses {number('flip')} of the decisions, its hottest tenth alone "
        f"{number('hottest')} (a random tenth {number('random')}, all the rest {number('without')})"
    )
    if value["transfer"] is not None:
        why += f", and {number('transfer')} of the positives of another network that never saw this one"
    return [where if images else "**Where:** not measured, no images with boxes.", "", f"{why}."]


_REMEMBERED: Mapping[str, Path] = {
    "iou": (*_ALL, DELIVERED, "iou", AT_90),
    "prior": (*_ALL, PRIOR, "iou", AT_90),
    "gain": (*_ALL, DELIVERED, "gain", "iou", AT_90),
    "pointing": (*_ALL, DELIVERED, "pointing"),
    "prior_pointing": (*_ALL, PRIOR, "pointing"),
    "flip": ("counterfactuals", "all", "flip_rate"),
    "hottest": ("faithfulness", "all", "hottest"),
    "random": ("faithfulness", "all", "random"),
    "without": ("faithfulness", "all", "without"),
    "transfer": ("transfer", "x_a", "positive"),
}


def markdown(figures: Figures) -> str:
    """Tables of every figure: two lines to remember, targets and whether they are met, then subject by subject."""
    data = figures["data"]
    on = f"{data['images']} images of {data['patients']} patients, folds {data['folds']}, never used for choices."
    lines = [
        *summary(figures),
        "",
        f"{on} Intervals are of 95 %, from resampling patients.",
        "",
        "| figure | found | floor | goal | |",
        "|---|---|---|---|---|",
    ]
    for target in TARGETS:
        entry, signed = get(figures, *target.path), target.excludes_zero
        sign = "<= " if target.at_most else ("+" if signed else "")
        limits = f"{sign}{target.floor:g} | {sign}{target.goal:g}"
        shown = cell(entry, signed=signed, unit=target.unit)
        lines.append(f"| {target.name} | {shown} | {limits} | {target.verdict(figures)} |")
    lines += ["", *_by_view(figures), "", *_parts(figures["faithfulness"]), "", *_stability(figures["stability"])]
    if "transfer" in figures:
        lines += ["", *_transfer(figures["transfer"])]
    if "localisation" in figures:
        lines += ["", *localisation_tables(figures["localisation"], figures.get("bundle"))]
    return "\n".join(lines) + "\n"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table under a bold title."""
    head = f"| {' | '.join(columns)} |"
    return [f"**{title}**", "", head, "|---|" + "---|" * (len(columns) - 1), *(f"| {' | '.join(r)} |" for r in rows)]


def _by_view(figures: Figures) -> list[str]:
    views = list(figures["classification"])
    made = [
        [text, *(cell(get(figures, "counterfactuals", view, name)) for view in views)]
        for name, text in _COUNTERFACTUALS.items()
    ]
    return table("Decisions and generated images", ["", *views], [*decision_rows(figures["classification"]), *made])


def decision_rows(by_view: Figures) -> list[list[str]]:
    """Rows of `classification`'s figures, a column for each of several parts of the images."""
    rows = [
        [f"AUC, {text}", *(cell(one[group].get("auc")) for one in by_view.values())] for group, text in GROUPS.items()
    ]
    return rows + [
        [f"images (positive), {text}", *(_count(one[group]) for one in by_view.values())]
        for group, text in GROUPS.items()
    ]


def _count(entry: Figures) -> str:
    return f"{entry['images']} ({entry['positive']})"


def _parts(figures: Figures) -> list[str]:
    groups = {"all": "all", "changed": "changed by x_a", "positive": "positives", "negative": "negatives"}
    rows = [[text, *(cell(figures[group][name]) for group in groups)] for name, text in _PARTS.items()]
    images = [f"{text} ({figures[group]['images']})" for group, text in groups.items()]
    title = "Which part of the change reverses the decision (pixels ranked by abs(x_s - x_a))"
    return table(title, ["", *images], rows)


def _stability(figures: Figures) -> list[str]:
    names = {"shift": "shifted by 2 px", "noise": "noise of .01", "jpeg": "JPEG of quality 90"}
    return table(
        "IoU of the delivered map's hottest tenth with that of the same image",
        list(names.values()), [[cell(figures[name]) for name in names]],
    )  # fmt: skip


def _transfer(figures: Figures) -> list[str]:
    columns = {
        "positive": "positives of both", "negative": "negatives of both",
        "positive_all": "all positives", "negative_all": "all negatives", "own": "the first one's own, all",
    }  # fmt: skip
    rows = [
        [text, cell(figures[name]["psnr"], unit="dB"), *(cell(figures[name][key]) for key in columns)]
        for name, text in _CHANGES.items()
        if name in figures
    ]
    alike = [cell(figures[name]) for name in ("agreed", "agreed_positive", "agreed_negative")]
    title = (
        f"Decisions of a second classifier ({figures['second']}) changed; it decides like the first about {alike[0]} "
        f"of the images, {alike[1]} of the positives, {alike[2]} of the negatives"
    )
    return table(title, ["change", "PSNR to x, dB", *columns.values()], rows)


def localisation_tables(figures: Figures, bundle: Figures | None = None) -> list[str]:
    """All rows in full for all images, and the main figures of each stratum."""
    text = (
        f"Localisation, prior from {figures['prior_training_images']} training images. Boxes trained the evidence map "
        "where the classifier decides by one."
    )
    if bundle:
        text += (
            f" Copies averaged for the delivered map {bundle['augmentations']}, blur {bundle['blur']:.1%} of the width."
        )
    lines = [text]
    for name, part in figures["parts"].items():
        rows = {key: part["rows"][key] for key in MAPS if key in part["rows"]}
        title = f"{name}, {part['images']} images of {part['patients']} patients"
        lines += ["", *(_whole(title, rows, figures["percentiles"]) if name == "all" else _stratum(title, rows))]
    return lines


def _whole(title: str, rows: Figures, percentiles: Sequence[int]) -> list[str]:
    heads = ["map", *(f"IoU@{p}" for p in percentiles), "AUC", "pointing"]
    made = [[MAPS[k], *map(cell, r["iou"]), cell(r["auc"]), cell(r["pointing"])] for k, r in rows.items()]
    gains = [
        [
            MAPS[key],
            *(cell(one, signed=True) for one in row["gain"]["iou"]),
            cell(row["gain"]["auc"], signed=True),
            cell(row["gain"]["pointing"], signed=True),
        ]
        for key, row in rows.items()
        if "gain" in row
    ]
    return [*table(title, heads, made), "", *table("Gain over the location prior, paired", heads, gains)]


def _stratum(title: str, rows: Figures) -> list[str]:
    kept = (*(key for key in rows if "gain" in rows[key]), PRIOR, "perfect_mask")
    heads = ["map", "IoU@90", "gain over the prior", "AUC", "pointing"]
    made = []
    for key in kept:
        row = rows[key]
        gained = cell(row["gain"]["iou"][AT_90], signed=True) if "gain" in row else ""
        made.append([MAPS[key], cell(row["iou"][AT_90]), gained, cell(row["auc"]), cell(row["pointing"])])
    return table(title, heads, made)
