"""What a Display Shutter hides of an image (PS3.3 C.7.6.11): no viewer shows it, so no model may see it."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from dicom_node.dicom.elements import code_values, numbers

SHUTTER = (
    *("ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge"),
    *("ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter"),
    *("VerticesOfThePolygonalShutter", "ShutterPresentationValue"),
)
"""The attributes of the module."""
_EDGES = SHUTTER[1:5]
_LEAST_VERTICES = 3


def hidden(ds: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Which pixels lie behind the shutter: outside any of its shapes.

    Rows and columns are counted from 1, and the edges themselves are seen. A shape without usable numbers hides
    nothing.

    Args:
        ds: the header of an image.
        shape: its rows and columns.

    Returns:
        bool, of `shape`; None where nothing is hidden.
    """
    covered = np.zeros(shape, np.bool_)
    for seen in _shapes(ds, shape):
        covered |= ~seen
    return covered if covered.any() else None


def _shapes(ds: Dataset, shape: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
    """What each shape lets through."""
    rows, columns = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    named = code_values(ds, "ShutterShape")
    edges = [value for keyword in _EDGES for value in numbers(ds, keyword)[:1] if math.isfinite(value)]
    if "RECTANGULAR" in named and len(edges) == len(_EDGES):
        left, right, upper, lower = edges
        yield (rows >= upper) & (rows <= lower) & (columns >= left) & (columns <= right)
    centre, radius = numbers(ds, "CenterOfCircularShutter"), numbers(ds, "RadiusOfCircularShutter")
    if "CIRCULAR" in named and len(centre) == 2 and len(radius) == 1 and all(map(math.isfinite, (*centre, *radius))):  # noqa: PLR2004
        yield (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius[0] ** 2
    corners = numbers(ds, "VerticesOfThePolygonalShutter")
    if "POLYGONAL" in named and len(corners) >= 2 * _LEAST_VERTICES and all(map(math.isfinite, corners)):
        image = Image.new("1", (shape[1], shape[0]))
        vertices = [(column - 1, row - 1) for row, column in zip(corners[::2], corners[1::2], strict=False)]
        ImageDraw.Draw(image).polygon(vertices, fill=1, outline=1)
        yield np.asarray(image, np.bool_)
