"""What the model looks at: the radiograph along each attribute that turned its decision, as frames to be played.

One multi-frame Secondary Capture for each explained image (Multi-frame Grayscale Byte Secondary Capture Image, PS3.3
A.8.3): attribute after attribute, each from the radiograph as the model saw it to the whole change. All but the first
frame of each are invented by a network: each says so in the line above the picture and in a faint pattern across it,
and the object in Synthetic Data (0008,001C) and its series' description.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from dicom_node.results import codes
from dicom_node.results.bands import Bands, Layout, framed, layout
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.header import DISCLAIMER, plain
from dicom_node.results.image import derivation, pixel_shape, secondary_capture
from dicom_node.results.legend import COPY, SYNTHETIC, Sentence, digits_apart, percent, signature
from dicom_node.results.notes import which
from dicom_node.results.watermark import watermarked
from explain_core.explanation import Explanation

LONG_EDGE = 640
"""Of the picture, in pixels."""
FRAME_MILLISECONDS = 600


@dataclass(frozen=True, slots=True)
class Morphs:
    """Builds the frames."""

    name: str = "morphs"
    sop_class_uids: tuple[str, ...] = (MultiFrameGrayscaleByteSecondaryCaptureImageStorage,)
    series: int = 10
    fallback: str | None = None

    def refuses(self, image: ResultContext) -> str | None:
        """A method without attributes, or an image that none of them moves: nobody misses what few methods make."""
        return None if image.explanation.morphs else ""

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, image: ResultContext) -> Dataset:
        """All attributes of one image."""
        explanation = image.explanation
        frames = np.stack(list(_frames(explanation, pixel_shape(image.header))))
        ds = secondary_capture(
            image, self.name, self.series, frames[0], sop_class=MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        )
        ds.InstanceNumber = image.number
        ds.SeriesDescription = plain(f"SYNTHETIC - NOT FOR DIAGNOSIS - {image.method.replace('_', ' ')} attributes")
        ds.SyntheticData = "YES"
        ds.ImageType = [*ds.ImageType[:2], "SYNTHETIC"]
        ds.NumberOfFrames = len(frames)
        ds.FrameTime = f"{FRAME_MILLISECONDS}"
        ds.FrameIncrementPointer = Tag("FrameTime")
        ds.PresentationLUTShape = "IDENTITY"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
        ds.WindowCenter, ds.WindowWidth = "128", "256"  # without, OHIF takes the first frame's least and greatest
        data = frames.tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        names = ", ".join(f"{one.name} ({percent(one.probabilities[-1])})" for one in explanation.morphs)
        shown = which(image.header)
        told = f"SYNTHETIC: the radiograph along attributes of the model {names}"
        ds.ImageComments = plain(f"{told}{f'. Image: {shown}' if shown else ''}. {DISCLAIMER}", 1024)
        derivation(ds, f"{told}. {DISCLAIMER}.", codes.VISUAL_EXPLANATION, codes.ADVERSARIAL_IMAGE)
        ds.CodingSchemeIdentificationSequence = [codes.scheme()]
        maker = deepcopy(ds.ContributingEquipmentSequence[-1])
        maker.PurposeOfReferenceCodeSequence = [codes.item(codes.SYNTHESIZING_EQUIPMENT)]
        ds.ContributingEquipmentSequence.append(maker)
        return ds


def _frames(explanation: Explanation, pixel: tuple[float, float]) -> Iterator[NDArray[np.uint8]]:
    """Every frame with its lines, uint8, all of one shape (rows, columns)."""
    said = [
        _said(explanation, number, part)
        for number, one in enumerate(explanation.morphs)
        for part in range(len(one.parts))
    ]
    rows, columns = explanation.morphs[0].images.shape[1:]
    sides = rows * pixel[0], columns * pixel[1]
    high, wide = (max(1, round(side * LONG_EDGE / max(sides))) for side in sides)
    longest = Bands(
        above=max((one.above for one in said), key=lambda lines: len(lines[0].text)),
        below=max((one.below for one in said), key=lambda lines: max(len(line.text) for line in lines)),
    )
    place = layout((high, wide), longest)
    planes = [(plane, part) for one in explanation.morphs for plane, part in zip(one.images, one.parts, strict=True)]
    for (plane, part), bands in zip(planes, said, strict=True):
        yield _frame(plane, place, bands, synthetic=part > 0)


def _frame(plane: NDArray[np.float32], place: Layout, said: Bands, *, synthetic: bool) -> NDArray[np.uint8]:
    grey = Image.fromarray(np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    picture = grey.resize((place.picture.columns, place.picture.rows), Image.Resampling.BILINEAR)
    if synthetic:
        picture = watermarked(picture, place.text)
    return np.asarray(Image.fromarray(framed(picture, place.saying(said), said)).convert("L"))


def _said(explanation: Explanation, number: int, part: int) -> Bands:
    one, prediction, count = explanation.morphs[number], explanation.prediction, len(explanation.morphs)
    banner = Sentence(SYNTHETIC, warning=True) if one.parts[part] > 0 else Sentence(COPY)
    first = f"Attribute {number + 1} of {count}, {plain(one.name)}: {one.parts[part]:.0%} of its change"
    digits = digits_apart(one.probabilities[part], prediction.threshold)
    shares = (percent(one.probabilities[part], digits), percent(prediction.threshold, digits))
    second = f"{plain(prediction.label)} {shares[0]} (threshold {shares[1]})"
    model = explanation.provenance.model
    return Bands(above=(banner,), below=(Sentence(first), Sentence(second), signature(model)))


PLUGIN = Morphs()
