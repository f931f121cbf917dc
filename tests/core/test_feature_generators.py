"""Generators on the classifier's features: where they may change an image, what they start as, what they refuse."""

import math

import pytest
import torch
from torch.nn import functional

from explain_core.classifier import Look, Tempered, look, look_through_hooks
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.errors import FeaturesNeeded
from explain_core.generators.features import FeatureGenerators, gate
from explain_core.generators.kinds import build, description_of, seen_by
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.methods.adversarial import Adversarial
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from explain_core.testing.classifier import ToyClassifier

DECISIONS = torch.tensor([0, 1])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(evidence=None):
    """Two images' features of 3 and 5 channels on grids of 16 and 8 cells, as if of images of 64 pixels."""
    return Look(torch.zeros(2, 1), (draw(2, 3, 16, 16), draw(2, 5, 8, 8, seed=1)), evidence)


def here_and_there():
    """One output's evidence: none at all but in a corner of either image."""
    evidence = torch.full((2, 1, 8, 8), -200.0)
    evidence[0, 0, 0, 0], evidence[1, 0, 7, 7] = 0.0, -3.0
    return evidence


def generators(*channels, trained=True, **settings):
    torch.manual_seed(0)
    network = FeatureGenerators(channels or (3, 5), width=6, **settings).eval()
    if trained:
        torch.nn.init.normal_(network.head.weight, std=0.5)
        torch.nn.init.normal_(network.head.bias, std=0.5)
    return network.requires_grad_(requires_grad=False)


def test_the_gate_is_its_formula_cell_by_cell():
    evidence = draw(3, 1, 4, 4) * 3 - 2
    decisions = torch.tensor([0, 1, 0])
    found = gate(evidence, decisions)
    for values, opened, decision in zip(evidence[:, 0].tolist(), found[:, 0].tolist(), decisions.tolist(), strict=True):
        wide = [[1 / (1 + math.exp(-z)) for z in row] for row in values]
        largest = max(max(row) for row in wide)
        for row, expected in zip(opened, wide, strict=True):
            power = 1 if decision else 2
            assert row == pytest.approx([(value / largest) ** power for value in expected], abs=1e-6)
    assert float(found.min()) > 0
    assert found.amax((1, 2, 3)).tolist() == [1, 1, 1]


def test_a_gated_difference_is_zero_where_the_gate_is_and_a_free_one_is_not():
    evidence = here_and_there()
    opened = functional.interpolate(gate(evidence, DECISIONS), (16, 16), mode="bilinear", align_corners=False)
    closed = (opened == 0).expand(-1, 2, -1, -1)
    assert 0.9 < float(closed.float().mean()) < 1
    gated, free = generators(gated=True), generators(gated=False)
    found = gated.differences(seen(evidence), DECISIONS)
    assert not found[closed].any()
    assert bool((found[~closed] != 0).all())
    loose = free.differences(seen(evidence), DECISIONS)
    assert bool((loose[closed] != 0).any())
    torch.testing.assert_close(found, loose * opened)
    x = torch.rand(2, 1, 64, 64)
    wide = functional.interpolate(found.abs(), (64, 64), mode="bilinear", align_corners=False)
    for made, change in zip(gated(x, DECISIONS, seen(evidence)), (wide[:, :1], wide[:, 1:]), strict=True):
        assert torch.equal(made[change == 0], x[change == 0])
        assert not torch.equal(made, x)


@pytest.mark.parametrize("gated", [True, False])
def test_untrained_generators_give_the_image_itself(gated):
    x = torch.rand(2, 1, 64, 64)
    network = generators(trained=False, gated=gated, evidence=gated)
    x_s, x_a = network(x, DECISIONS, seen(draw(2, 1, 8, 8) if gated else None))
    assert torch.equal(x_s, x)
    assert torch.equal(x_a, x)


def test_the_decision_chooses_the_heads():
    network = generators(trained=False, evidence=False, gated=False)
    network.head.bias.data = torch.tensor([0.1, -0.1, 0.2, -0.2])
    x = torch.full((2, 1, 64, 64), 0.5)
    for decisions, steps in ((DECISIONS, (0.1, 0.2)), (torch.tensor([1, 0]), (0.2, 0.1))):
        x_s, x_a = network(x, decisions, seen())
        for image, step in enumerate(steps):
            torch.testing.assert_close(x_s[image], x[image] + step)
            torch.testing.assert_close(x_a[image], x[image] - step)


def test_the_explained_outputs_map_is_read_and_no_other():
    network = generators(target=1, gated=True)
    evidence = draw(2, 3, 8, 8)
    found = network.differences(seen(evidence), DECISIONS)
    others = evidence.clone()
    others[:, [0, 2]] += 3
    assert torch.equal(network.differences(seen(others), DECISIONS), found)
    own = evidence.clone()
    own[:, 1] += draw(2, 8, 8, seed=5)
    assert not torch.equal(network.differences(seen(own), DECISIONS), found)


def test_only_the_coarse_features_are_read_where_these_are_asked_for():
    network, evidence = generators(5), draw(2, 1, 8, 8)
    found = network.differences(seen(evidence), DECISIONS)
    assert found.shape == (2, 2, 8, 8)
    finer = seen(evidence)._replace(features=(draw(2, 9, 16, 16, seed=7), seen().features[1]))
    assert torch.equal(network.differences(finer, DECISIONS), found)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = EvidenceLite0(2)
    torch.nn.init.normal_(network.output.weight, std=0.5)
    return network.eval().requires_grad_(requires_grad=False)


