"""The whole of NIH ChestX-ray14 as published, in a folder made here: folders of images, labels, boxes, folds, RSNA."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from training import datasets
from training.datasets.readers import nih14
from training.datasets.samples import split_of_fold
from training.datasets.tables import Kind, counted

OLD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width"
OLD += ",Height],OriginalImagePixelSpacing[x,y],"
ROWS = (
    ("00000001_000.png", "Cardiomegaly", 0, 1, "058Y", "M", "PA"),
    ("00000001_001.png", "Infiltration|Mass", 1, 1, "058Y", "M", "AP"),
    ("00000002_000.png", "No Finding", 0, 2, "009M", "F", "PA"),
    ("00000003_000.png", "Atelectasis", 0, 3, "013D", "F", "PA"),
    ("00000004_000.png", "Edema", 0, 4, "414Y", "M", "AP"),
    ("00000005_000.png", "Consolidation|No Finding", 0, 5, "040Y", "X", "AP"),
)


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONE, escapechar="\\")
        writer.writerow(header.split(","))
        writer.writerows(rows)


@pytest.fixture
def nih14_folder(tmp_path):
    """As it is unpacked: two of the twelve folders, the tables of the first edition, and boxes of three findings."""
    for index, row in enumerate(ROWS):
        images = tmp_path / f"images_{1 + index // 3:03d}" / "images"
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), 40 * index, np.uint8)).save(images / row[0])
    write_csv(tmp_path / "Data_Entry_2017.csv", OLD, [(*row, 2682, 2749, 0.143, 0.143, "") for row in ROWS])
    write_csv(
        tmp_path / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        [
            ("00000001_001.png", "Infiltrate", 256.0, 512.0, 128.0, 256.0, "", "", ""),
            ("00000001_001.png", "Mass", 1000.0, 0.0, 100.0, 100.0, "", "", ""),
            ("00000009_000.png", "Mass", 1.0, 1.0, 10.0, 10.0, "", "", ""),
        ],
    )
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n")
    return tmp_path


@pytest.fixture
def rsna_folder(tmp_path):
    """Annotations of three of the images and of one that is not there."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    write_csv(
        folder / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        [
            ("r1", 512, 256, 256, 128, 1), ("r1", 0, 0, 128, 128, 1), ("r2", "", "", "", "", 0),
            ("r3", "", "", "", "", 0), ("r4", "", "", "", "", 0),
        ],
    )  # fmt: skip
    write_csv(
        folder / "stage_2_detailed_class_info.csv",
        "patientId,class",
        [
            ("r1", "Lung Opacity"), ("r1", "Lung Opacity"), ("r2", "Normal"), ("r3", "No Lung Opacity / Not Normal"),
            ("r4", "Normal"),
        ],
    )  # fmt: skip
    names = {"r1": "00000001_000.png", "r2": "00000002_000.png", "r3": "00000001_001.png"}
    mapping = [{"subset_img_id": key, "img_id": name, "StudyInstanceUID": "1.2"} for key, name in names.items()]
    (folder / nih14.MAPPING).write_text(json.dumps(mapping))
    return folder


def test_the_published_folder_is_read(nih14_folder):
    found = datasets.read(f"nih14:{nih14_folder}")
    assert [s.path.parent.parent.name for s in found] == ["images_001"] * 3 + ["images_002"] * 3
    assert [(s.patient_id, s.target, s.target_source, s.view) for s in found] == [
        ("1", None, "textmined_other", "PA"), ("1", 1, "textmined", "AP"), ("2", 0, "textmined", "PA"),
        ("3", None, "textmined_other", "PA"), ("4", 1, "textmined", "AP"), ("5", 1, "textmined", "AP"),
    ]  # fmt: skip
    assert found[1].findings == {"Infiltration", "Mass"}
    assert found[1].finding_boxes == {
        "Infiltration": ((0.25, 0.5, 0.125, 0.25),), "Mass": ((1000 / 1024, 0, 24 / 1024, 100 / 1024),),
    }  # fmt: skip
    assert all(s.boxes == () for s in found)
    assert [s.sex for s in found] == ["M", "M", "F", "F", "M", ""]
    assert [s.age for s in found] == [58, 58, 0.75, pytest.approx(13 / 365, rel=1e-4), None, 40]
    assert counted(found.problems) == {Kind.LABEL_UNKNOWN: 2, Kind.BOX_CLIPPED: 1, Kind.BOX_UNMATCHED: 1}
    assert "Wang X" in datasets.attribution("nih14")


