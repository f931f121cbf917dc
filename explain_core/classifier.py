"""The classifier protocol: what an architecture in `classifiers/` offers, and how its logits become a decision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from explain_core.errors import GradientsNeeded


class Classifier(Protocol):
    """A network from grey images to logits; construct it with the number of outputs."""

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


class Tempered(nn.Module):
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

    @property
    def differentiable(self) -> bool:
        """As of the classifier."""
        return self._inner.differentiable

    @property
    def cam_layer(self) -> nn.Module:
        """The classifier's."""
        return self._inner.cam_layer

    @property
    def perceptual_layers(self) -> Sequence[nn.Module]:
        """The classifier's."""
        return self._inner.perceptual_layers

    def forward(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs)."""
        return self._inner(images) / self.temperature

    @property
    def _inner(self) -> Classifier:
        return cast("Classifier", self.classifier)


@dataclass(frozen=True, slots=True)
class TemperedLogits:
    """The same for a classifier that is no module."""

    classifier: Classifier
    temperature: float

    @property
    def differentiable(self) -> bool:
        """As of the classifier."""
        return self.classifier.differentiable

    @property
    def cam_layer(self) -> nn.Module:
        """The classifier's."""
        return self.classifier.cam_layer

    @property
    def perceptual_layers(self) -> Sequence[nn.Module]:
        """The classifier's."""
        return self.classifier.perceptual_layers

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
