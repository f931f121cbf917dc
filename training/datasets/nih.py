"""NIH ChestX-ray14 subset: images/, labels.csv, boxes_rsna.csv; boxes are in the original 1024-pixel grid."""

import csv
from collections import defaultdict
from pathlib import Path

from training.datasets import Sample

ORIGINAL_SIZE = 1024
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)


def read(folder: Path) -> list[Sample]:
    """Read the subset; blank `y_opacity` becomes target None.

    Raises:
        SystemExit: labels.csv is missing.
    """
    labels = folder / "labels.csv"
    if not labels.is_file():
        raise SystemExit(f"{folder}: labels.csv is missing; give a folder with images/, labels.csv and boxes_rsna.csv")
    boxes = _boxes(folder / "boxes_rsna.csv")
    with labels.open(newline="") as file:
        return [
            Sample(
                path=folder / "images" / row["file"],
                patient_id=row["patient_id"],
                fold=int(row["patient_fold"]),
                view=row["view"],
                target=int(float(row["y_opacity"])) if row["y_opacity"] else None,
                target_source=row["y_source"],
                findings=frozenset(row["nih_labels"].split("|")) & frozenset(FINDINGS),
                boxes=tuple(boxes.get(row["nih_image"], ())),
            )
            for row in csv.DictReader(file)
        ]


def _boxes(path: Path) -> dict[str, list[tuple[float, float, float, float]]]:
    boxes: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                x, y, width, height = (float(row[key]) / ORIGINAL_SIZE for key in ("x", "y", "w", "h"))
                boxes[row["image"]].append((x, y, width, height))
    return boxes


PLUGIN = read
