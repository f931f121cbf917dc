"""An untrained bundle and a small folder of images laid out like the NIH subset."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0
from explain_core.generators.similar_adversarial import SimilarAdversarial
from training.datasets.nih import FINDINGS
from training.export import export
from training.runs.generators import GeneratorSettings


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A classifier run and a generators run with random weights, as the training runs leave them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    torch.save(EfficientNetLite0(1 + len(FINDINGS)).state_dict(), folder / "classifier.pt")
    (folder / "classifier.json").write_text(json.dumps({"settings": {"seed": 0}, "history": []}))
    generators = SimilarAdversarial([4, 8], output="identity", decisions=2)
    for head in (generators.similar, *generators.adversarial):
        torch.nn.init.normal_(head[-1].weight, std=0.05)
    torch.save({"generators": generators.state_dict()}, folder / "checkpoint.pt")
    settings = GeneratorSettings(filters=(4, 8))
    (folder / "history.jsonl").write_text('{"step": 1}\n')
    (folder / "generators.json").write_text(json.dumps(asdict(settings)))
    return folder


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
def bundle(runs, nih_folder, tmp_path_factory):
    """The bundle exported from the two runs, calibrated on the small folder."""
    folder = tmp_path_factory.mktemp("bundle") / "toy"
    export(runs, runs, f"nih:{nih_folder}", "toy", "0.0.1", folder)
    return folder
