"""Registered averaging around any method: equation (11) of arXiv:2012.07332.

E_aug(x) = (1/N) sum_i T_i^-1(E(T_i(x))). All N copies run in one batch; each map returns by the true inverse of its
composed transform, and every pixel is divided by the number of copies that saw it, not by N, so that borders are not
darkened.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from explain_core.geometry import AffineRange, draw_affine, warp


def registered_average(
    explain: Callable[[Tensor], Tensor], images: Tensor, ranges: AffineRange, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Average the maps of `count` random transforms of each image, registered to it.

    All images are moved by the same transforms, so that a batch is explained as its images would be one by one.

    Args:
        explain: copies, shape (N * count, 1, S, S), the copies of an image together -> maps of magnitude, same shape.
        images: in [0, 1], shape (N, 1, S, S).
        ranges: where the transforms are drawn from.
        count: number of transformed copies, N in the equation; at least 1.
        seed: makes the draw repeatable.

    Returns:
        The averaged maps, shape (N, 1, S, S), 0 where no copy saw the pixel, and the coverage in [0, 1], shape
        (1, 1, S, S): the mean weight with which copies saw it.
    """
    matrices = draw_affine(ranges, count, torch.Generator().manual_seed(seed)).to(images.device)
    number, size = len(images), images.shape[-1]
    copies = warp(images.repeat_interleave(count, 0), matrices.repeat(number, 1, 1), padding="border")
    inverse = torch.linalg.inv(matrices)
    maps = explain(copies)
    total = warp(maps, inverse.repeat(number, 1, 1)).view(number, count, 1, size, size).sum(1)
    seen = warp(torch.ones_like(maps[:count]), inverse).sum(0, keepdim=True)
    average = torch.where(seen > 0, total / seen.clamp(min=1e-6), torch.zeros_like(total))
    return average, seen / count
