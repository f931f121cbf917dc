"""Who is explained: a classifier as DiffEx sees it, whatever images it takes and however it decides."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.geometry import resized


@dataclass(frozen=True, slots=True)
class Question:
    """An answer of the classifier that is asked for.

    Attributes:
        output: which of its outputs.
        holds: whether it shall hold or not.
    """

    output: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A classifier, frozen, with what must be known to call it.

    Attributes:
        classifier: images -> logits, shape (N, outputs); see `explain_core.classifier.Classifier`.
        outputs: names of its outputs.
        size: rows and columns of its input in pixels.
        exclusive: whether exactly one output holds (softmax), or each is a finding of its own (sigmoid).
        threshold: of the probability of a finding; not used for exclusive ones.
        low, high: what black and white are for it.
        asked: numbers of the outputs that are in question; the first one where exclusive is False.
        channels: 1, or 3 for a classifier of colours, which is given the grey image three times.

    Raises:
        ValueError: no output, a range without width, or another number of channels.
    """

    classifier: Any
    outputs: tuple[str, ...]
    size: int
    exclusive: bool = False
    threshold: float = 0.5
    low: float = 0.0
    high: float = 1.0
    channels: int = 1
    asked: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.outputs or self.low >= self.high or self.channels not in {1, 3}:
            raise ValueError("a classifier needs an output, a range from low to high, and 1 or 3 channels")

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from the logits to the images."""
        return bool(getattr(self.classifier, "differentiable", isinstance(self.classifier, torch.nn.Module)))

    def prepared(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], shape (N, 1, S, S) of any S, as the classifier takes them."""
        x = resized(images.clamp(0, 1), self.size) * (self.high - self.low) + self.low
        return x.expand(-1, self.channels, -1, -1)

    def logits(self, images: Tensor) -> Tensor:
        """Of grey images in [0, 1], shape (N, 1, S, S) of any S: shape (N, outputs); in float32, as it was trained."""
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.classifier(self.prepared(images.float()))
        return logits

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of every answer that there is, shape (N, A): one a class, or for each finding that it holds and that not."""
        if self.exclusive:
            return logits.log_softmax(dim=1)
        return torch.cat([functional.logsigmoid(logits), functional.logsigmoid(-logits)], dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the outputs, in [0, 1], shape (N, outputs)."""
        return logits.softmax(dim=1) if self.exclusive else logits.sigmoid()

    def divergence(self, of: Tensor, told: Tensor) -> Tensor:
        """Kullback-Leibler divergence KL(of || told) of what two images are decided as, given their logits; (N,).

        Over the classes, or summed over the findings, each of which holds or not.
        """
        theirs, ours = self.log_probabilities(of), self.log_probabilities(told)
        return (theirs.exp() * (theirs - ours)).sum(dim=1)

    def answers(self, logits: Tensor, question: Question) -> Tensor:
        """Whether images are decided as asked, bool, shape (N,)."""
        if self.exclusive:
            return (logits.argmax(dim=1) == question.output) == question.holds
        return (logits[:, question.output].sigmoid() >= self.threshold) == question.holds

    def probability(self, logits: Tensor, question: Question) -> Tensor:
        """Of the answer that is asked for, in [0, 1], shape (N,)."""
        p = self.probabilities(logits)[:, question.output]
        return p if question.holds else 1 - p

    def evidence(self, logits: Tensor, question: Question) -> Tensor:
        """Logit of the answer that is asked for against all others, shape (N,)."""
        own = logits[:, question.output]
        if self.exclusive:
            own = own - torch.cat([logits[:, : question.output], logits[:, question.output + 1 :]], 1).logsumexp(dim=1)
        return own if question.holds else -own

    def questions(self) -> tuple[Question, ...]:
        """Every answer that can be asked for: each class; or of the findings in question that it holds, and not."""
        if self.exclusive:
            return tuple(Question(output, holds=True) for output in range(len(self.outputs)))
        return tuple(Question(output, holds) for output in self.asked for holds in (True, False))

    def contrasts(self) -> tuple[Question, ...]:
        """The questions of which none is another's opposite: each finding, or class, of two classes the first."""
        if self.exclusive:
            return self.questions() if len(self.outputs) > 2 else self.questions()[:1]  # noqa: PLR2004 - one or the other
        return self.questions()[::2]

    def named(self, question: Question) -> str:
        """The answer in words."""
        return self.outputs[question.output] if question.holds else f"no {self.outputs[question.output]}"
