"""Champion and challenger on the same fixed test patients: every figure that the gate and the report need.

Nothing is chosen on the test patients: thresholds, temperatures and heatmap scales are the bundles' own. Figures of
the classifier need the class of an image; those of the counterfactuals are of all test images; those of localisation of
images with boxes. Intervals are percentile bootstraps by patient, and differences are paired in each draw.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.quality.localisation import PERCENTILES
from explain_core.quality.reliability import BINS, bin_of, ece_by_chance, ece_of_draws
from explain_core.quality.resampling import roc_auc
from training.cohort import Cohort
from training.errors import TrainingError
from training.gate import ALL, COUNTS, MEASURES
from training.measure.comparison import cases as showing
from training.measure.comparison import data, localisation, scores
from training.measure.comparison.estimates import (
    GRID,
    Column,
    Resamples,
    average_precision,
    band,
    compared,
    described,
    mean_of,
    numbers,
    pr_curves,
    roc_curves,
)
from training.measure.comparison.scores import Meter
from training.progress import Progress, silent

Figures = dict[str, Any]
Floats = NDArray[np.float64]
ROLES = ("champion", "challenger")


def compare(
    champion: Path,
    challenger: Path,
    test: Cohort,
    training: Cohort,
    *,
    cases: int = 24,
    localisation_images: int = 0,
    draws: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
    cache: Path | None = None,
    device: str = "auto",
    augmentations: int | None = None,
) -> Figures:
    """Measure both bundles on the test cohort.

    Args:
        champion: folder of the bundle that runs.
        challenger: folder of the new bundle.
        test: the fixed test images, on the bundles' grid.
        training: everything that is not test: what was trained on and, as split "validation", what was chosen on. For
            the leak check, the counts and the location prior.
        cases: test images to show at most.
        localisation_images: of the test images with boxes, how many are scored at most, by a seeded draw; 0 for all.
        draws: resamples of the patients.
        seed: of resamples, draws of images and random controls.
        progress: told after every batch and map.
        cache: folder for what was measured; a second call with the same bundles and images goes on from there. None
            keeps nothing, and the cases' pictures are in the result.
        device: "auto", "cpu" or "cuda[:n]".
        augmentations: copies averaged for a heatmap, where the node's settings name another number than the bundles;
            None is each bundle's own. Heatmaps are judged as they are delivered, smoothed as the bundle says.

    Returns:
        The figures, for JSON: "data", "leaks", "groups" (counts), "models", "differences" (challenger minus champion),
        "localisation" (controls), "cases" and "made". docs/gate.md names every one.

    Raises:
        BundleError: a bundle cannot be read.
        TrainingError: the test set is empty, has more than two classes, or is on another grid than a bundle's.
        Cancelled: `progress` asked to stop.
    """
    folders = dict(zip(ROLES, (champion, challenger), strict=True))
    explainers = {r: open_bundle(f, device=device, augmentations=augmentations) for r, f in folders.items()}
    _check(explainers, test)
    resamples, groups = Resamples(test.patients, draws, seed), data.groups(test)
    boxed = localisation.choose(test, training, localisation_images, seed)
    work = 2 * (len(test) * scores.SCORE_COST + (len(boxed.places) + cases) * scores.MAP_COST)
    meter, test_hash = Meter(progress, work), data.hash_of(test)
    keys = {role: f"{e.identity.digest[:16]}-{test_hash[:16]}" for role, e in explainers.items()}
    found: dict[str, dict[str, Floats]] = {}
    for role, explainer in explainers.items():
        meter.doing = f"scores of the {role}"
        found[role] = scores.score(explainer, test.images, keys[role], cache, meter)
    columns = {role: _columns(found[role], test, e.bundle.threshold) for role, e in explainers.items()}
    models = {role: _model(found[role], test, explainers[role], resamples) for role in ROLES}
    figures: Figures = {
        "made": {"draws": draws, "seed": seed, "resampled": "patients", "level": 0.95},
        "label": explainers["challenger"].bundle.label,
        "data": data.described(test, training),
        "leaks": data.leaks(test, training),
        "groups": {group: data.counts(test, use) for group, use in groups.items()},
        "models": models,
    }
    if len(boxed.places):
        figures["localisation"] = _localised(
            explainers, test, boxed, columns, models, keys, resamples, cache, meter, seed
        )
    tables = compared(columns["champion"], columns["challenger"], groups, resamples)
    for role, table in zip(ROLES, tables, strict=False):
        models[role]["figures"] = table
    figures["differences"] = tables[2]
    meter.doing = "cases"
    thresholds = {role: e.bundle.threshold for role, e in explainers.items()}
    chosen, kinds = showing.choose(test.targets, found, thresholds, cases, seed)
    name = f"{keys['challenger']}-{explainers['champion'].identity.digest[:8]}"
    figures["cases"] = showing.draw(explainers, test, chosen, found, name, cache, meter)
    figures["case_kinds"] = kinds
    progress(1.0, doing="compared")
    return figures


def _check(explainers: Mapping[str, BundleExplainer], test: Cohort) -> None:
    if not len(test):
        raise TrainingError("the fixed test set holds no image: nothing can be compared")
    if test.outputs != 1:
        raise TrainingError(f"the test set has the classes {', '.join(test.classes)}; the gate judges one finding")
    for role, explainer in explainers.items():
        size = explainer.bundle.input_spec.size
        if size != test.size:
            raise TrainingError(
                f"the {role} {explainer.identity.name} {explainer.identity.version} sees {size} x {size} pixels, the "
                f"test images have {test.size} x {test.size}; both models are compared on one grid"
            )


def _columns(found: Mapping[str, Floats], test: Cohort, threshold: float) -> dict[str, Column]:
    """What every figure but localisation is made of."""
    labelled, positive = test.targets >= 0, test.targets > 0
    called = found["f_x"] >= threshold
    changed = ((found["f_x_a"] >= threshold) != called).astype(np.float64)
    right = (called == positive).astype(np.float64)
    columns = {
        "auc": Column(roc_auc, (positive, found["f_x"]), labelled),
        "average_precision": Column(average_precision, (positive, found["f_x"]), labelled),
        "ece": Column(ece_of_draws, (positive.astype(np.float64), found["f_x"]), labelled),
        "sensitivity": mean_of(np.where(positive, right, np.nan)),
        "specificity": mean_of(np.where(labelled & ~positive, right, np.nan)),
        "kept_rate": mean_of(((found["f_x_s"] >= threshold) == called).astype(np.float64)),
        "flip_rate": mean_of(changed),
        "flip_rate_positive": mean_of(np.where(called, changed, np.nan)),
        "flip_rate_negative": mean_of(np.where(called, np.nan, changed)),
    }
    return columns | {name: mean_of(found[name]) for name in scores.NAMES[3:]}


def _model(found: Mapping[str, Floats], test: Cohort, explainer: BundleExplainer, resamples: Resamples) -> Figures:
    """Who the model is, its curves and its confusion on the labelled test images."""
    bundle = explainer.bundle
    model: Figures = {
        "name": bundle.identity.name,
        "version": bundle.identity.version,
        "digest": bundle.identity.digest,
        "architecture": bundle.description["classifier"]["architecture"],
        "size": bundle.input_spec.size,
        "threshold": bundle.threshold,
        "margin": bundle.margin,
        "temperature": bundle.temperature,
        "augmentations": explainer.augmentations,
        "heatmaps": {
            name: {"floor": one.scale.floor, "full_scale": one.scale.full_scale}
            for name, one in bundle.heatmaps.items()
        },
        "generators": dict(bundle.description["generators"]),
    }
    labelled, positive, f_x = test.targets >= 0, test.targets > 0, found["f_x"]
    if not labelled.any():
        return model
    called = f_x >= bundle.threshold
    model["confusion"] = {
        "threshold": bundle.threshold,
        "true_positive": int((labelled & positive & called).sum()),
        "false_negative": int((labelled & positive & ~called).sum()),
        "false_positive": int((labelled & ~positive & called).sum()),
        "true_negative": int((labelled & ~positive & ~called).sum()),
    }
    for name, among in (("ppv", called), ("npv", ~called)):
        column = mean_of(np.where(labelled & among, (called == positive).astype(np.float64), np.nan))
        values = resamples.values(column.statistic, column.arrays, column.defined) if column.defined.any() else None
        model["confusion"][name] = None if values is None else described(values, int(column.defined.sum()))
    model["calibration"] = _calibration(f_x, positive, labelled, resamples)
    if positive[labelled].any() and not positive[labelled].all():
        model["roc"] = {"x": numbers(GRID)} | band(resamples.values(roc_curves, (positive, f_x), labelled))
        model["pr"] = {"x": numbers(GRID)} | band(resamples.values(pr_curves, (positive, f_x), labelled))
    return model


def _calibration(
    f_x: Floats, positive: NDArray[np.bool_], labelled: NDArray[np.bool_], resamples: Resamples
) -> Figures:
    """Mean probability and share of positives of each bin that has images, and the ECE that chance alone makes."""
    bins = bin_of(f_x)
    rows = []
    for index in np.unique(bins[labelled]).tolist():
        use = labelled & (bins == index)
        column = mean_of(np.where(use, positive.astype(np.float64), np.nan))
        rate = described(resamples.values(column.statistic, column.arrays, use), int(use.sum()))
        rows.append({"low": index / BINS, "high": (index + 1) / BINS, "mean": float(f_x[use].mean()), "rate": rate})
    return {"bins": rows, "chance": ece_by_chance(f_x[labelled])}


def _localised(
    explainers: Mapping[str, BundleExplainer],
    test: Cohort,
    boxed: localisation.Boxed,
    columns: Mapping[str, dict[str, Column]],
    models: Mapping[str, Figures],
    keys: Mapping[str, str],
    resamples: Resamples,
    cache: Path | None,
    meter: Meter,
    seed: int,
) -> Figures:
    """Fills in the columns and the models' tables; returns the controls, which no model changes."""
    count = len(test)
    controls = localisation.controls(boxed, test.size, seed)
    for role, explainer in explainers.items():
        meter.doing = f"maps of the {role}"
        own, sigma = localisation.of_model(explainer, test, boxed, keys[role], cache, meter)
        columns[role].update(localisation.columns(own, controls, boxed, count))
        rows = localisation.table(own, boxed, resamples, count)
        models[role]["localisation"] = {"blur_sigma_pixels": sigma, "rows": rows}
    return {
        "images": len(boxed.places),
        "of": sum(truth is not None for truth in test.truths),
        "percentiles": list(PERCENTILES),
        "controls": localisation.table(controls, boxed, resamples, count),
    }


def metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures of all test patients under flat names, as a registry takes them: "auc", "auc_champion", ..."""
    flat = {f"test_{name}": float(figures["groups"][ALL][name]) for name in COUNTS}
    for name in MEASURES:
        tables = {
            name: figures["models"]["challenger"]["figures"],
            f"{name}_champion": figures["models"]["champion"]["figures"],
            f"{name}_difference": figures["differences"],
        }
        for key, table in tables.items():
            entry = table.get(name, {}).get(ALL)
            if entry is not None:
                flat[key] = float(entry["value"])
    return flat
