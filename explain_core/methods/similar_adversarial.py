"""Explanation by similar and adversarial generators: equation (3) of arXiv:2012.07332, E(x) = |x_s - x_a|.

Of gated generators the map is weighted once more by their gate: the difference, and where it is evidence that changes.
On validation patients that names the place better; the generated images are as they are.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule, Look, look
from explain_core.generators.features import FeatureGenerators
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
    unit: ClassVar[str] = "weighted |x_s - x_a|, luminance 0 to 1"

    network: Generators
    rule: DecisionRule = field(default_factory=DecisionRule)

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of a batch; see `explain_core.method.Method`."""
        seen = seen_by(self.network, classifier, images)
        return self._maps(images, self.rule.decide(seen.logits, classes), seen)

    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """Maps, shape (N, 1, S, S), of grey images of that shape under given decisions, shape (N,)."""
        return self._maps(images, decisions, self._seen(classifier, images))

    def images(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a), clipped to [0, 1], of grey images, shape (N, 1, S, S), under given decisions, shape (N,)."""
        return self._images(images, decisions, self._seen(classifier, images))

    def _seen(self, classifier: Classifier, images: Tensor) -> Look | None:
        return look(classifier, images) if self.network.reads_features else None

    def _images(self, images: Tensor, decisions: Tensor, seen: Look | None) -> tuple[Tensor, Tensor]:
        x_s, x_a = self.network(images, decisions, seen)
        return x_s.clamp(0, 1), x_a.clamp(0, 1)

    def _maps(self, images: Tensor, decisions: Tensor, seen: Look | None) -> Tensor:
        x_s, x_a = self._images(images, decisions, seen)
        difference = (x_s - x_a).abs()
        if seen is None or not isinstance(self.network, FeatureGenerators):
            return difference
        weights = self.network.weights(seen, decisions, images.shape[-2:])
        return difference if weights is None else difference * weights


PLUGIN = SimilarAdversarialMethod
