import copy

import numpy as np
import pytest
import torch

from explain_core import plugins
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.errors import GradientsNeeded
from explain_core.methods.grad_cam import GradCam
from explain_core.methods.gradient import Gradient
from explain_core.methods.input_gradient import InputGradient
from explain_core.methods.integrated_gradients import IntegratedGradients
from explain_core.methods.smooth_gradient import SmoothGradient
from explain_core.testing.classifier import ToyClassifier, WithoutGradients
from explain_core.testing.promises import check_method

SIZE = 10
METHODS = [
    Gradient(),
    InputGradient(),
    IntegratedGradients(steps=7, batch=5),
    SmoothGradient(samples=5, batch=2),
    GradCam(),
    GradCam(package="captum"),
]
NAMES = [f"{type(method).__name__}-{getattr(method, 'package', '')}" for method in METHODS]
CLASSES = torch.tensor([2, 1])


def toy(outputs=3):
    """With this seed, Grad-CAM has evidence for outputs 1 and 2 and none for output 0."""
    return ToyClassifier(outputs, seed=1)


def images_of(count=2, size=SIZE):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(5))


def naive_gradient(classifier, image, chosen):
    """Central differences in float64, one pixel after the other; `image` is (1, S, S)."""
    exact, step = copy.deepcopy(classifier).double(), 1e-6
    gradient = torch.zeros_like(image, dtype=torch.float64)
    for index in np.ndindex(image.shape):
        bright, dark = image.double().clone(), image.double().clone()
        bright[index] += step
        dark[index] -= step
        with torch.no_grad():
            gradient[index] = float(exact(bright[None])[0, chosen] - exact(dark[None])[0, chosen]) / (2 * step)
    return gradient


def naive(method, classifier, image, chosen):
    """The definition of each method, written out for one image of shape (1, S, S)."""
    match method:
        case Gradient():
            return naive_gradient(classifier, image, chosen).abs()
        case InputGradient():
            return (image * naive_gradient(classifier, image, chosen)).abs()
        case IntegratedGradients(steps=steps, baseline=baseline):
            points, weights = np.polynomial.legendre.leggauss(steps)
            total = sum(
                w / 2 * naive_gradient(classifier, baseline + (t + 1) / 2 * (image.double() - baseline), chosen)
                for t, w in zip(points, weights, strict=True)
            )
            return ((image - baseline) * total).abs()
        case SmoothGradient(samples=samples, noise=noise, seed=seed):
            drawn = torch.randn(samples, *image.shape, generator=torch.Generator().manual_seed(seed))
            deviation = noise * (max(image.flatten().tolist()) - min(image.flatten().tolist()))
            return (sum(naive_gradient(classifier, image + deviation * e, chosen) for e in drawn) / samples).abs()
        case GradCam():
            return naive_grad_cam(classifier, image, chosen)


def naive_grad_cam(classifier, image, chosen):
    """The toy taken apart: its second convolution's channels, differences of the rest, loops for the rest."""
    toy, step = copy.deepcopy(classifier).double(), 1e-6
    with torch.no_grad():
        channels = toy.second(toy.first_relu(toy.first(image.double()[None])))

        def rest(values):
            return float(toy.output(toy.second_relu(values).mean((2, 3)))[0, chosen])

        small = torch.zeros(channels.shape[2:], dtype=torch.float64)
        for k in range(channels.shape[1]):
            slopes = []
            for index in np.ndindex(channels.shape[2:]):
                more, less = channels.clone(), channels.clone()
                more[(0, k, *index)] += step
                less[(0, k, *index)] -= step
                slopes.append((rest(more) - rest(less)) / (2 * step))
            small += sum(slopes) / len(slopes) * channels[0, k]
    return naive_upsampled(small.clamp(min=0), image.shape[-1])


