"""Readers on folders made here: bad input is named and counted, and what is read is where it was written."""

import csv
import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from explain_core.geometry import InputSpec
from training import datasets
from training.datasets import collecting, images, loading, masks, samples, tables
from training.datasets.samples import Sample, fold_of_split
from training.datasets.tables import Kind, counted
from training.splits import TEST_FOLDS, VALIDATION_FOLDS


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_png(path, rows=32, columns=32, box=None):
    """A grey ramp with a bright box given as x, y, width, height in pixels."""
    pixels = np.tile(np.linspace(0, 100, columns).astype(np.uint8), (rows, 1))
    if box:
        x, y, width, height = box
        pixels[y : y + height, x : x + width] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_dicom(path, pixels, view="PA", photometric="MONOCHROME2", **elements):
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PhotometricInterpretation, ds.ViewPosition = photometric, view
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def kinds(dataset):
    return [problem.kind for problem in dataset.problems]


def only(dataset, kind):
    return [problem for problem in dataset.problems if problem.kind == kind]


# the folder reader


@pytest.fixture
def folder(tmp_path):
    for index in range(4):
        write_png(tmp_path / f"{index}.png", box=(8, 4, 10, 12))
    write_csv(
        tmp_path / "labels.csv",
        "file,patient_id,target,split,view",
        ["0.png", "a", "normal", "train", "PA"],
        ["1.png", "b", "1", "val", "ap"],
        ["2.png", "c", "", "test", ""],
        ["3.png", "d", "opacity", "", ""],
    )
    write_csv(tmp_path / "boxes.csv", "file,x,y,width,height", ["1.png", 8, 4, 10, 12])
    return tmp_path


def test_a_clean_folder_reads_without_a_problem(folder):
    dataset = datasets.read(f"folder:{folder}")
    assert dataset.problems == ()
    assert counted(dataset.problems) == {}
    assert (dataset.classes, dataset.exclusive) == (("normal", "opacity"), False)
    assert [s.target for s in dataset] == [0, 1, None, 1]
    assert [s.split for s in dataset] == ["train", "validation", "test", ""]
    assert [s.view for s in dataset] == ["PA", "AP", "", ""]
    assert dataset.part("test") == (dataset[2],)
    assert [samples.split_of_fold(s.fold) for s in dataset] == [s.split for s in dataset]


def test_a_dataset_is_a_sequence_of_its_samples(folder):
    dataset = datasets.read(f"folder:{folder}")
    assert len(dataset) == 4
    assert dataset[-1] is dataset.samples[3]
    assert list(dataset[1:3]) == [dataset[1], dataset[2]]
    assert dataset[0] in dataset
    assert [s for s in dataset if s.split == "test"] == [dataset[2]]


def test_boxes_of_an_image_that_is_not_square_land_where_they_were_drawn(folder):
    for rows, columns in ((64, 32), (32, 64), (33, 64)):
        write_png(folder / "1.png", rows, columns, box=(8, 4, 10, 12))
        (sample,) = (s for s in datasets.read(f"folder:{folder}") if s.boxes)
        assert sample.shape == (rows, columns)
        mask = masks.box_mask(sample, 64)
        image = loading.load_inputs([sample], InputSpec(size=64, percentiles=(0, 100)))[0, 0].numpy()
        assert mask.sum() == 120
        assert (image[mask] > 200).all()
        assert (image[~mask] < 110).all()


def test_bad_boxes_are_clipped_or_left_out_and_named(folder):
    write_csv(
        folder / "boxes.csv",
        "file,x,y,width,height",
        ["1.png", -4, 4, 10, 12],
        ["1.png", 30, 30, 10, 10],
        ["1.png", 32, 0, 5, 5],
        ["1.png", 0, -9, 5, 9],
        ["1.png", 5, 5, 0, 3],
        ["1.png", 5, 5, 3, -1],
        ["1.png", 0, 0, 32, 32],
        ["1.png", 0, 0, 32, 32],
        ["9.png", 0, 0, 4, 4],
    )
    dataset = datasets.read(f"folder:{folder}")
    (sample,) = (s for s in dataset if s.boxes)
    assert sample.boxes == ((0, 4 / 32, 6 / 32, 12 / 32), (30 / 32, 30 / 32, 2 / 32, 2 / 32), (0, 0, 1, 1))
    assert counted(dataset.problems) == {
        Kind.BOX_CLIPPED: 2, Kind.BOX_OUTSIDE: 2, Kind.BOX_EMPTY: 2, Kind.DUPLICATE_ROW: 1, Kind.BOX_UNMATCHED: 1,
    }  # fmt: skip
    assert dataset.problems[0].where == "boxes.csv, line 2"
    assert "x=-4 y=4 width=10 height=12 in an image of 32 x 32" in dataset.problems[0].detail


