"""Integrated gradients: equation (1) of arXiv:1703.01365, the gradient averaged on the way from a baseline.

E(x) = |(x - b) * mean over t in [0, 1] of d f_c(b + t (x - b)) / dx|
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegratedGradients:
    """Captum's IntegratedGradients, absolute value; the unit of the maps is logits.

    The integral is a Gauss-Legendre sum, captum's default; the publication's Riemann sum needs more steps for the
    same precision. Before the absolute value, a map sums to f_c(x) - f_c(b).

    Attributes:
        steps: points on the way from the baseline to the image; arXiv:2012.07332 does not say how many.
        baseline: luminance of b at every pixel, in [0, 1]; 0 is black.
        batch: images that pass the classifier at once, at most.
    """

    reference: ClassVar[str] = "Sundararajan et al., Axiomatic Attribution for Deep Networks, arXiv:1703.01365"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    unit: ClassVar[str] = "|integrated gradient|, logits"
    packages: ClassVar[tuple[str, ...]] = ("captum",)

    steps: int = 50
    baseline: float = 0.0
    batch: int = 32

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "integrated_gradients")
        from captum.attr import IntegratedGradients as Integral  # noqa: PLC0415 - extra "benchmark"

        integral = Integral(classifier)
        maps = [
            integral.attribute(
                part, self.baseline, target=chosen, n_steps=self.steps, internal_batch_size=self.batch
            ).detach()
            for part, chosen in zip(images.detach().split(self.batch), classes.split(self.batch), strict=True)
        ]
        return torch.cat(maps).abs().float()


PLUGIN = IntegratedGradients
