"""The run of joint diffusion: what it learns from, that it resumes, what it refuses, and how it is judged."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from explain_core.bundles.bundle import load
from explain_core.bundles.files import write_sums
from explain_core.classifiers import resnet20
from explain_core.classifiers.mediffusion import Mediffusion
from explain_core.diffusion.autoencoders import Identity, KLAutoencoder
from explain_core.diffusion.files import load_model, save_model
from explain_core.diffusion.model import JointDiffusion
from explain_core.diffusion.schedule import kept
from explain_core.errors import BundleError
from explain_core.explainer import open_bundle
from explain_core.geometry import AffineRange, InputSpec
from explain_core.methods.mediffusion import Mediffusion as MediffusionMethod
from explain_core.radiograph import Radiograph
from explain_core.second import Second
from training import datasets, synthesis
from training.cohort import Cohort
from training.errors import TrainingError
from training.making import make
from training.measure.joint_diffusion import ENFORCE, Changed, counterfactual_figures
from training.mediffusion import Request, halves, held_back, request, run
from training.progress import Cancelled
from training.runs.mediffusion import memory
from training.runs.mediffusion.material import ENCODE_BATCH, material
from training.runs.mediffusion.run import _Losses, train, typical
from training.runs.mediffusion.settings import PRESETS, MediffusionSettings, build
from training.synthesis import SynthesisSettings, sample, synthesize

TINY = MediffusionSettings(
    size=16, channels=(8, 16), attention=(False, True), layers=1, head_dim=8, groups=8, hidden=16, steps=6, batch=4,
    labelled_batch=4, learning_rate=1e-3, average=0.9, views=2, precision="32-true", device="cpu", threads=1,
    checkpoint_every=2, report_every=2,
)  # fmt: skip


def images(count=12, size=16):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 100, (count, 1, size, size), generator=generator)
    pixels[1::2] += 100
    return pixels.to(torch.uint8)


def targets(count=12, known=12):
    values = torch.arange(count).remainder(2).float()
    values[known:] = float("nan")
    return values[:, None]


def cohort(count=12, size=16):
    truth = np.zeros((size, size), np.bool_)
    truth[4:8, 4:8] = True
    return Cohort(
        images=images(count, size), targets=np.arange(count) % 2, truths=(None, truth) * (count // 2),
        boxes=np.arange(count) % 2, views=("PA",) * count, patients=tuple(f"p{n}" for n in range(count)),
        splits=("train",) * count, classes=("normal", "opacity"),
    )  # fmt: skip


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"unlabelled": "fixmatch", "confidence": 0.5}, {"noisy": 200, "every": 2}, {"dropout": 0.5}]
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, changes):
    settings = replace(TINY, **changes)
    whole = train(settings, images(), targets(), tmp_path / "whole")

    def stop(done, **_):
        if done >= 0.6:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(settings, images(), targets(), tmp_path / "parts", stop)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2
    parts = train(settings, images(), targets(), tmp_path / "parts")
    assert same(whole, parts)
    assert same(load_model(tmp_path / "parts" / "model.safetensors"), parts)


PROGRAM = """
import sys
from pathlib import Path

from test_mediffusion import TINY, images, replace, targets, train

