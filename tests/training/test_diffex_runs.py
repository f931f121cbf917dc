"""DiffEx in training: drawn images, what is refused, that runs resume, what is measured, and the whole of it."""

import functools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from explain_core.bundles.files import digest_of
from explain_core.diffex.attributes import Attribute, Attributes, load_attributes, save_attributes
from explain_core.diffex.directions import Bank, contrast
from explain_core.diffex.parts import by_place
from explain_core.diffex.ranking import Decoding, prepare
from explain_core.diffex.subject import Question, Subject
from explain_core.errors import BundleError
from explain_core.explainer import open_bundle
from explain_core.files import write_json
from explain_core.geometry import InputSpec
from explain_core.radiograph import Radiograph
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from training import cohort, datasets, subjects
from training.datasets import drawing
from training.datasets.loading import load_inputs
from training.datasets.readers import cells, phantom, thorax
from training.datasets.tables import DatasetError
from training.diffex import show
from training.diffex.attach import attach
from training.diffex.command import CLAIM, own, run, seeds
from training.diffex.explain import CodeUnused, opposite
from training.diffex.figures import figures, markdown, stability
from training.diffex.judge import order
from training.diffex.request import Request, check, request
from training.errors import TrainingError
from training.measure import attributes as measure
from training.measure.factors import meter, true_effects
from training.progress import Cancelled
from training.runs.diffex import directions
from training.runs.diffex.autoencoder import frozen, material, train
from training.runs.diffex.directions import learn
from training.runs.diffex.settings import PRESETS, DiffexSettings, build

SMALL = "thorax?size=32&train=96&validation=48&test=48"
TINY = replace(
    PRESETS["phantom"], steps=6, batch=8, checkpoint_every=2, report_every=2, directions=3, direction_steps=4,
    direction_batch=3, decoding_steps=3, ranked=12, attributes=2, noise="inverted", least=-1.0,
    channels=(16, 32, 32), encoder_channels=(16, 32, 32), device="cpu", precision="32-true",
)  # fmt: skip


@functools.cache
def images_of(spec=SMALL):
    data = datasets.read(spec)
    return data, cohort.load(data, InputSpec(size=32))[0]


def toy(images, **changes):
    """A subject that decides a third of the images one way."""
    classifier = ToyClassifier(1)
    logits = classifier(images.float() / 255)[:, 0].sigmoid()
    threshold = float(logits.quantile(0.6))
    return Subject(**{"classifier": classifier, "outputs": ("abnormal",), "size": 32, "threshold": threshold} | changes)


@pytest.mark.parametrize("reader", [thorax, cells])
def test_one_factor_changed_is_the_true_counterfactual(reader):
    base = dict.fromkeys((factor.name for factor in reader.FACTORS), 0.0) | {
        name: -1.0 for name in ("corner tag",) if name in {factor.name for factor in reader.FACTORS}
    }
    same = drawing.image(reader.draw, base, 3, 32)
    assert np.array_equal(same, drawing.image(reader.draw, base, 3, 32))
    assert same.dtype == np.float32
    assert 0 <= same.min() < same.max() <= 1
    for factor in reader.FACTORS:
        changed = drawing.image(reader.draw, base | {factor.name: 1.0}, 3, 32)
        assert np.abs(changed - same).max() > 0.05, factor.name
    if reader is thorax:
        heart = np.abs(drawing.image(thorax.draw, base | {"heart width": 1.0}, 3, 32) - same) > 0.01
        assert heart.any()
        assert not heart[:10].any()  # the heart is not in the upper third
        tagged = np.abs(drawing.image(thorax.draw, base | {"corner tag": 1.0}, 3, 32) - same) > 0.01
        assert tagged.sum() == 16


