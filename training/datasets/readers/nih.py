"""NIH ChestX-ray14 subset: images/, labels.csv, boxes_rsna.csv and boxes_nih.csv.

labels.csv has the columns file, nih_image, patient_id, view, nih_labels (joined by |), y_opacity (1, 0 or blank),
y_source and patient_fold, and perhaps sex (F or M) and age in years. Both box files have the columns image, finding, x,
y, w, h in pixels of the original 1024 x 1024 image: boxes_rsna.csv holds the radiologists' opacity boxes,
boxes_nih.csv boxes of eight findings.
"""

from collections import defaultdict
from collections.abc import Container
from pathlib import Path

from training.datasets.collecting import Collector
from training.datasets.samples import Box, Dataset, Sample, split_of_fold
from training.datasets.tables import Kind, Row, table

ATTRIBUTION = """NIH ChestX-ray14: provided by the NIH Clinical Center, no restriction on use;
  https://nihcc.app.box.com/v/ChestXray-NIHCC. Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8.
  CVPR 2017, 3462-3471. Opacity labels and boxes: RSNA Pneumonia Detection Challenge (RSNA and the Society of Thoracic
  Radiology), any purpose with attribution: Shih G, et al. Radiology: Artificial Intelligence 2019;1(1):e180041."""
ORIGINAL_SIZE = 1024
CLASSES = ("normal", "opacity")
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
OPACITY, NO_FINDING = "Lung Opacity", "No Finding"
_ALIASES = {"Infiltrate": "Infiltration"}  # the box file's own word for the label
_TARGETS = {"": None, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
_LABEL_COLUMNS = ("file", "nih_image", "patient_id", "view", "nih_labels", "y_opacity", "y_source", "patient_fold")

Boxes = dict[str, dict[str, list[Box]]]


def read(folder: Path) -> Dataset:
    """Read the subset; blank `y_opacity` becomes target None, folds become splits by `training.splits`.

    Raises:
        DatasetError: labels.csv is missing, or a table is malformed.
    """
    collector = Collector()
    hint = "give a folder with images/, labels.csv and boxes_rsna.csv"
    rows = collector.by_name(table(folder / "labels.csv", _LABEL_COLUMNS, hint), "nih_image")
    opacities = boxes_of(folder / "boxes_rsna.csv", rows, (OPACITY,), collector)
    others = boxes_of(folder / "boxes_nih.csv", rows, FINDINGS, collector)
    headers = collector.headers(folder / "images" / row.text("file") for row in rows.values())
    samples = []
    for name, row in rows.items():
        path = folder / "images" / row.text("file")
        if path in headers:
            samples.append(_sample(path, headers[path].shape, row, opacities[name], others[name], collector))
    return collector.dataset(samples, CLASSES)


def _sample(
    path: Path,
    shape: tuple[int, int],
    row: Row,
    opacities: dict[str, list[Box]],
    others: dict[str, list[Box]],
    collector: Collector,
) -> Sample:
    if row.text("y_opacity") not in _TARGETS:
        collector.note(Kind.LABEL_UNKNOWN, row.where, f"y_opacity={row.text('y_opacity')}")
    findings = findings_of(row, "nih_labels", collector)
    fold = row.integer("patient_fold")
    return Sample(
        path=path,
        patient_id=row.text("patient_id"),
        fold=fold,
        split=split_of_fold(fold),
        view=row.text("view"),
        target=_TARGETS.get(row.text("y_opacity")),
        target_source=row.text("y_source"),
        findings=findings,
        boxes=tuple(opacities.get(OPACITY, ())),
        finding_boxes={finding: tuple(boxes) for finding, boxes in others.items()},
        shape=shape,
        sex=collector.sex(row.where, row.text("sex")),
        age=collector.age(row.where, row.text("age")),
    )


def findings_of(row: Row, column: str, collector: Collector) -> frozenset[str]:
    """The findings of a cell that joins them by |; any that is not known is recorded."""
    findings = frozenset(row.text(column).split("|"))
    for finding in sorted(findings - {*FINDINGS, NO_FINDING, ""}):
        collector.note(Kind.LABEL_UNKNOWN, row.where, f"{column} has {finding}")
    return findings & frozenset(FINDINGS)


def boxes_of(
    path: Path,
    images: Container[str],
    known: tuple[str, ...],
    collector: Collector,
    columns: tuple[str, str, str, str, str, str] = ("image", "finding", "x", "y", "w", "h"),
) -> Boxes:
    """Boxes by image and finding of a table in pixels of the original images; a file that is absent holds none."""
    boxes: Boxes = defaultdict(lambda: defaultdict(list))
    seen = set()
    for row in table(path, columns) if path.is_file() else ():
        image, named = row.text(columns[0]), row.text(columns[1])
        finding = _ALIASES.get(named, named)
        x, y, width, height = columns[2:]
        corners = (row.number(x), row.number(y), row.number(width), row.number(height))
        if (image, finding, corners) in seen:
            collector.note(Kind.DUPLICATE_ROW, row.where, f"{finding} of {image}")
            continue
        seen.add((image, finding, corners))
        if image not in images:
            collector.note(Kind.BOX_UNMATCHED, row.where, image)
        elif finding not in known:
            collector.note(Kind.LABEL_UNKNOWN, row.where, f"finding={finding}")
        elif (box := collector.box(row.where, corners, ORIGINAL_SIZE, ORIGINAL_SIZE)) is not None:
            boxes[image][finding].append(box)
    return boxes


PLUGIN = read