def naive_upsampled(small, size):
    """Bilinear between pixel centres, beyond the outermost ones the border's value."""
    large = torch.zeros(1, size, size, dtype=torch.float64)
    for i, j in np.ndindex(size, size):
        y, x = (min(max((v + 0.5) * len(small) / size - 0.5, 0), len(small) - 1) for v in (i, j))
        top, left = int(y), int(x)
        down, right = min(top + 1, len(small) - 1), min(left + 1, len(small) - 1)
        a, b = y - top, x - left
        upper = (1 - b) * small[top, left] + b * small[top, right]
        lower = (1 - b) * small[down, left] + b * small[down, right]
        large[0, i, j] = (1 - a) * upper + a * lower
    return large


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_each_method_equals_its_slow_twin(method):
    classifier, images = toy(), images_of()
    maps = method(classifier, images, CLASSES)
    for image, chosen, values in zip(images, CLASSES.tolist(), maps, strict=True):
        expected = naive(method, classifier, image, chosen)
        assert float(expected.max()) > 1e-4
        assert torch.allclose(values.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_each_method_keeps_the_promises(method, outputs):
    check_method(method, toy(outputs))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_each_method_works_on_a_real_architecture(method):
    torch.manual_seed(0)
    classifier = ResNet20(2, width=2).eval().requires_grad_(requires_grad=False)
    check_method(method, classifier, size=32)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_nothing_gathers_in_parameters_that_are_not_frozen(method):
    classifier = toy().requires_grad_()
    method(classifier, images_of(), CLASSES)
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_hook_is_gone_even_if_the_classifier_fails(method):
    classifier = toy()
    classifier.output = torch.nn.Linear(5, 3)
    with pytest.raises(RuntimeError):
        method(classifier, images_of(), CLASSES)
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize("name", ["gradient", "smooth_gradient", "input_gradient", "integrated_gradients", "grad_cam"])
def test_a_classifier_without_gradients_is_refused_in_one_line(name):
    method = plugins.load("explain_core.methods", name)()
    with pytest.raises(GradientsNeeded, match=f"^{name} needs gradients of the classifier") as refusal:
        method(WithoutGradients(toy()), images_of(), CLASSES)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("method", [IntegratedGradients(steps=7), SmoothGradient(samples=5)])
def test_the_bound_on_a_batch_holds_and_changes_nothing(method):
    sizes = []
    classifier = toy()
    classifier.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    unbounded = method(classifier, images_of(5), torch.zeros(5, dtype=torch.int64))
    assert max(sizes) > 3
    sizes.clear()
    bounded = type(method)(**{name: getattr(method, name) for name in method.__slots__} | {"batch": 3})
    maps = bounded(classifier, images_of(5), torch.zeros(5, dtype=torch.int64))
    assert max(sizes) <= 3
    assert torch.allclose(maps, unbounded, rtol=1e-4, atol=1e-7)


def test_smooth_gradient_equals_captums_noise_tunnel_given_the_same_numbers():
    from captum.attr import NoiseTunnel, Saliency

    classifier, image = toy(), images_of(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = NoiseTunnel(Saliency(classifier)).attribute(
            image, nt_samples=25, stdevs=0.15 * float(image.max() - image.min()), target=1, abs=False
        )
    maps = SmoothGradient(seed=3)(classifier, image, torch.tensor([1]))
    assert torch.allclose(maps, expected.detach().abs(), rtol=1e-4, atol=1e-7)
    assert not torch.allclose(maps, SmoothGradient(seed=4)(classifier, image, torch.tensor([1])), rtol=1e-2)


def test_a_constant_image_gets_no_noise():
    classifier, image = toy(), torch.full((1, 1, SIZE, SIZE), 0.3)
    chosen = torch.tensor([0])
    smooth, plain = SmoothGradient()(classifier, image, chosen), Gradient()(classifier, image, chosen)
    assert torch.allclose(smooth, plain, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_is_the_integral_from_black_and_sums_to_the_change_of_the_score():
    classifier, image = toy(), images_of(1)
    ways = ((torch.arange(4000) + 0.5) / 4000)[:, None, None, None] * image
    ways.requires_grad_()
    (gradients,) = torch.autograd.grad(classifier(ways)[:, 1].sum(), ways)
    signed = image * gradients.mean(0)
    maps = IntegratedGradients()(classifier, image, torch.tensor([1]))
    assert float((maps - signed.abs()).abs().max()) < 0.03 * float(maps.max())
    change = float(classifier(image)[0, 1] - classifier(torch.zeros_like(image))[0, 1])
    assert float((maps * signed.sign()).sum()) == pytest.approx(change, rel=3e-2)


def test_grad_cam_ranks_pixels_as_the_packages_own_call_does_and_keeps_their_strength():
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier, images = toy(), images_of(size=16)
    with GradCAM(classifier, [classifier.cam_layer]) as cam:
        stretched = cam(images.clone().requires_grad_(), [ClassifierOutputTarget(c) for c in CLASSES.tolist()])
    maps = GradCam()(classifier, images, CLASSES)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    assert torch.allclose((maps - low) / (high - low), torch.from_numpy(stretched), atol=1e-4)
    assert not torch.allclose(high, torch.ones_like(high), atol=0.1)


@pytest.mark.parametrize("package", ["grad-cam", "captum"])
def test_a_grad_cam_without_evidence_is_zero_and_not_nan(package):
    classifier, images = toy(), images_of()
    against = GradCam(package=package)(classifier, images, torch.tensor([0, 1]))
    classifier.output.weight[2] = 0
    nothing = GradCam(package=package)(classifier, images, torch.tensor([1, 2]))
    assert [float(values.abs().max()) > 0 for values in (*against, *nothing)] == [False, True, True, False]


def test_an_unknown_package_is_refused():
    with pytest.raises(ValueError, match="one of grad-cam, captum, not 'torchcam'"):
        GradCam(package="torchcam")
