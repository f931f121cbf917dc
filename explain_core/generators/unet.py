"""The generators' trunk: a pre-activation UNet with a residual encoder (arXiv:2012.07332, section III).

A block is BatchNorm -> ReLU -> Conv3x3 -> Dropout. There is no convolution after the last concatenation: the trunk
ends with 2 * filters[0] channels at full resolution, half of them the first encoder level's.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def _blocks(inputs: int, outputs: int, count: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        channels = inputs if index == 0 else outputs
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, outputs, 3, padding=1)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class _Down(nn.Module):
    """block -> MaxPool2 = p; p + blocks(p)."""

    def __init__(self, inputs: int, outputs: int, count: int, dropout: float) -> None:
        super().__init__()
        self.enter = _blocks(inputs, outputs, 1, dropout)
        self.residual = _blocks(outputs, outputs, count, dropout)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.enter(x), 2)
        result: Tensor = pooled + self.residual(pooled)
        return result


class UNet(nn.Module):
    """Grey images, shape (N, 1, S, S) -> features, shape (N, 2 * filters[0], S, S).

    Args:
        filters: channels per level; S must be divisible by 2 ** (len(filters) - 1).
        down: blocks at the first level, and one less than in each residual of the others.
        up: blocks per decoder level.
        dropout: probability in the encoder, in training.
    """

    def __init__(self, filters: Sequence[int], down: int = 2, up: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = _blocks(1, filters[0], down, dropout)
        self.downs = nn.ModuleList(
            _Down(inputs, outputs, down + 1, dropout) for inputs, outputs in itertools.pairwise(filters)
        )
        ups, channels = [], filters[-1]
        for width in reversed(filters[:-1]):
            ups.append(_blocks(channels, width, up, 0.0))
            channels = 2 * width
        self.ups = nn.ModuleList(ups)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        y: Tensor = skips.pop()
        for up in self.ups:
            coarse = functional.interpolate(up(y), scale_factor=2.0, mode="nearest")
            y = torch.cat([skips.pop(), coarse], dim=1)
        return y
