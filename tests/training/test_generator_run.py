"""Table I as files, and the losses that training makes of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from explain_core.classifier import DecisionRule, Tempered
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.geometry import InputSpec
from explain_core.losses import LossWeights
from training import cohort, datasets, presets
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs import generators, image_classifier

# Table I of arXiv:2012.07332, columns c1 to c7 of ../shared/method.md section 2, reading B
TABLE_I = {
    "duo_tv": (1, 1, 1, 0, 0.001, 0, 0.2),
    "duo_w_tv": (1, 1, 1, 0, 0.001, 0.1, 0.2),
    "single_1_tv": (1, 1, 1, 0, 0.001, 0, 0.2),
    "single_1_w": (3, 1, 1, 0.2, 0.001, 0.1, 0),
    "single_1_w_tv": (1, 1, 1, 0.2, 0.001, 0.1, 0.2),
    "single_2_w": (3, 1, 1, 0.2, 0.001, 0.2, 0),
    "single_2_w_tv": (3, 1, 1, 0.2, 0.001, 0.2, 0.2),
}


@pytest.mark.parametrize("name", sorted(TABLE_I))
def test_the_files_hold_table_i(name):
    preset = presets.load(name)
    w = preset.weights
    assert w.decision_similar == w.decision_adversarial
    columns = (w.similar, w.adversarial, w.squared, w.between, w.decision_similar, w.generators, w.total_variation)
    assert columns == TABLE_I[name]
    kind, *rest = name.split("_")
    assert preset.kind == kind
    assert preset.head_layers == (int(rest[0]) if kind == "single" else 1)
    assert (w.generators > 0) == ("w" in rest)
    assert (w.total_variation > 0) == ("tv" in rest)


def test_the_eighth_preset_is_the_naive_generator():
    assert set(presets.available()) == {*TABLE_I, "adversarial_tv"}
    naive = presets.load("adversarial_tv")
    assert (naive.kind, naive.weights.similar, naive.weights.decision_similar) == ("naive", 0, 0)
    with pytest.raises(LookupError, match="single_2_w_tv"):
        presets.load("single_3")


def test_the_margin_on_one_output_is_equation_10_of_two_classes():
    settings = generators.GeneratorSettings(
        objective="margin",
        target=1,
        rule=DecisionRule(threshold=0.8),
        weights=LossWeights(decision_similar=2.0, decision_adversarial=3.0, margin=0.5),
    )
    logits_s, logits_a = torch.tensor([[9.0, 1.5], [9.0, 1.5]]), torch.tensor([[9.0, 1.0], [9.0, 3.0]])
    above = math.log(0.8 / 0.2)
    expected = 0.0
    for z_s, z_a, y in ((1.5 - above, 1.0 - above, 1), (1.5 - above, 3.0 - above, 0)):
        sign = 1 if y else -1
        expected += 2 * max(-sign * z_s, -0.5) + 3 * max(sign * z_a, -0.5)
    loss = generators.decision_loss(logits_s, logits_a, torch.tensor([1, 0]), settings)
    assert float(loss) == pytest.approx(expected / 2, rel=1e-5)


def training_set(size=16):
    torch.manual_seed(0)
    return torch.randint(0, 255, (12, 1, size, size), dtype=torch.uint8)


def settings(**changes):
    defaults = {
        "filters": (4, 8), "steps": 2, "batch": 2, "report_every": 1, "decision_jitter": 1, "decisions": 1,
        "device": "cpu",
    }  # fmt: skip
    return generators.GeneratorSettings(**{**defaults, **changes})


@pytest.mark.parametrize("name", ["duo_w_tv", "single_1_w", "adversarial_tv"])
def test_every_kind_trains_and_resumes(name, tmp_path):
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    images = training_set()
    first = generators.from_preset(settings(steps=1, output="plain"), name)
    before = generators.train(first, images, images[:4], classifier, tmp_path).state_dict()
    again = generators.train(
        generators.from_preset(settings(steps=2, output="plain"), name), images, images[:4], classifier, tmp_path
    )
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 2
    assert any(not torch.equal(value, before[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("row", ["", '{"step": 3, "loss": 1.0}\n'])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, row):
    """Also where it was stopped between a row of its history and the checkpoint."""
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    images, asked = training_set(), settings(steps=4, report_every=2)

    def stop(_done, **figures):
        if figures["step"] == 3:
            raise Cancelled

    for name in ("stopped", "whole"):
        (tmp_path / name).mkdir()
    with pytest.raises(Cancelled):
        generators.train(asked, images, images[:4], classifier, tmp_path / "stopped", progress=stop)
    with (tmp_path / "stopped" / "history.jsonl").open("a") as file:
        file.write(row)
    made = [generators.train(asked, images, images[:4], classifier, tmp_path / name) for name in ("stopped", "whole")]
    for key, value in made[1].state_dict().items():
        assert torch.equal(value, made[0].state_dict()[key]), key
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "history.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_exclusive_classes_train_by_the_margin_with_a_head_each(tmp_path):
    torch.manual_seed(1)
    classifier = ResNet20(3, width=4).eval().requires_grad_(requires_grad=False)
    images = training_set()
    network = generators.train(
        settings(decisions=3, rule=DecisionRule(exclusive=True)), images, images[:4], classifier, tmp_path
    )
    assert len(network.adversarial) == 3


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_term(tmp_path):
    class Broken(ResNet20):
        def forward(self, x):
            return super().forward(x) * torch.nan

    classifier = Broken(1, width=4).eval().requires_grad_(requires_grad=False)
    images = training_set()
    with pytest.raises(TrainingError, match=r"step 1: the loss term decision \(7, 10\) is not finite"):
        generators.train(settings(), images, images[:4], classifier, tmp_path)


def test_an_output_below_zero_everywhere_finds_back_into_the_image():
    """A hard clip has no gradient outside [0, 1]."""
    raw = torch.full((1, 1, 4, 4), -0.3, requires_grad=True)
    clipped = generators.leaky_clip(raw)
    assert float(clipped.detach().max()) == pytest.approx(-0.003)
    (clipped - 0.5).abs().mean().backward()
    assert float(raw.grad.max()) < 0
    assert torch.equal(generators.leaky_clip(torch.tensor([0.0, 0.4, 1.0])), torch.tensor([0.0, 0.4, 1.0]))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    images = training_set()
    generators.train(settings(steps=1), images, images[:4], classifier, tmp_path)
    torch.manual_seed(7)
    other = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    for changed, network, pictures in (
        (settings(steps=1, learning_rate=0.5), classifier, images),
        (settings(steps=1), other, images),
        (settings(steps=1), classifier, images + 1),
    ):
        with pytest.raises(TrainingError, match="made with other settings, data or classifier"):
            generators.train(changed, pictures, images[:4], network, tmp_path)


def test_progress_is_told_each_step_and_a_cancelled_run_goes_on(tmp_path):
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    images, told = training_set(), []

    def stop_at_third(done, **figures):
        told.append((done, figures))
        if len(told) == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        generators.train(
            settings(steps=4, report_every=2), images, images[:4], classifier, tmp_path, progress=stop_at_third
        )
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert [done for done, _ in told] == [0.25, 0.5, 0.75]
    assert "flip_rate" not in told[0][1]
    assert "flip_rate" in told[1][1]
    generators.train(
        settings(steps=4, report_every=2), images, images[:4], classifier, tmp_path,
        progress=lambda done, **figures: told.append((done, figures)),
    )  # fmt: skip
    assert [done for done, _ in told[3:]] == [0.75, 1.0]


def test_generators_start_from_a_bundles_and_not_from_another_architecture(bundle, tmp_path):
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    images, stored = training_set(), bundle / "generators.safetensors"
    ways = settings(steps=1, decisions=2, learning_rate=0.0)
    network = generators.train(ways, images, images[:4], classifier, tmp_path, initial=stored)
    name = "trunk.first.2.weight"
    torch.testing.assert_close(network.state_dict()[name], load_file(stored)[name].float())
    (tmp_path / "other").mkdir()
    with pytest.raises(TrainingError, match="another architecture"):
        generators.train(replace(ways, filters=(4, 6)), images, images[:4], classifier, tmp_path / "other", stored)


def test_a_tempered_classifier_is_another_one_for_its_checkpoint(tmp_path):
    images, plain = training_set(), ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    generators.train(settings(steps=1), images, images[:4], Tempered(plain, 2.0).eval(), tmp_path)
    with pytest.raises(TrainingError, match="other settings, data or classifier"):
        generators.train(settings(steps=1), images, images[:4], Tempered(plain, 3.0).eval(), tmp_path)


def test_the_plain_classifier_trains_resumes_and_refuses_one_class(tmp_path):
    images, _ = cohort.load(datasets.read("phantom?size=32&train=40&validation=20&test=1"), InputSpec(size=32))
    training, validation = images.part("train"), images.part("validation")
    plain = image_classifier.ImageClassifierSettings(epochs=1, batch=8, attack=0.02, device="cpu")
    model = image_classifier.train(plain, training, validation, tmp_path)
    again = image_classifier.train(plain, training, validation, tmp_path)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TrainingError, match="other settings"):
        image_classifier.train(replace(plain, attack=0.0), training, validation, tmp_path)
    normal = training.take(np.flatnonzero(training.targets == 0))
    with pytest.raises(TrainingError, match=r"the training split of .* images lacks a class"):
        image_classifier.train(plain, normal, validation, tmp_path / "new")
    with pytest.raises(TrainingError, match="40 training images are fewer than one batch of 64"):
        image_classifier.train(replace(plain, batch=64), training, validation, tmp_path / "new")


def test_the_attack_moves_pixels_by_at_most_its_size_and_raises_the_loss():
    torch.manual_seed(0)
    weights = torch.randn(1, 1, 8, 8)
    x = torch.full((4, 1, 8, 8), 0.5)
    moved = image_classifier.attacked(x, weights.expand_as, 0.1)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert float(((moved - x) * weights).sum()) > 0
