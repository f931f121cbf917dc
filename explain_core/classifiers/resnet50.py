"""ResNet-50 for grey images (He et al. 2015, arXiv:1512.03385), torchvision's; the classifier of arXiv:2012.07332.

The published experiments use its pre-activation form; the stem takes one channel, which equals three identical
channels with summed weights.
"""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck


class ResNet50(nn.Module):
    """Grey images, float in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        outputs: number of logits.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.network = resnet50(weights=None, num_classes=outputs)
        self.network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """Where each of the 16 blocks has its first activation.

        torchvision's blocks share one activation, which works in place: what the first batch statistics give is what
        it has rectified by the time a hook's tensor is read.
        """
        return tuple(block.bn1 for block in self.network.modules() if isinstance(block, Bottleneck))

    @property
    def cam_layer(self) -> nn.Module:
        """The last block, shape (N, 2048, S/32, S/32): where Grad-CAM looks."""
        last: nn.Module = self.network.layer4[-1]
        return last

    @property
    def feature_layers(self) -> tuple[nn.Module, ...]:
        """The four groups of blocks, of stride 4, 8, 16 and 32, with 256, 512, 1024 and 2048 channels."""
        network = self.network
        return network.layer1, network.layer2, network.layer3, network.layer4

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - 0.5) * 4)
        return logits


PLUGIN = ResNet50
