"""The adversarial change is made as weak as still reverses nine in ten, decision by decision."""

import math
from dataclasses import replace

import pytest
import torch

from explain_core import plugins
from explain_core.classifier import DecisionRule
from explain_core.explainer import open_bundle
from explain_core.generators.features import FeatureGenerators
from explain_core.generators.kinds import seen_by
from explain_core.geometry import AffineRange, InputSpec
from training import cohort, datasets, making, strength
from training.runs.generators import GeneratorSettings

CPU = torch.device("cpu")
SPEC = InputSpec(size=32)
RULE = DecisionRule(threshold=0.5)


PLUGIN = """
import torch


class Brightness(torch.nn.Module):
    '''Decides by the mean of the image: positive from 0.5.'''

    differentiable = True

    def __init__(self, outputs=1):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 2, 1)

    @property
    def feature_layers(self):
        return (self.first,)

    def forward(self, x):
        self.first(x)
        return 8 * (x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] - 0.5)


PLUGIN = Brightness
"""


@pytest.fixture(scope="module", autouse=True)
def brightness(tmp_path_factory):
    """A classifier from a file, by its name in bundles."""
    folder = tmp_path_factory.mktemp("classifiers")
    (folder / "brightness.py").write_text(PLUGIN)
    plugins.add_folder("explain_core.classifiers", folder)
    return plugins.load("explain_core.classifiers", "brightness")


@pytest.fixture(scope="module")
def classifier(brightness):
    return brightness().eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def images():
    """Grey images around the toy's threshold, uint8, shape (60, 1, 32, 32)."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(40, 216, (60, 1, 1, 1), generator=generator)
    return (levels + torch.randint(-20, 21, (60, 1, 32, 32), generator=generator)).to(torch.uint8)


@pytest.fixture
def network(classifier):
    """Generators that move every image towards the other decision by one amount: heads' biases alone."""
    settings = GeneratorSettings(kind="features", gated=False, stride=1).fitted(classifier, 32)
    made = settings.network().eval()
    assert isinstance(made, FeatureGenerators)
    made.head.bias.data = torch.tensor([0.01, 0.6, -0.01, -0.6])
    return made


def reversed_share(network, classifier, images, decision):
    x = images.float() / 255
    seen = seen_by(network, classifier, x)
    y = RULE.decide(seen.logits, torch.zeros(len(x), dtype=torch.long))
    with torch.no_grad():
        x_a = network(x, y, seen)[1].clamp(0, 1)
        after = RULE.decide(classifier(x_a), torch.zeros(len(x), dtype=torch.long))
    return float((after != y)[y == decision].float().mean())


def scaled(network, decision, factor):
    made = type(network)(network.channels, evidence=False, gated=False)
    made.load_state_dict(network.state_dict())
    made.strengthen(decision, factor)
    return made.eval()


def test_a_factor_changes_one_decisions_adversarial_change_alone(network, classifier, images):
    x = images[:6].float() / 255
    seen, both = seen_by(network, classifier, x), torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        before, after = network(x, both, seen), scaled(network, 1, 0.5)(x, both, seen)
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close((after[1] - x)[both == 1], 0.5 * (before[1] - x)[both == 1])
    assert torch.equal(after[1][both == 0], before[1][both == 0])


def surely(share, of):
    """The lower bound of Wilson's interval, one-sided at 95 %, from its formula."""
    z = 1.6448536269514722
    middle = share + z * z / (2 * of)
    return (middle - z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))) / (1 + z * z / of)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_factor_is_the_least_that_surely_reverses_the_share(network, classifier, images, share):
    found = strength.measure(network, classifier, RULE, images, CPU, share)
    assert set(found) == {0, 1}
    step = (strength.MOST - strength.LEAST) / 2**strength.HALVINGS
    decisions = RULE.decide(classifier(images.float() / 255), torch.zeros(len(images), dtype=torch.long))
    for decision, factor in found.items():
        of = int((decisions == decision).sum())
        assert strength.LEAST < factor < strength.MOST
        enough = reversed_share(scaled(network, decision, factor), classifier, images, decision)
        assert surely(enough, of) >= share
        weaker = reversed_share(scaled(network, decision, factor - 2 * step), classifier, images, decision)
        assert surely(weaker, of) < share


def test_where_nothing_reverses_or_too_few_could_show_it_the_change_is_left_as_trained(network, classifier, images):
    assert strength.measure(network, classifier, RULE, images[:8], CPU) == {}
    network.head.bias.data.zero_()
    assert strength.measure(network, classifier, RULE, images, CPU) == {}


def test_a_decision_that_no_image_has_is_left_as_trained(network, classifier, images):
    positive = images[(classifier(images.float() / 255)[:, 0] >= 0)]
    assert set(strength.measure(network, classifier, RULE, positive, CPU, 0.5)) == {1}


@pytest.mark.slow
def test_a_bundle_has_the_weakened_generators_and_says_by_how_much(network, classifier, images, tmp_path):
    settings = GeneratorSettings(kind="features", gated=False, stride=1).fitted(classifier, 32)
    before = network.head.bias.detach().clone()
    data, _ = cohort.load(datasets.read("phantom?size=32&train=24&validation=60&test=1"), SPEC)
    grey = replace(data.part("validation"), images=images)
    making.make(
        tmp_path / "bundle", classifier=classifier, architecture="brightness", outputs=["Lung opacity"],
        generators=network, generator_settings=settings, spec=SPEC, label="Lung opacity", name="toy", version="1",
        threshold=0.5, temperature=1.0, augmentation=AffineRange(degrees=5), dataset_summary="greys",
        training=data.part("train"), validation=grey, device="cpu",
    )  # fmt: skip
    bundle = open_bundle(tmp_path / "bundle", device="cpu").bundle
    said = bundle.description["strength"]
    assert said
    assert set(said) <= {"negative", "positive"}
    assert all(0.3 < factor < 1 for factor in said.values())
    assert torch.equal(network.head.bias, before)  # what was given stays as it was
    for row, name in ((1, "negative"), (3, "positive")):
        before[row] *= said.get(name, 1)
    torch.testing.assert_close(bundle.generators.head.bias.float(), before, rtol=1e-3, atol=0)
