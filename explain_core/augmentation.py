"""Registered averaging around any method: equation (11) of arXiv:2012.07332.

E_aug(x) = (1/N) sum_i T_i^-1(E(T_i(x))). The copies run in batches as large as the device likes
(`engine.at_once`); each map returns by the true inverse of its composed transform, and every pixel is divided by the
number of copies that saw it, not by N, so that borders are not darkened.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from explain_core.engine import at_once
from explain_core.geometry import AffineRange, draw_opposites, warp


def registered_average(
    explain: Callable[[Tensor, Tensor], Tensor], images: Tensor, ranges: AffineRange, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Average the maps of `count` random transforms of each image, registered to it.

    The transforms come in pairs of opposites (`draw_opposites`): one pair is worth ten drawn freely
    (docs/training.md). All images are moved by the same transforms, so that a batch is explained as its images would
    be one by one.

    Args:
        explain: copies, shape (M, 1, S, S), and the place in `images` of what each is a copy of, int64, shape (M,) ->
            maps of magnitude, shape (M, 1, S, S).
        images: in [0, 1], shape (N, 1, S, S).
        ranges: where the transforms are drawn from.
        count: number of transformed copies, N in the equation; at least 1.
        seed: makes the draw repeatable.

    Returns:
        The averaged maps, shape (N, 1, S, S), 0 where no copy saw the pixel, and the coverage in [0, 1], shape
        (1, 1, S, S): the mean weight with which copies saw it.
    """
    matrices = draw_opposites(ranges, count, torch.Generator().manual_seed(seed)).to(images.device)
    inverse = torch.linalg.inv(matrices)
    found = []
    for part in torch.arange(len(images) * count, device=images.device).split(at_once(images)):
        of, how = part // count, part % count
        copies = warp(images[of], matrices[how], padding="border")
        found.append(warp(explain(copies, of), inverse[how]))
    total = torch.cat(found).unflatten(0, (len(images), count)).sum(1)
    seen = warp(torch.ones_like(images[:1]).expand(count, -1, -1, -1), inverse).sum(0, keepdim=True)
    average = torch.where(seen > 0, total / seen.clamp(min=1e-6), torch.zeros_like(total))
    return average, seen / count
