"""The figures of a benchmark: from rows and networks to the JSON that the report shows."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core.classifier import Classifier
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.method import Method
from explain_core.quality import controls, faithfulness, removal
from explain_core.quality.counterfactuals import Resampling, counterfactual_figures, distances, transfer_rate
from explain_core.quality.localisation import PERCENTILES, Convention, Part, pr_auc
from explain_core.quality.resampling import (
    Estimate,
    Statistic,
    bootstrap,
    mean,
    mean_curve_auc,
    one_vs_rest_auc,
    paired_gain,
    roc_auc,
)
from explain_core.quality.similarity import psnr, ssim
from training.benchmark.profiles import GENERATOR_ROWS, SEARCHING
from training.benchmark.rows import Row, explain, explain_batch, suffixes
from training.benchmark.stages import Bench, floats
from training.benchmark.timing import timed
from training.cohort import Cohort

Figures = dict[str, Any]
CONVENTIONS: tuple[Convention, ...] = ("mean", "per_image", "mean_anchored", "per_image_anchored")
PARTS: tuple[Part, ...] = ("total", "partial")
AT_90 = PERCENTILES.index(90)


def classifier_figures(bench: Bench) -> Figures:
    """ROC AUC of the classifier on the labelled test images, with its interval."""
    labelled = bench.test.labelled()
    figures: Figures = {"architecture": type(bench.classifier).__name__, "images": len(labelled)}
    if len(np.unique(labelled.targets)) < len(labelled.classes):
        return figures | {"auc": None, "interval": None}
    logits = bench.logits(labelled.images)
    if bench.rule.exclusive:
        truth = labelled.targets[:, None] == np.arange(logits.shape[1])
        scores = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
        estimate = bootstrap(one_vs_rest_auc, [truth, scores], groups=labelled.patients)
    else:
        estimate = bootstrap(roc_auc, [labelled.targets > 0, logits[:, 0]], groups=labelled.patients)
    return figures | {"auc": estimate.value, "interval": [estimate.low, estimate.high]}


def generator_figures(bench: Bench, row: str, network: SimilarAdversarial) -> Figures:
    """Tables IV and V for one row: decisions kept and changed, PSNR in dB and SSIM, transfer, on all test images."""
    images = bench.test.images
    parts: dict[str, list[torch.Tensor]] = {"x_s": [], "x_a": []}
    logits = bench.logits(images)
    decided = bench.decisions(images)
    with torch.no_grad():
        for chunk, y in zip(images.split(32), decided.split(32), strict=True):
            x_s, x_a = network(floats(chunk, bench.device), y.to(bench.device))
            parts["x_s"].append(x_s.clamp(0, 1).cpu())
            parts["x_a"].append(x_a.clamp(0, 1).cpu())
    x, x_s, x_a = images.float() / 255, torch.cat(parts["x_s"]), torch.cat(parts["x_a"])
    naive = row == "adversarial_tv"
    how = Resampling(groups=bench.test.patients, draws=1000)
    estimates = counterfactual_figures(
        logits, bench.logits(x_a), None if naive else bench.logits(x_s), rule=bench.rule, resampling=how
    )
    figures: Figures = {
        "steps": bench.profile.generators.steps if row in GENERATOR_ROWS else None,
        "weights": sum(parameter.numel() for parameter in network.parameters()),
        "output": network.output,
        "heads": len(network.adversarial),
    }
    figures |= {name: estimate.value for name, estimate in estimates.items()}
    figures |= {f"{name}_interval": [estimate.low, estimate.high] for name, estimate in estimates.items()}
    pairs = {"x_a": (x, x_a)} if naive else {"x_s": (x, x_s), "x_a": (x, x_a), "s_a": (x_s, x_a)}
    for name, (first, second) in pairs.items():
        figures[f"psnr_{name}"] = float(psnr(first, second).mean())
        figures[f"ssim_{name}"] = float(
            torch.cat([ssim(a, b) for a, b in zip(first.split(64), second.split(64), strict=True)]).mean()
        )
    figures |= {name: float(values.mean()) for name, values in distances(x.numpy(), x_a.numpy()).items()}
    transfer = transfer_rate(
        bench.logits(images, bench.second), bench.logits(x_a, bench.second), rule=bench.rule, resampling=how
    )
    return figures | {"transfer": transfer.value, "transfer_interval": [transfer.low, transfer.high]}


def localisation_figures(bench: Bench, rows: Mapping[str, Row], best: str) -> Figures:
    """Tables VI to VIII and X, XI for all images and each stratum, and the best row's gain over every other."""
    boxed = bench.boxed
    truths = [truth for truth in boxed.truths if truth is not None]
    called = bench.decisions(boxed.images).numpy() > 0
    views = boxed.views if any(boxed.views) else None
    strata = controls.strata(truths, boxed.boxes.tolist(), views, called)
    parts = {"all": np.ones(len(boxed), np.bool_)} | strata
    return {
        "percentiles": list(PERCENTILES),
        "best": best,
        "parts": {name: _part(boxed, rows, use) for name, use in parts.items() if use.any()},
        "ahead": {
            other: _gain(rows[best], row, _everyone(boxed), boxed) for other, row in rows.items() if other != best
        },
    }


