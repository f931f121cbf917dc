"""Controls beside every localisation figure, and the strata in which it is given.

None of them looks into the image: what a method does not gain over them, it owes to where lesions lie (location
prior, centre, shuffled boxes), to how often chance hits (random), or to smoothing (Gaussian blur of equal bandwidth).
The perfect mask is the ceiling.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from explain_core.quality.localisation import Heatmap, Mask, centre_map

SMALL, LARGE = 1 / 3, 2 / 3  # quantiles of the lesion area that bound the terciles
MANY_BOXES = 3
WIDTHS = tuple(float(width) for width in np.arange(0, 20.5, 0.5))


def control_maps(truths: Sequence[Mask], prior: Heatmap, *, seed: int = 0) -> dict[str, list[Heatmap]]:
    """The controls that are maps, one per truth, all >= 0.

    Args:
        truths: masks of the images under test, shape (H, W) each.
        prior: `location_prior` of the training masks, shape (H, W).
        seed: of the random maps.

    Returns:
        location_prior, centre (ranked as `centre_map`, raised to >= 0), random (uniform in [0, 1)) and perfect_mask.
    """
    height, width = prior.shape
    if height != width:
        raise ValueError(f"maps are square, not {prior.shape}")
    centre = centre_map(height)
    centre -= centre.min()
    return {
        "location_prior": [prior] * len(truths),
        "centre": [centre] * len(truths),
        "random": [np.random.default_rng((seed, index)).random(prior.shape) for index in range(len(truths))],
        "perfect_mask": [truth.astype(np.float64) for truth in truths],
    }


def derangement(count: int, seed: int = 0) -> NDArray[np.intp]:
    """A fixed permutation of `count` images that leaves none in its place, shape (count,).

    Raises:
        ValueError: fewer than two images.
    """
    if count < 2:  # noqa: PLR2004 - one image has no other
        raise ValueError("shuffled boxes need at least two images")
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, np.intp)
    other[order] = np.roll(order, 1)
    return other


def blurred(heatmap: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The map under a Gaussian of `sigma` pixels: the control for averaging being a low-pass filter."""
    image: NDArray[np.float32] = ndimage.gaussian_filter(heatmap, sigma)
    return image


def roughness(maps: Sequence[NDArray[np.float32]]) -> float:
    """Mean total variation over mean value: what equal bandwidth is matched by."""
    ratios = []
    for heatmap in maps:
        steps = np.abs(np.diff(heatmap, axis=0)).mean() + np.abs(np.diff(heatmap, axis=1)).mean()
        ratios.append(steps / max(float(heatmap.mean()), 1e-9))
    return float(np.mean(ratios))


def matched_sigma(
    plain: Sequence[NDArray[np.float32]], averaged: Sequence[NDArray[np.float32]], widths: Sequence[float] = WIDTHS
) -> float:
    """The Gaussian width in pixels at which blurred plain maps are as rough as the averaged ones.

    Blurring only lowers roughness, so the width is found by bisection.

    Args:
        plain: maps of single images; a few dozen are enough.
        averaged: maps of the same images after augmentation.
        widths: rising widths to choose from; the last is the answer where the averaged maps are smoother still.
    """
    wanted = roughness(averaged)

    def gap(index: int) -> float:
        return roughness([blurred(heatmap, widths[index]) for heatmap in plain]) - wanted

    low, high = 0, len(widths) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return widths[low] if abs(gap(low)) <= abs(gap(high)) else widths[high]


def strata(
    truths: Sequence[Mask],
    boxes_per_image: Sequence[int] | None = None,
    views: Sequence[str | None] | None = None,
    true_positive: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Parts of N images by what might explain a score, each a mask of shape (N,).

    Args:
        truths: masks, shape (H, W) each; terciles of the share of the image that they fill.
        boxes_per_image: number of boxes of each image, None where the data have no boxes.
        views: view of each image, such as "AP"; an image without one is in no view.
        true_positive: whether the classifier calls each image positive.

    Returns:
        Masks by name, "all" first; the names of the lesion sizes state their bounds in percent of the image. A part
        without an image is left out.
    """
    areas = np.array([100 * np.count_nonzero(truth) / truth.size for truth in truths])
    parts: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(truths), np.bool_)}
    if len(areas):
        small, large = np.quantile(areas, [SMALL, LARGE])
        parts[f"lesion up to {small:.1f} % of the image"] = areas <= small
        parts[f"lesion {small:.1f} to {large:.1f} % of the image"] = (areas > small) & (areas <= large)
        parts[f"lesion over {large:.1f} % of the image"] = areas > large
    if boxes_per_image is not None:
        boxes = _of_each(boxes_per_image, len(truths), "numbers of boxes")
        parts |= {"1 box": boxes == 1, "2 boxes": boxes == 2, "3 or more boxes": boxes >= MANY_BOXES}  # noqa: PLR2004
    if views is not None:
        named = _of_each([view or "" for view in views], len(truths), "views")
        parts |= {f"view {view}": named == view for view in sorted(set(named.tolist())) if view}
    if true_positive is not None:
        parts["true positives"] = _of_each(true_positive, len(truths), "true positives").astype(np.bool_)
    return {name: part for name, part in parts.items() if part.any()}


def _of_each(values: Sequence[Any] | NDArray[Any], count: int, what: str) -> NDArray[Any]:
    if len(values) != count:
        raise ValueError(f"{len(values)} {what} for {count} images")
    return np.asarray(values)
