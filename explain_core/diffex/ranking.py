"""Which directions change a classifier's answer: AttFind, the greedy rule of StylEx (Lang et al., arXiv:2104.13369).

Each direction is tried with either sign on images that are decided otherwise; the one that moves most of those that no
chosen one has moved yet is the next attribute.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core import progress
from explain_core.diffex.directions import Bank
from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Question, Subject

Noise: TypeAlias = Literal["inverted", "fixed"]
Floats: TypeAlias = NDArray[np.float64]
ENOUGH = 0.2
"""An image whose probability the chosen attributes have moved by this much counts as explained (StylEx)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How changed codes become images.

    Attributes:
        steps: of the chain.
        noise: "inverted": each image's own, so that what the code does not hold stays; "fixed": one for all, so that
            only the code speaks.
        guidance: how far the code's part in the noise is enlarged; see `SemanticAutoencoder.guided`.
        seed: of the fixed noise.
        batch: images that are decoded at once.
    """

    steps: int = 20
    noise: Noise = "inverted"
    guidance: float = 1.0
    seed: int = 0
    batch: int = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """Images ready to be changed, N rows each.

    Attributes:
        codes: standardised, shape (N, code).
        noise: that images are decoded from, of the latents' shape.
        images: what is decoded of the codes as they are, in [0, 1], shape (N, 1, S, S): what changes are measured
            against.
        logits: the classifier's, of those, shape (N, outputs).
    """

    codes: Tensor
    noise: Tensor
    images: Tensor
    logits: Tensor

    def take(self, rows: Tensor) -> "Prepared":
        """Some of the images, by number or by bool."""
        return Prepared(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Effects:
    """What every direction with either sign makes of images; column 2 k + 1 is direction k with a minus.

    Attributes:
        probability: change of the probability of the answer, shape (N, 2 K).
        evidence: change of its logit.
        crossed: whether the answer is given then, which it was not, bool.
    """

    probability: Floats
    evidence: Floats
    crossed: NDArray[np.bool_]


@torch.no_grad()
def prepare(model: SemanticAutoencoder, subject: Subject, images: Tensor, how: Decoding) -> Prepared:
    """Codes and noise of images.

    Args:
        model: in eval mode.
        subject: the classifier.
        images: grey, in [0, 1], shape (N, 1, S, S).
        how: see `Decoding`.
    """
    parts = []
    for part in images.split(how.batch):
        latents = model.latents(part)
        code = model.code(latents, subject.probabilities(subject.logits(part)))
        if how.noise == "inverted":
            noise = model.invert(latents, code, how.steps)
        else:
            generator = torch.Generator().manual_seed(how.seed)
            noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        plain = model.decode(noise, code, how.steps, how.guidance).clamp(0, 1)
        parts.append(Prepared(code, noise, plain, subject.logits(plain)))
    return Prepared(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Prepared)))


@torch.no_grad()
def changed(model: SemanticAutoencoder, given: Prepared, steps: Tensor, how: Decoding) -> Tensor:
    """Images of codes that were moved by `steps`, shape (N, code): in [0, 1], shape (N, 1, S, S)."""
    made = []
    for start in range(0, len(steps), how.batch):
        rows = slice(start, start + how.batch)
        made.append(model.decode(given.noise[rows], given.codes[rows] + steps[rows], how.steps, how.guidance))
    return torch.cat(made).clamp(0, 1)


@torch.no_grad()
def effects(
    model: SemanticAutoencoder,
    subject: Subject,
    bank: Bank,
    given: Prepared,
    question: Question,
    length: float,
    how: Decoding,
    tell: Callable[[float], None] = progress.tell,
) -> Effects:
    """Try every direction with either sign.

    Args:
        model: in eval mode.
        subject: the classifier.
        bank: the directions, in eval mode.
        given: images that are decided otherwise than `question` asks, N of them.
        question: the answer in question.
        length: of a step, in standardised codes.
        how: see `Decoding`.
        tell: told the part that is done.
    """
    directions = bank(given.codes)
    before = subject.probability(given.logits, question), subject.evidence(given.logits, question)
    had = subject.answers(given.logits, question)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(2 * len(bank)):
        sign = 1 - 2 * (number % 2)
        logits = subject.logits(changed(model, given, sign * length * directions[:, number // 2], how))
        columns.append(
            (
                subject.probability(logits, question) - before[0],
                subject.evidence(logits, question) - before[1],
                subject.answers(logits, question) & ~had,
            )
        )
        tell((number + 1) / (2 * len(bank)))
    found = [torch.stack(column, dim=1).cpu().numpy() for column in zip(*columns, strict=True)]
    return Effects(found[0].astype(np.float64), found[1].astype(np.float64), found[2])


def attfind(change: Floats, count: int, *, enough: float = ENOUGH, among: NDArray[np.bool_] | None = None) -> list[int]:
    """Columns in the order of their worth, each for the images that those before it have left.

    Args:
        change: of the probability (or the logit) of the answer, shape (N, S).
        count: how many at most.
        enough: an image whose summed change reaches this is explained.
        among: the columns that may be chosen, shape (S,); None is all.

    Returns:
        fewer than `count` where no column moves what is left.
    """
    gains = np.maximum(change, 0)
    free = np.ones(gains.shape[1], np.bool_) if among is None else among.copy()
    reached, order = np.zeros(len(gains)), list[int]()
    while len(order) < count and free.any():
        left = reached < enough
        if not left.any():
            break
        worth = np.where(free, gains[left].mean(axis=0), -np.inf)
        best = int(worth.argmax())
        if worth[best] <= 0:
            break
        order.append(best)
        reached += gains[:, best]
        free[best] = False
    return order
