"""Thorax: drawn chests whose class follows from heart, effusion and nodule, and from nothing else.

For what a phantom of opacities cannot show: whether an explanation names the factors that a class follows from, and
none of the others. `thorax?tag=95` marks a corner in step with the class in 95 of 100 images: a shortcut.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.datasets import drawing, shapes
from training.datasets.drawing import TAG
from training.datasets.samples import Dataset, Factor
from training.datasets.shapes import Field

FACTORS = (
    Factor("heart width", defining=True),
    Factor("effusion height", defining=True),
    Factor("nodule contrast", defining=True),
    Factor("exposure", defining=False),
    Factor("shift", defining=False),
    Factor("rotation", defining=False),
    Factor("body width", defining=False),
    TAG,
)


def draw(values: Mapping[str, float], size: int, generator: np.random.Generator) -> Field:
    """One chest; see `drawing.Draw`.

    Heart 0.10 to 0.22 of the side in radius; fluid from the base of the right lung up to 0.28 of the side; a nodule in
    the left upper lung of no contrast up to 0.4; a curve of 0.7 to 1.4 (gamma); moved by 0.04, turned by 0.08 (slope).
    """
    x, y = shapes.grid(size)
    tilt, shift = 0.08 * values["rotation"], 0.04 * values["shift"]
    u = ((x - 0.5 - shift) + tilt * (y - 0.5)).astype(np.float32)
    v = ((y - 0.5) - tilt * (x - 0.5)).astype(np.float32)
    body = shapes.step(shapes.ellipse(u, v, (0, 0.12), (0.43 + 0.04 * values["body width"], 0.72), 3.5), 0.03)
    image = 0.04 + body * np.float32(0.56)
    lungs = np.zeros_like(image)
    for side in (-1, 1):
        lung = shapes.step(shapes.ellipse(u, v, (side * 0.2, -0.03), (0.145, 0.33), 2.6), 0.035)
        base = shapes.step(v - np.float32(0.25) - 0.8 * (u - side * 0.2) ** 2, 0.04)
        lungs = np.maximum(lungs, lung * base)
    image -= lungs * np.float32(0.34)
    fluid = shapes.step(np.float32(0.27 - 0.14 * (1 + values["effusion height"])) - v, 0.03) * lungs * (u < 0)
    image += fluid * np.float32(0.3)
    heart = (0.16 + 0.06 * values["heart width"], 0.14)
    image += shapes.step(shapes.ellipse(u, v, (0.05, 0.13), heart), 0.04) * np.float32(0.2)
    image += np.exp(-((u / 0.055) ** 2)) * body * np.float32(0.12)
    place = (0.2 + generator.normal(0, 0.01), -0.17 + generator.normal(0, 0.01))
    nodule = np.exp(-(((u - place[0]) ** 2 + (v - place[1]) ** 2) / 0.055**2))
    image += nodule * np.float32(0.2 * (1 + values["nodule contrast"]))
    ribs = np.sin(2 * np.pi * (v - 0.9 * u**2 + generator.uniform(0, 0.08)) / 0.083)
    image += body * np.clip(ribs - 0.2, 0, 1) * np.float32(0.03)
    image += body * np.float32(0.015) * shapes.texture(size, 0.03, generator)
    curve = np.float32(np.exp(0.35 * values["exposure"]))
    image = np.clip(image, 0, 1) ** curve + generator.normal(0, 0.012, image.shape)
    if values[TAG.name] > 0:
        image = np.where(shapes.corner(size), 1.0, image)
    return image.astype(np.float32)


def read(
    folder: Path = Path(),  # noqa: ARG001 - a reader has one
    *,
    size: str = "32",
    train: str = "4000",
    validation: str = "500",
    test: str = "600",
    tag: str = "50",
) -> Dataset:
    """Draw a set; no folder is read.

    Args:
        folder: not used.
        size: rows and columns in pixels.
        train: how many images for training.
        validation: how many that choose.
        test: how many that are reported.
        tag: in how many of a hundred images the corner tag says the class; 50 says nothing.

    Raises:
        DatasetError: an option is not a number above 0, or the tag not one of 0 to 100.
    """
    options = {"size": size, "train": train, "validation": validation, "test": test, "tag": tag}
    return drawing.dataset(draw, FACTORS, ("normal", "abnormal"), options, "thorax")


PLUGIN = read
