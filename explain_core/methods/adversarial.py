"""Explanation by one adversarial generator: equation (1) of arXiv:2012.07332, E(x) = |x - x_a|, the naive method."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule
from explain_core.generators.kinds import Generators, seen_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversarial:
    """The map |x - x_a|: it shows the reconstruction's error together with the reason.

    Attributes:
        network: trained generators; the similar image, if they make one, is not used.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Charachon et al., equation (1), arXiv:2012.07332"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = "generators"
    unit: ClassVar[str] = "|x - x_a|, luminance 0 to 1"

    network: Generators
    rule: DecisionRule = field(default_factory=DecisionRule)

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of a batch; see `explain_core.method.Method`."""
        seen = seen_by(self.network, classifier, images)
        x_a: Tensor = self.network(images, self.rule.decide(seen.logits, classes), seen)[1]
        return (images - x_a.clamp(0, 1)).abs()


PLUGIN = Adversarial
