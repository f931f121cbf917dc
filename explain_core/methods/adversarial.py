"""Explanation by one adversarial generator: equation (1) of arXiv:2012.07332, E(x) = |x - x_a|, the naive method."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule, Look, look
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
        return self._maps(images, self.rule.decide(seen.logits, classes), seen)

    @torch.no_grad()
    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """Maps, shape (N, 1, S, S), of grey images of that shape under given decisions, shape (N,)."""
        return self._maps(images, decisions, look(classifier, images) if self.network.reads_features else None)

    def _maps(self, images: Tensor, decisions: Tensor, seen: Look | None) -> Tensor:
        x_a: Tensor = self.network(images, decisions, seen)[1]
        return (images - x_a.clamp(0, 1)).abs()


PLUGIN = Adversarial
