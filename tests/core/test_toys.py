from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from explain_core import plugins
from explain_core.classifier import need_gradients, score
from explain_core.errors import GradientsNeeded
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from explain_core.testing.promises import check_classifier, check_method


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    reference: ClassVar[str] = "none: for tests only"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None

    def maps(self, classifier, images, classes):
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(classifier(inputs), classes).sum(), inputs)
        return gradient.abs()

    def __call__(self, classifier, images, classes):
        need_gradients(classifier, "good")
        return self.maps(classifier, images, classes)


def breaking(change):
    """The good method, followed by `change(maps, classifier, images)`, which returns other maps or None."""

    @dataclass(frozen=True)
    class Broken(Good):
        def __call__(self, classifier, images, classes):
            need_gradients(classifier, "broken")
            maps = self.maps(classifier, images, classes)
            changed = change(maps, classifier, images)
            return maps if changed is None else changed

    return Broken()


def hook(_, classifier, __):
    classifier.second.register_forward_hook(lambda *_: None)


def backward_hook(_, classifier, __):
    classifier.second.register_full_backward_hook(lambda *_: None)


def gradients(_, classifier, __):
    classifier.output.bias.grad = torch.zeros(3)


def requires_grad(_, classifier, __):
    classifier.requires_grad_()


def training(_, classifier, __):
    classifier.first_relu.train()


def weights(_, classifier, __):
    classifier.output.bias.add_(1e-6)


def pixels(_, __, images):
    images[0, 0, 0, 0] = 0.25


def image_gradients(_, __, images):
    images.requires_grad_()


FAULTS = [
    (hook, "hooks of second must be as before"),
    (backward_hook, "hooks of second must be as before"),
    (gradients, r"gradient of output\.bias must be as before"),
    (requires_grad, r"requires_grad of first\.weight must be as before"),
    (training, "training flag of first_relu must be as before"),
    (weights, r"value of output\.bias must be as before"),
    (pixels, "images must not be changed"),
    (image_gradients, "images must not get gradients"),
    (lambda maps, *_: maps[:, 0], r"maps must be \(3, 1, 16, 16\), not \(3, 16, 16\)"),
    (lambda maps, *_: maps.double(), r"maps must be float32, not torch\.float64"),
    (lambda maps, *_: maps.requires_grad_(), "maps must be detached"),
    (lambda maps, *_: maps / 0, "maps must be finite"),
    (lambda maps, *_: maps - 1e-3, "maps must be >= 0"),
    (lambda maps, *_: maps / maps.max(), "a batch must equal its images one by one"),
    (lambda maps, *_: maps * torch.rand(()), "not the process's numbers"),
    (lambda maps, *_: maps * torch.rand((), generator=NOISE), "the same call twice must give the same maps"),
]
NOISE = torch.Generator()


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_method_that_breaks_a_promise_is_told_which(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_method(breaking(fault), ToyClassifier())


def test_a_method_that_keeps_them_passes_on_any_number_of_outputs():
    check_method(Good(), ToyClassifier())
    check_method(Good(), ToyClassifier(1, seed=3), size=8)


def test_a_method_without_refusal_or_with_a_needless_one_is_told():
    class Silent(Good):
        def __call__(self, *call):
            return torch.zeros_like(call[1])

    with pytest.raises(AssertionError, match="must raise GradientsNeeded"):
        check_method(Silent(), ToyClassifier())

    @dataclass(frozen=True)
    class Shy(Good):
        needs_gradients: ClassVar[bool] = False

    with pytest.raises(GradientsNeeded, match="good needs gradients"):
        check_method(Shy(), ToyClassifier())


def test_settings_must_be_frozen_and_a_reference_given():
    @dataclass
    class Loose:
        reference: ClassVar[str] = "none"

    with pytest.raises(AssertionError, match="Loose must be a frozen dataclass"):
        check_method(Loose(), ToyClassifier())

    @dataclass(frozen=True)
    class Anonymous(Good):
        reference: ClassVar[str] = ""

    with pytest.raises(AssertionError, match="must name a publication"):
        check_method(Anonymous(), ToyClassifier())


def test_the_toy_has_its_own_seed_and_comes_frozen():
    before = torch.get_rng_state()
    one, same, other = ToyClassifier(2), ToyClassifier(2), ToyClassifier(2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(one(image), same(image))
    assert not torch.allclose(one(image), other(image))
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_the_toys_pass_as_classifiers():
    check_classifier(ToyClassifier(3), 3, 16)
    check_classifier(WithoutGradients(ToyClassifier(1)), 1, 8)


CLASSIFIERS = [plugins.load("explain_core.classifiers", name) for name in plugins.available("explain_core.classifiers")]


@pytest.mark.parametrize("plugin", [plugin for plugin in CLASSIFIERS if not hasattr(plugin, "file_name")])
def test_every_architecture_keeps_the_promises(plugin):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = plugin(2).eval().requires_grad_(requires_grad=False)
    check_classifier(classifier, 2, 32)


def changed(**members):
    return type("Changed", (ToyClassifier,), members)()


def logits_through(change):
    return changed(forward=lambda self, images: change(ToyClassifier.forward(self, images)))


FAULTY_CLASSIFIERS = [
    (lambda: logits_through(lambda z: z[:, :2]), r"logits must be \(N, 3\), not \(3, 2\)"),
    (lambda: logits_through(lambda z: z.double()), "logits must be float32"),
    (lambda: logits_through(lambda z: z / 0), "logits must be finite"),
    (lambda: logits_through(lambda z: z + torch.rand((), generator=NOISE)), "same images must give the same logits"),
    (lambda: logits_through(lambda z: z - z.mean(0)), "a batch must equal its images one by one"),
    (lambda: logits_through(lambda z: z + 0 * torch.rand(())), "not the process's numbers"),
    (lambda: changed(forward=lambda self, x: ToyClassifier.forward(self, x.round())), "gradients must flow"),
    (lambda: changed(perceptual_layers=()), "perceptual_layers must not be empty"),
    (lambda: changed(cam_layer=nn.ReLU()), "every layer must run once"),
    (lambda: changed(cam_layer=property(lambda self: self.output)), r"layers must give \(N, C, h, w\)"),
    (lambda: changed(differentiable=False), "gradients must not flow"),
    (
        lambda: changed(differentiable=False, forward=lambda self, x: ToyClassifier.forward(self, x.detach())),
        "must raise GradientsNeeded",
    ),
]


@pytest.mark.parametrize(("faulty", "message"), FAULTY_CLASSIFIERS)
def test_a_classifier_that_breaks_a_promise_is_told_which(faulty, message):
    with pytest.raises(AssertionError, match=message):
        check_classifier(faulty(), 3, 16)
