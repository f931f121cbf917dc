"""A classifier that decides by a map of evidence, on EfficientNet-Lite0's trunk.

Features of stride 16 and 32 are joined to one map of logits for each output; the output's logit is the log-mean-exp of
its map plus a learned bias, so that the decision is nothing but the map: pooling between the mean and the maximum, as
in Pinheiro and Collobert, From image-level to pixel-level labeling, arXiv:1411.6228, equation (2).
"""

import math
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.classifier import Look
from explain_core.classifiers.efficientnet_lite0 import LITE0, MBConv, Scale, conv_norm, trunk

WIDTH, DROPOUT = 96, 0.2
_STRIDES = (1, 2, 4, 6)  # the last stages of stride 4, 8, 16 and 32; their base channels:
_FINE, _COARSE = 112, 320


def log_mean_exp(maps: Tensor) -> Tensor:
    """Log of the mean of exp over the cells of maps, shape (N, C, h, w) -> shape (N, C)."""
    return torch.logsumexp(maps.flatten(2), dim=2) - math.log(maps.shape[-2] * maps.shape[-1])


class _Decision(nn.Module):
    """Features, shape (N, WIDTH, h, w) -> maps of logits; and maps -> the outputs' logits."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, WIDTH, 1, 1))
        self.level = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.level)


class EvidenceLite0(nn.Module):
    """Grey images, float in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        outputs: number of logits; the first one is the finding that is decided.
    """

    differentiable: ClassVar[bool] = True
    scale: ClassVar[Scale] = LITE0

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem, self.blocks = trunk(self.scale)
        ends = tuple(accumulate(self.scale.repeats()))
        self.layers = tuple(ends[stage] - 1 for stage in _STRIDES)
        self.fine = nn.Conv2d(self.scale.channels(_FINE), WIDTH, 1)
        self.coarse = nn.Conv2d(self.scale.channels(_COARSE), WIDTH, 1)
        self.joined = conv_norm(WIDTH, WIDTH, 3)
        self.dropout = nn.Dropout(DROPOUT)
        self.output = _Decision(outputs)

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """The activation after the depthwise convolution of each block."""
        return tuple(block.activation for block in self.blocks if isinstance(block, MBConv))

    @property
    def cam_layer(self) -> nn.Module:
        """The last convolutional layer before the maps, shape (N, 96, S/16, S/16): where Grad-CAM looks."""
        return self.joined

    @property
    def feature_layers(self) -> tuple[nn.Module, ...]:
        """The last blocks of stride 4, 8, 16 and 32; of Lite0 with 24, 40, 112 and 320 channels."""
        return tuple(self.blocks[index] for index in self.layers)

    @property
    def evidence_layer(self) -> nn.Module:
        """The layer whose output is the maps."""
        return self.output

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Grey images, shape (N, 1, S, S) -> outputs of `feature_layers`, the finest first."""
        x = functional.relu6(self.stem((x - 0.5) * 2))
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.layers:
                found.append(x)
        return tuple(found)

    def maps(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Features of stride 16 and 32 -> maps of logits, shape (N, outputs, S/16, S/16)."""
        wide = functional.interpolate(self.coarse(coarse), fine.shape[-2:], mode="bilinear", align_corners=False)
        found: Tensor = self.output(self.dropout(functional.relu6(self.joined(self.fine(fine) + wide))))
        return found

    def decide(self, maps: Tensor) -> Tensor:
        """Maps of logits -> logits, shape (N, outputs)."""
        exact = torch.promote_types(maps.dtype, torch.float32)
        return log_mean_exp(maps.to(exact)) + self.output.bias

    def evidence(self, x: Tensor) -> Tensor:
        """Grey images, shape (N, 1, S, S) -> maps of logits, shape (N, outputs, S/16, S/16)."""
        *_, fine, coarse = self.features(x)
        return self.maps(fine, coarse)

    def look(self, x: Tensor) -> Look:
        """Everything that one pass over the images gives."""
        features = self.features(x)
        maps = self.maps(*features[-2:])
        return Look(self.decide(maps), features, maps)

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.evidence(x))


PLUGIN = EvidenceLite0
