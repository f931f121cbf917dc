"""The report as pictures: what was decided, explained and refused, for destinations that take no structured report.

It stands in for the structured report and says the same in words, on pages of text 1024 pixels wide.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.dicom.greys import Greys
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.encoding import compress
from dicom_node.results.header import DISCLAIMER, plain
from dicom_node.results.image import capture
from dicom_node.results.legend import Sentence, decision, identity, quality, scale
from dicom_node.results.notes import NOT_AN_OUTLINE, distance_of, emptiness, limits_of, warnings_of, which
from dicom_node.results.patient import patient_lines
from dicom_node.results.regions import places_of
from dicom_node.results.text import BACKGROUND, READABLE, Line, font_names, line_height, lines_of, write
from explain_core.explanation import OutOfDistribution, Prediction
from explain_core.zones import in_words

COLUMNS = 1024
MOST_ROWS = 1024
TEXT = MOST_ROWS // READABLE
"""Height of the text in pixels: one 32nd of the highest page."""

_MARGIN = TEXT


@dataclass(frozen=True, slots=True)
class ReportPage:
    """Builds the pages of the report."""

    name: str = "report_page"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 8
    fallback: str | None = None

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - it fits every image
        """Every image can be reported."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One page of a short report; as many as it takes."""
        made = pages(head(study), body(study))
        return tuple(self._page(study, lines, number) for number, lines in enumerate(made, start=1))

    def _page(self, study: StudyContext, lines: Sequence[Line], number: int) -> Dataset:
        pixels = render(lines)
        ds = capture(
            study, self.name, self.series, pixels, *study.options.picture, *font_names(lines), f"page {number}"
        )
        ds.InstanceNumber = study.number + number - 1
        ds.DerivationDescription = f"Text on the decisions about the source images. {DISCLAIMER}."
        compress(ds, pixels, study.options.compression)
        return ds


def head(study: StudyContext) -> tuple[Sentence, ...]:
    """What stands at the top of every page."""
    patient = patient_lines(study.header) if study.options.patient_in_image else ()
    model = identity(study.model) if study.model is not None else "No model was loaded"
    return (
        Sentence(DISCLAIMER, warning=True),
        *(Sentence(line) for line in patient),
        Sentence(f"{model}. Made on {study.moment:%Y-%m-%d} at {study.moment:%H:%M %z}"),
    )


def body(study: StudyContext) -> tuple[Sentence, ...]:
    """What was found in each image, what was not analysed, and which objects are missing."""
    said: list[Sentence] = []
    for number, images in enumerate(study.explained, start=1):
        said += _explained(number, images)
    for number, assessed in enumerate(study.assessed, start=len(study.explained) + 1):
        assessment = assessed.assessment
        said += _decided(number, assessed.header, assessment.prediction, assessment.out_of_distribution)
        said.append(Sentence("Not explained: negative decisions are reported without explanation here."))
    reasons: Counter[str] = Counter()
    for refusal in study.refused:
        reasons[refusal.reason] += len(refusal.sources)
    for reason, count in reasons.items():
        said.append(Sentence(f"Not analysed because {reason}: {count} image{'s' if count > 1 else ''}.", warning=True))
    for name, why in study.omitted:
        said.append(Sentence(f"No {name.replace('_', ' ')} was made because {why}."))
    if not (study.images or study.assessed):
        said.append(Sentence("This says nothing about the image: it is no finding."))
    return tuple(said)


def pages(top: Sequence[Sentence], below: Sequence[Sentence]) -> tuple[tuple[Line, ...], ...]:
    """Lines of each page: `top` and the number of the page on every one, `below` in order from page to page.

    A sentence is on one page, unless it is longer than a page.
    """
    width, most = COLUMNS - 2 * _MARGIN, (MOST_ROWS - 2 * _MARGIN) // line_height(TEXT)
    above = lines_of(top, TEXT, width)[: most // 2]
    room = most - len(above) - 1
    parts: list[tuple[Line, ...]] = [()]
    for sentence in below:
        lines = lines_of([sentence], TEXT, width)
        last = parts.pop() if not parts[-1] or len(parts[-1]) + len(lines) <= room else ()
        whole = (*last, *lines)
        parts += [whole[first : first + room] for first in range(0, max(1, len(whole)), room)]
    return tuple(
        (*above, *lines_of([Sentence(f"Page {number} of {len(parts)}")], TEXT, width), *part)
        for number, part in enumerate(parts, start=1)
    )


def render(lines: Sequence[Line]) -> NDArray[np.uint8]:
    """A page as high as its lines; uint8 sRGB, shape (rows, 1024, 3) with at most 1024 rows."""
    image = Image.new("RGB", (COLUMNS, len(lines) * line_height(TEXT) + 2 * _MARGIN), BACKGROUND)
    write(image, lines, TEXT, (_MARGIN, _MARGIN))
    return np.asarray(image)


def _explained(number: int, images: Sequence[ResultContext]) -> Iterator[Sentence]:
    """The decision about one image, and what each method says of it."""
    first = images[0].explanation
    yield from _decided(number, images[0].header, first.prediction, first.out_of_distribution, images[0].image.greys)
    for image in images:
        explanation = image.explanation
        empty, named = emptiness(explanation), f"{image.method}: " if len(images) > 1 else ""
        if empty is None:
            yield Sentence(f"{named}Evidence lies in: {in_words(places_of(image))}.")
        else:
            yield Sentence(f"{named}{empty}.", warning=explanation.prediction.positive)
        yield from quality(explanation)
        yield Sentence(f"Method {image.method}. {scale(explanation.attribution.scale)}.")
    yield Sentence(f"{NOT_AN_OUTLINE}.")


def _decided(
    number: int,
    header: Dataset,
    prediction: Prediction,
    distance: OutOfDistribution | None,
    greys: Greys | None = None,
) -> Iterator[Sentence]:
    shown = which(header)
    yield Sentence(f"Image {number}{f' ({shown})' if shown else ''}: {decision(prediction)}")
    for warning in warnings_of(prediction, distance):
        yield Sentence(f"{warning}.", warning=True)
    if distance is not None and not distance.far:
        yield Sentence(f"{distance_of(distance)}: {plain(distance.measure, 200)}.")
    for limit in limits_of(header, greys):
        yield Sentence(f"{limit}.")


PLUGIN = ReportPage()
