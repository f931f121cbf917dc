"""What the explanation compares: original, similar, adversarial, difference, as one series in this order.

+---------------------+     All four images have one size and the picture in one place, so that they can be leafed
|  banner             |     through. Two of them are invented by a generator and the fourth is computed from these:
+------------+--------+     each says so in a banner above the picture, in a faint pattern across it that cropping
|  picture   |  text  |     cannot remove, in Synthetic Data (0008,001C) and in the series' description.
|            |  bar   |
+------------+--------+
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.results import _codes as codes
from dicom_node.results._context import ResultContext, StudyContext
from dicom_node.results._encoding import compress
from dicom_node.results._header import DISCLAIMER, plain
from dicom_node.results._image import derivation, pixel_shape, secondary_capture
from dicom_node.results._legend import Sentence
from dicom_node.results._notes import which
from dicom_node.results._text import BACKGROUND, READABLE, TEXT, font, line_height, lines_of, write
from explain_core import display
from explain_core.explanation import Counterfactual, Explanation, HeatmapScale

LONG_EDGE = 1024
"""Of the picture, in pixels: the generators' images are enlarged to it."""

BANNER = "SYNTHETIC IMAGE - NOT A RADIOGRAPH OF THE PATIENT"
SERIES_DESCRIPTION = "SYNTHETIC - NOT FOR DIAGNOSIS"
_WATERMARK = "SYNTHETIC"
_WATERMARK_STRENGTH = 0.16
_WATERMARK_ANGLE = 30
_LEAST_SHARE = 40
_PANEL = 18
"""Width of the text beside the picture, in heights of the text: the lines break alike at every size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One of the four images.

    Attributes:
        role: "original", "similar", "adversarial" or "difference"; part of the SOP Instance UID.
        picture: uint8 sRGB, shape (rows, columns, 3), at the model's resolution.
        banner: what is said above the picture.
        text: sentences beside it.
        derivation: how it came to be, for Derivation Description.
        codes: the same for Derivation Code Sequence.
        synthetic: whether its content was made artificially.
    """

    role: str
    picture: NDArray[np.uint8]
    banner: Sentence
    text: tuple[Sentence, ...]
    derivation: str
    codes: tuple[Code, ...]
    synthetic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are in each of the images, in pixels.

    Attributes:
        rows, columns: the whole image.
        picture: left, top, right and bottom of the picture.
        bar: the same of the colour bar, which only the difference has.
        height: height of the text.
    """

    rows: int
    columns: int
    picture: tuple[int, int, int, int]
    bar: tuple[int, int, int, int]
    height: int


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
        place = layout(found, pixel_shape(image.header))
        scale = image.explanation.attribution.scale
        first = len(found) * (image.number - 1) + 1
        return tuple(self._one(image, frame, place, scale, first + position) for position, frame in enumerate(found))

    def _one(self, image: ResultContext, frame: Frame, place: Layout, scale: HeatmapScale, number: int) -> Dataset:
        pixels, compression = render(frame, place, scale), image.options.compression
        ds = secondary_capture(image, self.name, self.series, pixels, frame.role, compression)
        ds.InstanceNumber = number
        ds.SeriesDescription = plain(f"{SERIES_DESCRIPTION} - {image.method.replace('_', ' ')}")
        ds.SyntheticData = "YES" if frame.synthetic else "NO"
        ds.ImageComments = plain(". ".join(one.text for one in (frame.banner, *frame.text)), 1024)
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
        shown: which image of the study is explained, for the banners; "" where nothing tells it from others.

    Raises:
        ValueError: the method makes no synthetic images.
    """
    parts = _parts(explanation)
    if parts is None:
        raise ValueError("the method makes no synthetic images")
    seen, similar, adversarial = parts
    rows, columns = seen.shape
    rest = (
        Sentence(f"Model resolution {columns} x {rows} pixels, enlarged"),
        Sentence(DISCLAIMER, warning=True),
    )
    prediction, model = explanation.prediction, explanation.provenance.model
    asked = f"{plain(prediction.label)} {{:.1%}} (threshold {prediction.threshold:.1%})"
    by = plain(f"{model.name} {model.version}")
    kept = "decision kept" if explanation.similar_kept else "decision NOT kept"
    crossed = "decision changed" if explanation.decision_changed else "decision NOT changed"
    made = (
        Frame(
            role="original",
            picture=_grey(seen),
            banner=Sentence("COPY OF THE RADIOGRAPH AS THE MODEL SAW IT"),
            text=(Sentence(f"1 of 4, original: {asked.format(prediction.probability)}"), *rest),
            derivation=f"The source image at the model's resolution ({columns} x {rows} pixels), enlarged.",
            codes=(codes.SPATIAL_RESAMPLING,),
            synthetic=False,
        ),
        _generated(similar, 2, f"{asked.format(similar.probability)}, {kept}", by, rest),
        _generated(adversarial, 3, f"{asked.format(adversarial.probability)}, {crossed}", by, rest),
        _difference(similar, adversarial, explanation.attribution.scale, rest),
    )
    named = f". Image: {shown}" if shown else ""
    return tuple(replace(one, banner=replace(one.banner, text=f"{one.banner.text}{named}")) for one in made)


