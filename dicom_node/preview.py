"""PNG previews of result objects, for people without a viewer: pixels as stored, overlay planes drawn in."""

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset

OVERLAY_GROUP = 0x6000
_COLOUR = (255, 210, 0)


def save_png(dataset: Dataset, path: Path) -> bool:
    """Write `dataset`'s image as PNG; False (and no file) when it has no pixels, such as a structured report."""
    if "PixelData" not in dataset:
        return False
    pixels = np.asarray(dataset.pixel_array)
    if pixels.ndim == 2:  # noqa: PLR2004 - rows and columns, no colour
        top = (1 << int(dataset.BitsStored)) - 1
        pixels = np.repeat((pixels.astype(np.float32) * (255 / top)).astype(np.uint8)[..., None], 3, axis=2)
    if (OVERLAY_GROUP, 0x3000) in dataset:
        pixels = pixels.copy()
        pixels[np.asarray(dataset.overlay_array(OVERLAY_GROUP)) > 0] = _COLOUR
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return True
