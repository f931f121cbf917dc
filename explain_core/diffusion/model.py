"""A joint diffusion model as it is used: the space, the network, the schedule, and the classes of its head."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from explain_core.diffusion.autoencoders import Autoencoder
from explain_core.diffusion.joint_unet import JointUNet
from explain_core.diffusion.schedule import kept


class JointDiffusion(nn.Module):
    """Classifies grey images, denoises their latents, and guides the denoising by its own head.

    Args:
        space: what images become before the network sees them.
        network: denoiser and classifier.
        scale: latents of the space are multiplied by it, so that their variance is about 1.

    Attributes:
        typical: the head's median probability of images that lack (column 0) and have (column 1) each finding, of
            those that it decides right, shape (outputs, 2): how sure it is where it is. 1 and 0, of which every answer
            is as sure, where nothing was measured.

    Raises:
        ValueError: a network for other latents than the space has.
    """

    def __init__(self, space: Autoencoder, network: JointUNet, scale: float = 1.0) -> None:
        super().__init__()
        if network.config.latent_channels != space.channels:
            raise ValueError(
                f"a network for {network.config.latent_channels} channels and latents of {space.channels} channels"
            )
        self.space = space
        self.network = network
        self.scale: Tensor
        self.left: Tensor
        self.typical: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("typical", torch.tensor([[1.0, 0.0]]).repeat(network.config.outputs, 1))
        self.register_buffer("left", kept())

    @property
    def side(self) -> int:
        """Rows and columns of the images in pixels."""
        return self.network.config.size * self.space.factor

    def encode(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S), to latents of about unit variance.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (1, self.side, self.side):  # noqa: PLR2004
            raise ValueError(f"images of shape (N, 1, {self.side}, {self.side}) are needed, got {tuple(images.shape)}")
        return self.space.encode(images) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, not clipped."""
        return self.space.decode(latents / self.scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, shape (N, outputs)."""
        return self.network.classify(self.encode(images))


@dataclass(frozen=True, slots=True)
class Guidance:
    """How a chain of denoising steps is pulled towards an answer of the head.

    Attributes:
        output: which logit.
        target: 1 to enforce the finding, 0 to remove it.
        scales: how strongly, one an image, >= 0, shape (N,).
        normalised: whether the gradient of each image is divided by its root mean square, so that scales mean the same
            for latents and heads of any size.
    """

    output: int
    target: int
    scales: Tensor = field(repr=False)
    normalised: bool = False
