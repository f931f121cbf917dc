"""Radiographs of the RSNA challenge of which only the lungs are there: images/, labels.csv, boxes.csv, masks_320.zip.

labels.csv has the columns file, rsna_class, patient_id (of NIH ChestX-ray14), nih_match_mse and view; boxes.csv has
file, x, y, width, height in pixels of the original 1024 x 1024 image; masks_320.zip holds what is visible of each
image, by the image's name with the ending .png. Outside the lungs the images are of one grey.

The outline of what is visible leaks the label, for its maker dropped consolidated lung: these images teach where an
opacity lies, never whether there is one. Rows whose patient is not sure (nih_match_mse above 5) are left out.
"""

import io
import zipfile
from collections import defaultdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.datasets.collecting import Collector
from training.datasets.samples import Box, Dataset, Sample
from training.datasets.tables import DatasetError, Kind, table

ATTRIBUTION = """RSNA Pneumonia Detection Challenge 2018 (RSNA and the Society of Thoracic Radiology), any purpose with
  attribution: Shih G, et al. Radiology: Artificial Intelligence 2019;1(1):e180041; lungs only, masks made by a UNet."""
ORIGINAL_SIZE = 1024
CLASSES = ("normal", "opacity")
MASKS = "masks_320.zip"
SURE = 5.0
_CLASSES = {"Normal": 0, "Lung Opacity": 1, "No Lung Opacity / Not Normal": None}


def read(folder: Path) -> Dataset:
    """Read every image of a patient that is sure; all of them are for training.

    Raises:
        DatasetError: a table or the masks are missing, or a table is malformed.
    """
    collector = Collector()
    if not (folder / MASKS).is_file():
        raise DatasetError(f"{folder}: {MASKS} is missing; it says what is visible of each image")
    boxes = _boxes(folder / "boxes.csv", collector)
    rows = [
        row
        for row in table(folder / "labels.csv", ("file", "rsna_class", "patient_id", "nih_match_mse", "view"))
        if row.text("patient_id") and row.number("nih_match_mse") <= SURE
    ]
    headers = collector.headers(folder / "images" / row.text("file") for row in rows)
    samples = []
    for row in rows:
        path, named = folder / "images" / row.text("file"), row.text("rsna_class")
        if named not in _CLASSES:
            collector.note(Kind.LABEL_UNKNOWN, row.where, f"rsna_class={named}")
        elif path in headers:
            samples.append(
                Sample(
                    path=path,
                    patient_id=row.text("patient_id"),
                    fold=-1,
                    split="train",
                    view=row.text("view"),
                    target=_CLASSES[named],
                    target_source="expert",
                    boxes=tuple(boxes[row.text("file")]),
                    shape=headers[path].shape,
                    visible=partial(_visible, folder / MASKS, f"{path.stem}.png"),
                )
            )
    return collector.dataset(samples, CLASSES)


def _boxes(path: Path, collector: Collector) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = defaultdict(list)
    for row in table(path, ("file", "x", "y", "width", "height")):
        corners = (row.number("x"), row.number("y"), row.number("width"), row.number("height"))
        if (box := collector.box(row.where, corners, ORIGINAL_SIZE, ORIGINAL_SIZE)) is not None:
            found[row.text("file")].append(box)
    return found


@lru_cache(maxsize=1)
def _masks(archive: Path) -> zipfile.ZipFile:
    """Opened once: its list of ten thousand names takes longer to read than a mask."""
    return zipfile.ZipFile(archive)


def _visible(archive: Path, name: str) -> NDArray[np.bool_]:
    with Image.open(io.BytesIO(_masks(archive).read(name))) as image:
        return np.asarray(image.convert("L")) > 127  # noqa: PLR2004 - half of white


PLUGIN = read
