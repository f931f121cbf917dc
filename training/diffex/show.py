"""Attributes as pictures: images morphed along each, with the classifier's score, and where they change."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explain_core.diffex.attributes import Attribute, Attributes
from explain_core.diffex.ranking import Prepared, changed
from explain_core.diffex.subject import Subject
from training.cohort import Cohort
from training.datasets.samples import Factor
from training.datasets.shapes import corner

Pixels = NDArray[np.uint8]
PARTS = (-0.5, 0.0, 0.5, 1.0, 1.5)
"""Of the whole change, shown from left to right."""
FULL = 0.3
"""Change of luminance that has the full colour."""
BRIGHTER, DARKER = (0.85, 0.35, 0.05), (0.10, 0.35, 0.80)
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True, slots=True)
class Strip:
    """One image along one attribute.

    Attributes:
        frames: uint8, shape (len(PARTS), S, S).
        scores: probability of the answer in each.
        change: from the image to the whole change, in colours, uint8, shape (S, S, 3).
    """

    frames: Pixels
    scores: tuple[float, ...]
    change: Pixels


def strips(found: Attributes, subject: Subject, attribute: Attribute, given: Prepared) -> list[Strip]:
    """Each of the prepared images along an attribute."""
    frames = [changed(found.model, given, attribute.step(found.bank, given.codes, part), found.how) for part in PARTS]
    scores = [subject.probability(subject.logits(one), attribute.question) for one in frames]
    start, end = PARTS.index(0.0), PARTS.index(1.0)
    return [
        Strip(
            np.stack([_grey(one[row, 0]) for one in frames]),
            tuple(float(one[row]) for one in scores),
            coloured((frames[end] - frames[start])[row, 0].cpu().numpy()),
        )
        for row in range(len(given.codes))
    ]


def _grey(plane: Tensor) -> Pixels:
    return np.asarray(np.rint(plane.cpu().numpy() * 255), np.uint8)


def coloured(change: NDArray[np.floating]) -> Pixels:
    """A signed change of luminance, shape (S, S), on white: brighter in orange, darker in blue; (S, S, 3)."""
    strength = np.clip(np.abs(change) / FULL, 0, 1)[..., None]
    colour = np.where(change[..., None] > 0, BRIGHTER, DARKER)
    return np.asarray(np.rint((1 - strength + strength * colour) * 255), np.uint8)


def place(picture: NDArray[np.floating]) -> str:
    """The ninth of the image that a mean change, shape (S, S), is strongest in, as it is seen: e.g. "lower left"."""
    if not np.any(picture):
        return "nowhere"
    bands = [np.array_split(band, 3, axis=1) for band in np.array_split(np.square(picture), 3)]
    strengths = np.array([[part.mean() for part in band] for band in bands])
    row, column = np.unravel_index(int(strengths.argmax()), strengths.shape)
    return f"{_ROWS[int(row)]} {_COLUMNS[int(column)]}"


def covariates(images: Cohort, factors: tuple[Factor, ...] = ()) -> Mapping[str, NDArray[np.float64]]:
    """What is known of images or can be measured, shape (N,) each, NaN where it is not known."""
    planes = images.images[:, 0].numpy().astype(np.float64) / 255
    found = {
        "brightness": planes.mean(axis=(1, 2)),
        "contrast": planes.std(axis=(1, 2)),
        "brightness of the corners": np.mean([planes[:, m].mean(axis=1) for m in _corners(images.size)], axis=0),
        "view AP": np.array([{"AP": 1.0, "PA": 0.0}.get(view, np.nan) for view in images.views]),
        "sex M": np.array([{"M": 1.0, "F": 0.0}.get(sex, np.nan) for sex in images.sexes]),
        "age": images.ages,
        "label": np.where(images.targets >= 0, images.targets, np.nan).astype(np.float64),
    }
    found |= {factor.name: images.factors[:, number].astype(np.float64) for number, factor in enumerate(factors)}
    return {name: values for name, values in found.items() if len(np.unique(values[np.isfinite(values)])) > 1}


def _corners(size: int) -> list[NDArray[np.bool_]]:
    mask = corner(size)
    return [mask, mask[:, ::-1], mask[::-1], mask[::-1, ::-1]]