def test_missing_and_broken_images_are_left_out_and_named(folder):
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(b"no image at all")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    dataset = datasets.read(f"folder:{folder}")
    assert [s.path.name for s in dataset] == ["3.png"]
    assert kinds(dataset) == [Kind.IMAGE_MISSING, Kind.IMAGE_UNREADABLE, Kind.IMAGE_UNREADABLE]
    assert [problem.where for problem in dataset.problems] == [str(folder / f"{i}.png") for i in range(3)]
    assert "cut off" in dataset.problems[2].detail


def test_pixels_that_fail_later_are_found_before_training(folder):
    broken = bytearray((folder / "1.png").read_bytes())
    middle = broken.index(b"IDAT") + 6
    broken[middle : middle + 8] = bytes(8)
    (folder / "1.png").write_bytes(broken)
    Image.fromarray(np.full((32, 32), 7, np.uint8)).save(folder / "2.png")
    dataset = datasets.read(f"folder:{folder}")
    assert len(dataset) == 4
    checked, images = loading.load_all(dataset, InputSpec(size=16))
    assert [s.path.name for s in checked] == ["0.png", "3.png"]
    assert images.shape == (2, 1, 16, 16)
    assert kinds(checked) == [Kind.IMAGE_UNREADABLE] * 2
    assert "constant" in checked.problems[1].detail
    assert images.equal(loading.load_inputs(checked, InputSpec(size=16)))
    with pytest.raises(SystemExit, match=r"(?s)2 x image file unreadable.*1\.png.*2\.png"):
        loading.load_inputs(dataset, InputSpec(size=16))


def test_a_patient_in_two_splits_is_kept_in_the_most_held_out(folder):
    write_csv(
        folder / "labels.csv",
        "file,patient_id,target,split",
        ["0.png", "a", "0", "train"],
        ["1.png", "a", "1", "test"],
        ["2.png", "b", "1", "validation"],
        ["3.png", "b", "1", "train"],
    )
    dataset = datasets.read(f"folder:{folder}")
    assert [s.split for s in dataset] == ["test", "test", "validation", "validation"]
    assert [samples.split_of_fold(s.fold) for s in dataset] == [s.split for s in dataset]
    assert [p.where for p in only(dataset, Kind.PATIENT_IN_TWO_SPLITS)] == ["patient a", "patient b"]
    assert "1 images in train, 1 images in test; all now in test" in dataset.problems[0].detail


def test_duplicate_rows_and_unknown_values_are_named(folder):
    write_csv(
        folder / "labels.csv",
        "file,patient_id,target,split",
        ["0.png", "a", "0", "train"],
        ["0.png", "a", "1", "train"],
        ["1.png", "b", "2", "train"],
        ["2.png", "c", "Opacity", "held-out"],
        ["3.png", "d", "-1", ""],
    )
    dataset = datasets.read(f"folder:{folder}")
    assert [s.target for s in dataset] == [0, None, None, None]
    assert counted(dataset.problems) == {Kind.LABEL_UNKNOWN: 3, Kind.DUPLICATE_ROW: 1, Kind.SPLIT_UNKNOWN: 1}
    assert only(dataset, Kind.DUPLICATE_ROW)[0].where == "labels.csv, line 3"


def test_classes_may_be_named_and_three_are_exclusive(folder):
    write_csv(
        folder / "labels.csv",
        "file,patient_id,target",
        *([f"{i}.png", f"p{i}", t] for i, t in enumerate(("viral", "0", "bacterial", "2"))),
    )
    dataset = datasets.read(f"folder:{folder}?classes=normal,bacterial,viral")
    assert [s.target for s in dataset] == [2, 0, 1, 2]
    assert dataset.exclusive
    assert dataset.classes == ("normal", "bacterial", "viral")


