"""The method protocol: what an explanation method in `methods/` offers.

A method is a frozen dataclass of its settings (defaults: the paper's where known) and is called with a classifier.
A method whose networks are trained takes them as its first setting, `network`, and names in `trained_by` the run
that makes them.
"""

from typing import ClassVar, Protocol

from torch import Tensor

from explain_core.classifier import Classifier


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
