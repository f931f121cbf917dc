"""How near a generated image stays to its source: PSNR and SSIM by torchmetrics, range of the images [0, 1]."""

from torch import Tensor

PSNR_CAP = 100.0


def psnr(images: Tensor, generated: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, shape (N,), of images of shape (N, 1, S, S).

    Capped at 100 dB, which identical images have, so that a mean over images stays finite.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # noqa: PLC0415 - slow to import

    value = peak_signal_noise_ratio(generated, images, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return value.clamp(max=PSNR_CAP)


def ssim(images: Tensor, generated: Tensor) -> Tensor:
    """Structural similarity per image, shape (N,), of images of shape (N, 1, S, S), S at least 6.

    Mean over all pixels, a Gaussian window of 11 pixels and width 1.5 about each, images reflected at their borders.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # noqa: PLC0415 - slow to import

    value = structural_similarity_index_measure(generated, images, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)  # noqa: S101 - a tuple only where contrast sensitivity is asked for
    return value
