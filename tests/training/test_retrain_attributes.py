"""Jobs of kind "diffex": the champion explained by ranked attributes, its report kept with the version."""

import shutil
import tomllib
from pathlib import Path

import pytest
from retraining import finished, job_text

from explain_core.bundles.files import SUMS, digest_of, toml_text, write_sums
from explain_core.bundles.registry import Registry
from explain_core.diffex.attributes import load_attributes
from explain_core.explainer import open_bundle
from explain_core.jobs import JobFolder
from training import datasets
from training.datasets import loading
from training.errors import TrainingError
from training.retrain import attributes, stages
from training.retrain.job import Job
from training.retrain.stage import Context

OWN = {
    "job": {"name": "explained", "kind": "diffex"},
    "diffex": {"preset": "phantom", "steps": 100, "directions": 2, "direction_steps": 2, "attributes": 1, "ranked": 8,
               "report_every": 10, "checkpoint_every": 10, "noise": "inverted", "gate": False},
}  # fmt: skip


def context(tmp_path: Path, **own):
    folder = JobFolder(tmp_path / "job")
    champion = folder.stage("collect") / "champion"
    champion.mkdir(parents=True, exist_ok=True)
    table = {"classifier": {"architecture": "resnet20", "outputs": ["x"]}, "input": {"size": 32}}
    (champion / "bundle.toml").write_text(toml_text(table))
    job = {"data": {"sources": ["nih:x"]}, "job": {"kind": "diffex"}, "diffex": own}
    return Context(Job.model_validate(job), folder, lambda *_, **__: None)


def test_settings_are_the_presets_with_what_is_named(tmp_path):
    found = attributes.settings(context(tmp_path, preset="phantom", steps=7, ranked=9))
    assert (found.size, found.steps, found.ranked, found.space) == (32, 7, 9, "patches")
    with pytest.raises(TrainingError, match=r"\[diffex\] weights: the preset gpu works in the latents"):
        attributes.settings(context(tmp_path))


def test_a_job_that_explains_trains_no_version():
    names = [stage.name for stage in stages.STAGES["diffex"]]
    assert names == ["collect", "validate", "split", "attributes", "attach"]
    assert "register" in [stage.name for stage in stages.STAGES["classifier"]]


def reports(folder: Path, number: int) -> dict[str, Path]:
    registry = Registry(f"sqlite:///{folder}/mlflow.sqlite", "chest", folder / "artifacts")
    return {path.name: path for path in registry.reports(number, folder / "fetched")}


def decide_both_ways(bundle: Path, source: str) -> None:
    """Put the threshold of an untrained bundle among its probabilities."""
    opened = open_bundle(bundle, device="cpu")
    _, images = loading.load_all(datasets.read(source), opened.bundle.input_spec)
    middle = float(opened.probabilities(images.float() / 255).median())
    table = tomllib.loads((bundle / "bundle.toml").read_text()) | {"threshold": middle}
    (bundle / "bundle.toml").write_text(toml_text(table))
    write_sums(bundle)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_goes_on_and_its_report_goes_to_the_version(tmp_path, parts):
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True)
    source = "phantom?size=32&train=160&validation=60&test=60"
    decide_both_ways(tmp_path / "champion", source)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.sqlite", "chest", tmp_path / "artifacts")
    version = registry.register(tmp_path / "champion", gate="none", lineage={}, metrics={})
    changes = OWN | {"data": {"sources": [source]}}
    (tmp_path / "asked.toml").write_text(job_text(tmp_path, tmp_path / "champion", **changes))
    path = tmp_path / "job"
    assert finished(path, job=tmp_path / "asked.toml", die_in="attributes", when="middle") == -9
    assert finished(path, 600) == 0, JobFolder(path).told()
    told = JobFolder(path).told()
    assert list(told["stages"]) == ["collect", "validate", "split", "attributes", "attach"]
    kept = reports(tmp_path, version.number)
    assert {"attributes.html", "attributes.md", "attributes.safetensors"} <= set(kept)
    assert kept["attributes.html"].read_text() == (path / "report.html").read_text()
    assert "What makes it say" in kept["attributes.html"].read_text()
    weights = tmp_path / "champion" / "classifier.safetensors"
    assert load_attributes(kept["attributes.safetensors"]).explains == digest_of(weights)
    assert len(registry.versions()) == 1
    assert registry.attach("0" * 64, []) is None
    assert version.digest == digest_of(tmp_path / "champion" / SUMS)
