"""A bundle made of trained parts on any cohort: it loads, repeats, says what it was measured on, and is refused."""

import json
import tomllib

import numpy as np
import pytest
import torch

from explain_core.blur import BLUR
from explain_core.bundles.files import digest_of, listed, verify
from explain_core.classifier import Tempered
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.errors import BundleError
from explain_core.explainer import open_bundle
from explain_core.geometry import AffineRange, InputSpec
from explain_core.radiograph import Radiograph
from explain_core.statistics import OF_THE_IMAGE, OF_THE_MODEL, image_statistics
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from training import calibration, cohort, datasets, making, scales
from training.errors import TrainingError
from training.progress import Cancelled
from training.runs.generators import GeneratorSettings

SPEC = InputSpec(size=32)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return datasets.read("phantom?size=32&train=24&validation=12&test=1")


@pytest.fixture(scope="module")
def parts(data):
    torch.manual_seed(0)
    images, _ = cohort.load(data, SPEC)
    settings = GeneratorSettings(filters=(4, 8))
    generators = settings.network()
    for head in (generators.similar, *generators.adversarial):
        torch.nn.init.normal_(head[-1].weight, std=0.05)
    return {
        "classifier": ResNet20(1),
        "architecture": "resnet20",
        "outputs": ["Lung opacity"],
        "generators": generators,
        "generator_settings": settings,
        "spec": SPEC,
        "label": "Lung opacity",
        "name": "toy",
        "version": "2.0.0",
        "threshold": 0.4,
        "temperature": 1.7,
        "augmentation": AffineRange(degrees=5),
        "dataset_summary": 'phantoms, "drawn"',
        "training": images.part("train"),
        "validation": images.part("validation"),
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "bundle"
    figures = making.make(out, **parts)
    return out, figures


def test_the_bundle_loads_and_says_what_was_given(made, parts):
    out, figures = made
    bundle = open_bundle(out, device="cpu").bundle
    assert (bundle.identity.name, bundle.identity.version) == ("toy", "2.0.0")
    assert (bundle.threshold, bundle.temperature, bundle.margin) == (0.4, 1.7, figures["margin"])
    assert bundle.heatmaps["similar_adversarial"].blur == BLUR
    (measured,) = figures["heatmaps"].values()
    assert bundle.heatmaps["similar_adversarial"].scale.full_scale == measured["table"]["full_scale"]
    assert bundle.outlier.limit == figures["outlier_limit"]
    assert bundle.augmentation == parts["augmentation"]
    assert bundle.description["training_data"] == 'phantoms, "drawn"'
    card = (out / "model_card.md").read_text()
    assert "NOT FOR DIAGNOSIS" in card
    assert calibration.section_of(card) == f"{calibration.HEADING}\n{calibration.markdown(figures)}\n"


def test_probabilities_are_of_tempered_logits(made, parts):
    explainer = open_bundle(made[0], device="cpu")
    images = parts["validation"].images.float() / 255
    with torch.no_grad():
        logits = parts["classifier"].eval()(images)[:, 0]
    torch.testing.assert_close(explainer.probabilities(images), torch.sigmoid(logits / 1.7), atol=2e-3, rtol=0)
    assert float((torch.sigmoid(logits) - torch.sigmoid(logits / 1.7)).abs().max()) > 0.003


def test_the_reference_is_of_the_validation_images_and_what_the_worker_measures(made, data):
    reference = json.loads((made[0] / "reference.json").read_text())
    assert "reference.json" in listed(made[0] / "SHA256SUMS")
    assert reference["images"] == 12
    assert reference["statistics"].keys() == {*OF_THE_MODEL, *OF_THE_IMAGE}
    explainer = open_bundle(made[0], device="cpu", augmentations=0)
    assert explainer.bundle.reference == reference
    found = {name: [] for name in reference["statistics"]}
    for sample in data.part("validation"):
        radiograph = Radiograph(pixels=sample.pixels(), spacing=None, orientation=None, source_id="x")
        assessment = explainer.classify(radiograph)
        (explanation,) = explainer.explain(radiograph, ["similar_adversarial"])
        assert assessment.statistics == explanation.statistics == image_statistics(explanation.seen, (32, 32))
        for name, value in assessment.statistics.items():
            found[name].append(value)
        found["probability"].append(assessment.prediction.probability)
        found["distance"].append(assessment.out_of_distribution.score)
    for name, values in found.items():
        tolerance = 0.05 if name == "distance" else 0.003  # the validation images are kept in 256 steps
        np.testing.assert_allclose(np.sort(values), reference["statistics"][name], atol=tolerance, err_msg=name)
        assert reference["statistics"][name] == sorted(reference["statistics"][name])


def test_the_same_call_again_makes_the_same_bundle_and_finish_gives_its_digest(made, parts, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "bundle.toml").write_text("half written")
    tempered = Tempered(parts["classifier"], 1.7)
    told = []
    making.make(out, **parts | {"classifier": tempered}, progress=lambda done, **_: told.append(done))
    assert told[-1] == 1
    assert verify(out) == verify(made[0])
    digest = making.finish(out, "# Card\n")
    assert digest == making.finish(out, "# Card\n") == open_bundle(out, device="cpu").identity.digest
    assert digest != verify(made[0])
    assert (out / "model_card.md").read_text() == "# Card\n"
    assert tomllib.loads((out / "bundle.toml").read_text())["temperature"] == 1.7
    (out / "reference.json").write_text("{}")
    with pytest.raises(BundleError, match=r"reference\.json does not match"):
        verify(out)
    (out / "notes.txt").write_text("x")
    with pytest.raises(TrainingError, match=r"notes\.txt"):
        making.finish(out, "# Card\n")
    with pytest.raises(TrainingError, match=r"notes\.txt; take another folder"):
        making.make(out, **parts)


def test_what_float16_cannot_hold_is_kept_in_float32():
    state = {"small": torch.tensor([1 / 3]), "large": torch.tensor([1e9]), "count": torch.tensor(7)}
    stored = making.half(state)
    assert stored["small"].dtype == torch.float16
    assert torch.equal(stored["large"], state["large"])
    assert torch.equal(stored["count"], state["count"])


def test_parts_that_make_no_bundle_are_refused(parts, tmp_path):
    lost = ResNet20(1)
    lost.output.weight.data *= float("inf")
    with pytest.raises(TrainingError, match=r"output\.weight is not finite"):
        making.make(tmp_path, **parts | {"classifier": lost})
    with pytest.raises(TrainingError, match="validation images of that size"):
        making.make(tmp_path, **parts | {"spec": InputSpec(size=64)})
    with pytest.raises(TrainingError, match="training and validation images"):
        making.make(tmp_path, **parts | {"validation": parts["validation"].take(np.zeros(0, np.int64))})
    with pytest.raises(BundleError, match="do not fit the architecture"):
        making.make(tmp_path, **parts | {"outputs": ["one", "two"]})


def test_a_new_bundle_serves_what_is_asked_for_besides_and_its_classifier_allows(parts):
    classifier = parts["classifier"]
    assert scales.default_blurs(classifier)["similar_adversarial"] == BLUR
    wanted = {"adversarial": 0.01, "similar_adversarial": 0.02, "of_another_site": 0.03, "mask_generator": 0.04}
    found = scales.default_blurs(classifier, wanted)
    assert (found["adversarial"], found["similar_adversarial"]) == (0.01, 0.02)
    assert not found.keys() & {"of_another_site", "mask_generator"}
    blind = scales.default_blurs(WithoutGradients(ToyClassifier()), {"gradient": 0.1, "adversarial": 0.1})
    assert "gradient" not in blind
    assert "adversarial" in blind


def test_making_can_be_cancelled(parts, tmp_path):
    def stop(_done, **_figures):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        making.make(tmp_path, **parts, progress=stop)


@pytest.mark.parametrize("value", ["0.0", "-1", "inf", "nan", '"hot"'])
def test_a_temperature_that_is_none_is_refused(made, tmp_path, value):
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "bundle.toml").read_text()
    (tmp_path / "bundle.toml").write_text(text.replace("temperature = 1.7", f"temperature = {value}"))
    calibration.write_sums(tmp_path)
    with pytest.raises(BundleError, match=r"bundle\.toml: .*"):
        open_bundle(tmp_path, device="cpu")


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": 2, "statistics": {"mean": [0.1]}}', "no"])
def test_a_reference_that_is_none_is_refused(made, tmp_path, text):
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "reference.json").write_text(text)
    calibration.write_sums(tmp_path)
    with pytest.raises(BundleError, match=r"reference\.json|bundle\.toml"):
        open_bundle(tmp_path, device="cpu")
    (tmp_path / "reference.json").unlink()
    calibration.write_sums(tmp_path)
    assert open_bundle(tmp_path, device="cpu").bundle.reference is None
    assert digest_of(tmp_path / "bundle.toml") == digest_of(made[0] / "bundle.toml")
