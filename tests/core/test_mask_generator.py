"""The mask generator's network and loss beside their definitions with loops, and the method around it."""

import numpy as np
import pytest
import torch
from torch import nn
from toys_mask import naive_enlarge

from explain_core.generators.mask_generator import (
    MaskGenerator,
    MaskWeights,
    area,
    blend,
    destroyed,
    preserved,
    smoothness,
    terms,
)
from explain_core.methods.mask_generator import PLUGIN, MaskGeneratorMethod


def network():
    torch.manual_seed(0)
    return MaskGenerator([4, 8]).eval()


def naive_mask(model, x):
    """The mask of one image, shape (1, 1, S, S): convolution with stride 2, ratio and enlargement by loops."""
    features = model.trunk(x)[0].detach().double().numpy()
    weight, bias = model.head.weight.detach().double().numpy(), model.head.bias.detach().double().numpy()
    side = features.shape[-1]
    half = side // 2
    ratio = np.zeros((half, half))
    for i in range(half):
        for j in range(half):
            values = bias.copy()
            for k in range(3):
                for m in range(3):
                    row, column = 2 * i + k - 1, 2 * j + m - 1
                    if 0 <= row < side and 0 <= column < side:
                        values += weight[:, :, k, m] @ features[:, row, column]
            ratio[i, j] = abs(values[0]) / (abs(values[0]) + abs(values[1]))
    return (naive_enlarge(half, side) @ ratio.ravel()).reshape(side, side)


def test_the_mask_is_a_ratio_at_half_the_resolution_enlarged():
    model, x = network(), torch.rand(2, 1, 8, 8)
    masks = model(x)
    assert masks.shape == x.shape
    for index in range(2):
        assert np.allclose(masks[index, 0].detach().numpy(), naive_mask(model, x[index : index + 1]), atol=1e-5)


def test_two_channels_of_zero_make_no_mask_and_no_nan():
    model = network()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    masks = model(torch.rand(1, 1, 8, 8))
    masks.sum().backward()
    assert float(masks.detach().abs().max()) == 0
    assert torch.isfinite(model.head.weight.grad).all()


def test_the_loss_is_its_definition():
    torch.manual_seed(1)
    mask = torch.rand(2, 1, 5, 5)
    without, only = torch.tensor([-7.0, 2.0]), torch.tensor([0.5, -3.0])
    decided = torch.tensor([True, False])
    w = MaskWeights(destroyer=0.9, preserver=0.4, area=7.0, smoothness=0.6, border=0.2)
    squares, powers = 0.0, 0.0
    for n in range(2):
        m = mask[n, 0].tolist()
        for i in range(5):
            for j in range(5):
                powers += (m[i][j] + 0.0005) ** 0.3
                squares += (m[i + 1][j] - m[i][j]) ** 2 if i < 4 else 0
                squares += (m[i][j + 1] - m[i][j]) ** 2 if j < 4 else 0
                squares += 0.2 * m[i][j] ** 2 * ((i in {0, 4}) + (j in {0, 4}))
    found = terms(mask, without, only, decided, w)
    assert float(found["destroyer"]) == pytest.approx(0.9 * (0 + 7.0) / 2)
    assert float(found["preserver"]) == pytest.approx(0.4 * (0.5 + 0) / 2)
    assert float(found["area"]) == pytest.approx(7 * powers / 50, rel=1e-5)
    assert float(found["smoothness"]) == pytest.approx(0.6 * squares / 2, rel=1e-5)
    assert set(found) == {"destroyer", "preserver", "area", "smoothness"}


def test_each_term_pulls_the_way_it_should():
    mask = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    (pull,) = torch.autograd.grad(area(mask, 0.3), mask)
    assert (pull > 0).all()
    assert float(smoothness(mask.detach(), 0.0)) == 0
    margin = torch.tensor([1.0], requires_grad=True)
    assert torch.autograd.grad(destroyed(margin, 5.0), margin)[0].item() > 0
    assert torch.autograd.grad(preserved(margin, torch.tensor([True]), 2.0), margin)[0].item() < 0
    x, other = torch.rand(2, 1, 1, 4, 4)
    assert torch.equal(blend(x, torch.zeros_like(x), other), x)
    assert torch.equal(blend(x, torch.ones_like(x), other), other)


def test_the_method_shows_the_networks_mask_and_asks_no_classifier():
    model, x = network(), torch.rand(3, 1, 8, 8)
    classes = torch.zeros(3, dtype=torch.int64)
    assert PLUGIN is MaskGeneratorMethod
    assert not PLUGIN.needs_gradients
    assert PLUGIN.trained_by == "mask_generator"
    method = MaskGeneratorMethod(network=model)
    together = method(None, x, classes)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    assert torch.equal(together, model(x).detach())
    alone = torch.cat([method(None, x[i : i + 1], classes[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        MaskGeneratorMethod(network=network().train())(None, torch.rand(2, 1, 8, 8), torch.zeros(2))
