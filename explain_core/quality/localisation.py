"""Weak localisation: equations (12) to (14) of arXiv:2012.07332 and two that need no percentile, image by image.

Tie rule: M_p holds exactly the round((1 - p/100) * H * W) highest pixels; pixels that tie are taken in a fixed
pseudo-random order. Without ties that is the published E >= percentile(E, p); with them, a map that is zero on most
of the image (Grad-CAM after its ReLU, a perfect mask) does not select the whole image. The same order says which of
several highest pixels the pointing game looks at. Only the exact AUPRC takes equal pixels together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (80, 85, 90, 95, 98)
CURVE_PERCENTILES = tuple(range(100))
PARTIAL_FROM = 80

Mask = NDArray[np.bool_]
Heatmap = NDArray[np.floating]
Floats = NDArray[np.float64]
Convention = Literal["mean", "per_image", "mean_anchored", "per_image_anchored"]
Part = Literal["total", "partial"]


@lru_cache(maxsize=8)
def _fixed_order(size: int) -> NDArray[np.intp]:
    order: NDArray[np.intp] = np.random.default_rng(0).permutation(size)
    return order


def ranking(heatmap: Heatmap) -> NDArray[np.intp]:
    """Flat pixel indices from the highest to the lowest value; ties in a fixed pseudo-random order."""
    shuffled = _fixed_order(heatmap.size)
    falling = np.negative(heatmap.ravel()[shuffled], dtype=np.result_type(heatmap, np.float32))
    ranked: NDArray[np.intp] = shuffled[np.argsort(falling, kind="stable")]
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


def iou_at_percentiles(heatmap: Heatmap, truth: Mask, percentiles: Sequence[float] = PERCENTILES) -> Floats:
    """IoU at each percentile, shape (len(percentiles),), under the tie rule above."""
    inside = _inside(truth, ranking(heatmap))
    return _ious(inside, _selected(heatmap.size, percentiles))


def pointing_hit(heatmap: Heatmap, truth: Mask) -> bool:
    """Pointing game: whether the highest pixel lies in the truth; ties under the tie rule above."""
    return bool(truth.ravel()[ranking(heatmap)[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class MapScores:
    """How well one map finds the truth G of its image, all from one ranking of its pixels.

    A share of nothing is 0: the precision of an empty M_p, recall, AUPRC and IoU of an empty truth.

    Attributes:
        iou: equation (12) at `PERCENTILES`, shape (5,).
        precision: |M_p & G| / |M_p| at p = 0..99, shape (100,).
        recall: |M_p & G| / |G| at p = 0..99, shape (100,).
        auprc: exact area under precision and recall over all thresholds (average precision, no interpolation).
        pointing: 1 where the highest pixel lies in the truth, else 0.
        energy: share of the map's mass inside the truth, negative values counting as none; 0 for a map without mass.
        iou_matched_area: IoU of the |G| highest pixels.
    """

    iou: Floats
    precision: Floats
    recall: Floats
    auprc: float
    pointing: float
    energy: float
    iou_matched_area: float

    @property
    def curve(self) -> Floats:
        """Precision and recall, shape (2, 101): p = 0..99, then the highest pixel's precision at recall 0."""
        return np.stack([np.append(self.precision, self.pointing), np.append(self.recall, 0.0)])


def score_maps(
    heatmaps: Sequence[Heatmap], truths: Sequence[Mask], names: Sequence[str] | None = None
) -> list[MapScores]:
    """Score maps, shape (H, W) each, against the masks of their truths, bool, of the same shape.

    One array given for several images in a row (a prior) is ranked once.

    Raises:
        ValueError: NaN or infinity in a map, another shape, or a truth that is not boolean; the message begins with the
            image's name, or its number where `names` is None. Or unequal numbers.
    """
    called = [f"image {index}" for index in range(len(truths))] if names is None else names
    scores = []
    last: Heatmap | None = None
    for heatmap, truth, name in zip(heatmaps, truths, called, strict=True):
        _check(heatmap, truth, name)
        if heatmap is not last:
            last, order = heatmap, ranking(heatmap)
        scores.append(_score(heatmap, order, truth))
    return scores


def columns(scores: Sequence[MapScores]) -> dict[str, Floats]:
    """Scores of N images by name: iou (N, 5), curve (N, 2, 101), the others (N,)."""
    names = ("iou", "curve", "auprc", "pointing", "energy", "iou_matched_area")
    return {name: np.array([getattr(score, name) for score in scores], np.float64) for name in names}


