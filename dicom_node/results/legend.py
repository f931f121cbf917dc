"""What a picture and a page say of a decision: sentences, the most important first."""

from collections.abc import Iterator
from dataclasses import dataclass

from explain_core.explanation import Explanation, HeatmapScale, ModelIdentity, Prediction

DIGEST_DIGITS = 8
UNLIKE = "Unlike the training images"
RESEARCH_USE = "Research use only. Not for diagnosis."
COPY = "COPY OF THE RADIOGRAPH AS THE MODEL SAW IT"
SYNTHETIC = "SYNTHETIC IMAGE - NOT A RADIOGRAPH OF THE PATIENT"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence; each begins a line.

    Attributes:
        text: of any length, in any script.
        warning: whether it is to be noticed first.
    """

    text: str
    warning: bool = False


def glance(prediction: Prediction, where: str = "") -> Sentence:
    """The decision in one short line, e.g. "Opacity: likely 87 % (threshold 42 %), right lower zone".

    Args:
        prediction: the decision; near the threshold it is called uncertain, and the line a warning.
        where: what follows it.
    """
    word = "uncertain" if prediction.near_threshold else "likely" if prediction.positive else "unlikely"
    probability, threshold = prediction.probability, prediction.threshold
    digits = digits_apart(probability, threshold)
    said = f"{prediction.label}: {word} {percent(probability, digits)} (threshold {percent(threshold, digits)})"
    return Sentence(f"{said}, {where}" if where else said, warning=prediction.near_threshold)


def decision(prediction: Prediction) -> str:
    """Finding, probability, decision and threshold."""
    called = "called present" if prediction.positive else "not called"
    digits = digits_apart(prediction.probability, prediction.threshold, least=1)
    said = f"{prediction.probability:.{digits}%}, {called} (threshold {prediction.threshold:.{digits}%})"
    return f"{prediction.label}: {said}"


def identity(model: ModelIdentity) -> str:
    """The model version and the first digits of its bundle's digest."""
    return f"Model {model.name} {model.version} ({model.digest[:DIGEST_DIGITS]})"


def signature(model: ModelIdentity) -> Sentence:
    """Who says so, and what it is good for."""
    return Sentence(f"{model.name} {model.version}. {RESEARCH_USE}")


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
    return f"Colour: {declared.unit}, from {declared.floor:.3g} to {declared.full_scale:.3g}; outlined: half of it"


def digits_apart(one: float, other: float, least: int = 0) -> int:
    """Digits after the point, `least` or more, with which two percentages that differ are two on paper, too."""
    return next((d for d in range(least, 4) if f"{one:.{d}%}" != f"{other:.{d}%}" or one == other), 4)


def percent(share: float, digits: int = 0) -> str:
    """A share in percent; what is not quite 0 or 1 is not shown as such."""
    least = 10.0**-digits / 2
    if 0 < 100 * share < least:
        return f"< {2 * least:g} %"
    if least > 100 * (1 - share) > 0:
        return f"> {100 - 2 * least:g} %"
    return f"{100 * share:.{digits}f} %"
