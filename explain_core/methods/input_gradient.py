"""Input times gradient: E(x) = |x * d f_c(x) / dx| (arXiv:1605.01713, section 3)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from explain_core.classifier import Classifier, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class InputGradient:
    """Captum's InputXGradient, absolute value. No settings; the unit of the maps is logits.

    Black pixels are zero whatever the gradient: the product takes black as the absence of everything.
    """

    reference: ClassVar[str] = "Shrikumar et al., Not Just a Black Box, arXiv:1605.01713"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    unit: ClassVar[str] = "|x * gradient|, logits"
    packages: ClassVar[tuple[str, ...]] = ("captum",)

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "input_gradient")
        from captum.attr import InputXGradient  # noqa: PLC0415 - extra "benchmark"

        maps: Tensor = InputXGradient(classifier).attribute(images.detach().requires_grad_(), target=classes)
        return maps.detach().abs().float()


PLUGIN = InputGradient
