"""Any folder of radiographs (PNG, JPEG, DICOM) with labels.csv and, where there are boxes, boxes.csv.

labels.csv, one row per image:

    file         path of the image in the folder; .dcm is read as DICOM, anything else as a picture
    patient_id   who was imaged; the split never divides a patient
    target       a class by name or number, blank = not known; the classes are normal (0) and opacity (1) unless
                 the dataset is given as `folder:DIR?classes=normal,bacterial,viral`
    split        optional: train, validation (or val) or test, blank = not used
    fold         optional: a whole number; without `split`, folds become splits by `training.splits`
    target_source optional: who said so, e.g. csv or verdict
    view         optional: PA or AP; for DICOM the file's own View Position where it is blank
    sex          optional: F, M or O, blank = not known
    age          optional: in years, blank = not known

Without `split` and `fold`, patients are split by their name: 20 % test, 10 % validation.

boxes.csv, one row per opacity box, in pixels of that file from its upper left corner: file, x, y, width, height.
"""

from dataclasses import replace
from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.images import Header
from training.datasets.samples import Box, Dataset, Sample, fold_of_patient, fold_of_split, split_of_fold
from training.datasets.tables import DatasetError, Kind, Row, table

_SPLITS = {"": "", "train": "train", "val": "validation", "validation": "validation", "test": "test"}
_BINARY = 2


def read(folder: Path, *, classes: str = "normal,opacity") -> Dataset:
    """Read the folder; three classes or more are exclusive.

    Args:
        folder: holds the images, labels.csv and perhaps boxes.csv.
        classes: the classes' names, joined by commas, in the order of their numbers.

    Raises:
        DatasetError: a table is missing or malformed, or no row has a known target though some have one.
    """
    collector = Collector()
    names = tuple(name.strip() for name in classes.split(","))
    if len(names) < _BINARY or "" in names or len(set(names)) != len(names):
        raise DatasetError(f"{folder}: classes={classes}: give two or more different names, joined by commas")
    rows: dict[str, Row] = {}
    for row in table(folder / "labels.csv", ("file", "patient_id", "target")):
        first = rows.setdefault(row.text("file"), row)
        if first is not row:
            collector.note(Kind.DUPLICATE_ROW, row.where, f"{row.text('file')}, first in line {first.line}")
    headers = collector.headers(folder / name for name in rows)
    boxes = _boxes(folder, rows, headers, collector)
    samples = [
        _sample(folder / name, row, headers[folder / name], names, boxes.get(name, []), collector)
        for name, row in rows.items()
        if folder / name in headers
    ]
    if samples and all(s.target is None for s in samples) and any(row.text("target") for row in rows.values()):
        raise DatasetError(
            f"{folder / 'labels.csv'}, column target: no value is one of {', '.join(names)} or its number; "
            f"name the classes as folder:{folder}?classes=NAME,NAME"
        )
    stated = any(column in row.cells for row in rows.values() for column in ("split", "fold"))
    return replace(collector.dataset(samples, names, exclusive=len(names) > _BINARY), ready_made=stated)


def _sample(
    path: Path, row: Row, header: Header, classes: tuple[str, ...], boxes: list[Box], collector: Collector
) -> Sample:
    split, fold = _split(row, collector)
    return Sample(
        path=path,
        patient_id=row.text("patient_id"),
        fold=fold,
        split=split,
        view=row.text("view").upper() or header.view,
        target=_target(row, classes, collector),
        target_source=row.text("target_source") or "folder",
        boxes=tuple(boxes),
        shape=header.shape,
        sex=collector.sex(row.where, row.text("sex")),
        age=collector.age(row.where, row.text("age")),
    )


def _target(row: Row, classes: tuple[str, ...], collector: Collector) -> int | None:
    text = row.text("target")
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    if text:
        collector.note(Kind.LABEL_UNKNOWN, row.where, f"target={text}, known are {', '.join(classes)}")
    return None


def _split(row: Row, collector: Collector) -> tuple[str, int]:
    """Split and fold of a row, each from the other where only one is given."""
    has_fold = bool(row.text("fold"))
    if "split" not in row.cells:
        fold = row.integer("fold") if has_fold else fold_of_patient(row.text("patient_id"))
        return split_of_fold(fold), fold
    if row.text("split") not in _SPLITS:
        collector.note(Kind.SPLIT_UNKNOWN, row.where, f"split={row.text('split')}")
    split = _SPLITS.get(row.text("split"), "")
    return split, row.integer("fold") if has_fold else fold_of_split(split)


def _boxes(
    folder: Path, rows: dict[str, Row], headers: dict[Path, Header], collector: Collector
) -> dict[str, list[Box]]:
    """Boxes by file name; there are none without boxes.csv."""
    boxes: dict[str, list[Box]] = {}
    seen = set()
    path = folder / "boxes.csv"
    for row in table(path, ("file", "x", "y", "width", "height")) if path.is_file() else ():
        name = row.text("file")
        corners = (row.number("x"), row.number("y"), row.number("width"), row.number("height"))
        if (name, corners) in seen:
            collector.note(Kind.DUPLICATE_ROW, row.where, f"box of {name}")
            continue
        seen.add((name, corners))
        if name not in rows:
            collector.note(Kind.BOX_UNMATCHED, row.where, name)
        elif folder / name in headers:
            height, width = headers[folder / name].shape
            if (box := collector.box(row.where, corners, width, height)) is not None:
                boxes.setdefault(name, []).append(box)
    return boxes


PLUGIN = read
