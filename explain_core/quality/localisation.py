"""Weak localisation: equations (12) and (13) of arXiv:2012.07332, with controls that need no model.

Tie rule: M_p holds exactly the round((1 - p/100) * H * W) highest pixels; pixels that tie are taken in a fixed
pseudo-random order. Without ties that is the published E >= percentile(E, p); with them, a map that is zero on most
of the image (Grad-CAM after its ReLU, a perfect mask) does not select the whole image.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (80, 85, 90, 95, 98)

Mask = NDArray[np.bool_]
Heatmap = NDArray[np.floating]


def ranking(heatmap: Heatmap, seed: int = 0) -> NDArray[np.intp]:
    """Flat pixel indices from the highest to the lowest value; ties in a fixed pseudo-random order."""
    shuffled = np.random.default_rng(seed).permutation(heatmap.size)
    order = np.argsort(-heatmap.ravel()[shuffled], kind="stable")
    ranked: NDArray[np.intp] = shuffled[order]
    return ranked


def salient_mask(heatmap: Heatmap, percentile: float) -> Mask:
    """M_p of equation (13) under the tie rule above, shape (H, W)."""
    mask = np.zeros(heatmap.size, np.bool_)
    mask[ranking(heatmap)[: round(heatmap.size * (1 - percentile / 100))]] = True
    return mask.reshape(heatmap.shape)


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of one shape, equation (12); 0 when both are empty."""
    union = int(np.count_nonzero(mask | truth))
    return float(np.count_nonzero(mask & truth) / union) if union else 0.0


def iou_at_percentiles(
    heatmap: Heatmap, truth: Mask, percentiles: Sequence[float] = PERCENTILES
) -> NDArray[np.float64]:
    """IoU at each percentile, shape (len(percentiles),), under the tie rule above."""
    inside = np.cumsum(truth.ravel()[ranking(heatmap)])
    area = int(inside[-1])
    scores = np.zeros(len(percentiles))
    for index, percentile in enumerate(percentiles):
        count = round(heatmap.size * (1 - percentile / 100))
        overlap = int(inside[count - 1]) if count else 0
        union = count + area - overlap
        scores[index] = overlap / union if union else 0.0
    return scores


def pointing_hit(heatmap: Heatmap, truth: Mask) -> bool:
    """Pointing game: whether the first maximum lies in the truth."""
    return bool(truth.ravel()[int(np.argmax(heatmap))])


def location_prior(truths: Sequence[Mask]) -> NDArray[np.float64]:
    """The mean of training masks, shape (H, W): a control that has seen boxes and no image."""
    if not truths:
        raise ValueError("the location prior needs at least one training mask")
    total = np.zeros(truths[0].shape, np.float64)
    for truth in truths:
        total += truth
    return total / len(truths)


def centre_map(size: int) -> NDArray[np.float64]:
    """Minus the distance to the image centre, shape (size, size)."""
    axis = np.arange(size) - (size - 1) / 2
    distance: NDArray[np.float64] = np.hypot(axis[:, None], axis[None, :])
    return -distance


def bootstrap_interval(
    values: NDArray[np.floating], *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, shape (N,)."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
