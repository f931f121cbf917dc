"""Localisation controls on RSNA's boxes alone, without any image: the location prior and a perfect mask.

`python -m training controls ../shared/data/rsna_annotations --json FILE` reproduces the figures of that folder's
README: boxes in the 1024-pixel grid cut to whole pixels at 224 pixels, the tie rule of
explain_core/quality/localisation.py, positive test patients of the paper's split.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.localisation import PERCENTILES, centre_map, iou_at_percentiles, location_prior
from training.datasets.collecting import Collector
from training.datasets.masks import union_mask
from training.datasets.readers.rsna import SPLIT, annotations
from training.datasets.tables import DatasetError

SIZE = 224


def box_masks(folder: Path) -> dict[str, list[NDArray[np.bool_]]]:
    """Union masks of the positive patients, shape (224, 224), by split.

    Raises:
        DatasetError: the folder lacks stage_2_train_labels.csv or paper_split.csv, or one is malformed.
    """
    collector = Collector()
    masks: dict[str, list[NDArray[np.bool_]]] = {"train": [], "validation": [], "test": []}
    for patient in annotations(folder, collector):
        if patient.boxes:
            masks[patient.split].append(union_mask(patient.boxes, SIZE))
    if not (folder / SPLIT).is_file():
        raise DatasetError(f"{folder}: {SPLIT} is missing; give the folder of RSNA's annotations")
    return masks


def controls(folder: Path) -> dict[str, Any]:
    """IoU at percentiles 80 to 98 of every control, averaged over the positive test patients."""
    masks = box_masks(folder)
    truths = masks["test"]
    prior = location_prior(masks["train"])
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
