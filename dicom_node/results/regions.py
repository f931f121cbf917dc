"""The region that carries half of the evidence: as closed lines, in words, and where in the lungs it lies."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.elements import code
from dicom_node.results.context import ResultContext
from dicom_node.results.legend import Sentence, glance
from dicom_node.results.notes import NO_EVIDENCE, emptiness
from explain_core import display, zones
from explain_core.explanation import Explanation

MARKED = "Half of the evidence"

MOST_POINTS = 8000
"""Of one line: its coordinates are 4-byte numbers in an element of at most 65534 bytes (PS3.5 7.1.2)."""


def contours(explanation: Explanation, *, most: int | None = None, holes: bool = True) -> tuple[display.Outline, ...]:
    """Outlines of the region that carries half of the evidence: its parts, largest first, then the holes in them.

    Args:
        explanation: the explanation.
        most: how many at most.
        holes: whether the holes are wanted.

    Returns:
        closed lines of at most 8000 points in pixels from the image's top left corner, x before y, within
        0..columns and 0..rows; empty where there is no evidence.
    """
    lines = display.outlines(explanation.attribution.half_of_evidence, most=most, holes=holes)
    return tuple(_thin(line) for line in lines)


def headline(explanation: Explanation) -> str:
    """What a marked region is, or that there is none; printable ASCII.

    Finding and probability are not named: they are of the whole image, and none of a region's.
    """
    if emptiness(explanation) is not None:
        return NO_EVIDENCE
    return MARKED if contours(explanation, most=1) else f"{MARKED}: only specks, not outlined"


def places_of(image: ResultContext, part: NDArray[np.bool_] | None = None) -> tuple[zones.Place, ...]:
    """The zones of the lungs in which the outlined half of the evidence lies; those of the picture for an animal.

    Args:
        image: the explained image.
        part: of the image, where only evidence in it counts.
    """
    attribution, radiograph = image.explanation.attribution, image.radiograph
    mask = attribution.half_of_evidence
    evidence = np.where(mask if part is None else mask & part, attribution.values - attribution.scale.floor, 0)
    animal = code(image.header, "AnatomicalOrientationType") == "QUADRUPED"
    return zones.places(evidence, radiograph.pixels, None if animal else radiograph.orientation)


def first_line(image: ResultContext) -> Sentence:
    """The decision and where the evidence for it lies; a warning where a positive decision has none."""
    explanation = image.explanation
    if emptiness(explanation) is None:
        return glance(explanation.prediction, zones.in_words(places_of(image)))
    if explanation.prediction.positive:
        return replace(glance(explanation.prediction, _lower(NO_EVIDENCE)), warning=True)
    return glance(explanation.prediction)


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _thin(line: display.Outline) -> display.Outline:
    """`line` with every second, third ... point left out until it is short enough; still closed."""
    step = -(-(len(line) - 1) // (MOST_POINTS - 1))
    kept = [*range(0, len(line) - 1, step), len(line) - 1]
    return line[kept]
