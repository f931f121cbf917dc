"""Jobs of kind "mediffusion": what they learn from, what they leave, and what they refuse."""

import json
import shutil

import pytest
import torch
from retraining import films, finished, job_text, plenty

from explain_core.bundles.bundle import load
from explain_core.bundles.files import toml_text
from explain_core.explainer import open_bundle
from explain_core.jobs import JobFolder
from training.errors import TrainingError
from training.report.model_card import TRAINING_HEADING
from training.retrain import joint
from training.retrain.job import Job
from training.retrain.judging import attributions
from training.retrain.stage import Context
from training.retrain.training import architecture

OWN = {
    "job": {"name": "joint", "kind": "mediffusion"},
    "mediffusion": {"preset": "tiny", "steps": 4, "batch": 4, "report_every": 1, "checkpoint_every": 1,
                    "second_share": 0.4, "second_epochs": 1},
    "evaluation": {"cases": 1, "localisation_images": 0, "draws": 200},
}  # fmt: skip


@pytest.fixture
def context(tmp_path):
    """Makes the context of a job whose champion is described so."""

    def make(architecture="resnet20", size=32, **own):
        folder = JobFolder(tmp_path / "job")
        champion = folder.stage("collect") / "champion"
        champion.mkdir(parents=True, exist_ok=True)
        table = {"classifier": {"architecture": architecture, "outputs": ["x"]}, "input": {"size": size}}
        (champion / "bundle.toml").write_text(toml_text(table))
        job = {"data": {"sources": ["nih:x"]}, "job": {"kind": "mediffusion"}, "mediffusion": own}
        return Context(Job.model_validate(job), folder, lambda *_, **__: None)

    return make


def test_settings_are_the_presets_on_the_champions_grid(context):
    found = joint.settings(context(size=64, preset="tiny", steps=7, unlabelled="fixmatch"))
    assert (found.size, found.steps, found.unlabelled, found.channels) == (64, 7, "fixmatch", (16, 32, 64))
    assert architecture(context(preset="tiny")) == "mediffusion"


def test_what_cannot_be_trained_is_refused(context):
    with pytest.raises(TrainingError, match=r"\[mediffusion\] weights: the preset cpu works in the latents"):
        joint.settings(context(preset="cpu"))
    with pytest.raises(TrainingError, match=r"\[mediffusion\] start: the champion is a resnet20; set start"):
        joint.settings(context(preset="tiny", start="champion"))
    with pytest.raises(TrainingError, match="a side of 30 cannot be halved"):
        joint.settings(context(preset="tiny", size=30))
    one = [("p1", "1"), ("p2", "1"), ("p3", ""), ("p4", "1")]
    with pytest.raises(TrainingError, match=r"labelled training images for .*, not of both classes"):
        joint.check(context(preset="tiny"), one)
    joint.check(context(preset="tiny", second_share=0), [("p1", "1"), ("p2", "0")])


def test_another_kind_of_job_says_which_kind_a_joint_champion_needs(context):
    made = context("mediffusion")
    table = made.job.model_dump() | {"job": {"kind": "classifier"}}
    with pytest.raises(TrainingError, match=r'is a program that cannot be trained.*\[job\] kind = "mediffusion"'):
        architecture(Context(Job.model_validate(table), made.folder, made.progress))


def test_a_card_names_what_a_joint_model_started_from_and_no_other(context):
    for start, named in (("random", False), ("champion", True)):
        made = context("mediffusion", start=start)
        card = made.folder.stage("collect") / "champion" / "model_card.md"
        card.write_text(f"# Card\n\n{TRAINING_HEADING}\n\nfilms of another house\n\n## Next\n")
        done = {"made": {"champion": "0" * 64}}
        (made.folder.path / "stages" / "collect" / "done.json").write_text(json.dumps(done))
        assert ("films of another house" in attributions(made)) is named


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_of_labelled_and_unlabelled_films_becomes_a_version_and_its_champion_goes_on(tmp_path, parts):
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True)
    rows = [(file, patient, target if int(file[:4]) < 60 else "", split) for file, patient, target, split in plenty(70)]
    changes = OWN | {"data": {"sources": [f"folder:{films(tmp_path / 'films', rows)}"]}}
    (tmp_path / "asked.toml").write_text(job_text(tmp_path, tmp_path / "champion", **changes))
    path = tmp_path / "job"
    assert finished(path, job=tmp_path / "asked.toml", die_in="classifier", when="middle") == -9
    assert finished(path, 400) == 0, JobFolder(path).told()
    state = json.loads((path / "stages" / "classifier" / "done.json").read_text())["made"]
    assert state["labelled"] < state["images"] - 5, "unlabelled ones and the second classifier's are denoised alone"
    made = load(path / "bundle")
    assert (made.description["classifier"]["architecture"], made.generators) == ("mediffusion", None)
    assert list(made.heatmaps) == ["mediffusion"]
    assert (made.second.name, made.second.size, made.augmentations) == ("resnet20", 32, 0)
    card = (path / "bundle" / "model_card.md").read_text()
    assert '"denoising"' in card
    assert "Joint diffusion model" in card
    assert "two\ngenerators make" not in card

    explainer = open_bundle(path / "bundle", device="cpu")
    x = torch.rand(2, 1, 32, 32)
    assert explainer.method == "mediffusion"
    assert explainer.counterfactuals(x, explainer.decisions(explainer.probabilities(x)))[1].shape == x.shape

    again = {"start": "champion", "second_share": 0, "preset": "cpu"}
    changes["mediffusion"] = {**OWN["mediffusion"], **again}
    changes["bundle"] = {"version": "2"}
    (tmp_path / "again.toml").write_text(job_text(tmp_path, path / "bundle", **changes))
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    second = tmp_path / "second"
    ended = finished(second, 400, job=tmp_path / "again.toml", die_in="evaluate", when="begun")
    assert ended == -9, JobFolder(second).told()
    after = load(second / "stages" / "bundle" / "bundle")
    assert after.second is None
    before, now = (one.classifier.model for one in (made, after))
    assert now.network.config == before.network.config, "the champion's shape, whatever the preset"
    assert float(now.scale) == pytest.approx(float(before.scale), rel=1e-3)
    pairs = zip(before.network.state_dict().values(), now.network.state_dict().values(), strict=True)
    assert max(float((one - other).abs().max()) for one, other in pairs) < 0.1, "a few small steps from the champion"