def _everyone(boxed: Cohort) -> NDArray[np.bool_]:
    return np.ones(len(boxed), np.bool_)


def _part(boxed: Cohort, rows: Mapping[str, Row], use: NDArray[np.bool_]) -> Figures:
    return {"images": int(use.sum()), "rows": {name: _row(boxed, rows, name, use) for name in rows}}


def _row(boxed: Cohort, rows: Mapping[str, Row], name: str, use: NDArray[np.bool_]) -> Figures:
    columns = {key: values[use] for key, values in rows[name].columns.items()}
    patients = np.array(boxed.patients)[use]
    iou = [bootstrap(mean, [column], groups=patients) for column in columns["iou"].T]
    figures: Figures = {"iou": [e.value for e in iou], "iou_interval": [[e.low, e.high] for e in iou]}
    for part in PARTS:
        estimate = bootstrap(mean_curve_auc(part=part), [columns["curve"]], groups=patients)
        figures[f"{part}_auc"] = estimate.value
        figures[f"{part}_auc_interval"] = [estimate.low, estimate.high]
    figures["conventions"] = {
        way: [pr_auc(columns["curve"], way, "total"), pr_auc(columns["curve"], way, "partial")] for way in CONVENTIONS
    }
    figures |= {key: float(columns[key].mean()) for key in ("auprc", "pointing", "energy", "iou_matched_area")}
    prior = rows.get("location_prior")
    figures["gain_over_prior"] = (
        _gain(rows[name], prior, use, boxed) if prior is not None and name != "location_prior" else None
    )
    return figures


def _gain(row: Row, other: Row, use: NDArray[np.bool_], boxed: Cohort) -> Figures:
    patients = np.array(boxed.patients)[use]
    figures: Figures = {}
    statistics: dict[str, tuple[Statistic, Any]] = {
        "iou_90": (mean, lambda columns: columns["iou"][:, AT_90]),
        "total_auc": (mean_curve_auc(), lambda columns: columns["curve"]),
    }
    for name, (statistic, of) in statistics.items():
        gain: Estimate = paired_gain(of(row.columns)[use], of(other.columns)[use], statistic, groups=patients)
        figures[name], figures[f"{name}_interval"] = gain.value, [gain.low, gain.high]
    return figures


def faithfulness_figures(bench: Bench, name: str, chance: Classifier | None) -> Figures:
    """Deletion, insertion, ROAD, max-sensitivity and what is left of the maps when the classifier is random.

    Trained methods are trained anew on the random classifier; on a few test images, those with lesions first.
    """
    chosen = (bench.boxed if len(bench.boxed) else bench.test).images[: bench.profile.faithfulness]
    classes = torch.from_numpy(bench.classes(chosen)).to(bench.device)
    x, method = floats(chosen, bench.device), bench.method(name)
    maps = torch.from_numpy(explain(bench, method, chosen, augmented=False))[:, None].to(bench.device)
    how = removal.PixelRemoval(rule=bench.rule)
    figures = removal.deletion_insertion(bench.classifier, x, classes, maps, how)
    figures["road"] = faithfulness.road(bench.classifier, x, classes, maps, rule=bench.rule)
    few = slice(0, max(1, bench.profile.faithfulness // 4))
    figures["max_sensitivity"] = faithfulness.max_sensitivity(method, bench.classifier, x[few], classes[few], samples=5)
    if chance is not None and (method.trained_by is None or name in bench.profile.randomised_rows):
        other = bench.method(name, chance, "_random_classifier")
        parts = zip(x.split(16), classes.split(16), strict=True)
        random_maps = torch.cat([other(chance, part, wanted) for part, wanted in parts])
        similar = faithfulness.randomisation_similarity(maps, random_maps)
        figures |= {"randomisation": similar["spearman"], "randomisation_ssim": similar["ssim"]}
    return {key: float(np.mean(values)) for key, values in figures.items()}


def timing_figures(bench: Bench, name: str) -> Figures:
    """Seconds per image of a method, plain and augmented, in this run; methods that search are called once, cold."""
    source = bench.test.images
    images = floats(source.repeat(-(-16 // len(source)), 1, 1, 1)[:16], bench.device)
    classes = torch.from_numpy(bench.classes(source)).to(bench.device).repeat(-(-16 // len(source)))[:16]
    figures: Figures = {}
    for suffix in suffixes(bench, name):
        call = partial(_timed_call, bench, bench.method(name), classes, bool(suffix))
        figures[name + suffix] = timed(call, images, 1 if name in SEARCHING else bench.profile.repeats)
    return figures


def _timed_call(bench: Bench, method: Method, classes: torch.Tensor, augmented: bool, x: torch.Tensor) -> torch.Tensor:  # noqa: FBT001 - bound before the images
    return explain_batch(bench, method, x, classes[: len(x)], augmented=augmented)
