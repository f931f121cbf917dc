"""Contours and text as graphics over the original image: a Grayscale Softcopy Presentation State (PS3.3 A.33.1).

Nothing of the image is copied: a workstation shows the original with these lines and words, which it can switch off by
layer. Coordinates in PIXEL units count from 0 at the top left corner of the top left pixel to Columns and Rows at the
bottom right corner of the image (PS3.3 table C.10-5), as those of an SR do (C.18.6.1); the displayed area alone names
pixels by number, from 1 (C.10.4).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from pydicom import Dataset
from pydicom.uid import UID, GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import format_number_as_ds

from dicom_node.dicom.elements import numbers
from dicom_node.dicom.shutter import SHUTTER, hidden
from dicom_node.results.bands import LEAST_SHARE
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.grey import transformations
from dicom_node.results.header import inherit, inherit_anatomy, overlays_of, plain, reference, start
from dicom_node.results.legend import UNLIKE, signature
from dicom_node.results.planar import adopt
from dicom_node.results.regions import contours, first_line, headline
from dicom_node.results.text import READABLE, font, line_height, wrap
from explain_core import display

OUTLINE_LAYER = "EXPLANATION"
TEXT_LAYER = "TEXT"
SOURCE_LAYER = "SOURCE OVERLAYS"

_LAYERS = {
    SOURCE_LAYER: ("Overlays of the source", (65535, 32896, 32896)),
    OUTLINE_LAYER: ("Outline of half of the evidence", (53930, 26324, 25880)),
    TEXT_LAYER: ("Decision, place, model and disclaimer", (53432, 36993, 51003)),
}
"""Description and colour, white, light blue and amber, as 16-bit CIELab (PS3.3 C.10.7.1.1)."""
_ACTIVATION_LAYER = 0x1001
_SMALLEST = 6
_LARGEST_RATIO = 1000


@dataclass(frozen=True, slots=True)
class PresentationState:
    """Builds the presentation state."""

    name: str = "presentation_state"
    sop_class_uids: tuple[str, ...] = (GrayscaleSoftcopyPresentationStateStorage,)
    series: int = 4
    fallback: str | None = "overlay"

    def refuses(self, image: ResultContext) -> str | None:
        """An image whose SOP Class is none of the standard's: nothing could be said to which it applies."""
        known = UID(image.source.sop_class_uid).type == "SOP Class"
        return None if known else "its SOP Class is unknown, so no presentation state can refer to it"

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, context: ResultContext) -> Dataset:
        """The outlines and the text over one image, whose greys are those that the model saw."""
        ds = start(context, self.name, GrayscaleSoftcopyPresentationStateStorage)
        ds.Modality = "PR"
        ds.SeriesNumber = context.series_number(self.series)
        inherit_anatomy(ds, context.header)
        ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
        del ds.ContentDate, ds.ContentTime  # of images and reports only
        ds.ContentLabel = "EXPLANATION"
        ds.ContentDescription = plain(headline(context.explanation))
        ds.ContentCreatorName = None
        ds.ReferencedSeriesSequence = [_series(context)]
        ds.DisplayedAreaSelectionSequence = [_displayed_area(context)]
        adopt(ds, transformations(context.image.greys))
        _shutter(ds, context)
        ds.GraphicAnnotationSequence = _annotations(context)
        for group in (own := overlays_of(context.header)):  # else viewers may hide them (PS3.3 C.11.7)
            ds.add_new((group, _ACTIVATION_LAYER), "CS", SOURCE_LAYER)
        used = [*([SOURCE_LAYER] if own else []), *(item.GraphicLayer for item in ds.GraphicAnnotationSequence)]
        ds.GraphicLayerSequence = [_layer(name, order) for order, name in enumerate(used, start=1)]
        return ds


def _shutter(ds: Dataset, context: ResultContext) -> None:
    """The source's Display Shutter: without the module a viewer shows what it hid (PS3.3 table A.33.1-1, C.7.6.11)."""
    if hidden(context.header, context.radiograph.pixels.shape) is None:
        return
    for keyword in SHUTTER:
        inherit(context.header, ds, keyword)
    if "ShutterPresentationValue" not in ds:
        ds.ShutterPresentationValue = 0


def _series(context: ResultContext) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = context.source.series_instance_uid
    item.ReferencedImageSequence = [reference(context.source)]
    return item


def _displayed_area(context: ResultContext) -> Dataset:
    """The whole image, its pixels in their true proportions (PS3.3 C.10.4).

    A spacing is stated only where the source states one in the patient: one of the detector would be measured with.
    """
    rows, columns = context.radiograph.pixels.shape
    item = Dataset()
    item.ReferencedImageSequence = [reference(context.source)]
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [columns, rows]
    item.PresentationSizeMode = "SCALE TO FIT"
    match numbers(context.header, "PixelSpacing"):
        case (row, column) if 0 < row < math.inf and 0 < column < math.inf:
            item.PresentationPixelSpacing = [format_number_as_ds(row), format_number_as_ds(column)]
        case _:
            item.PresentationPixelAspectRatio = list(_aspect_ratio(context))
    return item


