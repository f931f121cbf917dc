"""What the dashboard shows of an explained image: pictures for a browser and the figures beside them, in one file.

A ZIP archive without compression, of
    view.json        the decision, the figures and the outlines; names no patient, but shows an image of one
    radiograph.jpg   the radiograph in its true shape
    heatmap.png      the layer that lies over it: a colour and, as its opacity, how far above the scale's floor
    seen.jpg         the radiograph as the model saw it; the grid of the three that follow
    similar.jpg, adversarial.jpg, difference.png   of methods that generate them, the first two with a word across them
It is made once for an image and a method, whatever destinations get, and read by the role `web` alone.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node.results import notes
from dicom_node.results.context import ResultContext
from dicom_node.results.image import pixel_shape
from dicom_node.results.legend import glance, quality, scale
from dicom_node.results.notes import which
from dicom_node.results.objects.secondary_capture import picture_shape
from dicom_node.results.regions import contours, first_line
from dicom_node.results.watermark import watermarked
from explain_core import display

ABOUT: Final = "view.json"
LONG_EDGE: Final = 1024
"""Longest side of the radiograph, in pixels of the browser."""
GAIN: Final = 4
"""The difference of two generated images is shown so many times as strong."""
_QUALITY: Final = 90
_LETTERS: Final = 36
"""So many times the height of a letter across a synthetic image fits into its longest side."""


def render(image: ResultContext) -> bytes:
    """The view of one image explained by one method.

    Args:
        image: the image; its options are not looked at.
    """
    shape = image.radiograph.pixels.shape
    shown = picture_shape((shape[0], shape[1]), LONG_EDGE, pixel_shape(image.header))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _pictures(image, shown):
            archive.writestr(name, content)
        archive.writestr(ABOUT, json.dumps(_about(image, shown)))
    return packed.getvalue()


def _pictures(image: ResultContext, shown: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    explanation, attribution = image.explanation, image.explanation.attribution
    yield "radiograph.jpg", _grey(display.resize(image.radiograph.pixels, shown))
    share = display.evidence(display.resize(attribution.painted, shown), attribution.scale)
    colour = display.PALETTE[np.rint(share * (len(display.PALETTE) - 1)).astype(np.uint8)]
    yield "heatmap.png", _encoded(np.dstack([colour, _byte(share)]), "PNG")
    generated = {one.role: one.image for one in (explanation.similar, explanation.adversarial) if one is not None}
    if explanation.seen is not None and generated:
        yield "seen.jpg", _grey(explanation.seen)
    for role, pixels in generated.items():
        grey = Image.fromarray(_byte(display.resize(pixels, shown)))
        yield f"{role}.jpg", _encoded(np.asarray(watermarked(grey, max(shown) // _LETTERS).convert("RGB")), "JPEG")
    if len(generated) == 2:  # noqa: PLR2004 - both
        change = generated["adversarial"] - generated["similar"]
        yield "difference.png", _encoded(_byte(0.5 + GAIN / 2 * change), "PNG")


def _about(image: ResultContext, shown: tuple[int, int]) -> dict[str, Any]:
    explanation = image.explanation
    prediction, model, attribution = explanation.prediction, explanation.provenance.model, explanation.attribution
    rows, columns = attribution.values.shape
    said = [glance(prediction).text, *(one.text for one in quality(explanation))]
    return {
        "sop_instance_uid": image.source.sop_instance_uid,
        "which": which(image.header),
        "method": explanation.provenance.method,
        "model": {"name": model.name, "version": model.version, "digest": model.digest},
        "label": prediction.label,
        "probability": prediction.probability,
        "threshold": prediction.threshold,
        "positive": prediction.positive,
        "near_threshold": prediction.near_threshold,
        "line": first_line(image).text,
        "said": said,
        "scale": scale(attribution.scale),
        "warnings": [
            *notes.warnings_of(prediction, explanation.out_of_distribution),
            *notes.doubts_of(explanation),
            *(one for one in [notes.emptiness(explanation)] if one),
        ],
        "limits": [*notes.limits_of(image.header, image.image.greys)],
        "size": [shown[1], shown[0]],
        "outlines": [
            [[round(float(x) / columns, 4), round(float(y) / rows, 4)] for x, y in line]
            for line in contours(explanation)
        ],
    }


def _grey(luminance: NDArray[np.float32]) -> bytes:
    return _encoded(_byte(luminance), "JPEG")


def _byte(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)


def _encoded(pixels: NDArray[np.uint8], form: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, quality=_QUALITY, compress_level=1)
    return out.getvalue()
