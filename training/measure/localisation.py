"""Where maps point, on images with boxes: the bundle's maps beside controls that see no image, and by strata."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.blur import weighted_blur
from explain_core.classifier import offers
from explain_core.explainer import BundleExplainer
from explain_core.quality.controls import blurred, control_maps, derangement, matched_sigma, strata
from explain_core.quality.localisation import PERCENTILES, Mask, columns, score_maps
from explain_core.quality.resampling import mean, mean_curve_auc
from training.measure.estimates import DRAWS, Use, estimate, gain

Figures = dict[str, Any]
Floats = NDArray[np.float64]
Columns = dict[str, Floats]
Map = NDArray[np.float32]
DELIVERED, ONE_PASS, COPIES, EVIDENCE = "delivered", "one_pass", "ten_copies", "evidence"
SHOWN_EVIDENCE, OPTIMUM = "evidence_blurred", "optimum"
OURS = (DELIVERED, ONE_PASS, COPIES, EVIDENCE, SHOWN_EVIDENCE, OPTIMUM)
"""Rows that look at the image; the others are controls."""
PRIOR = "location_prior"
NUMBER_OF_COPIES, SHUFFLES, MATCHED = 10, 20, 32
AT_90 = PERCENTILES.index(90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxed:
    """Images with marked lesions.

    Attributes:
        images: uint8, shape (N, 1, S, S).
        truths: union mask of the lesions of each, shape (S, S).
        patients: who was imaged, shape (N,).
        views: "PA", "AP" or "".
        boxes: how many lesions each has.
        prior: the mean of training masks, shape (S, S), none of these images' among them.
    """

    images: Tensor
    truths: Sequence[Mask]
    patients: NDArray[Any]
    views: Sequence[str]
    boxes: Sequence[int]
    prior: Floats


def maps_of(explainer: BundleExplainer, images: Tensor, *, optimum: bool = False) -> dict[str, list[Map]]:
    """The rows of `OURS` that the bundle can make, of uint8 images, shape (S, S) each.

    Args:
        explainer: the bundle, with its own number of copies: "delivered" is what it shows.
        images: uint8, shape (N, 1, S, S).
        optimum: whether forty steps of search an image are made too.
    """
    size, heatmaps = images.shape[-1], explainer.bundle.heatmaps

    def smooth(maps: Tensor, method: str = explainer.method) -> Tensor:
        return weighted_blur(maps, heatmaps.get(method, heatmaps[explainer.method]).blur * size)

    rows: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        DELIVERED: lambda x, y: explainer.shown(x, y)[0],
        ONE_PASS: lambda x, y: explainer.heatmap(x, y, augmentations=0)[0],
        COPIES: lambda x, y: smooth(explainer.heatmap(x, y, augmentations=NUMBER_OF_COPIES)[0]),
    }
    if offers(explainer.bundle.classifier, EVIDENCE):
        rows[EVIDENCE] = lambda x, y: explainer.heatmap(x, y, EVIDENCE, 0)[0]
        rows[SHOWN_EVIDENCE] = lambda x, y: smooth(explainer.heatmap(x, y, EVIDENCE, 0)[0], EVIDENCE)
    if optimum:
        rows[OPTIMUM] = lambda x, y: smooth(explainer.heatmap(x, y, OPTIMUM, 0)[0], OPTIMUM)
    made: dict[str, list[Map]] = {name: [] for name in rows}
    with torch.no_grad():
        for image in images:
            x = (image[None].float() / 255).to(explainer.device)
            decision = explainer.decisions(explainer.probabilities(x))
            for name, row in rows.items():
                made[name].append(row(x, decision)[0, 0].cpu().numpy())
    return made


def scored(made: Mapping[str, Sequence[Map]], boxed: Boxed, seed: int = 0) -> dict[str, Columns]:
    """Scores of each image by row: the maps in `made`, and the controls beside them.

    `equal_blur`: one pass under the Gaussian that makes it as smooth as the ten copies' map; `shuffled_boxes`: the
    delivered map, and `shuffled_evidence` the evidence, against the boxes of other images, the mean of 20 draws.
    """
    rows: dict[str, Sequence[NDArray[Any]]] = dict(made)
    sigma = matched_sigma(made[ONE_PASS][:MATCHED], made[COPIES][:MATCHED])
    rows["equal_blur"] = [blurred(one, sigma) for one in made[ONE_PASS]]
    rows |= control_maps(boxed.truths, boxed.prior, seed=seed)
    found = {name: columns(score_maps(row, boxed.truths)) for name, row in rows.items()}
    for name, of in (("shuffled_boxes", DELIVERED), ("shuffled_evidence", EVIDENCE)):
        if of in made and len(boxed.truths) > 1:
            found[name] = shuffled(made[of], boxed.truths, seed)
    return found


def shuffled(maps: Sequence[Map], truths: Sequence[Mask], seed: int = 0, draws: int = SHUFFLES) -> Columns:
    """Scores of maps against the boxes of other images: the mean of `draws` ways to exchange them."""
    total: Columns = {}
    for draw in range(draws):
        others = [truths[index] for index in derangement(len(truths), seed + draw)]
        for name, values in columns(score_maps(maps, others)).items():
            total[name] = total.get(name, 0.0) + values / draws
    return total


def localisation(
    found: Mapping[str, Columns], boxed: Boxed, called: Use, training_images: int, draws: int = DRAWS
) -> Figures:
    """Every row of `scored` for all images and each stratum, with the gain of ours over the location prior.

    Args:
        found: scores of each image by row.
        boxed: the images.
        called: which of them the classifier calls positive, shape (N,).
        training_images: how many made the prior.
        draws: of the intervals.
    """
    parts = strata(boxed.truths, boxed.boxes, boxed.views if any(boxed.views) else None, called)
    return {
        "percentiles": list(PERCENTILES),
        "prior_training_images": training_images,
        "parts": {name: part(found, boxed.patients, use, draws) for name, use in parts.items()},
    }


def part(found: Mapping[str, Columns], patients: NDArray[Any], use: Use, draws: int = DRAWS) -> Figures:
    """The figures of the images in `use`.

    Returns:
        "images", "patients", and by row "iou" (one a percentile), "auc" under precision-recall, "pointing", and of
        ours "gain" over the prior in all three.
    """
    who, rows = patients[use], {}
    prior = found.get(PRIOR)
    for name, values in found.items():
        row = {key: column[use] for key, column in values.items()}
        entry: Figures = {
            "iou": [estimate(mean, [column], who, draws) for column in row["iou"].T],
            "auc": estimate(mean_curve_auc(), [row["curve"]], who, draws),
            "pointing": estimate(mean, [row["pointing"]], who, draws),
        }
        if name in OURS and prior is not None:
            base = {key: column[use] for key, column in prior.items()}
            entry["gain"] = {
                "iou": [gain(a, b, mean, who, draws) for a, b in zip(row["iou"].T, base["iou"].T, strict=True)],
                "auc": gain(row["curve"], base["curve"], mean_curve_auc(), who, draws),
                "pointing": gain(row["pointing"], base["pointing"], mean, who, draws),
            }
        rows[name] = entry
    return {"images": int(use.sum()), "patients": len(set(who.tolist())), "rows": rows}
