"""Images drawn by known factors: what a drawing function needs to become a dataset.

Every factor is drawn evenly from -1 to 1, each on its own; the class is whether those that define it add up to more
than 0. What is no factor (noise, ribs) comes from the image's number. One factor changed and the number kept is the
image's true counterfactual.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.samples import SPLITS, Dataset, Factor, Sample, fold_of_split
from training.datasets.shapes import Field
from training.datasets.tables import DatasetError

Draw = Callable[[Mapping[str, float], int, np.random.Generator], Field]
"""Factors, rows and columns in pixels, and of the rest: luminance in [0, 1], float32, shape (size, size)."""
TAG = Factor("corner tag", defining=False)


def image(draw: Draw, values: Mapping[str, float], seed: int, size: int) -> Field:
    """Image number `seed` with these factors: the same for the same arguments."""
    return np.clip(draw(values, size, np.random.default_rng((seed, 1))), 0, 1).astype(np.float32)


def factors_of(factors: Sequence[Factor], seed: int, tag: int) -> tuple[dict[str, float], int]:
    """The factors of image number `seed`, and its class.

    Args:
        factors: all of them; a corner tag is there (1) or not (-1).
        seed: the number.
        tag: in how many of a hundred images the tag says the class; 50 says nothing.
    """
    generator = np.random.default_rng((seed, 0))
    drawn: NDArray[np.float64] = generator.uniform(-1, 1, len(factors))
    values = {factor.name: float(value) for factor, value in zip(factors, drawn, strict=True)}
    target = int(sum(values[factor.name] for factor in factors if factor.defining) > 0)
    if TAG in factors:
        agrees = values[TAG.name] < tag / 50 - 1
        values[TAG.name] = 1.0 if agrees == bool(target) else -1.0
    return values, target


def asked(options: Mapping[str, str], name: str) -> tuple[int, int, list[str]]:
    """Size in pixels, tag in percent (50 where there is none), and the split of each image, of a reader's options.

    Raises:
        DatasetError: an option is not a number above 0, or the tag not one of 0 to 100.
    """
    tag = options.get("tag", "50")
    if not tag.isdigit() or int(tag) > 100:  # noqa: PLR2004 - percent
        raise DatasetError(f"{name}?tag={tag}: give a whole number of 0 to 100")
    for option, value in options.items():
        if option != "tag" and (not value.isdigit() or not int(value)):
            raise DatasetError(f"{name}?{option}={value}: give a whole number above 0")
    splits = [split for split in SPLITS for _ in range(int(options[split]))]
    return int(options["size"]), int(tag), splits


def dataset(
    draw: Draw, factors: Sequence[Factor], classes: tuple[str, str], options: Mapping[str, str], name: str
) -> Dataset:
    """A set of drawn images; every image is a patient of its own.

    Args:
        draw: how one is drawn.
        factors: by what.
        classes: of factors that add up to 0 or less, and to more.
        options: size in pixels, and how many images for train, validation and test; perhaps tag, in percent.
        name: of the reader, for messages and patients.

    Raises:
        DatasetError: an option is not a number above 0, or the tag not one of 0 to 100.
    """
    size, tag, splits = asked(options, name)
    known = [factors_of(factors, seed, tag) for seed in range(len(splits))]
    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(lambda seed: image(draw, known[seed][0], seed, size), range(len(splits))))
    samples = [
        Sample(
            path=Path(f"{name}-{seed}"),
            patient_id=f"{name}-{seed}",
            fold=fold_of_split(split),
            view="",
            target=known[seed][1],
            target_source="phantom",
            split=split,
            pixels=partial(same, drawn[seed]),
            factors=tuple(known[seed][0].values()),
        )
        for seed, split in enumerate(splits)
    ]
    seeds = {sample.patient_id: seed for seed, sample in enumerate(samples)}

    def redraw(patient: str, changes: Mapping[str, float]) -> Sample:
        seed = seeds[patient]
        values = {**known[seed][0], **changes}
        pixels = image(draw, values, seed, size)
        return replace(samples[seed], pixels=partial(same, pixels), factors=tuple(values.values()))

    return Dataset(samples=tuple(samples), classes=classes, factors=tuple(factors), redraw=redraw)


def same(pixels: Field) -> Field:
    """What is drawn already, for `Sample.pixels`, which may travel to another process."""
    return pixels
