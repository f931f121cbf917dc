"""What every method and every classifier promises, as checks; a broken promise is an AssertionError that names it."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from explain_core.classifier import Classifier
from explain_core.errors import ExplainError, FeaturesNeeded, GradientsNeeded
from explain_core.method import Method, stated
from explain_core.testing.classifier import WithoutGradients

TOLERANCE = 1e-4  # of the largest value: the same sums in another order, in float32


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_method(method: Method, classifier: Classifier, size: int = 16) -> None:
    """Check what `explain_core.method` promises, on three random images and every output.

    Args:
        method: an instance with its settings; keep them small, it is called about ten times.
        classifier: in eval mode, frozen; it must look as before when the method is done.
        size: S of the images (N, 1, S, S).

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    name = type(method).__name__
    _require(_is_frozen(method), f"{name} must be a frozen dataclass")
    _require(isinstance(method.reference, str) and method.reference != "", f"{name}.reference must name a publication")
    _require(isinstance(method.needs_gradients, bool), f"{name}.needs_gradients must be True or False")
    _require(isinstance(method.trained_by, str | None), f"{name}.trained_by must be a module's name or None")
    images = _images(size)
    outputs = classifier(images).shape[1]
    classes = torch.arange(len(images)) % outputs
    with _nothing_left_behind(name, classifier, images):
        maps = method(classifier, images, classes)
    _check_maps(name, maps, images)
    with _nothing_left_behind(name, classifier, images):
        with torch.no_grad():
            again = method(classifier, images, classes)
        _require(torch.equal(again, maps), f"{name}: the same call twice must give the same maps, under no_grad too")
        for index in range(len(images)):
            one = method(classifier, images[index : index + 1], classes[index : index + 1])
            _check_maps(name, one, images[index : index + 1])
            _require(_close(one[0], maps[index]), f"{name}: a batch must equal its images one by one")
        for output in range(outputs):
            _check_maps(name, method(classifier, images[:1], torch.tensor([output])), images[:1])
        if classifier.differentiable:
            _check_without_gradients(method, classifier, images, classes, maps)