def test_without_a_split_patients_are_split_by_name_alone(folder):
    write_csv(folder / "labels.csv", "file,patient_id,target", *([f"{i}.png", f"p{i // 2}", 0] for i in range(4)))
    first = datasets.read(f"folder:{folder}")
    assert first[0].split == first[1].split
    assert [s.fold for s in first] == [s.fold for s in datasets.read(f"folder:{folder}")]
    folds = np.bincount([samples.fold_of_patient(str(i)) for i in range(2000)])
    assert len(folds) == 10
    assert folds.min() > 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,patient_id\n0.png,a\n", "labels.csv: no column target; the header has: file, patient_id"),
        ("file,patient_id,target,fold\n0.png,a,0,x\n", "line 2, column fold: 'x' is not a number"),
        ("file,patient_id,target,fold\n0.png,a,0,1\n1.png,b,0,1.5\n", "line 3, column fold: '1.5' is not a whole"),
        ("file,patient_id,target\n0.png,a\n", "line 2: 2 cells where the header has 3"),
        ("file,patient_id,target\n0.png,a,yes\n1.png,b,no\n", r"column target: no value is one of.*\?classes="),
        ("", "no column file, patient_id, target"),
        ('file,patient_id,target\n"0.png,a,0\n', "not a CSV table"),
        ("file,patient_id,target\nnone.png,a,0\n", r"(?s)no usable image.*none\.png"),
    ],
)
def test_a_table_that_cannot_be_read_names_file_line_and_column(folder, content, message):
    (folder / "labels.csv").write_text(content)
    with pytest.raises(SystemExit, match=message):
        datasets.read(f"folder:{folder}")


@pytest.mark.parametrize("value", ["x", "nan", "inf", ""])
def test_a_box_that_is_no_number_names_file_line_and_column(folder, value):
    write_csv(folder / "boxes.csv", "file,x,y,width,height", ["1.png", 1, 1, 5, 5], ["1.png", 1, value, 5, 5])
    with pytest.raises(SystemExit, match=r"boxes\.csv, line 3, column y: .* is not a number"):
        datasets.read(f"folder:{folder}")


def test_a_table_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(folder):
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text, encoding="utf-8-sig")
    assert len(datasets.read(f"folder:{folder}")) == 4
    (folder / "labels.csv").write_bytes(text.replace(",a,", ",\xe4,").encode("latin-1"))
    with pytest.raises(SystemExit, match=r"labels\.csv: not a CSV table in UTF-8"):
        datasets.read(f"folder:{folder}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:{}?colour=red", "no option colour of reader folder; there is: classes"),
        ("nih:{}?split=x", "no option split of reader nih; there is: none"),
        ("folder:{}?classes=one", "two or more different names"),
        ("folder:{}?classes=a,a", "two or more different names"),
        ("folder", "no folder"),
    ],
)
def test_a_wrong_option_is_refused_in_words(folder, spec, message):
    with pytest.raises(SystemExit, match=message):
        datasets.read(spec.format(folder))


def test_problems_are_listed_by_kind_with_counts():
    problems = [tables.Problem(Kind.IMAGE_MISSING, f"{i}.png", "no such file") for i in range(7)]
    problems.append(tables.Problem(Kind.BOX_EMPTY, "boxes.csv, line 2", "x"))
    assert collecting.format_problems(problems, limit=2) == [
        f"7 x {Kind.IMAGE_MISSING}",
        "    0.png: no such file",
        "    1.png: no such file",
        "    and 5 more",
        f"1 x {Kind.BOX_EMPTY}",
        "    boxes.csv, line 2: x",
    ]
    assert collecting.format_problems([]) == []
    assert json.dumps([problems[0].kind]) == f'["{Kind.IMAGE_MISSING}"]'


# pixels


def test_sixteen_bit_pictures_keep_their_range(tmp_path):
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    np.testing.assert_allclose(images.load_pixels(tmp_path / "deep.png"), pixels / 65535, atol=1e-6)


def test_dicom_luminance_follows_the_file(tmp_path):
    eight = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_dicom(tmp_path / "plain.dcm", eight)
    np.testing.assert_allclose(images.load_pixels(tmp_path / "plain.dcm"), eight / 255, atol=1e-6)
    write_dicom(tmp_path / "inverse.dcm", eight, photometric="MONOCHROME1")
    np.testing.assert_allclose(images.load_pixels(tmp_path / "inverse.dcm"), 1 - eight / 255, atol=1e-6)
    deep = np.linspace(100, 4000, 64).astype(np.uint16).reshape(8, 8)
    window = {"WindowCenter": 1000, "WindowWidth": 1000, "RescaleSlope": 1, "RescaleIntercept": -100}
    write_dicom(tmp_path / "deep.dcm", deep, **window)
    shown = images.load_pixels(tmp_path / "deep.dcm")
    assert shown.min() == 0
    assert shown.max() == 1
    assert (shown[deep <= 590] == 0).all()
    assert (shown[deep >= 1610] == 1).all()
    np.testing.assert_allclose(np.interp(1100, deep.ravel(), shown.ravel()), 0.5, atol=0.03)


