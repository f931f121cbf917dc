"""From data to a bundle in one command: it goes on, ends the same, and keeps the decisions that its threshold made."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_recipe import TINY

from explain_core.bundles.bundle import load
from explain_core.bundles.files import digest_of, verify
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.engine import for_inference
from explain_core.explainer import open_bundle
from explain_core.geometry import AffineRange, InputSpec
from training import bundle as command
from training import cohort, datasets, making
from training.__main__ import main
from training.errors import TrainingError
from training.runs.evidence_targets import OUTPUTS
from training.runs.generators import GeneratorSettings, from_preset
from training.splits import TEST_FOLDS, VALIDATION_FOLDS

SPEC = InputSpec(size=64)


@pytest.fixture(scope="module")
def made(nih_folder, tmp_path_factory):
    """What the command leaves: the folder of its work and the bundle, with the figures that it printed."""
    folder = tmp_path_factory.mktemp("command")
    figures = command.bundle(folder / "out", folder / "work", f"nih:{nih_folder}", recipe=TINY, name="toy", version="1")
    return folder, figures


def weights_of(folder):
    return {name: digest_of(folder / name) for name in ("classifier.safetensors", "generators.safetensors")}


@pytest.mark.slow
def test_it_makes_a_bundle_that_says_what_it_learnt_from(made):
    folder, figures = made
    found = load(folder / "out")
    assert (found.identity.name, found.identity.version, found.label) == ("toy", "1", "Lung opacity")
    assert found.description["classifier"] == {"architecture": "evidence_lite0", "outputs": list(OUTPUTS)}
    assert found.description["generators"]["kind"] == "features"
    assert list(found.heatmaps) == ["similar_adversarial", "evidence"]
    assert found.augmentations == command.COPIES
    assert found.input_spec.size == 64
    assert figures["data"]["folds"] == sorted(TEST_FOLDS)
    card = (folder / "out" / "model_card.md").read_text()
    assert "Training: 8 images of 4 patients" in card
    assert f"temperature {found.temperature}, decision threshold {found.threshold}" in card
    assert "boxes trained the classifier's map" in card
    assert '"noise_epochs": 1' in card
    assert '{"step": 4, ' in card
    open_bundle(folder / "out", device="cpu").require(["similar_adversarial", "evidence"])


@pytest.mark.slow
def test_the_same_command_again_makes_the_same_bundle(made, nih_folder, tmp_path):
    folder, figures = made
    shutil.copytree(folder / "work", tmp_path / "work")
    ways = {"recipe": TINY, "name": "toy", "version": "1"}
    again = command.bundle(tmp_path / "out", tmp_path / "work", f"nih:{nih_folder}", **ways)
    assert verify(tmp_path / "out") == verify(folder / "out")
    assert again["counterfactuals"] == figures["counterfactuals"]


@pytest.mark.slow
def test_after_a_stop_it_goes_on_to_the_same_weights(made, nih_folder, tmp_path):
    """As if it had been killed after the classifier's first stage, its checkpoint just replaced."""
    folder, _ = made
    work = tmp_path / "work"
    (work / "classifier").mkdir(parents=True)
    shutil.copy(folder / "work" / "classifier" / "checkpoint_cached.pt", work / "classifier")
    (work / "classifier" / "checkpoint_noise.new").write_bytes(b"half")
    command.bundle(tmp_path / "out", work, f"nih:{nih_folder}", recipe=TINY, test=False)
    assert weights_of(tmp_path / "out") == weights_of(folder / "out")
    other = replace(TINY, classifier=replace(TINY.classifier, noise=0.1))
    with pytest.raises(TrainingError, match="made with other settings, data or classifier"):
        command.bundle(tmp_path / "out", work, f"nih:{nih_folder}", recipe=other)


