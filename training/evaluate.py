"""Every figure of a bundle on held-out patients: classification, generated images, localisation with controls.

`python -m training evaluate --bundle DIR --data nih:DIR --json FILE`. Each figure is given for all images and per
view, because the view is a confounder; localisation stands beside the location prior, centre, random and a plain map
blurred by the Gaussian that makes it as smooth as the averaged map.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.quality.controls import blurred, matched_sigma
from explain_core.quality.localisation import (
    PERCENTILES,
    bootstrap_interval,
    centre_map,
    iou_at_percentiles,
    location_prior,
    pointing_hit,
)
from explain_core.quality.similarity import psnr, ssim
from training import datasets
from training.datasets import Sample
from training.splits import TEST_FOLDS, VALIDATION_FOLDS

Figures = dict[str, Any]
BATCH = 32


def evaluate(bundle: Path, data: str, *, folds: frozenset[int] = TEST_FOLDS, augmentations: int = 10) -> Figures:
    """All figures of `bundle` on the patients of `data` in `folds`.

    Raises:
        BundleError: the bundle cannot be read.
        SystemExit: the data cannot be read or holds no patient of the folds.
    """
    explainer = open_bundle(bundle, augmentations=augmentations)
    everyone = datasets.read(data)
    samples = [sample for sample in everyone if sample.fold in folds]
    if not samples:
        raise SystemExit(f"--data {data}: no image of a patient in folds {sorted(folds)}")
    images = datasets.load_inputs(samples, explainer.bundle.input_spec)
    scores = _scores(explainer, images)
    figures: Figures = {
        "bundle": {
            "name": explainer.identity.name,
            "version": explainer.identity.version,
            "digest": explainer.identity.digest,
        },
        "data": {"folds": sorted(folds), "images": len(samples), "patients": len({s.patient_id for s in samples})},
        "classification": by_view(samples, lambda use: classification(samples, scores["f_x"], use)),
        "counterfactuals": by_view(samples, lambda use: counterfactuals(scores, explainer.bundle.threshold, use)),
    }
    training = [s for s in everyone if s.boxes and s.fold not in TEST_FOLDS | VALIDATION_FOLDS]
    boxed = [index for index, sample in enumerate(samples) if sample.boxes]
    if training and boxed:
        figures["localisation"] = localisation(explainer, samples, images, boxed, training, scores["f_x"])
    return figures


@torch.inference_mode()
def _scores(explainer: BundleExplainer, images: Tensor) -> dict[str, NDArray[np.float64]]:
    """f(x), f(x_s), f(x_a), PSNR and SSIM of every image."""
    columns: dict[str, list[Tensor]] = {name: [] for name in SCORE_NAMES}
    for chunk in images.split(BATCH):
        x = chunk.float() / 255
        f_x = explainer.probabilities(x)
        x_s, x_a = explainer.counterfactuals(x, explainer.decisions(f_x))
        values = [
            f_x, explainer.probabilities(x_s), explainer.probabilities(x_a),
            psnr(x, x_s), ssim(x, x_s), psnr(x, x_a), ssim(x, x_a), psnr(x_s, x_a), ssim(x_s, x_a),
        ]  # fmt: skip
        for name, value in zip(SCORE_NAMES, values, strict=True):
            columns[name].append(value)
    return {name: torch.cat(parts).double().numpy() for name, parts in columns.items()}


SCORE_NAMES = (
    "f_x", "f_x_s", "f_x_a", "psnr_x_s", "ssim_x_s", "psnr_x_a", "ssim_x_a", "psnr_s_a", "ssim_s_a",
)  # fmt: skip


def by_view(samples: Sequence[Sample], figures: Callable[[NDArray[np.bool_]], Figures]) -> dict[str, Figures]:
    """`figures` of all samples and of each view."""
    views = np.array([sample.view for sample in samples])
    parts = {"all": np.ones(len(samples), np.bool_)}
    parts |= {str(view): views == view for view in sorted(set(views)) if view}
    return {name: figures(use) for name, use in parts.items()}


def classification(samples: Sequence[Sample], scores: NDArray[np.float64], use: NDArray[np.bool_]) -> Figures:
    """ROC AUC of f(x) against the labels, with a bootstrap interval, on expert labels and on all labelled."""
    figures: Figures = {}
    for name, wanted in (("expert", {"expert"}), ("all_labelled", None)):
        chosen = use & np.array(
            [s.target is not None and (wanted is None or s.target_source in wanted) for s in samples]
        )
        targets = np.array([sample.target or 0 for sample in samples])[chosen]
        figures[name] = {"images": int(chosen.sum()), "positive": int(targets.sum())}
        if 0 < targets.sum() < len(targets):
            figures[name] |= _auc(targets, scores[chosen])
    return figures


def _auc(targets: NDArray[np.integer], scores: NDArray[np.float64], draws: int = 1000) -> Figures:
    generator = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        index = generator.integers(0, len(targets), len(targets))
        if 0 < targets[index].sum() < len(targets):
            values.append(roc_auc_score(targets[index], scores[index]))
    low, high = np.quantile(values, [0.025, 0.975])
    return {"auc": float(roc_auc_score(targets, scores)), "interval": [float(low), float(high)]}


def counterfactuals(scores: dict[str, NDArray[np.float64]], threshold: float, use: NDArray[np.bool_]) -> Figures:
    """Kept and changed decisions, PSNR in dB and SSIM, over the images in `use` (Tables IV and V)."""
    f_x, f_x_s, f_x_a = (scores[name][use] for name in ("f_x", "f_x_s", "f_x_a"))
    decided = (f_x >= threshold).astype(np.int64)
    figures: Figures = {"images": int(use.sum())}
    if 0 < decided.sum() < len(decided):
        figures["similar_auc"] = float(roc_auc_score(decided, f_x_s))
        figures["adversarial_auc"] = float(roc_auc_score(1 - decided, f_x_a))
    figures["kept_rate"] = float(((f_x_s >= threshold) == decided).mean())
    changed = (f_x_a >= threshold) != decided
    figures["flip_rate"] = float(changed.mean())
    figures["flip_rate_positive"] = float(changed[decided == 1].mean()) if decided.any() else None
    figures["flip_rate_negative"] = float(changed[decided == 0].mean()) if not decided.all() else None
    figures |= {name: float(scores[name][use].mean()) for name in SCORE_NAMES[3:]}
    return figures


def explain_all(
    explainer: BundleExplainer, images: Tensor
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Plain maps by equation (3) and averaged maps by equation (11) of uint8 images."""
    plain, averaged = [], []
    with torch.inference_mode():
        for image in images:
            x = image.float() / 255
            decision = explainer.decisions(explainer.probabilities(x[None]))
            x_s, x_a = explainer.counterfactuals(x[None], decision)
            plain.append((x_s - x_a).abs()[0, 0].numpy())
            averaged.append(explainer.heatmap(x[None], decision)[0][0, 0].numpy())
    return plain, averaged


