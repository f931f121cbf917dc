"""The gradient of the score with respect to the image: E(x) = |d f_c(x) / dx| (arXiv:1312.6034, section 3)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from explain_core.classifier import Classifier, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """Captum's Saliency. No settings; the unit of the maps is logits per full luminance."""

    reference: ClassVar[str] = "Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    unit: ClassVar[str] = "|gradient|, logits per full luminance"
    packages: ClassVar[tuple[str, ...]] = ("captum",)

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "gradient")
        from captum.attr import Saliency  # noqa: PLC0415 - extra "benchmark"

        maps: Tensor = Saliency(classifier).attribute(images.detach().requires_grad_(), target=classes, abs=True)
        return maps.detach().float()


PLUGIN = Gradient
