"""Gaussian blurs that differentiate and take any width."""

import math

import torch
from torch import Tensor
from torch.nn import functional

BLUR = 0.06
"""Standard deviation of the Gaussian on a new bundle's maps, a fraction of the input's width: 13 pixels of 224."""


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian, cut at 3 sigma and normalised; border values continue outside.

    Args:
        images: float, shape (N, C, H, W).
        sigma: standard deviation in pixels; at 0 or less the images are returned as they are.

    Returns:
        The blurred images, of the same shape.
    """
    return images if sigma <= 0 else _convolved(images, sigma, "replicate")


def weighted_blur(maps: Tensor, sigma: float, known: Tensor | None = None) -> Tensor:
    """Maps under the same Gaussian, each value the weighted mean of those that there are: nothing continues outside.

    Args:
        maps: float, shape (N, C, H, W).
        sigma: standard deviation in pixels; at 0 or less the maps are returned as they are.
        known: where there are values, bool, shape (1, 1, H, W); None for everywhere.

    Returns:
        The blurred maps, of the same shape, between the lowest and the highest value that is known; 0 where no known
        value is within 3 sigma.
    """
    if sigma <= 0:
        return maps
    there = torch.ones_like(maps[:1, :1]) if known is None else known.to(maps)
    weights = _convolved(there, sigma, "constant")
    return torch.where(weights > 0, _convolved(maps * there, sigma, "constant") / weights, 0)


def _convolved(images: Tensor, sigma: float, border: str) -> Tensor:
    """Images under the Gaussian, along the rows and then along the columns; `border` is the mode of the padding."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = images.reshape(-1, 1, *images.shape[-2:])
    planes = functional.conv2d(functional.pad(planes, (radius, radius, 0, 0), mode=border), kernel[None, None, None])
    planes = functional.conv2d(functional.pad(planes, (0, 0, radius, radius), mode=border), kernel[None, None, :, None])
    return planes.reshape(images.shape)
