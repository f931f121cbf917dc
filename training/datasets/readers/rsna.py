"""RSNA Pneumonia Detection Challenge 2018, stage 2, in the challenge's own folder.

stage_2_train_labels.csv (patientId, x, y, width, height, Target; one row per box, in pixels of the 1024 x 1024 image),
stage_2_detailed_class_info.csv (patientId, class; when present, only Normal and Lung Opacity are used) and
stage_2_train_images/<patientId>.dcm. Shih et al., Radiology: Artificial Intelligence 2019;1(1):e180041.

The split is a CSV file with the columns patientId and split (train, val, test): `paper_split.csv` in the folder, or
`rsna:FOLDER?split=FILE`; patients it does not name are left out. Without one, patients are split by their name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.samples import SPLITS, Box, Dataset, Sample, fold_of_patient, fold_of_split, split_of_fold
from training.datasets.tables import DatasetError, Kind, Row, table

ATTRIBUTION = """RSNA Pneumonia Detection Challenge 2018 (RSNA and the Society of Thoracic Radiology), any purpose with
  attribution: Shih G, et al. Radiology: Artificial Intelligence 2019;1(1):e180041. The images are of NIH ChestX-ray14:
  Wang X, et al. ChestX-ray8. CVPR 2017, 3462-3471."""
ORIGINAL_SIZE = 1024
CLASSES = ("normal", "opacity")
LABELS = "stage_2_train_labels.csv"
CLASS_INFO = "stage_2_detailed_class_info.csv"
SPLIT = "paper_split.csv"
IMAGES = "stage_2_train_images"
TARGETS: dict[str, int | None] = {"Normal": 0, "Lung Opacity": 1, "No Lung Opacity / Not Normal": None}
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What the tables say of one patient, who has one image: class, split and boxes."""

    patient_id: str
    target: int | None
    split: str
    boxes: tuple[Box, ...]


def read(folder: Path, *, split: Path | None = None) -> Dataset:
    """Read the images of all patients in use.

    Args:
        folder: the challenge's folder.
        split: a split file, in the folder or elsewhere, to use in place of the folder's `paper_split.csv`.

    Raises:
        DatasetError: a table is missing or malformed, or there is no folder of images.
    """
    collector = Collector()
    patients = annotations(folder, collector, split=split)
    if not (folder / IMAGES).is_dir():
        raise DatasetError(f"{folder}: {IMAGES} is missing; the tables alone serve only `training controls`")
    paths = {patient.patient_id: folder / IMAGES / f"{patient.patient_id}.dcm" for patient in patients}
    headers = collector.headers(paths.values())
    samples = [
        Sample(
            path=path,
            patient_id=patient.patient_id,
            fold=fold_of_split(patient.split),
            split=patient.split,
            view=headers[path].view,
            target=patient.target,
            target_source="expert",
            boxes=patient.boxes,
            shape=headers[path].shape,
        )
        for patient in patients
        if (path := paths[patient.patient_id]) in headers
    ]
    return collector.dataset(samples, CLASSES)


def annotations(folder: Path, collector: Collector, *, split: Path | None = None) -> list[Annotation]:
    """Class, split and boxes of the patients in use, in the order of the labels; no image is looked at.

    Raises:
        DatasetError: a table is missing or malformed.
    """
    rows = labels_of(folder / LABELS, collector)
    targets = _targets(rows, folder / CLASS_INFO, collector)
    splits = _splits(folder, split, rows, collector)
    chosen = [patient for patient in rows if patient in targets and patient in splits]
    if len(chosen) < len(rows):
        left_out = f"{len(rows) - len(chosen)} of {len(rows)} patients: neither Normal nor Lung Opacity, or in no split"
        collector.note(Kind.NOT_USED, LABELS, left_out)
    return [
        Annotation(
            patient_id=patient,
            target=targets[patient],
            split=splits[patient],
            boxes=boxes_of(rows[patient], collector) if targets[patient] == 1 else (),
        )
        for patient in chosen
    ]