@pytest.mark.parametrize("reader", ["thorax", "cells"])
def test_the_class_follows_from_the_defining_factors_alone(reader):
    data, images = images_of(f"{reader}?train=400&validation=8&test=8")
    names = [factor.name for factor in data.factors]
    defining = [names.index(factor.name) for factor in data.factors if factor.defining]
    assert np.array_equal(images.targets == 1, images.factors[:, defining].sum(axis=1) > 0)
    for number, factor in enumerate(data.factors):
        correlation = abs(np.corrcoef(images.factors[:, number], images.targets)[0, 1])
        assert (correlation > 0.3) == factor.defining, factor.name


@pytest.mark.slow
def test_the_corner_tag_says_the_class_as_often_as_asked():
    for tag, agrees in ((50, 0.5), (95, 0.95), (100, 1.0)):
        _, images = images_of(f"thorax?tag={tag}&train=600&validation=1&test=1")
        assert np.mean((images.factors[:, -1] > 0) == (images.targets == 1)) == pytest.approx(agrees, abs=0.05)
    for wrong in ("tag=101", "tag=x", "train=0", "size=-1"):
        with pytest.raises(DatasetError, match=f"thorax\\?{wrong}: give a whole number"):
            datasets.read(f"thorax?{wrong}")


@pytest.mark.slow
def test_the_meter_reads_the_factors_and_takes_what_it_learnt(tmp_path):
    data, images = images_of("cells?train=300&validation=60&test=1")
    parts = images.part("train"), images.part("validation")
    made = meter(*parts, data.factors, tmp_path, epochs=10)
    by_name = {factor.name: value for factor, value in zip(data.factors, made.explained, strict=True)}
    assert by_name["size"] > 0.7
    assert by_name["direction"] > 0.5
    shuffled = replace(parts[1], factors=parts[1].factors[::-1])
    again = meter(parts[0], shuffled, data.factors, tmp_path, epochs=10)
    assert again.explained.max() < 0.2
    assert np.array_equal(again.read(parts[1].images[:4].float() / 255), made.read(parts[1].images[:4].float() / 255))
    with pytest.raises(TrainingError, match="drawn by known factors"):
        meter(*parts, (), tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    _, images = images_of()
    training = images.part("train").images
    subject, whole = toy(training), tmp_path / "whole"
    undisturbed = train(TINY, subject, training, whole)

    def stop(done, **_):
        if done > 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(TINY, subject, training, tmp_path / "cut", stop)
    resumed = train(TINY, subject, training, tmp_path / "cut")
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(TrainingError, match="made with other settings"):
        train(replace(TINY, dropped=0.5), subject, training, tmp_path / "cut")


@pytest.mark.slow
def test_codes_of_the_training_images_have_no_mean_and_unit_variance(tmp_path):
    _, images = images_of()
    training = images.part("train").images
    subject = toy(training)
    model = train(TINY, subject, training, tmp_path)
    x = training.float() / 255
    with torch.no_grad():
        codes = model.code(model.latents(x).half().float(), subject.probabilities(subject.logits(x)))
    assert torch.allclose(codes.mean(dim=0), torch.zeros(64), atol=1e-3)
    assert torch.allclose(codes.std(dim=0), torch.ones(64), atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 1.0}, "decides for 'abnormal' of no image"),
        ({"threshold": 0.0}, "decides for 'abnormal' of every image"),
        ({"size": 16, "low": float("-inf")}, "NaN or infinity of some images"),
    ],
)
def test_a_classifier_with_nothing_to_explain_is_refused_in_one_line(changes, said, tmp_path):
    _, images = images_of()
    training = images.part("train").images
    with pytest.raises(TrainingError, match=said) as told:
        material(TINY, toy(training, **changes), training, tmp_path)
    assert "\n" not in str(told.value)
    assert "range of its input" in str(told.value)


def test_exclusive_classes_of_which_one_is_always_taken_are_refused(tmp_path):
    _, images = images_of()
    training = images.part("train").images

    class First(nn.Module):
        def forward(self, x):
            return torch.tensor([[5.0, 0.0, 0.0]]).expand(len(x), -1)

    subject = Subject(classifier=First(), outputs=("a", "b", "c"), size=32, exclusive=True)
    with pytest.raises(TrainingError, match="decides every image as 'a'"):
        material(TINY, subject, training, tmp_path)


