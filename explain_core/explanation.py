"""What a classifier said, how sure it can be, and why: Assessment and Explanation with their parts (NumPy only)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from explain_core.errors import AttributionError
from explain_core.radiograph import Radiograph

CLASSIFICATION = "classification"
"""In the place of an explanation method's name, where a decision is not explained."""


def reported(value: float, threshold: float | None = None) -> float:
    """To 4 decimals, far above what the number of threads or the processor changes, so that texts repeat.

    Never across a threshold, or what is said of an image would not be what is explained: such a value stays as it is.

    Raises:
        AttributionError: the value is not finite, which would be less than any threshold and so a negative decision.
    """
    if not math.isfinite(value):
        raise AttributionError("the model's answer about this image is not a finite number; look at the model bundle")
    rounded = round(value, 4)
    return value if threshold is not None and (rounded >= threshold) != (value >= threshold) else rounded


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
        margin: half-width of the band around the threshold in which the decision is uncertain, >= 0: about how far a
            small shift or turn of the image moves the probability.
    """

    label: str
    probability: float
    threshold: float
    margin: float = 0.0

    @property
    def positive(self) -> bool:
        """True when the finding is called present."""
        return self.probability >= self.threshold

    @property
    def near_threshold(self) -> bool:
        """True when a small shift or turn of the image could change the decision."""
        return abs(self.probability - self.threshold) < self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfDistribution:
    """How unlike the model's training images an image is.

    Attributes:
        score: the measure's value for this image; higher is farther.
        limit: the value above which the image is called far from the training data.
        measure: one short ASCII sentence for a legend: what is measured and where the limit comes from.
        reference: the publication of the measure.
    """

    score: float
    limit: float
    measure: str
    reference: str

    @property
    def far(self) -> bool:
        """True when the image is farther from the training data than the limit."""
        return self.score > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapScale:
    """The declared scale on which heatmaps of one model and method are shown.

    Attributes:
        floor: heatmap value up to which nothing is painted and nothing counts as evidence.
        full_scale: heatmap value shown as the strongest evidence.
        unit: what a value means, e.g. "|x_s - x_a|, fraction of full luminance".

    Raises:
        ValueError: not 0 <= floor <= full_scale, or a full scale of 0.
    """

    full_scale: float
    unit: str
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.full_scale or self.full_scale == 0:
            raise ValueError(f"a heatmap scale has 0 <= floor <= full_scale, got {self.floor} and {self.full_scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a map came to be: everything needed to make it again.

    Attributes:
        model: the model bundle.
        method: name of the explanation method, e.g. "similar_adversarial"; `CLASSIFICATION` where there is no map.
        parameters: the method's settings, e.g. {"augmentations": 10, "blur": 0.035, "seed": 0}.
        reference: the publication of the method, e.g. "arXiv:2012.07332".
        software_version: version of this software.
    """

    model: ModelIdentity
    method: str
    parameters: Mapping[str, str | int | float]
    reference: str
    software_version: str

    @classmethod
    def of_decision(cls, model: ModelIdentity, software_version: str) -> "Provenance":
        """Of a decision that nothing was asked to explain."""
        return cls(model=model, method=CLASSIFICATION, parameters={}, reference="", software_version=software_version)


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """A heatmap on the source's pixel grid.

    Attributes:
        values: float32, shape (rows, columns) of the source, >= 0, raw: never stretched per image, only smoothed by
            the blur that the model declares for the method.
        covered: bool, same shape; False where no augmented copy saw the pixel (value 0 there).
        scale: the model's declared scale for these values.
        evident: False under a negative decision: the values say what would have to be added, and nothing that is there.
    """

    values: NDArray[np.float32]
    covered: NDArray[np.bool_]
    scale: HeatmapScale
    evident: bool = True

    @cached_property
    def painted(self) -> NDArray[np.float32]:
        """The values as they may be painted and outlined: all 0 where they are no evidence."""
        return self.values if self.evident else np.zeros_like(self.values)

    @cached_property
    def shows_evidence(self) -> bool:
        """Whether anything is painted."""
        return bool((self.painted > self.scale.floor).any())

    @cached_property
    def half_of_evidence(self) -> NDArray[np.bool_]:
        """The region that is outlined: the smallest set of pixels that carries half of the evidence, same shape.

        The evidence of a pixel is its value above the floor. Pixels that tie with the last one are in, so the border
        is a contour of the heatmap. Nothing where no value is above the floor.
        """
        half, floor = np.zeros(self.values.shape, dtype=np.bool_), np.float64(self.scale.floor)
        above = np.flatnonzero((self.painted > floor) & self.covered)
        if len(above):
            values = np.nan_to_num(self.painted.ravel()[above])
            ranked = np.sort(values)[::-1]
            carried = (ranked - floor).cumsum()
            half.ravel()[above] = values >= ranked[np.searchsorted(carried, carried[-1] / 2)]
        return half

    @cached_property
    def carriers(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Rows and columns of the pixels of `half_of_evidence`, and how far the value of each is above the floor."""
        pixels = np.flatnonzero(self.half_of_evidence)
        rows, columns = np.divmod(pixels, self.values.shape[1])
        return rows, columns, self.values.ravel()[pixels] - self.scale.floor

    @cached_property
    def outlined_area(self) -> float:
        """The share of the image that `half_of_evidence` takes up."""
        return float(self.half_of_evidence.mean())

    @cached_property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.values.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """An image made by a generator and what the classifier says of it.

    Attributes:
        role: "similar", "adversarial" or "control".
        image: float32, luminance 0 to 1, source's aspect ratio, the model's resolution: the square input grid with
            its padding cut away.
        probability: f(image), 0 to 1.
        second: what the second classifier says, 0 to 1; None in a model without one.
    """

    role: str
    image: NDArray[np.float32] = field(repr=False)
    probability: float
    second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Morph:
    """A radiograph changed along one attribute of the classifier, as a row of synthetic images.

    Attributes:
        name: of the attribute.
        parts: of its change, rising from 0: the first image is the radiograph as the model saw it.
        images: luminance at the model's resolution, 0 to 1, float32, shape (len(parts), rows, columns).
        probabilities: f of each image, 0 to 1.
    """

    name: str
    parts: tuple[float, ...]
    images: NDArray[np.float32] = field(repr=False)
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """What another classifier, trained apart, says of the radiograph itself.

    Attributes:
        name: its architecture.
        probability: of the finding, 0 to 1.
        threshold: its own.
    """

    name: str
    probability: float
    threshold: float

    @property
    def positive(self) -> bool:
        """True when it calls the finding present."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One radiograph's decision without its reason.

    Attributes:
        prediction: the decision.
        out_of_distribution: how unlike the training images the radiograph is, None where the model cannot say.
        provenance: model and parameters.
        statistics: what the radiograph looked like to the model, by the names of `statistics.image_statistics`; empty
            where nobody measured it.
    """

    prediction: Prediction
    out_of_distribution: OutOfDistribution | None
    provenance: Provenance
    statistics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One radiograph's decision together with its reason.

    Attributes:
        prediction: the decision.
        attribution: the heatmap of one method, of one pass or averaged by eq. (11) of arXiv:2012.07332.
        similar, adversarial: the two generated images, None for methods without generators.
        control: the image on the same path without the aim, for methods whose path alone changes it; else None.
        second: what the model's second classifier says of the radiograph; None without one, or without images.
        provenance: model, method, parameters.
        morphs: the radiograph along each attribute that the method applied; empty for methods without.
        out_of_distribution: how unlike the training images the radiograph is, None where the model cannot say.
        deletion: area under the probability of the decided class while the most salient parts are removed (section 3.3
            of arXiv:1806.07421), 0 to 1, lower is better; None where it was not measured.
        seen: the image as the model saw it, on the same grid as the generated images: float32, luminance 0 to 1.
        statistics: as of `Assessment`.
    """

    prediction: Prediction
    attribution: Attribution
    similar: Counterfactual | None
    adversarial: Counterfactual | None
    provenance: Provenance
    control: Counterfactual | None = None
    second: SecondOpinion | None = None
    morphs: tuple[Morph, ...] = ()
    out_of_distribution: OutOfDistribution | None = None
    deletion: float | None = None
    seen: NDArray[np.float32] | None = field(default=None, repr=False)
    statistics: Mapping[str, float] = field(default_factory=dict)

    @property
    def assessment(self) -> Assessment:
        """The decision alone: what `Explainer.classify` says of the radiograph."""
        return Assessment(
            prediction=self.prediction,
            out_of_distribution=self.out_of_distribution,
            provenance=Provenance.of_decision(self.provenance.model, self.provenance.software_version),
            statistics=self.statistics,
        )

    @property
    def similar_kept(self) -> bool | None:
        """Whether the similar image really kept the decision; None without one."""
        crossed = self._crossed(self.similar)
        return None if crossed is None else not crossed

    @property
    def decision_changed(self) -> bool | None:
        """Whether the adversarial image really crossed the decision threshold; None without one."""
        return self._crossed(self.adversarial)

    @property
    def second_changed(self) -> bool | None:
        """Whether the adversarial image changed the second classifier's decision too.

        None without one, without an adversarial image, and where it does not decide like the model to begin with.
        """
        second, image, own = self.second, self.adversarial, self.prediction
        if second is None or image is None or image.second is None or second.positive is not own.positive:
            return None
        return (image.second >= second.threshold) != second.positive

    @property
    def control_changed(self) -> bool | None:
        """Whether the path alone crossed the decision threshold, without the aim; None without a control."""
        return self._crossed(self.control)

    def _crossed(self, image: Counterfactual | None) -> bool | None:
        if image is None:
            return None
        return (image.probability >= self.prediction.threshold) != self.prediction.positive


class Explainer(Protocol):
    """A loaded model bundle, as the node sees it."""

    @property
    def identity(self) -> ModelIdentity:
        """The bundle's name, version and digest."""

    def classify(self, radiograph: Radiograph) -> Assessment:
        """Classify one radiograph without saying why, at a small part of the cost of `explain`.

        Raises:
            ExplainError: the image cannot be brought to the model's input.
        """

    def explain(
        self, radiograph: Radiograph, methods: Sequence[str], assessment: Assessment | None = None
    ) -> tuple[Explanation, ...]:
        """Say why a radiograph is decided as it is, once by each of `methods`, in that order.

        All share one decision: `assessment`, what `classify` has said of this radiograph, or that made now. The
        provenance of each names its method.

        Raises:
            ExplainError: the image cannot be brought to the model's input, or a map is unusable, or as of `require`.
        """

    def require(self, methods: Sequence[str]) -> None:
        """Refuse the first of `methods` that the model does not serve.

        Raises:
            BundleError: the message names the method and says what to do.
        """
