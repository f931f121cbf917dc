import math

import pytest
import torch

from explain_core.classifier import DecisionRule
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.losses import (
    LossWeights,
    decision,
    distance,
    exclusive_decision,
    generator_distance,
    similarity,
    total_variation,
)
from explain_core.methods.adversarial import Adversarial
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod

DECISIONS = torch.tensor([0, 1])


def test_the_published_28_pixel_single_2_has_its_number_of_weights():
    model = SimilarAdversarial([16, 32, 64])
    weights = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for name, b in model.named_buffers() if "num_batches" not in name)
    assert weights + statistics == 233_302
    assert sum(p.numel() for p in model.similar.parameters()) == 13_889


def test_heads_start_equal_and_the_identity_variant_starts_at_the_image():
    x = torch.rand(2, 1, 32, 32)
    plain = SimilarAdversarial([4, 8, 16]).eval()
    x_s, x_a = plain(x, DECISIONS)
    assert torch.equal(x_s, x_a)
    assert not torch.allclose(x_s, x, atol=1e-2)
    x_s, x_a = SimilarAdversarial([4, 8, 16], output="identity").eval()(x, DECISIONS)
    assert torch.equal(x_s, x)
    assert torch.equal(x_a, x)
    with pytest.raises(ValueError, match="plain"):
        SimilarAdversarial([4, 8], output="other")


class Fixed(SimilarAdversarial):
    """Generators whose images are known."""

    def forward(self, x, decisions, seen=None):  # noqa: ARG002
        return x + 0.7, x - 0.1 - 0.1 * decisions.view(-1, 1, 1, 1)


def logits(images):
    return torch.stack([images.mean((1, 2, 3)) * 0 - 1, images.mean((1, 2, 3)) * 0 + 1], dim=1)


def test_the_explanation_is_the_absolute_difference_of_the_clipped_images():
    x, first = torch.tensor([[[[0.5, 0.2]]]]), torch.zeros(1, dtype=torch.long)
    values = SimilarAdversarialMethod(network=Fixed([4, 8]))(logits, x, first)
    assert values.flatten().tolist() == pytest.approx([0.6, 0.8])
    naive = Adversarial(network=Fixed([4, 8]))
    assert naive(logits, x, first).flatten().tolist() == pytest.approx([0.1, 0.1])
    assert naive.maps(logits, x, 1 - first).flatten().tolist() == pytest.approx([0.2, 0.2])  # as copies are told


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(DecisionRule(), 0.2), (DecisionRule(threshold=0.9), 0.1), (DecisionRule(exclusive=True), 0.2)],
)
def test_conditioned_generators_are_asked_with_the_classifiers_decision(rule, expected):
    x, second = torch.full((1, 1, 4, 4), 0.5), torch.ones(1, dtype=torch.long)
    values = Adversarial(network=Fixed([4, 8], decisions=2), rule=rule)(logits, x, second)
    assert float(values.mean()) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "heads", "trunks"), [("single", 2, 1), ("duo", 2, 2), ("naive", 1, 1)])
def test_what_the_kinds_share(kind, heads, trunks):
    model = SimilarAdversarial([4, 8], kind=kind, head_layers=1).eval()
    trunk = sum(p.numel() for p in model.trunk.parameters())
    head = sum(p.numel() for p in model.adversarial.parameters())
    assert sum(p.numel() for p in model.parameters()) == trunks * trunk + heads * head
    paired = sum(a.numel() for a, _ in model.paired_parameters())
    assert paired == {"single": head, "duo": trunk + head, "naive": 0}[kind]
    assert float(generator_distance(model.paired_parameters()).detach()) == 0
    x = torch.rand(2, 1, 16, 16)
    x_s, x_a = model(x, DECISIONS)
    assert torch.equal(x_s, x if kind == "naive" else x_a)


