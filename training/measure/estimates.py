"""A figure for JSON: its value, a 95 % interval by resampling patients whole, and on how many images it rests."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.resampling import Estimate, Statistic, bootstrap, mean, paired_gain

Figures = dict[str, Any]
Use = NDArray[np.bool_]
DRAWS = 2000


def estimate(
    statistic: Statistic, arrays: Sequence[NDArray[Any]], patients: Sequence[Any] | NDArray[Any], draws: int = DRAWS
) -> Figures:
    """A statistic of per-image arrays, shape (N, ...), as {"value", "interval", "images"}; see `bootstrap`."""
    return _described(bootstrap(statistic, arrays, draws=draws, groups=patients), len(arrays[0]))


def mean_of(values: NDArray[np.floating], patients: NDArray[Any], draws: int = DRAWS) -> Figures | None:
    """The mean of the values that are not NaN, shape (N,); None where all are."""
    use = np.isfinite(values)
    return estimate(mean, [values[use]], patients[use], draws) if use.any() else None


def gain(a: NDArray[Any], b: NDArray[Any], statistic: Statistic, patients: NDArray[Any], draws: int = DRAWS) -> Figures:
    """statistic(a) - statistic(b) on the same images, shape (N, ...) both, paired in each draw."""
    return _described(paired_gain(a, b, statistic, draws=draws, groups=patients), len(a))


def _described(found: Estimate, images: int) -> Figures:
    known = math.isfinite(found.low) and math.isfinite(found.high)
    return {"value": found.value, "interval": [found.low, found.high] if known else None, "images": images}
