"""Several methods on one bundle: one decision, a map each, and what cannot be served refused by name."""

import dataclasses
import importlib
import shutil
import sys
import tomllib

import numpy as np
import pytest
import torch

from explain_core import plugins
from explain_core.blur import weighted_blur
from explain_core.bundles.bundle import Heatmap, load
from explain_core.bundles.files import toml_text, write_sums
from explain_core.errors import AttributionError, BundleError
from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.explanation import HeatmapScale
from explain_core.method import obstacle
from explain_core.methods.gradient import Gradient
from explain_core.plugins import METHODS
from explain_core.radiograph import Radiograph
from explain_core.testing.classifier import ToyClassifier, WithoutGradients

SCALE = HeatmapScale(full_scale=1, unit="toy")
SITE = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True, kw_only=True)
class Site:
    reference: ClassVar[str] = "ours"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = None
    {more}

    power: float = 2.0

    def __call__(self, classifier, images, classes):
        return {maps}

PLUGIN = Site
"""


def radiograph(rows=100, columns=80):
    pixels = np.random.default_rng(1).random((rows, columns), np.float32)
    return Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="1.2.3")


def served(bundle, *methods, blur=0.0, **options):
    """An explainer whose bundle declares a scale for `methods`."""
    heatmaps = {name: Heatmap(scale=SCALE, blur=blur) for name in methods}
    return BundleExplainer(dataclasses.replace(load(bundle), heatmaps=heatmaps), device="cpu", **options)


@pytest.fixture
def site(tmp_path):
    """Writes a method file `site.py` into a folder that is searched; everything is forgotten afterwards."""
    package = importlib.import_module(METHODS)
    searched = list(package.__path__)

    def write(maps="images ** self.power", more=""):
        (tmp_path / "site.py").write_text(SITE.format(maps=maps, more=more))
        plugins.add_folder(METHODS, tmp_path)

    yield write
    package.__path__[:] = searched
    sys.modules.pop(f"{METHODS}.site", None)


def test_an_answer_that_is_no_number_is_no_negative_decision(bundle):
    explainer = served(bundle, "gradient")
    for weight in explainer._classifier.parameters():
        weight.data[...] = float("nan")
    with pytest.raises(AttributionError, match="not a finite number"):
        explainer.classify(radiograph())


def test_every_method_explains_the_one_decision_in_the_order_asked_for(bundle):
    names = ["gradient", "similar_adversarial", "adversarial"]
    explainer = served(bundle, *names, augmentations=2)
    explanations = explainer.explain(radiograph(), names)
    assert [one.provenance.method for one in explanations] == names
    assert len({str(one.assessment) for one in explanations}) == 1
    assert explanations[0].assessment == explainer.classify(radiograph())
    assert [one.similar is None for one in explanations] == [True, False, True]
    assert all(one.attribution.values.shape == (100, 80) for one in explanations)
    assert all(one.attribution.values.max() > 0 for one in explanations)
    assert [one.provenance.reference[:8] for one in explanations] == ["Simonyan", "Characho", "Characho"]
    (alone,) = explainer.explain(radiograph(), ["adversarial"])
    np.testing.assert_array_equal(alone.attribution.values, explanations[2].attribution.values)


def test_a_decision_that_was_made_is_not_made_again(bundle):
    explainer, passes = served(bundle, "gradient", augmentations=0), []
    explainer._classifier.register_forward_hook(lambda *_: passes.append(1))
    assessment = explainer.classify(radiograph())
    assert len(passes) == 1
    anew = explainer.explain(radiograph(), ["gradient"])
    both, passes[:] = len(passes) - 1, []
    assert str(explainer.explain(radiograph(), ["gradient"], assessment)) == str(anew)
    assert len(passes) == both - 1


def test_a_probability_is_not_rounded_across_the_threshold(bundle):
    """What is said of an image is what the methods explain, who see the unrounded value."""
    explainer = served(bundle, "gradient", augmentations=0)
    with torch.no_grad():
        exact = float(explainer.probabilities(explainer._prepare(radiograph())[1]))
    rounded = round(exact, 4)
    assert rounded != exact
    for threshold in (rounded, (rounded + exact) / 2):
        explainer.bundle = dataclasses.replace(explainer.bundle, threshold=threshold)
        said = explainer.classify(radiograph()).prediction
        assert said.positive == (exact >= threshold)
        assert said.probability == pytest.approx(exact, abs=5e-5)
    explainer.bundle = dataclasses.replace(explainer.bundle, threshold=0.99)
    assert explainer.classify(radiograph()).prediction.probability == rounded


def test_a_method_without_generators_or_copies_is_its_plain_map_smoothed(bundle):
    explainer = served(bundle, "gradient", blur=0.02, augmentations=0)
    (explanation,) = explainer.explain(radiograph(64, 64), ["gradient"])
    image = torch.from_numpy(explanation.seen)[None, None]
    plain = Gradient()(explainer._classifier, image, torch.tensor([0]))
    np.testing.assert_allclose(
        explanation.attribution.values, weighted_blur(plain, 0.02 * 64)[0, 0].numpy(), rtol=1e-4, atol=1e-9
    )
    assert explanation.provenance.parameters == {"augmentations": 0, "blur": 0.02}


def test_copies_are_averaged_for_any_method(bundle, site):
    site("images")
    explainer = served(bundle, "site", augmentations=4)
    (explanation,) = explainer.explain(radiograph(64, 64), ["site"])
    inner = (slice(16, 48), slice(16, 48))
    there = explanation.attribution.covered[inner]
    assert there.all()
    assert np.corrcoef(explanation.attribution.values[inner].ravel(), explanation.seen[inner].ravel())[0, 1] > 0.4
    assert explanation.provenance.parameters["site.power"] == 2
    assert explanation.provenance.parameters["augmentations"] == 4


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ("images * float('nan')", "the map of the method site has values that are not finite or below 0"),
        ("images - 2", "the map of the method site has values that are not finite or below 0"),
        ("images[..., 1:]", r"the method site gave maps of shape \(., 1, 64, 63\), not \(., 1, 64, 64\)"),
    ],
)
@pytest.mark.parametrize("copies", [0, 2])
def test_a_map_that_cannot_be_used_names_its_method(bundle, site, maps, said, copies):
    site(maps)
    explainer = served(bundle, "similar_adversarial", "site", augmentations=copies)
    with pytest.raises(AttributionError, match=said):
        explainer.explain(radiograph(), ["similar_adversarial", "site"])


def test_a_map_without_evidence_is_empty(bundle, site):
    site("images * 0")
    (explanation,) = served(bundle, "site", blur=0.035).explain(radiograph(), ["site"])
    assert explanation.attribution.values.max() == 0
    assert explanation.deletion is not None


@pytest.mark.parametrize(
    ("maps", "more", "said"),
    [
        (
            "images",
            "needs: ClassVar[tuple[str, ...]] = ('evidence_of_ghosts',)",
            "needs a classifier with `evidence_of",
        ),
        ("images", "packages: ClassVar[tuple[str, ...]] = ('no_such_package',)", "package no_such_package is not inst"),
        ("images", "network_of: str", r"cannot be loaded: TypeError: .*network_of"),
        ("images)", "", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_method_that_cannot_explain_the_bundle_is_refused_by_name(bundle, site, maps, more, said):
    site(maps, more)
    explainer = served(bundle, "similar_adversarial", "site")
    explainer.require(["similar_adversarial"])
    with pytest.raises(BundleError, match=f"the method site .*{said}"):
        explainer.require(["similar_adversarial", "site"])


def test_what_is_not_registered_or_has_no_scale_is_refused_with_what_to_do(bundle):
    explainer = open_bundle(bundle, device="cpu")
    with pytest.raises(BundleError, match=r"the method nonsense cannot be loaded: .* there is: adversarial, bbmp, "):
        explainer.require(["nonsense"])
    with pytest.raises(
        BundleError, match=r"gradient has no scale .*`python -m training scale BUNDLE --method gradient "
    ):
        explainer.explain(radiograph(), ["gradient"])


def test_gradients_are_needed_of_the_classifier():
    assert obstacle(Gradient, ToyClassifier(), ()) is None
    assert "gives none" in obstacle(Gradient, WithoutGradients(ToyClassifier()), {"generators"})
    adversarial = plugins.load(METHODS, "adversarial")
    assert obstacle(adversarial, ToyClassifier(), {"generators"}) is None
    assert "training run generators" in obstacle(adversarial, ToyClassifier(), ())


def test_a_bundle_may_declare_a_method_that_this_software_does_not_know(bundle, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    table = tomllib.loads((folder / "bundle.toml").read_text())
    table["heatmap"]["of_tomorrow"] = {"full_scale": 1.0, "unit": "x"}
    (folder / "bundle.toml").write_text(toml_text(table))
    write_sums(folder)
    explainer = open_bundle(folder, device="cpu")
    assert explainer.bundle.heatmaps["of_tomorrow"].blur == 0
    explainer.require(["similar_adversarial"])
