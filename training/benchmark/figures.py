"""The figures of a benchmark: from rows and networks to the JSON that the report shows."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core.blur import BLUR
from explain_core.generators.features import FeatureGenerators
from explain_core.generators.kinds import Generators
from explain_core.method import Method
from explain_core.quality import controls, faithfulness, hottest, removal
from explain_core.quality.counterfactuals import counterfactual_figures, distances
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
from explain_core.quality.transfer import carried_over, smooth_noise
from training.benchmark.profiles import FEATURE_ROWS, GENERATOR_ROWS, SEARCHING
from training.benchmark.rows import Row, explain, explain_batch, method_row, smoothed, suffixes
from training.benchmark.stages import Bench, floats
from training.benchmark.timing import timed
from training.cohort import Cohort
from training.measure.estimates import mean_of

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


def _told(name: str, estimate: Estimate) -> Figures:
    return {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}


def generator_figures(bench: Bench, row: str, network: Generators) -> Figures:
    """Tables IV and V for one row, which part of the change reverses decisions, and transfer, on all test images."""
    images = bench.test.images
    parts: dict[str, list[torch.Tensor]] = {"x_s": [], "x_a": []}
    logits = bench.logits(images)
    decided = bench.decisions(images)
    for chunk, y in zip(images.split(32), decided.split(32), strict=True):
        x_s, x_a = bench.generated(network, floats(chunk, bench.device), y.to(bench.device))
        parts["x_s"].append(x_s.cpu())
        parts["x_a"].append(x_a.cpu())
    x, x_s, x_a = images.float() / 255, torch.cat(parts["x_s"]), torch.cat(parts["x_a"])
    naive = row == "adversarial_tv"
    estimates = counterfactual_figures(
        logits, bench.logits(x_a), None if naive else bench.logits(x_s), rule=bench.rule, draws=1000,
        groups=bench.test.patients,
    )  # fmt: skip
    figures: Figures = {
        "steps": bench.profile.generators.steps if row in (*GENERATOR_ROWS, *FEATURE_ROWS) else None,
        "weights": sum(parameter.numel() for parameter in network.parameters()),
        "heads": network.decisions if isinstance(network, FeatureGenerators) else len(network.adversarial),
    }
    for name, estimate in estimates.items():
        figures |= _told(name, estimate)
    pairs = {"x_a": (x, x_a)} if naive else {"x_s": (x, x_s), "x_a": (x, x_a), "s_a": (x_s, x_a)}
    for name, (first, second) in pairs.items():
        figures[f"psnr_{name}"] = float(psnr(first, second).mean())
        figures[f"ssim_{name}"] = float(
            torch.cat([ssim(a, b) for a, b in zip(first.split(64), second.split(64), strict=True)]).mean()
        )
    figures |= {name: float(values.mean()) for name, values in distances(x.numpy(), x_a.numpy()).items()}
    maps = (x - x_a if naive else x_s - x_a).abs()
    return figures | _parts(bench, x, x_a, maps) | _transfer(bench, decided.numpy(), x, x_a)


def _parts(bench: Bench, x: torch.Tensor, x_a: torch.Tensor, maps: torch.Tensor) -> Figures:
    """Share of decisions that parts of the change reverse, of all test images, by `hottest.reversed_by_parts`."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for one, two, three in zip(x.split(32), x_a.split(32), maps.split(32), strict=True):
        for name, values in hottest.reversed_by_parts(bench.decisions, one, two, three).items():
            found.setdefault(name, []).append(values)
    columns = {f"part_{name}": np.concatenate(parts) for name, parts in found.items() if name != "whole"}
    return _means(bench, columns)


def _transfer(bench: Bench, first: NDArray[np.int64], x: torch.Tensor, x_a: torch.Tensor) -> Figures:
    """How often x_a, and a random smooth change as large, changes the second classifier's decision.

    "transfer" is of all test images; "transfer_positive" and "_negative" are of those that both classifiers decide so.
    """
    noise = torch.cat([smooth_noise(part, BLUR * x.shape[-1]) for part in (x_a - x).split(32)])
    before = bench.second_decisions(x)
    columns = {"agreed": (before == first).astype(np.float64)}
    for name, images in (("transfer", x_a), ("transfer_control", (x + noise).clamp(0, 1))):
        after = bench.second_decisions(images)
        columns[name] = (after != before).astype(np.float64)
        if not bench.rule.exclusive:
            over = carried_over(first, before, after)
            columns |= {f"{name}_{kind}": over[kind] for kind in ("positive", "negative")}
    return _means(bench, columns)


def _means(bench: Bench, columns: Mapping[str, NDArray[np.float64]]) -> Figures:
    """The mean of each column over the images where it is known, with its interval by patient."""
    figures: Figures = {}
    patients = np.array(bench.test.patients)
    for name, values in columns.items():
        found = mean_of(values, patients, 1000)
        if found is not None:
            figures |= {name: found["value"], f"{name}_interval": found["interval"]}
    return figures


