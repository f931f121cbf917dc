"""The reader of what a node exports: nothing is read that its manifest does not vouch for."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from training import datasets
from training.datasets.tables import DatasetError

SIDES = (32, 40)


@pytest.fixture
def exported(tmp_path):
    """A folder as `dicom-node export` lays it out; that the two agree is tested where the export is."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    lines = ["file,patient_id,study,target,target_source,verdict,view,sex,age"]
    for number in range(6):
        pixels = (np.arange(SIDES[0] * SIDES[1]).reshape(SIDES) * 7 + number).astype(np.uint16)
        Image.fromarray(pixels).save(folder / "images" / f"i{number}.png")
        lines.append(f"images/i{number}.png,p{number % 3},s{number},{number % 2},csv,,PA,F,{50 + number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "boxes.csv").write_text("file,x,y,width,height\nimages/i1.png,10,8,20,16\n")
    seal(folder)
    return folder


def seal(folder):
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names.pop("manifest.json", None)
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def test_an_export_is_read_like_a_folder(exported):
    dataset = datasets.read(f"studies:{exported}")
    assert len(dataset) == 6
    assert not dataset.problems
    assert [sample.target for sample in dataset] == [0, 1] * 3
    assert {sample.patient_id for sample in dataset} == {"p0", "p1", "p2"}
    assert dataset[1].boxes == ((0.25, 0.25, 0.5, 0.5),)
    assert (dataset[0].sex, dataset[0].age) == ("F", 50)
    assert dataset.samples == datasets.read(f"folder:{exported}").samples


@pytest.mark.parametrize("name", ["images/i3.png", "labels.csv", "boxes.csv"])
def test_a_changed_file_is_named(exported, name):
    data = bytearray((exported / name).read_bytes())
    data[-3] ^= 1
    (exported / name).write_bytes(data)
    with pytest.raises(DatasetError, match=f"{name}: its SHA-256"):
        datasets.read(f"studies:{exported}")


@pytest.mark.parametrize("name", ["images/i3.png", "boxes.csv"])
def test_a_missing_file_is_named(exported, name):
    (exported / name).unlink()
    with pytest.raises(DatasetError, match=f"{name}: is listed in manifest.json and missing"):
        datasets.read(f"studies:{exported}")


@pytest.mark.parametrize("name", ["images/more.png", "notes.txt", "images/.hidden"])
def test_a_file_that_nobody_listed_is_named(exported, name):
    (exported / name).write_bytes(b"more")
    with pytest.raises(DatasetError, match=f"{name}: is not listed"):
        datasets.read(f"studies:{exported}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"labels.csv": 1}}', "\x00"])
def test_what_is_no_manifest_is_refused(exported, text):
    (exported / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match="no manifest"):
        datasets.read(f"studies:{exported}")


def test_a_folder_without_a_manifest_is_refused(exported):
    (exported / "manifest.json").unlink()
    with pytest.raises(DatasetError, match=r"manifest\.json: cannot be read"):
        datasets.read(f"studies:{exported}")
