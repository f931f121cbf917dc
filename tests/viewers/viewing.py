"""Screenshots as pixels."""

import io

import numpy as np
from PIL import Image


def pixels_of(png: bytes) -> np.ndarray:
    """A PNG as uint8 RGB, shape (rows, columns, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
