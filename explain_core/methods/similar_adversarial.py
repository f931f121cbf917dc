"""Explanation by similar and adversarial generators: equation (3) of arXiv:2012.07332, E(x) = |x_s - x_a|."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule
from explain_core.generators.similar_adversarial import SimilarAdversarial


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarAdversarialMethod:
    """The map |x_s - x_a|; the classifier is asked only where the generators need its decision.

    Attributes:
        network: the trained generators, in eval mode.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Charachon et al., Combining Similarity and Adversarial Learning, arXiv:2012.07332"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = "generators"
    unit: ClassVar[str] = "|x_s - x_a|, luminance 0 to 1"

    network: SimilarAdversarial
    rule: DecisionRule = field(default_factory=DecisionRule)

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of a batch; see `explain_core.method.Method`."""
        decisions = self.rule.decide(classifier(images), classes) if self.network.conditioned else classes
        return self.maps(images, decisions)

    def maps(self, images: Tensor, decisions: Tensor) -> Tensor:
        """|x_s - x_a|, shape (N, 1, S, S), of grey images of that shape and their decisions, shape (N,)."""
        x_s, x_a = self.images(images, decisions)
        return (x_s - x_a).abs()

    def images(self, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a), clipped to [0, 1], of grey images, shape (N, 1, S, S), and their decisions, shape (N,)."""
        x_s, x_a = self.network(images, decisions)
        return x_s.clamp(0, 1), x_a.clamp(0, 1)


PLUGIN = SimilarAdversarialMethod
