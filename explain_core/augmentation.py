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
    explain: Callable[[Tensor], Tensor], image: Tensor, ranges: AffineRange, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Average the maps of `count` random transforms of `image`, registered to it.

    Args:
        explain: images, shape (count, 1, S, S) -> maps of magnitude, same shape.
        image: shape (1, S, S), in [0, 1].
        ranges: where the transforms are drawn from.
        count: number of transformed copies, N in the equation; at least 1.
        seed: makes the draw repeatable.

    Returns:
        The averaged map, shape (S, S), 0 where no copy saw the pixel, and the coverage in [0, 1], shape (S, S): the
        mean weight with which copies saw it.
    """
    matrices = draw_affine(ranges, count, torch.Generator().manual_seed(seed))
    copies = warp(image.expand(count, -1, -1, -1), matrices, padding="border")
    inverse = torch.linalg.inv(matrices)
    maps = explain(copies)
    total = warp(maps, inverse).sum(0)[0]
    seen = warp(torch.ones_like(maps), inverse).sum(0)[0]
    average = torch.where(seen > 0, total / seen.clamp(min=1e-6), torch.zeros_like(total))
    return average, seen / count