@pytest.mark.slow
def test_without_gradients_the_pull_is_refused_and_the_rest_works(tmp_path):
    _, images = images_of()
    training = images.part("train").images
    blind = toy(training)
    blind = replace(blind, classifier=WithoutGradients(blind.classifier))
    with pytest.raises(TrainingError, match="set pull to 0"):
        train(TINY, blind, training, tmp_path)
    settings = replace(TINY, pull=0.0)
    model = frozen(train(settings, blind, training, tmp_path))
    latents = model.latents(training[:16].float() / 255)
    codes, bank = torch.randn(16, 64), Bank(3, 64)
    with pytest.raises(TrainingError, match='set effect to 0, and features to "image" or "encoder"'):
        learn(replace(settings, features="classifier"), model, blind, latents, codes, bank, 2.0, tmp_path)
    learn(settings, model, blind, latents, codes, bank, 2.0, tmp_path)
    with pytest.raises(ValueError, match="need gradients"):
        by_place(model, blind, latents, codes, 2, further=torch.zeros(0, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "features"),
    [("mlp", "classifier"), ("mlp", "image"), ("mlp", "encoder"), ("mlp", "projector"), ("global", "classifier")],
)
def test_directions_learn_and_go_on(features, form, tmp_path):
    _, images = images_of()
    training = images.part("train").images
    subject = toy(training)
    settings = replace(TINY, features=features, form=form, direction_steps=6)
    model = frozen(build(settings, subject).eval())
    x = training[:24].float() / 255
    latents, codes = model.latents(x), torch.randn(24, 64, generator=torch.Generator().manual_seed(0))

    def learnt(out, progress=lambda *_, **__: None):
        out.mkdir(exist_ok=True)
        bank = Bank(3, 64, form=form)
        before = bank.of_learnt(codes[:4]).detach().clone()
        history = learn(settings, model, subject, latents, codes, bank, 2.0, out, progress)
        assert not torch.allclose(before, bank.of_learnt(codes[:4]))
        assert [row["step"] for row in history] == [2, 4, 6]
        return bank

    def stop(done, **_):
        if done > 0.5:
            raise Cancelled("enough")

    whole = learnt(tmp_path / "whole")
    with pytest.raises(Cancelled):
        learnt(tmp_path / "cut", stop)
    cut = learnt(tmp_path / "cut")
    assert torch.equal(whole.of_learnt(codes[:4]), cut.of_learnt(codes[:4]))


@pytest.mark.parametrize("features", ["classifier", "image", "encoder", "projector"])
def test_a_step_of_the_directions_holds_some_rows_at_a_time(monkeypatch, features):
    _, images = images_of()
    training = images.part("train").images[:4]
    subject, settings = toy(training), replace(TINY, features=features)
    model = frozen(build(settings, subject).eval())
    generator = torch.Generator().manual_seed(0)
    latents = model.latents(training.float() / 255)
    codes, t = torch.randn(4, 64, generator=generator), torch.full((4,), settings.glimpse)
    start = codes[:, None] + torch.randn(4, 3, 64, generator=generator)
    torch.manual_seed(0)
    see, projector = directions._seen(settings, model, subject)
    held, own = [], model.glimpse

    def glimpse(noisy, *rest):
        held.append(len(noisy))
        return own(noisy, *rest)

    monkeypatch.setattr(model, "glimpse", glimpse)
    found = {}
    for rows in (12, 5):
        monkeypatch.setattr(directions, "_ROWS", rows)
        moved = start.clone().requires_grad_()
        changes, moves = directions._changes(model, subject, see, latents, t, codes, moved)
        (contrast(changes) - moves.mean()).backward()
        found[rows] = (changes, moves, moved.grad, *(one.grad.clone() for one in projector.parameters()))
        projector.zero_grad()
        assert max(held) == rows
        held.clear()
    for whole, parts in zip(found[12], found[5], strict=True):
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


