"""Meaningful perturbation beside a slow twin in NumPy: explicit matrices, gradients by hand, Adam written out."""

import math

import numpy as np
import pytest
import torch
from toys_mask import SIDE, SQUARES, Frozen, Squares, images, inside, naive_blur, naive_enlarge, untouched

from explain_core.blur import gaussian_blur
from explain_core.classifier import DecisionRule
from explain_core.errors import GradientsNeeded
from explain_core.methods.bbmp import PLUGIN, Bbmp, penalties, smallest_circles

CLASSES = torch.tensor([0, 1, 0])


def naive_penalty(mask, sparsity, smoothness, beta):
    """The cost and its gradient by loops over the pixels of a mask of shape (M, M), in the sums of 28 x 28."""
    size = len(mask)
    area, edge = sparsity * (28 / size) ** 2, smoothness * (size / 28) ** (beta - 2)
    cost, gradient = 0.0, np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            cost += area * abs(1 - mask[i, j])
            gradient[i, j] -= area * np.sign(1 - mask[i, j])
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < size and m < size:
                    jump = mask[k, m] - mask[i, j]
                    slope = edge * beta * abs(jump) ** (beta - 1) * np.sign(jump)
                    cost += edge * abs(jump) ** beta
                    gradient[k, m] += slope
                    gradient[i, j] -= slope
    return cost, gradient


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def naive_circle(probability, size):
    """The smallest of 33 circles that removes 99 % of what blurring everything removes."""
    whole, blurred = probability(np.ones(size * size)), probability(np.zeros(size * size))
    for step in range(33):
        mask = np.ones((size, size))
        for i in range(size):
            for j in range(size):
                distance = math.hypot((i + 0.5) / size - 0.5, (j + 0.5) / size - 0.5)
                if distance < math.sqrt(0.5) * step / 32:
                    mask[i, j] = 0
        if probability(mask.ravel()) <= whole - 0.99 * (whole - blurred):
            return mask.ravel()
    raise AssertionError


def naive_bbmp(image, weight, bias, method):
    """The map, shape (16, 16), of one image, shape (16, 16), for the probability sigmoid(weight . z + bias)."""
    size, largest = method.size(SIDE), round(method.jitter * SIDE)
    grow = naive_blur(SIDE, method.mask_blur * SIDE) @ naive_enlarge(size, SIDE)
    blurred = (naive_blur(SIDE, method.blur * SIDE) @ image.ravel()).reshape(SIDE, SIDE)

    def moved(values, row, column):
        rows = [min(max(i + row - largest, 0), SIDE - 1) for i in range(SIDE)]
        columns = [min(max(j + column - largest, 0), SIDE - 1) for j in range(SIDE)]
        return np.array([[values[i, j] for j in columns] for i in rows]).ravel()

    def probability(mask, row=largest, column=largest):
        kept = grow @ mask
        z = moved(image, row, column) * kept + moved(blurred, row, column) * (1 - kept)
        return sigmoid(weight @ z + bias)

    mask = naive_circle(probability, size) if method.circle else np.ones(size * size)
    generator = torch.Generator().manual_seed(method.seed)
    mean, spread = np.zeros_like(mask), np.zeros_like(mask)
    for step in range(1, method.iterations + 1):
        row, column = torch.randint(0, 2 * largest + 1, (2,), generator=generator).tolist()
        p = probability(mask, row, column)
        difference = moved(image, row, column) - moved(blurred, row, column)
        gradient = p * (1 - p) * grow.T @ (weight * difference)
        _, cost = naive_penalty(mask.reshape(size, size), method.sparsity, method.smoothness, method.beta)
        gradient = gradient + cost.ravel()
        mean = 0.9 * mean + 0.1 * gradient
        spread = 0.999 * spread + 0.001 * gradient**2
        step_size = method.learning_rate * (mean / (1 - 0.9**step)) / (np.sqrt(spread / (1 - 0.999**step)) + 1e-8)
        mask = np.clip(mask - step_size, 0, 1)
    return 1 - (grow @ mask).reshape(SIDE, SIDE)


def test_the_blur_is_its_definition():
    x = images(2, (0, 1))
    x = torch.cat([x, x.flip(-1)], dim=1)
    for sigma in (0.0, 0.7, 3.0):
        expected = (naive_blur(SIDE, sigma) @ x.reshape(4, -1).double().numpy().T).T
        assert np.allclose(gaussian_blur(x, sigma).reshape(4, -1).numpy(), expected, atol=1e-5)


