"""Boxes and truths on the model's grid."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from explain_core.geometry import Preprocessing
from training.datasets.samples import Box, Sample


def box_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """The union of a sample's opacity boxes on the model's square grid, shape (size, size); see `union_mask`."""
    return union_mask(sample.boxes, size, sample.shape)


def union_mask(boxes: Iterable[Box], size: int, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """The union of boxes on the model's square grid, shape (size, size); boxes are cut to whole pixels.

    An image that is not square is padded to a square as `Preprocessing` pads it.

    Args:
        boxes: fractions of the image's width and height.
        size: rows and columns of the grid.
        shape: rows and columns of the image, None = square.
    """
    mask = np.zeros((size, size), np.bool_)
    left, top, width, height = _place(shape)
    for x, y, across, down in boxes:
        first_column, first_row = int((left + x * width) * size), int((top + y * height) * size)
        last_column = int((left + (x + across) * width) * size)
        last_row = int((top + (y + down) * height) * size)
        mask[first_row:last_row, first_column:last_column] = True
    return mask


def _place(shape: tuple[int, int] | None) -> Box:
    """Where an image lies in its padded square: left, top, width, height as fractions of the side."""
    if shape is None or shape[0] == shape[1]:
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = shape
    side = max(shape)
    return (side - columns) // 2 / side, (side - rows) // 2 / side, columns / side, rows / side


def truth_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """Where the opacities are, shape (size, size): the exact mask where the source has one, else the boxes' union."""
    if sample.mask is None:
        return box_mask(sample, size)
    if sample.mask.shape == (size, size):
        return sample.mask
    recorded = Preprocessing(source_shape=sample.mask.shape, size=size, low=0.0, high=1.0)
    covered: NDArray[np.bool_] = recorded.apply(sample.mask.astype(np.float32)) >= 0.5  # noqa: PLR2004 - half a pixel
    return covered