def test_the_published_objective_sees_no_image(tmp_path):
    """Directions learnt from projections of codes are the same whatever the model draws."""
    _, images = images_of()
    training = images.part("train").images
    subject, settings = toy(training), replace(TINY, features="projector", direction_steps=4)
    codes = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, bank = frozen(build(settings, subject).eval()), Bank(3, 64)
        (tmp_path / str(seed)).mkdir()
        latents = model.latents(training[:24].float() / 255)
        learn(settings, model, subject, latents, codes, bank, 2.0, tmp_path / str(seed))
        found.append(bank.of_learnt(codes[:1]))
    assert torch.equal(*found)


def test_the_true_effect_of_a_factor_is_that_of_images_drawn_anew():
    data, images = images_of("thorax?train=8&validation=8&test=24")
    test = images.part("test")

    class Corner(nn.Module):
        """Sees the corner tag, and a little of how dark the picture is."""

        def forward(self, x):
            return (10 * (x[:, 0, :4, :4].mean(dim=(1, 2)) - 0.5) + x.mean(dim=(1, 2, 3)))[:, None]

    subject = Subject(classifier=Corner(), outputs=("abnormal",), size=32)
    patient = test.patients[0]
    assert torch.equal(load_inputs([data.redraw(patient, {})], InputSpec(size=32)), test.images[:1])
    assert data.redraw(patient, {"shift": 0.5}).factors[4] == 0.5
    question, cpu = Question(0, holds=True), torch.device("cpu")
    found = true_effects(subject, question, test.patients, data.factors, data.redraw, 32, cpu)
    assert next(iter(found)) == "corner tag"
    assert found["corner tag"]["to"] == 1
    assert found["corner tag"]["crossed"] == 1
    assert found["exposure"]["to"] == -1, "a curve below 1 is bright"
    assert 0 < found["exposure"]["probability"] < 0.1 < found["corner tag"]["probability"]
    others = [sample for sample in data if sample.split == "test" and sample.factors[-1] < 0]
    assert len(others) < len(test.patients), "images with the tag are decided so already, and left out"


def test_the_gate_names_what_is_missing():
    good = {"use": 0.5, "agreement": 0.97}
    assert measure.refusal(good) is None
    assert "two codes from one noise differ by 0.010" in measure.refusal(good | {"use": 0.01})
    assert "of 0.900 of the decoded images" in measure.refusal(good | {"agreement": 0.9})


def test_the_use_of_the_code_is_that_of_its_formula():
    _, images = images_of()
    training = images.part("train").images
    subject, x = toy(training), training[:6].float() / 255
    model = frozen(build(TINY, subject).eval())
    found = measure.code_use(model, subject, x, Decoding(steps=2, batch=3))
    with torch.no_grad():
        ignoring = frozen(build(TINY, subject).eval())
        ignoring.condition[-1].weight.zero_()
        ignoring.sketch[0].weight.zero_()
    assert measure.code_use(ignoring, subject, x, Decoding(steps=2))["use"] == pytest.approx(0, abs=1e-9)
    assert found["use"] > 0
    assert set(found) == {"use", "agreement", "agreement_fixed", "agreement_inverted", "psnr"}


def test_selectivity_is_the_first_factor_over_the_second():
    change = np.array([[1.0, -0.5, 0.1], [3.0, -1.5, 0.3]])
    assert measure.selectivity(change) == pytest.approx(2)
    assert measure.selectivity(-change) == pytest.approx(2)


def test_where_a_change_lies_in_words():
    picture = np.zeros((9, 9))
    picture[7, 1] = -1
    assert show.place(picture) == "lower left"
    assert show.place(np.zeros((9, 9))) == "nowhere"
    colours = show.coloured(np.array([[0.0, show.FULL, -show.FULL, -9.0]]))
    assert colours[0, 0].tolist() == [255, 255, 255]
    assert colours[0, 1, 0] > colours[0, 1, 2]
    assert colours[0, 2, 2] > colours[0, 2, 0]
    assert colours[0, 3].tolist() == colours[0, 2].tolist()


