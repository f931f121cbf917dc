"""What a retraining takes for the champion's kind of classifier and generators, and what cannot start from it."""

import shutil

import pytest
from retraining import finished, job_text

from explain_core.bundles.bundle import load
from explain_core.bundles.files import toml_text
from explain_core.jobs import JobFolder
from training.errors import TrainingError
from training.retrain.job import ON_PIXELS, Job
from training.retrain.stage import Context
from training.retrain.training import classifier_settings, generator_settings

PIXELS = {"kind": "single", "filters": [4, 8], "head_layers": 1, "output": "plain", "dropout": 0.0, "decisions": 2}
FEATURES = {
    "kind": "features", "channels": [40, 112, 320], "evidence": True, "width": 8, "gated": True, "target": 0,
    "decisions": 2,
}  # fmt: skip


@pytest.fixture
def context(tmp_path):
    """Makes the context of a job whose champion is described so."""

    def make(own=FEATURES, architecture="evidence_lite0", **tables):
        folder = JobFolder(tmp_path / "job")
        champion = folder.stage("collect") / "champion"
        champion.mkdir(parents=True, exist_ok=True)
        table = {"generators": own, "classifier": {"architecture": architecture, "outputs": ["x"]}}
        (champion / "bundle.toml").write_text(toml_text(table))
        job = Job.model_validate({"data": {"sources": ["nih:x"]}} | tables)
        return Context(job, folder, lambda *_, **__: None)

    return make


def test_generators_on_features_take_the_preset_of_their_kind(context):
    for gated, share in ((True, "features_gated"), (False, "features")):
        found = generator_settings(context(FEATURES | {"gated": gated}), threshold=0.4)
        assert (found.kind, found.gated, found.channels, found.width) == ("features", gated, (40, 112, 320), 8), share
        assert (found.batch, found.learning_rate, found.decision_noise, found.sharpness) == (16, 2e-3, 0.2, 2.0)
        assert (found.weights.decision_similar, found.weights.total_variation) == (0.02, 0.05)
        assert found.decision_affine.degrees == 5
        assert found.rule.threshold == 0.4
        anew = generator_settings(context(FEATURES | {"gated": gated}, generators={"start": "random"}))
        assert (anew.kind, anew.gated) == ("features", gated)


def test_generators_on_pixels_take_what_they_took(context):
    found = generator_settings(context(PIXELS))
    assert (found.kind, found.filters, found.head_layers, found.output) == ("single", (4, 8), 1, "plain")
    assert (found.batch, found.learning_rate, found.decision_noise) == (8, 1e-3, 0.03)
    weights = found.weights
    assert (weights.decision_similar, weights.decision_adversarial) == (0.02, 0.1)
    assert (weights.generators, weights.total_variation) == (0.02, 0.6)
    assert set(ON_PIXELS) == {
        "batch", "learning_rate", "decision_similar", "decision_adversarial", "generator_distance", "total_variation",
        "decision_noise",
    }  # fmt: skip


@pytest.mark.parametrize("own", [PIXELS, FEATURES], ids=["pixels", "features"])
def test_what_the_job_names_takes_the_place_of_the_presets(context, own):
    found = generator_settings(context(own, generators={"batch": 3, "decision_noise": 0.0, "total_variation": 0.7}))
    assert (found.batch, found.decision_noise, found.weights.total_variation) == (3, 0.0, 0.7)
    assert found.weights.decision_similar == 0.02


@pytest.mark.parametrize(
    ("own", "preset", "kind"), [(PIXELS, "features", "single"), (FEATURES, "single_2_w_tv", "features")]
)
def test_a_start_from_generators_of_another_kind_is_refused(context, own, preset, kind):
    with pytest.raises(TrainingError, match=rf"\[generators\] preset: .* of the kind '{kind}'.*set start = \"random\""):
        generator_settings(context(own, generators={"preset": preset}))
    found = generator_settings(context(own, generators={"preset": preset, "start": "random"}))
    assert (found.kind == "features") == (preset == "features")
    assert found.channels == (), "read from the classifier when the run begins"


def test_other_filters_than_the_champions_are_refused(context):
    with pytest.raises(TrainingError, match=r"the champion has \[4, 8\], .* with \[4, 9\]; set start"):
        generator_settings(context(PIXELS, generators={"filters": [4, 9]}))
    with pytest.raises(TrainingError, match=r"the champion has none, .* with \[4, 8\]; set start"):
        generator_settings(context(FEATURES, generators={"filters": [4, 8]}))


def test_noise_is_that_of_the_classifiers_kind_unless_it_is_named(context):
    assert classifier_settings(context()).noise == 0.3
    assert classifier_settings(context(PIXELS, "resnet20")).noise == 0.02
    named = classifier_settings(context(classifier={"noise": 0.0, "map_weight": 2.5}))
    assert (named.noise, named.map_weight) == (0.0, 2.5)
    other = classifier_settings(
        context(PIXELS, "resnet20", classifier={"architecture": "evidence_lite0", "start": "random"})
    )
    assert other.noise == 0.3


@pytest.mark.slow
def test_a_champion_that_decides_by_a_map_is_retrained_to_one_that_does(bundle, tmp_path, empty_registry):
    shutil.copy(empty_registry, tmp_path)
    shutil.copytree(bundle, tmp_path / "champion")
    changes = {"data": {"sources": ["phantom?size=64&train=32&validation=12&test=12"]}}
    (tmp_path / "asked.toml").write_text(job_text(tmp_path, tmp_path / "champion", **changes))
    path = tmp_path / "job"
    assert finished(path, job=tmp_path / "asked.toml", die_in="evaluate", when="begun") == -9, JobFolder(path).told()
    before, after = load(bundle), load(path / "stages" / "bundle" / "bundle")
    assert after.description["classifier"] == {"architecture": "evidence_lite0", "outputs": ["Lung opacity"]}
    assert after.description["generators"] == before.description["generators"]
    assert list(after.heatmaps) == ["similar_adversarial", "evidence"]
    moved = [
        not old.equal(new)
        for old, new in zip(before.generators.parameters(), after.generators.parameters(), strict=True)
    ]
    assert any(moved)
    assert not before.classifier.joined[0].weight.equal(after.classifier.joined[0].weight)
