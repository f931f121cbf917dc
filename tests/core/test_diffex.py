"""DiffEx: the subject, the autoencoder's algebra and gradients, directions, ranking, and what is kept of them."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from explain_core.classifier import DecisionRule
from explain_core.diffex import ranking
from explain_core.diffex.attributes import KEY, Attribute, Attributes, load_attributes, save_attributes
from explain_core.diffex.directions import Bank, contrast, decorrelation, references, supervised
from explain_core.diffex.parts import by_independence, by_place
from explain_core.diffex.ranking import Decoding, attfind, changed, effects, prepare
from explain_core.diffex.semantic import SemanticAutoencoder, SemanticConfig
from explain_core.diffex.subject import Question, Subject
from explain_core.diffusion.autoencoders import Identity, Patches
from explain_core.diffusion.schedule import inverter, kept, noised, sampler, walk
from explain_core.errors import AttributionError, BundleError
from explain_core.geometry import resized
from explain_core.methods.diffex import PARTS, DiffEx
from explain_core.testing.classifier import ToyClassifier, WithoutGradients

CONFIG = SemanticConfig(
    size=8, latent_channels=4, answers=1, code=12, channels=(8, 16), attention=(False, True),
    encoder_channels=(8, 16), layers=1, head_dim=8, groups=4,
)  # fmt: skip


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    return SemanticAutoencoder(Patches(), dataclasses.replace(CONFIG, **changes)).eval()


def subject_of(outputs=1, **changes):
    names = tuple(f"finding {number}" for number in range(outputs))
    return Subject(**{"classifier": ToyClassifier(outputs), "outputs": names, "size": 16} | changes)


def images_of(count=4, size=16, seed=0):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def spread(subject, images):
    """The subject with a threshold between its probabilities: some images are decided one way, some the other."""
    return dataclasses.replace(subject, threshold=float(subject.logits(images)[:, 0].sigmoid().median()))


class Seen(nn.Module):
    """Keeps what it is given, and answers with its mean."""

    def forward(self, x):
        self.x = x
        return x.mean(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_a_classifier_is_given_the_range_the_size_and_the_channels_that_it_takes(low, high):
    seen = Seen()
    subject = Subject(classifier=seen, outputs=("yes",), size=8, low=low, high=high, channels=3)
    subject.logits(torch.cat([torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 1.5)]))
    assert seen.x.shape == (2, 3, 8, 8)
    assert float(seen.x[0].max()) == low
    assert float(seen.x[1].min()) == pytest.approx(high)


def test_a_classifier_decides_in_float32_in_the_midst_of_a_training_in_bfloat16():
    subject, images = subject_of(), images_of(2, size=24)
    with torch.autocast("cpu", torch.bfloat16):
        seen = subject.logits(images.bfloat16())
    assert seen.dtype == torch.float32
    assert torch.equal(seen, subject.logits(images.bfloat16().float()))


@pytest.mark.parametrize("wrong", [{"outputs": ()}, {"low": 1.0}, {"channels": 2}])
def test_a_classifier_that_nobody_can_call_is_refused(wrong):
    with pytest.raises(ValueError, match="needs an output, a range from low to high, and 1 or 3 channels"):
        Subject(**{"classifier": ToyClassifier(1), "outputs": ("yes",), "size": 16} | wrong)


def test_divergence_is_that_of_the_decisions():
    single, exclusive = subject_of(2), subject_of(3, exclusive=True)
    a, b = torch.tensor([[0.3, -1.0]]), torch.tensor([[1.1, 0.4]])
    p, q = a.sigmoid().double(), b.sigmoid().double()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert float(single.divergence(a, b)) == pytest.approx(float(expected), rel=1e-5)
    assert float(single.divergence(a, a)) == pytest.approx(0, abs=1e-7)
    a, b = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[1.1, 0.4, 0.0]])
    p, q = a.softmax(dim=1).double(), b.softmax(dim=1).double()
    assert float(exclusive.divergence(a, b)) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


def test_answers_probability_and_evidence_agree():
    logits = torch.tensor([[2.0, 0.5, -1.0], [-1.0, 0.0, 3.0]])
    exclusive = subject_of(3, exclusive=True)
    for question in exclusive.questions():
        p, e = exclusive.probability(logits, question), exclusive.evidence(logits, question)
        assert torch.allclose(p, e.sigmoid(), atol=1e-6)
    assert [exclusive.answers(logits, q).tolist() for q in exclusive.questions()] == [
        [True, False], [False, False], [False, True],
    ]  # fmt: skip
    single = subject_of(3, threshold=0.7, asked=(0, 2))
    assert single.questions() == tuple(Question(o, h) for o in (0, 2) for h in (True, False))
    holds, not_ = Question(0, True), Question(0, False)
    assert torch.allclose(single.probability(logits, holds) + single.probability(logits, not_), torch.ones(2))
    assert torch.equal(single.answers(logits, holds), ~single.answers(logits, not_))
    assert single.answers(torch.tensor([[0.5, 0, 0]]), holds).tolist() == [False]  # sigmoid .62, below .7
    assert single.named(not_) == "no finding 0"


@pytest.mark.parametrize("predicts", ["v", "epsilon"])
def test_noise_and_image_follow_from_what_the_unet_shall_say(predicts):
    model = model_of(predicts=predicts)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    t = torch.tensor([1, 400, 800])
    z, said = noised(latents, noise, model.left[t]), model.target(latents, noise, t)
    assert torch.allclose(model.noise_of(z, t, said), noise, atol=1e-4)
    assert torch.allclose(model.clean_of(z, t, said), latents, atol=1e-2)


@pytest.mark.parametrize("aware", [True, False])
def test_the_code_knows_what_the_classifier_says_only_where_it_is_told(aware):
    model, latents = model_of(aware=aware), torch.randn(2, 4, 8, 8)
    one, other = (model.raw(latents, torch.full((2, 1), p)) for p in (0.1, 0.9))
    assert torch.equal(one, other) != aware


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name
        for name in ("encoder.conv_in", "flatten", "fuse", "condition.0", "sketch.0", "unet.conv_in", "unet.conv_out")
        if (grad := model.get_submodule(name).weight.grad) is not None and float(grad.abs().sum()) > 0
    }


PARTS_TRAINED = {"encoder.conv_in", "flatten", "fuse", "condition.0", "sketch.0", "unet.conv_in", "unet.conv_out"}


def test_gradients_of_the_denoising_reach_every_part():
    model, latents = model_of(), torch.randn(2, 4, 8, 8)
    noise, t = torch.randn_like(latents), torch.tensor([300, 700])
    said = model.predicted(noised(latents, noise, model.left[t]), t, model.raw(latents, torch.rand(2, 1)))
    assert gradients(model, (said - model.target(latents, noise, t)).pow(2).mean()) == PARTS_TRAINED


def test_gradients_of_the_divergence_reach_every_part():
    """In the authors' public code they reach none: both of its chains are run without gradients."""
    model, subject, images = model_of(), subject_of(), images_of(2)
    logits = subject.logits(images)
    latents, t = model.latents(images), torch.tensor([300, 700])
    raw = model.raw(latents, subject.probabilities(logits))
    z = noised(latents, torch.randn_like(latents), model.left[t])
    seen = model.images(model.clean_of(z, t, model.predicted(z, t, raw)))
    assert gradients(model, subject.divergence(logits, subject.logits(seen * 0.2 + 0.4)).sum()) == PARTS_TRAINED


