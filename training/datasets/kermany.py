"""Kermany paediatric chest radiographs: labels.csv and images; pneumonia against normal."""

import csv
from pathlib import Path

from training.datasets import Sample


def read(folder: Path) -> list[Sample]:
    """Read the whole set; the official test part has fold 0, the rest fold 1.

    Raises:
        SystemExit: labels.csv is missing.
    """
    labels = folder / "labels.csv"
    if not labels.is_file():
        raise SystemExit(f"{folder}: labels.csv is missing")
    with labels.open(newline="") as file:
        return [
            Sample(
                path=folder / row["file"],
                patient_id=row["group"],
                fold=0 if row["official_split"] == "test" else 1,
                view="AP",
                target=int(row["label"] != "NORMAL"),
                target_source="kermany",
                findings=frozenset() if row["pathogen"] == "none" else frozenset({row["pathogen"]}),
            )
            for row in csv.DictReader(file)
        ]


PLUGIN = read
