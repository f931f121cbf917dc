"""Bootstrap intervals by resampling images jointly: Efron & Tibshirani 1993, the percentile method.

A statistic takes weights of the images, shape (B, N), how often each image is in each draw, and per-image arrays, shape
(N, ...), and gives one number per draw, shape (B,). So the means and mean curves of all draws are one matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.localisation import Part, curve_area

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]
LEVEL = 0.95
_CELLS = 4_000_000  # weights held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its bootstrap interval.

    Attributes:
        value: of the images as they are.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Statistic,
    arrays: Sequence[NDArray[Any]],
    *,
    draws: int = 2000,
    seed: int = 0,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> Estimate:
    """A statistic of per-image arrays with its interval of 95 %; all arrays are resampled by the same images.

    Args:
        statistic: as described at the top; NaN where a draw leaves it undefined, which draws are left out.
        arrays: per-image values, shape (N, ...) each.
        draws: number of resamples.
        seed: of the resamples.
        groups: who each image is of, length N: patients are then resampled whole. None: every image on its own.

    Raises:
        ValueError: no image, arrays of unequal length, or NaN in them.
    """
    count = _length(arrays)
    members = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(members) != count:
        raise ValueError(f"{len(members)} groups for {count} images")
    value = float(statistic(np.ones((1, count)), *arrays)[0])
    counts = _counts(int(members.max()) + 1, draws, seed)
    step = max(1, _CELLS // count)
    parts = (counts[start : start + step, members].astype(np.float64) for start in range(0, draws, step))
    values = np.concatenate([statistic(weights, *arrays) for weights in parts])
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def mean(weights: Floats, values: NDArray[Any]) -> Floats:
    """The mean of per-image values, shape (N,)."""
    return np.asarray(weights @ values.astype(np.float64) / weights.sum(axis=1))


def share(weights: Floats, hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Floats:
    """The share of `hits` among the images `among`, both shape (N,); NaN where a draw holds none of them."""
    among_weight = weights @ among.astype(np.float64)
    hit_weight = weights @ (hits & among).astype(np.float64)
    return _ratio(hit_weight, among_weight)


def mean_curve_auc(*, anchored: bool = False, part: Part = "total") -> Statistic:
    """The statistic of curves, shape (N, 2, 101), that `pr_auc` names "mean" or "mean_anchored"."""

    def statistic(weights: Floats, curves: Floats) -> Floats:
        means = weights @ curves.reshape(len(curves), -1) / weights.sum(axis=1, keepdims=True)
        return curve_area(means.reshape(len(weights), *curves.shape[1:]), anchored=anchored, part=part)

    return statistic


def roc_auc(weights: Floats, labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> Floats:
    """Area under the ROC curve of scores against labels, both shape (N,): equal scores count one half.

    NaN where a draw holds only one kind of label.
    """
    order = np.argsort(scores, kind="stable")
    rising = scores[order]
    starts = np.append(0, np.flatnonzero(rising[1:] != rising[:-1]) + 1)
    ranked = labels[order].astype(np.float64)
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * ranked, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * (1 - ranked), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * below).sum(axis=1), pairs)


def roc_auc_within(
    weights: Floats, labels: NDArray[np.bool_], scores: NDArray[np.floating], judges: NDArray[Any]
) -> Floats:
    """`roc_auc` of pairs that one classifier scored: what different ones say of two images cannot be compared.

    Args:
        weights: of the images in each draw, shape (D, N).
        labels: shape (N,).
        scores: shape (N,).
        judges: which classifier scored the image, shape (N,).
    """
    ranked, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for judge in np.unique(judges):
        use = judges == judge
        part = weights[:, use]
        among = (part @ labels[use].astype(np.float64)) * (part @ (~labels[use]).astype(np.float64))
        ranked += np.where(among > 0, roc_auc(part, labels[use], scores[use]) * among, 0)
        pairs += among
    return _ratio(ranked, pairs)


def one_vs_rest_auc(weights: Floats, labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> Floats:
    """`roc_auc` of each column of labels and scores, shape (N, K), averaged over the columns that have one."""
    areas = np.stack([roc_auc(weights, labels[:, k], scores[:, k]) for k in range(labels.shape[1])])
    defined = np.isfinite(areas)
    total = np.where(defined, areas, 0).sum(axis=0)
    return _ratio(total, defined.sum(axis=0))


def paired_gain(
    a: NDArray[Any],
    b: NDArray[Any],
    statistic: Statistic = mean,
    *,
    draws: int = 2000,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> Estimate:
    """statistic(a) - statistic(b) of two methods on the same images, resampled together.

    Args:
        a: per-image values of one method, as `statistic` takes them, shape (N, ...).
        b: those of the other, or of a control, of the same shape.
        statistic: of one array: `mean`, or `mean_curve_auc()` for curves.
        draws: as for `bootstrap`.
        groups: as for `bootstrap`.

    Raises:
        ValueError: as `bootstrap`, or arrays of unequal shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"a gain pairs the same images: shapes {a.shape} and {b.shape}")

    def difference(weights: Floats, first: NDArray[Any], second: NDArray[Any]) -> Floats:
        return statistic(weights, first) - statistic(weights, second)

    return bootstrap(difference, (a, b), draws=draws, groups=groups)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Quotients, NaN where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


@lru_cache(maxsize=4)
def _counts(units: int, draws: int, seed: int) -> NDArray[np.int16]:
    """How often each unit comes up in each draw, shape (draws, units)."""
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, units), np.int16)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
    counts.flags.writeable = False
    return counts


def _length(arrays: Sequence[NDArray[Any]]) -> int:
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"a bootstrap needs arrays of one length with at least one image, got {sorted(lengths)}")
    if any(np.isnan(array).any() for array in arrays):
        raise ValueError("NaN among the values to resample")
    return lengths.pop()
