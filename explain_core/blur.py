"""A Gaussian blur that differentiates and takes any width."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian, cut at 3 sigma and normalised; border values continue outside.

    Args:
        images: float, shape (N, C, H, W).
        sigma: standard deviation in pixels; at 0 or less the images are returned as they are.

    Returns:
        The blurred images, of the same shape.
    """
    if sigma <= 0:
        return images
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = images.reshape(-1, 1, *images.shape[-2:])
    planes = functional.conv2d(
        functional.pad(planes, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None]
    )
    planes = functional.conv2d(
        functional.pad(planes, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None]
    )
    return planes.reshape(images.shape)
