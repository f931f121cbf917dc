"""The smallest change of one image, against a slow twin; it moves decisions, and only where they are made."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.classifier import DecisionRule
from explain_core.errors import GradientsNeeded
from explain_core.methods.optimum import Optimum
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from explain_core.testing.promises import check_method

SIDE = 16
SQUARE = (slice(4, 8), slice(8, 12))


class Square(nn.Module):
    """The logit is 40 * (mean brightness of a square - 0.5)."""

    differentiable = True

    def forward(self, images):
        return 40 * (images[:, :, SQUARE[0], SQUARE[1]].mean((1, 2, 3)) - 0.5)[:, None]


def images(count=3, seed=0):
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def naive(classifier, image, output, method, *, exclusive=False):
    """Steps of one image, each cell by itself."""
    logits = classifier(image)[0]
    own = int(logits.argmax()) if exclusive else output
    sign = -1 if exclusive or float(torch.sigmoid(logits[output])) >= method.rule.threshold else 1
    level = float(torch.logit(torch.tensor(method.rule.threshold)))
    generator = torch.Generator().manual_seed(method.seed)
    count = SIDE // method.stride
    cells = torch.zeros(count, count)

    def changed(grid):
        wide = functional.interpolate(grid[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
        return (image + wide).clamp(0, 1)

    for _ in range(method.steps):
        down, right = torch.randint(-method.shift, method.shift + 1, (2,), generator=generator).tolist()
        strength = torch.rand((), generator=generator) * method.noise
        noise = torch.randn(SIDE, SIDE, generator=generator) * strength
        grid = cells.clone().requires_grad_()
        shown = torch.roll(changed(grid), (down, right), dims=(-2, -1)) + noise
        scores = classifier(shown)[0]
        others = [scores[k] for k in range(len(scores)) if k != own]
        gain = sign * (scores[own] - (max(others, key=Tensor.detach) if exclusive else level))
        (gradient,) = torch.autograd.grad(gain, grid)
        largest = max(abs(float(v)) for v in gradient.flatten())
        for row in range(count):
            for column in range(count):
                moved = float(cells[row, column]) + method.size * float(gradient[row, column]) / max(largest, 1e-12)
                length = max(abs(moved) - method.size * method.threshold, 0)
                cells[row, column] = length if moved > 0 else -length
    return (changed(cells) - image)[0]


SHORT = Optimum(steps=6, size=0.05, stride=2, shift=1)


def test_it_keeps_a_methods_promises():
    check_method(Optimum(steps=3, stride=2, shift=1), ToyClassifier())


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_it_is_the_slow_loop(threshold):
    classifier, x, method = ToyClassifier(2), images(), Optimum(
        steps=6, size=0.05, stride=2, shift=1, rule=DecisionRule(threshold=threshold)
    )  # fmt: skip
    classes = torch.tensor([0, 1, 0])
    found = method.difference(classifier, x, classes)
    for index in range(3):
        expected = naive(classifier, x[index : index + 1], int(classes[index]), method)
        torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=0)
    assert float(found.abs().max()) > 0.1
    assert torch.equal(method(classifier, x, classes), found.abs())


def test_of_exclusive_classes_it_leaves_the_classifiers_own():
    classifier, x = ToyClassifier(3), images()
    method = Optimum(steps=6, size=0.05, stride=2, shift=1, rule=DecisionRule(exclusive=True))
    found = method.difference(classifier, x, torch.zeros(3, dtype=torch.long))
    for index in range(3):
        expected = naive(classifier, x[index : index + 1], 0, method, exclusive=True)
        torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=0)
    assert torch.equal(method.difference(classifier, x, torch.tensor([2, 1, 2])), found), "the class is not asked for"
    rule, own = DecisionRule(exclusive=True), classifier(x).argmax(1)
    before, after = (rule.margin(classifier(one), own) for one in (x, x + found))
    assert bool((after < before).all())


def test_it_reverses_a_decision_in_the_place_where_it_is_made():
    x = images(2) * 0.2 + 0.3
    x[0][..., SQUARE[0], SQUARE[1]] = 0.65
    method, classes = Optimum(stride=2, shift=0), torch.zeros(2, dtype=torch.long)
    found = method.difference(Square(), x, classes)
    before, after = Square()(x)[:, 0], Square()(x + found)[:, 0]
    assert (before > 0).tolist() == [True, False]
    assert (after > 0).tolist() == [False, True]
    near = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    near[1:11, 5:15] = True  # the cells that touch the square, and as far as they reach
    assert not found[..., ~near].any()
    assert float(found[0, 0][SQUARE].max()) < 0 < float(found[1, 0][SQUARE].min())
    assert float((x + found).min()) >= 0
    assert float((x + found).max()) <= 1


def test_a_higher_threshold_leaves_fewer_cells_and_no_step_none():
    classifier, x, classes = ToyClassifier(2), images(), torch.zeros(3, dtype=torch.long)
    shares = [
        float((Optimum(steps=5, stride=2, shift=1, threshold=share)(classifier, x, classes) > 1e-6).float().mean())
        for share in (0.0, 0.3, 0.9)
    ]
    assert shares[0] > shares[1] > shares[2]
    assert not Optimum(steps=0)(classifier, x, classes).any()


def test_it_needs_gradients():
    with pytest.raises(GradientsNeeded, match="optimum"):
        SHORT(WithoutGradients(ToyClassifier()), images(), torch.zeros(3, dtype=torch.long))
