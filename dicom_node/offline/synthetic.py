"""A folder of `python -m training synthesize` -> DICOM files that nobody can take for radiographs of a patient.

Each image is a Secondary Capture (PS3.3 A.8.1) of a patient of its own who is called SYNTHETIC, with Synthetic Data
(0008,001C) YES, Conversion Type SYN, the word across the picture, and what it was made to show. Modality OT keeps it
from being analysed. The same folder gives the same bytes under the same UIDs.
"""

import csv
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
from highdicom import ContributingEquipment
from highdicom.sc import ConversionTypeValues, SCImage
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset
from pydicom.uid import UID

from dicom_node.errors import DatasetUnreadable
from dicom_node.results import codes
from dicom_node.results.watermark import watermarked

SOURCE = "synthetic"
COLUMNS = ("file", "patient_id", "target", "target_source")
LONG_EDGE = 512
"""Smaller images are enlarged to at least this, so that the mark can be read."""
LETTERS = 18
_ROOT = uuid.UUID("6a2f3c1e-5d0b-5f0e-9f57-0b1f7c3f5b21")
_WANTED = "name a folder of `python -m training synthesize`"
_SAID = {"1": "presence", "0": "absence"}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: DICOM files by what they were made to show."""

    present: int
    absent: int


def write_dicom(folder: Path, out: Path, finding: str = "opacity") -> Written:
    """Write every image of a synthetic dataset to `out`, with a labels.csv that names the DICOM files.

    Args:
        folder: labels.csv and images, as `python -m training synthesize` leaves them.
        out: a new folder.
        finding: what the images were made to show.

    Raises:
        DatasetUnreadable: no such dataset, an image that cannot be read or was not made artificially, or a folder that
            is there already; nothing is written then.
    """
    if out.exists():
        raise DatasetUnreadable(f"{out} is there already; name a new folder")
    rows = _rows(folder)
    made = [(row, _dataset(folder, row, number, finding)) for number, row in enumerate(rows, start=1)]
    out.mkdir(parents=True)
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, ds in made:
            name = f"{Path(row['file']).stem}.dcm"
            ds.save_as(out / name, enforce_file_format=True)
            writer.writerow([name, row["patient_id"], row["target"], SOURCE])
    return Written(*(sum(row["target"] == target for row, _ in made) for target in ("1", "0")))


def _rows(folder: Path) -> list[dict[str, str]]:
    table = folder / "labels.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetUnreadable(f"{table} cannot be read; {_WANTED}") from error
    if not rows:
        raise DatasetUnreadable(f"{table} names no image")
    for line, row in enumerate(rows, start=2):
        if missing := [name for name in COLUMNS if row.get(name) is None]:
            raise DatasetUnreadable(f"{table}:{line}: no {missing[0]}; {_WANTED}")
        if row["target_source"] != SOURCE:
            raise DatasetUnreadable(f"{table}:{line}: {row['file']} was not made artificially and may not be called so")
        if row["target"] not in _SAID:
            raise DatasetUnreadable(f"{table}:{line}: the target is 0 or 1, not {row['target']!r}")
    return rows


def _dataset(folder: Path, row: Mapping[str, str], number: int, finding: str) -> Dataset:
    path = (folder / row["file"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DatasetUnreadable(f"{row['file']} lies outside of {folder}")
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetUnreadable(f"{path} is no image that can be read: {error}") from error
    factor = max(1, -(-LONG_EDGE // max(picture.size)))
    enlarged = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(watermarked(enlarged, LETTERS).convert("L"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    uids = _uids(row["patient_id"], digest)
    said = f"Made to show the {_SAID[row['target']]} of {finding}"
    version = metadata.version("dicom-explanation-node")
    ds: Dataset = SCImage(
        pixel_array=pixels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=next(uids),
        series_instance_uid=next(uids),
        series_number=1,
        sop_instance_uid=next(uids),
        instance_number=1,
        manufacturer="DICOM explanation node",
        patient_id=row["patient_id"][:64],
        patient_name=f"SYNTHETIC^{number:05d}",
        patient_orientation=("L", "F"),
        contributing_equipment=[
            ContributingEquipment(
                manufacturer="DICOM explanation node",
                purpose_of_reference=codes.SYNTHESIZING_EQUIPMENT,
                software_versions=version,
            )
        ],
    )
    ds.Modality = "OT"
    ds.ConversionType = ConversionTypeValues.SYN.value
    ds.ImageType = ["DERIVED", "SECONDARY", "SYNTHETIC"]
    ds.SyntheticData = "YES"
    ds.BodyPartExamined = "CHEST"
    ds.BurnedInAnnotation = "YES"
    ds.StudyDescription = "SYNTHETIC - no patient was imaged"
    ds.SeriesDescription = "SYNTHETIC - NOT FOR DIAGNOSIS"
    ds.ImageComments = f"SYNTHETIC IMAGE - NOT A RADIOGRAPH. {said} by a joint diffusion model."
    ds.DerivationDescription = f"SYNTHETIC: sampled from noise. {said}; the model's own head agrees."
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    for keyword in ("Study", "Content", "InstanceCreation"):
        setattr(ds, f"{keyword}Date", when.strftime("%Y%m%d"))
        setattr(ds, f"{keyword}Time", when.strftime("%H%M%S"))
    for item in ds.ContributingEquipmentSequence:
        item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S+0000")
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    return ds


def _uids(patient: str, digest: str) -> Iterator[str]:
    """Study, series and instance: one of each an image."""
    for kind in ("study", "series", "instance"):
        yield UID(f"2.25.{uuid.uuid5(_ROOT, f'{kind}|{patient}|{digest}').int}")