def test_real_dicom_files_are_read(shared_data):
    chest = shared_data / "dicom" / "siim_one"
    plain = images.load_pixels(chest / "siim_cr_jpegbaseline.dcm")
    assert plain.shape == (1024, 1024)
    np.testing.assert_allclose(images.load_pixels(chest / "siim_fake_mono1.dcm"), 1 - plain, atol=1e-6)


# rsna


@pytest.fixture
def rsna(tmp_path):
    patients = {"n1": 0, "n2": 0, "o1": 1, "o2": 1, "x1": 0}
    for index, name in enumerate(patients):
        pixels = np.full((64, 64), 10 * index, np.uint8)
        pixels[16:48, 8:24] = 200
        write_dicom(tmp_path / "stage_2_train_images" / f"{name}.dcm", pixels, view="AP" if index % 2 else "PA")
    write_csv(
        tmp_path / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        ["n1", "", "", "", "", 0],
        ["n2", "", "", "", "", 0],
        ["o1", 128, 256, 256, 512, 1],
        ["o1", 600, 256, 100.5, 512, 1],
        ["o2", 900, 900, 200, 100, 1],
        ["x1", "", "", "", "", 0],
    )
    write_csv(
        tmp_path / "stage_2_detailed_class_info.csv",
        "patientId,class",
        ["n1", "Normal"],
        ["n2", "Normal"],
        ["o1", "Lung Opacity"],
        ["o1", "Lung Opacity"],
        ["o2", "Lung Opacity"],
        ["x1", "No Lung Opacity / Not Normal"],
    )
    write_csv(
        tmp_path / "paper_split.csv", "patientId,split", ["n1", "train"], ["n2", "val"], ["o1", "test"], ["o2", "test"]
    )
    return tmp_path


def test_the_challenges_own_folder_is_read(rsna):
    dataset = datasets.read(f"rsna:{rsna}")
    assert [(s.patient_id, s.target, s.split, s.view) for s in dataset] == [
        ("n1", 0, "train", "PA"), ("n2", 0, "validation", "AP"), ("o1", 1, "test", "PA"), ("o2", 1, "test", "AP"),
    ]  # fmt: skip
    assert [len(s.boxes) for s in dataset] == [0, 0, 2, 1]
    assert dataset[2].boxes[0] == (0.125, 0.25, 0.25, 0.5)
    assert counted(dataset.problems) == {Kind.NOT_USED: 1, Kind.BOX_CLIPPED: 1}
    assert "1 of 5 patients" in only(dataset, Kind.NOT_USED)[0].detail
    image = loading.load_inputs([dataset[2]], InputSpec(size=64))[0, 0].numpy()
    assert (image[masks.union_mask(dataset[2].boxes[:1], 64)] == 255).all()
    assert {s.fold in TEST_FOLDS for s in dataset if s.split == "test"} == {True}
    assert {s.fold in VALIDATION_FOLDS for s in dataset if s.split == "validation"} == {True}


def test_rsna_takes_another_split_file_and_splits_by_name_without_one(rsna):
    (rsna / "paper_split.csv").rename(rsna / "other.csv")
    by_name = datasets.read(f"rsna:{rsna}")
    assert len(by_name) == 4
    assert all(s.split in samples.SPLITS for s in by_name)
    given = datasets.read(f"rsna:{rsna}?split={rsna / 'other.csv'}")
    assert [s.split for s in given] == ["train", "validation", "test", "test"]
    with pytest.raises(SystemExit, match=r"none\.csv is missing; give the split file as rsna:FOLDER\?split=FILE"):
        datasets.read(f"rsna:{rsna}?split={rsna / 'none.csv'}")


