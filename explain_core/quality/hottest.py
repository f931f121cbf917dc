"""What the hottest part of a map carries, and how much of it stays where it is when the image hardly changes.

The hottest tenth is the tenth of all pixels with the highest values, under the tie rule of `localisation.py`. Every
figure is per image, and the figure of one image does not depend on the batch it came in.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from explain_core.quality.localisation import Mask, iou, salient_mask

Floats = NDArray[np.float64]
Explain = Callable[[Tensor], Tensor]
Decide = Callable[[Tensor], Tensor]
TENTH = 0.1
BLOCKS = 14
"""Blocks on a side of the random control: 16 of 224 pixels, about as coarse as a map of evidence."""


def hottest(maps: Tensor) -> Tensor:
    """The tenth of the pixels with the highest values, bool, of the maps' shape (N, 1, S, S)."""
    masks = [salient_mask(plane, 100 * (1 - TENTH)) for plane in maps[:, 0].cpu().numpy()]
    return torch.from_numpy(np.stack(masks))[:, None].to(maps.device)


def random_part(side: int, *, block: int = 1, seed: Any = 0) -> Mask:
    """As many pixels as `hottest` takes, drawn in whole blocks (the last one cut), shape (side, side).

    Args:
        side: rows and columns in pixels.
        block: rows and columns of a block in pixels; 1 draws single pixels, which a classifier hardly sees.
        seed: of the draw.
    """
    count, across = round(side * side * TENTH), -(-side // block)
    ranks = np.random.default_rng(seed).permutation(across * across).reshape(across, across)
    rows, columns = np.indices((side, side))
    within = (rows % block) * block + columns % block
    order = np.argsort((ranks[rows // block, columns // block] * block * block + within).ravel())
    mask = np.zeros(side * side, np.bool_)
    mask[order[:count]] = True
    return mask.reshape(side, side)


@torch.no_grad()
def reversed_by_parts(
    decide: Decide,
    images: Tensor,
    changed: Tensor,
    maps: Tensor,
    *,
    draws: int = 3,
) -> dict[str, Floats]:
    """Whether parts of a change still reverse the decision, per image, shape (N,), 1 or 0; draws are averaged.

    Args:
        decide: images in [0, 1], shape (N, 1, S, S) -> decisions, int64, shape (N,).
        images: x, of that shape.
        changed: x_a, of the same shape and range.
        maps: whose pixels are ranked, of the same shape.
        draws: of the random parts, the same for every image.

    Returns:
        "whole" (x_a itself), "hottest" (x with the change in the hottest pixels alone), "without" (the change without
        those), "random" (in as many pixels in random blocks of a 14th of the side) and "random_pixels" (single ones).
    """
    before, side = decide(images), images.shape[-1]

    def reverses(mask: Tensor) -> Floats:
        return np.asarray((decide(torch.where(mask, changed, images)) != before).double().cpu().numpy())

    hot = hottest(maps)
    found = {"whole": reverses(torch.ones_like(hot)), "hottest": reverses(hot), "without": reverses(~hot)}
    for name, block in (("random", max(1, side // BLOCKS)), ("random_pixels", 1)):
        parts = [random_part(side, block=block, seed=(0, draw)) for draw in range(draws)]
        drawn = [reverses(torch.from_numpy(part).to(images.device).expand_as(hot)) for part in parts]
        found[name] = np.asarray(np.mean(drawn, axis=0))
    return found


def overlaps(maps: Tensor, others: Tensor) -> Floats:
    """IoU of the hottest tenths of two maps of each image, both of shape (N, 1, H, W); shape (N,)."""
    pairs = zip(maps[:, 0].cpu().numpy(), others[:, 0].cpu().numpy(), strict=True)
    percentile = 100 * (1 - TENTH)
    return np.array([iou(salient_mask(one, percentile), salient_mask(two, percentile)) for one, two in pairs])


def stability(
    explain: Explain,
    images: Tensor,
    *,
    shift: int = 2,
    noise: float = 0.01,
    quality: int = 90,
) -> dict[str, Floats]:
    """`overlaps` of the maps of images and of slightly changed copies, shape (N,) each.

    Args:
        explain: images in [0, 1], shape (N, 1, S, S) -> maps of that shape.
        images: of that shape.
        shift: in pixels of the images, at least 1.
        noise: standard deviation of the Gaussian noise, in luminance; the same noise for every image.
        quality: of the JPEG.

    Returns:
        "shift": moved to the right, and moved down (the mean of both), the map moved back and compared where both
        show the image; "noise"; "jpeg".
    """
    maps = explain(images)
    right = explain(functional.pad(images, (shift, 0, 0, 0), mode="replicate")[..., :-shift])
    down = explain(functional.pad(images, (0, 0, shift, 0), mode="replicate")[..., :-shift, :])
    drawn = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)) * noise
    moved = (
        overlaps(maps[..., :-shift], right[..., shift:]),
        overlaps(maps[..., :-shift, :], down[..., shift:, :]),
    )
    return {
        "shift": np.asarray(np.mean(moved, axis=0)),
        "noise": overlaps(maps, explain((images + drawn.to(images)).clamp(0, 1))),
        "jpeg": overlaps(maps, explain(_as_jpeg(images, quality))),
    }


def _as_jpeg(images: Tensor, quality: int) -> Tensor:
    planes = []
    for plane in (images[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(plane).save(file, format="JPEG", quality=quality)
        planes.append(np.asarray(Image.open(file), np.float32) / 255)
    return torch.from_numpy(np.stack(planes))[:, None].to(images.device)
