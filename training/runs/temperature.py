"""Temperature and threshold of a classifier, from its validation images.

The temperature is what its logits are divided by, so that probabilities are what they say.

Temperature scaling of Guo et al. 2017 (arXiv:1706.04599) on the validation images: the temperature of the least
negative log-likelihood, found by golden section over its logarithm. In 1 / temperature the loss is convex, so there is
one minimum, and the search cannot miss it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import TrainingError

LOWEST, HIGHEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_PRECISION = 1e-6


def fit(logits: Tensor, targets: Tensor | NDArray[np.integer]) -> float:
    """The temperature of the least negative log-likelihood.

    Args:
        logits: of one finding, float, shape (N,) or (N, 1).
        targets: 0 or 1, shape (N,).

    Returns:
        the temperature, `LOWEST` to `HIGHEST`: where the images are told apart without error the best would be 0, and
        it is `LOWEST`; where the logits say the opposite of the truth it is `HIGHEST`.

    Raises:
        TrainingError: no images, or logits that are not finite.
    """
    z = logits.detach().double().cpu().reshape(-1)
    y = torch.as_tensor(targets).double().cpu().reshape(-1)
    if not len(z) or len(z) != len(y) or not bool(torch.isfinite(z).all()):
        raise TrainingError(f"a temperature needs finite logits and as many targets, got {len(z)} and {len(y)}")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = nll(z, y, math.exp(left)), nll(z, y, math.exp(right))
    while high - low > _PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = nll(z, y, math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = nll(z, y, math.exp(right))
    return min(max(round(math.exp((low + high) / 2), 4), LOWEST), HIGHEST)


def youden(probabilities: Tensor | NDArray[np.floating], targets: Tensor | NDArray[np.integer]) -> float:
    """The threshold of the largest sensitivity + specificity - 1 (Youden 1950).

    Args:
        probabilities: of one finding, shape (N,).
        targets: 0 or 1, shape (N,).

    Returns:
        half-way between the probability that reaches it and the next lower one, rounded to four decimals where these
        tell the two apart, 0.01 to 0.99; of equal sums the highest, which calls the fewest images positive.

    Raises:
        TrainingError: one class only.
    """
    p, y = np.asarray(probabilities, np.float64).ravel(), np.asarray(targets).ravel()
    if len(np.unique(y)) != 2:  # noqa: PLR2004 - both classes
        raise TrainingError("a threshold needs images of both classes")
    order = np.argsort(-p, kind="stable")
    gain = np.cumsum(np.where(y[order] == 1, 1 / (y == 1).sum(), -1 / (y == 0).sum()))
    ends = np.append(np.diff(p[order]) != 0, True)
    best = int(np.flatnonzero(ends)[np.argmax(gain[ends])])
    above, below = p[order][best], p[order][best + 1] if best + 1 < len(p) else 0.0
    rounded = round((above + below) / 2, 4)
    return float(np.clip(rounded if below < rounded <= above else (above + below) / 2, 0.01, 0.99))


def nll(logits: Tensor, targets: Tensor, temperature: float) -> float:
    """Mean negative log-likelihood of targets 0 or 1 under sigmoid(logits / temperature), both of shape (N,)."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits / temperature, targets.to(logits.dtype))
    return float(loss)