def localisation_figures(bench: Bench, rows: Mapping[str, Row], best: str) -> Figures:
    """Tables VI to VIII and X, XI for all images and each stratum, and the best row's gain over every other."""
    boxed = bench.boxed
    truths = [truth for truth in boxed.truths if truth is not None]
    called = bench.decisions(boxed.images).numpy() > 0
    views = boxed.views if any(boxed.views) else None
    strata = controls.strata(truths, boxed.boxes.tolist(), views, called)
    everyone = np.ones(len(boxed), np.bool_)
    parts = {"all": everyone} | strata
    return {
        "percentiles": list(PERCENTILES),
        "best": best,
        "parts": {name: _part(boxed, rows, use) for name, use in parts.items() if use.any()},
        "ahead": {other: _gain(rows[best], row, everyone, boxed) for other, row in rows.items() if other != best},
    }


def _part(boxed: Cohort, rows: Mapping[str, Row], use: NDArray[np.bool_]) -> Figures:
    return {"images": int(use.sum()), "rows": {name: _row(boxed, rows, name, use) for name in rows}}


def _row(boxed: Cohort, rows: Mapping[str, Row], name: str, use: NDArray[np.bool_]) -> Figures:
    columns = {key: values[use] for key, values in rows[name].columns.items()}
    patients = np.array(boxed.patients)[use]
    iou = [bootstrap(mean, [column], groups=patients) for column in columns["iou"].T]
    figures: Figures = {"iou": [e.value for e in iou], "iou_interval": [[e.low, e.high] for e in iou]}
    for part in PARTS:
        figures |= _told(f"{part}_auc", bootstrap(mean_curve_auc(part=part), [columns["curve"]], groups=patients))
    figures["conventions"] = {
        way: [pr_auc(columns["curve"], way, "total"), pr_auc(columns["curve"], way, "partial")] for way in CONVENTIONS
    }
    figures |= {key: float(columns[key].mean()) for key in ("auprc", "pointing", "energy", "iou_matched_area")}
    hits = bootstrap(mean, [columns["pointing"]], groups=patients)
    figures["pointing_interval"] = [hits.low, hits.high]
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
        gain = paired_gain(of(row.columns)[use], of(other.columns)[use], statistic, groups=patients)
        figures |= _told(name, gain)
    return figures


def faithfulness_figures(bench: Bench, name: str) -> Figures:
    """Deletion, insertion, ROAD, max-sensitivity and stability of a method's maps of the images of `few_images`."""
    _, x, classes = few_images(bench)
    method = bench.method(name)
    figures = _removed(bench, x, classes, few_maps(bench, name))
    if name not in SEARCHING:
        figures |= {f"stable_{key}": values for key, values in _stability(bench, method, x, classes).items()}
    few = slice(0, max(1, bench.profile.faithfulness // 4))
    figures["max_sensitivity"] = faithfulness.max_sensitivity(method, bench.classifier, x[few], classes[few], samples=5)
    return {key: float(np.mean(values)) for key, values in figures.items()}


def random_ranking_figures(bench: Bench) -> Figures:
    """Deletion, insertion and ROAD of a random ranking, which every method has to beat, on the same images."""
    _, x, classes = few_images(bench)
    figures = _removed(bench, x, classes, removal.random_maps(x))
    return {key: float(np.mean(values)) for key, values in figures.items()}


def few_maps(bench: Bench, name: str) -> torch.Tensor:
    """A method's maps of the images of `few_images`, shape (N, 1, S, S); kept with its row where lesions are marked."""
    chosen = few_images(bench)[0]
    with_boxes = len(bench.boxed) > 0
    maps = method_row(bench, name).maps if with_boxes else explain(bench, bench.method(name), chosen, augmented=False)
    return torch.from_numpy(maps[: len(chosen)])[:, None].to(bench.device)


def few_images(bench: Bench) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A few test images, those with lesions first, as stored and as floats, and the classes that are explained."""
    chosen = (bench.boxed if len(bench.boxed) else bench.test).images[: bench.profile.faithfulness]
    return chosen, floats(chosen, bench.device), torch.from_numpy(bench.classes(chosen)).to(bench.device)


def _removed(
    bench: Bench, x: torch.Tensor, classes: torch.Tensor, maps: torch.Tensor
) -> dict[str, NDArray[np.float64]]:
    how = removal.PixelRemoval(rule=bench.rule)
    figures = removal.deletion_insertion(bench.classifier, x, classes, maps, how)
    return figures | {"road": faithfulness.road(bench.classifier, x, classes, maps, rule=bench.rule)}


def _stability(bench: Bench, method: Method, x: torch.Tensor, classes: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """Overlap of the hottest tenths of smoothed maps of images and of slightly changed copies, per image."""

    def shown(images: torch.Tensor) -> torch.Tensor:
        maps = method(bench.classifier, images, classes).float().cpu()
        return torch.from_numpy(smoothed(maps[:, 0].numpy()))[:, None]

    return hottest.stability(shown, x)


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


def delivered_timing(bench: Bench) -> Figures:
    """Seconds per image of the map as the bundle delivers it, decision and blur included."""
    explainer, source = bench.explainer, bench.test.images
    images = floats(source.repeat(-(-16 // len(source)), 1, 1, 1)[:16], bench.device)

    @torch.no_grad()
    def call(x: torch.Tensor) -> torch.Tensor:
        return explainer.shown(x, explainer.decisions(explainer.probabilities(x)))[0]

    return timed(call, images, bench.profile.repeats)


def _timed_call(bench: Bench, method: Method, classes: torch.Tensor, augmented: bool, x: torch.Tensor) -> torch.Tensor:  # noqa: FBT001 - bound before the images
    return explain_batch(bench, method, x, classes[: len(x)], augmented=augmented)
