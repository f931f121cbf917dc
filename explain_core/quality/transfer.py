"""Whether a change that reverses one classifier's decision reverses another's, beside chance and a real finding."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.blur import weighted_blur

Floats = NDArray[np.float64]
Decisions = NDArray[np.integer]
_RING = 0.05


def smooth_noise(changes: Tensor, sigma: float) -> Tensor:
    """Random smooth changes of the same energy: Gaussian noise under a Gaussian of `sigma` pixels.

    Args:
        changes: x_a - x, shape (N, 1, S, S).
        sigma: of the blur, in pixels; the noise is the same for every image.

    Returns:
        of the same shape, each with the root mean square of its change.
    """
    noise = torch.randn((1, *changes.shape[1:]), generator=torch.Generator().manual_seed(0)).to(changes)
    smooth = weighted_blur(noise, sigma)
    wanted = changes.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return smooth / smooth.square().mean().sqrt().clamp(min=1e-12) * wanted


def of_others(changes: Tensor, decisions: Tensor) -> Tensor:
    """Each change replaced by that of another image of the same decision in the batch; by itself where it is alone.

    Args:
        changes: shape (N, 1, S, S).
        decisions: shape (N,).
    """
    place = torch.arange(len(changes))
    for decision in decisions.unique().tolist():
        same = (decisions == decision).nonzero()[:, 0].cpu()
        place[same] = same.roll(max(1, len(same) // 2))  # neighbours may be of one patient
    return changes[place.to(changes.device)]


def transplanted(images: Tensor, donors: Tensor, masks: Tensor, sigma: float) -> Tensor:
    """Images with what lies under a donor's mask put in its place, at the donor's place.

    The donor's greys are shifted by one constant, so that the means of a ring of 3 `sigma` around the mask agree.

    Args:
        images: in [0, 1], shape (N, 1, S, S).
        donors: of the same shape and range.
        masks: of what is taken over, 0 or 1, of the same shape.
        sigma: width of the seam in pixels, a Gaussian's.

    Returns:
        of the same shape, clipped to [0, 1].
    """
    seam = weighted_blur(masks, sigma)
    ring = (weighted_blur(masks, 3 * sigma) > _RING).to(images) * (1 - masks)
    means = [(x * ring).sum((1, 2, 3), keepdim=True) for x in (images, donors)]
    shift = (means[0] - means[1]) / ring.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return torch.lerp(images, donors + shift, seam).clamp(0, 1)


def carried_over(first: Decisions, before: Decisions, after: Decisions | Floats) -> dict[str, Floats]:
    """Per-image columns, 1, 0 or NaN where an image does not count, shape (N,) each.

    Args:
        first: decisions of the classifier that is explained, on x.
        before: of the second classifier, on x.
        after: of the second classifier, on what x was changed to.

    Returns:
        "positive", "negative": whether the second decision is reversed, of images that both classifiers decide so;
        "positive_all", "negative_all": whether it is another than on x, of images that the first one decides so.
    """
    changed, agree = (after != before).astype(np.float64), before == first
    found = {}
    for name, decision in (("positive", 1), ("negative", 0)):
        found[name] = np.where((first == decision) & agree, changed, np.nan)
        found[f"{name}_all"] = np.where(first == decision, changed, np.nan)
    return found
