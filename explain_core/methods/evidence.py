"""The classifier's own map of evidence, for classifiers that decide by one: E(x) = sigmoid of each cell's logit."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.classifier import Classifier, offers, unwrapped
from explain_core.errors import FeaturesNeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """No settings; the unit of the maps is the probability that a cell shows the finding, bilinear between cells."""

    reference: ClassVar[str] = "Pinheiro and Collobert, From Image-level to Pixel-level Labeling, arXiv:1411.6228"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("evidence",)
    unit: ClassVar[str] = "probability that the finding is here, by the classifier's own map"

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            FeaturesNeeded: the classifier does not decide by maps.
        """
        if not offers(classifier, "evidence"):
            raise FeaturesNeeded(
                f"evidence shows the map that a classifier decides by, and {type(unwrapped(classifier)).__name__} "
                "has none; use another method, or a classifier such as evidence_lite0"
            )
        logits = unwrapped(classifier).evidence(images).float()
        chosen = logits[torch.arange(len(images), device=images.device), classes][:, None]
        return functional.interpolate(torch.sigmoid(chosen), images.shape[-2:], mode="bilinear", align_corners=False)


PLUGIN = Evidence
