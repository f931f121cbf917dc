"""Cells: drawn cells of two phenotypes, as fluorescence microscopy shows them; stands for data that are not at hand.

The phenotype follows from elongation and spots alone; size and texture vary as much and mean nothing.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.datasets import drawing, shapes
from training.datasets.samples import Dataset, Factor
from training.datasets.shapes import Field

FACTORS = (
    Factor("elongation", defining=True),
    Factor("spots", defining=True),
    Factor("size", defining=False),
    Factor("texture", defining=False),
    Factor("brightness", defining=False),
    Factor("direction", defining=False),
    Factor("place", defining=False),
)
_SPOTS = 8


def draw(values: Mapping[str, float], size: int, generator: np.random.Generator) -> Field:
    """One cell; see `drawing.Draw`.

    Of radius 0.2 to 0.3 of the side, its axes 1.1 to 2.2 to one, turned by up to 40 degrees, 0.05 to the left or right
    of the middle; up to eight spots of 0.025; a grain of up to 0.3.
    """
    x, y = shapes.grid(size)
    angle = np.deg2rad(40 * values["direction"])
    dx, dy = x - 0.5 - np.float32(0.05 * values["place"]), y - 0.5
    u = (dx * np.cos(angle) + dy * np.sin(angle)).astype(np.float32)
    v = (dy * np.cos(angle) - dx * np.sin(angle)).astype(np.float32)
    radius, ratio = 0.25 + 0.05 * values["size"], np.sqrt(1.65 + 0.55 * values["elongation"])
    cell = shapes.step(shapes.ellipse(u, v, (0, 0), (radius * ratio, radius / ratio)), 0.04)
    level = np.float32(0.4 + 0.1 * values["brightness"])
    grain = np.float32(0.15 * (1 + values["texture"])) * shapes.texture(size, 0.03, generator)
    image = 0.06 + cell * level * (1 + grain)
    places = generator.uniform(0, 1, (_SPOTS, 2))
    strengths = np.clip(0.5 * (1 + values["spots"]) * _SPOTS - np.arange(_SPOTS), 0, 1)
    for (far, turn), strength in zip(places, strengths, strict=True):
        a, b = 0.75 * np.sqrt(far) * np.cos(2 * np.pi * turn), 0.75 * np.sqrt(far) * np.sin(2 * np.pi * turn)
        away = (u - a * radius * ratio) ** 2 + (v - b * radius / ratio) ** 2
        image += np.float32(0.45 * strength) * np.exp(-away / 0.025**2)
    return (image + generator.normal(0, 0.012, image.shape)).astype(np.float32)


def read(
    folder: Path = Path(),  # noqa: ARG001 - a reader has one
    *,
    size: str = "32",
    train: str = "4000",
    validation: str = "500",
    test: str = "600",
) -> Dataset:
    """Draw a set; no folder is read.

    Args:
        folder: not used.
        size: rows and columns in pixels.
        train: how many images for training.
        validation: how many that choose.
        test: how many that are reported.

    Raises:
        DatasetError: an option is not a number above 0.
    """
    options = {"size": size, "train": train, "validation": validation, "test": test}
    return drawing.dataset(draw, FACTORS, ("untreated", "treated"), options, "cells")


PLUGIN = read