def labels_of(path: Path, collector: Collector) -> dict[str, list[Row]]:
    """The rows of each patient, without repeated ones."""
    rows: dict[str, list[Row]] = {}
    seen = set()
    columns = ("patientId", "x", "y", "width", "height", "Target")
    for row in table(path, columns, "give the folder of RSNA's annotations"):
        cells = tuple(row.cells.values())
        if cells in seen:
            collector.note(Kind.DUPLICATE_ROW, row.where, f"patient {row.text('patientId')}")
            continue
        seen.add(cells)
        rows.setdefault(row.text("patientId"), []).append(row)
    return rows


def _targets(rows: dict[str, list[Row]], class_info: Path, collector: Collector) -> dict[str, int | None]:
    """0, 1 or None (not known) of each patient, without those that are neither normal nor an opacity."""
    detailed = classes_of(class_info, collector) if class_info.is_file() else None
    targets: dict[str, int | None] = {}
    for patient, entries in rows.items():
        where, said = entries[0].where, {row.text("Target") for row in entries}
        target = int(said.pop()) if said in ({"0"}, {"1"}) else None
        name = detailed.get(patient, "") if detailed is not None else None
        if target is None or name == "":
            collector.note(Kind.LABEL_UNKNOWN, where, f"Target or class of patient {patient}")
            targets[patient] = None
        elif name is not None and target != (TARGETS[name] or 0):
            collector.note(Kind.LABEL_CONTRADICTED, where, f"Target {target}, but {class_info.name} says {name}")
            targets[patient] = None
        elif name is None or TARGETS[name] is not None:
            targets[patient] = target
    return targets


def classes_of(path: Path, collector: Collector) -> dict[str, str]:
    """The class of each patient, "" for one with two classes; the file repeats a class for every box."""
    classes: dict[str, str] = {}
    for row in table(path, ("patientId", "class")):
        patient, name = row.text("patientId"), row.text("class")
        if name not in TARGETS:
            collector.note(Kind.LABEL_UNKNOWN, row.where, f"class={name}")
        elif classes.setdefault(patient, name) != name:
            collector.note(Kind.LABEL_CONTRADICTED, row.where, f"{name}, an earlier row says {classes[patient]}")
            classes[patient] = ""
    return classes


def _splits(folder: Path, given: Path | None, patients: Iterable[str], collector: Collector) -> dict[str, str]:
    """The split of each patient that the split file names."""
    path = folder / (given or SPLIT)
    if given and not path.is_file():
        path = given
    if not given and not path.is_file():
        return {patient: split_of_fold(fold_of_patient(patient)) for patient in patients}
    splits: dict[str, str] = {}
    known = set(patients)
    for row in table(path, ("patientId", "split"), "give the split file as rsna:FOLDER?split=FILE"):
        patient, split = row.text("patientId"), _SPLITS.get(row.text("split"))
        if split is None:
            collector.note(Kind.SPLIT_UNKNOWN, row.where, f"split={row.text('split')}")
        elif patient not in known:
            collector.note(Kind.IMAGE_UNLABELLED, row.where, patient)
        elif splits.get(patient) == split:
            collector.note(Kind.DUPLICATE_ROW, row.where, f"patient {patient}")
        else:
            if patient in splits:
                collector.note(Kind.PATIENT_IN_TWO_SPLITS, f"patient {patient}", f"{splits[patient]} and {split}")
            splits[patient] = max(split, splits.get(patient, split), key=SPLITS.index)
    return splits


def boxes_of(rows: list[Row], collector: Collector) -> tuple[Box, ...]:
    """The boxes of one patient's rows."""
    boxes = []
    for row in rows:
        corners = (row.number("x"), row.number("y"), row.number("width"), row.number("height"))
        box = collector.box(row.where, corners, ORIGINAL_SIZE, ORIGINAL_SIZE)
        if box is not None:
            boxes.append(box)
    return tuple(boxes)


PLUGIN = read
