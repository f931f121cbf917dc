"""The classifier protocol: what an architecture in `classifiers/` offers, and how its logits become a decision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from explain_core.errors import FeaturesNeeded, GradientsNeeded


class Classifier(Protocol):
    """A network from grey images to logits; construct it with the number of outputs.

    A classifier may offer more, and what it lacks it does not have as an attribute:

        feature_layers      modules whose outputs are its features, shape (N, C, h, w), the finest first; or
        features(x)         those features of grey images
        evidence(x)         for a classifier that decides by maps: their logits, shape (N, outputs, h, w)
        look(x)             all of it in one pass, see `look`
    """

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from the logits to the images; False for ONNX and frozen TorchScript."""

    @property
    def cam_layer(self) -> nn.Module:
        """The last convolutional layer, where class activation methods look.

        Raises:
            GradientsNeeded: the classifier has no layers to look into.
        """

    @property
    def perceptual_layers(self) -> Sequence[nn.Module]:
        """The first activation of each block, where perceptual perturbation compares images.

        Raises:
            GradientsNeeded: the classifier has no layers to look into.
        """

    def __call__(self, images: Tensor, /) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs)."""


class Look(NamedTuple):
    """What one pass of a classifier over N images gives.

    Attributes:
        logits: shape (N, outputs).
        features: of several strides, each of shape (N, C, h, w), the finest first; in the classifier's own unit.
        evidence: maps of logits, shape (N, outputs, h, w), not divided by any temperature; None where the classifier
            does not decide by maps.
    """

    logits: Tensor
    features: tuple[Tensor, ...]
    evidence: Tensor | None = None

    def plain(self) -> "Look":
        """The same in float32."""
        evidence = None if self.evidence is None else self.evidence.float()
        return Look(self.logits.float(), tuple(one.float() for one in self.features), evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """How logits become the decision y(x) that generators keep or change.

    Attributes:
        exclusive: True when one class of all outputs holds (softmax, the argmax of equation (10) of
            arXiv:2012.07332); False when each output is a finding of its own (sigmoid).
        threshold: of the probability of one output; not used for exclusive classes.
    """

    exclusive: bool = False
    threshold: float = 0.5

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities, shape (N, outputs), of logits of that shape."""
        return torch.softmax(logits, dim=1) if self.exclusive else torch.sigmoid(logits)

    def decide(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Decisions, int64, shape (N,).

        Args:
            logits: shape (N, outputs).
            classes: the output in question for each image, shape (N,); not used for exclusive classes.

        Returns:
            the winning class for exclusive classes, else 1 where the output's probability reaches the threshold.
        """
        if self.exclusive:
            return logits.argmax(dim=1)
        return (torch.sigmoid(score(logits, classes)) >= self.threshold).long()

    def margin(self, logits: Tensor, classes: Tensor) -> Tensor:
        """f_c - f_other: how far the logits are inside the decision for a class, >= 0 where it is taken, shape (N,).

        f_other is the largest other logit for exclusive classes. For an output of its own it is the logit of the
        threshold: 0 at 0.5, the single class of arXiv:2012.07332.
        """
        own = score(logits, classes)
        if not self.exclusive:
            return own - math.log(self.threshold / (1 - self.threshold))
        return own - logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)


class _OfAnother:
    """What a classifier that wraps another one hands on."""

    classifier: Any

    @property
    def differentiable(self) -> bool:
        """As of the classifier."""
        return bool(self.classifier.differentiable)

    @property
    def cam_layer(self) -> nn.Module:
        """The classifier's."""
        layer: nn.Module = self.classifier.cam_layer
        return layer

    @property
    def perceptual_layers(self) -> Sequence[nn.Module]:
        """The classifier's."""
        layers: Sequence[nn.Module] = self.classifier.perceptual_layers
        return layers


class Tempered(_OfAnother, nn.Module):
    """A classifier with its logits divided by a temperature (Guo et al. 2017, arXiv:1706.04599).

    Args:
        classifier: a module that satisfies `Classifier`.
        temperature: > 0; 1 leaves the logits as they are.
    """

    def __init__(self, classifier: nn.Module, temperature: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs)."""
        logits: Tensor = self.classifier(images) / self.temperature
        return logits


@dataclass(frozen=True)
class TemperedLogits(_OfAnother):
    """The same for a classifier that is no module."""

    classifier: Classifier
    temperature: float

    def __call__(self, images: Tensor, /) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs)."""
        return self.classifier(images) / self.temperature


def tempered(classifier: Classifier, temperature: float) -> Classifier:
    """The classifier with its logits divided by `temperature`; itself at 1."""
    if temperature == 1:
        return classifier
    if isinstance(classifier, nn.Module):
        return cast("Classifier", Tempered(classifier, temperature))
    return TemperedLogits(classifier, temperature)


def unwrapped(classifier: Classifier | nn.Module) -> Any:
    """The classifier without its temperature, where what it may offer is found."""
    return classifier.classifier if isinstance(classifier, Tempered | TemperedLogits) else classifier


def offers(classifier: Classifier | nn.Module, what: str) -> bool:
    """Whether a classifier offers "features" or "evidence"."""
    inner = unwrapped(classifier)
    return hasattr(inner, what) or (what == "features" and hasattr(inner, "feature_layers"))


def look(classifier: Classifier | nn.Module, images: Tensor) -> Look:
    """Decide and keep what was seen on the way, in one pass.

    Args:
        classifier: one that offers features.
        images: grey, in [0, 1], shape (N, 1, S, S).

    Raises:
        FeaturesNeeded: the classifier offers none.
    """
    inner = unwrapped(classifier)
    if hasattr(inner, "look"):
        seen: Look = inner.look(images)
    elif hasattr(inner, "feature_layers"):
        seen = look_through_hooks(inner, inner.feature_layers, images)
    elif hasattr(inner, "features"):
        seen = Look(inner(images), tuple(inner.features(images)))
    else:
        raise FeaturesNeeded(
            f"{type(inner).__name__} offers no features (explain_core/classifier.py says how); "
            'use generators of another kind, such as "single"'
        )
    if inner is not classifier:
        seen = seen._replace(logits=seen.logits / cast("Tempered", classifier).temperature)
    return seen


def look_through_hooks(network: Any, layers: Sequence[nn.Module], images: Tensor) -> Look:
    """One pass of any network whose `layers` are watched; their outputs are its features, of one used twice the first.

    No hook outlives the call.
    """
    found: dict[int, Tensor] = {}

    def keep(index: int, _layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.setdefault(index, output)

    handles = [layer.register_forward_hook(partial(keep, index)) for index, layer in enumerate(layers)]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return Look(logits, tuple(found[index] for index in range(len(layers))))


class LastFeatures(nn.Module):
    """What a classifier's last linear layer reads, or the means of its deepest features where it has no such layer.

    Grey images in [0, 1], as the classifier takes them -> shape (N, K); gradients flow.

    Raises:
        FeaturesNeeded: the classifier has neither.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier
        modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
        linear = [module for module in modules if isinstance(module, nn.Linear)]
        self._last = linear[-1] if linear else None
        if self._last is None and not offers(classifier, "features"):
            raise FeaturesNeeded(f"{type(classifier).__name__} has no linear layer and offers no features")

    @property
    def num_features(self) -> int:
        """K, of a classifier that ends with a linear layer; as torchmetrics asks for it."""
        return self._last.in_features if self._last is not None else -1

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if self._last is None:
            return look(self.classifier, images).features[-1].mean(dim=(2, 3))
        seen: list[Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            self.classifier(images)
        finally:
            hook.remove()
        return seen[0]


def score(logits: Tensor, classes: Tensor) -> Tensor:
    """f_c(x): the logit of class `classes[n]` of image n, shape (N,), of logits of shape (N, outputs)."""
    return logits.gather(1, classes[:, None])[:, 0]


def need_gradients(classifier: Classifier, method: str) -> None:
    """Refuse a classifier without gradients for a method that needs them.

    Raises:
        GradientsNeeded: in one line, naming the method and what to do.
    """
    if not classifier.differentiable:
        raise GradientsNeeded(
            f"{method} needs gradients of the classifier and {type(classifier).__name__} has none; "
            "use similar_adversarial, adversarial or mask_generator"
        )
