"""An explainer without a model, for tests and trials: small, deterministic, NumPy only."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from explain_core.display import resize
from explain_core.explanation import (
    Attribution,
    Counterfactual,
    Explanation,
    HeatmapScale,
    ModelIdentity,
    Prediction,
    Provenance,
)
from explain_core.radiograph import Radiograph

TOY_MODEL = ModelIdentity(name="toy", version="0.0.1", digest="70f" + 61 * "0")
TOY_SCALE = HeatmapScale(full_scale=0.25, salient=0.08, unit="|x_s - x_a|, fraction of full luminance")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyExplainer:
    """Calls what is brighter than its surroundings an opacity, and shows that excess as its reason.

    On a grid of 64 x 64 the surroundings are the image at 5 x 5 cells. The adversarial image is the image
    without the excess, the heatmap their difference, the probability a logistic function of its mean. An
    image that varies slowly has no excess, so its heatmap is empty and its probability low.

    Attributes:
        identity: the model that it pretends to be.
        threshold: decision threshold.
        scale: the declared scale of its heatmaps.
    """

    identity: ModelIdentity = TOY_MODEL
    threshold: float = 0.5
    scale: HeatmapScale = field(default=TOY_SCALE)

    def explain(self, radiograph: Radiograph) -> Explanation:
        """Classify one radiograph and say why."""
        similar = resize(radiograph.pixels, (64, 64))
        excess = _excess(similar)
        adversarial = similar - excess
        values = np.maximum(resize(excess, radiograph.pixels.shape), 0)
        return Explanation(
            prediction=Prediction(label="Lung opacity", probability=_probability(similar), threshold=self.threshold),
            attribution=Attribution(values=values, covered=np.ones(values.shape, np.bool_), scale=self.scale),
            similar=Counterfactual(role="similar", image=similar, probability=_probability(similar)),
            adversarial=Counterfactual(role="adversarial", image=adversarial, probability=_probability(adversarial)),
            provenance=Provenance(
                model=self.identity,
                method="toy_excess",
                parameters={"cells": 5, "seed": 0},
                reference="none: for tests only",
                software_version="0.0.1",
            ),
        )


def _excess(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What stands out from its surroundings by more than a twentieth of full luminance, border left out."""
    surroundings = resize(resize(image, (5, 5)), (64, 64))
    excess = np.zeros_like(image)
    excess[8:-8, 8:-8] = np.maximum(image - surroundings - np.float32(0.05), 0)[8:-8, 8:-8]
    return excess


def _probability(image: NDArray[np.float32]) -> float:
    return float(1 / (1 + np.exp(-400 * (float(_excess(image).mean()) - 0.004))))
