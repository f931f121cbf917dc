"""The whole of NIH ChestX-ray14 as its makers publish it: 112,120 images of 30,805 patients.

The folder holds Data_Entry_2017_v2020.csv or Data_Entry_2017.csv, BBox_List_2017.csv where there are boxes, and the
images in images_001/images/ to images_012/images/ or all in images/. test_list.txt is not looked at: patients are in
the ten folds of the NIH subset, which follow from their numbers, so that no test patient of the one is learnt from in
the other. An image shows an opacity where its text-mined labels name Pneumonia, Infiltration, Consolidation or Edema,
none where they say No Finding, and is not labelled otherwise.

`nih14:FOLDER?rsna=FOLDER` puts the radiologists' classes and boxes of the RSNA challenge in the place of text-mined
labels, for the images that have them. That folder holds stage_2_train_labels.csv, stage_2_detailed_class_info.csv and
pneumonia-challenge-dataset-mappings_2018.json, which names each image's NIH file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.images import Header
from training.datasets.readers import rsna
from training.datasets.readers.nih import ATTRIBUTION as ATTRIBUTION  # noqa: PLC0414 - read by `datasets.attribution`
from training.datasets.readers.nih import CLASSES, FINDINGS, NO_FINDING, boxes_of, findings_of
from training.datasets.samples import Box, Dataset, Sample, split_of_fold
from training.datasets.tables import DatasetError, Kind, Row, table

ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
OPACITIES = frozenset({"Pneumonia", "Infiltration", "Consolidation", "Edema"})
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
_BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
_SEX = ("Patient Sex", "Patient Gender")
_AGE = re.compile(r"(\d+)([YMD]?)")  # 058Y, 009M and 013D in the first edition
_AGES = {"": 1, "Y": 1, "M": 12, "D": 365}
_FOLDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expert:
    """What the RSNA challenge says of one image: target (None: abnormal without an opacity) and opacity boxes."""

    target: int | None
    boxes: tuple[Box, ...]


def read(folder: Path, *, rsna: Path | None = None) -> Dataset:
    """Read every image.

    Args:
        folder: of the images and tables.
        rsna: a folder with the annotations of the RSNA challenge, None for none.

    Raises:
        DatasetError: a table is missing or malformed.
    """
    collector = Collector()
    entries = next((folder / name for name in ENTRIES if (folder / name).is_file()), folder / ENTRIES[0])
    hint = f"give a folder with {' or '.join(ENTRIES)} and the images"
    rows = collector.by_name(table(entries, _COLUMNS, hint), "Image Index")
    files = {path.name: path for path in sorted(folder.glob("images*/**/*.png"))}
    paths = {name: files.get(name, folder / "images" / name) for name in rows}
    boxes = boxes_of(folder / BOXES, rows, FINDINGS, collector, _BOX_COLUMNS)
    experts = _experts(rsna, collector) if rsna else {}
    headers = collector.headers(paths.values())
    samples = [
        _sample(paths[name], headers[paths[name]], row, boxes[name], experts.get(name), collector)
        for name, row in rows.items()
        if paths[name] in headers
    ]
    return collector.dataset(samples, CLASSES)


def fold_of(patient_id: str) -> int:
    """The patient's fold, 0 to 9, the same as in the NIH subset: the whole SHA-256 of the number, modulo ten."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()) % _FOLDS


def _sample(
    path: Path,
    header: Header,
    row: Row,
    boxes: Mapping[str, list[Box]],
    expert: _Expert | None,
    collector: Collector,
) -> Sample:
    findings = findings_of(row, "Finding Labels", collector)
    patient = str(row.integer("Patient ID"))
    if expert is None:
        clear = row.text("Finding Labels") == NO_FINDING
        target, by = 1 if findings & OPACITIES else 0 if clear else None, "textmined"
    else:
        target, by = expert.target, "expert"
    return Sample(
        path=path,
        patient_id=patient,
        fold=fold_of(patient),
        split=split_of_fold(fold_of(patient)),
        view=row.text("View Position"),
        target=target,
        target_source=by if target is not None else f"{by}_other",
        findings=findings,
        boxes=expert.boxes if expert is not None else (),
        finding_boxes={finding: tuple(marked) for finding, marked in boxes.items()},
        shape=header.shape,
        sex=collector.sex(row.where, next((row.text(name) for name in _SEX if row.text(name)), "")),
        age=collector.age(row.where, _years(row.text("Patient Age"))),
    )


def _years(text: str) -> str:
    """An age in years, months or days as years."""
    found = _AGE.fullmatch(text)
    return f"{int(found[1]) / _AGES[found[2]]:g}" if found else text


def _experts(folder: Path, collector: Collector) -> dict[str, _Expert]:
    """What radiologists said, by the NIH name of the image.

    Raises:
        DatasetError: a table is missing or malformed.
    """
    names = _names(folder / MAPPING)
    labels = rsna.labels_of(folder / rsna.LABELS, collector)
    classes = rsna.classes_of(folder / rsna.CLASS_INFO, collector)
    experts: dict[str, _Expert] = {}
    for patient, rows in labels.items():
        if patient not in names or not classes.get(patient):
            collector.note(Kind.IMAGE_UNLABELLED, rows[0].where, f"{patient}: no class, or no NIH name")
        else:
            target = rsna.TARGETS[classes[patient]]
            marked = rsna.boxes_of(rows, collector) if target == 1 else ()
            experts[names[patient]] = _Expert(target=target, boxes=marked)
    return experts


def _names(path: Path) -> dict[str, str]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {entry["subset_img_id"]: entry["img_id"] for entry in entries}
    except OSError as error:
        raise DatasetError(f"{path.parent}: {path.name} is missing; it names the NIH file of each image") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a list of subset_img_id and img_id") from error


PLUGIN = read
