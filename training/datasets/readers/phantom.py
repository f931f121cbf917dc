"""A chest phantom with exact lesion masks: drawn from a seed, nothing to download.

Every image shows a body outline, two lungs, mediastinum with heart, diaphragm, ribs, clavicles, texture, quantum
noise and sometimes a device (electrode, line), in varied pose and exposure. Half of the images have one to three
opacities. Their boxes follow the distribution of the RSNA Pneumonia Detection Challenge's boxes, as a Gaussian mixture
fitted to the training patients of the paper's split (phantom_boxes.json; RSNA and the Society of Thoracic Radiology,
Shih et al., Radiology: AI 2019;1(1):e180041). An opacity is an ellipse with an irregular edge inside its box; its mask
is where it adds more than half of its peak. Devices occur in both classes.

`python -m training.datasets.readers.phantom ../shared/data/rsna_annotations` fits the mixture again.
"""

import argparse
import csv
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets import drawing, shapes
from training.datasets.samples import Dataset, Sample, fold_of_split

Field = shapes.Field
Boxes = NDArray[np.float64]

PREVALENCE = 0.5
BOX_COUNTS = {1: 2103, 2: 2645, 3: 104}
"""Training patients with 1, 2 and 3 or more boxes."""
TABLE = Path(__file__).with_name("phantom_boxes.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """One drawn image.

    Attributes:
        pixels: luminance, float32 in [0, 1], shape (size, size).
        mask: bool, same shape: the exact opacities; all False for a normal image.
        drawn: the opacities' boxes: centre x, centre y, width, height as fractions of the side, shape (0 to 3, 4).
    """

    pixels: Field
    mask: NDArray[np.bool_]
    drawn: Boxes

    @property
    def boxes(self) -> int:
        """How many opacities."""
        return len(self.drawn)


@cache
def _mixtures() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return {
        name: {key: np.array(value) for key, value in part.items()} for name, part in table.items() if name != "source"
    }


def draw_boxes(generator: np.random.Generator) -> Boxes:
    """Boxes of one positive image: centre x, centre y, width, height as fractions of the side, shape (1 to 3, 4)."""
    counts = np.array(list(BOX_COUNTS.values()), np.float64)
    number = int(generator.choice(list(BOX_COUNTS), p=counts / counts.sum()))
    parts = {1: ["one"], 2: ["two"], 3: ["two", "one"]}[number]
    boxes = np.concatenate([_draw_mixture(_mixtures()[part], generator) for part in parts])
    boxes[:, 2:] = np.clip(boxes[:, 2:], 0.05, 0.8)
    half = boxes[:, 2:] / 2
    boxes[:, :2] = np.clip(boxes[:, :2], half, 1 - half)
    return boxes


def _draw_mixture(mixture: dict[str, NDArray[np.float64]], generator: np.random.Generator) -> Boxes:
    component = generator.choice(len(mixture["weights"]), p=mixture["weights"])
    drawn = generator.multivariate_normal(mixture["means"][component], mixture["covariances"][component])
    boxes: Boxes = drawn.reshape(-1, 4)
    boxes[:, 2:] = np.exp(boxes[:, 2:])
    return boxes


def draw(seed: int, size: int) -> PhantomImage:
    """Draw image number `seed`: the same for the same seed and size.

    Args:
        seed: of everything in the image; odd and even seeds do not differ in kind.
        size: rows and columns in pixels, at least 32.
    """
    generator = np.random.default_rng(seed)
    positive = bool(generator.random() < PREVALENCE)
    boxes = draw_boxes(generator) if positive else np.zeros((0, 4))
    x, y = shapes.grid(size)
    image = _chest(x, y, generator)
    mask = np.zeros((size, size), np.bool_)
    for box in boxes:
        alpha = _opacity(x, y, box, generator)
        image += alpha * np.float32(generator.uniform(0.10, 0.22)) * (1 + 0.4 * shapes.texture(size, 0.02, generator))
        mask |= alpha > 0.5  # noqa: PLR2004 - half of the peak
    if generator.random() < 0.3:  # noqa: PLR2004 - devices are independent of the class
        image = _device(image, x, y, generator)
    image = 0.5 + (image - 0.5) * np.float32(generator.uniform(0.85, 1.15)) + np.float32(generator.uniform(-0.06, 0.06))
    image += generator.normal(0, 0.012, image.shape).astype(np.float32)
    return PhantomImage(pixels=np.clip(image, 0, 1).astype(np.float32), mask=mask, drawn=boxes)


def read(
    folder: Path = Path(),  # noqa: ARG001 - a reader has one
    *,
    size: str = "112",
    train: str = "4000",
    validation: str = "500",
    test: str = "600",
    tag: str = "0",
) -> Dataset:
    """Draw a set; every image is a patient of its own and no folder is read.

    Args:
        folder: not used.
        size: rows and columns in pixels.
        train: how many images for training.
        validation: how many that choose.
        test: how many that are reported.
        tag: how many in a hundred of the images with an opacity bear a white square in a corner, and no other image: a
            mark of a place that gives the label away.

    Raises:
        DatasetError: an option is not a number above 0, or the tag not one of 0 to 100.
    """
    options = {"size": size, "train": train, "validation": validation, "test": test, "tag": tag}
    side, percent, splits = drawing.asked(options, "phantom")
    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(lambda seed: _tagged(draw(seed, side), seed, percent), range(len(splits))))
    samples = [
        Sample(
            path=Path(f"phantom-{seed}"),
            patient_id=f"phantom-{seed}",
            fold=fold_of_split(split),
            view="",
            target=int(image.boxes > 0),
            target_source="phantom",
            split=split,
            boxes=tuple((x - w / 2, y - h / 2, w, h) for x, y, w, h in image.drawn.tolist()),
            mask=image.mask,
            pixels=partial(drawing.same, image.pixels),
        )
        for seed, (split, image) in enumerate(zip(splits, drawn, strict=True))
    ]
    return Dataset(samples=tuple(samples), classes=("normal", "opacity"))


def _tagged(image: PhantomImage, seed: int, percent: int) -> PhantomImage:
    if not image.boxes or np.random.default_rng((seed, 1)).integers(100) >= percent:
        return image
    pixels = np.where(shapes.corner(len(image.pixels)), np.float32(1), image.pixels)
    return replace(image, pixels=pixels)


def _chest(x: Field, y: Field, generator: np.random.Generator) -> Field:
    """Body, lungs, heart, ribs and clavicles of a varied patient, without opacities."""
    size = len(x)
    shift_x, shift_y = generator.normal(0, 0.015, 2)
    zoom, tilt = generator.uniform(0.92, 1.08), generator.normal(0, 0.05)
    u = ((x - 0.5 - shift_x) / zoom + tilt * (y - 0.5)).astype(np.float32)
    v = ((y - 0.5 - shift_y) / zoom - tilt * (x - 0.5)).astype(np.float32)
    body = shapes.step(shapes.ellipse(u, v, (0, 0.12), (0.47, 0.72), 3.5), 0.03)
    image = 0.04 + body * np.float32(generator.uniform(0.52, 0.62))
    for side in (-1, 1):
        centre = (side * generator.normal(0.20, 0.008), generator.normal(-0.03, 0.012))
        radii = (generator.normal(0.145, 0.008), generator.normal(0.33, 0.015))
        lung = shapes.step(shapes.ellipse(u, v, centre, radii, 2.6), 0.035)
        diaphragm = shapes.step(v - np.float32(generator.normal(0.25, 0.015)) - 0.8 * (u - centre[0]) ** 2, 0.04)
        image -= lung * diaphragm * np.float32(generator.uniform(0.30, 0.38))
    heart = shapes.step(
        shapes.ellipse(u, v, (0.05, 0.13), (generator.normal(0.15, 0.012), generator.normal(0.14, 0.012))), 0.04
    )
    spine = np.exp(-((u / 0.055) ** 2)) * body
    image += heart * 0.16 + spine.astype(np.float32) * 0.12
    vessels = np.exp(-(((np.abs(u) - 0.10) / 0.05) ** 2) - ((v + 0.02) / 0.10) ** 2)
    image += vessels.astype(np.float32) * np.float32(generator.uniform(0.03, 0.08))
    phase, spacing = generator.uniform(0, 0.08), generator.uniform(0.075, 0.09)
    ribs = np.sin(2 * np.pi * (v - 0.9 * u**2 + phase) / spacing)
    image += body * np.clip(ribs - 0.2, 0, 1).astype(np.float32) * np.float32(generator.uniform(0.03, 0.06))
    clavicles = np.exp(-(((v + 0.30 + 0.25 * np.abs(u)) / 0.018) ** 2)) * (np.abs(u) < 0.36)  # noqa: PLR2004 - length
    image += clavicles.astype(np.float32) * 0.10
    image += body * (0.02 * shapes.texture(size, 0.03, generator) + 0.02 * shapes.texture(size, 0.12, generator))
    return image.astype(np.float32)


def _opacity(x: Field, y: Field, box: NDArray[np.float64], generator: np.random.Generator) -> Field:
    """An ellipse with an irregular soft edge that fills `box`, in [0, 1]."""
    distance = shapes.ellipse(x, y, (box[0], box[1]), (box[2] / 2, box[3] / 2))
    rough = np.clip(shapes.texture(len(x), 0.04, generator), -1.5, 1.5) * np.float32(0.10 * min(box[2], box[3]))
    return shapes.step((distance + rough + 0.01).astype(np.float32), 0.06)


def _device(image: Field, x: Field, y: Field, generator: np.random.Generator) -> Field:
    """The image with an electrode or a line."""
    if generator.random() < 0.5:  # noqa: PLR2004 - one kind or the other
        distance = np.hypot(x - generator.uniform(0.2, 0.8), y - generator.uniform(0.15, 0.6)) - 0.02
        return image + shapes.step(distance.astype(np.float32), 0.01) * np.float32(0.3)
    start, slope = generator.uniform(0.3, 0.7), generator.uniform(-0.4, 0.4)
    line = np.exp(-(((x - start - slope * (y - 0.2)) / 0.006) ** 2)) * (y < generator.uniform(0.4, 0.7))
    return image + line.astype(np.float32) * 0.25


def fit_boxes(folder: Path) -> dict[str, Any]:
    """Gaussian mixtures of the boxes of training patients with one box and with two (sorted from left to right)."""
    import sklearn.mixture  # noqa: PLC0415 - only where the table is made anew

    with (folder / "paper_split.csv").open(newline="") as file:
        training = {row["patientId"] for row in csv.DictReader(file) if row["split"] == "train"}
    boxes: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    with (folder / "stage_2_train_labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["Target"] == "1" and row["patientId"] in training:
                x, y, width, height = (float(row[key]) / 1024 for key in ("x", "y", "width", "height"))
                boxes[row["patientId"]].append((x + width / 2, y + height / 2, np.log(width), np.log(height)))
    table: dict[str, Any] = {"source": "RSNA Pneumonia Detection Challenge, training patients; Shih et al. 2019"}
    for name, number, components in (("one", 1, 2), ("two", 2, 4)):
        rows = np.array([sorted(value) for value in boxes.values() if len(value) == number]).reshape(-1, 4 * number)
        mixture: Any = sklearn.mixture
        mixture = mixture.GaussianMixture(components, random_state=0, n_init=2).fit(rows)
        table[name] = {
            "weights": mixture.weights_.round(5).tolist(),
            "means": mixture.means_.round(5).tolist(),
            "covariances": mixture.covariances_.round(6).tolist(),
        }
    return table


PLUGIN = read

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit the phantom's boxes to RSNA's.")
    parser.add_argument("folder", type=Path)
    TABLE.write_text(json.dumps(fit_boxes(parser.parse_args().folder)) + "\n")
