"""The spaces that joint diffusion works in: the pixels themselves, or the latents of an autoencoder.

All take grey images in [0, 1], shape (N, 1, S, S), and give them back; latents have about unit variance.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.errors import BundleError


class Autoencoder(Protocol):
    """What joint diffusion needs of a space."""

    name: str
    """By which a file names the kind."""
    channels: int
    """Of the latents."""
    factor: int
    """How many pixels a side of a latent stands for."""

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, 1, S, S), to latents, shape (N, channels, S / factor, S / factor)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images; not clipped."""


class Identity(nn.Module):
    """No autoencoder: latents are the pixels in [-1, 1]."""

    name = "identity"
    channels = 1
    factor = 1

    def encode(self, images: Tensor) -> Tensor:
        """See `Autoencoder`."""
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        return (latents + 1) / 2


class Patches(nn.Module):
    """No autoencoder: the pixels in [-1, 1], squares of two by two as channels, a quarter of the work."""

    name = "patches"
    channels = 4
    factor = 2

    def encode(self, images: Tensor) -> Tensor:
        """See `Autoencoder`."""
        return functional.pixel_unshuffle(images * 2 - 1, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        return (functional.pixel_shuffle(latents, self.factor) + 1) / 2


class KLAutoencoder(nn.Module):
    """A variational autoencoder with a side of an eighth (diffusers' AutoencoderKL); latents are its means, scaled.

    Args:
        widths: channels of its levels.
        channels: of the latents.
    """

    name = "kl"

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 256), channels: int = 4) -> None:
        from diffusers import AutoencoderKL  # noqa: PLC0415 - slow to import

        super().__init__()
        self.channels, self.factor = channels, 1 << (len(widths) - 1)
        self.network = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            block_out_channels=widths,
            latent_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            norm_num_groups=32 if all(width % 32 == 0 for width in widths) else 8,
        )
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def encode(self, images: Tensor) -> Tensor:
        """See `Autoencoder`."""
        latents: Tensor = self.network.encode(images * 2 - 1).latent_dist.mean
        return latents * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        images: Tensor = self.network.decode(latents / self.scale).sample
        return (images + 1) / 2


class TinyAutoencoder(nn.Module):
    """The tiny autoencoder TAEF2 (Ollin Boer Bohan, MIT licence) on grey images: 32 channels, a side of an eighth.

    Args:
        folder: with taef2_encoder.pth and taef2_decoder.pth; None leaves it untrained, to be filled from elsewhere.

    Raises:
        BundleError: a file is missing or is not that network.
    """

    name = "tiny"
    channels = 32
    factor = 8

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(self.channels), _decoder(self.channels)
        self.requires_grad_(requires_grad=False)
        if folder is None:
            return
        for name, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            file = folder / f"taef2_{name}.pth"
            try:
                network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
            except (OSError, RuntimeError) as error:
                raise BundleError(f"{file}: no weights of the tiny autoencoder: {error}") from error

    def encode(self, images: Tensor) -> Tensor:
        """See `Autoencoder`."""
        latents: Tensor = self.encoder(images.expand(-1, 3, -1, -1))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        images: Tensor = self.decoder(latents)
        return images.mean(dim=1, keepdim=True)


class _Block(nn.Module):
    """Three convolutions around which the input is carried; with `mixing`, a look at statistics of groups before."""

    def __init__(self, width: int, *, mixing: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip
        wide = 4 * width
        self.pool = (
            nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False), nn.GroupNorm(4, wide), nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )
            if mixing
            else None
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        result: Tensor = (self.conv(x) + x).relu()
        return result


class _Bounded(nn.Module):
    """Latents beyond about 3 are pulled in."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


def _encoder(channels: int, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), _Block(width)]
    for level in range(3):
        layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
        layers += [_Block(width, mixing=level == 2) for _ in range(3)]  # noqa: PLR2004 - the innermost
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))


def _decoder(channels: int, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [_Bounded(), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for level in range(3):
        layers += [_Block(width, mixing=level == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, _Block(width), nn.Conv2d(width, 3, 3, padding=1))