def localisation(
    explainer: BundleExplainer,
    samples: Sequence[Sample],
    images: Tensor,
    boxed: Sequence[int],
    training: Sequence[Sample],
    probabilities: NDArray[np.float64],
) -> Figures:
    """IoU at percentiles and pointing game on images with opacity boxes, beside controls."""
    size = explainer.bundle.input_spec.size
    truths = [datasets.box_mask(samples[index], size) for index in boxed]
    plain, averaged = explain_all(explainer, images[list(boxed)])
    sigma = matched_sigma(plain[:32], averaged[:32])
    prior = location_prior([datasets.box_mask(sample, size) for sample in training])
    generator = np.random.default_rng(0)
    maps: dict[str, Sequence[NDArray[Any]]] = {
        "similar_adversarial": plain,
        "similar_adversarial_augmented": averaged,
        "gaussian_blur": [blurred(heatmap, sigma) for heatmap in plain],
        "location_prior": [prior] * len(truths),
        "centre": [centre_map(size)] * len(truths),
        "random": [generator.random((size, size)) for _ in truths],
        "perfect_mask": [truth.astype(np.float64) for truth in truths],
    }
    scores = {
        name: np.array([iou_at_percentiles(m, t) for m, t in zip(row, truths, strict=True)])
        for name, row in maps.items()
    }
    pointing = {
        name: np.array([pointing_hit(m, t) for m, t in zip(row, truths, strict=True)], np.float64)
        for name, row in maps.items()
    }
    chosen = [samples[index] for index in boxed]
    called = probabilities[list(boxed)] >= explainer.bundle.threshold
    parts = by_view(chosen, lambda use: _localisation_part(scores, pointing, use))
    parts["true_positives"] = _localisation_part(scores, pointing, called)
    return {
        "percentiles": list(PERCENTILES),
        "blur_sigma_pixels": sigma,
        "augmentations": explainer.augmentations,
        "prior_training_images": len(training),
        "parts": parts,
    }


def _localisation_part(
    scores: dict[str, NDArray[np.float64]], pointing: dict[str, NDArray[np.float64]], use: NDArray[np.bool_]
) -> Figures:
    if not use.any():
        return {"images": 0}
    rows: Figures = {}
    for name, values in scores.items():
        chosen = values[use]
        rows[name] = {
            "iou": [float(v) for v in chosen.mean(axis=0)],
            "interval": [list(bootstrap_interval(column)) for column in chosen.T],
            "pointing": float(pointing[name][use].mean()),
        }
    gain = (scores["similar_adversarial_augmented"] - scores["location_prior"])[use]
    return {
        "images": int(use.sum()),
        "rows": rows,
        "gain_over_prior": {
            "iou": [float(v) for v in gain.mean(axis=0)],
            "interval": [list(bootstrap_interval(column)) for column in gain.T],
        },
    }
