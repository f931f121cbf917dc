"""Localisation controls on RSNA's boxes alone, without any image: the location prior and a perfect mask.

`python -m training controls ../shared/data/rsna_annotations --json FILE` reproduces the figures of that folder's
README: boxes in the 1024-pixel grid cut to whole pixels at 224 pixels, the tie rule of
explain_core/quality/localisation.py, positive test patients of the paper's split.
"""

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.localisation import PERCENTILES, centre_map, iou_at_percentiles, location_prior

ORIGINAL_SIZE, SIZE = 1024, 224


def box_masks(folder: Path) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Union masks of the positive patients, shape (224, 224), by split and patient.

    Raises:
        SystemExit: the folder lacks stage_2_train_labels.csv or paper_split.csv.
    """
    for name in ("stage_2_train_labels.csv", "paper_split.csv"):
        if not (folder / name).is_file():
            raise SystemExit(f"{folder}: {name} is missing; give the folder of RSNA's annotations")
    with (folder / "paper_split.csv").open(newline="") as file:
        split = {row["patientId"]: row["split"] for row in csv.DictReader(file)}
    masks: dict[str, dict[str, NDArray[np.bool_]]] = defaultdict(dict)
    with (folder / "stage_2_train_labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            patient = row["patientId"]
            if row["Target"] != "1" or patient not in split:
                continue
            mask = masks[split[patient]].setdefault(patient, np.zeros((SIZE, SIZE), np.bool_))
            scale = SIZE / ORIGINAL_SIZE
            x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
            mask[int(y * scale) : int((y + height) * scale), int(x * scale) : int((x + width) * scale)] = True
    return masks


def controls(folder: Path) -> dict[str, Any]:
    """IoU at percentiles 80 to 98 of every control, averaged over the positive test patients."""
    masks = box_masks(folder)
    truths = list(masks["test"].values())
    prior = location_prior(list(masks["train"].values()))
    random = np.random.default_rng(0)
    maps: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.float64]]] = {
        "location_prior": lambda _: prior,
        "perfect_mask": lambda truth: truth.astype(np.float64),
        "centre": lambda _: centre_map(SIZE),
        "random": lambda _: random.random((SIZE, SIZE)),
    }
    rows = {
        name: np.mean([iou_at_percentiles(make(truth), truth) for truth in truths], axis=0)
        for name, make in maps.items()
    }
    return {
        "positive_test_patients": len(truths),
        "percentiles": list(PERCENTILES),
        "iou": {name: [float(v) for v in row] for name, row in rows.items()},
    }