def _aspect_ratio(context: ResultContext) -> tuple[int, int]:
    """Height to width of one pixel, in small whole numbers."""
    match context.radiograph.spacing or numbers(context.header, "PixelAspectRatio"):
        case (row, column) if 0 < row < math.inf and 0 < column < math.inf:
            ratio = Fraction(row / column).limit_denominator(_LARGEST_RATIO)
            if ratio:
                return ratio.numerator, ratio.denominator
    return 1, 1


def _annotations(context: ResultContext) -> list[Dataset]:
    """One item for each layer that holds anything, lowest first."""
    outlines, text = Dataset(), Dataset()
    lines = contours(context.explanation)
    outlines.GraphicLayer, text.GraphicLayer = OUTLINE_LAYER, TEXT_LAYER
    outlines.GraphicObjectSequence = [_polyline(line) for line in lines]
    text.TextObjectSequence = [
        *_mark(context, lines),
        _legend(context),
    ]
    annotations = [outlines, text] if lines else [text]
    for item in annotations:
        item.ReferencedImageSequence = [reference(context.source)]
    return annotations


def _polyline(line: display.Outline) -> Dataset:
    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(line)
    item.GraphicData = [float(value) for value in line.ravel()]
    item.GraphicType = "POLYLINE"
    item.GraphicFilled = "N"
    return item


def _mark(context: ResultContext, lines: tuple[display.Outline, ...]) -> Iterator[Dataset]:
    """What is outlined, above the largest region and anchored to its topmost point."""
    if not lines:
        return
    rows, columns = context.radiograph.pixels.shape
    height = max(_SMALLEST, -(-rows // READABLE))
    text = headline(context.explanation)
    x, y = (float(value) for value in lines[0][lines[0][:, 1].argmin()])
    wide = min(font(height).getlength(text), columns)
    left, top = max(0.0, min(x, columns - wide)), max(0.0, y - line_height(height))
    item = _text(text, (left, top, left + wide, min(rows, top + line_height(height))))
    item.AnchorPointAnnotationUnits = "PIXEL"
    item.AnchorPoint = [x, y]
    item.AnchorPointVisibility = "Y"
    yield item


def _legend(context: ResultContext) -> Dataset:
    """What is to be said in few lines, at that edge of the image where less of the evidence lies."""
    rows, columns = context.radiograph.pixels.shape
    height = max(_SMALLEST, -(-rows // READABLE))
    said = [plain(one, 256) for one in _lines(context)]
    while True:
        margin = height // 4
        lines = [line for one in said for line in wrap(one, font(height), columns - 2 * margin)]
        total = len(lines) * line_height(height) + 2 * margin
        if (len(lines) == len(said) and total <= rows // 4) or height <= max(_SMALLEST, rows // LEAST_SHARE):
            break
        height -= 1
    total = min(total, rows)
    mask = context.explanation.attribution.half_of_evidence
    top = margin if mask[:total].sum() < mask[-total:].sum() else rows - total + margin
    wide = max(font(height).getlength(line) for line in lines)
    bottom = min(top + len(lines) * line_height(height), rows)
    return _text("\r\n".join(lines), (margin, top, min(margin + wide, columns), bottom))


def _lines(context: ResultContext) -> Iterator[str]:
    """Few and short ones, because they cover the image: the report has the others."""
    explanation = context.explanation
    distance = explanation.out_of_distribution
    yield first_line(context).text
    if distance is not None and distance.far:
        yield UNLIKE
    yield signature(explanation.provenance.model).text


def _text(text: str, box: tuple[float, float, float, float]) -> Dataset:
    """A text object; `box` is left, top, right and bottom in pixels from the image's top left corner."""
    item = Dataset()
    item.BoundingBoxAnnotationUnits = "PIXEL"
    item.UnformattedTextValue = text
    item.BoundingBoxTopLeftHandCorner = [float(value) for value in box[:2]]
    item.BoundingBoxBottomRightHandCorner = [float(value) for value in box[2:]]
    item.BoundingBoxTextHorizontalJustification = "LEFT"
    return item


def _layer(name: str, order: int) -> Dataset:
    description, colour = _LAYERS[name]
    item = Dataset()
    item.GraphicLayer = name
    item.GraphicLayerOrder = order
    item.GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF
    item.GraphicLayerRecommendedDisplayCIELabValue = list(colour)
    item.GraphicLayerDescription = description
    return item


PLUGIN = PresentationState()
