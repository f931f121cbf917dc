"""What a picture says of a decision and of itself: sentences, most important first."""

from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.results._notes import NOT_AN_OUTLINE, distance_of, emptiness, warnings_of
from explain_core import display
from explain_core.explanation import Explanation, HeatmapScale, ModelIdentity, OutOfDistribution, Prediction

DIGEST_DIGITS = 8
_RIM = 0.01


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence; each begins a line.

    Attributes:
        text: of any length, in any script.
        warning: whether it is to be noticed first.
    """

    text: str
    warning: bool = False


def decision(prediction: Prediction) -> str:
    """Finding, probability, decision and threshold."""
    called = "called present" if prediction.positive else "not called"
    return f"{prediction.label}: {prediction.probability:.1%}, {called} (threshold {prediction.threshold:.1%})"


def identity(model: ModelIdentity) -> str:
    """The model version and the first digits of its bundle's digest."""
    return f"Model {model.name} {model.version} ({model.digest[:DIGEST_DIGITS]})"


def sentences(explanation: Explanation) -> tuple[Sentence, ...]:
    """The decision, what it is worth, what the colours mean, and who says so."""
    provenance = explanation.provenance
    return (
        Sentence(decision(explanation.prediction)),
        *_cautions(explanation.prediction, explanation.out_of_distribution),
        *_evidence(explanation),
        *quality(explanation),
        Sentence(NOT_AN_OUTLINE),
        Sentence(scale(explanation.attribution.scale)),
        Sentence(f"{identity(provenance.model)}, method {provenance.method}"),
    )


def quality(explanation: Explanation) -> Iterator[Sentence]:
    """Whether the generated images did what they were made for, and the deletion score."""
    for image, holds, does, fails in (
        (explanation.similar, explanation.similar_kept, "keeps the decision", "does NOT keep the decision"),
        (
            explanation.adversarial,
            explanation.decision_changed,
            "crosses the threshold",
            "does NOT cross the threshold",
        ),
    ):
        if image is not None:
            name = image.role.capitalize()
            yield Sentence(f"{name} image: {image.probability:.1%}, {does if holds else fails}", warning=not holds)
    if explanation.deletion is not None:
        yield Sentence(f"Deletion score {explanation.deletion:.2f} (0 to 1, lower is better)")


def scale(declared: HeatmapScale) -> str:
    """The colours in words."""
    return (
        f"Colour: {declared.unit}; none below {declared.floor:.3g}, "
        f"outlined from {declared.salient:.3g}, full scale {declared.full_scale:.3g}"
    )


def _cautions(prediction: Prediction, distance: OutOfDistribution | None) -> Iterator[Sentence]:
    for warning in warnings_of(prediction, distance, measure=False):
        yield Sentence(warning, warning=True)
    if distance is not None and not distance.far:
        yield Sentence(distance_of(distance))


def _evidence(explanation: Explanation) -> Iterator[Sentence]:
    """Why the picture shows nothing, if so, and what was not looked at."""
    attribution = explanation.attribution
    empty = emptiness(explanation)
    if empty is not None:
        yield Sentence(empty, warning=explanation.prediction.positive)
    elif not display.outlines(display.salient(attribution)):
        yield Sentence("No outline: only specks of the image reach the value that is outlined")
    unseen = 1 - float(attribution.covered.mean())
    if unseen > _RIM:
        yield Sentence(f"{unseen:.0%} of the image was not examined")
