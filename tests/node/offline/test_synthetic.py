"""Artificial images as DICOM: they say so in the header and in the picture, and nothing else passes for one."""

import csv
import os

import numpy as np
import pytest
from contexts import errors_of
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import DatasetUnreadable
from dicom_node.offline.synthetic import Written, write_dicom


@pytest.fixture
def made(tmp_path):
    """What `python -m training synthesize` leaves: one image of either label, 32 x 40 pixels, mid-grey to white."""

    def write(**changes):
        folder = tmp_path / "made"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with (folder / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "patient_id", "target", "split", "target_source"])
            for target in (0, 1):
                name = f"images/synthetic-{target}-00000.png"
                plane = np.add.outer(np.arange(32), np.arange(40)) * 2 + 100
                Image.fromarray(plane.astype(np.uint8)).save(folder / name)
                os.utime(folder / name, (1_700_000_000, 1_700_000_000))
                row = {"file": name, "patient": f"synthetic-0-{target}-0", "target": target, "source": "synthetic"}
                row |= changes if target else {}
                writer.writerow([row["file"], row["patient"], row["target"], "train", row["source"]])
        return folder

    return write


def test_every_image_says_what_it_is_in_header_and_picture(made, tmp_path):
    assert write_dicom(made(), tmp_path / "out") == Written(present=1, absent=1)
    datasets = [dcmread(path) for path in sorted((tmp_path / "out").glob("*.dcm"))]
    for ds, said in zip(datasets, ("absence", "presence"), strict=True):
        assert (ds.SyntheticData, ds.ConversionType, ds.Modality) == ("YES", "SYN", "OT")
        assert ds.ImageType == ["DERIVED", "SECONDARY", "SYNTHETIC"]
        assert str(ds.PatientName).startswith("SYNTHETIC^")
        assert f"Made to show the {said} of opacity" in ds.ImageComments
        assert ds.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        assert errors_of(ds, tmp_path) == []
        assert (ds.Rows, ds.Columns) == (416, 520), "enlarged by a whole factor, its shape kept"
        plain = Image.open(tmp_path / "made" / "images" / "synthetic-0-00000.png").resize(
            (520, 416), Image.Resampling.BILINEAR
        )
        assert np.abs(ds.pixel_array.astype(int) - np.asarray(plain)).max() > 10, "marked"
    assert len({ds.StudyInstanceUID for ds in datasets} | {ds.SOPInstanceUID for ds in datasets}) == 4
    table = list(csv.DictReader((tmp_path / "out" / "labels.csv").read_text().splitlines()))
    assert [(row["file"], row["target"]) for row in table] == [
        ("synthetic-0-00000.dcm", "0"), ("synthetic-1-00000.dcm", "1"),
    ]  # fmt: skip


def test_the_same_folder_gives_the_same_bytes(made, tmp_path):
    folder = made()
    for name in ("one", "two"):
        write_dicom(folder, tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "expert"}, r"labels\.csv:3: .* was not made artificially"),
        ({"target": "2"}, r"labels\.csv:3: the target is 0 or 1, not '2'"),
        ({"file": "../../etc/passwd"}, "lies outside of"),
        ({"file": "images/missing.png"}, "no image that can be read"),
    ],
)
def test_what_is_no_artificial_image_is_refused_and_nothing_is_written(made, tmp_path, changes, message):
    with pytest.raises(DatasetUnreadable, match=message):
        write_dicom(made(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote_and_refuses_in_one_line(made, tmp_path):
    run = CliRunner().invoke
    first = run(app, ["synthetic", str(made()), "--out", str(tmp_path / "out"), "--finding", "effusion"])
    assert (first.exit_code, first.output) == (
        0, f"2 synthetic images in {tmp_path / 'out'}: 1 with effusion, 1 without\n",
    )  # fmt: skip
    again = run(app, ["synthetic", str(made()), "--out", str(tmp_path / "out")])
    assert again.exit_code == 1
    assert "is there already; name a new folder" in again.output
    nothing = run(app, ["synthetic", str(tmp_path), "--out", str(tmp_path / "new")])
    assert nothing.exit_code == 1
    assert "name a folder of `python -m training synthesize`" in nothing.output
