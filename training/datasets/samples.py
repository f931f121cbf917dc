"""A labelled radiograph, a dataset of them, and the one split by patient."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from training.datasets.tables import Problem
from training.splits import TEST_FOLDS, VALIDATION_FOLDS

Box = tuple[float, float, float, float]
"""x, y, width, height as fractions of the image's width and height."""


SPLITS = ("train", "validation", "test")
"""From the least to the most held-out."""


SEXES = ("F", "M", "O")


OLDEST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled radiograph.

    Attributes:
        path: the image file; only a name where `pixels` is given.
        patient_id: who was imaged; no patient is in two parts of a split.
        fold: a ready-made fold by patient, or -1.
        split: "train", "validation", "test", or "" for neither.
        view: "PA", "AP" or "".
        target: index into the dataset's classes, None = none of them or not known.
        target_source: who said so, e.g. "expert" or "textmined".
        findings: further labels of the source, e.g. the NIH findings.
        boxes: opacity boxes.
        finding_boxes: boxes of other findings, by finding.
        visible: what there is to see of an image of which only a part is left, bool on its own grid; such an image
            keeps its grey values. None: all of it.
        mask: exact truth on the image's own grid, where a source has it.
        shape: rows and columns of the image in pixels, None = square.
        pixels: how to get the luminance, float32 in [0, 1], where there is no file.
        sex: "F", "M", "O" (other) or "" where it is not known.
        age: in years, None where it is not known.
        plain: whether grey values are taken as they are; else black and white are found by percentiles.
        factors: by what a drawn image was drawn, -1 to 1 each, in the order of the dataset's factors.
    """

    path: Path
    patient_id: str
    fold: int
    view: str
    target: int | None
    target_source: str
    split: str = ""
    findings: frozenset[str] = frozenset()
    boxes: tuple[Box, ...] = ()
    finding_boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict, hash=False)
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    shape: tuple[int, int] | None = None
    pixels: Callable[[], NDArray[np.float32]] | None = field(default=None, compare=False, repr=False)
    visible: Callable[[], NDArray[np.bool_]] | None = field(default=None, compare=False, repr=False)
    sex: str = ""
    age: float | None = None
    plain: bool = False
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Factor:
    """One thing that varies in drawn images.

    Attributes:
        name: for tables.
        defining: whether the class follows from it; the others are nuisances.
    """

    name: str
    defining: bool


Redraw = Callable[[str, Mapping[str, float]], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Sequence[Sample]):
    """The samples of one source, as a sequence, with its classes and what was wrong with it.

    Attributes:
        samples: every usable image, in the source's order.
        classes: names of the target's values.
        exclusive: True when exactly one of the classes holds (softmax over all of them); False when `classes` are
            the absence and the presence of one finding (one sigmoid).
        problems: every piece of bad input, in the order found.
        factors: what the images were drawn by, where a source knows.
        redraw: a drawn image by its patient, with some of its factors changed; None where images are not drawn.
        ready_made: whether the source states its split; False where it was drawn by the patients' names.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ("normal", "opacity")
    exclusive: bool = False
    problems: tuple[Problem, ...] = ()
    ready_made: bool = True
    factors: tuple[Factor, ...] = ()
    redraw: Redraw | None = None

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, split: str) -> tuple[Sample, ...]:
        """The samples of "train", "validation" or "test"."""
        return tuple(sample for sample in self.samples if sample.split == split)


def split_of_fold(fold: int) -> str:
    """The part of the one split that a ready-made fold belongs to; "" for a negative fold."""
    if fold < 0:
        return ""
    return "test" if fold in TEST_FOLDS else "validation" if fold in VALIDATION_FOLDS else "train"


def fold_of_split(split: str) -> int:
    """A fold that `split_of_fold` takes back to `split`, for sources with a split and no folds; -1 for no split."""
    folds = {"test": min(TEST_FOLDS), "validation": min(VALIDATION_FOLDS)}
    folds["train"] = max(TEST_FOLDS | VALIDATION_FOLDS) + 1
    return folds.get(split, -1)


def fold_of_patient(patient_id: str) -> int:
    """One of ten folds drawn from the patient's name alone, for sources without a split of their own."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8]) % 10
