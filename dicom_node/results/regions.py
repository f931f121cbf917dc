"""The region that carries half of the evidence: as closed lines, in words, and where in the lungs it lies."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.elements import code
from dicom_node.results.context import ResultContext
from dicom_node.results.legend import Sentence, glance
from dicom_node.results.notes import NO_EVIDENCE, emptiness
from dicom_node.results.once import once
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
    regions, in_them = _traced(explanation.attribution.half_of_evidence)
    return (*regions, *in_them)[:most] if holes else regions[:most]


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
    radiograph, (rows, columns, evidence) = image.radiograph, image.explanation.attribution.carriers
    if part is not None:
        within = part[rows, columns]
        rows, columns, evidence = rows[within], columns[within], evidence[within]
    animal = code(image.header, "AnatomicalOrientationType") == "QUADRUPED"
    orientation = None if animal else radiograph.orientation
    lungs = _lungs(radiograph.pixels, orientation)
    return zones.places_of(rows, columns, evidence, radiograph.pixels.shape, lungs, orientation)


def first_line(image: ResultContext) -> Sentence:
    """The decision and where the evidence for it lies; a warning where a positive decision has none."""
    explanation = image.explanation
    if emptiness(explanation) is None:
        return glance(explanation.prediction, zones.in_words(places_of(image)))
    if explanation.prediction.positive:
        return replace(glance(explanation.prediction, _lower(NO_EVIDENCE)), warning=True)
    return glance(explanation.prediction)


@once
def _traced(mask: NDArray[np.bool_]) -> tuple[tuple[display.Outline, ...], tuple[display.Outline, ...]]:
    """The outlines of the regions of a mask, largest first, and those of the holes in them."""
    lines = tuple(_thin(line) for line in display.outlines(mask, holes=True))
    count = sum(display.area(line) > 0 for line in lines)
    return lines[:count], lines[count:]


@once
def _lungs(pixels: NDArray[np.float32], orientation: tuple[str, str] | None) -> zones.Box:
    return zones.lungs_box(zones.upright(pixels, orientation))


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _thin(line: display.Outline) -> display.Outline:
    """`line` with every second, third ... point left out until it is short enough; still closed."""
    step = -(-(len(line) - 1) // (MOST_POINTS - 1))
    kept = [*range(0, len(line) - 1, step), len(line) - 1]
    return line[kept]