train(replace(TINY, **{changes}), images(), targets(), Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"every": 3}, {"diffusion": False}])
def test_two_processes_train_parts_of_the_network_as_one_does(tmp_path, changes):
    (tmp_path / "program.py").write_text(PROGRAM.format(changes=changes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    for folder, launcher in (("two", command), ("one", [sys.executable])):
        (tmp_path / folder).mkdir()
        subprocess.run([*launcher, tmp_path / "program.py", tmp_path / folder], check=True, env=environment)
    one, two = (load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.02, atol=2e-3, msg=name)


def test_what_remains_is_the_average_and_not_the_last_step(tmp_path):
    model = train(TINY, images(), targets(), tmp_path)
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert not torch.equal(model.network.state_dict()["head.1.weight"], last["head.1.weight"])


def test_the_control_without_denoising_classifies_as_often_as_the_joint_model(tmp_path):
    classified = {}
    for diffusion in (True, False):
        told = []
        settings = replace(TINY, diffusion=diffusion, every=4, report_every=1)
        train(
            settings, images(), targets(), tmp_path / str(diffusion), lambda _done, told=told, **row: told.append(row)
        )
        assert len(told) == TINY.steps
        classified[diffusion] = [row["step"] for row in told if "classification" in row]
    assert classified[True] == classified[False] == [1, 5]


def test_latents_of_another_autoencoder_are_not_taken_for_the_same(tmp_path):
    settings = replace(TINY, space="kl", weights=str(tmp_path / "kl.pt"), views=1)
    for number in (0, 1):
        torch.manual_seed(number)
        torch.save(KLAutoencoder().state_dict(), tmp_path / "kl.pt")
        if number:
            with pytest.raises(TrainingError, match=r"latents\.pt was made with other settings"):
                material(settings, images(4), targets(4), tmp_path)
        else:
            material(settings, images(4), targets(4), tmp_path)


def test_unlabelled_images_are_denoised_and_never_classified(tmp_path):
    told = []
    train(replace(TINY, steps=2), images(), targets(known=2), tmp_path, lambda _done, **row: told.append(row))
    assert set(told[-1]) == {"step", "denoising", "classification"}
    assert np.isfinite(told[-1]["classification"])


def test_every_part_of_the_network_learns_and_the_consistency_teaches_only_where_it_is_sure():
    model = build(TINY, 1)
    z, t = torch.randn(4, 1, 16, 16), torch.tensor([0, 100, 500, 900])
    losses = _Losses(model.network, replace(TINY, confidence=0.9))
    batch = {"noisy": z, "t": t, "noise": z, "labelled": z, "labelled_t": t * 0, "targets": torch.ones(4, 1)}
    found = losses(batch)
    sum(found.values()).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.network.parameters())
    assert losses({"weak": z, "strong": z})["consistency"] == 0, "an untrained head is sure of nothing"
    with torch.no_grad():
        model.network.head[-1].bias += 9
    assert losses({"weak": z, "strong": z})["consistency"] > 0


def test_unknown_labels_take_no_part():
    model = build(TINY, 2).eval()
    losses = _Losses(model.network, TINY)
    z, zero = torch.randn(3, 1, 16, 16), torch.zeros(3, dtype=torch.long)
    known = torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")], [0.0, float("nan")]])
    loss = losses({"labelled": z, "labelled_t": zero, "targets": known})["classification"]
    logits = model.network.classify(z)[[0, 2], 0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, expected)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no image has a label"):
        train(TINY, images(), targets(known=0), tmp_path / "a")
    with pytest.raises(TrainingError, match="images of 32 pixels a side, and the model is for 16"):
        train(TINY, images(size=32), targets(), tmp_path / "b")
    with pytest.raises(TrainingError, match="groups do not divide"):
        build(replace(TINY, groups=5), 1)
    train(replace(TINY, steps=2), images(), targets(), tmp_path / "c")
    assert train(replace(TINY, steps=2, checkpoint_every=1, report_every=1), images(), targets(), tmp_path / "c")
    with pytest.raises(TrainingError, match="was made with other settings"):
        train(replace(TINY, weight=1.0), images(), targets(), tmp_path / "c")
    with pytest.raises(
        TrainingError, match=r"was trained for 2 steps already, and 1 are asked for; use another folder"
    ):
        train(replace(TINY, steps=1), images(), targets(), tmp_path / "c")


@pytest.mark.parametrize(
    ("column", "exclusive", "message"),
    [
        ([0, 0, 0], False, "no image is labelled present for output 2 of 2"),
        ([1, 1, 1], False, "no image is labelled absent for output 2 of 2"),
        ([float("nan")] * 3, False, "no image is labelled present for output 2 of 2"),
        ([0, 0, 0], True, "no image is labelled present for output 2 of 2"),
    ],
)
def test_a_class_that_no_image_is_labelled_with_is_refused(tmp_path, column, exclusive, message):
    given = torch.tensor([[1.0, 0.0, 1.0], column]).T
    with pytest.raises(TrainingError, match=message):
        train(replace(TINY, exclusive=exclusive), images(3), given, tmp_path)
    assert not any(tmp_path.iterdir())


def test_too_little_memory_is_said_before_anything_is_made(tmp_path):
    told = r"the latents of 12 images \d+\.\d GiB and a step of {} of them \d+\.\d GiB, and \d+\.\d GiB are free; take"
    with pytest.raises(TrainingError, match=told.format(4)):
        train(replace(TINY, views=1 << 30), images(), targets(), tmp_path)
    with pytest.raises(TrainingError, match=told.format(1 << 28)):
        train(replace(TINY, batch=1 << 28), images(), targets(), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_training_needs_memory_for_its_weights_and_for_every_row_of_its_batch():
    network = build(TINY, 1).network
    weights = 5 * 4 * sum(value.numel() for value in network.parameters())
    random = torch.get_rng_state()
    one, two = (
        memory.training_bytes(replace(TINY, batch=4 * n, labelled_batch=4 * n, dropout=0.5), network.config) - weights
        for n in (1, 2)
    )
    assert torch.equal(torch.get_rng_state(), random), "the weights that a seed begins with stay the same"
    assert one < two == pytest.approx(2 * one, rel=0.01)
    outputs = 4 * TINY.channels[0] * TINY.size**2 * 4
    assert one > 10 * outputs, "more than ten layers of the first level keep theirs"
    assert memory.training_bytes(replace(TINY, diffusion=False), network.config) - weights < one / 2


def test_the_memory_that_is_free_is_what_the_tightest_limit_leaves(tmp_path):
    assert memory.free(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.free(tmp_path) == 4000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    for name, text in (("max", "max"), ("current", "500"), ("stat", "anon 400\ninactive_file 100\n")):
        (group / f"memory.{name}").write_text(text)
    assert memory.free(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("2000\n")
    assert memory.free(tmp_path) == 1600


def test_a_loss_that_is_no_number_stops_with_step_and_term(tmp_path):
    settings = replace(TINY, learning_rate=1e30, head_learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"step \d+: the loss of (denoising|classification) is"):
        train(settings, images(), targets(), tmp_path)


def test_latents_are_made_once_and_have_unit_variance(tmp_path):
    first = material(TINY, images(), targets(), tmp_path)
    made = (tmp_path / "latents.pt").stat().st_mtime_ns
    again = material(TINY, images(), targets(), tmp_path)
    assert torch.equal(first.weak, again.weak)
    assert (tmp_path / "latents.pt").stat().st_mtime_ns == made
    assert first.weak.shape == (2, 12, 1, 16, 16)
    assert float(first.weak.float().std()) == pytest.approx(1, abs=1e-3)
    assert not torch.equal(first.weak[0], first.weak[1]), "every view is changed in its own way"


def test_latents_are_made_without_a_second_copy_of_a_view(tmp_path):
    class Largest(TorchDispatchMode):
        wide, half = 0, 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.is_floating_point() and not made._is_view():
                if made.dtype != torch.float16:
                    self.wide = max(self.wide, made.numel())
                elif func is not torch.ops.aten.empty.memory_format:
                    self.half = max(self.half, made.numel())
            return made

    with Largest() as seen:
        found = material(replace(TINY, unlabelled="fixmatch"), images(60), targets(60), tmp_path)
    assert found.weak.shape == found.strong.shape == (2, 60, 1, 16, 16)
    assert seen.wide <= ENCODE_BATCH * 16 * 16, "float32 for a few images at a time"
    assert seen.half <= ENCODE_BATCH * 16 * 16, "and the float16 that stays is written once"


def test_the_presets_can_be_built_and_have_the_sizes_that_the_documentation_says():
    counts = {}
    for name in ("tiny", "gpu", "vce-testing"):
        settings = replace(PRESETS[name], space="identity", size=PRESETS[name].size // (1 if name == "tiny" else 8))
        with torch.device("meta"):
            counts[name] = sum(value.numel() for value in build(settings, 1).network.unet.parameters())
    assert 0.6e6 < counts["tiny"] < 0.7e6
    assert 15e6 < counts["gpu"] < 17e6
    assert 257e6 < counts["vce-testing"] < 258.5e6


def test_model_and_oracle_share_no_patient_and_fewer_labels_lie_within_more():
    whole = cohort(40)
    own, others = halves(whole)
    assert not set(own.patients) & set(others.patients)
    assert len(own) + len(others) == 40
    few, many = held_back(own, 0.2), held_back(own, 0.6)
    assert bool((torch.isfinite(few) <= torch.isfinite(many)).all())
    assert {0.0, 1.0} <= set(few[torch.isfinite(few)].tolist())
    assert bool(torch.isfinite(held_back(own, 1.0)).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("huge", "phantom"), "no preset 'huge'; there is: tiny"),
        (("cpu", "phantom"), "name its --weights"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, arguments, message):
    with pytest.raises(TrainingError, match=message):
        request(*arguments, tmp_path)
    with pytest.raises(TrainingError, match="above 0 to 1, not 0"):
        request("tiny", "phantom", tmp_path, labels=0)


class Oracle:
    """Calls an image by its brightness."""

    threshold = 0.5

    def probabilities(self, given):
        return given.mean(dim=(1, 2, 3))


def test_counterfactuals_are_judged_by_the_oracle_beside_the_unguided_ones_and_by_place():
    from explain_core.diffusion.counterfactual import Counterfactual

    test = cohort(4)
    places = np.array([1, 3])
    original = torch.full((2, 1, 16, 16), 0.4)
    changed, unguided = original + 0.2, original + 0.05
    changed[:, :, 4:8, 4:8] += 0.2
    ones = torch.ones(2)
    made = Counterfactual(original, changed, unguided, ones, ones * 0.4, ones * 0.9, ones * 0.45, ones > 0)
    found = counterfactual_figures(Changed(places, (made,)), test, ENFORCE, Oracle(), draws=50)
    assert found["images"] == 2
    assert (found["reached"]["value"], found["unguided"]["value"]) == (1, 0)
    assert found["oracle"]["value"] == pytest.approx(0.2 + 0.2 / 16, abs=1e-6)
    assert found["oracle_unguided"]["value"] == pytest.approx(0.05, abs=1e-6)
    assert (found["oracle_flips"]["value"], found["oracle_flips_unguided"]["value"]) == (1, 0)
    assert found["density"]["value"] == pytest.approx(2, abs=1e-4)
    assert found["density_unguided"]["value"] == pytest.approx(1, abs=1e-4)


def test_a_model_knows_how_sure_it_is_of_images_that_it_decides_right():
    model = build(TINY, 1).eval()
    latents = torch.randn(9, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = model.network.classify(latents)[:, 0].sigmoid()
    targets = (said >= 0.5).float()[:, None]
    targets[0], targets[1] = 1 - targets[0], float("nan")
    rest = said[2:]
    found = typical(model, latents, targets)
    for answer in (0, 1):
        right = rest[(rest >= 0.5) == bool(answer)]
        assert float(found[0, answer]) == (float(right.median()) if len(right) else 1 - answer)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A bundle of a joint diffusion model that has learnt to tell bright from dark in seconds."""
    whole = cohort(40)
    settings = replace(TINY, steps=60, learning_rate=3e-3, head_learning_rate=1e-2, weight=1.0)
    folder = tmp_path_factory.mktemp("joint")
    model = train(settings, whole.images, torch.from_numpy(whole.targets).float()[:, None], folder / "run")
    make(
        folder / "bundle", classifier=Mediffusion(folder / "run" / "model.safetensors", 1, 16),
        architecture="mediffusion", outputs=["Lung opacity"], generators=None, generator_settings=None,
        spec=InputSpec(size=16, percentiles=(0.0, 100.0)), label="Lung opacity", name="joint", version="0.0.1",
        threshold=0.5, temperature=1.3,
        augmentation=AffineRange(), dataset_summary="squares", training=whole, validation=whole.take(np.arange(8)),
        extra={"augmentations": 0}, second=Second("resnet20", resnet20.PLUGIN(1).eval(), 0.4, 16),
    )  # fmt: skip
    return model, folder / "bundle"


def radiograph(*, bright):
    pixels = images()[int(bright), 0].float().numpy() / 255
    pixels[0, :2] = 0, 1  # the whole range, so that it is not stretched
    return Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="1.2")


@pytest.mark.slow
@pytest.mark.parametrize("bright", [False, True])
def test_a_bundle_of_a_joint_diffusion_model_explains_by_its_counterfactuals(joint, bright):
    explainer = open_bundle(joint[1], device="cpu")
    (found,) = explainer.explain(radiograph(bright=bright), ["mediffusion"])
    assert found.prediction.positive is bright
    assert found.provenance.method == "mediffusion"
    assert found.provenance.parameters["mediffusion.start"] == 300
    assert found.similar_kept
    assert found.attribution.values.shape == (16, 16)
    assert found.attribution.values.max() > 0
    assert found.adversarial.image.shape == (16, 16)
    change = np.abs(found.adversarial.image - found.similar.image).mean()
    assert change > 0
    control = np.abs(found.control.image - found.similar.image).mean()
    assert 0 < control != change
    x = torch.from_numpy(found.control.image)[None, None]
    assert found.control.probability == pytest.approx(float(explainer.probabilities(x)), abs=1e-3)
    second = load(joint[1]).second
    assert (found.second.name, found.second.threshold) == ("resnet20", 0.4)
    assert found.second.probability == pytest.approx(
        float(second.probabilities(torch.from_numpy(found.seen)[None, None])), abs=1e-3
    )
    for made in (found.similar, found.adversarial, found.control):
        image = torch.from_numpy(made.image)[None, None]
        assert made.second == pytest.approx(float(second.probabilities(image)), abs=1e-3), made.role


@pytest.mark.slow
def test_a_second_classifier_is_whole_or_the_bundle_is_refused(joint, tmp_path):
    folder = shutil.copytree(joint[1], tmp_path / "bundle")
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace('architecture = "resnet20"', 'architecture = "onnx"'))
    write_sums(folder)
    with pytest.raises(BundleError, match=r"\[second\] architecture: onnx is a file of its own"):
        load(folder)
    (folder / "bundle.toml").write_text(text)
    (folder / "second.safetensors").unlink()
    write_sums(folder)
    with pytest.raises(BundleError, match=r"\[second\] needs second\.safetensors"):
        load(folder)


@pytest.mark.slow
def test_what_such_a_bundle_cannot_serve_is_refused_by_name(joint):
    explainer = open_bundle(joint[1], device="cpu")
    with pytest.raises(
        BundleError,
        match="similar_adversarial cannot explain this bundle: it needs what the training run generators makes",
    ):
        explainer.require(["similar_adversarial"])
    with pytest.raises(BundleError, match="has no generators"):
        load(joint[1]).with_generators()


@pytest.mark.slow
def test_a_classifier_that_is_no_such_model_is_refused_by_name(bundle):
    with pytest.raises(BundleError, match="it needs a classifier with `counterfactual`"):
        open_bundle(bundle, device="cpu").require(["mediffusion"])


@pytest.mark.slow
def test_the_weights_are_stored_in_half_and_the_decisions_are_the_models(joint):
    model, folder = joint
    bundle_model = load(folder).classifier.model
    with torch.no_grad():
        expected, found = model(images().float() / 255), bundle_model(images().float() / 255)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    for name, exact in model.named_buffers(recurse=False):
        assert torch.equal(getattr(bundle_model, name), exact), name
    assert not torch.equal(model.left, model.left.half().float()), "float16 would round it"


@pytest.mark.slow
def test_a_change_is_sought_once_for_map_and_pictures(joint, monkeypatch):
    method, classifier = MediffusionMethod(halvings=2), load(joint[1]).classifier
    x = images(4).float() / 255
    decisions = (classifier(x)[:, 0] >= 0).long()
    assert set(decisions.tolist()) == {0, 1}, "both ways in one batch"
    calls = []
    real = classifier.counterfactual
    monkeypatch.setattr(classifier, "counterfactual", lambda *given: calls.append(given[2]) or real(*given))
    maps = method.maps(classifier, x, decisions)
    original, changed = method.images(classifier, x, decisions)
    assert calls == [1, 0], "enforced where it is absent, removed where it is present"
    torch.testing.assert_close(maps, (changed - original).abs())
    method.maps(load(joint[1]).classifier, x, decisions)
    method.maps(classifier, x, decisions)
    assert calls == [1, 0, 1, 0], "another classifier is asked anew"
    alone = MediffusionMethod(halvings=2).maps(classifier, x[2:3], decisions[2:3])
    assert alone.shape == (1, 1, 16, 16)


@pytest.mark.parametrize("damage", ["nothing", "shape", "scale"])
def test_a_damaged_file_is_refused_before_anything_is_loaded(tmp_path, damage):
    model = build(TINY, 1)
    path = tmp_path / "model.safetensors"
    if damage == "nothing":
        path.write_bytes(b"no model")
    elif damage == "scale":
        model.scale.zero_()
        save_model(path, model)
    else:
        state = dict(model.state_dict())
        state["network.head.1.weight"] = state["network.head.1.weight"][:, :3]
        save_model(path, model, state)
    expected = {
        "nothing": "is no joint diffusion model", "shape": r"e\.g\. network\.head\.1\.weight",
        "scale": "the scale of the latents is 0",
    }[damage]  # fmt: skip
    with pytest.raises(BundleError, match=expected):
        load_model(path)


def test_a_file_for_another_bundle_is_refused(tmp_path):
    save_model(tmp_path / "model.safetensors", build(TINY, 1))
    with pytest.raises(BundleError, match="a model of 1 outputs for 16 pixels, and the bundle says 2 for 16"):
        Mediffusion(tmp_path / "model.safetensors", 2, 16)


class Bright(torch.nn.Module):
    """A network that makes what it is pulled to, and a head that calls bright what is bright."""

    def __init__(self):
        super().__init__()
        self.config = replace(build(TINY, 1).network.config, size=8)
        self.left = kept()

    def forward(self, z, t):
        left = self.left[t].view(-1, 1, 1, 1)
        return (1 - left).sqrt() * z / (left / 20 + 1 - left)

    def classify(self, z, t=None):  # noqa: ARG002 - as the real one
        return z.mean(dim=(1, 2, 3))[:, None] * 40


def test_synthetic_images_are_what_was_asked_for_and_a_dataset(tmp_path):
    model, known = JointDiffusion(Identity(), Bright()), images(6, 8)
    settings = SynthesisSettings(count=5, batch=4, steps=20, scale=20.0)
    report = synthesize(model, known, tmp_path / "made", settings)
    dataset = datasets.read(f"folder:{tmp_path / 'made'}")
    assert sorted(one.target for one in dataset) == [0] * 5 + [1] * 5
    assert {one.split for one in dataset} == {"train"}
    assert {one.target_source for one in dataset} == {"synthetic"}
    for one in dataset:
        pixels = np.asarray(Image.open(one.path), np.float32) / 255
        assert (pixels.mean() > 0.5) == bool(one.target)
    for name in ("present", "absent"):
        assert 0 < report[name]["acceptance"] <= 1
        assert report[name]["images"] == 5
    with pytest.raises(TrainingError, match="is there already"):
        synthesize(model, known, tmp_path / "made", settings)


@pytest.mark.parametrize("rows", [2, 256])
def test_the_nearest_training_image_is_found_some_rows_at_a_time(monkeypatch, rows):
    monkeypatch.setattr(synthesis, "_ROWS", rows)
    known = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    apart = [[float(((a - b) ** 2).mean() ** 0.5) for b in known] for a in known]
    for itself in (False, True):
        values, places = synthesis._nearest(known, known, itself=itself)
        for one, row in enumerate(apart):
            best = min((far, other) for other, far in enumerate(row) if not (itself and other == one))
            assert (float(values[one]), int(places[one])) == (pytest.approx(best[0], abs=1e-3), best[1])
    assert [len(one) for one in synthesis._nearest(known[:0], known)] == [0, 0]


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="the scale is a number not below 0"):
        SynthesisSettings(scale=scale)


def test_what_the_head_does_not_decide_as_asked_is_left_out(tmp_path):
    model, known = JointDiffusion(Identity(), Bright()), images(6, 8)
    free = SynthesisSettings(count=8, batch=8, steps=20, scale=0.0, tries=4)
    made = sample(model, 1, known, free)
    assert 0 < made.acceptance < 1, "without guidance half are of the other label"
    few = sample(model, 1, known, replace(free, count=1))
    assert (len(few.images), few.tried) == (1, 8)
    assert few.acceptance == few.accepted / 8 > 1 / 8, "those that were one too many were accepted too"
    assert bool((model.network.classify(model.encode(made.images)) >= -0.1).all())
    model.network.classify = lambda z, t=None: torch.full((len(z), 1), -1.0)  # noqa: ARG005
    with pytest.raises(TrainingError, match="of 32 images none is decided as present"):
        synthesize(model, known, tmp_path / "none", free)
    assert not (tmp_path / "none").exists()


def test_an_image_learnt_by_heart_is_seen():
    model, known = JointDiffusion(Identity(), Bright()), images(6, 8)
    made = sample(model, 1, known, SynthesisSettings(count=2, batch=2, steps=20, scale=20.0))
    learnt = (made.images * 255).round().to(torch.uint8)
    again = sample(model, 1, learnt, SynthesisSettings(count=2, batch=2, steps=20, scale=20.0))
    assert float(again.nearest.max()) < 0.02 < float(made.nearest.min())
    assert again.neighbours.tolist() == [0, 1]


def test_numbers_that_make_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SynthesisSettings(count=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_ends_with_a_bundle_that_explains_and_says_what_it_is_worth(tmp_path):
    data = "phantom?size=16&train=60&validation=16&test=16"
    asked = Request(
        data=data, out=tmp_path / "run", settings=replace(TINY, steps=4), most=2, oracle_epochs=1,
        bundle=tmp_path / "bundle", label="Spot",
    )  # fmt: skip
    run(asked)
    explainer = open_bundle(tmp_path / "bundle", device="cpu")
    assert (explainer.method, explainer.bundle.label, explainer.augmentations) == ("mediffusion", "Spot", 0)
    (found,) = explainer.explain(radiograph(bright=True), ["mediffusion"])
    assert found.second.name == "resnet20"
    assert found.control is not None
    card = (tmp_path / "bundle" / "model_card.md").read_text()
    for said in (
        'shows "Spot"',
        "noised a little",
        "own head decides as asked",
        "### Heatmap: mediffusion",
        "the control",
    ):
        assert said in card, said
