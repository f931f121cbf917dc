"""What the explanation compares: original, similar, adversarial, difference, as one series in this order.

All four have one size and the picture in one place, so that they can be leafed through. Two of them are invented by a
generator and the fourth is computed from these: each says so in the line above the picture, in a faint pattern across
it that cropping cannot remove, in Synthetic Data (0008,001C) and in the series' description. What more there is to know
stands in Image Comments.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.results import codes
from dicom_node.results.bands import Bands, Layout, framed, layout
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.encoding import compress
from dicom_node.results.header import DISCLAIMER, plain
from dicom_node.results.image import derivation, pixel_shape, secondary_capture
from dicom_node.results.legend import COPY, SYNTHETIC, Sentence, digits_apart, percent, signature
from dicom_node.results.notes import which
from dicom_node.results.watermark import watermarked
from explain_core import display
from explain_core.explanation import Counterfactual, Explanation, HeatmapScale, Prediction

LONG_EDGE = 1024
"""Of the picture, in pixels: the generators' images are enlarged to it."""

SERIES_DESCRIPTION = "SYNTHETIC - NOT FOR DIAGNOSIS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One of the four images.

    Attributes:
        role: "original", "similar", "adversarial" or "difference"; part of the SOP Instance UID.
        picture: uint8, at the model's resolution: grey, shape (rows, columns), or sRGB, shape (rows, columns, 3).
        said: what stands above and below the picture.
        comment: what is known of it beyond that, for Image Comments.
        derivation: how it came to be, for Derivation Description.
        codes: the same for Derivation Code Sequence.
        synthetic: whether its content was made artificially.
    """

    role: str
    picture: NDArray[np.uint8]
    said: Bands
    comment: str
    derivation: str
    codes: tuple[Code, ...]
    synthetic: bool


@dataclass(frozen=True, slots=True)
class SyntheticImages:
    """Builds the series of four."""

    name: str = "synthetic_images"
    sop_class_uids: tuple[str, ...] = (SecondaryCaptureImageStorage,)
    series: int = 7
    fallback: str | None = None

    def refuses(self, image: ResultContext) -> str | None:
        """A method without generators."""
        return "the method makes no synthetic images" if _parts(image.explanation) is None else None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """Four for each image."""
        return tuple(made for image in study.images for made in self.of(image))

    def of(self, image: ResultContext) -> tuple[Dataset, ...]:
        """Original, similar, adversarial and difference of one image."""
        found = frames(image.explanation, which(image.header))
        place = placed(found, pixel_shape(image.header))
        first = len(found) * (image.number - 1) + 1
        return tuple(self._one(image, frame, place, first + position) for position, frame in enumerate(found))

    def _one(self, image: ResultContext, frame: Frame, place: Layout, number: int) -> Dataset:
        pixels, compression = render(frame, place), image.options.compression
        ds = secondary_capture(image, self.name, self.series, pixels, frame.role, compression)
        ds.InstanceNumber = number
        ds.SeriesDescription = plain(f"{SERIES_DESCRIPTION} - {image.method.replace('_', ' ')}")
        ds.SyntheticData = "YES" if frame.synthetic else "NO"
        ds.ImageComments = plain(frame.comment, 1024)
        derivation(ds, f"{frame.derivation} {DISCLAIMER}.", *frame.codes)
        ds.CodingSchemeIdentificationSequence = [codes.scheme()]
        if frame.synthetic:
            ds.ImageType = [*ds.ImageType[:2], "SYNTHETIC"]
            maker = deepcopy(ds.ContributingEquipmentSequence[-1])
            maker.PurposeOfReferenceCodeSequence = [codes.item(codes.SYNTHESIZING_EQUIPMENT)]
            ds.ContributingEquipmentSequence.append(maker)
        compress(ds, pixels, compression)
        return ds


def frames(explanation: Explanation, shown: str = "") -> tuple[Frame, ...]:
    """The four images of an explanation, in their order.

    Args:
        explanation: with generated images.
        shown: which image of the study is explained, for the comments; "" where nothing tells it from others.

    Raises:
        ValueError: the method makes no synthetic images.
    """
    parts = _parts(explanation)
    if parts is None:
        raise ValueError("the method makes no synthetic images")
    seen, similar, adversarial = parts
    prediction = explanation.prediction
    made = (
        Frame(
            role="original",
            picture=_grey(seen),
            said=_bands(Sentence(COPY), f"1 of 4, original: {_share(prediction, prediction.probability)}", explanation),
            comment="",
            derivation="The source image at the model's resolution, enlarged.",
            codes=(codes.SPATIAL_RESAMPLING,),
            synthetic=False,
        ),
        _generated(similar, 2, explanation, kept=True, held=bool(explanation.similar_kept)),
        _generated(adversarial, 3, explanation, kept=False, held=bool(explanation.decision_changed)),
        _difference(seen, similar, adversarial, explanation),
    )
    rows, columns = seen.shape
    named = f". Image: {shown}" if shown else ""
    resolution = f". Model resolution {columns} x {rows} pixels, enlarged. {DISCLAIMER}"
    return tuple(
        replace(one, comment=f"{one.said.above[0].text}{named}. {one.said.below[0].text}{one.comment}{resolution}")
        for one in made
    )


def placed(found: Sequence[Frame], pixel: tuple[float, float]) -> Layout:
    """One place for the picture in all of them, below which the longest lines have room.

    Args:
        found: the four images.
        pixel: height and width of a pixel of the source, in any unit; the picture has its true shape.
    """
    sides = [count * size for count, size in zip(found[0].picture.shape[:2], pixel, strict=True)]
    high, wide = (max(1, round(side * LONG_EDGE / max(sides))) for side in sides)
    of_all = Bands(
        above=max(found, key=lambda one: len(one.said.above[0].text)).said.above,
        below=max(found, key=lambda one: len(one.said.below[0].text)).said.below,
        scale=found[-1].said.scale,
    )
    return layout((high, wide), of_all)


def render(frame: Frame, place: Layout) -> NDArray[np.uint8]:
    """The picture with its lines; uint8 sRGB, shape (rows, columns, 3) of `place`."""
    box = place.picture
    picture = Image.fromarray(frame.picture).resize((box.columns, box.rows), Image.Resampling.BILINEAR)
    if frame.synthetic:
        picture = watermarked(picture, place.text)
    picture = picture.convert("RGB")
    return framed(picture, place.saying(frame.said), frame.said)


def _parts(explanation: Explanation) -> tuple[NDArray[np.float32], Counterfactual, Counterfactual] | None:
    seen, similar, adversarial = explanation.seen, explanation.similar, explanation.adversarial
    return None if seen is None or similar is None or adversarial is None else (seen, similar, adversarial)


def _bands(banner: Sentence, line: str, explanation: Explanation, scale: HeatmapScale | None = None) -> Bands:
    return Bands(above=(banner,), below=(Sentence(line), signature(explanation.provenance.model)), scale=scale)


def _share(prediction: Prediction, probability: float) -> str:
    """Finding, probability and threshold."""
    digits = digits_apart(probability, prediction.threshold)
    said = f"{percent(probability, digits)} (threshold {percent(prediction.threshold, digits)})"
    return f"{plain(prediction.label)} {said}"


def _generated(image: Counterfactual, number: int, explanation: Explanation, *, kept: bool, held: bool) -> Frame:
    done = f"decision {'' if held else 'NOT '}{'kept' if kept else 'changed'}"
    outcome = f"{_share(explanation.prediction, image.probability)}, {done}"
    model, purpose = explanation.provenance.model, "keep" if kept else "change"
    return Frame(
        role=image.role,
        picture=_grey(image.image),
        said=_bands(Sentence(SYNTHETIC, warning=True), f"{number} of 4, {image.role}: {outcome}", explanation),
        comment=f". Made by {model.name} {model.version} to {purpose} the decision",
        derivation=f"SYNTHETIC: made by a generator from the source image to {purpose} the decision. {outcome}.",
        codes=(codes.VISUAL_EXPLANATION, codes.SIMILAR_IMAGE if kept else codes.ADVERSARIAL_IMAGE),
        synthetic=True,
    )


def _difference(
    seen: NDArray[np.float32], similar: Counterfactual, adversarial: Counterfactual, explanation: Explanation
) -> Frame:
    values, scale = np.abs(similar.image - adversarial.image), explanation.attribution.scale
    outcome = f"similar {percent(similar.probability)}, adversarial {percent(adversarial.probability)}"
    banner, line = Sentence(SYNTHETIC, warning=True), f"4 of 4, difference of 2 and 3: {outcome}"
    return Frame(
        role="difference",
        picture=display.fuse(seen, values, scale),
        said=_bands(banner, line, explanation, scale),
        comment=(
            f". Colour: |similar - adversarial| of this pair from {scale.floor:.3g} on, full scale "
            f"{scale.full_scale:.3g}; not the heatmap, which is averaged"
        ),
        derivation=f"SYNTHETIC: |similar - adversarial| of two generated images, over the source image. {outcome}.",
        codes=(codes.PIXEL_SUBTRACTION, codes.VISUAL_EXPLANATION),
        synthetic=True,
    )


def _grey(luminance: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(luminance, 0, 1) * 255).astype(np.uint8)


PLUGIN = SyntheticImages()
