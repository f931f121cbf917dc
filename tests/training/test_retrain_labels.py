"""Who is told apart, what counts as a test label, where a new version's threshold lies, and whose data a card names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from explain_core.files import read_json
from training import datasets
from training.errors import TrainingError
from training.retrain import collect, splits_book
from training.retrain.job import Job, JobError, RehearsalTable, load, patient_prefix
from training.retrain.parts import rehearsed
from training.retrain.training import matched_threshold

VALUES = st.floats(0.02, 0.98) | st.sampled_from([0.3, 0.4, 0.50001, 0.50002, 0.97])
PROBABILITIES = arrays.arrays(np.float64, st.integers(5, 60), elements=VALUES)


@given(now=PROBABILITIES, seed=st.integers(0, 99), threshold=st.sampled_from([0.3, 0.5, 0.7, 0.99]))
def test_a_matched_threshold_calls_as_many_negatives_positive_as_before_or_as_ties_allow(now, seed, threshold):
    """Also of probabilities that four decimals do not tell apart."""
    before = np.random.default_rng(seed).uniform(size=len(now))
    found = matched_threshold(now, before, threshold)
    wanted = int((before >= threshold).sum())
    assert 0.01 <= found <= 0.99
    assert int((now >= found).sum()) <= wanted
    missed = now[now < found]
    assert not len(missed) or int((now >= missed.max()).sum()) > wanted


def test_a_threshold_that_calls_as_many_already_is_kept():
    assert matched_threshold(np.array([0.1, 0.6, 0.4]), np.array([0.2, 0.3, 0.9]), 0.5) == 0.5


def test_a_verdict_on_the_champions_result_is_no_label_of_a_test_image():
    rows = [
        {"patient": f"p{i}", "target": "1", "target_source": source, "sha256": str(i)}
        for i, source in enumerate(["verdict", "csv", "verdict"])
    ]
    _, targets = rehearsed(rows, ["test", "test", "train"], RehearsalTable())
    assert targets == ["", "1", "1"]


def test_a_lost_book_of_splits_is_not_begun_anew(tmp_path):
    book = tmp_path / "splits.csv"
    splits_book.need(book, tmp_path)
    (tmp_path / "earlier/stages/split").mkdir(parents=True)
    (tmp_path / "earlier/stages/split/splits.csv").write_text("row,patient,split,target\n")
    with pytest.raises(TrainingError, match=r"splits\.csv: the book of splits is missing, and earlier has used one"):
        splits_book.need(book, tmp_path)
    book.write_text("patient,split,job,since\n")
    splits_book.need(book, tmp_path)
    assert splits_book.read(book) == {}


def test_what_options_name_is_a_place_of_the_source_too(tmp_path):
    """Relative to the job's folder as the source is, and looked at when it may have changed."""
    tables = tmp_path / "tables"
    tables.mkdir()
    (tmp_path / "films").mkdir()
    (tables / "labels.csv").write_text("one\n")
    job = Job.model_validate({"data": {"sources": ("nih14:films?rsna=tables",)}}).resolved(tmp_path)
    assert job.data.sources == (f"nih14=nih14:{tmp_path}/films?rsna={tables}",)
    before = collect.sources_state(job)
    assert collect.sources_state(job) == before
    (tables / "labels.csv").write_text("another\n")
    assert collect.sources_state(job) != before
    assert datasets.absolute("phantom?size=32", tmp_path) == "phantom?size=32"
    assert datasets.absolute("rsna:films?split=paper.csv", tmp_path) == f"rsna:{tmp_path}/films?split=paper.csv"


def test_other_boxes_are_other_data(tmp_path):
    hashes = []
    for number, box in enumerate(("5,5,20,20", "9,9,20,20", "5,5,20,20")):
        folder, out = tmp_path / f"data{number}", tmp_path / f"out{number}"
        folder.mkdir()
        out.mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        (folder / "labels.csv").write_text("file,patient_id,target\na.png,p,1\n")
        (folder / "boxes.csv").write_text(f"file,x,y,width,height\na.png,{box}\n")
        job = Job.model_validate(
            {
                "data": {"sources": (f"site=folder:{folder}",), "size": 32},
                "champion": {"bundle": "dicom_node/bundles/default"},
            }
        )
        hashes.append(collect.collect(job, out, lambda _done, **_: None)["data_sha256"])
        assert collect.manifest(out)[0]["boxes"] == "1"
    assert hashes[0] == hashes[2] != hashes[1]


def test_two_names_for_the_same_patients_are_refused(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('[data]\nsources = ["nih:a", "rsna:b"]\n')
    with pytest.raises(JobError, match=r"job\.toml:2: data\.sources: .*have the same patients: take one of them"):
        load(file)


def test_patients_of_a_nodes_exports_are_known_whatever_the_source_is_called():
    assert patient_prefix("spring=studies:/srv/a") == patient_prefix("studies:/srv/b") == "studies"
    assert patient_prefix("spring=folder:/srv/a") == "spring"


@pytest.mark.parametrize("stated", [True, False])
def test_a_split_that_no_source_states_is_left_to_the_book(tmp_path, stated):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["file,patient_id,target,target_source" + (",split" if stated else "")]
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"{i}.png,p{i},{i % 2},csv" + (",test" if stated else ""))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    assert datasets.read(f"folder:{folder}").ready_made is stated
    job = Job.model_validate(
        {
            "data": {"sources": (f"site=folder:{folder}",), "size": 32},
            "champion": {"bundle": "dicom_node/bundles/default"},
        }
    )
    out = tmp_path / "out"
    out.mkdir()
    collect.collect(job, out, lambda _done, **_: None)
    found = collect.manifest(out)
    assert [row["split"] for row in found] == ["test" if stated else ""] * 4
    assert [row["target_source"] for row in found] == ["csv"] * 4
    assert [row["patient"] for row in found] == [f"site/p{i}" for i in range(4)]
    assert read_json(out / "manifest.json")["images"] == 4


def test_the_licences_of_public_sets_are_stated():
    for reader, words in {"nih": "NIH Clinical Center", "kermany": "CC BY 4.0", "rsna": "Shih G"}.items():
        assert words in datasets.attribution(reader)
    assert datasets.attribution("studies") == ""