def test_rsna_names_every_fault_of_its_tables(rsna):
    write_csv(
        rsna / "paper_split.csv",
        "patientId,split",
        ["n1", "train"], ["n1", "test"], ["n2", "elsewhere"], ["o1", "test"], ["o1", "test"], ["gone", "train"],
        ["o2", "val"],
    )  # fmt: skip
    write_csv(
        rsna / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        ["n1", "", "", "", "", 0],
        ["n1", "", "", "", "", 0],
        ["o1", 128, 256, 256, 512, 1],
        ["o1", 128, 256, 256, 512, 1],
        ["o1", 1100, 0, 10, 10, 1],
        ["o2", "", "", "", "", 0],
        ["n2", "", "", "", "", 0],
    )
    dataset = datasets.read(f"rsna:{rsna}")
    assert {s.patient_id: (s.split, s.target, len(s.boxes)) for s in dataset} == {
        "n1": ("test", 0, 0), "o1": ("test", 1, 1), "o2": ("validation", None, 0),
    }  # fmt: skip
    assert counted(dataset.problems) == {
        Kind.DUPLICATE_ROW: 3, Kind.LABEL_CONTRADICTED: 1, Kind.PATIENT_IN_TWO_SPLITS: 1, Kind.SPLIT_UNKNOWN: 1,
        Kind.IMAGE_UNLABELLED: 1, Kind.NOT_USED: 1, Kind.BOX_OUTSIDE: 1,
    }  # fmt: skip


