import math

import pytest
import torch

from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.losses import (
    LossWeights,
    decision,
    distance,
    generator_distance,
    similarity,
    total_variation,
)
from explain_core.methods.similar_adversarial import similar_adversarial

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


def test_the_explanation_is_the_absolute_difference_of_the_clipped_images():
    x = torch.tensor([[[[0.5, 0.2]]]])
    values, x_s, x_a = similar_adversarial(x, DECISIONS, lambda images, _: (images + 0.7, images - 0.1))
    assert x_s.flatten().tolist() == pytest.approx([1.0, 0.9])
    assert x_a.flatten().tolist() == pytest.approx([0.4, 0.1])
    assert values.flatten().tolist() == pytest.approx([0.6, 0.8])


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
    model = SimilarAdversarial([4, 8], output="identity", conditioned=True).eval()
    torch.nn.init.constant_(model.adversarial[1][-1].bias, 0.5)
    x = torch.rand(3, 1, 16, 16)
    _, x_a = model(x, torch.tensor([0, 1, 0]))
    assert torch.equal(x_a[[0, 2]], x[[0, 2]])
    assert torch.allclose(x_a[1], x[1] + 0.5)
    assert len(list(model.paired_parameters())) == 2 * len(list(model.similar.parameters()))
