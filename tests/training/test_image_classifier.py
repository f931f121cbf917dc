"""The classifier's training: it resumes to the bit, averages, freezes, starts from other weights, can be stopped."""

import json
from dataclasses import replace

import pytest
import torch

from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.geometry import InputSpec
from training import cohort, datasets
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs import image_classifier, weights
from training.runs.image_classifier import ImageClassifierSettings
from training.runs.processes import Batch, SharedDropout


@pytest.fixture(scope="module")
def phantoms():
    images, _ = cohort.load(datasets.read("phantom?size=32&train=40&validation=20&test=1"), InputSpec(size=32))
    return images.part("train"), images.part("validation")


def settings(**changes):
    defaults = {"epochs": 2, "batch": 8, "device": "cpu", "precision": "32-true", "attack": 0.02}
    return ImageClassifierSettings(**defaults | changes)


def rows(folder):
    history = json.loads((folder / "classifier.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in history]


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


class StopAfter:
    """Asks to stop at the call of this number."""

    def __init__(self, calls):
        self.calls, self.told = calls, []

    def __call__(self, done, **figures):
        self.told.append((done, figures))
        if len(self.told) == self.calls:
            raise Cancelled("stop")


@pytest.mark.parametrize("ways", [{}, {"average_decay": 0.9, "architecture": "efficientnet_lite0"}], ids=str)
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_as_if_it_had_not(phantoms, tmp_path, ways):
    plain = settings(checkpoint_every=2, **ways)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = image_classifier.train(plain, *phantoms, tmp_path / "whole").state_dict()
    for calls in (3, 6):  # of 5 steps and an end per epoch: at steps 3 of the first and, from step 2, 2 of the second
        with pytest.raises(Cancelled):
            image_classifier.train(plain, *phantoms, tmp_path / "stopped", progress=StopAfter(calls))
        assert (tmp_path / "stopped" / "checkpoint.pt").is_file()
    resumed = image_classifier.train(plain, *phantoms, tmp_path / "stopped").state_dict()
    assert same(whole, resumed)
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")
    last = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped")]
    assert same(last[0]["parts"][0], last[1]["parts"][0])
    assert len(last[0]["parts"]) == (4 if plain.average_decay else 3)


def test_progress_rises_to_the_end_and_names_epoch_and_loss(phantoms, tmp_path):
    told = StopAfter(-1)
    image_classifier.train(settings(), *phantoms, tmp_path, progress=told)
    done = [part for part, _ in told.told]
    assert done == sorted(done)
    assert done[-1] == 1
    assert len(done) == 12, "five steps and an end in each of two epochs"
    assert told.told[0][1].keys() == {"epoch", "step", "loss"}
    assert told.told[6][1]["validation_auc"] == told.told[5][1]["validation_auc"]


def test_frozen_statistics_stay_and_others_move(phantoms, tmp_path):
    torch.manual_seed(3)
    start = ResNet20(1).state_dict()
    for frozen in (True, False):
        out = tmp_path / str(frozen)
        out.mkdir()
        made = image_classifier.train(
            settings(epochs=1, frozen_statistics=frozen), *phantoms, out, initial=start
        ).state_dict()
        statistics = [name for name in start if "running" in name]
        assert all(torch.equal(made[name], start[name]) for name in statistics) is frozen
        assert not torch.equal(made["output.weight"], start["output.weight"])


def test_the_average_is_what_is_kept(phantoms, tmp_path):
    for name, decay in (("plain", 0.0), ("average", 0.999)):
        (tmp_path / name).mkdir()
        image_classifier.train(settings(epochs=1, average_decay=decay), *phantoms, tmp_path / name)
    kept = torch.load(tmp_path / "average" / "classifier.pt", weights_only=True)
    state = torch.load(tmp_path / "average" / "checkpoint.pt", weights_only=True)
    first_step = torch.load(tmp_path / "plain" / "classifier.pt", weights_only=True)
    assert same(kept, {name.removeprefix("module."): v for name, v in state["parts"][3].items() if "module" in name})
    assert same(first_step, state["parts"][0]), "averaging changes nothing of the training"
    assert not same(kept, first_step)


def test_a_run_starts_from_the_leading_outputs_of_a_bundle(bundle, tmp_path):
    wide = weights.read_weights(bundle)
    network = EfficientNetLite0(1)
    weights.start_from(network, bundle)
    made = network.state_dict()
    assert torch.equal(made["output.weight"], wide["output.weight"][:1].float())
    assert torch.equal(made["output.bias"], wide["output.bias"][:1].float())
    assert torch.equal(made["head.0.weight"], wide["head.0.weight"].float())
    with pytest.raises(TrainingError, match=r"do not fit: stem\.0\.weight has shape"):
        weights.start_from(ResNet20(1), bundle)
    with pytest.raises(TrainingError, match=r"do not fit: output\.weight has shape \(1, 1280\), needed \(3, 1280\)"):
        weights.start_from(EfficientNetLite0(3), made)
    with pytest.raises(TrainingError, match="no weights to start from"):
        weights.start_from(network, tmp_path)


def test_a_run_from_other_weights_is_another_run(phantoms, tmp_path):
    one, other = ResNet20(1).state_dict(), ResNet20(1).state_dict()
    image_classifier.train(settings(epochs=1), *phantoms, tmp_path, initial=one)
    image_classifier.train(settings(epochs=1), *phantoms, tmp_path, initial=one)
    with pytest.raises(TrainingError, match="other settings, data or classifier"):
        image_classifier.train(settings(epochs=1), *phantoms, tmp_path, initial=other)


def test_no_such_precision_and_a_loss_that_is_not_finite_are_refused(phantoms, tmp_path):
    with pytest.raises(TrainingError, match="one of auto, 32-true, 64-true, bf16-mixed, got '16'"):
        image_classifier.train(settings(precision="16"), *phantoms, tmp_path)
    broken = ResNet20(1).state_dict()
    broken["output.bias"] *= float("nan")
    with pytest.raises(TrainingError, match="epoch 0, step 1: the cross-entropy is not finite"):
        image_classifier.train(settings(), *phantoms, tmp_path, initial=broken)


def test_parts_of_a_batch_are_what_one_process_draws():
    plain = settings(noise=0.1)
    images = torch.randint(0, 255, (7, 1, 16, 16), dtype=torch.uint8)
    batches = [Batch(7, rank, 3) for rank in range(3)]
    assert [batch.share for batch in batches] == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    whole = image_classifier.augment(images, plain, torch.Generator().manual_seed(5))
    made = [image_classifier.augment(images, plain, batch.generator.manual_seed(5), batch.part) for batch in batches]
    torch.testing.assert_close(torch.cat(made), whole)
    alone = Batch(7, 0, 1)
    dropped = []
    for batch in (alone, *batches):
        batch.generator.manual_seed(6)
        dropout = SharedDropout(0.4, batch)
        dropped.append(dropout(torch.ones(len(range(7)[batch.part]), 50)))
        assert torch.equal(dropout.eval()(torch.ones(2, 2)), torch.ones(2, 2))
    assert torch.equal(torch.cat(dropped[1:]), dropped[0])
    assert 0.3 < (dropped[0] == 0).float().mean() < 0.5
    assert float(dropped[0].max()) == pytest.approx(1 / 0.6)


def test_bfloat16_computes_otherwise_and_ends_near(phantoms, tmp_path):
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        (tmp_path / precision).mkdir()
        image_classifier.train(settings(epochs=1, precision=precision), *phantoms, tmp_path / precision)
        losses.append(rows(tmp_path / precision)[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_settings_of_an_earlier_run_are_read_back(phantoms, tmp_path):
    plain = settings(epochs=1, frozen_statistics=True)
    image_classifier.train(plain, *phantoms, tmp_path)
    assert image_classifier.settings_of(tmp_path, phantoms[0]) == plain
    other = replace(phantoms[0], targets=1 - phantoms[0].targets)
    with pytest.raises(TrainingError, match="trained on other images"):
        image_classifier.settings_of(tmp_path, other)
