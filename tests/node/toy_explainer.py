"""An explainer without a model: small, deterministic, NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from explain_core.display import resize
from explain_core.errors import BundleError
from explain_core.explanation import (
    Assessment,
    Attribution,
    Counterfactual,
    Explanation,
    HeatmapScale,
    ModelIdentity,
    OutOfDistribution,
    Prediction,
    Provenance,
)
from explain_core.radiograph import Radiograph
from explain_core.statistics import image_statistics

TOY_MODEL = ModelIdentity(name="toy", version="0.0.1", digest="70f" + 61 * "0")
TOY_SCALE = HeatmapScale(floor=0.02, full_scale=0.25, unit="|x_s - x_a|, fraction of full luminance")
TOY_METHODS = ("similar_adversarial", "toy_surroundings")
GRID = 64
DELETION_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyExplainer:
    """Calls what is brighter than its surroundings an opacity, and shows that excess as its reason.

    On a grid of 64 x 64 pixels the surroundings are the image at 5 x 5 cells. The adversarial image is the image
    without the excess, the heatmap their difference, the probability a logistic function of its mean. An
    image that varies slowly has no excess, so its heatmap is empty and its probability low. It does so under the name
    of the node's default method; `toy_surroundings` shows half the excess and no images.

    Attributes:
        identity: the model that it pretends to be.
        threshold: decision threshold.
        margin: of the probability around the threshold, in which the decision is called uncertain.
        scale: the declared scale of its heatmaps.
        roughness_limit: mean difference of neighbouring pixels above which an image is called far from the training
            data; None for a model that cannot say.
    """

    identity: ModelIdentity = TOY_MODEL
    threshold: float = 0.5
    margin: float = 0.05
    scale: HeatmapScale = field(default=TOY_SCALE)
    roughness_limit: float | None = None

    def classify(self, radiograph: Radiograph) -> Assessment:
        """Classify one radiograph without saying why."""
        image = resize(radiograph.pixels, (GRID, GRID))
        return Assessment(
            prediction=Prediction(
                label="Lung opacity", probability=_probability(image), threshold=self.threshold, margin=self.margin
            ),
            out_of_distribution=self._out_of_distribution(image),
            provenance=Provenance.of_decision(self.identity, "0.0.1"),
            statistics=image_statistics(_in_aspect(image, radiograph.pixels.shape), _shape(radiograph)),
        )

    def explain(
        self, radiograph: Radiograph, methods: Sequence[str], assessment: Assessment | None = None
    ) -> tuple[Explanation, ...]:
        """Say why a radiograph is decided as it is, once by each of `methods`."""
        self.require(methods)
        whole = self._explained(radiograph, assessment or self.classify(radiograph))
        return tuple(whole if name == TOY_METHODS[0] else _plain(whole, name) for name in methods)

    def require(self, methods: Sequence[str]) -> None:
        """Refuse what is not one of `TOY_METHODS`."""
        for name in methods:
            if name not in TOY_METHODS:
                raise BundleError(f"the method {name} has no scale in this bundle")

    def _explained(self, radiograph: Radiograph, assessment: Assessment) -> Explanation:
        similar = resize(radiograph.pixels, (GRID, GRID))
        excess = _excess(similar)
        adversarial = similar - excess
        values = np.maximum(resize(excess, radiograph.pixels.shape), 0)
        seen, changed = (_in_aspect(image, radiograph.pixels.shape) for image in (similar, adversarial))
        return Explanation(
            prediction=assessment.prediction,
            attribution=Attribution(values=values, covered=np.ones(values.shape, np.bool_), scale=self.scale),
            similar=Counterfactual(role="similar", image=seen, probability=assessment.prediction.probability),
            adversarial=Counterfactual(role="adversarial", image=changed, probability=_probability(adversarial)),
            provenance=Provenance(
                model=self.identity,
                method=TOY_METHODS[0],
                parameters={"cells": 5, "seed": 0},
                reference="none: for tests only",
                software_version="0.0.1",
            ),
            out_of_distribution=assessment.out_of_distribution,
            deletion=_deletion(similar, excess, positive=assessment.prediction.positive),
            seen=seen,
            statistics=assessment.statistics,
        )

    def _out_of_distribution(self, image: NDArray[np.float32]) -> OutOfDistribution | None:
        if self.roughness_limit is None:
            return None
        return OutOfDistribution(
            score=float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()) / 2,
            limit=self.roughness_limit,
            measure="mean difference of neighbouring pixels, limit chosen by hand",
            reference="none: for tests only",
        )


def _plain(whole: Explanation, method: str) -> Explanation:
    """The same by a method without generators whose values are half as high."""
    return replace(
        whole,
        attribution=replace(whole.attribution, values=whole.attribution.values / np.float32(2)),
        similar=None,
        adversarial=None,
        provenance=replace(whole.provenance, method=method, reference="none: for tests of a second method"),
    )


def _shape(radiograph: Radiograph) -> tuple[int, int]:
    rows, columns = radiograph.pixels.shape
    return rows, columns


def _in_aspect(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An image of the square grid in the aspect ratio of `shape`, its longer side that of the grid."""
    rows, columns = (max(1, round(GRID * side / max(shape))) for side in shape)
    return resize(image, (rows, columns))


def _deletion(image: NDArray[np.float32], excess: NDArray[np.float32], *, positive: bool) -> float:
    """Area under the probability of the decision while the pixels of most excess lose it, first to last."""
    places = np.argsort(np.argsort(-excess, axis=None, kind="stable")).reshape(excess.shape)
    removed = [image - excess * (places < share * excess.size) for share in np.linspace(0, 1, DELETION_STEPS + 1)]
    curve = np.array([_probability(part) for part in removed])
    curve = curve if positive else 1 - curve
    return float((curve[:-1] + curve[1:]).mean() / 2)


def _excess(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What stands out from its surroundings by more than a twentieth of full luminance, border left out."""
    surroundings = resize(resize(image, (5, 5)), (GRID, GRID))
    excess = np.zeros_like(image)
    excess[8:-8, 8:-8] = np.maximum(image - surroundings - np.float32(0.05), 0)[8:-8, 8:-8]
    return excess


def _probability(image: NDArray[np.float32]) -> float:
    return float(1 / (1 + np.exp(-400 * (float(_excess(image).mean()) - 0.004))))
