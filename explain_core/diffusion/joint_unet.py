"""JointUNet: a denoising UNet whose own representation is classified (Mediffusion, arXiv:2411.09434, figure 2).

A re-implementation from the abstract and the authors' public code. The UNet is diffusers' UNet2DModel, split in two:
the encoder half gives the tensors that are carried over to the decoder half and the middle; pooled and concatenated
they are h_t, on which the head decides. Classification costs the encoder half alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class JointConfig:
    """The shape of a JointUNet.

    Attributes:
        size: rows and columns of what it denoises.
        latent_channels: channels of that.
        outputs: logits of the head, one a finding.
        channels: of each level, from the outside in.
        attention: whether each level has self-attention.
        layers: residual blocks of a level.
        head_dim: channels of one attention head.
        groups: of the group normalisations; divides every number of channels.
        hidden: width of the classifier's hidden layer.
        dropout: of the classifier.
        pooling: how a tensor becomes one number a channel.

    Raises:
        ValueError: levels that cannot be built.
    """

    size: int
    latent_channels: int
    outputs: int
    channels: tuple[int, ...] = (64, 128, 256)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 2
    head_dim: int = 32
    groups: int = 32
    hidden: int = 1024
    dropout: float = 0.0
    pooling: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"{len(self.channels)} levels of channels and {len(self.attention)} of attention")
        if self.size % (1 << (len(self.channels) - 1)):
            raise ValueError(f"a side of {self.size} cannot be halved {len(self.channels) - 1} times")
        if any(count % self.groups for count in self.channels):
            raise ValueError(f"{self.groups} groups do not divide the channels {self.channels}")

    @property
    def features(self) -> int:
        """Length of h_t: conv_in, every block, every downsampling, the middle."""
        blocks = sum(self.layers * count for count in self.channels)
        return self.channels[0] + blocks + sum(self.channels[:-1]) + self.channels[-1]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder half makes of a noisy latent.

    Attributes:
        time: embedding of the step, shape (N, 4 * channels[0]).
        skips: the tensors carried over to the decoder half, outermost first.
        middle: the innermost one.
    """

    time: Tensor
    skips: tuple[Tensor, ...]
    middle: Tensor


class JointUNet(nn.Module):
    """Denoiser and classifier in one.

    Args:
        config: its shape.
    """

    def __init__(self, config: JointConfig) -> None:
        from diffusers import UNet2DModel  # noqa: PLC0415 - slow to import

        super().__init__()
        self.config = config
        down = tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention)
        up = tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention))
        self.unet = UNet2DModel(
            sample_size=config.size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=config.groups,
            attention_head_dim=config.head_dim,
        )
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.features, config.hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.outputs),
        )

    def encode(self, z: Tensor, t: Tensor) -> Encoded:
        """The encoder half.

        Args:
            z: noisy latents, shape (N, latent_channels, size, size).
            t: their steps, whole numbers, shape (N,).
        """
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(t).to(z.dtype))
        here = unet.conv_in(z)
        skips: tuple[Tensor, ...] = (here,)
        for block in unet.down_blocks:
            here, carried = block(hidden_states=here, temb=time)
            skips += tuple(carried)
        return Encoded(time, skips, unet.mid_block(here, time))

    def decode(self, encoded: Encoded) -> Tensor:
        """The decoder half: the predicted noise, of the latents' shape."""
        unet, here, skips = self.unet, encoded.middle, encoded.skips
        for block in unet.up_blocks:
            count = len(block.resnets)
            here = block(here, skips[-count:], encoded.time)
            skips = skips[:-count]
        noise: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(here)))
        return noise

    def features(self, encoded: Encoded) -> Tensor:
        """h_t, shape (N, config.features)."""
        pool = torch.mean if self.config.pooling == "mean" else torch.amax
        return torch.cat([pool(tensor, dim=(2, 3)) for tensor in (*encoded.skips, encoded.middle)], dim=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """The predicted noise of noisy latents `z` at steps `t`, of the latents' shape."""
        return self.decode(self.encode(z, t))

    def classify(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits of the head, shape (N, outputs), for clean latents (step 0) or those of other steps."""
        steps = torch.zeros(len(z), dtype=torch.long, device=z.device) if t is None else t
        logits: Tensor = self.head(self.features(self.encode(z, steps)))
        return logits
