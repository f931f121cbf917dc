"""Blurs against SciPy's, at the border too."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from explain_core.blur import gaussian_blur, weighted_blur

MAPS = torch.rand(2, 1, 40, 30, generator=torch.Generator().manual_seed(0))


def scipy_blur(plane, sigma, mode):
    return ndimage.gaussian_filter(plane.numpy().astype(np.float64), sigma, mode=mode, radius=int(np.ceil(3 * sigma)))


@pytest.mark.parametrize("sigma", [0.7, 3.0, 12.0])
def test_the_border_continues_or_the_weights_inside_count(sigma):
    for plane, continued, weighted in zip(MAPS, gaussian_blur(MAPS, sigma), weighted_blur(MAPS, sigma), strict=True):
        np.testing.assert_allclose(continued[0], scipy_blur(plane[0], sigma, "nearest"), atol=1e-5)
        weights = scipy_blur(torch.ones(40, 30), sigma, "constant")
        np.testing.assert_allclose(weighted[0], scipy_blur(plane[0], sigma, "constant") / weights, atol=1e-5)


def test_a_flat_map_stays_flat_and_no_value_leaves_the_range():
    flat = torch.full((1, 1, 20, 20), 0.3)
    torch.testing.assert_close(weighted_blur(flat, 5.0), flat)
    blurred = weighted_blur(MAPS, 4.0)
    assert MAPS.min() <= blurred.min() < blurred.max() <= MAPS.max()


def test_no_width_changes_nothing():
    assert torch.equal(weighted_blur(MAPS, 0.0), MAPS)
    assert torch.equal(gaussian_blur(MAPS, 0.0), MAPS)


def test_what_is_not_known_takes_nothing_from_its_neighbours():
    known = torch.ones(1, 1, 40, 30, dtype=torch.bool)
    known[..., :12, :9] = False
    flat = torch.full((1, 1, 40, 30), 0.3) * known
    blurred = weighted_blur(flat, 4.0, known)
    torch.testing.assert_close(blurred[known], flat[known])
    assert (weighted_blur(flat, 1.0, known)[..., :8, :5] == 0).all()  # no known value within 3 sigma
    with_rubbish = weighted_blur(torch.where(known, MAPS[:1], 7.0), 4.0, known)
    assert torch.equal(with_rubbish, weighted_blur(MAPS[:1] * known, 4.0, known))
