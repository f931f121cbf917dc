"""The temperature: the one that was put in comes out, it lowers the loss, and no input drives it out of bounds."""

import numpy as np
import pytest
import torch

from explain_core.classifier import DecisionRule, Tempered, TemperedLogits, tempered
from explain_core.errors import GradientsNeeded
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from explain_core.testing.promises import check_classifier
from training.errors import TrainingError
from training.runs import temperature


def drawn(count=20000, seed=0):
    """Logits and targets that were drawn with just these logits' probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, generator=generator)
    return logits, (torch.rand(count, generator=generator) < torch.sigmoid(logits)).long()


@pytest.mark.parametrize("known", [0.3, 1.0, 2.5, 7.0])
def test_a_known_temperature_is_found_and_lowers_the_loss(known):
    logits, targets = drawn()
    found = temperature.fit(known * logits[:, None], targets.numpy())
    assert found == pytest.approx(known, rel=0.05)
    loss = temperature.nll(known * logits, targets, found)
    assert loss <= temperature.nll(known * logits, targets, 1.0)
    if known != 1:
        assert loss < temperature.nll(known * logits, targets, 1.0) - 0.01
    for other in (0.9 * found, 1.1 * found):
        assert loss < temperature.nll(known * logits, targets, other), "it is the least"


def test_what_has_no_best_temperature_ends_at_a_bound():
    logits, targets = torch.tensor([-3.0, -1.0, 2.0, 4.0]), np.array([0, 0, 1, 1])
    assert temperature.fit(logits, targets) == temperature.LOWEST == 0.05
    assert temperature.fit(-logits, targets) == temperature.HIGHEST == 20.0
    assert 0.05 <= temperature.fit(torch.zeros(4), targets) <= 20.0
    assert 0.05 <= temperature.fit(torch.tensor([1e30, -1e30]), np.array([1, 0])) <= 20.0
    assert 0.05 <= temperature.fit(logits, np.ones(4, np.int64)) <= 20.0


@pytest.mark.parametrize(
    ("logits", "targets"), [([], []), ([1.0, float("nan")], [0, 1]), ([1.0, 2.0], [1])], ids=["none", "nan", "fewer"]
)
def test_logits_that_cannot_be_used_are_refused(logits, targets):
    with pytest.raises(TrainingError, match="finite logits"):
        temperature.fit(torch.tensor(logits), np.array(targets, np.int64))


def test_a_tempered_classifier_is_a_classifier_with_smaller_logits():
    plain = ToyClassifier(2)
    calm = tempered(plain, 4.0)
    assert isinstance(calm, Tempered)
    check_classifier(calm.eval(), 2, 16)
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(calm(images), plain(images) / 4)
    assert calm.cam_layer is plain.cam_layer
    assert tempered(plain, 1.0) is plain
    rule = DecisionRule(threshold=0.5)
    classes = torch.zeros(3, dtype=torch.long)
    assert torch.equal(rule.decide(calm(images), classes), rule.decide(plain(images), classes))


def test_a_classifier_that_is_no_module_is_tempered_too():
    blind = WithoutGradients(ToyClassifier(2))
    calm = tempered(blind, 2.0)
    assert isinstance(calm, TemperedLogits)
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(calm(images), blind(images) / 2)
    assert not calm.differentiable
    with pytest.raises(GradientsNeeded):
        _ = calm.cam_layer


def best_sum(probabilities, targets):
    """The largest sensitivity + specificity - 1 over every threshold that could tell images apart."""
    best = -1.0
    for threshold in [*probabilities, 2.0]:
        found = {0: [], 1: []}
        for probability, target in zip(probabilities, targets, strict=True):
            found[int(target)].append(probability >= threshold)
        best = max(best, sum(found[1]) / len(found[1]) - sum(found[0]) / len(found[0]))
    return best


def reached(probabilities, targets, threshold):
    called = probabilities >= threshold
    return called[targets == 1].mean() - called[targets == 0].mean()


@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_reaches_the_best_sum_of_a_slow_loop(seed):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 2, 60)
    probabilities = np.clip(generator.normal(0.3 + 0.2 * targets, 0.2), 0.02, 0.98).round(2 if seed % 2 else 6)
    found = temperature.youden(probabilities, targets)
    assert reached(probabilities, targets, found) == pytest.approx(best_sum(probabilities, targets))
    assert best_sum(probabilities, targets) > reached(probabilities, targets, 0.5)


def test_the_threshold_lies_half_way_and_of_equal_sums_it_is_the_highest():
    targets = np.array([0, 0, 1, 1])
    assert temperature.youden(np.array([0.1, 0.2, 0.4, 0.9]), targets) == 0.3
    assert temperature.youden(torch.tensor([0.9, 0.4, 0.2, 0.1]), torch.tensor([1, 0, 1, 0])) == 0.65
    assert temperature.youden(np.array([0.0, 0.001, 0.002, 0.003]), targets) == 0.01, "never all, never none"
    assert temperature.youden(np.array([0.997, 0.998, 0.9991, 0.9999]), targets) == 0.99
    tied, of_those = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0, 0, 0])
    assert temperature.youden(tied, of_those) == 0.7, "of equal probabilities all are called positive, or none"
    near = np.array([0.500011, 0.500012, 0.9, 0.1])
    assert ((near >= temperature.youden(near, np.array([0, 1, 1, 0]))) == [False, True, True, False]).all()
    with pytest.raises(TrainingError, match="images of both classes"):
        temperature.youden(np.array([0.1, 0.9]), np.array([1, 1]))
