"""Whether heatmaps find the boxes: both models on the same images, beside controls that see no image."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core.explainer import BundleExplainer
from explain_core.quality.controls import blurred, control_maps, matched_sigma
from explain_core.quality.localisation import PERCENTILES, iou_at_percentiles, location_prior, pointing_hit
from training.cohort import Cohort
from training.measure.comparison import data
from training.measure.comparison.estimates import Column, Resamples, described, mean_of
from training.measure.comparison.scores import Meter, maps

Floats = NDArray[np.float64]
AT_90 = PERCENTILES.index(90)
MATCHED = 32  # maps by which the width of the blurring control is matched


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxed:
    """The images with boxes on which maps are scored.

    Attributes:
        places: their places in the test cohort, rising, shape (M,).
        truths: their masks, shape (S, S) each.
        prior: mean of the training masks, shape (S, S); None where no training image has boxes.
    """

    places: NDArray[np.int64]
    truths: list[NDArray[np.bool_]]
    prior: Floats | None


def choose(test: Cohort, training: Cohort, most: int, seed: int) -> Boxed:
    """All test images with boxes, or `most` of them by a seeded draw; 0 takes all."""
    places = np.array([index for index, truth in enumerate(test.truths) if truth is not None], np.int64)
    if 0 < most < len(places):
        places = np.sort(np.random.default_rng(seed).choice(places, most, replace=False))
    masks = data.prior_masks(training)
    return Boxed(
        places=places,
        truths=[truth for place in places for truth in [test.truths[place]] if truth is not None],
        prior=location_prior(masks) if masks else None,
    )


def _scored(row: Sequence[NDArray[Any]], boxed: Boxed) -> Floats:
    """IoU at each percentile, then pointing, of one map per image, shape (M, 6)."""
    pairs = zip(row, boxed.truths, strict=True)
    return np.array([[*iou_at_percentiles(m, t), float(pointing_hit(m, t))] for m, t in pairs], np.float64)


def controls(boxed: Boxed, size: int, seed: int) -> dict[str, Floats]:
    """Scores of the maps that see no image: location prior where there is one, centre, random, perfect mask."""
    prior = np.zeros((size, size)) if boxed.prior is None else boxed.prior
    rows = control_maps(boxed.truths, prior, seed=seed)
    if boxed.prior is None:
        del rows["location_prior"]
    return {name: _scored(row, boxed) for name, row in rows.items()}


def of_model(
    explainer: BundleExplainer, test: Cohort, boxed: Boxed, name: str, cache: Path | None, meter: Meter
) -> tuple[dict[str, Floats], float]:
    """Scores of the delivered map, of one pass, and of one pass blurred as smooth; and that blur's width in pixels."""
    drawn = hashlib.sha256(boxed.places.tobytes()).hexdigest()[:8]
    key = f"{name}-{drawn}-{explainer.augmentations}-{explainer.seed}"
    one_pass, delivered = maps(explainer, test.images[torch.from_numpy(boxed.places)], key, cache, meter)
    sigma = matched_sigma(one_pass[:MATCHED], delivered[:MATCHED])
    smooth = [blurred(heatmap, sigma) for heatmap in one_pass]
    rows = {"delivered": delivered, "one_pass": one_pass, "equal_blur": smooth}
    return {key: _scored(row, boxed) for key, row in rows.items()}, sigma


def _spread(values: Floats, boxed: Boxed, count: int) -> Column:
    """Scores of the images with boxes as a column of the test cohort of `count` images."""
    everyone = np.full(count, np.nan)
    everyone[boxed.places] = values
    return mean_of(everyone)


def columns(own: Mapping[str, Floats], other: Mapping[str, Floats], boxed: Boxed, count: int) -> dict[str, Column]:
    """The figures of the delivered map as columns of the test cohort of `count` images; `other` are the controls."""
    delivered = own["delivered"]
    rows = {f"iou_{p}": delivered[:, index] for index, p in enumerate(PERCENTILES)}
    rows |= {"pointing": delivered[:, -1], "gain_over_blur": delivered[:, AT_90] - own["equal_blur"][:, AT_90]}
    if "location_prior" in other:
        rows |= {"gain_over_prior": delivered[:, AT_90] - other["location_prior"][:, AT_90]}
    return {name: _spread(values, boxed, count) for name, values in rows.items()}


def table(rows: Mapping[str, Floats], boxed: Boxed, resamples: Resamples, count: int) -> dict[str, Any]:
    """Each kind of map: IoU at the percentiles with intervals, and pointing."""
    found: dict[str, Any] = {}
    for name, scores in rows.items():
        entries = []
        for values in scores.T:
            column = _spread(values, boxed, count)
            entries.append(described(resamples.values(column.statistic, column.arrays, column.defined), len(values)))
        found[name] = {"iou": entries[:-1], "pointing": entries[-1]}
    return found
