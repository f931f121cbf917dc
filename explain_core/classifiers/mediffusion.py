"""A joint diffusion model as a classifier: its head decides, and says what would have to change (arXiv:2411.09434).

The whole model, denoiser and autoencoder included, is one file of the bundle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from explain_core.diffusion.counterfactual import Counterfactual, Settings, counterfactual
from explain_core.diffusion.files import load_model
from explain_core.errors import BundleError, GradientsNeeded


class Mediffusion(nn.Module):
    """Grey images in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        path: of the model.
        outputs: number of logits that it shall have.
        size: S.

    Raises:
        BundleError: the file is no such model, or one of another shape.
    """

    file_name: ClassVar[str] = "classifier.joint.safetensors"
    differentiable: ClassVar[bool] = True

    def __init__(self, path: Path, outputs: int, size: int) -> None:
        super().__init__()
        self.model = load_model(path)
        found = (self.model.network.config.outputs, self.model.side)
        if found != (outputs, size):
            raise BundleError(
                f"{path}: a model of {found[0]} outputs for {found[1]} pixels, and the bundle says {outputs} for {size}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.model(images)
        return logits

    def counterfactual(
        self, images: Tensor, output: int, target: int, settings: Settings, threshold: float
    ) -> Counterfactual:
        """See `explain_core.diffusion.counterfactual`; `threshold` is of the probability without temperature."""
        return counterfactual(self.model, images, output, target, settings, threshold=threshold)

    @property
    def cam_layer(self) -> nn.Module:
        """The middle of the UNet, the innermost part that the head sees."""
        middle: nn.Module = self.model.network.unet.mid_block
        return middle

    @property
    def perceptual_layers(self) -> Sequence[nn.Module]:
        """None.

        Raises:
            GradientsNeeded: always: images are compared by their latents here.
        """
        raise GradientsNeeded("a joint diffusion model has no layers that perceptual perturbation could compare")


PLUGIN = Mediffusion
