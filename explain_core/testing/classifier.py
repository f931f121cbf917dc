"""A classifier of a few hundred weights, and one without gradients."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from explain_core.classifier import Classifier
from explain_core.classifiers._logits_only import LogitsOnly


class ToyClassifier(nn.Module):
    """conv - ReLU - conv - ReLU - pool - linear, in eval mode and frozen; the same weights for the same seed.

    Grey images, float in [0, 1], shape (N, 1, S, S), S even -> logits, shape (N, outputs).

    Args:
        outputs: number of logits.
        seed: of the weights; the process's random numbers are not touched.
        width: filters of the first convolution; the second has twice as many, at half the size.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, outputs: int = 3, *, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        self.first = skip_init(nn.Conv2d, 1, width, 3, padding=1)
        self.first_relu = nn.ReLU()
        self.second: nn.Module = skip_init(nn.Conv2d, width, 2 * width, 3, padding=1, stride=2)
        self.second_relu = nn.ReLU()
        self.output = skip_init(nn.Linear, 2 * width, outputs)
        generator = torch.Generator().manual_seed(seed)
        for values in self.parameters():
            deviation = (2 / values[0].numel()) ** 0.5 if values.dim() > 1 else 0.1
            values.data = deviation * torch.randn(values.shape, generator=generator)
        self.eval().requires_grad_(requires_grad=False)

    @property
    def cam_layer(self) -> nn.Module:
        """The second convolution, shape (N, 2 * width, S/2, S/2)."""
        return self.second

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """Both activations."""
        return self.first_relu, self.second_relu

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, outputs), of grey images in [0, 1], shape (N, 1, S, S)."""
        x = self.second_relu(self.second(self.first_relu(self.first(images))))
        logits: Tensor = self.output(x.mean(dim=(-2, -1)))
        return logits


class WithoutGradients(LogitsOnly):
    """A classifier as it looks from outside when its gradients cannot be had: the same logits, nothing else."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def __call__(self, images: Tensor, /) -> Tensor:
        """Logits, shape (N, outputs), of grey images in [0, 1], shape (N, 1, S, S)."""
        with torch.no_grad():
            return self._classifier(images)
