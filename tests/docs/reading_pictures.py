"""The pictures of docs/reading-a-heatmap.md: a film with radiologists' boxes, beside it what the node sends of it.

`python tests/docs/reading_pictures.py ../shared/data/nih_cxr14_subset` writes them anew, by the default bundle. The
films are of test patients, whom nothing learnt from.
"""

import csv
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

OUT = Path(__file__).resolve().parents[2] / "docs" / "reading"
FILMS = {"found": "00009925_036", "faint": "00007007_002", "missed": "00002376_001"}
ROOT_UID = "1.2.826.0.1.3680043.9.7.9"
BOX = (0, 216, 216)
GROUND = (17, 18, 22)
BOXES_OF = 1024
"""Rows and columns of the images that the boxes were drawn on."""


def film(image: Image.Image, name: str) -> Dataset:
    """The image as a DX of a patient who is named after it."""
    person = name.partition("_")[0]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, f"{ROOT_UID}.{int(person)}.1.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT_UID}.{int(person)}", f"{ROOT_UID}.{int(person)}.1"
    ds.PatientName, ds.PatientID = f"Example^{person}", str(int(person))
    ds.StudyDate = date(2020, 1, 1).strftime("%Y%m%d")
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "AP"
    ds.PatientOrientation, ds.PresentationIntentType = ["L", "F"], "FOR PRESENTATION"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = image.height, image.width, 8, 8, 7
    ds.PixelRepresentation, ds.SamplesPerPixel, ds.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    ds.add_new("PixelData", "OB", np.asarray(image).tobytes())
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def with_boxes(image: Image.Image, data: Path, name: str) -> Image.Image:
    """The film in colour, radiologists' boxes on it."""
    drawn, scale = image.convert("RGB"), image.width / BOXES_OF
    pen = ImageDraw.Draw(drawn)
    with (data / "boxes_rsna.csv").open() as file:
        for row in csv.reader(file):
            if row[0].startswith(name):
                x, y, width, height = (float(value) * scale for value in row[2:6])
                pen.rectangle((x, y, x + width, y + height), outline=BOX, width=3)
    return drawn


def sent(image: Image.Image, name: str, folder: Path) -> Image.Image:
    """What the node sends of the film: its Secondary Capture."""
    folder.mkdir()
    film(image, name).save_as(folder / "film.dcm", enforce_file_format=True)
    out, command = folder / "out", [sys.executable, "-m", "dicom_node", "explain", folder / "film.dcm"]
    subprocess.run([*command, "--out", out, "--objects", "secondary_capture"], check=True)
    (picture,) = out.rglob("*.png")
    return Image.open(picture).convert("RGB")


def main(data: Path) -> None:
    """Write every picture."""
    for label, name in FILMS.items():
        image = Image.open(data / "images" / f"{name}.jpg").convert("L")
        with TemporaryDirectory() as folder:
            result = sent(image, name, Path(folder) / "work")
        left = with_boxes(image, data, name)
        beside = Image.new("RGB", (left.width + 12 + result.width, max(left.height, result.height)), GROUND)
        beside.paste(left, (0, 0))
        beside.paste(result, (left.width + 12, 0))
        beside.save(OUT / f"{label}.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
