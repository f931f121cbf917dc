"""What an image looked like to a model, in a few numbers, and what those numbers were in a model's validation images.

They are what drift is told by (docs/monitoring.md); nothing here loads PyTorch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = "reference.json"
OF_THE_IMAGE = ("mean", "contrast", "sharpness", "aspect")
OF_THE_MODEL = ("probability", "distance")
DECIMALS = 4


def image_statistics(seen: NDArray[np.floating], source_shape: tuple[int, int]) -> dict[str, float]:
    """Mean, contrast, sharpness and aspect of one image, rounded to 4 decimals.

    Args:
        seen: the image as the model saw it without padding, luminance 0 to 1, shape (rows, columns).
        source_shape: rows and columns of the source in pixels.

    Returns:
        "mean" and "contrast": mean and standard deviation of the luminance; "sharpness": mean length of its gradient,
        per pixel of the model's grid; "aspect": columns / rows of the source.
    """
    values = np.asarray(seen, np.float64)
    down, across = (np.diff(values, axis=axis, append=np.take(values, [-1], axis=axis)) for axis in (0, 1))
    rows, columns = source_shape
    found = {
        "mean": values.mean(),
        "contrast": values.std(),
        "sharpness": np.hypot(down, across).mean(),
        "aspect": columns / rows,
    }
    return {name: round(float(value), DECIMALS) for name, value in found.items()}


def reference_of(statistics: Mapping[str, NDArray[np.floating]]) -> dict[str, Any]:
    """The content of reference.json.

    Args:
        statistics: the values of each statistic by its name, one for each validation image, in any order. The names
            are those of `image_statistics`, "probability" (f(x)) and, where the model judges it, "distance" (the score
            of `outlier.py`).

    Returns:
        {"images": N, "statistics": {name: [N sorted values, 4 decimals]}}.

    Raises:
        ValueError: the statistics are not of the same images, of none, or not finite.
    """
    table = {name: np.sort(np.asarray(row, np.float64)) for name, row in statistics.items()}
    lengths = {len(row) for row in table.values()}
    if len(lengths) != 1 or not max(lengths):
        raise ValueError("every statistic has one value for each image, and there is at least one image")
    if not all(np.isfinite(row).all() for row in table.values()):
        raise ValueError("a statistic is not finite")
    rounded = {name: [round(float(value), DECIMALS) for value in row] for name, row in table.items()}
    return {"images": max(lengths), "statistics": rounded}


def load_reference(path: Path) -> dict[str, Any]:
    """Read reference.json of a bundle whose checksums have been verified; see `reference_of`.

    Raises:
        ValueError, KeyError, TypeError: it holds something else.
    """
    content = json.loads(path.read_text())
    reference = reference_of({name: np.asarray(row, np.float64) for name, row in dict(content["statistics"]).items()})
    if reference["images"] != content["images"]:
        raise ValueError(f"{REFERENCE} says {content['images']} images and has values of {reference['images']}")
    return reference
