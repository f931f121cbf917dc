"""Explanation by a trained mask (Dabkowski & Gal 2017, arXiv:1705.07857), without its class selector.

The network is trained for one output of one classifier; a map costs one forward pass and no classifier.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from explain_core.classifier import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGeneratorMethod:
    """The mask that a network predicts: 1 where the class's evidence is, 0 elsewhere.

    Attributes:
        network: images, shape (N, 1, S, S), -> masks in [0, 1] of that shape; trained for the output explained, in eval
            mode, on the device of the images.
    """

    reference: ClassVar[str] = "Dabkowski & Gal, Real Time Image Saliency for Black Box Classifiers, arXiv:1705.07857"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = "mask_generator"
    unit: ClassVar[str] = "mask, 0 to 1"

    network: nn.Module

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:  # noqa: ARG002 - the protocol
        """Masks in [0, 1]; neither the classifier nor the classes are used. See `Method`.

        Raises:
            ValueError: the network is in training mode, where the images of a batch influence each other.
        """
        if self.network.training:
            raise ValueError("the mask network is in training mode; call its eval() first")
        with torch.no_grad():
            masks: Tensor = self.network(images)
        return masks.float()


PLUGIN = MaskGeneratorMethod
