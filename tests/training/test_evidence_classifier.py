"""The training of a classifier that decides by maps: from boxes or labels, resumed to the bit, refused by name."""

import json
from dataclasses import replace

import pytest
import torch

from explain_core.classifiers.evidence_lite0 import EvidenceLite0, log_mean_exp
from explain_core.geometry import AffineRange
from training.bundle import RECIPES, best_draw
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs import evidence_classifier
from training.runs.evidence_classifier import EvidenceSettings, augmented, goodness, scores, validate
from training.runs.evidence_targets import Lessons

BOX = (0.5, 0.25, 0.25, 0.25)


def lessons(count=8, seed=0, size=64, *, boxes=True, visible=False):
    """Dim noise; every second image has a bright square, and a box there."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(20, 90, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    positive = torch.arange(count) % 2
    quarter = size // 4
    images[1::2, :, quarter : 2 * quarter, 2 * quarter : 3 * quarter] += 150
    labels = torch.stack([positive, 1 - positive], 1).float()
    return Lessons(
        images=images,
        labels=labels,
        trust=torch.ones(count, 2) * (0.0 if visible else 1.0),
        boxes=tuple({0: (BOX,)} if boxes and one else {} for one in positive.tolist()),
        map_trust=torch.tensor([[1.0 if boxes else 0.0, 0.0]] * count),
        visible=torch.ones(count, 1, size // 4, size // 4, dtype=torch.bool) if visible else None,
        shapes=((size, size),) * count,
    )


TINY = EvidenceSettings(copies=2, epochs=2, noise_epochs=2, batch=4, part_batch=4, device="cpu")


def train(out, settings=TINY, whole=None, parts=None, validation=None, **more):
    out.mkdir(exist_ok=True)
    whole, validation = whole or lessons(), validation or lessons(6, seed=1)
    return evidence_classifier.train(settings, whole, parts, validation, out, **more)


class StopAt:
    """Asks to stop at the call of this number."""

    def __init__(self, call):
        self.call, self.told = call, []

    def __call__(self, done, **figures):
        self.told.append((done, figures))
        if len(self.told) == self.call:
            raise Cancelled("stop")


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nothing happened to, with parts beside whole images."""
    out = tmp_path_factory.mktemp("evidence") / "whole"
    told = StopAt(-1)
    return out, train(out, parts=lessons(6, seed=2, visible=True), progress=told), told.told


def test_both_stages_run_and_say_how_they_went(whole_run):
    out, network, told = whole_run
    assert isinstance(network, EvidenceLite0)
    assert not network.training
    made = json.loads((out / "classifier.json").read_text())
    assert [(row["stage"], row["epoch"]) for row in made["history"]] == [
        ("cached", 0), ("cached", 1), ("noise", 0), ("noise", 1),
    ]  # fmt: skip
    for row in made["history"]:
        assert 0 < row["loss"] < 20
        assert 0 <= row["auc"] <= 1
        assert 0 <= row["iou_90"] <= 1
    assert made["settings"]["noise"] == 0.3
    assert same(torch.load(out / "classifier.pt", weights_only=True), network.state_dict())
    assert [figures["stage"] for _, figures in told] == ["cached"] * 4 + ["noise"] * 4


def test_of_several_draws_the_best_on_the_validation_images_is_kept(tmp_path):
    recipe = replace(RECIPES["cpu"], classifier=replace(TINY, seed=3, epochs=1, noise_epochs=1), draws=3)
    taught = (lessons(), None, lessons(40, seed=1))
    network, settings, said = best_draw(recipe, taught, tmp_path)
    folders = [tmp_path / name for name in ("classifier", "classifier-1", "classifier-2")]
    rows = [json.loads((one / "classifier.json").read_text()) for one in folders]
    assert [row["settings"]["seed"] for row in rows] == [3, 4, 5]
    sums = [goodness(row["kept"]) for row in rows]
    assert len(set(sums)) > 1, "some draw is better"
    best = sums.index(max(sums))
    assert settings.seed == 3 + best
    assert same(torch.load(folders[best] / "classifier.pt", weights_only=True), network.state_dict())
    assert rows[best]["kept"] in rows[best]["history"][1:], "an epoch of the last stage"
    assert f"best of 3 draws on the validation patients (sums of figures: {sums[0]:.3f}, {sums[1]:.3f}, " in said
    assert best_draw(replace(recipe, draws=1), taught, tmp_path)[2] == ""
    with pytest.raises(TrainingError, match="--draws 0: at least one run"):
        best_draw(replace(recipe, draws=0), taught, tmp_path)


