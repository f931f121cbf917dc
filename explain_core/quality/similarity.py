"""How near a generated image stays to its source: PSNR and SSIM, range of the images [0, 1]."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(images: Tensor, generated: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, shape (N,), of images of shape (N, 1, S, S)."""
    error = (images - generated).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(images: Tensor, generated: Tensor) -> Tensor:
    """Structural similarity per image, shape (N,), of images of shape (N, 1, S, S)."""
    value = structural_similarity_index_measure(generated, images, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)  # noqa: S101 - a tuple only where contrast sensitivity is asked for
    return value
