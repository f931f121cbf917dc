"""Explanation by similar and adversarial generators: equation (3) of arXiv:2012.07332, E(x) = |x_s - x_a|."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule, Look, look
from explain_core.generators.kinds import Generators, seen_by


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarAdversarialMethod:
    """The map |x_s - x_a|; one pass of the classifier gives the decision and what the generators read.

    Attributes:
        network: the trained generators, in eval mode.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Charachon et al., Combining Similarity and Adversarial Learning, arXiv:2012.07332"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = "generators"
    unit: ClassVar[str] = "|x_s - x_a|, luminance 0 to 1"

    network: Generators
    rule: DecisionRule = field(default_factory=DecisionRule)

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of a batch; see `explain_core.method.Method`."""
        seen = seen_by(self.network, classifier, images)
        return _difference(self._images(images, self.rule.decide(seen.logits, classes), seen))

    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """|x_s - x_a|, shape (N, 1, S, S), of grey images of that shape under given decisions, shape (N,)."""
        return _difference(self.images(classifier, images, decisions))

    def images(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a), clipped to [0, 1], of grey images, shape (N, 1, S, S), under given decisions, shape (N,)."""
        seen = look(classifier, images) if self.network.reads_features else None
        return self._images(images, decisions, seen)

    def _images(self, images: Tensor, decisions: Tensor, seen: Look | None) -> tuple[Tensor, Tensor]:
        x_s, x_a = self.network(images, decisions, seen)
        return x_s.clamp(0, 1), x_a.clamp(0, 1)


def _difference(images: tuple[Tensor, Tensor]) -> Tensor:
    return (images[0] - images[1]).abs()


PLUGIN = SimilarAdversarialMethod
