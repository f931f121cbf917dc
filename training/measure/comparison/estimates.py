"""Figures with bootstrap intervals by patient, their paired differences, and bands around curves.

Patients are resampled whole, once for everything: the same draws serve every figure, group and model, so that a
difference of two models is paired in each draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.resampling import Statistic, mean
from training.gate import LEVELS

Floats = NDArray[np.float64]
Use = NDArray[np.bool_]
GRID = np.linspace(0, 1, 101)
LEAST = 5  # images that an interval needs; of fewer, resamples say nothing
_CELLS = 4_000_000  # weights held at once


class Resamples:
    """Draws of patients with replacement.

    Args:
        patients: who each image is of, length N.
        draws: number of resamples.
        seed: of the draws.
    """

    def __init__(self, patients: Sequence[str], draws: int, seed: int) -> None:
        names, self._member = np.unique(np.array(list(patients), dtype=str), return_inverse=True)
        generator = np.random.default_rng(seed)
        shares = np.full(len(names), 1 / len(names))
        self._counts = generator.multinomial(len(names), shares, size=draws).astype(np.int16)

    def values(self, statistic: Callable[..., NDArray[Any]], arrays: Sequence[NDArray[Any]], use: Use) -> NDArray[Any]:
        """The statistic of the images in `use`: as they are first, then of each draw, shape (1 + draws, ...)."""
        chosen = [array[use] for array in arrays]
        member = self._member[use]
        step = max(1, _CELLS // max(1, len(member)))
        starts = range(0, len(self._counts), step)
        drawn = (self._counts[start : start + step, member].astype(np.float64) for start in starts)
        return np.concatenate([statistic(weights, *chosen) for weights in (np.ones((1, len(member))), *drawn)])


@dataclass(frozen=True, slots=True)
class Column:
    """What a figure is made of: a statistic, its per-image arrays, and the images for which they are defined."""

    statistic: Statistic
    arrays: tuple[NDArray[Any], ...]
    defined: Use


def mean_of(values: Floats) -> Column:
    """The mean of the values that are not NaN."""
    return Column(_mean, (np.nan_to_num(values),), np.isfinite(values))


def _mean(weights: Floats, values: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without any of the images has no mean
        return mean(weights, values)


def described(values: Floats, images: int) -> dict[str, Any] | None:
    """A figure for JSON: its value, two-sided 95 % interval and one-sided bounds; None where it is not defined.

    Of fewer than `LEAST` images, or where most draws leave it undefined, there is no interval and no bound.

    Args:
        values: the figure, then the figure of each draw; NaN where a draw leaves it undefined.
        images: on how many images it was measured.
    """
    if not images or not np.isfinite(values[0]):
        return None
    drawn = values[1:][np.isfinite(values[1:])]
    entry: dict[str, Any] = {"value": float(values[0]), "images": images, "interval": None, "bounds": {}}
    if images >= LEAST and len(drawn) >= len(values) / 2:
        entry["interval"] = [float(v) for v in np.quantile(drawn, [0.025, 0.975])]
        entry["bounds"] = {f"{level:g}": [float(v) for v in np.quantile(drawn, [1 - level, level])] for level in LEVELS}
    return entry


def compared(
    champion: Mapping[str, Column],
    challenger: Mapping[str, Column],
    groups: Mapping[str, Use],
    resamples: Resamples,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Every figure of both models in every group, and challenger minus champion in the same draws.

    Returns:
        champion's figures, challenger's figures and differences, each by figure, then by group.
    """
    found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name in challenger:
        rows: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
        for group, use in groups.items():
            columns = (champion[name], challenger[name])
            uses = [use & column.defined for column in columns]
            values = [
                resamples.values(column.statistic, column.arrays, chosen) if chosen.any() else None
                for column, chosen in zip(columns, uses, strict=True)
            ]
            for row, value, chosen in zip(rows, values, uses, strict=False):
                row[group] = None if value is None else described(value, int(chosen.sum()))
            first, second = values
            known = first is not None and second is not None
            rows[2][group] = described(second - first, int(uses[1].sum())) if known else None  # type: ignore[operator]
        for table, row in zip(found, rows, strict=True):
            table[name] = {group: entry for group, entry in row.items() if entry is not None}
    return found


def average_precision(weights: Floats, labels: NDArray[np.bool_], scores: Floats) -> Floats:
    """Area under precision over recall, no interpolation, of scores against labels, both shape (N,); shape (B,)."""
    found, called = _cumulated(weights, labels, scores)
    total = weights @ labels.astype(np.float64)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    gained = np.diff(found, axis=1, prepend=0)
    return np.asarray(
        np.divide((gained * precision).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    )


def _cumulated(weights: Floats, labels: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Weight of the positives, and of all, at or above each distinct score from the highest down, shape (B, K)."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    ordered = weights[:, order]
    found = np.cumsum(ordered * labels[order], axis=1)[:, ends]
    return found, np.cumsum(ordered, axis=1)[:, ends]


def roc_curves(weights: Floats, labels: NDArray[np.bool_], scores: Floats) -> Floats:
    """True positive rate at the false positive rates of `GRID`, shape (B, 101); NaN where a kind of label is absent."""
    found, called = _cumulated(weights, labels, scores)
    rows = []
    for positive, everyone in zip(found, called, strict=True):
        negative = everyone - positive
        if not positive[-1] or not negative[-1]:
            rows.append(np.full(len(GRID), np.nan))
            continue
        rate = np.append(0, positive / positive[-1])
        rows.append(np.interp(GRID, np.append(0, negative / negative[-1]), rate))
    return np.stack(rows)


def pr_curves(weights: Floats, labels: NDArray[np.bool_], scores: Floats) -> Floats:
    """Precision at the first threshold that reaches each recall of `GRID`, shape (B, 101); NaN without a positive."""
    found, called = _cumulated(weights, labels, scores)
    rows = []
    for positive, everyone in zip(found, called, strict=True):
        if not positive[-1]:
            rows.append(np.full(len(GRID), np.nan))
            continue
        seen = everyone > 0
        places = np.searchsorted(positive[seen] / positive[-1], GRID - 1e-9)
        rows.append((positive[seen] / everyone[seen])[places])
    return np.stack(rows)


def band(curves: Floats) -> dict[str, list[float | None]]:
    """A curve with its pointwise 95 % band, of the curve, then those of the draws, shape (1 + draws, K)."""
    drawn = curves[1:]
    known = np.isfinite(drawn).any(axis=0) if len(drawn) else np.zeros(curves.shape[1], np.bool_)
    low, high = np.full((2, curves.shape[1]), np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(drawn[:, known], [0.025, 0.975], axis=0)
    return {"value": numbers(curves[0]), "low": numbers(low), "high": numbers(high)}


def numbers(values: Floats) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [round(float(v), 6) if np.isfinite(v) else None for v in values]
