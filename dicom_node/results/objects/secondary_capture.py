"""The viewer-safe copy: a true-colour Secondary Capture of the radiograph under its heatmap, to be read at a glance.

The radiograph has its full width and true shape. Over it lies one translucent layer with a thin outline of the region
that carries half of the evidence; above it stands one line, below it at most three (see `_bands`). Where there is no
evidence the film is clean. Everything else is for the report.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.dicom.elements import code
from dicom_node.results import codes
from dicom_node.results.bands import OUTLINE, Bands, Layout, framed, layout
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.encoding import compress
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.image import derivation, pixel_shape, secondary_capture, square_pixel_spacing
from dicom_node.results.legend import UNLIKE, Sentence, signature
from dicom_node.results.patient import patient_lines
from dicom_node.results.regions import MARKED, contours, first_line
from dicom_node.results.sides import sides
from dicom_node.results.text import font_names
from explain_core import display
from explain_core.explanation import Explanation
from explain_core.radiograph import Radiograph

SHORTEST_LONG_EDGE = 512
"""An outline cannot be read on less: images smaller than this are enlarged."""

_THINNEST = 700
"""An outline is a pixel wide for each of so many of the longest side."""


def picture_shape(shape: tuple[int, int], long_edge: int, pixel: tuple[float, float] = (1, 1)) -> tuple[int, int]:
    """Rows and columns of square pixels for a source of `shape`.

    Args:
        shape: rows and columns of the source.
        long_edge: wanted longest side; never more than the source's, never less than 512.
        pixel: height and width of the source's pixels, in any unit.
    """
    full = [size * step / min(pixel) for size, step in zip(shape, pixel, strict=True)]
    share = max(min(long_edge, max(full)), SHORTEST_LONG_EDGE) / max(full)
    return max(1, round(full[0] * share)), max(1, round(full[1] * share))


def spoken(image: ResultContext) -> Bands:
    """Everything that the picture of `image` says: the decision, the scale where there is colour, who says so, of whom.

    That an image is unlike the training images stands in the line of the scale, for the line above may end there.
    """
    explanation = image.explanation
    distance = explanation.out_of_distribution
    far = distance is not None and distance.far
    key = Sentence(f"Outline: {MARKED.lower()}") if contours(explanation, most=1) else None
    patient = patient_lines(image.header) if image.options.patient_in_image else ()
    animal = code(image.header, "AnatomicalOrientationType") == "QUADRUPED"
    return Bands(
        above=(first_line(image),),
        below=(signature(explanation.provenance.model), *(Sentence(line) for line in patient)),
        scale=explanation.attribution.scale if explanation.attribution.shows_evidence else None,
        beside=Sentence(UNLIKE, warning=True) if far else key,
        marked=sides(image.radiograph.orientation, quadruped=animal),
    )


def render(radiograph: Radiograph, explanation: Explanation, place: Layout, said: Bands) -> NDArray[np.uint8]:
    """The picture with its bands; uint8 sRGB, shape (rows, columns, 3) of `place`."""
    attribution, shape = explanation.attribution, (place.picture.rows, place.picture.columns)
    fused = display.fuse(
        display.resize(radiograph.pixels, shape), display.resize(attribution.painted, shape), attribution.scale
    )
    picture = Image.fromarray(fused)
    zoom = np.array(shape[::-1]) / radiograph.pixels.shape[::-1]
    lines = tuple(line * zoom for line in contours(explanation))
    display.draw_outlines(picture, lines, colour=OUTLINE, width=max(1, round(max(shape) / _THINNEST)))
    return framed(picture, place, said)


@dataclass(frozen=True, slots=True)
class SecondaryCapture:
    """Builds the true-colour Secondary Capture."""

    name: str = "secondary_capture"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 1
    fallback: str | None = None

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - it fits every image
        """Every image can have it."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, context: ResultContext) -> Dataset:
        """The heatmap fused over the radiograph, with decision, scale, model and disclaimer in the margins."""
        options, shape = context.options, context.radiograph.pixels.shape
        said = spoken(context)
        shown = picture_shape((shape[0], shape[1]), options.long_edge, pixel_shape(context.header))
        place = layout(shown, said)
        pixels = render(context.radiograph, context.explanation, place, said)
        fonts = font_names((*place.above, *place.below))
        ds = secondary_capture(context, self.name, self.series, pixels, *options.picture, *fonts)
        square_pixel_spacing(ds, context.header, (shape[0], shape[1]), shown)
        derivation(
            ds,
            f"Heatmap ({context.explanation.provenance.method}) fused over the source image, resampled, with "
            f"a few lines of text in the margins. {DISCLAIMER}.",
            codes.VISUAL_EXPLANATION,
            codes.SPATIAL_RESAMPLING,
        )
        compress(ds, pixels, options.compression)
        return ds


PLUGIN = SecondaryCapture()