def layout(found: Sequence[Frame], pixel: tuple[float, float]) -> Layout:
    """One place for all: text of at least one 32nd of the height and a 40th of the long edge, and room for the longest.

    Args:
        found: the four images.
        pixel: height and width of a pixel of the source, in any unit; the picture has its true shape.
    """
    sides = [count * size for count, size in zip(found[0].picture.shape[:2], pixel, strict=True)]
    high, wide = (max(1, round(side * LONG_EDGE / max(sides))) for side in sides)
    height = LONG_EDGE // _LEAST_SHARE
    while True:
        margin, panel = height // 2, _PANEL * height
        above = max(len(lines_of((frame.banner,), height, wide + panel - 2 * margin)) for frame in found)
        top = above * line_height(height) + 2 * margin
        lines = max(len(lines_of(frame.text, height, panel - 2 * margin)) for frame in found)
        bottom = top + max(high, (lines + 4) * line_height(height))
        if bottom <= height * READABLE:
            break
        height += 1
    return Layout(
        rows=bottom,
        columns=wide + panel,
        picture=(0, top, wide, top + high),
        bar=(wide + margin, bottom - height - margin, wide + panel - margin, bottom - margin),
        height=height,
    )


def render(frame: Frame, place: Layout, scale: HeatmapScale) -> NDArray[np.uint8]:
    """The picture with its texts; uint8 sRGB, shape (rows, columns, 3) of `place`."""
    image = Image.new("RGB", (place.columns, place.rows), BACKGROUND)
    left, top, right, bottom = place.picture
    picture = Image.fromarray(frame.picture).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    if frame.synthetic:
        picture = _watermarked(picture, place.height)
    image.paste(picture, (left, top))
    margin = place.height // 2
    x, y, end, low = place.bar
    banner = lines_of((frame.banner,), place.height, place.columns - 2 * margin)
    write(image, banner, place.height, (margin, margin))
    write(image, lines_of(frame.text, place.height, end - x), place.height, (x, top))
    if frame.role == "difference":
        ramp = np.linspace(0, scale.full_scale, end - x, dtype=np.float32)[np.newaxis].repeat(low - y, axis=0)
        image.paste(Image.fromarray(_false_colour(ramp, scale)), (x, y))
        draw, chosen = ImageDraw.Draw(image), font(place.height)
        draw.text((x, y - margin), "0", fill=TEXT, font=chosen, anchor="ls")
        draw.text((end, y - margin), f"{scale.full_scale:.3g}", fill=TEXT, font=chosen, anchor="rs")
    return np.asarray(image)


