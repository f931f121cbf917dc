"""Labelled images in memory, split by patient: what training runs and the benchmark work on."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.geometry import InputSpec
from training.datasets import loading, masks
from training.datasets.samples import Dataset
from training.datasets.tables import Problem

TRAIN, VALIDATION, TEST = "train", "validation", "test"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Images on a model's grid with what is known of them.

    Attributes:
        images: uint8 (0 to 255), shape (N, 1, S, S).
        targets: class index, -1 where none is known, int64, shape (N,).
        truths: union mask of the lesions, shape (S, S), or None where nobody marked any.
        boxes: how many lesions were marked, shape (N,).
        views: "PA", "AP" or "".
        patients: who was imaged.
        splits: TRAIN, VALIDATION or TEST for each image; one patient is in one split.
        classes: names of the classes.
        exclusive: whether exactly one class holds (softmax) or the one output is a finding (sigmoid).
        sexes: "F", "M", "O" or "".
        ages: in years, NaN where it is not known, shape (N,).
        names: of the image files, to show a case by.
        sources: who said the class, e.g. "expert".
        shapes: rows and columns of the source images in pixels.
        factors: by what the images were drawn, float32, shape (N, F); F is 0 where nobody knows.

    What is left out of the last six is not known of any image: "", NaN, square, and no factor.
    """

    images: Tensor
    targets: NDArray[np.int64]
    truths: tuple[Mask | None, ...]
    boxes: NDArray[np.int64]
    views: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    exclusive: bool = False
    sexes: tuple[str, ...] = ()
    ages: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()
    factors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        count = len(self.images)
        defaults = {"sexes": ("",), "names": ("",), "sources": ("",), "shapes": ((self.size, self.size),)}
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value * count)
        if not len(self.ages):
            object.__setattr__(self, "ages", np.full(count, np.nan))
        if not len(self.factors):
            object.__setattr__(self, "factors", np.zeros((count, 0), np.float32))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Rows and columns of the images in pixels."""
        return int(self.images.shape[-1])

    @property
    def outputs(self) -> int:
        """Logits that a classifier of these classes has: one for a finding, else one a class."""
        return len(self.classes) if self.exclusive else 1

    def take(self, index: NDArray[np.integer]) -> "Cohort":
        """The images at `index`, shape (M,), in that order."""
        chosen = index.tolist()
        found: dict[str, Any] = {"images": self.images[torch.from_numpy(np.asarray(index, np.int64))]}
        for name in ("targets", "boxes", "ages", "factors"):
            found[name] = getattr(self, name)[index]
        for name in ("truths", "views", "patients", "splits", "sexes", "names", "sources", "shapes"):
            values = getattr(self, name)
            found[name] = tuple(values[place] for place in chosen)
        return replace(self, **found)

    def part(self, split: str) -> "Cohort":
        """The images of one split."""
        return self.take(np.flatnonzero(np.array(self.splits) == split))

    def labelled(self) -> "Cohort":
        """The images whose class is known."""
        return self.take(np.flatnonzero(self.targets >= 0))


def load(dataset: Dataset, spec: InputSpec) -> tuple[Cohort, tuple[Problem, ...]]:
    """Decode every image of a dataset.

    Args:
        dataset: what a reader returned.
        spec: the model's grid.

    Returns:
        the images that belong to a split, and every problem of the dataset, with those that decoding found.
    """
    usable, images = loading.load_all(dataset, spec)
    kept = [index for index, sample in enumerate(usable.samples) if sample.split]
    samples = [usable.samples[index] for index in kept]
    truths = [masks.truth_mask(sample, spec.size) for sample in samples]
    cohort = Cohort(
        images=images[kept],
        targets=np.array([-1 if sample.target is None else sample.target for sample in samples], np.int64),
        truths=tuple(truth if truth.any() else None for truth in truths),
        boxes=np.array([len(sample.boxes) for sample in samples], np.int64),
        views=tuple(sample.view for sample in samples),
        patients=tuple(sample.patient_id for sample in samples),
        splits=tuple(sample.split for sample in samples),
        classes=usable.classes,
        exclusive=usable.exclusive,
        sexes=tuple(sample.sex for sample in samples),
        ages=np.array([np.nan if sample.age is None else sample.age for sample in samples], np.float64),
        names=tuple(sample.path.name for sample in samples),
        sources=tuple(sample.target_source for sample in samples),
        shapes=tuple(sample.shape or (spec.size, spec.size) for sample in samples),
        factors=np.array([sample.factors for sample in samples], np.float32).reshape(len(samples), len(usable.factors)),
    )
    return cohort, usable.problems
