"""Images of lungs alone: who is left out, boxes that are no boxes, what is visible, and grey values that stay."""

import csv
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from explain_core.geometry import InputSpec
from training import datasets
from training.datasets import images, loading
from training.datasets.readers import rsna_lungs
from training.datasets.tables import Kind, counted
from training.runs.evidence_targets import usable_parts

GREY = 90


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


@pytest.fixture
def lungs(tmp_path):
    """Five images of one grey but for a lung; the mask says where that is."""
    (tmp_path / "images").mkdir()
    with zipfile.ZipFile(tmp_path / "masks_320.zip", "w") as archive:
        for index, name in enumerate("abcde"):
            mask = np.zeros((40, 40), np.uint8)
            mask[10:30, 4 + index : 16 + index] = 255
            pixels = np.where(mask > 0, 60 + 4 * index, GREY).astype(np.uint8)
            pixels[12:18, 6 + index : 12 + index] = 120
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
            stored = io.BytesIO()
            Image.fromarray(mask).save(stored, "PNG")
            archive.writestr(f"{name}.png", stored.getvalue())
    write_csv(
        tmp_path / "labels.csv",
        "file,rsna_class,patient_id,nih_match_mse,view",
        ["a.png", "Lung Opacity", "11", 1.2, "AP"],
        ["b.png", "Normal", "12", 5.0, "PA"],
        ["c.png", "No Lung Opacity / Not Normal", "13", 0.9, "PA"],
        ["d.png", "Lung Opacity", "14", 5.1, "AP"],
        ["e.png", "Normal", "", "", "AP"],
    )
    write_csv(tmp_path / "boxes.csv", "file,x,y,width,height", ["a.png", 256, 256, 128, 512], ["d.png", 1, 1, 10, 10])
    return tmp_path


def test_images_of_sure_patients_are_read_for_training(lungs):
    found = datasets.read(f"rsna_lungs:{lungs}")
    assert [(s.path.name, s.patient_id, s.target, s.view, s.split, s.fold) for s in found] == [
        ("a.png", "11", 1, "AP", "train", -1), ("b.png", "12", 0, "PA", "train", -1),
        ("c.png", "13", None, "PA", "train", -1),
    ]  # fmt: skip
    assert found[0].boxes == ((0.25, 0.25, 0.125, 0.5),)
    assert [len(s.boxes) for s in found] == [1, 0, 0]
    assert found.problems == ()
    assert {s.shape for s in found} == {(40, 40)}
    assert "Shih G" in datasets.attribution("rsna_lungs")


def test_what_is_visible_is_each_images_own(lungs):
    for index, sample in enumerate(datasets.read(f"rsna_lungs:{lungs}")):
        mask = sample.visible()
        assert mask.dtype == np.bool_
        assert mask[10:30, 4 + index : 16 + index].all()
        assert mask.sum() == 20 * 12


def test_images_of_parts_keep_their_grey(lungs):
    """Percentiles of a lung would stretch it over the whole range; nothing is stretched here."""
    sample = datasets.read(f"rsna_lungs:{lungs}")[0]
    kept = loading.load_inputs([sample], InputSpec(size=40))[0, 0].numpy()
    assert np.array_equal(kept, np.asarray(Image.open(sample.path)))
    whole = loading.load_inputs([_without_mask(sample)], InputSpec(size=40))[0, 0].numpy()
    assert (whole.min(), whole.max()) == (0, 255)


def _without_mask(sample):
    from dataclasses import replace

    return replace(sample, visible=None)


def test_boxes_of_another_image_size_or_outside_are_named(lungs):
    write_csv(
        lungs / "boxes.csv",
        "file,x,y,width,height",
        ["a.png", 1100, 40, 200, 200],
        ["a.png", 900, 900, 400, 100],
        ["a.png", 100, 100, 0, 50],
        ["a.png", 512, 512, 256, 256],
    )
    found = datasets.read(f"rsna_lungs:{lungs}")
    assert counted(found.problems) == {Kind.BOX_OUTSIDE: 1, Kind.BOX_CLIPPED: 1, Kind.BOX_EMPTY: 1}
    assert "x=1100 y=40 width=200 height=200 in an image of 1024 x 1024" in found.problems[0].detail
    assert found.problems[0].where == "boxes.csv, line 2"
    assert found[0].boxes[-1] == (0.5, 0.5, 0.25, 0.25)
    assert found[0].boxes[0][2] == pytest.approx(124 / 1024)


def test_missing_images_and_unknown_classes_are_named(lungs):
    (lungs / "images" / "b.png").unlink()
    text = (lungs / "labels.csv").read_text()
    (lungs / "labels.csv").write_text(text.replace("No Lung Opacity / Not Normal", "Hazy"))
    found = datasets.read(f"rsna_lungs:{lungs}")
    assert [s.path.name for s in found] == ["a.png"]
    assert counted(found.problems) == {Kind.IMAGE_MISSING: 1, Kind.LABEL_UNKNOWN: 1}
    (lungs / "masks_320.zip").unlink()
    with pytest.raises(SystemExit, match=r"masks_320\.zip is missing; it says what is visible"):
        datasets.read(f"rsna_lungs:{lungs}")


def test_no_held_out_patient_of_the_whole_images_is_among_the_parts(lungs, nih_folder, monkeypatch):
    text = (lungs / "labels.csv").read_text()
    (lungs / "labels.csv").write_text(text.replace(",11,", ",0,").replace(",12,", ",4,").replace(",13,", ",99,"))
    whole = datasets.read(f"nih:{nih_folder}")
    folds = {sample.patient_id: sample.split for sample in whole}
    assert (folds["0"], folds["4"], "99" in folds) == ("test", "train", False)
    chosen = usable_parts(f"rsna_lungs:{lungs}", whole)
    assert [s.patient_id for s in chosen] == ["4", "99"]
    monkeypatch.setattr("training.runs.evidence_targets.PARTS", 1)
    assert len(usable_parts(f"rsna_lungs:{lungs}", whole)) == 1
    monkeypatch.setattr("training.runs.evidence_targets.PARTS", 0)
    (lungs / "labels.csv").write_text(text.replace(",11,", ",98,"))
    assert [s.path.name for s in usable_parts(f"rsna_lungs:{lungs}", whole)] == ["a.png"], "boxes come first"


@pytest.mark.slow
def test_the_real_folder_has_its_readmes_numbers(shared_data):
    folder = shared_data / "rsna_lungs"
    if not folder.is_dir():
        pytest.skip("rsna_lungs is not among the real data")
    found = rsna_lungs.read(folder)
    assert found.problems == ()
    assert len(found) == 10_395
    assert sum(bool(s.boxes) for s in found) == 2_932
    assert sum(len(s.boxes) for s in found) == 5_044
    assert {s.split for s in found} == {"train"}
    assert all(s.target == 1 for s in found if s.boxes)
    boxed = next(s for s in found if s.boxes)
    mask, pixels = boxed.visible(), images.load_pixels(boxed.path)
    assert mask.shape == pixels.shape == (320, 320)
    assert pixels[~mask].std() < 0.05 < pixels[mask].std()
