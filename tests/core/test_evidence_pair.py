"""Two trunks that decide by the mean of their maps, as two classifiers side by side would."""

import pytest
import torch

from explain_core.classifier import look, look_through_hooks
from explain_core.classifiers.evidence_lite0 import EvidenceLite0, log_mean_exp
from explain_core.classifiers.evidence_pair import EvidencePair
from training.runs.weights import start_from


def member(seed, outputs=3):
    torch.manual_seed(seed)
    network = EvidenceLite0(outputs)
    torch.nn.init.normal_(network.output.weight, std=1.0)
    torch.nn.init.normal_(network.output.level)
    torch.nn.init.normal_(network.output.bias)
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def members():
    return member(0), member(1)


@pytest.fixture(scope="module")
def pair(members):
    return EvidencePair.of(*members).eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_its_map_is_the_mean_of_the_members_and_decides(pair, members, images):
    mean = sum(one.evidence(images) for one in members) / 2
    torch.testing.assert_close(pair.evidence(images), mean, atol=1e-4, rtol=1e-4)
    bias = sum(one.output.bias for one in members) / 2
    torch.testing.assert_close(pair(images), log_mean_exp(mean) + bias, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pair.evidence(images), members[0].evidence(images), atol=0.1)


def test_its_features_are_those_of_both_and_hooks_find_them(pair, members, images):
    seen = look(pair, images)
    assert [one.shape[1] for one in seen.features] == [48, 80, 224, 640]
    for both, first, second in zip(seen.features, *(one.features(images) for one in members), strict=True):
        assert torch.equal(both, torch.cat([first, second], dim=1))
    hooked = look_through_hooks(pair, pair.feature_layers, images)
    assert all(torch.equal(one, other) for one, other in zip(hooked.features, seen.features, strict=True))
    assert torch.equal(hooked.logits, seen.logits)
    assert torch.equal(seen.evidence, pair.evidence(images))


def test_only_two_alike_make_a_pair(members):
    for wrong in (members[:1], (*members, members[0]), (members[0], member(2, outputs=2))):
        with pytest.raises(ValueError, match="a pair is of 2 members with the same outputs"):
            EvidencePair.of(*wrong)


def test_a_training_can_start_from_it_with_fewer_outputs(pair, images):
    fewer = EvidencePair(1).eval()
    start_from(fewer, pair.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fewer(images), pair(images)[:, :1], atol=1e-5, rtol=1e-5)