def curve_area(curves: Floats, *, anchored: bool = False, part: Part = "total") -> Floats:
    """Area under precision over recall by the trapezoidal rule, equation (14).

    Args:
        curves: precision and recall as in `MapScores.curve`, shape (..., 2, 101).
        anchored: whether the curve goes on to the anchor at recall 0.
        part: "total" from p = 0, "partial" from p = 80.

    Returns:
        Areas, shape (...).
    """
    points = slice(PARTIAL_FROM if part == "partial" else 0, 101 if anchored else 100)
    precision, recall = curves[..., 0, points], curves[..., 1, points]
    steps = recall[..., :-1] - recall[..., 1:]
    return np.asarray((steps * (precision[..., :-1] + precision[..., 1:]) / 2).sum(axis=-1))


def pr_auc(curves: Floats, convention: Convention = "mean", part: Part = "total") -> float:
    """Precision-recall AUC of N images, equation (14), in one of the four ways to read it.

    Args:
        curves: of N images as in `MapScores.curve`, shape (N, 2, 101).
        convention: "mean" integrates the curve of mean precision over mean recall, p = 0..99 (fits the paper's
            figures); "per_image" averages the images' areas; "_anchored" adds the point of recall 0 at the precision
            of the highest pixel.
        part: "total" or "partial" (p from 80 to 100).
    """
    anchored = convention.endswith("_anchored")
    if convention.startswith("mean"):
        return float(curve_area(curves.mean(axis=0), anchored=anchored, part=part))
    return float(curve_area(curves, anchored=anchored, part=part).mean())


def location_prior(truths: Sequence[Mask]) -> Floats:
    """The mean of training masks, shape (H, W): a control that has seen boxes and no image."""
    if not truths:
        raise ValueError("the location prior needs at least one training mask")
    total = np.zeros(truths[0].shape, np.float64)
    for truth in truths:
        total += truth
    return total / len(truths)


def centre_map(size: int) -> Floats:
    """Minus the distance to the image centre, shape (size, size)."""
    axis = np.arange(size) - (size - 1) / 2
    distance: Floats = np.hypot(axis[:, None], axis[None, :])
    return -distance


def _check(heatmap: Heatmap, truth: Mask, name: str) -> None:
    if heatmap.ndim != 2 or heatmap.shape != truth.shape:  # noqa: PLR2004 - rows and columns
        raise ValueError(f"{name}: a map of shape {heatmap.shape} and a truth of shape {truth.shape}; both are (H, W)")
    if truth.dtype != np.bool_:
        raise ValueError(f"{name}: the truth is a boolean mask, not {truth.dtype}")
    if not np.isfinite(heatmap).all():
        raise ValueError(f"{name}: NaN or infinity in the map")


def _inside(truth: Mask, order: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many of the k highest pixels lie in the truth, k = 0..pixels, shape (pixels + 1,)."""
    inside = np.zeros(truth.size + 1, np.int64)
    np.cumsum(truth.ravel()[order], out=inside[1:])
    return inside


def _selected(size: int, percentiles: Sequence[float]) -> NDArray[np.int64]:
    """|M_p| of the tie rule."""
    return np.rint(size * (1 - np.array(percentiles) / 100)).astype(np.int64)


def _ious(inside: NDArray[np.int64], selected: NDArray[np.int64]) -> Floats:
    overlap = inside[selected]
    return np.asarray(overlap / np.maximum(selected + inside[-1] - overlap, 1))


def _score(heatmap: Heatmap, order: NDArray[np.intp], truth: Mask) -> MapScores:
    inside = _inside(truth, order)
    area = int(inside[-1])
    selected = _selected(truth.size, CURVE_PERCENTILES)
    mass = np.maximum(heatmap, 0)
    total = float(mass.sum(dtype=np.float64))
    return MapScores(
        iou=_ious(inside, _selected(truth.size, PERCENTILES)),
        precision=inside[selected] / np.maximum(selected, 1),
        recall=inside[selected] / max(area, 1),
        auprc=_average_precision(heatmap.ravel()[order], inside),
        pointing=float(inside[1]),
        energy=float(mass[truth].sum(dtype=np.float64)) / total if total else 0.0,
        iou_matched_area=float(_ious(inside, np.array([area]))[0]),
    )


def _average_precision(falling: NDArray[np.floating], inside: NDArray[np.int64]) -> float:
    """Sum over distinct values of the step in recall times the precision there, as scikit-learn defines it."""
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]) + 1, falling.size)
    found = inside[ends]
    gained = np.diff(found, prepend=0)
    return float((gained * (found / ends)).sum() / max(int(inside[-1]), 1))
