"""The numbers of an evaluation as Markdown tables: docs/model.md and the model card are made from one source."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]

# (figure, target): reported whether met or not
TARGETS = (
    ("Classifier AUC, expert labels", "classification", ("expert", "auc"), 0.92),
    ("Classifier AUC, all labelled", "classification", ("all_labelled", "auc"), 0.89),
    ("AUC of f(x_s) against the decision", "counterfactuals", ("similar_auc",), 0.99),
    ("AUC of f(x_a) against the opposite decision", "counterfactuals", ("adversarial_auc",), 0.95),
    ("Flip rate of x_a", "counterfactuals", ("flip_rate",), 0.90),
    ("PSNR(x, x_s), dB", "counterfactuals", ("psnr_x_s",), 40.0),
    ("SSIM(x, x_s)", "counterfactuals", ("ssim_x_s",), 0.98),
)
EXTRA = (
    ("Decisions kept by x_s", "counterfactuals", ("kept_rate",)),
    ("Flip rate, positive to negative", "counterfactuals", ("flip_rate_positive",)),
    ("Flip rate, negative to positive", "counterfactuals", ("flip_rate_negative",)),
    ("PSNR(x, x_a), dB", "counterfactuals", ("psnr_x_a",)),
    ("SSIM(x, x_a)", "counterfactuals", ("ssim_x_a",)),
    ("PSNR(x_s, x_a), dB", "counterfactuals", ("psnr_s_a",)),
)
METHODS = {
    "similar_adversarial": "similar/adversarial, equation (3)",
    "similar_adversarial_augmented": "the same averaged over registered augmentations, equation (11)",
    "gaussian_blur": "control: equation (3) under a Gaussian of equal roughness",
    "location_prior": "control: mean of the training boxes, no image",
    "centre": "control: distance to the centre",
    "random": "control: random",
    "perfect_mask": "ceiling: perfect mask",
}


def _value(figures: Figures, section: str, view: str, keys: Sequence[str]) -> float | None:
    entry: Any = figures[section].get(view, {})
    for key in keys:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry if isinstance(entry, float) else None


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value > 2 else f"{value:.3f}"  # noqa: PLR2004 - decibels against fractions


def markdown(figures: Figures) -> str:
    """Tables of every figure: per view, with targets and whether they are met, and localisation with controls."""
    data = figures["data"]
    views = [view for view in figures["classification"] if view != "all"]
    lines = [
        f"{data['images']} images of {data['patients']} patients, folds {data['folds']}, never used for choices.",
        "",
        f"| figure | target | all | {' | '.join(views)} |",
        "|---|---|---|" + "---|" * len(views),
    ]
    for name, section, keys, target in TARGETS:
        value = _value(figures, section, "all", keys)
        met = "-" if value is None else ("met" if value >= target else "not met")
        cells = " | ".join(_cell(_value(figures, section, view, keys)) for view in views)
        lines.append(f"| {name} | >= {target:g} | {_cell(value)} {met} | {cells} |")
    for name, section, keys in EXTRA:
        cells = " | ".join(_cell(_value(figures, section, view, keys)) for view in ["all", *views])
        lines.append(f"| {name} | | {cells} |")
    for name, key in (("expert labels", "expert"), ("all labelled", "all_labelled")):
        entry = figures["classification"]["all"][key]
        if "interval" in entry:
            low, high = entry["interval"]
            lines += [
                "",
                (
                    f"AUC on {name}: 95 % bootstrap interval {low:.3f} to {high:.3f}, "
                    f"{entry['images']} images, {entry['positive']} positive."
                ),
            ]
    if "localisation" in figures:
        lines += ["", *_localisation(figures["localisation"])]
    return "\n".join(lines) + "\n"


def _localisation(figures: Figures) -> list[str]:
    lines = [
        (
            f"IoU on the opacity boxes (95 % bootstrap interval), {figures['augmentations']} augmentations, "
            f"blur sigma {figures['blur_sigma_pixels']:g} pixels, prior from {figures['prior_training_images']} "
            "training images."
        ),
    ]
    for part, entry in figures["parts"].items():
        if not entry.get("rows"):
            continue
        heads = " | ".join(f"IoU@{p}" for p in figures["percentiles"])
        lines += ["", f"**{part.replace('_', ' ')}**, {entry['images']} images", "", f"| map | {heads} | pointing |"]
        lines.append("|---|" + "---|" * (len(figures["percentiles"]) + 1))
        for key, row in entry["rows"].items():
            cells = " | ".join(
                f"{value:.3f} ({low:.3f} to {high:.3f})"
                for value, (low, high) in zip(row["iou"], row["interval"], strict=True)
            )
            lines.append(f"| {METHODS[key]} | {cells} | {row['pointing']:.3f} |")
        gain = entry["gain_over_prior"]
        cells = " | ".join(
            f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
            for value, (low, high) in zip(gain["iou"], gain["interval"], strict=True)
        )
        lines.append(f"| gain of the averaged map over the location prior, paired | {cells} | |")
    return lines
