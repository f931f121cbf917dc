"""Kermany paediatric chest radiographs: labels.csv and images; normal, bacterial and viral pneumonia.

labels.csv has the columns file, official_split (train, val, test), label (NORMAL, PNEUMONIA), pathogen (none,
bacteria, virus) and group (the patient, by file name). Kermany et al., Mendeley Data 2018, doi:10.17632/rscbjbr9sj.2.
The official validation part holds 16 images and no virus; a tenth of the training groups, drawn by name, joins it.
Groups whose number occurs in two parts of the official split are moved as a whole to the more held-out part.
"""

from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.samples import SPLITS, Dataset, Sample, fold_of_patient, fold_of_split
from training.datasets.tables import Kind, Row, table

ATTRIBUTION = """Kermany D, Zhang K, Goldbaum M. Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for
  Classification. Mendeley Data 2018, doi:10.17632/rscbjbr9sj.2, CC BY 4.0 (children)."""
CLASSES = ("normal", "bacterial", "viral")
_TARGETS = {("NORMAL", "none"): 0, ("PNEUMONIA", "bacteria"): 1, ("PNEUMONIA", "virus"): 2}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read(folder: Path) -> Dataset:
    """Read the whole set.

    Raises:
        DatasetError: labels.csv is missing or malformed.
    """
    collector = Collector()
    columns = ("file", "official_split", "label", "pathogen", "group")
    rows = collector.by_name(table(folder / "labels.csv", columns), "file")
    headers = collector.headers(folder / name for name in rows)
    samples = []
    for name, row in rows.items():
        if folder / name in headers:
            samples.append(_sample(folder / name, headers[folder / name].shape, row, collector))
    return collector.dataset(samples, CLASSES, exclusive=True)


def _sample(path: Path, shape: tuple[int, int], row: Row, collector: Collector) -> Sample:
    label, pathogen = row.text("label"), row.text("pathogen")
    target = _TARGETS.get((label, pathogen))
    if target is None:
        collector.note(Kind.LABEL_UNKNOWN, row.where, f"label={label} pathogen={pathogen}")
    split = _SPLITS.get(row.text("official_split"), "")
    if split not in SPLITS:
        collector.note(Kind.SPLIT_UNKNOWN, row.where, f"official_split={row.text('official_split')}")
    if split == "train" and fold_of_patient(row.text("group")) == 0:
        split = "validation"
    return Sample(
        path=path,
        patient_id=row.text("group"),
        fold=fold_of_split(split),
        split=split,
        view="AP",
        target=target,
        target_source="kermany",
        findings=frozenset() if pathogen == "none" else frozenset({pathogen}),
        shape=shape,
    )


PLUGIN = read
