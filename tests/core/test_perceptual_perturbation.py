"""Perceptual perturbation beside its definition: the objective by loops, the optimum of a linear classifier."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys_mask import SIDE, Frozen, Squares, images, inside, naive_blur, untouched

from explain_core.classifier import DecisionRule, look_through_hooks
from explain_core.errors import GradientsNeeded
from explain_core.methods.perceptual_perturbation import PLUGIN, PerceptualPerturbation

CLASSES = torch.tensor([0, 1, 0])


class Layered(nn.Module):
    """Two convolutions, the same activation after both."""

    differentiable = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.one, self.two = nn.ReLU(), nn.ReLU()
        self.output = nn.Linear(2, 3)
        self.eval().requires_grad_(requires_grad=False)

    @property
    def perceptual_layers(self):
        return (self.one, self.two)

    def forward(self, images):
        y = self.two(self.second(self.one(self.first(images))))
        return 20 * self.output(self.one(y).mean(dim=(-2, -1)))


def naive_margin(logits, chosen, rule):
    others = [value for index, value in enumerate(logits) if index != chosen]
    other = max(others) if rule.exclusive else math.log(rule.threshold / (1 - rule.threshold))
    return logits[chosen] - other


def naive_square(u, v):
    """MSE by a loop."""
    pairs = list(zip(u.flatten().tolist(), v.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("rule", [DecisionRule(exclusive=True), DecisionRule(), DecisionRule(threshold=0.8)])
def test_margins_are_their_definition_and_agree_with_the_decision(rule):
    logits, chosen = torch.randn(40, 3), torch.arange(40) % 3
    found = rule.margin(logits, chosen)
    expected = [naive_margin(row, c, rule) for row, c in zip(logits.tolist(), chosen.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    decided = rule.decide(logits, chosen)
    assert torch.equal(found >= 0, decided == chosen if rule.exclusive else decided == 1)


def test_the_objective_is_its_definition():
    classifier, rule = Layered(), DecisionRule(exclusive=True)
    x, z = torch.rand(2, 1, 1, 6, 6)
    method = PerceptualPerturbation(rule=rule, gamma=30.0, pixels=2.0)
    logits, phi_z, _ = look_through_hooks(classifier, classifier.perceptual_layers, z)
    phi_x = look_through_hooks(classifier, classifier.perceptual_layers, x).features
    margin = rule.margin(logits, torch.tensor([1]))
    phi = list(zip(phi_z, phi_x, strict=True))
    found = method.objective(margin, torch.tensor([-2.0]), phi, (z - x).square().mean())
    first = [torch.relu(classifier.first(v)) for v in (z, x)]
    second = [torch.relu(classifier.second(v)) for v in first]
    response = classifier(z)[0].tolist()
    expected = (naive_margin(response, 1, rule) + 2) ** 2
    expected += 30 * (naive_square(*first) + naive_square(*second)) + 2 * naive_square(z, x)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_map_is_the_closed_form_of_a_linear_classifier():
    classifier, x = Squares(gain=4.0), images()
    chosen = torch.tensor([0, 1, 1])
    method = PerceptualPerturbation(gamma=40.0, pixels=2.0, smoothing=1 / SIDE)
    maps = method(classifier, x, chosen)
    assert maps.dtype == torch.float32
    for index, c in enumerate(chosen.tolist()):
        weight = classifier.output.weight[c].double().numpy()
        margin = float(weight @ x[index].flatten().double().numpy()) + float(classifier.output.bias[c])
        target = -2.0 if margin >= 0 else 2.0
        moved = -weight * (margin - target) / (weight @ weight + 42.0 / SIDE**2)
        assert np.abs(moved).max() > 0.05
        expected = (naive_blur(SIDE, 1.0) @ np.abs(moved)).reshape(SIDE, SIDE)
        assert np.allclose(maps[index, 0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_the_decision_is_changed_whichever_it_was(chosen):
    classifier, rule = Layered(), DecisionRule(exclusive=True)
    x, c = torch.rand(1, 1, 8, 8), torch.tensor([chosen])
    before = float(rule.margin(classifier(x), c))
    z = PerceptualPerturbation(rule=rule, gamma=1e-2, pixels=1e-2).perturbed(classifier, x, c)
    after = float(rule.margin(classifier(z), c))
    assert (before >= 0) != (after >= 0)
    assert abs(after) == pytest.approx(2, abs=0.2)


def test_a_higher_gamma_keeps_the_activations_closer():
    classifier, rule = Layered(), DecisionRule(exclusive=True)
    x, c = torch.rand(1, 1, 8, 8), torch.tensor([0])
    phi_x = look_through_hooks(classifier, classifier.perceptual_layers, x).features
    distances = []
    for gamma in (1.0, 100.0):
        z = PerceptualPerturbation(rule=rule, gamma=gamma).perturbed(classifier, x, c)
        phi_z = look_through_hooks(classifier, classifier.perceptual_layers, z).features
        distances.append(sum(naive_square(*pair) for pair in zip(phi_z, phi_x, strict=True)))
    assert distances[1] < distances[0] / 2


def test_of_an_activation_used_twice_the_first_output_counts():
    classifier, x = Layered(), torch.rand(1, 1, 6, 6)
    one, two = look_through_hooks(classifier, classifier.perceptual_layers, x).features
    assert torch.equal(one, torch.relu(classifier.first(x)))
    assert torch.equal(two, torch.relu(classifier.second(one)))


def test_a_batch_is_explained_as_its_images_one_by_one():
    classifier, x, method = Squares(), images(), PerceptualPerturbation(gamma=10.0)
    together = method(classifier, x, CLASSES)
    alone = torch.cat([method(classifier, x[i : i + 1], CLASSES[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_largest_value_is_in_the_square_of_the_class():
    with torch.no_grad():
        maps = PerceptualPerturbation()(Squares(), images(), CLASSES)
    assert not maps.requires_grad
    assert float(maps.min()) >= 0
    assert [inside(maps[i, 0], square) for i, square in enumerate((0, 1, 0))] == [True] * 3


def test_nothing_is_left_on_the_classifier_even_when_it_fails():
    classifier, x = Squares(), images()
    before = x.clone()
    PerceptualPerturbation(iterations=3)(classifier, x, CLASSES)
    assert untouched(classifier)
    assert torch.equal(x, before)
    with pytest.raises(RuntimeError):
        PerceptualPerturbation()(classifier, torch.rand(1, 1, 5, 5), CLASSES[:1])
    assert untouched(classifier)
    classifier.output.weight.requires_grad_()
    PerceptualPerturbation(iterations=3)(classifier, x, CLASSES)
    assert classifier.output.weight.grad is None


def test_a_classifier_without_gradients_is_refused():
    assert PLUGIN is PerceptualPerturbation
    with pytest.raises(GradientsNeeded, match="perceptual_perturbation needs gradients"):
        PerceptualPerturbation()(Frozen(), images(), CLASSES)
