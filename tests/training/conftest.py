"""A bundle trained for seconds and a small folder of images laid out like the NIH subset."""

import csv

import numpy as np
import pytest
from PIL import Image
from retraining import few_films
from tiny_recipe import TINY

from training.bundle import bundle as make_bundle


@pytest.fixture(scope="session", autouse=True)
def _few_films():
    with few_films():
        yield


@pytest.fixture(scope="session")
def nih_folder(tmp_path_factory):
    """Forty images of twenty patients in folds 0 to 4, half with an opacity, its box drawn brighter."""
    folder = tmp_path_factory.mktemp("nih")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    labels, boxes = [], []
    for index in range(40):
        pixels = generator.integers(0, 120, (96, 96))
        positive = index % 2
        name = f"{index:08d}_000"
        if positive:
            pixels[30:60, 20:50] += 100
            boxes.append([f"{name}.png", "Lung Opacity", 20 * 1024 / 96, 320, 320, 320, "x"])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{name}.jpg")
        source = "expert" if index % 4 < 2 else "textmined"
        labels.append(
            [
                f"{name}.jpg",
                f"{name}.png",
                index // 2,
                "PA" if index % 3 else "AP",
                "Infiltration|Mass",
                positive if index < 38 else "",
                source,
                index // 2 % 5,
            ]
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["file", "nih_image", "patient_id", "view", "nih_labels", "y_opacity", "y_source", "patient_fold"]
        )
        writer.writerows(labels)
    with (folder / "boxes_rsna.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "finding", "x", "y", "w", "h", "patientId"])
        writer.writerows(boxes)
    return folder


@pytest.fixture(scope="session")
def recipe():
    """How large that bundle is."""
    return TINY


@pytest.fixture(scope="session")
def bundle(nih_folder, made_once):
    """What `python -m training bundle` makes of the small folder in seconds."""

    def fill(folder):
        make_bundle(folder / "toy", folder / "work", f"nih:{nih_folder}", recipe=TINY, name="toy", version="0.0.1")

    return made_once("bundle", fill) / "toy"
