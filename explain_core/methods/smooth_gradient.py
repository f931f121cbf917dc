"""SmoothGrad: the gradient averaged over noisy copies (arXiv:1706.03825, section 3).

E(x) = |mean over i of d f_c(x + e_i) / dx|, e_i normal with the deviation `noise` * (max x - min x)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothGradient:
    """Captum's Saliency on noisy copies; the unit of the maps is logits per full luminance.

    Captum's NoiseTunnel computes the same mean, but draws from the process's random numbers and has one deviation
    for all images. Here every image gets the same noise, drawn from `seed` on the CPU: the map of an image depends
    neither on its batch nor on the device. Noisy copies may leave [0, 1], as in the publication; the absolute value
    is taken of the mean, so that gradients of opposite sign cancel.

    Attributes:
        samples: noisy copies of an image; the publication sees little gain above 50, arXiv:2012.07332 does not say.
        noise: deviation as a fraction of the image's range; the publication advises 0.1 to 0.2.
        seed: of the noise.
        batch: copies that pass the classifier at once, at most.
    """

    reference: ClassVar[str] = "Smilkov et al., SmoothGrad: removing noise by adding noise, arXiv:1706.03825"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    unit: ClassVar[str] = "|mean gradient|, logits per full luminance"
    packages: ClassVar[tuple[str, ...]] = ("captum",)

    samples: int = 25
    noise: float = 0.15
    seed: int = 0
    batch: int = 32

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "smooth_gradient")
        from captum.attr import Saliency  # noqa: PLC0415 - extra "benchmark"

        saliency = Saliency(classifier)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, *images.shape[1:], generator=generator).to(images)
        maps = []
        for image, chosen in zip(images.detach(), classes, strict=True):
            copies = image + self.noise * (image.max() - image.min()) * noise
            gradients = [
                saliency.attribute(part.detach().requires_grad_(), target=chosen.expand(len(part)), abs=False).detach()
                for part in copies.split(self.batch)
            ]
            maps.append(torch.cat(gradients).mean(dim=0).abs())
        return torch.stack(maps).float()


PLUGIN = SmoothGradient