def check_classifier(classifier: Classifier, outputs: int, size: int) -> None:
    """Check what `explain_core.classifier` promises, on three random images.

    Args:
        classifier: in eval mode.
        outputs: number of logits that it shall have.
        size: S of the images (N, 1, S, S).

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    name = type(classifier).__name__
    images = _images(size)
    with _nothing_left_behind(name, classifier, images):
        logits = classifier(images)
        _require(
            logits.shape == (len(images), outputs), f"{name}: logits must be (N, {outputs}), not {tuple(logits.shape)}"
        )
        _require(logits.dtype == torch.float32, f"{name}: logits must be float32, not {logits.dtype}")
        _require(bool(torch.isfinite(logits).all()), f"{name}: logits must be finite")
        _require(torch.equal(classifier(images), logits), f"{name}: the same images must give the same logits")
        for index in range(len(images)):
            one = classifier(images[index : index + 1])
            _require(_close(one[0], logits[index]), f"{name}: a batch must equal its images one by one")
        if classifier.differentiable:
            _check_layers(name, classifier, images)
        else:
            _require(not classifier(images.clone().requires_grad_()).requires_grad, f"{name}: gradients must not flow")
            _refuses(name, lambda: classifier.cam_layer)
            _refuses(name, lambda: classifier.perceptual_layers)


def _check_maps(name: str, maps: Tensor, images: Tensor) -> None:
    _require(maps.shape == images.shape, f"{name}: maps must be {tuple(images.shape)}, not {tuple(maps.shape)}")
    _require(maps.dtype == torch.float32, f"{name}: maps must be float32, not {maps.dtype}")
    _require(maps.device == images.device, f"{name}: maps must be on the images' device")
    _require(not maps.requires_grad, f"{name}: maps must be detached")
    _require(bool(torch.isfinite(maps).all()), f"{name}: maps must be finite")
    _require(bool((maps >= 0).all()), f"{name}: maps must be >= 0")


def _check_without_gradients(
    method: Method, classifier: Classifier, images: Tensor, classes: Tensor, maps: Tensor
) -> None:
    name = type(method).__name__
    blind = WithoutGradients(classifier)
    if stated(method, "needs"):
        _refuses(name, lambda: method(blind, images, classes), FeaturesNeeded)
    elif method.needs_gradients:
        _refuses(name, lambda: method(blind, images, classes))
    else:
        _require(_close(method(blind, images, classes), maps), f"{name}: must not depend on gradients")


def _check_layers(name: str, classifier: Classifier, images: Tensor) -> None:
    with torch.enable_grad():
        inputs = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(inputs).sum(), inputs)
    _require(bool(torch.isfinite(gradient).all() and gradient.any()), f"{name}: gradients must flow to the images")
    layers = (classifier.cam_layer, *classifier.perceptual_layers)
    _require(len(layers) > 1, f"{name}: perceptual_layers must not be empty")
    seen: list[torch.Size] = []
    handles = [layer.register_forward_hook(lambda *call: seen.append(call[2].shape)) for layer in layers]
    try:
        classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    _require(len(seen) == len(layers), f"{name}: every layer must run once per call, and {len(seen)} ran")
    maps = all(len(shape) == images.dim() and shape[0] == len(images) for shape in seen)
    _require(maps, f"{name}: layers must give (N, C, h, w), not {seen}")


def _refuses(name: str, call: Callable[[], Any], refusal: type[ExplainError] = GradientsNeeded) -> None:
    try:
        call()
    except refusal as error:
        _require(len(str(error).splitlines()) == 1, f"{name}: a refusal must be one line")
    else:
        lacks = "gradients" if refusal is GradientsNeeded else "what it needs"
        raise AssertionError(f"{name}: must raise {refusal.__name__} for a classifier without {lacks}")


@contextmanager
def _nothing_left_behind(name: str, classifier: Classifier, images: Tensor) -> Iterator[None]:
    """Check that the classifier, the images and the process's random numbers are as they were."""
    pixels, random, before = images.clone(), torch.get_rng_state(), _state(classifier)
    yield
    _require(torch.equal(images, pixels), f"{name}: the images must not be changed")
    _require(images.grad is None and not images.requires_grad, f"{name}: the images must not get gradients")
    _require(torch.equal(torch.get_rng_state(), random), f"{name}: use a torch.Generator, not the process's numbers")
    for what, value in _state(classifier).items():
        _require(_same(value, before[what]), f"{name}: the classifier's {what} must be as before")


def _state(classifier: Classifier) -> dict[str, Any]:
    """Weights, statistics, gradients, flags and hooks of a classifier that is a module; else nothing."""
    if not isinstance(classifier, nn.Module):
        return {}
    state: dict[str, Any] = {f"value of {key}": value for key, value in copy.deepcopy(classifier.state_dict()).items()}
    for key, parameter in classifier.named_parameters():
        state[f"requires_grad of {key}"] = parameter.requires_grad
        state[f"gradient of {key}"] = None if parameter.grad is None else parameter.grad.clone()
    for key, module in classifier.named_modules():
        state[f"training flag of {key or 'itself'}"] = module.training
        state[f"hooks of {key or 'itself'}"] = sum(len(getattr(module, kind)) for kind in _HOOKS)
    return state


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return torch.equal(value, before)
    return type(value) is type(before) and bool(value == before)


def _images(size: int) -> Tensor:
    return torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(0))


def _close(values: Tensor, expected: Tensor) -> bool:
    return bool((values - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _is_frozen(value: object) -> bool:
    parameters = getattr(value, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _require(holds: bool, promise: str) -> None:  # noqa: FBT001
    if not holds:
        raise AssertionError(promise)
