"""The mask generator of Dabkowski & Gal (arXiv:1705.07857) and its loss, in the variant of arXiv:2012.07332.

There is no class selector: one network serves one output. Masks are 1 where the image is destroyed. The loss is
destroyer + area + smoothness + preserver, each a pure function; the weights are those of the authors' code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.generators.unet import UNet

_SMALLEST_SUM = 1e-6
_SMALLEST_AREA = 5e-4


class MaskGenerator(nn.Module):
    """Grey images in [0, 1], shape (N, 1, S, S) -> masks in [0, 1], shape (N, 1, S, S).

    Two channels a, b are predicted at half the resolution (112 at 224 pixels), the mask is |a| / (|a| + |b|), enlarged
    bilinearly.

    Args:
        filters: channels of the trunk per level; S must be divisible by 2 ** (len(filters) - 1) and even.
    """

    def __init__(self, filters: Sequence[int]) -> None:
        super().__init__()
        self.trunk = UNet(filters)
        self.head = nn.Conv2d(self.trunk.channels, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.head(self.trunk(x)).float().abs().split(1, dim=1)
        mask = a / (a + b).clamp(min=_SMALLEST_SUM)
        return functional.interpolate(mask, x.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskWeights:
    """Every weight of the loss; the defaults are those of the authors' code unless noted.

    Attributes:
        destroyer: hinge on the class's margin once its evidence is destroyed.
        destroyer_confidence: margin, in logits, by which the class shall then lose.
        preserver: hinge on the class's margin when only its evidence is left.
        preserver_confidence: margin, in logits, by which the class shall then win.
        area: mean of the mask to the power `area_power`.
        area_power: below 1 it prefers few high values to many low ones.
        smoothness: sum of squared differences of neighbours. 0.005 is that of the authors' training script; their
            code's default, 0.5, costs more than a classifier with logits within about +-3 can pay back, and the
            masks stay empty.
        border: share of a border pixel's square in the smoothness.
    """

    destroyer: float = 1.0
    destroyer_confidence: float = 5.0
    preserver: float = 0.3
    preserver_confidence: float = 1.0
    area: float = 8.0
    area_power: float = 0.3
    smoothness: float = 0.005
    border: float = 0.3


def blend(images: Tensor, mask: Tensor, alternative: Tensor) -> Tensor:
    """Replace what the mask covers: x * (1 - m) + alternative * m, all of shape (N, 1, S, S)."""
    return images * (1 - mask) + alternative * mask


def destroyed(margin: Tensor, confidence: float) -> Tensor:
    """Destroyer: mean of max(0, f_c - f_other + confidence) of the images without the evidence, margins (N,)."""
    return functional.relu(margin + confidence).mean()


def preserved(margin: Tensor, decided: Tensor, confidence: float) -> Tensor:
    """Preserver: mean of max(0, f_other - f_c + confidence) of the images of nothing but the evidence.

    Args:
        margin: f_c - f_other, shape (N,).
        decided: whether the classifier decides for the class, bool, shape (N,); the others have nothing to preserve
            and count as 0.
        confidence: in logits.
    """
    return (functional.relu(confidence - margin) * decided).mean()


def area(mask: Tensor, power: float) -> Tensor:
    """Mean of (m + 0.0005) ** power; the small number keeps the gradient finite at 0."""
    return (mask + _SMALLEST_AREA).pow(power).mean()


def smoothness(mask: Tensor, border: float) -> Tensor:
    """Squared differences of neighbours and `border` times the squares on the border, summed; mean over images."""
    inside = mask.diff(dim=-1).square().sum() + mask.diff(dim=-2).square().sum()
    edges = (mask[..., 0, :], mask[..., -1, :], mask[..., :, 0], mask[..., :, -1])
    return (inside + border * torch.stack([edge.square().sum() for edge in edges]).sum()) / len(mask)


def terms(mask: Tensor, without: Tensor, only: Tensor, decided: Tensor, weights: MaskWeights) -> dict[str, Tensor]:
    """The weighted terms of the loss by name; the loss is their sum.

    Args:
        mask: in [0, 1], shape (N, 1, S, S).
        without: margins f_c - f_other of the images without the masked part, shape (N,).
        only: margins of the images with nothing but the masked part, shape (N,).
        decided: whether the classifier decides for the class, bool, shape (N,).
        weights: of the terms.
    """
    return {
        "destroyer": weights.destroyer * destroyed(without, weights.destroyer_confidence),
        "preserver": weights.preserver * preserved(only, decided, weights.preserver_confidence),
        "area": weights.area * area(mask, weights.area_power),
        "smoothness": weights.smoothness * smoothness(mask, weights.border),
    }


PLUGIN = MaskGenerator
