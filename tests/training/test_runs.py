"""The training runs, for real, on a folder of small images: seconds, not hours."""

import json
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.slow


def run(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"training.runs.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_classifier_then_generators_and_resuming(nih_folder, tmp_path):
    nih = f"nih:{nih_folder}"
    out = tmp_path / "c"
    run("classifier", "--nih", nih, "--out", out, "--epochs", 1, "--paediatric-epochs", 0, "--batch", 8)
    history = json.loads((out / "classifier.json").read_text())["history"]
    assert len(history) == 1
    assert 0 <= history[0]["validation_auc"] <= 1
    generators = tmp_path / "g"
    common = ("--nih", nih, "--classifier", out / "classifier.pt", "--out", generators, "--filters", 4, 8, "--batch", 2)
    run("generators", *common, "--steps", 2)
    before = torch.load(generators / "checkpoint.pt", weights_only=True)
    assert before["step"] == 2
    assert "resuming at step 2" in run("generators", *common, "--steps", 3)
    after = torch.load(generators / "checkpoint.pt", weights_only=True)
    assert after["step"] == 3
    name = "trunk.first.2.weight"
    assert not torch.equal(before["generators"][name], after["generators"][name])
    rows = [json.loads(line) for line in (generators / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3]


def test_the_classifier_of_no_seed_has_seen_a_test_patient(shared_data):
    from training import datasets
    from training.splits import TEST_FOLDS, VALIDATION_FOLDS

    samples = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    training = {s.patient_id for s in samples if s.fold not in TEST_FOLDS | VALIDATION_FOLDS}
    held_out = {s.patient_id for s in samples if s.fold in TEST_FOLDS | VALIDATION_FOLDS}
    assert training
    assert held_out
    assert not training & held_out