def naive_losses(x, x_s, x_a, w):
    """Equations (6), (9) written out with loops."""
    n = len(x)

    def pair(u, v):
        return (
            sum(abs(a - b) for a, b in zip(u, v, strict=True)) / n
            + w.squared * sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / n
        )

    return w.similar * pair(x, x_s) + w.adversarial * pair(x, x_a) + w.between * pair(x_s, x_a)


def test_losses_agree_with_their_equations():
    torch.manual_seed(0)
    x, x_s, x_a = torch.rand(3, 1, 1, 6, 6)
    w = LossWeights()
    flat = [v.flatten().tolist() for v in (x, x_s, x_a)]
    assert float(similarity(x, x_s, x_a, w)) == pytest.approx(naive_losses(*flat, w), rel=1e-5)
    assert float(distance(x, x)) == 0
    logit_s, logit_a, y = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]), torch.tensor([1.0, 0.0])

    def bce(z, t):
        p = 1 / (1 + math.exp(-z))
        return -(t * math.log(p) + (1 - t) * math.log(1 - p))

    expected = 0.001 * (bce(2, 1) + bce(-1, 0)) / 2 + 0.001 * (bce(0.5, 0) + bce(3, 1)) / 2
    assert float(decision(logit_s, logit_a, y, w)) == pytest.approx(expected, rel=1e-5)
    d = (x_s - x_a)[0, 0]
    vertical = sum(abs(float(d[i + 1, j] - d[i, j])) for i in range(5) for j in range(6)) / 30
    horizontal = sum(abs(float(d[i, j + 1] - d[i, j])) for i in range(6) for j in range(5)) / 30
    assert float(total_variation(x_s - x_a)) == pytest.approx(vertical + horizontal, rel=1e-5)
    pairs = [(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])), (torch.tensor([3.0]), torch.tensor([3.0]))]
    assert float(generator_distance(pairs)) == pytest.approx(5)


def test_the_margin_loss_agrees_with_its_equation():
    """Equation (10), one image and one class at a time."""
    torch.manual_seed(0)
    logits_s, logits_a = torch.randn(2, 6, 3) * 2
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    w = LossWeights(decision_similar=0.3, decision_adversarial=0.7, margin=0.5)
    total = 0.0
    for s, a, c in zip(logits_s.tolist(), logits_a.tolist(), classes.tolist(), strict=True):
        others_s = max(v for k, v in enumerate(s) if k != c)
        others_a = max(v for k, v in enumerate(a) if k != c)
        total += 0.3 * max(others_s - s[c], -0.5) + 0.7 * max(a[c] - others_a, -0.5)
    assert float(exclusive_decision(logits_s, logits_a, classes, w)) == pytest.approx(total / 6, rel=1e-5)


def test_a_gradient_step_separates_the_generators():
    torch.manual_seed(0)
    model = SimilarAdversarial([4, 8], output="identity")
    x = torch.rand(2, 1, 16, 16)
    x_s, x_a = model(x, DECISIONS)
    loss = decision(x_s.mean((1, 2, 3)), x_a.mean((1, 2, 3)), torch.ones(2), LossWeights())
    loss.backward()
    similar, adversarial = model.similar[-1].weight.grad, model.adversarial[0][-1].weight.grad
    assert float(similar.abs().sum()) > 0
    assert torch.sign(similar).ne(torch.sign(adversarial)).any()


def test_the_conditioned_variant_lets_the_decision_choose_the_head():
    torch.manual_seed(0)
    model = SimilarAdversarial([4, 8], output="identity", decisions=2).eval()
    torch.nn.init.constant_(model.adversarial[1][-1].bias, 0.5)
    x = torch.rand(3, 1, 16, 16)
    _, x_a = model(x, torch.tensor([0, 1, 0]))
    assert torch.equal(x_a[[0, 2]], x[[0, 2]])
    assert torch.allclose(x_a[1], x[1] + 0.5)
    assert len(list(model.paired_parameters())) == 2 * len(list(model.similar.parameters()))
