"""What a reader must know of a source or a decision: sentences of ours, in ASCII, naming no patient."""

from collections.abc import Iterator

from pydicom import Dataset

from dicom_node.header import code, numbers, orientation
from dicom_node.results._header import plain
from explain_core.explanation import OutOfDistribution, Prediction


def limits_of(header: Dataset) -> Iterator[str]:
    """What the source does not say, and what follows from that."""
    if not code(header, "PatientID"):
        yield "The source has no Patient ID: these results are matched to the patient by the study alone"
    if not code(header, "StudyDate"):
        yield "The source has no Study Date"
    spacings = [numbers(header, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing")]
    if not any(len(found) == 2 and 0 < min(found) <= max(found) < float("inf") for found in spacings):  # noqa: PLR2004
        yield "The source has no usable pixel spacing: sizes are given as parts of the image, not in millimetres"
    if orientation(header) is None:
        yield "The source does not state Patient Orientation: left and right are those of the picture"


def warnings_of(prediction: Prediction, distance: OutOfDistribution | None) -> Iterator[str]:
    """When a decision is to be taken with care."""
    if prediction.near_threshold:
        yield (
            f"Near the threshold: within {100 * prediction.margin:.1f} points of it, "
            "so a small shift or turn of the image may change the decision"
        )
    if distance is not None and distance.far:
        yield (
            f"Far from the training data: score {distance.score:.3g}, limit {distance.limit:.3g} "
            f"({plain(distance.measure, 200)})"
        )
