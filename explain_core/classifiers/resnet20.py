"""A small residual network for small grey images (He et al. 2015, arXiv:1512.03385, section 4.2: n = 3).

Three stages of 16, 32 and 64 filters as published; the stem has stride 2, so that the last layer sees S/8 pixels a
side. It is the classifier of the phantom, trained in minutes on a CPU.
"""

from typing import ClassVar

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch statistics and a skip; the skip is a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.skip(x) + self.second(self.first(x)))
        return result


class ResNet20(nn.Module):
    """Grey images, float in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        outputs: number of logits.
        width: filters of the first stage.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, outputs: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[Block] = []
        inputs = width
        for stage in range(3):
            for index in range(3):
                blocks.append(Block(inputs, width << stage, 2 if stage and not index else 1))
                inputs = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(inputs, outputs)

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """The first activation of each of the nine blocks."""
        return tuple(block.first[-1] for block in self.blocks if isinstance(block, Block))

    @property
    def cam_layer(self) -> nn.Module:
        """The last block, shape (N, 4 * width, S/8, S/8): where Grad-CAM looks."""
        return self.blocks[-1]

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem((x - 0.5) * 4))
        logits: Tensor = self.output(features.mean(dim=(-2, -1)))
        return logits


PLUGIN = ResNet20