def test_guidance_enlarges_what_the_code_adds():
    model, z, t = model_of(), torch.randn(2, 4, 8, 8), torch.tensor([500, 500])
    codes = torch.randn(2, 12)
    with torch.no_grad():
        free = model.noise(z, t, model.null.expand(2, -1))
        own = model.noise(z, t, model.told(codes))
        assert torch.allclose(model.guided(z, t, codes, 0.0), free, atol=1e-6)
        assert torch.equal(model.guided(z, t, codes, 1.0), own)
        assert torch.allclose(model.guided(z, t, codes, 3.0), free + 3 * (own - free), atol=1e-5)


def test_inversion_and_decoding_are_each_others_inverse_where_the_noise_is_known():
    """Of Gaussian data the noise in z_t is known: e = sqrt(1 - a) z / (a s^2 + 1 - a)."""
    left, deviation = kept(betas="linear"), 0.5
    z = deviation * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def noise(x, t):
        a = left[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x / (a * deviation**2 + 1 - a)

    errors = []
    for steps in (10, 20, 50):
        there = walk(inverter(steps, "linear"), noise, z)
        assert 0.8 < float(there.std()) < 1.1
        errors.append(float((walk(sampler(steps, "linear"), noise, there) - z).abs().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("wrong", [{"channels": (8,)}, {"size": 9}, {"groups": 5}])
def test_a_shape_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match=r"levels of channels|cannot be halved|do not divide"):
        dataclasses.replace(CONFIG, **wrong)


def test_a_network_for_other_latents_or_images_is_refused():
    with pytest.raises(ValueError, match="4 channels and latents of 1"):
        SemanticAutoencoder(Identity(), CONFIG)
    with pytest.raises(ValueError, match=r"\(N, 1, 16, 16\) are needed, got \(1, 1, 8, 8\)"):
        model_of().latents(torch.zeros(1, 1, 8, 8))


def test_the_contrast_is_what_its_formula_says():
    changes = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    unit = changes / changes.norm(dim=2, keepdim=True)
    terms = []
    for image in range(3):
        for k in range(4):
            alike = [abs(float(unit[image, k] @ unit[i, k])) for i in range(3) if i != image]
            unlike = [abs(float(unit[image, k] @ unit[i, j])) for i in range(3) for j in range(4) if j != k]
            terms.append(-math.log(np.mean(np.exp(0.5 * np.array(alike))) / np.mean(np.exp(0.5 * np.array(unlike)))))
    assert float(contrast(changes)) == pytest.approx(np.mean(terms), rel=1e-9)
    assert float(contrast(-changes)) == pytest.approx(float(contrast(changes)))


def test_the_contrast_is_least_for_changes_alike_over_images_and_apart_over_directions():
    apart = torch.eye(4).expand(3, -1, -1)
    assert float(contrast(apart)) < float(contrast(torch.ones(3, 4, 4)))
    assert float(contrast(torch.ones(3, 4, 4))) == pytest.approx(0, abs=1e-6)
    for shape in ((1, 4, 4), (3, 1, 4)):
        with pytest.raises(ValueError, match="two images and two directions"):
            contrast(torch.ones(shape))


def test_decorrelation_is_the_mean_squared_cosine():
    assert float(decorrelation(torch.eye(4).expand(2, -1, -1))) == 0
    same = torch.ones(2, 3, 4) / 2
    assert float(decorrelation(same)) == pytest.approx(1)


@pytest.mark.parametrize("form", ["global", "mlp"])
def test_directions_have_unit_length_and_only_the_published_form_depends_on_the_code(form):
    fixed, names = torch.tensor([[3.0, 4.0, 0.0]]), ("mean difference",)
    bank = Bank(2, 3, form=form, fixed=fixed, names=names).eval()
    found = bank(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (5, 3, 3)
    assert torch.allclose(found.norm(dim=2), torch.ones(5, 3), atol=1e-5)
    assert torch.allclose(found[:, 2], torch.tensor([0.6, 0.8, 0.0]).expand(5, -1))
    assert bool((found[0, 0] == found[1, 0]).all()) == (form == "global")
    assert bank.names == ("learnt 1", "learnt 2", "mean difference")
    with pytest.raises(ValueError, match="2 names and 1 fixed"):
        Bank(1, 3, fixed=fixed, names=("a", "b"))


def test_the_directions_that_learnt_ones_are_compared_with():
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(200, 6)) * np.array([1, 1, 5, 1, 1, 1])
    decided = codes[:, 1] + 0.1 * generator.normal(size=200) > 0
    found, names, gap = references(codes, {"a": decided}, axes=2, randoms=1)
    assert names == ("mean difference", "logistic regression", "axis 1", "axis 2", "random 1")
    difference = codes[decided].mean(axis=0) - codes[~decided].mean(axis=0)
    assert np.allclose(found[0], difference, atol=1e-6)
    assert gap == pytest.approx(np.linalg.norm(difference))
    assert int(found[1].abs().argmax()) == 1
    assert int(found[2].abs().argmax()) == 2
    for same in (np.ones(200, bool), np.zeros(200, bool)):
        with pytest.raises(ValueError, match="all images are decided alike about 'b'"):
            references(codes, {"a": decided, "b": same})


def test_every_answer_of_more_than_two_has_directions_that_know_it():
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(300, 6))
    classes = codes[:, :3].argmax(axis=1)
    decided = {name: classes == number for number, name in enumerate("abc")}
    found, names, gap = references(codes, decided, axes=1, randoms=1)
    assert names[:6] == tuple(name for one in "abc" for name in supervised("abc", one))
    assert names[2] == "mean difference of b"
    for number in range(3):
        for row in found[2 * number : 2 * number + 2]:
            assert int(row.argmax()) == number
    assert gap == pytest.approx(float(found[:6:2].norm(dim=1).mean()))
    assert [one.output for one in subject_of(3, exclusive=True).contrasts()] == [0, 1, 2]
    assert subject_of(2, exclusive=True).contrasts() == (Question(0, holds=True),)
    assert dataclasses.replace(subject_of(3), asked=(0, 2)).contrasts() == (
        Question(0, holds=True),
        Question(2, holds=True),
    )


def test_what_varies_independently_is_found_whatever_its_size():
    """Five factors of unlike sizes, mixed into codes: independence finds each, principal axes none of the like ones."""
    drawn = np.random.default_rng(0)
    factors = drawn.uniform(-1, 1, (2000, 5)) * [1, 1, 1, 0.5, 0.5]
    mixing = drawn.normal(size=(5, 12))
    codes = factors @ mixing
    found = by_independence(torch.from_numpy(codes), 5).numpy()
    true = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    cosines = np.abs(true @ found.T)
    assert cosines.max(axis=1).min() > 0.99
    assert sorted(cosines.argmax(axis=1)) == [0, 1, 2, 3, 4], "each by another"
    axes = np.linalg.svd(codes - codes.mean(axis=0), full_matrices=False)[2][:5]
    assert np.abs(true @ axes.T).max(axis=1).min() < 0.9


def test_parts_hold_what_the_classes_differ_by_though_no_gradient_shows_it():
    model, subject, latents = model_of(), subject_of(), torch.randn(8, 4, 8, 8)
    codes = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    few = by_place(model, subject, latents, codes, 2, further=torch.zeros(0, 12))
    assert few.shape == (2, 12)
    other = torch.randn(1, 12, generator=torch.Generator().manual_seed(2))
    held = by_place(model, subject, latents, codes, 2, further=torch.cat([other, few[:1]]))
    assert held.shape == (3, 12), "what is in the span already adds nothing"
    assert torch.allclose(held @ held.T, torch.eye(3), atol=1e-4)
    for direction in (*other, *few):
        part = held.T @ (held @ direction)
        assert torch.allclose(part, direction, atol=1e-4)


def test_attfind_takes_the_column_that_moves_most_of_what_is_left():
    #                   both halves   first     second    against
    change = np.array([[0.15, 0.50, 0.00, -0.9]] * 3 + [[0.15, 0.00, 0.30, -0.9]] * 2)
    assert attfind(change, 4) == [1, 2]
    assert attfind(change, 4, enough=0.6) == [1, 0, 2]
    assert attfind(change, 1) == [1]
    assert attfind(change, 4, among=np.array([True, False, True, True])) == [0, 2]
    assert attfind(-np.abs(change), 4) == []


def test_effects_are_those_of_each_direction_with_either_sign():
    model, images = model_of(), images_of(6)
    subject, how = spread(subject_of(), images), Decoding(steps=3, batch=2)
    question = Question(0, True)
    given = prepare(model, subject, images, how)
    given = given.take(~subject.answers(given.logits, question))
    bank = Bank(2, 12)
    told = []
    found = effects(model, subject, bank, given, question, 2.0, how, told.append)
    assert found.probability.shape == found.evidence.shape == found.crossed.shape == (len(given.codes), 4)
    for column in range(4):
        sign = -1 if column % 2 else 1
        moved = changed(model, given, sign * 2.0 * bank(given.codes)[:, column // 2], how)
        expected = subject.probability(subject.logits(moved), question) - subject.probability(given.logits, question)
        assert np.allclose(found.probability[:, column], expected.numpy(), atol=1e-6)
        assert (found.crossed[:, column] == subject.answers(subject.logits(moved), question).numpy()).all()
    assert told == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert not np.allclose(found.probability[:, 0], found.probability[:, 1])


def test_images_are_decoded_from_their_own_noise_or_from_one_for_all():
    model, subject, images = model_of(), subject_of(), images_of(3)
    own = prepare(model, subject, images, Decoding(steps=3))
    one = prepare(model, subject, images, Decoding(steps=3, noise="fixed"))
    assert not torch.equal(own.noise[0], own.noise[1])
    assert torch.equal(one.noise[0], one.noise[1])
    assert torch.equal(own.codes, one.codes)
    again = prepare(model, subject, images, Decoding(steps=3, batch=1))
    assert torch.allclose(again.images, own.images, atol=1e-5)


def attributes_of(ranked=3, **changes):
    model = model_of()
    bank = Bank(2, 12, fixed=torch.eye(12)[:1], names=("mean difference",))
    found = tuple(
        Attribute(
            name=f"{'opacity' if holds else 'no opacity'} {number + 1}", question=Question(0, holds), column=number,
            length=6.0, effect=0.1, evidence=0.5, flipped=0.2, monotone=0.9,
        )
        for holds in (True, False)
        for number in range(ranked)
    )  # fmt: skip
    whole = Attributes(model, bank.eval(), found, Decoding(steps=3), "d" * 64)
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize("form", ["global", "mlp"])
def test_what_was_found_is_kept_whole(tmp_path, form):
    found = attributes_of(bank=Bank(2, 12, form=form, fixed=torch.eye(12)[:1], names=("mean difference",)).eval())
    save_attributes(tmp_path / "a.safetensors", found, half=False)
    back = load_attributes(tmp_path / "a.safetensors")
    assert (back.ranked, back.how, back.explains) == (found.ranked, found.how, found.explains)
    assert (back.bank.names, back.model.config) == (found.bank.names, found.model.config)
    codes, noise = torch.randn(2, 12), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(back.model.decode(noise, codes, 3), found.model.decode(noise, codes, 3))
        assert torch.equal(back.bank(codes), found.bank(codes))
    save_attributes(tmp_path / "half.safetensors", found)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    assert load_attributes(tmp_path / "half.safetensors").ranked == found.ranked


def test_a_file_that_is_none_or_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="is no result of DiffEx"):
        load_attributes(path)
    save_attributes(path, attributes_of())
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    save_file(weights | {"model.null": torch.zeros(5)}, path, metadata=told)
    with pytest.raises(BundleError, match=r"another shape than the file says, e\.g\. model\.null"):
        load_attributes(path)
    save_file(weights, path, metadata={KEY: json.dumps(json.loads(told[KEY]) | {"space": "there is none"})})
    with pytest.raises(BundleError, match="is no result of DiffEx: KeyError"):
        load_attributes(path)


def method_of(images, **changes):
    classifier = ToyClassifier(1)
    threshold = float(classifier(images).sigmoid().median())
    rule = DecisionRule(threshold=threshold)
    return classifier, DiffEx(network=attributes_of(), rule=rule, **changes)


def test_the_method_explains_each_image_by_the_attributes_that_move_it():
    images = images_of(6, size=32)
    classifier, method = method_of(images)
    decisions = method.rule.decide(classifier(images), torch.zeros(6, dtype=torch.long))
    assert 0 < int(decisions.sum()) < 6
    maps = method.maps(classifier, images, decisions)
    plain, adversarial = method.images(classifier, images, decisions)
    assert maps.shape == plain.shape == adversarial.shape == images.shape
    used = [[one.name for one in row] for row in method.applied(classifier, images, decisions)]
    assert any(used)
    for row, decision in zip(used, decisions.tolist(), strict=True):
        wanted = "no opacity" if decision else "opacity"
        assert all(name.startswith(f"{wanted} ") for name in row)
        assert len(row) <= method.most
    for row in range(6):
        if used[row]:
            assert float(maps[row].max()) > 1e-3
            inside = (adversarial[row] > 0) & (adversarial[row] < 1)
            moved = (adversarial[row] - images[row]).abs()
            assert torch.allclose(moved[inside], maps[row][inside], atol=1e-6)
        else:
            assert torch.equal(maps[row], torch.zeros_like(maps[row]))
            assert torch.equal(adversarial[row], images[row])
    assert torch.equal(method(classifier, images, torch.zeros(6, dtype=torch.long)), maps)


@pytest.mark.slow
def test_an_attribute_that_moves_the_other_way_is_not_used():
    images = images_of(8, size=32)
    classifier, method = method_of(images)
    decisions = method.rule.decide(classifier(images), torch.zeros(8, dtype=torch.long))
    subject = Subject(classifier=classifier, outputs=("x",), size=32, threshold=method.rule.threshold)
    applied = method.applied(classifier, images, decisions)
    alone = [(row, used) for row, used in enumerate(applied) if len(used) == 1]
    assert alone
    for row, used in alone:
        question = Question(0, not bool(decisions[row]))
        given = prepare(
            method.network.model, subject, resized(images[row : row + 1], method.network.model.side), method.network.how
        )
        one = next(a for a in method.network.ranked if a.name == used[0].name)
        with torch.no_grad():
            moved = changed(method.network.model, given, one.step(method.network.bank, given.codes), method.network.how)
            assert float(subject.evidence(subject.logits(moved), question)) > float(
                subject.evidence(given.logits, question)
            )


def test_a_morph_begins_with_the_image_itself():
    images = images_of(6, size=32)
    classifier, method = method_of(images)
    decisions = method.rule.decide(classifier(images), torch.zeros(6, dtype=torch.long))
    for image, used in zip(images, method.applied(classifier, images, decisions), strict=True):
        for one in used:
            assert one.parts == PARTS
            assert one.images.shape == (len(PARTS), 1, 32, 32)
            assert torch.allclose(one.images[0], image, atol=1e-5)
            assert not torch.allclose(one.images[-1], image, atol=1e-3)


def test_no_gradients_are_needed_and_another_classifier_is_refused():
    images = images_of(4, size=32)
    classifier, method = method_of(images)
    decisions = method.rule.decide(classifier(images), torch.zeros(4, dtype=torch.long))
    blind = method.maps(WithoutGradients(classifier), images, decisions)
    assert torch.allclose(blind, method.maps(classifier, images, decisions))
    with pytest.raises(AttributionError, match="for a classifier of 1 outputs, and this one has 3"):
        method.maps(ToyClassifier(3), images, decisions)


def test_the_rule_of_stylex_counts_an_image_as_explained_at_a_fifth():
    assert ranking.ENOUGH == 0.2