def test_the_decoder_through_hooks_is_the_decoder_through_features(classifier):
    x = torch.rand(2, 1, 64, 64)
    network = generators(40, 112, 320, gated=False, evidence=False)
    watched = network(x, DECISIONS, look_through_hooks(classifier, classifier.feature_layers, x))
    own = network(x, DECISIONS, look(classifier, x))
    for one, other in zip(watched, own, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, x)


def test_methods_pass_the_classifier_once_and_show_the_images_differences_where_there_is_evidence(classifier):
    x, zeros = torch.rand(2, 1, 64, 64), torch.zeros(2, dtype=torch.long)
    network = generators(40, 112, 320)
    passes = []
    handle = classifier.stem.register_forward_hook(lambda *_: passes.append(1))
    try:
        maps = SimilarAdversarialMethod(network=network)(classifier, x, zeros)
        naive = Adversarial(network=network)(classifier, x, zeros)
    finally:
        handle.remove()
    assert len(passes) == 2
    decided = (classifier(x)[:, 0] >= 0).long()
    x_s, x_a = (one.clamp(0, 1) for one in network(x, decided, look(classifier, x)))
    opened = gate(classifier.evidence(x)[:, :1], decided)
    opened = functional.interpolate(opened, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, (x_s - x_a).abs() * opened)
    assert torch.equal(naive, (x - x_a).abs())
    free = generators(40, 112, 320, gated=False)
    x_s, x_a = (one.clamp(0, 1) for one in free(x, decided, look(classifier, x)))
    assert torch.equal(SimilarAdversarialMethod(network=free)(classifier, x, zeros), (x_s - x_a).abs())
    given = SimilarAdversarialMethod(network=network).maps(classifier, x, 1 - decided)
    assert not torch.equal(given, maps)


def test_what_is_read_does_not_depend_on_the_temperature(classifier):
    x, network = torch.rand(2, 1, 64, 64), generators(40, 112, 320)
    plain, calm = (network(x, DECISIONS, look(one, x)) for one in (classifier, Tempered(classifier, 3.0).eval()))
    assert torch.equal(plain[1], calm[1])


def test_a_classifier_without_features_is_refused_with_what_to_do():
    x = torch.rand(1, 1, 16, 16)
    with pytest.raises(FeaturesNeeded, match=r'ToyClassifier offers no features.* of another kind, such as "single"'):
        look(ToyClassifier(), x)
    with pytest.raises(FeaturesNeeded, match="ToyClassifier offers no features"):
        look(Tempered(ToyClassifier(), 2.0), x)
    with pytest.raises(FeaturesNeeded, match="ToyClassifier offers no features"):
        seen_by(generators(), ToyClassifier(), x)
    pixels = seen_by(SimilarAdversarial([4, 8]), ToyClassifier(), x)
    assert (pixels.features, pixels.evidence) == ((), None)


def test_what_was_not_seen_is_refused():
    x, evidence = torch.rand(2, 1, 64, 64), draw(2, 1, 8, 8)
    network = generators()
    with pytest.raises(FeaturesNeeded, match=r"give explain_core\.classifier\.look"):
        network(x, DECISIONS)
    with pytest.raises(FeaturesNeeded, match=r"features of \(3, 5\) channels, the classifier has \(4, 5\)"):
        network(x, DECISIONS, replace_features(seen(evidence), draw(2, 4, 16, 16), draw(2, 5, 8, 8)))
    with pytest.raises(FeaturesNeeded, match=r"features of \(3, 5\) channels, the classifier has \(5,\)"):
        network(x, DECISIONS, replace_features(seen(evidence), draw(2, 5, 8, 8)))
    with pytest.raises(FeaturesNeeded, match="this one has none"):
        network(x, DECISIONS, seen())
    with pytest.raises(ValueError, match="set gated = false"):
        FeatureGenerators((3, 5), evidence=False, gated=True)


def replace_features(what, *features):
    return what._replace(features=features)


DESCRIPTION = {
    "kind": "features", "channels": [3, 5], "evidence": True, "width": 6, "gated": True, "target": 0, "decisions": 2,
}  # fmt: skip


def test_a_description_builds_the_architecture_and_all_its_keys_are_needed():
    built = build(DESCRIPTION)
    assert built.reads_features
    built.load_state_dict(generators().state_dict())
    built.eval()
    torch.testing.assert_close(
        built.differences(seen(here_and_there()), DECISIONS),
        generators().differences(seen(here_and_there()), DECISIONS),
    )
    settings = DESCRIPTION | {"filters": [4, 8], "head_layers": 2, "dropout": 0.0, "steps": 7}
    assert description_of(settings) == DESCRIPTION
    for name in DESCRIPTION:
        with pytest.raises(KeyError):
            build({key: value for key, value in DESCRIPTION.items() if key != name})
    with pytest.raises(ValueError, match="other"):
        build({"kind": "other", "filters": [4, 8], "head_layers": 2, "output": "plain", "dropout": 0.0, "decisions": 2})
