"""The method protocol: what an explanation method in `methods/` offers.

A method is a frozen dataclass of its settings (defaults: the paper's where known) and is called with a classifier.
A method whose networks are trained takes them as its first setting, `network`, and names in `trained_by` the run
that makes them. A method that explains a decision keeps its decision rule in a setting `rule`.

A method may state four things more, which are otherwise as `stated` has them: `needs`, attributes that the classifier
must offer, such as ("evidence",); `packages`, modules that must be installed; `unit`, what a value of its map means;
`slow`, whether it searches anew for each image, so that its scale is measured on some images alone.
"""

from importlib import util
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from explain_core.classifier import Classifier, offers


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


def stated(plugin: Any, name: str) -> Any:
    """What a method's class states of itself under `name`, or what holds where it does not.

    Raises:
        KeyError: another name than `needs`, `packages`, `unit` and `slow`.
    """
    usual = {"needs": (), "packages": (), "unit": "value of the method's map", "slow": False}
    return getattr(plugin, name, usual[name])


def obstacle(plugin: Any, classifier: Classifier, *, generators: bool) -> str | None:
    """Why a method cannot explain a classifier, as a clause; None where it can.

    Args:
        plugin: the method's class.
        classifier: the one to explain.
        generators: whether there are generators that were trained against it.
    """
    missing = [name for name in stated(plugin, "packages") if util.find_spec(name) is None]
    if missing:
        return f"the package {missing[0]} is not installed; pip install 'dicom-explanation-node[benchmark]' brings it"
    if plugin.needs_gradients and not classifier.differentiable:
        return "it needs gradients of the classifier, and this one gives none"
    lacks = [name for name in stated(plugin, "needs") if not offers(classifier, name)]
    if lacks:
        return f"it needs a classifier with `{lacks[0]}`, and this one has none"
    if plugin.trained_by is not None and not (plugin.trained_by == "generators" and generators):
        return f"it needs a network of training/runs/{plugin.trained_by}.py, and a bundle holds none"
    return None
