"""The classifier protocol: what an architecture in `classifiers/` offers."""

from typing import Protocol

from torch import Tensor, nn


class Classifier(Protocol):
    """A network from grey images to logits; construct it with the number of outputs."""

    @property
    def cam_layer(self) -> nn.Module:
        """The last convolutional layer, where class activation methods look."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs)."""
