"""DiffEx for one image: the ranked attributes of a classifier that turn this image's decision (arXiv:2502.09663).

A re-implementation from the abstract and the authors' public code. What was found of the classifier as a whole
(`explain_core/diffex/attributes.py`) is applied to the image, attribute by attribute, in their order, each as long as
it moves the decision, until the other one is reached. E(x) is the change from the decoded image to the changed one, so
that what the autoencoder cannot show is no evidence; x_a is the image itself with that change.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from explain_core import progress
from explain_core.classifier import Classifier, DecisionRule
from explain_core.diffex.attributes import Attribute, Attributes
from explain_core.diffex.ranking import Prepared, changed, prepare
from explain_core.diffex.subject import Question, Subject
from explain_core.errors import AttributionError
from explain_core.geometry import resized
from explain_core.method import Applied, Once

PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of an attribute's change, as its morph shows it."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made of N images: the decoded ones, their change, x_a, and the attributes that were used."""

    plain: Tensor
    change: Tensor
    adversarial: Tensor
    used: tuple[tuple[Attribute, ...], ...]


@dataclass(frozen=True, kw_only=True)
class DiffEx:
    """Apply the attributes that turn each image's decision.

    Attributes:
        network: what was found of the classifier.
        most: attributes that are applied at most.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Bourou et al., DiffEx, arXiv:2502.09663"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = "diffex"
    slow: ClassVar[bool] = True
    unit: ClassVar[str] = "|x_a - x|, luminance 0 to 1"

    network: Attributes
    most: int = 3
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __post_init__(self) -> None:
        """Nothing was made yet."""
        object.__setattr__(self, "_once", Once(self._make))

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            AttributionError: the classifier has other outputs than the one that was explained.
        """
        return self.maps(classifier, images, self.rule.decide(classifier(images), classes))

    def maps(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> Tensor:
        """The size of the change between two decoded images, shape (N, 1, S, S)."""
        return self._made(classifier, images, decisions).change.abs()

    def images(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a): the decoded image, and the image with the change; shape (N, 1, S, S)."""
        made = self._made(classifier, images, decisions)
        return made.plain, made.adversarial

    def applied(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> list[list[Applied]]:
        """For each image every attribute that was used, alone, in its parts."""
        made = self._made(classifier, images, decisions)
        model, how = self.network.model, self.network.how
        found = []
        for row, used in enumerate(made.used):
            image = images[row : row + 1]
            given = prepare(model, self._subject(classifier, image), resized(image, model.side), how)
            found.append([self._alone(image, given, one) for one in used])
        return found

    @torch.no_grad()
    def _alone(self, image: Tensor, given: Prepared, one: Attribute) -> Applied:
        frames = []
        for part in PARTS:
            step = one.step(self.network.bank, given.codes, part)
            moved = changed(self.network.model, given, step, self.network.how)
            frames.append((image + resized(moved - given.images, image.shape[-1])).clamp(0, 1))
        return Applied(one.name, PARTS, torch.cat(frames))

    def _made(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> _Made:
        once: Once[_Made] = self.__dict__["_once"]
        return once(classifier, images, decisions)

    @torch.no_grad()
    def _make(self, classifier: Classifier, images: Tensor, decisions: Tensor) -> _Made:
        model, bank, how = self.network.model, self.network.bank, self.network.how
        subject = self._subject(classifier, images)
        given = prepare(model, subject, resized(images, model.side), how)
        wanted = (1 - decisions).bool()
        steps, now = torch.zeros_like(given.codes), given.images.clone()
        used: list[tuple[Attribute, ...]] = [()] * len(images)
        for number in range(self.most):
            for holds in (True, False):
                ranked = self.network.of(Question(0, holds))
                rows = (wanted == holds).nonzero()[:, 0]
                rows = rows[~subject.answers(subject.logits(now[rows]), Question(0, holds))] if len(rows) else rows
                if number >= len(ranked) or not len(rows):
                    continue
                one, part = ranked[number], given.take(rows)
                longer = steps[rows] + one.step(bank, part.codes)
                made = changed(model, part, longer, how)
                before, after = (subject.evidence(subject.logits(x), Question(0, holds)) for x in (now[rows], made))
                moved = after > before
                steps[rows[moved]], now[rows[moved]] = longer[moved], made[moved]
                for row in rows[moved].tolist():
                    used[row] = (*used[row], one)
            progress.tell((number + 1) / self.most)
        change = resized(now - given.images, images.shape[-1])
        plain = resized(given.images, images.shape[-1])
        return _Made(plain, change, (images + change).clamp(0, 1), tuple(used))

    def _subject(self, classifier: Classifier, images: Tensor) -> Subject:
        """The classifier as the attributes know it.

        Raises:
            AttributionError: it has other outputs.
        """
        outputs = classifier(images[:1]).shape[1]
        known = self.network.model.config.answers
        if outputs != known:
            raise AttributionError(
                f"the attributes were found for a classifier of {known} outputs, and this one has {outputs}"
            )
        names = tuple(f"output {number}" for number in range(outputs))
        return Subject(classifier=classifier, outputs=names, size=images.shape[-1], threshold=self.rule.threshold)


PLUGIN = DiffEx