def test_attributes_of_two_seeds_are_alike_where_they_change_the_same():
    one, other = np.eye(4)[0].reshape(2, 2), np.eye(4)[1].reshape(2, 2)
    rows = [{"picture": one.tolist()}], [{"picture": (3 * one).tolist()}], [{"picture": other.tolist()}]
    assert stability([rows[0], rows[1]]) == pytest.approx(1)
    assert stability([rows[0], rows[2]]) == pytest.approx(0)
    assert stability([rows[0]]) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("there is none", "", Path()), "no preset 'there is none'; there is: phantom, cells, chest, folder, gpu"),
        (("folder", "", Path()), "the preset folder brings no data: name them with --data"),
        (("chest", "nih:x", Path()), "name its --weights"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(arguments, said):
    with pytest.raises(TrainingError, match=said):
        request(*arguments)


def test_a_folder_of_pictures_is_read_and_what_cannot_be_is_named(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / f"p{number % 6}").mkdir(exist_ok=True)
        pixels = generator.integers(0, 255, (20, 24), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{number % 6}" / f"{number}.png")
    Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "alone.jpg")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    data = datasets.read(f"pictures:{tmp_path}")
    assert len(data) == 13
    assert [Path(problem.where).name for problem in data.problems] == ["torn.png"]
    assert {sample.patient_id for sample in data} == {"alone", *(f"p{n}" for n in range(6))}
    by_patient = {}
    for sample in data:
        assert by_patient.setdefault(sample.patient_id, sample.split) == sample.split
    images, _ = cohort.load(data, InputSpec(size=16))
    assert images.targets.tolist() == [-1] * 13
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no usable image"):
        datasets.read(f"pictures:{tmp_path / 'empty'}")


def test_pictures_keep_their_grey_values(tmp_path):
    grey = np.full((16, 16), 100, np.uint8)
    grey[4:8] = 140
    Image.fromarray(grey).save(tmp_path / "a.png")
    images, _ = cohort.load(replace(datasets.read(f"pictures:{tmp_path}"), samples=tuple(
        replace(sample, split="train") for sample in datasets.read(f"pictures:{tmp_path}")
    )), InputSpec(size=16))  # fmt: skip
    assert (int(images.images.min()), int(images.images.max())) == (100, 140)


class Colours(nn.Module):
    """A classifier of colours in -1 to 1, of three classes."""

    def forward(self, x):
        bright, corner = x.mean(dim=(1, 2, 3)), x[:, 0, :6, :6].mean(dim=(1, 2))
        return torch.stack([bright, corner, -bright], dim=1) * 4


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_file_of_colours_and_classes_is_called_as_it_wants(tmp_path):
    torch.jit.script(Colours()).save(tmp_path / "c.pt")
    given = subjects.File(
        path=tmp_path / "c.pt", outputs=("a", "b", "c"), size=24, exclusive=True, low=-1.0, high=1.0, channels=3
    )
    subject = subjects.of_file(given)
    logits = subject.logits(torch.full((2, 1, 32, 32), 0.75))
    assert torch.allclose(logits, torch.tensor([[2.0, 2.0, -2.0]]).expand(2, -1), atol=1e-5)
    assert not subject.differentiable
    for wrong, said in (
        ({"path": tmp_path / "c.bin"}, "a TorchScript file"),
        ({"path": tmp_path / "d.pt"}, "there is no such file"),
        ({"outputs": ()}, "name what its outputs stand for"),
        ({"low": 1.0}, "a range from low to high"),
    ):
        with pytest.raises(TrainingError, match=said):
            subjects.of_file(replace(given, **wrong))


def judged_of(seed):
    """What `judge` says of two attributes, made up."""
    generator = np.random.default_rng(seed)

    def row(name, strength):
        return {
            "name": name, "direction": f"+{name}", "probability": (generator.random(8) * strength).tolist(),
            "evidence": generator.random(8).tolist(), "crossed": [1, 0] * 4, "monotone": [1] * 8,
            "picture": generator.random((4, 4)).tolist(), "oracle": generator.random(8).tolist(),
            "factors": {"heart": 0.9, "tag": 0.1}, "selectivity": 9.0, "factor": "heart",
        }  # fmt: skip

    question = {
        "patients": [f"p{n}" for n in range(8)],
        "attributes": [row("learnt 1", 0.6), row("learnt 2", 0.2)],
        "references": [
            row(name, 0.1)
            for name in ("part 1", "learnt 1", "mean difference", "logistic regression", "axis 1", "random 1")
        ],
        "order": {"tau": 0.8, "tau_evidence": 0.7, "tau_noise": 0.5},
        "whole_bank": ["+learnt 1"],
        "together": [[1, 0] * 4, [1] * 8],
        "random": [[0] * 8, [0.25] * 8],
    }
    return {
        "use": {"use": 1.5, "agreement": 0.97, "agreement_fixed": 0.9, "agreement_inverted": 0.8, "psnr": 27.0},
        "gap": 2.0,
        "questions": {"abnormal": question},
        "factors": [{"name": "heart", "defining": True}, {"name": "tag", "defining": False}],
        "meter": [0.9, 0.99],
    }


def test_the_order_is_that_of_directions_and_not_of_their_signs():
    strengths = np.array([0.1, 0.2, 0.3, 0.4])
    foreseen = np.stack([strengths, -strengths], axis=1).ravel()
    turned = np.stack([strengths[::-1], -strengths[::-1]], axis=1).ravel()
    assert order(foreseen.tolist(), foreseen.tolist()) == 1
    assert order(foreseen.tolist(), turned.tolist()) == -1, "over both signs it would be above 0"
    assert order((-foreseen).tolist(), (-turned).tolist()) == -1


def test_a_network_that_was_trained_anew_is_another_request(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    marks = set()
    for text in ("one", "two"):
        (folder / "SHA256SUMS").write_text(text)
        asked = Request(data=SMALL, out=tmp_path / "out", settings=TINY, classifier=folder)
        marks |= {own(asked), own(replace(asked, gate=False))}
    assert len(marks) == 4


@pytest.mark.slow
def test_a_seed_whose_code_is_not_used_is_named_and_where_all_are_it_is_an_error(tmp_path):
    """After so few steps no code is used: the gate refuses. Another seed is there already, as if it had passed."""
    asked = Request(data=SMALL, out=tmp_path, settings=TINY)
    with pytest.raises(CodeUnused):
        seeds(asked, 1)
    assert not (tmp_path / "seed-0" / "report.html").exists()
    other = replace(asked, out=tmp_path / "seed-1", settings=replace(TINY, seed=1))
    other.out.mkdir()
    write_json(other.out / CLAIM, {"request": own(other)})
    write_json(other.out / "judged.json", judged_of(1))
    (other.out / "report.html").touch()
    found = seeds(asked, 2)
    assert (found["seeds"], [*found["refused"]]) == (1, ["seed-0"])
    assert "Refused, seed-0: " in (tmp_path / "figures.md").read_text()


def test_figures_pool_the_seeds_and_say_what_was_covered():
    found = figures([judged_of(0), judged_of(1)])
    part = found["questions"]["abnormal"]
    assert found["seeds"] == 2
    assert part["kinds"]["attributes"]["crossed"]["value"] == pytest.approx(0.5)
    assert part["kinds"]["attributes"]["crossed"]["images"] == 32
    assert part["sufficient"]["value"] == pytest.approx(0.75)
    assert part["sufficient"]["interval"][0] > 0
    assert part["covered"][0] == {"defining": 1, "of": 1, "nuisances": [], "led": ["heart", "heart"]}
    text = markdown(found)
    assert "Kendall's tau of all directions at their better signs: .800, .800" in text
    assert "Refused, seed-3: too little." in markdown(found | {"refused": {"seed-3": "too little"}})
    assert "Seed 1: the attributes lead heart, heart; 1 of 1 factors that define the class, 0 nuisances." in text
    json.dumps(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_of_it_from_drawing_to_the_page(tmp_path):
    longer = replace(TINY, steps=240, checkpoint_every=100, decoding_steps=5)  # decoded images are decided alike then
    asked = Request(data=SMALL, out=tmp_path, settings=longer, gate=False)
    found, out = seeds(asked, 1), tmp_path / "seed-0"
    assert found["seeds"] == 1
    page = (out / "report.html").read_text()
    assert page.count("<h2>What makes it say") == 2
    assert "NOT FOR DIAGNOSIS" in page
    assert "Every picture here is synthetic" in page
    kept = load_attributes(out / "attributes.safetensors")
    assert kept.how.steps == 5
    assert all(math.isfinite(one.monotone) for one in kept.ranked)
    before = (out / "attributes.safetensors").stat().st_mtime_ns
    assert seeds(asked, 1) == found
    assert (out / "attributes.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TrainingError, match=r"the code is hardly used|the classifier says of"):
        run(replace(asked, out=tmp_path / "gated", settings=TINY, gate=True))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_any_folder_and_any_file_are_explained_by_the_command(tmp_path):
    """Pictures without labels, and a TorchScript file of colours: no pull, no oracle, three classes."""
    generator = np.random.default_rng(0)
    for number in range(160):
        pixels = np.clip(generator.normal(110, 12, (32, 32)) + generator.normal(0, 50), 0, 255)
        pixels[:8, :8] = np.clip(pixels[:8, :8] + generator.normal(0, 90), 0, 255)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
    torch.jit.script(Colours()).save(tmp_path / "c.pt")
    command = [
        sys.executable, "-m", "training", "run", "diffex", "--preset", "folder",
        "--data", f"pictures:{tmp_path}/images", "--classifier", str(tmp_path / "c.pt"),
        "--outputs", "bright", "cornered", "dark", "--exclusive",
        "--range", "-1", "1", "--channels", "3", "--input-size", "32", "--size", "32", "--steps", "40",
        "--directions", "2", "--attributes", "1", "--out", str(tmp_path / "out"), "--no-gate",
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("error: the classifier gives no gradients")
    done = subprocess.run(
        [
            *command,
            "--pull",
            "0",
            "--parts",
            "0",
            "--candidates",
            "learnt",
            "--noise",
            "inverted",
            "--ranked",
            "12",
            "--decoding-steps",
            "3",
            "--direction-steps",
            "20",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "seed-0" / "report.html").read_text()
    assert [f"What makes it say {name}" in page for name in ("bright", "cornered", "dark")] == [True] * 3
    for name, question in json.loads((tmp_path / "out" / "seed-0" / "judged.json").read_text())["questions"].items():
        names = [row["name"] for row in question["references"]]
        assert [f"{kind} of {name}" for kind in ("mean difference", "logistic regression")] == names[2:4]
        assert not any(" of " in one for one in names[4:]), "no control of another answer"


def test_images_that_are_all_decided_as_asked_cannot_rank():
    _, images = images_of()
    test = images.part("test").images
    subject = toy(test, threshold=0.0)
    with pytest.raises(TrainingError, match="0 images are decided otherwise than 'abnormal', and 8 are needed"):
        opposite(test, subject, Question(0, True), 12, torch.device("cpu"))
    found, places = opposite(test, toy(test), Question(0, True), 12, torch.device("cpu"))
    assert len(found) == len(places) == 12
    assert torch.equal(found, test[places].float() / 255)


def found_of(bundle):
    """Untrained attributes of a bundle's classifier, long enough to change something."""
    torch.manual_seed(0)
    opened = open_bundle(bundle, device="cpu").bundle
    subject = Subject(classifier=opened.tempered(), outputs=(opened.label,), size=32, threshold=opened.threshold)
    ranked = tuple(
        Attribute(
            name=f"{holds} {column}", question=Question(0, holds), column=column, length=20.0,
            effect=0.1, evidence=0.5, flipped=0.2, monotone=0.9,
        )
        for holds in (True, False)
        for column in range(4)
    )  # fmt: skip
    explains = digest_of(bundle / "classifier.safetensors")
    return Attributes(build(TINY, subject).eval(), Bank(2, 64).eval(), ranked, Decoding(steps=2), explains)


@pytest.mark.slow
def test_a_bundle_takes_what_was_found_of_its_own_classifier_and_explains_by_it(tmp_path, parts):
    bundle, data = parts / "champion", "phantom?size=32&train=8&validation=6&test=1"
    found = found_of(bundle)
    save_attributes(tmp_path / "found", found)
    digest = attach(bundle, tmp_path / "found", tmp_path / "new", data)
    opened = open_bundle(tmp_path / "new", device="cpu")
    assert opened.identity.digest == digest != open_bundle(bundle, device="cpu").identity.digest
    assert opened.bundle.heatmaps["diffex"].scale.full_scale > 1e-3
    pixels = phantom.draw(3, 40).pixels
    (explained,) = opened.explain(
        Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="phantom"), ["diffex"]
    )
    assert explained.morphs
    assert all(one.images.shape == (len(one.parts), 32, 32) for one in explained.morphs)
    assert float(explained.attribution.values.max()) > 0
    with pytest.raises(TrainingError, match="the folder is there already"):
        attach(bundle, tmp_path / "found", tmp_path / "new", data)
    save_attributes(tmp_path / "other", replace(found, explains="0" * 64))
    with pytest.raises(BundleError, match="was found of another classifier"):
        attach(bundle, tmp_path / "other", tmp_path / "none", data)
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".none*"))


def test_a_folder_of_another_request_is_refused(tmp_path):
    asked = Request(data=SMALL, out=tmp_path, settings=TINY)
    write_json(tmp_path / CLAIM, {"request": own(asked)})
    assert own(replace(asked, settings=replace(TINY, threads=2))) == own(asked)
    for other in (replace(asked, data="cells"), replace(asked, settings=replace(TINY, strength=2.0))):
        with pytest.raises(TrainingError, match="made with other data, settings or classifier; use another folder"):
            own(other)


def test_what_a_classifier_cannot_serve_is_refused_before_anything_is_trained():
    _, images = images_of()
    subject = toy(images.part("train").images)
    blind = replace(subject, classifier=WithoutGradients(subject.classifier))
    with pytest.raises(TrainingError, match="say --pull 0 --apart-by independence"):
        check(TINY, blind)
    check(TINY, subject)
    check(replace(TINY, pull=0.0, parts=0, candidates="learnt"), blind)
    check(replace(TINY, pull=0.0, apart_by="independence"), blind)
    with pytest.raises(TrainingError, match="--candidates learnt"):
        check(replace(TINY, parts=0), subject)


def test_random_directions_are_as_long_as_what_they_are_compared_with():
    _, images = images_of()
    x = images.part("test").images[:12].float() / 255
    subject = toy(images.part("test").images)
    model = frozen(build(TINY, subject).eval())
    bank = Bank(3, 64)
    judge = measure.Judge(model, subject, bank, Decoding(steps=2))
    given = prepare(model, subject, x, judge.how)
    step = judge.step(given, [0, 3], 2.0)
    directions = bank(given.codes)
    assert torch.allclose(step, 2.0 * (directions[:, 0] - directions[:, 1]), atol=1e-5)
    question = Question(0, True)
    assert len(judge.together(given, question, [0, 3], 2.0)) == 2
    assert len(judge.at_random(given, question, [0, 3], 2.0, draws=2)) == 2
    one = judge.column(given, question, 0, 2.0)
    assert one.factors is None
    assert one.oracle is None
    assert one.picture.shape == (32, 32)


def test_settings_of_the_presets_can_be_built():
    for name, settings in PRESETS.items():
        assert isinstance(settings, DiffexSettings)
        if settings.space != "tiny":
            assert (
                build(settings, Subject(classifier=ToyClassifier(1), outputs=("x",), size=32)).side == settings.size
            ), name
