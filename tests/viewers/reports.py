"""Read a structured report with nothing but pydicom."""

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset


def items(node: Dataset) -> Iterator[Dataset]:
    """Every content item below a node, from top to bottom."""
    for child in node.get("ContentSequence", ()):
        yield child
        yield from items(child)


def numbers(sr: Dataset, name: str) -> list[float]:
    """The values of that name, in their order."""
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(sr)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == name
    ]


def regions(sr: Dataset) -> list[np.ndarray]:
    """Every region, (n, 2) as (x, y)."""
    return [np.array(item.GraphicData, float).reshape(-1, 2) for item in items(sr) if item.ValueType == "SCOORD"]


def frames_and_contours(sr: Dataset, shape: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The rectangles around a whole image of `shape` (rows, columns), and all other regions."""
    whole = [np.ptp(one, axis=0).tolist() == [shape[1], shape[0]] for one in regions(sr)]
    return tuple(
        [one for one, is_whole in zip(regions(sr), whole, strict=True) if is_whole == wanted]
        for wanted in (True, False)
    )