def test_the_first_stage_leaves_the_frozen_blocks_as_they_were(tmp_path):
    network = train(tmp_path / "run", replace(TINY, epochs=1, noise_epochs=0))
    torch.manual_seed(TINY.seed)
    before, after = EvidenceLite0(2).state_dict(), network.state_dict()
    frozen = [
        name
        for name in before
        if name.startswith("stem.") or name.split(".")[:2] in [["blocks", str(i)] for i in range(5)]
    ]
    assert len(frozen) > 20
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["blocks.5.project.0.weight"], after["blocks.5.project.0.weight"])
    assert not torch.equal(before["output.weight"], after["output.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("calls", [pytest.param((3,), marks=pytest.mark.slow), (6, 2)], ids=str)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(whole_run, tmp_path, calls):
    """In the first stage, in the second, and more than once; with other random numbers drawn in between."""
    parts = lessons(6, seed=2, visible=True)
    for call in calls:
        with pytest.raises(Cancelled):
            train(tmp_path / "run", parts=parts, progress=StopAt(call))
        assert not (tmp_path / "run" / "classifier.pt").exists()
        torch.rand(7)
    resumed = train(tmp_path / "run", parts=parts)
    assert same(resumed.state_dict(), whole_run[1].state_dict())
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in json.loads(text)["history"]]
        for text in ((out / "classifier.json").read_text() for out in (tmp_path / "run", whole_run[0]))
    ]
    assert rows[0] == rows[1]


def test_a_checkpoint_of_another_run_is_refused(whole_run):
    out, parts = whole_run[0], lessons(6, seed=2, visible=True)
    for settings, whole in (
        (replace(TINY, noise=0.1), lessons()),
        (TINY, lessons(boxes=False)),
        (TINY, lessons(seed=9)),
    ):
        with pytest.raises(TrainingError, match=r"checkpoint_cached\.pt was made with other settings, data or classif"):
            train(out, settings, whole, parts)
    assert train(out, replace(TINY, device="auto"), parts=parts), "where it runs makes no other run"


def test_labels_alone_train_as_well_and_say_what_that_costs(tmp_path, capsys):
    short = replace(TINY, epochs=1, noise_epochs=0)
    train(tmp_path / "labels", short, lessons(boxes=False), validation=lessons(6, seed=1, boxes=False))
    assert (
        "no boxes of the first output: its maps learn from labels alone and localise worse" in capsys.readouterr().out
    )
    (row,) = json.loads((tmp_path / "labels" / "classifier.json").read_text())["history"]
    assert "iou_90" not in row
    assert goodness(row) == row["auc"] + row["auc_expert"]
    train(tmp_path / "boxes", short)
    assert "no boxes" not in capsys.readouterr().out


def test_a_loss_that_is_not_finite_names_its_stage(tmp_path):
    broken = lessons()
    broken.labels[1, 0] = torch.nan
    with pytest.raises(TrainingError, match="the loss of the stage 'cached' is not finite"):
        train(tmp_path / "cached", whole=broken)
    with pytest.raises(TrainingError, match="the loss of the stage 'noise' is not finite"):
        train(tmp_path / "noise", replace(TINY, epochs=0), broken)
    assert not (tmp_path / "noise" / "classifier.pt").exists()


def test_fewer_images_than_a_batch_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="3 training images are fewer than one batch of 4"):
        train(tmp_path, whole=lessons(3))


def test_boxes_move_with_their_images():
    """Whatever the transform, the cells that count as covered are the bright ones."""
    wild = AffineRange(degrees=15, height_shift=0.2, width_shift=0.2, zoom=0.2)
    made = augmented(lessons(16, size=256), wild, 0.0, torch.Generator().manual_seed(0))
    assert made.truths.shape == (16, 2, 16, 16)
    bright = torch.nn.functional.adaptive_avg_pool2d(made.x, 16)
    for image in range(1, 16, 2):
        covered = made.truths[image, 0]
        assert float(covered.max()) > 0.9
        inside, outside = bright[image, 0][covered > 0.9], bright[image, 0][covered == 0]
        assert float(inside.min()) > float(outside.max()), image
    assert not made.truths[::2].any()
    places = {tuple(one[0].flatten().tolist()) for one in made.truths[1::2]}
    assert len(places) == 8, "every copy is another"


def test_scores_are_those_of_the_network(whole_run):
    network, held = whole_run[1], lessons(6, seed=1)
    logits, maps = scores(network, held)
    with torch.no_grad():
        seen = network.look(held.images.float() / 255)
    torch.testing.assert_close(logits, seen.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(maps, seen.evidence[:, :1], atol=1e-4, rtol=1e-4)


class Known(torch.nn.Module):
    """Maps as they are wanted, by the mean of an image."""

    def __init__(self, where):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.where = where

    def evidence(self, x):
        strength = x.mean((1, 2, 3))[:, None, None, None] * 20
        maps = torch.zeros(len(x), 2, 4, 4)
        maps[:, :, *self.where] = 1
        return maps * strength * self.scale

    def decide(self, maps):
        return log_mean_exp(maps)


def test_validation_tells_a_map_in_the_box_from_one_beside_it():
    held = lessons(8)
    held.trust[6:, 0] = 0.5  # abnormal, without an opacity
    held.labels[6:, 0] = 0
    right, wrong = validate(Known((1, 2)), held), validate(Known((3, 0)), held)
    assert right["auc"] == right["auc_expert"] == 1
    assert 0.5 <= right["auc_hard"] <= 1, "of the two abnormal ones one is as bright"
    assert right["iou_90"] > 0.3
    assert wrong["iou_90"] == 0
    assert goodness(right) == pytest.approx(sum(right[name] for name in ("auc", "auc_expert", "auc_hard", "iou_90")))
