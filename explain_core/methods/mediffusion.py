"""Counterfactuals of a joint diffusion model: the image with another answer of the model's own head (arXiv:2411.09434).

A re-implementation from the abstract and the authors' public code. The image is noised a little and denoised again,
pulled by the gradient of the head; the pull is the least that crosses the threshold. E(x) is the change to the decoded
original, so that what the autoencoder cannot show is no evidence.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from explain_core.classifier import Classifier, DecisionRule, need_gradients, offers, unwrapped
from explain_core.diffusion.counterfactual import Counterfactual, Settings
from explain_core.errors import FeaturesNeeded
from explain_core.method import Once


@dataclass(frozen=True, kw_only=True)
class Mediffusion:
    """Remove the finding from images that show it, enforce it in those that do not.

    Attributes:
        start: step of 1,000 from which is denoised.
        steps: of the whole chain.
        limit: the strongest pull that is tried.
        doublings: from the smallest pull that is tried to the limit.
        halvings: of the interval in which the least pull lies.
        seed: of the noise.
        aim: how sure the head shall be of the counterfactual; see `Settings`.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Kaleta et al., Mediffusion, arXiv:2411.09434"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    slow: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("counterfactual",)
    unit: ClassVar[str] = "|x_a - x|, luminance 0 to 1"

    start: int = 300
    steps: int = 50
    limit: float = 3000.0
    doublings: int = 7
    halvings: int = 5
    seed: int = 0
    aim: Literal["typical", "threshold"] = "typical"
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __post_init__(self) -> None:
        """Nothing was sought yet."""
        object.__setattr__(self, "_once", Once(self._sought))

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded, FeaturesNeeded: the classifier is no joint diffusion model.
            AttributionError: a chain left the numbers.
        """
        decisions = self.rule.decide(classifier(images), classes)
        return self.maps(classifier, images, decisions)

    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """|x_a - x| of the decoded images, shape (N, 1, S, S)."""
        return self._made(classifier, images, decisions).difference

    def images(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a): the decoded original, and the counterfactual; shape (N, 1, S, S)."""
        made = self._made(classifier, images, decisions)
        return made.original, made.changed

    def control(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """The same noise without guidance, shape (N, 1, S, S)."""
        return self._made(classifier, images, decisions).unguided

    def _made(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Counterfactual:
        once: Once[Counterfactual] = self.__dict__["_once"]
        return once(classifier, images, decisions)

    def _sought(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Counterfactual:
        settings = Settings(
            start=self.start,
            steps=self.steps,
            limit=self.limit,
            doublings=self.doublings,
            halvings=self.halvings,
            seed=self.seed,
            aim=self.aim,
        )
        need_gradients(classifier, "mediffusion")
        if not offers(classifier, "counterfactual"):
            raise FeaturesNeeded("mediffusion needs a joint diffusion model as its classifier; use another method")
        inner: Any = unwrapped(classifier)
        temperature = 1.0 if inner is classifier else float(classifier.temperature)  # type: ignore[attr-defined]
        own = self.rule.threshold
        threshold = 1 / (1 + math.exp(-temperature * math.log(own / (1 - own))))
        parts: dict[int, Counterfactual] = {}
        for decision in (0, 1):
            places = (decisions == decision).nonzero()[:, 0]
            if len(places):
                parts[decision] = inner.counterfactual(images[places], 0, 1 - decision, settings, threshold)
        if len(parts) == 1:
            return next(iter(parts.values()))
        order = torch.cat([(decisions == decision).nonzero()[:, 0] for decision in parts]).argsort()
        names = Counterfactual.__slots__
        return Counterfactual(*(torch.cat([getattr(p, n) for p in parts.values()])[order] for n in names))


PLUGIN = Mediffusion
