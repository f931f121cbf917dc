"""Table I as files, and the losses that training makes of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from explain_core.bundles.bundle import load
from explain_core.classifier import DecisionRule, Tempered
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.classifiers.resnet50 import ResNet50
from explain_core.errors import FeaturesNeeded
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.geometry import AffineRange, InputSpec
from explain_core.losses import LossWeights
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
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


def test_the_other_presets_are_the_naive_generator_and_ours():
    assert set(presets.available()) == {*TABLE_I, "adversarial_tv", "features", "features_gated"}
    naive = presets.load("adversarial_tv")
    assert (naive.kind, naive.weights.similar, naive.weights.decision_similar) == ("naive", 0, 0)
    ours = [generators.from_preset(generators.GeneratorSettings(), name) for name in ("features", "features_gated")]
    assert [(one.kind, one.gated) for one in ours] == [("features", False), ("features", True)]
    assert replace(ours[0], gated=True) == ours[1], "they differ in nothing else"
    assert (ours[0].decision_noise, ours[0].decision_affine.degrees, ours[0].decision_affine.horizontal_flip) == (
        0.2,
        5,
        0,
    )
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
        "filters": (4, 8), "steps": 2, "batch": 2, "report_every": 1, "decisions": 1,
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
    classifier = load(bundle).classifier.eval().requires_grad_(requires_grad=False)
    images, stored = training_set(64), bundle / "generators.safetensors"
    preset = generators.from_preset(generators.GeneratorSettings(), "features_gated")
    ways = replace(preset, steps=1, batch=2, width=8, learning_rate=0.0, device="cpu")
    network = generators.train(ways, images, images[:4], classifier, tmp_path, initial=stored)
    for name, value in load_file(stored).items():
        torch.testing.assert_close(network.state_dict()[name], value.float(), msg=name)
    assert bool(load_file(stored)["head.weight"].any())
    (tmp_path / "other").mkdir()
    with pytest.raises(TrainingError, match="another architecture"):
        generators.train(replace(ways, width=6), images, images[:4], classifier, tmp_path / "other", stored)


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


# generators on features


@pytest.fixture(scope="module")
def seer():
    """A classifier that decides by a map."""
    torch.manual_seed(0)
    network = EvidenceLite0(1)
    torch.nn.init.normal_(network.output.weight, std=0.5)
    return network.eval().requires_grad_(requires_grad=False)


def truth(size, *place):
    mask = np.zeros((size, size), np.bool_)
    mask[place] = True
    return mask


ON_FEATURES = {"steps": 4, "batch": 2, "report_every": 2, "device": "cpu", "width": 8}


@pytest.mark.parametrize(("name", "stride"), [("features_gated", 8), ("features", 4)])
def test_generators_on_features_resume_to_the_same_weights_and_say_how_they_do(seer, tmp_path, name, stride):
    asked = replace(generators.from_preset(generators.GeneratorSettings(), name), **ON_FEATURES, stride=stride)
    images = training_set(64)
    truths = [truth(64, slice(8, 24), slice(8, 24)), None, truth(64, slice(40, 60), slice(8, 24)), None]

    def stop(_done, **figures):
        if figures["step"] == 3:
            raise Cancelled

    for folder in ("stopped", "whole"):
        (tmp_path / folder).mkdir()
    with pytest.raises(Cancelled):
        generators.train(asked, images, images[:4], seer, tmp_path / "stopped", progress=stop, truths=truths)
    torch.rand(7)
    made = [
        generators.train(asked, images, images[:4], seer, tmp_path / folder, truths=truths)
        for folder in ("stopped", "whole")
    ]
    start = asked.fitted(seer, 64).network().state_dict()
    for key, value in made[1].state_dict().items():
        assert torch.equal(value, made[0].state_dict()[key]), key
    assert not torch.equal(made[0].state_dict()["head.weight"], start["head.weight"])
    rows = [
        [json.loads(line) for line in (tmp_path / one / "history.jsonl").read_text().splitlines()]
        for one in ("stopped", "whole")
    ]
    assert [row["step"] for row in rows[0]] == [2, 4]
    for one, other in zip(*rows, strict=True):
        assert one | {"images_per_second": 0} == other | {"images_per_second": 0}
        assert one.keys() >= {"kept", "flip_rate", "flip_rate_positive", "psnr_similar", "psnr_adversarial", "iou_90"}
        assert 0 <= one["iou_90"] <= 1
        assert one["psnr_adversarial"] > 20
    settings_made = json.loads((tmp_path / "whole" / "generators.json").read_text())
    assert settings_made["channels"] == ([40, 112, 320] if stride == 8 else [24, 40, 112, 320])
    assert settings_made["evidence"] is True
    assert settings_made["gated"] is (name == "features_gated")


def test_generators_read_a_resnet_through_hooks(tmp_path):
    torch.manual_seed(0)
    classifier = ResNet50(1).eval().requires_grad_(requires_grad=False)
    asked = replace(generators.from_preset(generators.GeneratorSettings(), "features"), **ON_FEATURES | {"steps": 1})
    images = training_set(64)
    network = generators.train(asked, images, images[:2], classifier, tmp_path)
    assert network.channels == (512, 1024, 2048)
    assert network.enter_evidence is None
    assert not any(module._forward_hooks for module in classifier.modules())
    maps = SimilarAdversarialMethod(network=network)(
        classifier, images[:2].float() / 255, torch.zeros(2, dtype=torch.long)
    )
    assert float(maps.max()) > 0
    with pytest.raises(ValueError, match="set gated = false"):
        generators.train(replace(asked, gated=True), images, images[:2], classifier, tmp_path)


def test_a_classifier_without_features_is_refused_before_training(tmp_path):
    asked = replace(generators.from_preset(generators.GeneratorSettings(), "features"), **ON_FEATURES)
    classifier = ResNet20(1, width=4).eval().requires_grad_(requires_grad=False)
    with pytest.raises(
        FeaturesNeeded, match=r'ResNet20 offers no features .*generators of another kind, such as "single"'
    ):
        generators.train(asked, training_set(64), training_set(64)[:2], classifier, tmp_path)
    assert not (tmp_path / "generators.json").exists()


def test_validation_counts_flips_and_finds_boxes():
    """A classifier of one square, and generators whose images are known: they darken the square where it decides."""
    square = (slice(4, 8), slice(8, 12))

    class Square(torch.nn.Module):
        def forward(self, images):
            return 40 * (images[:, :, square[0], square[1]].mean((1, 2, 3)) - 0.5)[:, None]

    class Known(SimilarAdversarial):
        def forward(self, x, decisions, seen=None):  # noqa: ARG002
            step = torch.zeros_like(x)
            step[:, :, square[0], square[1]] = 0.5
            return x, x - step * (2.0 * decisions.view(-1, 1, 1, 1) - 1) * (torch.arange(len(x)) > 0).view(-1, 1, 1, 1)

    images = torch.full((4, 1, 16, 16), 80, dtype=torch.uint8)
    images[1:3, :, square[0], square[1]] = 180
    found = generators.validate(images, Known([4, 8]), Square(), settings(), [None, truth(16, *square), None, None])
    assert found["kept"] == 1
    assert found["flip_rate"] == 0.75, "nothing is done to the first"
    assert found["flip_rate_positive"] == 1
    assert found["iou_90"] > 0.5
    assert found["psnr_similar"] > found["psnr_adversarial"] > 10
    aside = generators.validate(
        images, Known([4, 8]), Square(), settings(), [None, truth(16, slice(12, 16), slice(0, 4)), None, None]
    )
    assert aside["iou_90"] == 0
    assert "iou_90" not in generators.validate(images, Known([4, 8]), Square(), settings())


def test_the_classifier_sees_generated_images_moved_and_noisy():
    """Noise of a strength drawn for each image, at most what is asked for; moves only where they are asked for."""
    images = torch.full((64, 1, 32, 32), 0.5)
    seen = generators.perturbed(images, settings(decision_noise=0.2), torch.Generator().manual_seed(0))
    strengths = (seen - 0.5).std((1, 2, 3))
    assert float(strengths.max()) < 0.22
    assert float(strengths.min()) < 0.02
    assert 0.08 < float(strengths.mean()) < 0.12
    ramp = torch.linspace(0, 1, 32).expand(4, 1, 32, 32)
    still = generators.perturbed(ramp, settings(decision_noise=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(still, ramp)
    shifts = AffineRange(degrees=0, height_shift=0, width_shift=0.1, zoom=0, horizontal_flip=0)
    moved = generators.perturbed(
        ramp, settings(decision_noise=0.0, decision_affine=shifts), torch.Generator().manual_seed(0)
    )
    assert len({round(float(one.mean()), 4) for one in moved}) == 4


def test_a_share_of_the_batch_is_judged_for_its_similar_images():
    """The weight of what is kept does not depend on the share; the terms have no more rows than are judged."""
    judged = []

    class Counting(torch.nn.Module):
        def forward(self, images):
            judged.append(len(images))
            return images.mean((1, 2, 3))[:, None]

    x = torch.rand(8, 1, 32, 32)
    for share, rows in ((1.0, 16), (0.25, 10)):
        asked = settings(decisions=1, similar_share=share)
        judged.clear()
        generators.loss_terms(x, asked.network(), Counting(), asked, torch.Generator().manual_seed(0))
        assert judged == [8, rows]
    logits = torch.tensor([[2.0], [-1.0], [0.5], [3.0]])
    asked = settings(sharpness=2.0, weights=LossWeights(decision_similar=0.3, decision_adversarial=0.7))
    y = torch.tensor([1, 0, 1, 1])

    def bce(z, t):
        return math.log(1 + math.exp(-z if t else z))

    kept = (bce(4, 1) + bce(-2, 0)) / 2
    changed = (bce(4, 0) + bce(-2, 1) + bce(1, 0) + bce(6, 0)) / 4
    loss = generators.decision_loss(logits[:2], logits, y, asked)
    assert float(loss) == pytest.approx(0.3 * kept + 0.7 * changed, rel=1e-5)
