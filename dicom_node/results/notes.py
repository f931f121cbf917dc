"""What a reader must know of a source, a decision or a heatmap: sentences of ours, in ASCII, naming no patient."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.datadict import dictionary_description

from dicom_node.dicom.codes import view
from dicom_node.dicom.elements import code, integer, numbers, orientation
from dicom_node.dicom.greys import Greys
from dicom_node.dicom.image_pixel import USUAL
from dicom_node.results.header import overlays_of, plain
from dicom_node.results.legend import digits_apart
from explain_core.explanation import Explanation, OutOfDistribution, Prediction

NO_EVIDENCE = "No evidence above the scale's floor"
NOT_AN_OUTLINE = "Marked is what changes the decision, not the outline of a finding"


def which(header: Dataset) -> str:
    """What tells an image from the others of its study: view, series and number, as far as stated; "" if none is."""
    series, number = integer(header, "SeriesNumber", 0), integer(header, "InstanceNumber", 0)
    parts = (
        plain(code(header, "ViewPosition")),
        f"series {series}" if series else "",
        f"number {number}" if number else "",
    )
    return ", ".join(part for part in parts if part)


def limits_of(header: Dataset, greys: Greys | None = None) -> Iterator[str]:
    """What the source does not say, or says in vain, and what follows from that.

    Args:
        header: of the source.
        greys: what it was shown by, where that was asked.
    """
    if greys is not None and greys.passed_over:
        passed = ", ".join(greys.passed_over)
        yield f"The source was shown by {greys.shown_by}: empty, not valid or without contrast are {passed}"
    if not code(header, "PatientID"):
        yield "The source has no Patient ID: these results are matched to the patient by the study alone"
    if not code(header, "StudyDate"):
        yield "The source has no Study Date"
    spacings = [numbers(header, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing")]
    if not any(len(found) == 2 and 0 < min(found) <= max(found) < float("inf") for found in spacings):  # noqa: PLR2004
        yield "The source has no usable pixel spacing: sizes are given as parts of the image, not in millimetres"
    missing = [keyword for keyword in USUAL if keyword not in header]
    if missing:
        taken = "; ".join(f"{dictionary_description(keyword)}: {USUAL[keyword]}" for keyword in missing)
        yield f"The source does not state how its values are stored; the usual was taken ({taken})"
    if overlays_of(header):
        yield "The source has overlays of its own, which the pictures do not show: a marker of the side may be there"
    if view(header) is None:
        yield "The source does not state its view: it was taken for a frontal one (PA or AP)"
    if orientation(header) is None:
        yield "The source does not state Patient Orientation: left and right are those of the picture"


def warnings_of(prediction: Prediction, distance: OutOfDistribution | None) -> Iterator[str]:
    """When a decision is to be taken with care; what stands before the colon is enough where room is short.

    Args:
        prediction: the decision.
        distance: of the image from the training data, None where the model cannot say.
    """
    if prediction.near_threshold:
        yield (
            f"Near the threshold (within {100 * prediction.margin:.1f} points): "
            "a small shift or turn of the image may change the decision"
        )
    if distance is not None and distance.far:
        how = plain(distance.measure, 200)
        yield f"Far from the training data: score {distance.score:.3g}, limit {distance.limit:.3g} ({how})"


def distance_of(distance: OutOfDistribution) -> str:
    """The distance from the training data and its limit, without a judgement: within the limit is no assurance."""
    return f"Distance from the training data {distance.score:.3g} (limit {distance.limit:.3g})"


def doubts_of(explanation: Explanation) -> Iterator[str]:
    """Why the generated images may say less of the finding than they seem to, where the model can tell."""
    second, own = explanation.second, explanation.prediction
    if second is not None and second.positive is not own.positive:
        digits = digits_apart(second.probability, second.threshold, least=1)
        said = f"{second.probability:.{digits}%} (threshold {second.threshold:.{digits}%})"
        yield f"A second classifier decides otherwise: {said}"
    if explanation.control_changed:
        yield "The control image, changed without an aim, crosses the threshold too: noise alone turns this decision"
    if explanation.second_changed is False and explanation.decision_changed:
        yield "A second classifier does not change its decision: the change may be peculiar to this model"


def attributes_of(explanation: Explanation) -> Iterator[str]:
    """What each attribute of the model that was applied to the image makes of the probability, alone."""
    for one in explanation.morphs:
        first, last = one.probabilities[0], one.probabilities[-1]
        yield f"Along the model's attribute '{one.name}' the probability goes from {first:.1%} to {last:.1%}"


def emptiness(explanation: Explanation) -> str | None:
    """That the heatmap shows no evidence, where it shows none, and what is missing then if the decision is positive."""
    if explanation.attribution.shows_evidence:
        return None
    graver = ": the method does not show what this decision rests on" if explanation.prediction.positive else ""
    return f"{NO_EVIDENCE}{graver}"
