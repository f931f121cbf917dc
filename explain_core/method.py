"""The method protocol: what an explanation method in `methods/` offers.

A method is a frozen dataclass of its settings (defaults: the paper's where known) and is called with a classifier.
A method whose networks are trained takes them as its first setting, `network`, and names in `trained_by` the run
that makes them. A method that explains a decision keeps its decision rule in a setting `rule`.

A method may state four things more, which are otherwise as `stated` has them: `needs`, attributes that the classifier
must offer, such as ("evidence",); `packages`, modules that must be installed; `unit`, what a value of its map means;
`slow`, whether it searches anew for each image, so that its scale is measured on some images alone.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from importlib import util
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from explain_core.classifier import Classifier, offers
from explain_core.errors import install


class Method(Protocol):
    """One explanation method with its settings.

    Attributes:
        reference: the publication it follows.
        needs_gradients: whether it works only with classifiers that are differentiable.
        trained_by: the module of training/runs that trains its network, None for methods without one.
    """

    reference: ClassVar[str]
    needs_gradients: ClassVar[bool]
    trained_by: ClassVar[str | None]

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Explain the score of one output for each image of a batch.

        Args:
            classifier: in eval mode, its parameters frozen.
            images: grey, in [0, 1], shape (N, 1, S, S).
            classes: the output to explain for each image, int64, shape (N,).

        Returns:
            Maps of magnitude, float32, detached, >= 0, of the images' shape.

        Raises:
            GradientsNeeded: the method needs gradients and the classifier has none.
        """


@runtime_checkable
class DecisionMethod(Protocol):
    """A method that can be told the decision to explain: copies of an image are explained under the image's own."""

    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """Maps of grey images, shape (N, 1, S, S), and their decisions, 0 or 1, shape (N,); the images' shape."""


@runtime_checkable
class CounterfactualMethod(Protocol):
    """A method that generates images: they are shown beside its map."""

    def images(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a) in [0, 1] of grey images, shape (N, 1, S, S), and their decisions, 0 or 1; the images' shape."""


@runtime_checkable
class ControlledMethod(Protocol):
    """A method whose images are made along a path that changes an image by itself: the same without the aim."""

    def control(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """The images on the same path, pulled nowhere, in [0, 1]; grey images, decisions as of `images`."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One attribute that a method applied to an image.

    Attributes:
        name: of the attribute.
        parts: of its change, rising from 0.
        images: the image changed by each part, in [0, 1], shape (len(parts), 1, S, S).
    """

    name: str
    parts: tuple[float, ...]
    images: Tensor


@runtime_checkable
class AttributedMethod(Protocol):
    """A method that changes an image along named attributes: each can be shown as it grows."""

    def applied(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> list[list[Applied]]:
        """For each of N images the attributes that were applied to it; arguments as of `images`."""


Result = TypeVar("Result")


class Once(Generic[Result]):
    """Makes something of images once, for a method that is asked in turn for their map and for their pictures.

    Args:
        make: of a classifier, images and decisions.
    """

    def __init__(self, make: Callable[[Classifier, Tensor, Tensor], Result]) -> None:
        self._make = make
        self._last: tuple[Classifier, Tensor, Tensor, Result] | None = None

    def __call__(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Result:
        """What was made of the same images the last time, or what is made of these now."""
        if self._last is not None:
            asked, seen, decided, made = self._last
            if asked is classifier and torch.equal(seen, images) and torch.equal(decided, decisions):
                return made
        made = self._make(classifier, images, decisions)
        self._last = (classifier, images, decisions, made)
        return made


def stated(plugin: Any, name: str) -> Any:
    """What a method's class states of itself under `name`, or what holds where it does not.

    Raises:
        KeyError: another name than `needs`, `packages`, `unit` and `slow`.
    """
    usual = {"needs": (), "packages": (), "unit": "value of the method's map", "slow": False}
    return getattr(plugin, name, usual[name])


def obstacle(plugin: Any, classifier: Classifier, networks: Container[str]) -> str | None:
    """Why a method cannot explain a classifier, as a clause; None where it can.

    Args:
        plugin: the method's class.
        classifier: the one to explain.
        networks: names of the runs (`trained_by`) whose networks are there.
    """
    missing = [name for name in stated(plugin, "packages") if util.find_spec(name) is None]
    if missing:
        return f"the package {missing[0]} is not installed: {install('benchmark')}"
    if plugin.needs_gradients and not classifier.differentiable:
        return "it needs gradients of the classifier, and this one gives none"
    lacks = [name for name in stated(plugin, "needs") if not offers(classifier, name)]
    if lacks:
        return f"it needs a classifier with `{lacks[0]}`, and this one has none"
    if plugin.trained_by is not None and plugin.trained_by not in networks:
        return f"it needs what the training run {plugin.trained_by} makes, and the bundle has none"
    return None