def test_the_penalties_are_their_definition_and_the_same_at_every_size():
    mask = torch.rand(2, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    costs = penalties(mask, 0.3, 0.7, 3.0)
    (gradient,) = torch.autograd.grad(costs.sum(), mask)
    for index in range(2):
        cost, slope = naive_penalty(mask.detach()[index, 0].numpy(), 0.3, 0.7, 3.0)
        assert float(costs[index].detach()) == pytest.approx(cost)
        assert np.allclose(gradient[index, 0].numpy(), slope)
    ramps = [((torch.arange(n) + 0.5) / n).expand(1, 1, n, n) for n in (14, 28, 56)]
    small, published, large = (float(penalties(ramp, 1e-4, 1e-2, 3.0)) for ramp in ramps)
    assert small == pytest.approx(published, rel=0.05)
    assert large == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("circle", [True, False])
def test_the_map_is_that_of_the_slow_twin(circle):
    classifier, x = Squares(), images()
    method = Bbmp(iterations=25, jitter=2 / SIDE, blur=2 / SIDE, mask_blur=1 / SIDE, circle=circle, learning_rate=0.05)
    maps = method(classifier, x, CLASSES)
    assert maps.dtype == torch.float32
    assert maps.shape == x.shape
    for index, chosen in enumerate(CLASSES.tolist()):
        weight, bias = classifier.output.weight[chosen].double().numpy(), float(classifier.output.bias[chosen])
        expected = naive_bbmp(x[index, 0].double().numpy(), weight, bias, method)
        assert expected.max() > 0.1
        assert np.allclose(maps[index, 0].numpy(), expected, atol=1e-3)


def test_two_exclusive_classes_are_one_logit_of_their_difference():
    both, x = Squares(), images()
    one = Squares(1)
    one.output.weight.data = both.output.weight[:1] - both.output.weight[1:]
    one.output.bias.data = both.output.bias[:1] - both.output.bias[1:]
    zeros = torch.zeros(3, dtype=torch.int64)
    exclusive = Bbmp(iterations=10, rule=DecisionRule(exclusive=True))(both, x, zeros)
    single = Bbmp(iterations=10)(one, x, zeros)
    assert torch.allclose(exclusive, single, atol=1e-4)


def test_the_circle_is_whole_where_nothing_can_fall():
    ones = torch.ones(2, 1, 8, 8)
    start = smallest_circles(lambda mask: mask.mean(dim=(1, 2, 3)) * torch.tensor([1.0, -1.0]), ones)
    assert float(start[0].sum()) == 0
    assert torch.equal(start[1], ones[1])


def test_a_batch_is_explained_as_its_images_one_by_one():
    classifier, x, method = Squares(), images(), Bbmp(iterations=30, jitter=1 / SIDE)
    together = method(classifier, x, CLASSES)
    alone = torch.cat([method(classifier, x[i : i + 1], CLASSES[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, method(classifier, x, CLASSES))


def test_the_map_is_the_square_of_the_class():
    classifier, x = Squares(), images()
    with torch.no_grad():
        maps = Bbmp(iterations=100, blur=4 / SIDE, sparsity=1e-3)(classifier, x, CLASSES)
    assert not maps.requires_grad
    assert float(maps.min()) >= 0
    for index, chosen in enumerate(CLASSES.tolist()):
        values, square = maps[index, 0], torch.zeros(SIDE, SIDE, dtype=torch.bool)
        square[SQUARES[chosen]] = True
        assert inside(values, chosen)
        assert float(values[square].mean()) > 0.9
        assert float(values[~square].mean()) < 0.2
    replaced = x * (1 - maps) + gaussian_blur(x, 4.0) * maps
    assert (torch.sigmoid(classifier(replaced)).gather(1, CLASSES[:, None]) < 0.5).all()
    assert (torch.sigmoid(classifier(x)).gather(1, CLASSES[:, None]) > 0.8).all()


def test_nothing_is_left_on_the_classifier():
    classifier = Squares()
    x = images()
    before = x.clone()
    Bbmp(iterations=2)(classifier, x, CLASSES)
    assert untouched(classifier)
    assert torch.equal(x, before)
    classifier.output.weight.requires_grad_()
    Bbmp(iterations=2)(classifier, x, CLASSES)
    assert classifier.output.weight.grad is None


def test_a_classifier_without_gradients_is_refused():
    with pytest.raises(GradientsNeeded, match="bbmp needs gradients"):
        Bbmp()(Frozen(), images(), CLASSES)


def test_the_size_of_the_mask():
    assert PLUGIN is Bbmp
    assert [Bbmp().size(side) for side in (224, 64, 16, 6)] == [56, 16, 7, 6]
    assert [Bbmp(mask_size=56).size(side) for side in (224, 32)] == [56, 32]