@pytest.mark.slow
def test_the_calibrated_threshold_reproduces_the_decisions(nih_folder, tmp_path):
    """The bundle, in float16, decides about the validation images as the run did when it set the threshold."""
    images, _ = cohort.load(datasets.read(f"nih:{nih_folder}"), SPEC)
    training, validation = images.part("train"), images.part("validation")
    torch.manual_seed(0)
    classifier = EvidenceLite0(len(OUTPUTS))
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    torch.nn.init.normal_(classifier.output.weight, std=0.3)
    with torch.no_grad():
        classifier.train()(training.images.float() / 255)
    device = torch.device("cpu")
    labelled = validation.labelled()
    found = command.decision(for_inference(classifier, device), labelled)
    logits = command.predict(for_inference(classifier, device), labelled.images)[:, 0]
    decided = (torch.sigmoid(logits / found["temperature"]) >= found["threshold"]).numpy()
    assert 0 < decided.sum() < len(decided), "or there is nothing to reproduce"
    assert (decided != (logits >= 0).numpy()).any(), "another threshold than a logit of 0"
    settings = from_preset(GeneratorSettings(width=4), "features_gated")
    settings = settings.fitted(for_inference(classifier, device), SPEC.size)
    making.make(
        tmp_path / "out", classifier=classifier, architecture="evidence_lite0", outputs=list(OUTPUTS),
        generators=settings.network(), generator_settings=settings, spec=SPEC, label="Lung opacity", name="toy",
        version="1", threshold=found["threshold"], temperature=found["temperature"], augmentation=AffineRange(),
        dataset_summary="toy", training=training, validation=validation, extra={"augmentations": 0}, device="cpu",
    )  # fmt: skip
    explainer = open_bundle(tmp_path / "out", device="cpu")
    probabilities = explainer.probabilities(labelled.images.float() / 255)
    assert explainer.decisions(probabilities).bool().tolist() == decided.tolist()
    assert (probabilities.numpy() >= explainer.bundle.threshold).tolist() == decided.tolist()


@pytest.mark.slow
def test_the_command_line_makes_one(made, nih_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(made[0] / "work", tmp_path / "work")
    monkeypatch.setitem(command.RECIPES, "cpu", TINY)
    argv = ["training", "bundle", "--data", f"nih:{nih_folder}", "--work", str(tmp_path / "work")]
    argv += ["--out", str(tmp_path / "out"), "--name", "mine", "--version", "7", "--json", str(tmp_path / "f.json")]
    monkeypatch.setattr("sys.argv", argv)
    main()
    assert load(tmp_path / "out").identity.version == "7"
    assert json.loads((tmp_path / "f.json").read_text())["data"]["images"] > 0
    assert weights_of(tmp_path / "out") == weights_of(made[0] / "out")
    assert "NaN" not in capsys.readouterr().out


def test_data_without_training_or_validation_patients_are_refused(nih_folder, tmp_path, monkeypatch):
    folder = tmp_path / "nih"
    shutil.copytree(nih_folder, folder)
    rows = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(row for row in rows if not row.endswith((",2", ",3"))) + "\n")
    with pytest.raises(TrainingError, match="a bundle needs patients for validation"):
        command.bundle(tmp_path / "out", tmp_path / "work", f"nih:{folder}", recipe=TINY)
    monkeypatch.setattr("sys.argv", ["training", "bundle", "--data", f"nih:{folder}", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^error: --data nih:.*: a bundle needs patients for validation$"):
        main()
    assert not (tmp_path / "out").exists()


def test_the_recipes_are_what_the_documentation_says():
    cpu, gpu = command.RECIPES["cpu"], command.RECIPES["gpu"]
    assert (cpu.size, gpu.size) == (224, 512)
    assert cpu.classifier.epochs > 0 == gpu.classifier.epochs, "on a GPU nothing is frozen"
    assert {one.generators.kind for one in (cpu, gpu)} == {"features"}
    assert gpu.generators.steps == 6000


def test_no_training_patient_of_the_real_data_is_tested(shared_data):
    samples = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    training = {s.patient_id for s in samples if s.fold not in TEST_FOLDS | VALIDATION_FOLDS}
    held_out = {s.patient_id for s in samples if s.fold in TEST_FOLDS | VALIDATION_FOLDS}
    assert np.all([training, held_out])
    assert not training & held_out
    assert {s.patient_id for s in samples.part("train")} == training
