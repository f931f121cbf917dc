"""Two gloo processes on CPU train as one: the same loss curve and the same weights, from files and through torchrun."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0
from explain_core.geometry import InputSpec
from training import cohort, datasets
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs import cohort_classifier
from training.runs.image_classifier import ImageClassifierSettings, build, fingerprint_of

EXACT = 1e-9  # relative, in float64; ten steps make 1e-14 of its rounding, and 1e-2 of float32's on some processors
ROUNDED = 1e-6  # relative; validation logits are gathered in float32


@pytest.fixture(scope="module")
def phantoms():
    images, _ = cohort.load(datasets.read("phantom?size=32&train=45&validation=21&test=1"), InputSpec(size=32))
    return images.part("train"), images.part("validation")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def settings(**changes):
    defaults = {
        "epochs": 2,
        "batch": 9,
        "device": "cpu",
        "precision": "32-true",
    }
    return ImageClassifierSettings(**defaults | changes)


def losses(folder):
    history = json.loads((folder / "classifier.json").read_text())["history"]
    return np.array([[row["loss"], row["validation_loss"]] for row in history])


class Told:
    """Keeps what it is told, and asks to stop at the first word where it shall."""

    def __init__(self, *, stop=False):
        self.done, self.stop = [], stop

    def __call__(self, done, **_figures):
        self.done.append(done)
        if self.stop:
            raise Cancelled("enough")


def with_statistics_of(network, images):
    """The weights of a network whose batch statistics are those of the images."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images.float() / 255)
    return network.state_dict()


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(phantoms, tmp_path):
    """In float64; the batch of 9 is parted unequally, dropout is on, and the average is kept."""
    torch.manual_seed(0)
    start = with_statistics_of(EfficientNetLite0(1), phantoms[0].images)
    ways = settings(
        architecture="efficientnet_lite0",
        learning_rate=1e-4,
        precision="64-true",
        frozen_statistics=True,
        average_decay=0.8,
    )
    curves, weights = [], []
    for name, processes in (("one", 1), ("two", 2)):
        cohort_classifier.write_request(tmp_path / name, ways, *phantoms, start)
        told = Told()
        cohort_classifier.launch(tmp_path / name, processes, told)
        assert told.done[-1] == 1
        curves.append(losses(tmp_path / name))
        weights.append(torch.load(tmp_path / name / "classifier.pt", weights_only=True))
    assert np.ptp(curves[0][:, 0]) > 0.01, "the curve is no flat line"
    np.testing.assert_allclose(curves[1][:, 0], curves[0][:, 0], rtol=EXACT)
    np.testing.assert_allclose(curves[1][:, 1], curves[0][:, 1], rtol=ROUNDED)
    torch.testing.assert_close(weights[1], weights[0], rtol=EXACT, atol=EXACT)
    learned = weights[0]["stem.0.weight"]
    assert learned.dtype == torch.float64
    assert (learned - start["stem.0.weight"]).abs().mean() > 1e4 * EXACT, "the weights are not those at the start"


@pytest.mark.slow
def test_batch_statistics_of_two_processes_on_a_cpu_are_refused(phantoms, tmp_path):
    cohort_classifier.write_request(tmp_path, settings(epochs=1), *phantoms)
    with pytest.raises(TrainingError, match="set frozen_statistics, or start one process"):
        cohort_classifier.launch(tmp_path, 2)


def test_a_run_is_cancelled_by_a_file_and_goes_on(phantoms, tmp_path, monkeypatch, capsys):
    cohort_classifier.write_request(tmp_path, settings(checkpoint_every=1), *phantoms)
    monkeypatch.setattr("sys.argv", ["cohort_classifier", "--folder", str(tmp_path)])
    (tmp_path / "cancel").touch()
    with pytest.raises(SystemExit) as ended:
        cohort_classifier.main()
    assert ended.value.code == cohort_classifier.CANCELLED
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "classifier.json").exists()
    (tmp_path / "cancel").unlink()
    cohort_classifier.main()
    history = json.loads((tmp_path / "classifier.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1]
    model = build("resnet20", 1)
    model.load_state_dict(torch.load(tmp_path / "classifier.pt", weights_only=True))
    assert model.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 1)
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 1


@pytest.mark.slow
def test_a_cancelled_launch_stops_its_processes(phantoms, tmp_path):
    cohort_classifier.write_request(tmp_path, settings(epochs=500), *phantoms)
    with pytest.raises(Cancelled, match="enough"):
        cohort_classifier.launch(tmp_path, 1, Told(stop=True))
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_run_that_does_not_answer_is_ended_and_is_a_stop_all_the_same(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_classifier, "_PATIENCE", 0.5)
    cohort_classifier.write_request(tmp_path, settings(), *phantoms)
    with pytest.raises(Cancelled, match="enough"):
        cohort_classifier.launch(tmp_path, 1, Told(stop=True), prefix=("sh", "-c", "exec sleep 600"))


def _processes_with(text):
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)


@pytest.mark.slow
def test_processes_that_a_signal_ended_first_are_a_stop_and_no_failure(phantoms, tmp_path):
    """Ctrl-C and a service manager signal torchrun together with the job."""
    cohort_classifier.write_request(tmp_path, settings(epochs=500), *phantoms)
    killed = []

    def told(_done, **_figures):
        if killed:
            raise Cancelled("told to stop")
        end = time.monotonic() + 60
        while not killed:  # a process that has only just begun has no command line yet
            assert time.monotonic() < end
            killed.extend(_processes_with(str(tmp_path)))
        for number in killed:
            os.kill(number, signal.SIGKILL)
        time.sleep(1)

    with pytest.raises(Cancelled, match="told to stop"):
        cohort_classifier.launch(tmp_path, 1, told)


def test_truths_and_sources_travel_with_the_images(phantoms, tmp_path):
    assert {truth is None for truth in phantoms[0].truths} == {True, False}
    training = replace(phantoms[0], sources=tuple(f"reader {index % 3}" for index in range(len(phantoms[0]))))
    bare = replace(phantoms[1], truths=(None,) * len(phantoms[1]))
    cohort_classifier.write_request(tmp_path, settings(), training, bare)
    for name, sent in (("training", training), ("validation", bare)):
        found = cohort_classifier._cohort(tmp_path / f"{name}.npz", name, sent.classes, exclusive=sent.exclusive)
        assert torch.equal(found.images, sent.images)
        assert found.targets.tolist() == sent.targets.tolist()
        assert found.sources == sent.sources
        for truth, expected in zip(found.truths, sent.truths, strict=True):
            assert (truth is None) == (expected is None)
            assert truth is None or (truth.dtype == np.bool_ and np.array_equal(truth, expected))
        assert fingerprint_of(found) == fingerprint_of(sent)


def test_a_folder_without_a_request_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cohort_classifier", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^error: .*no request\.json; write_request makes it$"):
        cohort_classifier.main()
