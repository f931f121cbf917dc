import math

import numpy as np
import pytest
import torch

from explain_core.quality.similarity import psnr, ssim


def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 16, 16, generator=generator)
    strengths = torch.tensor([0.01, 0.05, 0.2]).view(3, 1, 1, 1)
    return images, images + strengths * torch.randn(images.shape, generator=generator)


def naive_ssim(image, other):
    """Wang et al. 2004, equation 13: window of 11 pixels and width 1.5 about every pixel, borders reflected."""
    image, other = np.pad(image, 5, mode="reflect"), np.pad(other, 5, mode="reflect")
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for row in range(image.shape[0] - 10):
        for column in range(image.shape[1] - 10):
            a, b = image[row : row + 11, column : column + 11], other[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
            both = (window * a * b).sum() - mean_a * mean_b
            top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            values.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return np.mean(values)


def test_ssim_equals_loops_over_windows():
    images, others = pair()
    expected = [naive_ssim(a[0].double().numpy(), b[0].double().numpy()) for a, b in zip(images, others, strict=True)]
    np.testing.assert_allclose(ssim(images, others), expected, atol=1e-4)
    np.testing.assert_allclose(ssim(images, images), 1, atol=1e-6)


def test_psnr_equals_a_loop_over_pixels():
    images, others = pair()
    for index in range(3):
        error = sum((a - b) ** 2 for a, b in zip(images[index].flatten(), others[index].flatten(), strict=True)) / 256
        assert float(psnr(images, others)[index]) == pytest.approx(-10 * math.log10(float(error)), abs=1e-3)


def test_identical_images_have_100_db():
    images, _ = pair()
    assert psnr(images, images).tolist() == [100, 100, 100]
    assert float(psnr(images[:1], images[:1] + 1e-6)[0]) == 100


def test_one_image_gives_one_value_each():
    images, others = pair()
    assert psnr(images[:1], others[:1]).shape == ssim(images[:1], others[:1]).shape == (1,)
    np.testing.assert_allclose(psnr(images[1:2], others[1:2]), psnr(images, others)[1:2], rtol=1e-5)
    np.testing.assert_allclose(ssim(images[1:2], others[1:2]), ssim(images, others)[1:2], rtol=1e-5)