def test_rsna_images_that_are_missing_or_cut_off_are_named(rsna):
    images = rsna / "stage_2_train_images"
    (images / "n1.dcm").unlink()
    cut = (images / "o1.dcm").read_bytes()
    (images / "o1.dcm").write_bytes(cut[: len(cut) // 2])
    (images / "o2.dcm").write_bytes(b"DICM")
    dataset = datasets.read(f"rsna:{rsna}")
    assert [s.patient_id for s in dataset] == ["n2"]
    assert counted(dataset.problems)[Kind.IMAGE_MISSING] == 1
    assert counted(dataset.problems)[Kind.IMAGE_UNREADABLE] == 2
    shutil.rmtree(images)
    with pytest.raises(SystemExit, match="stage_2_train_images is missing"):
        datasets.read(f"rsna:{rsna}")


def test_rsna_reads_a_real_jpeg_dicom(rsna, shared_data):
    real = shared_data / "dicom" / "siim_one" / "siim_cr_jpegbaseline.dcm"
    shutil.copy(real, rsna / "stage_2_train_images" / "o1.dcm")
    sample = next(s for s in datasets.read(f"rsna:{rsna}") if s.patient_id == "o1")
    assert (sample.shape, sample.view) == ((1024, 1024), "PA")
    data = real.read_bytes()
    (rsna / "stage_2_train_images" / "o1.dcm").write_bytes(data[: len(data) * 3 // 4])
    cut = only(datasets.read(f"rsna:{rsna}"), Kind.IMAGE_UNREADABLE)
    assert [problem.detail for problem in cut] == ["the file is cut off: its end marker is missing"]


def test_the_real_annotations_have_the_papers_numbers(shared_data):
    from training.datasets.readers.rsna import annotations

    collector = collecting.Collector()
    patients = annotations(shared_data / "rsna_annotations", collector)
    counts = {(split, t): 0 for split in samples.SPLITS for t in (0, 1)}
    for patient in patients:
        counts[patient.split, patient.target] += 1
    assert list(counts.values()) == [7065, 4852, 904, 591, 882, 569]
    test = [p.boxes for p in patients if p.split == "test" and p.target == 1]
    assert np.bincount([len(boxes) for boxes in test]).tolist() == [0, 250, 303, 16]
    heights = [box[3] * 224 for boxes in test for box in boxes]
    assert np.round([min(heights), max(heights), np.mean(heights), np.median(heights)], 1).tolist() == [
        12.9,
        170.6,
        71.8,
        67.8,
    ]
    assert [p.kind for p in collector.problems] == [Kind.NOT_USED]


# nih and kermany


def test_nih_boxes_of_both_files_are_read(nih_folder, tmp_path):
    copied = tmp_path / "nih"
    shutil.copytree(nih_folder, copied)
    write_csv(
        copied / "boxes_nih.csv",
        "image,finding,x,y,w,h",
        ["00000000_000.png", "Infiltrate", 512, 256, 256, 128],
        ["00000000_000.png", "Mass", 1000, 1000, 100, 100],
        ["00000000_000.png", "Pimple", 1, 1, 10, 10],
        ["99999999_000.png", "Mass", 1, 1, 10, 10],
    )
    dataset = datasets.read(f"nih:{copied}")
    boxes = dataset[0].finding_boxes
    assert boxes["Infiltration"] == ((0.5, 0.25, 0.25, 0.125),)
    assert boxes["Mass"] == ((1000 / 1024, 1000 / 1024, 24 / 1024, 24 / 1024),)
    assert dataset[0].boxes == ()
    assert dataset[1].finding_boxes == {}
    assert len(dataset[1].boxes) == 1
    assert counted(dataset.problems) == {Kind.BOX_CLIPPED: 1, Kind.LABEL_UNKNOWN: 1, Kind.BOX_UNMATCHED: 1}
    assert {s.split for s in dataset} == set(samples.SPLITS)
    assert all(s.split == samples.split_of_fold(s.fold) for s in dataset)


def test_nih_labels_that_are_not_known_are_named(nih_folder, tmp_path):
    copied = tmp_path / "nih"
    shutil.copytree(nih_folder, copied)
    text = (copied / "labels.csv").read_text().splitlines()
    text[1] = text[1].replace("Infiltration|Mass,0,", "Infiltration|Hiccup,maybe,")
    text.append(text[2])
    (copied / "labels.csv").write_text("\n".join(text) + "\n")
    dataset = datasets.read(f"nih:{copied}")
    assert len(dataset) == 40
    assert dataset[0].target is None
    assert dataset[0].findings == {"Infiltration"}
    assert counted(dataset.problems) == {Kind.LABEL_UNKNOWN: 2, Kind.DUPLICATE_ROW: 1}


def test_kermany_has_three_classes_and_no_group_in_two_splits(tmp_path):
    for name in "abcde":
        write_png(tmp_path / f"{name}.jpeg")
    write_csv(
        tmp_path / "labels.csv",
        "file,official_split,label,pathogen,group",
        ["a.jpeg", "train", "NORMAL", "none", "g1"],
        ["b.jpeg", "val", "PNEUMONIA", "bacteria", "g2"],
        ["c.jpeg", "test", "PNEUMONIA", "virus", "g3"],
        ["d.jpeg", "train", "PNEUMONIA", "bacteria", "g3"],
        ["e.jpeg", "train", "PNEUMONIA", "fungus", "g4"],
    )
    dataset = datasets.read(f"kermany:{tmp_path}")
    assert dataset.classes == ("normal", "bacterial", "viral")
    assert dataset.exclusive
    assert [s.target for s in dataset] == [0, 1, 2, 1, None]
    assert [s.split for s in dataset] == ["train", "validation", "test", "test", "train"]
    assert [s.fold for s in dataset] == [fold_of_split(s.split) for s in dataset]
    assert counted(dataset.problems) == {Kind.LABEL_UNKNOWN: 1, Kind.PATIENT_IN_TWO_SPLITS: 1}


@pytest.mark.slow
def test_a_tenth_of_kermanys_training_groups_validates(shared_data):
    """The official validation part has no virus at all."""
    dataset = datasets.read(f"kermany:{shared_data / 'kermany224'}")
    targets = {split: {s.target for s in dataset if s.split == split} for split in ("train", "validation", "test")}
    assert all(found == {0, 1, 2} for found in targets.values())
    groups = {split: {s.patient_id for s in dataset if s.split == split} for split in targets}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]


# masks


def sample(**values):
    common = {"path": "x", "patient_id": "p", "fold": 0, "view": "", "target": 1, "target_source": ""}
    return Sample(**common | values)


def test_an_exact_mask_is_the_truth_and_boxes_are_where_there_is_none():
    exact = np.zeros((8, 8), np.bool_)
    exact[2:4, 1:7] = True
    boxed = sample(boxes=((0.25, 0.25, 0.5, 0.5),))
    assert masks.truth_mask(sample(mask=exact, boxes=boxed.boxes), 8) is exact
    assert masks.truth_mask(boxed, 8).sum() == 16
    doubled = masks.truth_mask(sample(mask=exact.repeat(2, 0).repeat(2, 1)), 8)
    assert np.array_equal(doubled, exact)
    tall = np.zeros((8, 4), np.bool_)
    tall[:4] = True
    placed = masks.truth_mask(sample(mask=tall), 8)
    assert placed[:4, 2:6].all()
    assert placed.sum() == 16


def test_an_image_without_a_file_is_made_when_it_is_loaded():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    images = loading.load_inputs([sample(pixels=lambda: ramp)], InputSpec(size=16, percentiles=(0, 100)))
    np.testing.assert_allclose(images[0, 0].numpy(), ramp * 255, atol=1)
