import torch

from explain_core.quality.similarity import psnr


def test_identical_images_have_100_db_so_that_a_mean_stays_finite():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert psnr(images, images).tolist() == [100, 100, 100]
    assert float(psnr(images[:1], images[:1] + 1e-6)[0]) == 100
