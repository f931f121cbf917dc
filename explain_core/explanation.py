"""What a classifier said and why: Prediction, Attribution, Counterfactual, Explanation (NumPy only)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from explain_core.radiograph import Radiograph


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model version decided: the bundle's name, version and SHA-256 digest.

    Attributes:
        name: model name, e.g. "opacity-lite0".
        version: model version, e.g. "1.0.0".
        digest: SHA-256 of the bundle's SHA256SUMS file, 64 hexadecimal digits.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The classifier's decision about one radiograph.

    Attributes:
        label: the finding in question, e.g. "Lung opacity".
        probability: f(x), 0 to 1.
        threshold: decision threshold; `positive` is probability >= threshold.
    """

    label: str
    probability: float
    threshold: float

    @property
    def positive(self) -> bool:
        """True when the finding is called present."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapScale:
    """The declared scale on which heatmaps of one model are shown and thresholded.

    Attributes:
        full_scale: heatmap value shown at the top of the colour bar.
        salient: heatmap value at and above which a pixel belongs to the salient region.
        unit: what a value means, e.g. "|x_s - x_a|, fraction of full luminance".
    """

    full_scale: float
    salient: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a map came to be: everything needed to make it again.

    Attributes:
        model: the model bundle.
        method: name of the explanation method, e.g. "similar_adversarial".
        parameters: the method's settings, e.g. {"augmentations": 10, "seed": 0}.
        reference: the publication of the method, e.g. "arXiv:2012.07332".
        software_version: version of this software.
    """

    model: ModelIdentity
    method: str
    parameters: Mapping[str, str | int | float]
    reference: str
    software_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """A heatmap on the source's pixel grid.

    Attributes:
        values: float32, shape (rows, columns) of the source, >= 0, raw (never stretched per image).
        covered: bool, same shape; False where no augmented copy saw the pixel (value 0 there).
        scale: the model's declared scale for these values.
    """

    values: NDArray[np.float32]
    covered: NDArray[np.bool_]
    scale: HeatmapScale


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """An image made by a generator and what the classifier says of it.

    Attributes:
        role: "similar" or "adversarial".
        image: float32, shape of the model's input grid, luminance 0 to 1.
        probability: f(image), 0 to 1.
    """

    role: str
    image: NDArray[np.float32] = field(repr=False)
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One radiograph's decision together with its reason.

    Attributes:
        prediction: the decision.
        attribution: the heatmap, eq. (3) averaged by eq. (11) of arXiv:2012.07332.
        similar, adversarial: the two generated images, None for methods without generators.
        provenance: model, method, parameters.
    """

    prediction: Prediction
    attribution: Attribution
    similar: Counterfactual | None
    adversarial: Counterfactual | None
    provenance: Provenance

    @property
    def decision_changed(self) -> bool | None:
        """Whether the adversarial image really crossed the decision threshold; None without one."""
        if self.adversarial is None:
            return None
        return (self.adversarial.probability >= self.prediction.threshold) != self.prediction.positive


class Explainer(Protocol):
    """A loaded model bundle, as the node sees it."""

    @property
    def identity(self) -> ModelIdentity:
        """The bundle's name, version and digest."""

    def explain(self, radiograph: Radiograph) -> Explanation:
        """Classify one radiograph and say why.

        Raises:
            ExplainError: the image cannot be brought to the model's input, or the map is unusable.
        """