def _parts(explanation: Explanation) -> tuple[NDArray[np.float32], Counterfactual, Counterfactual] | None:
    seen, similar, adversarial = explanation.seen, explanation.similar, explanation.adversarial
    return None if seen is None or similar is None or adversarial is None else (seen, similar, adversarial)


def _generated(image: Counterfactual, number: int, outcome: str, by: str, rest: tuple[Sentence, ...]) -> Frame:
    similar = image.role == "similar"
    purpose = "keep" if similar else "change"
    return Frame(
        role=image.role,
        picture=_grey(image.image),
        banner=Sentence(BANNER, warning=True),
        text=(
            Sentence(f"{number} of 4, {image.role}: {outcome}"),
            Sentence(f"Made by {by} to {purpose} the decision"),
            *rest,
        ),
        derivation=f"SYNTHETIC: made by a generator from the source image to {purpose} the decision. {outcome}.",
        codes=(codes.VISUAL_EXPLANATION, codes.SIMILAR_IMAGE if similar else codes.ADVERSARIAL_IMAGE),
        synthetic=True,
    )


def _difference(
    similar: Counterfactual, adversarial: Counterfactual, scale: HeatmapScale, rest: tuple[Sentence, ...]
) -> Frame:
    values = np.abs(similar.image - adversarial.image)
    outcome = f"similar {similar.probability:.1%}, adversarial {adversarial.probability:.1%}"
    return Frame(
        role="difference",
        picture=_false_colour(values, scale),
        banner=Sentence(BANNER, warning=True),
        text=(
            Sentence(f"4 of 4, |similar - adversarial|: {outcome}"),
            Sentence(
                f"Colour: |x_s - x_a| of this pair, from {scale.floor:.3g} on; not the heatmap, which is averaged"
            ),
            *rest,
        ),
        derivation=f"SYNTHETIC: |similar - adversarial| of two generated images in false colour. {outcome}.",
        codes=(codes.PIXEL_SUBTRACTION, codes.VISUAL_EXPLANATION),
        synthetic=True,
    )


def _grey(luminance: NDArray[np.float32]) -> NDArray[np.uint8]:
    levels = np.rint(np.clip(luminance, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., np.newaxis], 3, axis=2)


def _false_colour(values: NDArray[np.float32], scale: HeatmapScale) -> NDArray[np.uint8]:
    """The colours of the scale on black, and black up to its floor."""
    share = display.evidence(values, scale)
    colours = display.PALETTE[np.rint(share * (len(display.PALETTE) - 1)).astype(np.uint8)]
    return np.where(share[..., np.newaxis] > 0, colours, np.uint8(0))


def _watermarked(picture: Image.Image, height: int) -> Image.Image:
    """`picture` with the word across it, everywhere and faint: light on dark and dark on light."""
    ink = picture.convert("L").point([255 if level < 128 else 0 for level in range(256)])  # noqa: PLR2004 - middle grey
    marked = picture.copy()
    marked.paste(ink.convert("RGB"), (0, 0), _pattern(*picture.size, height))
    return marked


@lru_cache(maxsize=4)
def _pattern(wide: int, high: int, height: int) -> Image.Image:
    """How much ink the mark has where: the word over and over, turned, on `wide` x `high` pixels."""
    side = int(np.hypot(wide, high)) + 1
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    word = f"{_WATERMARK}     "
    step = int(font(height).getlength(word))
    for number, y in enumerate(range(0, side, 4 * height)):
        for x in range(-(number % 2) * step // 2, side, step):
            draw.text((x, y), word, fill=round(255 * _WATERMARK_STRENGTH), font=font(height), anchor="la")
    left, top = (side - wide) // 2, (side - high) // 2
    turned = mask.rotate(_WATERMARK_ANGLE, Image.Resampling.BILINEAR)
    return turned.crop((left, top, left + wide, top + high))


PLUGIN = SyntheticImages()
