"""How much of the delivered map's hottest tenth stays when the image hardly changes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.explainer import BundleExplainer
from explain_core.quality import hottest
from training.measure.estimates import DRAWS, mean_of

Figures = dict[str, Any]
BATCH = 16
SHIFT, NOISE, QUALITY = 2, 0.01, 90
"""Pixels of the model's grid, standard deviation in luminance, quality of a JPEG."""


@torch.no_grad()
def stability(
    explainer: BundleExplainer, images: Tensor, patients: NDArray[Any], draws: int = DRAWS, method: str | None = None
) -> Figures:
    """IoU of the hottest tenths of the delivered maps of uint8 images, shape (N, 1, S, S), and of changed copies.

    Each image is explained under its own decision, as it would be delivered: where a copy is decided otherwise, that
    counts as instability too.

    Returns:
        "shift" by 2 pixels (moved back), "noise" of sigma .01, "jpeg" of quality 90, each with its interval.
    """

    def explain(x: Tensor) -> Tensor:
        return explainer.shown(x, explainer.decisions(explainer.probabilities(x)), method)[0]

    parts = [
        hottest.stability(
            explain, (chunk.float() / 255).to(explainer.device), shift=SHIFT, noise=NOISE, quality=QUALITY
        )
        for chunk in images.split(BATCH)
    ]
    return {name: mean_of(np.concatenate([part[name] for part in parts]), patients, draws) for name in parts[0]}
