"""A diffusion autoencoder whose code knows the classifier (DiffEx, arXiv:2502.09663; Preechakul, arXiv:2111.15640).

A re-implementation from the abstract and the authors' public code. An image's latents z_0 become a code,

    w = E(z_0)        s = W [C(x); w] + b        (switched off: s = w)

and a UNet is told s, which shifts and scales every normalisation together with the step. Now and then s is exchanged
for a learnt one of no image, so that what the code adds can be enlarged.

What the UNet predicts decides whether the code is used. The published model predicts the noise eps: at high steps z_t
is noise already, the code adds next to nothing to its prediction, an image's own noise holds nearly all of it, and a
change of the code changes nothing (docs/diffex.md has the figures). By default it predicts

    v = sqrt(a) eps - sqrt(1 - a) z_0

(Salimans and Ho, arXiv:2202.00512), which is the image itself at high steps, where only the code knows it.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from explain_core.diffusion.autoencoders import Autoencoder
from explain_core.diffusion.schedule import Betas, clean, inverter, kept, sampler, walk

Predicts: TypeAlias = Literal["v", "epsilon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticConfig:
    """The shape of a diffusion autoencoder.

    Attributes:
        size: rows and columns of the latents.
        latent_channels: channels of the latents.
        answers: how many probabilities of the classifier the code is told.
        code: length of the code.
        aware: whether the code is told the classifier's probabilities.
        channels: of the UNet's levels, from the outside in.
        attention: whether each level has self-attention.
        encoder_channels: of the encoder's levels.
        layers: residual blocks of a level.
        head_dim: channels of one attention head.
        groups: of the group normalisations; divides every number of channels.
        betas: see `explain_core.diffusion.schedule`.
        predicts: what the UNet predicts: "v", or "epsilon" as published.
        sketch: channels of a picture that is made of the code and given to the UNet beside the noisy latents, so that
            places need not pass through numbers that are the same everywhere; 0 for none, as published.

    Raises:
        ValueError: levels that cannot be built.
    """

    size: int
    latent_channels: int
    answers: int
    code: int = 128
    aware: bool = True
    channels: tuple[int, ...] = (64, 128, 256)
    attention: tuple[bool, ...] = (False, True, True)
    encoder_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers: int = 2
    head_dim: int = 32
    groups: int = 32
    betas: Betas = "linear"
    predicts: Predicts = "v"
    sketch: int = 8

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"{len(self.channels)} levels of channels and {len(self.attention)} of attention")
        for levels in (self.channels, self.encoder_channels):
            if self.size % (1 << (len(levels) - 1)):
                raise ValueError(f"a side of {self.size} cannot be halved {len(levels) - 1} times")
            if any(count % self.groups for count in levels):
                raise ValueError(f"{self.groups} groups do not divide the channels {levels}")


class SemanticAutoencoder(nn.Module):
    """Images to codes, and codes with noise to images.

    Args:
        space: what images become before the networks see them.
        config: the networks' shape.
        scale: latents of the space are multiplied by it, so that their variance is about 1.

    Raises:
        ValueError: networks for other latents than the space has.
    """

    def __init__(self, space: Autoencoder, config: SemanticConfig, scale: float = 1.0) -> None:
        from diffusers import UNet2DModel  # noqa: PLC0415 - slow to import
        from diffusers.models.autoencoders.vae import Encoder  # noqa: PLC0415 - as above

        super().__init__()
        if config.latent_channels != space.channels:
            raise ValueError(f"networks for {config.latent_channels} channels and latents of {space.channels} channels")
        self.space, self.config = space, config
        levels, inner = len(config.encoder_channels), config.encoder_channels[-1]
        self.encoder = Encoder(
            in_channels=config.latent_channels,
            out_channels=inner,
            down_block_types=("DownEncoderBlock2D",) * levels,
            block_out_channels=config.encoder_channels,
            layers_per_block=1,
            norm_num_groups=config.groups,
            double_z=False,
            mid_block_add_attention=False,
        )
        side = config.size >> (levels - 1)
        self.flatten = nn.Linear(inner * side * side, config.code)
        self.fuse = nn.Linear(config.answers + config.code, config.code) if config.aware else nn.Identity()
        width = 4 * config.channels[0]
        self.null = nn.Parameter(torch.zeros(config.code))
        self.condition = nn.Sequential(
            nn.Linear(config.code, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.unet = UNet2DModel(
            sample_size=config.size,
            in_channels=config.latent_channels + config.sketch,
            out_channels=config.latent_channels,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            down_block_types=tuple("AttnDownBlock2D" if one else "DownBlock2D" for one in config.attention),
            up_block_types=tuple("AttnUpBlock2D" if one else "UpBlock2D" for one in reversed(config.attention)),
            norm_num_groups=config.groups,
            attention_head_dim=config.head_dim,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        self.sketch = _sketch(config) if config.sketch else None
        self.scale: Tensor
        self.left: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("left", kept(betas=config.betas))
        self.register_buffer("mean", torch.zeros(config.code))
        self.register_buffer("deviation", torch.ones(config.code))

    @property
    def side(self) -> int:
        """Rows and columns of the images in pixels."""
        return self.config.size * self.space.factor

    def latents(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S), to latents of about unit variance.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (1, self.side, self.side):  # noqa: PLR2004
            raise ValueError(f"images of shape (N, 1, {self.side}, {self.side}) are needed, got {tuple(images.shape)}")
        return self.space.encode(images) * self.scale

    def images(self, latents: Tensor) -> Tensor:
        """Latents to images, not clipped."""
        return self.space.decode(latents / self.scale)

    def raw(self, latents: Tensor, probabilities: Tensor) -> Tensor:
        """Codes as the UNet is told them, shape (N, code).

        Args:
            latents: shape (N, C, s, s).
            probabilities: what the classifier says of the images, shape (N, answers); not looked at by a model that is
                not aware.
        """
        w = self.flatten(self.encoder(latents).flatten(1))
        code: Tensor = self.fuse(torch.cat([probabilities, w], dim=1)) if self.config.aware else w
        return code

    def code(self, latents: Tensor, probabilities: Tensor) -> Tensor:
        """Codes of about zero mean and unit variance, in which directions lie; see `raw`."""
        return (self.raw(latents, probabilities) - self.mean) / self.deviation

    def predicted(self, z: Tensor, t: Tensor, raw: Tensor) -> Tensor:
        """What the UNet says of noisy latents, of their shape; see `target`.

        Args:
            z: shape (N, C, s, s).
            t: their steps, shape (N,).
            raw: their codes, shape (N, code).
        """
        seen = z if self.sketch is None else torch.cat([z, self.sketch(raw)], dim=1)
        said: Tensor = self.unet(seen, t, class_labels=self.condition(raw)).sample
        return said

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the UNet shall say of latents that were noised: the noise, or v."""
        if self.config.predicts == "epsilon":
            return noise
        a = self.left[t].view(-1, 1, 1, 1)
        return a.sqrt() * noise - (1 - a).sqrt() * latents

    def noise_of(self, z: Tensor, t: Tensor, said: Tensor) -> Tensor:
        """The noise in noisy latents, from what the UNet says of them."""
        if self.config.predicts == "epsilon":
            return said
        a = self.left[t].view(-1, 1, 1, 1)
        return a.sqrt() * said + (1 - a).sqrt() * z

    def clean_of(self, z: Tensor, t: Tensor, said: Tensor) -> Tensor:
        """The clean latents that one step foresees, from what the UNet says."""
        if self.config.predicts == "epsilon":
            return clean(z, said, self.left[t])
        a = self.left[t].view(-1, 1, 1, 1)
        return a.sqrt() * z - (1 - a).sqrt() * said

    def noise(self, z: Tensor, t: Tensor, raw: Tensor) -> Tensor:
        """The predicted noise of noisy latents; see `predicted`."""
        return self.noise_of(z, t, self.predicted(z, t, raw))

    def told(self, code: Tensor) -> Tensor:
        """Standardised codes as the UNet is told them."""
        return code * self.deviation + self.mean

    def guided(self, z: Tensor, t: Tensor, code: Tensor, guidance: float = 1.0) -> Tensor:
        """The noise, with the part that the code adds to it enlarged by `guidance`; 1 leaves it (classifier-free)."""
        noise = self.noise(z, t, self.told(code))
        if guidance == 1.0:
            return noise
        free = self.noise(z, t, self.null.expand(len(z), -1))
        return free + guidance * (noise - free)

    def decode(self, noise: Tensor, code: Tensor, steps: int = 20, guidance: float = 1.0) -> Tensor:
        """Images of noise and codes by deterministic steps (DDIM), in about [0, 1], not clipped; (N, 1, S, S)."""
        return self.images(
            walk(sampler(steps, self.config.betas), lambda z, t: self.guided(z, t, code, guidance), noise)
        )

    def invert(self, latents: Tensor, code: Tensor, steps: int = 20) -> Tensor:
        """The noise that the model itself would make an image from: the same steps backwards."""
        return walk(inverter(steps, self.config.betas), lambda z, t: self.guided(z, t, code), latents)

    def glimpse(self, z: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """Images as one step foresees them from noisy latents, not clipped; gradients flow through."""
        return self.images(self.clean_of(z, t, self.predicted(z, t, self.told(code))))


def _sketch(config: SemanticConfig) -> nn.Module:
    """Codes, shape (N, code), to a picture of the latents' size, shape (N, config.sketch, size, size)."""
    width, levels = config.channels[0], len(config.encoder_channels) - 1
    side = config.size >> levels
    layers: list[nn.Module] = [
        nn.Linear(config.code, 2 * width * side * side),
        nn.Unflatten(1, (2 * width, side, side)),
    ]
    inputs = 2 * width
    for _ in range(levels):
        layers += [nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(inputs, width, 3, padding=1)]
        inputs = width
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, config.sketch, 3, padding=1))
