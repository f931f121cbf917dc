"""Whether probabilities mean what they say: expected calibration error (Naeini et al. 2015; Guo et al. 2017).

Probabilities fall into bins of equal width; in each, the mean probability is held against the share of positives.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 15


def bin_of(probabilities: NDArray[np.floating], bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each probability in [0, 1], from 0; a probability on a border belongs to the upper bin."""
    return np.minimum((np.asarray(probabilities, np.float64) * bins).astype(np.int64), bins - 1)


def ece(probabilities: NDArray[np.floating], targets: NDArray[np.number]) -> float:
    """Expected calibration error, in [0, 1]; 0 is best.

    Args:
        probabilities: of the finding, in [0, 1], shape (N,).
        targets: 1 where the finding is present, else 0, shape (N,).

    Raises:
        ValueError: no image, or arrays of unequal length.
    """
    if len(probabilities) != len(targets) or not len(targets):
        raise ValueError(
            f"{len(probabilities)} probabilities for {len(targets)} targets; both are needed, equally many"
        )
    return float(ece_of_draws(np.ones((1, len(targets))), targets, probabilities)[0])


def ece_of_draws(weights: Floats, targets: NDArray[np.number], probabilities: NDArray[np.floating]) -> Floats:
    """`ece` of resamples: `weights`, shape (B, N), say how often each image is in each; shape (B,), as `resampling`."""
    member = bin_of(probabilities)[:, None] == np.arange(BINS)
    gap = np.asarray(probabilities, np.float64) - np.asarray(targets, np.float64)
    total = weights.sum(axis=1)
    off = np.abs(weights @ (member * gap[:, None])).sum(axis=1)
    return np.asarray(np.divide(off, total, out=np.full(len(total), np.nan), where=total > 0))


def ece_by_chance(probabilities: NDArray[np.floating], *, draws: int = 200) -> float:
    """The mean ECE of classes drawn with these very probabilities: what a perfectly calibrated model would show.

    With few images ECE is above 0 whatever the model; this says by how much.
    """
    values = np.asarray(probabilities, np.float64)
    generator = np.random.default_rng(0)
    drawn = (ece(values, (generator.random(len(values)) < values).astype(np.int64)) for _ in range(draws))
    return float(np.mean(list(drawn)))