def test_the_second_edition_and_one_folder_of_images_are_read_as_well(nih14_folder):
    (nih14_folder / "images").mkdir()
    for path in nih14_folder.glob("images_*/images/*.png"):
        path.rename(nih14_folder / "images" / path.name)
    text = (nih14_folder / "Data_Entry_2017.csv").read_text()
    (nih14_folder / "Data_Entry_2017.csv").unlink()
    text = text.replace("Patient Gender", "Patient Sex").replace("058Y", "58").replace("414Y", "41")
    (nih14_folder / "Data_Entry_2017_v2020.csv").write_text(text)
    (nih14_folder / "BBox_List_2017.csv").unlink()
    found = datasets.read(f"nih14:{nih14_folder}")
    assert [s.path.parent.name for s in found] == ["images"] * 6
    assert [s.age for s in found][:2] == [58, 58]
    assert found[0].sex == "M"
    assert all(s.finding_boxes == {} for s in found)


def test_patients_are_in_the_folds_of_the_subset(nih14_folder, shared_data):
    """So that who is tested in the one is not learnt from in the other."""
    for sample in datasets.read(f"nih14:{nih14_folder}"):
        assert sample.fold == nih14.fold_of(sample.patient_id)
        assert sample.split == split_of_fold(sample.fold)
    assert len({nih14.fold_of(str(number)) for number in range(200)}) == 10
    known = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    assert len(known) == 1957
    assert all(nih14.fold_of(sample.patient_id) == sample.fold for sample in known)


def test_the_text_mined_rule_is_that_of_the_subset(shared_data):
    judged = 0
    for sample in datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}"):
        if sample.target_source.startswith("textmined"):
            judged += 1
            assert (sample.target == 1) == bool(sample.findings & nih14.OPACITIES)
            assert (sample.target == 0) == (not sample.findings)
    assert judged == 1241


def test_radiologists_take_the_place_of_text(nih14_folder, rsna_folder):
    plain = datasets.read(f"nih14:{nih14_folder}")
    found = datasets.read(f"nih14:{nih14_folder}?rsna={rsna_folder}")
    assert [(s.target, s.target_source) for s in found[:3]] == [
        (1, "expert"), (None, "expert_other"), (0, "expert"),
    ]  # fmt: skip
    assert found[0].boxes == ((0.5, 0.25, 0.25, 0.125), (0, 0, 0.125, 0.125))
    assert [s.boxes for s in found[1:]] == [()] * 5
    assert list(found[3:]) == list(plain[3:])
    assert len(found) == len(plain), "they add no image"
    assert [s.findings for s in found] == [s.findings for s in plain]
    assert counted(found.problems)[Kind.IMAGE_UNLABELLED] == 1, "r4 has no NIH name"


def test_what_is_missing_is_named(nih14_folder, rsna_folder):
    next(nih14_folder.glob("images_001/images/00000002_000.png")).unlink()
    found = datasets.read(f"nih14:{nih14_folder}")
    assert len(found) == 5
    assert [p.where for p in found.problems if p.kind == Kind.IMAGE_MISSING] == [
        str(nih14_folder / "images" / "00000002_000.png")
    ]
    (rsna_folder / nih14.MAPPING).write_text("{}{")
    with pytest.raises(SystemExit, match="not a list of subset_img_id and img_id"):
        datasets.read(f"nih14:{nih14_folder}?rsna={rsna_folder}")
    (rsna_folder / nih14.MAPPING).unlink()
    with pytest.raises(SystemExit, match=r"mappings_2018\.json is missing; it names the NIH file"):
        datasets.read(f"nih14:{nih14_folder}?rsna={rsna_folder}")
    (nih14_folder / "Data_Entry_2017.csv").unlink()
    with pytest.raises(SystemExit, match=r"Data_Entry_2017_v2020\.csv is missing; give a folder with"):
        datasets.read(f"nih14:{nih14_folder}")


def test_a_doubled_row_and_an_unknown_finding_are_named(nih14_folder):
    path = nih14_folder / "Data_Entry_2017.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]).replace("Infiltration|Mass", "Infiltration|Pox"))
    found = datasets.read(f"nih14:{nih14_folder}")
    assert counted(found.problems)[Kind.DUPLICATE_ROW] == 1
    assert any("Finding Labels has Pox" in problem.detail for problem in found.problems)
    assert (found[1].target, found[1].findings) == (1, {"Infiltration"})
