"""What a diffusion autoencoder and its ranked directions are worth, each beside its control (docs/diffex.md).

code        whether it is used: how far images of two codes from one noise are apart, against images of one code
from two noises; and whether the classifier says of a decoded image what it says of the image
order       the effects that were foreseen on one set of images against those on another (Kendall's tau)
monotone    images whose evidence rises with every step of a growing change
sufficient  images that the best one, two, ... together turn, against random directions of the same length
selective   on drawn images: the factor that a direction changes most against the next one
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explain_core.diffex.directions import Bank
from explain_core.diffex.ranking import Decoding, Prepared, changed, prepare
from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Question, Subject
from explain_core.quality.controls import derangement
from explain_core.second import Second
from training.measure.factors import Meter

Floats = NDArray[np.float64]
GRID = (0.25, 0.5, 0.75, 1.0)
"""Parts of the whole change, along which monotony is judged."""
LEAST_USE, LEAST_AGREEMENT = 0.2, 0.95


@torch.no_grad()
def code_use(model: SemanticAutoencoder, subject: Subject, images: Tensor, how: Decoding) -> dict[str, float]:
    """Whether the code is used, on held-out images.

    Args:
        model: in eval mode.
        subject: the classifier.
        images: grey, in [0, 1], shape (N, 1, S, S), N at least 2.
        how: see `Decoding`.

    Returns:
        "use": mean squared difference of images of two codes and one noise over that of one code and two noises;
        "agreement": part of the images that are decided, decoded, as they were; "agreement_inverted" and
        "agreement_fixed": the same from either noise; "psnr": of the decoded image to the image, own noise, in dB.
    """
    count = len(images)
    latents = model.latents(images)
    codes = model.code(latents, subject.probabilities(subject.logits(images)))
    one, two = (
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(how.seed + number)).to(latents)
        for number in (1, 2)
    )
    other = torch.from_numpy(derangement(count)).to(latents.device)

    def decoded(noise: Tensor, code: Tensor) -> Tensor:
        parts = zip(noise.split(how.batch), code.split(how.batch), strict=True)
        return torch.cat([model.decode(n, c, how.steps, how.guidance) for n, c in parts]).clamp(0, 1)

    first = decoded(one, codes)
    by_code = (first - decoded(one, codes[other])).pow(2).mean()
    by_noise = (first - decoded(two, codes)).pow(2).mean()
    found = {"use": float(by_code / by_noise.clamp(min=1e-12))}
    truly = _decided(subject, subject.logits(images))
    for noise in ("inverted", "fixed"):
        name = f"agreement_{noise}"
        back = prepare(model, subject, images, replace(how, noise=noise))
        found[name] = float((_decided(subject, back.logits) == truly).float().mean())
        if noise == "inverted":
            error = functional.mse_loss(back.images, images, reduction="none").mean(dim=(1, 2, 3))
            found["psnr"] = float((-10 * error.clamp(min=1e-12).log10()).mean())
    return found | {"agreement": found[f"agreement_{how.noise}"]}


def _decided(subject: Subject, logits: Tensor) -> Tensor:
    """Answers to every question, shape (N,) of numbers: equal where all answers are."""
    if subject.exclusive:
        return logits.argmax(dim=1)
    yes = torch.stack([subject.answers(logits, question) for question in subject.questions()], dim=1)
    weights = 2 ** torch.arange(yes.shape[1], device=yes.device)
    return (yes * weights).sum(dim=1)


def refusal(use: Mapping[str, float]) -> str | None:
    """Why a model must not be used to explain, None where it may: the gate after the first stage."""
    if use["use"] < LEAST_USE:
        return (
            f"the code is hardly used: two codes from one noise differ by {use['use']:.3f} of what two noises do, and "
            f"{LEAST_USE} is asked for; train longer, or with more codes dropped"
        )
    if use["agreement"] < LEAST_AGREEMENT:
        return (
            f"the classifier says of {use['agreement']:.3f} of the decoded images what it says of the images, and "
            f"{LEAST_AGREEMENT} is asked for; train longer, or with a stronger pull"
        )
    return None


@dataclass(frozen=True, slots=True)
class Judged:
    """What one direction, with one sign, makes of N fresh images of the other answer.

    Attributes:
        probability: change of the probability of the answer, shape (N,).
        evidence: change of its logit, shape (N,).
        crossed: whether the answer is given, bool, shape (N,).
        monotone: whether the evidence rises at every part of the change, bool, shape (N,).
        oracle: change of the oracle's probability the same way, shape (N,); None without an oracle.
        factors: change of every factor in its standard deviations, shape (N, F); None where there are none.
        picture: mean change of the images, shape (S, S).
    """

    probability: Floats
    evidence: Floats
    crossed: NDArray[np.bool_]
    monotone: NDArray[np.bool_]
    oracle: Floats | None
    factors: Floats | None
    picture: Floats


@dataclass(frozen=True, slots=True)
class Judge:
    """What fresh images are judged with.

    Attributes:
        model, subject, bank: what is judged.
        how: see `Decoding`.
        oracle: another classifier; None where there is none, as for exclusive classes.
        meter: of the factors of drawn images; None where they are none.
    """

    model: SemanticAutoencoder
    subject: Subject
    bank: Bank
    how: Decoding
    oracle: Second | None = None
    meter: Meter | None = None

    def step(self, given: Prepared, columns: Sequence[int], length: float) -> Tensor:
        """The sum of the changes of some columns of `Effects`, shape (N, code)."""
        directions = self.bank(given.codes)
        total = torch.zeros_like(given.codes)
        for column in columns:
            total = total + (1 - 2 * (column % 2)) * length * directions[:, column // 2]
        return total

    def column(self, given: Prepared, question: Question, column: int, length: float) -> Judged:
        """Judge one column."""
        whole = self.step(given, [column], length)
        before = self.subject.evidence(given.logits, question)
        rising, last = torch.ones(len(before), dtype=torch.bool, device=before.device), before
        for part in GRID:
            images = changed(self.model, given, part * whole, self.how)
            logits = self.subject.logits(images)
            now = self.subject.evidence(logits, question)
            rising, last = rising & (now > last), now
        probability = self.subject.probability(logits, question) - self.subject.probability(given.logits, question)
        oracle = None
        if self.oracle is not None:
            moved = self.oracle.probabilities(images) - self.oracle.probabilities(given.images)
            oracle = _array(moved if question.holds else -moved)
        factors = None if self.meter is None else (self.meter.read(images) - self.meter.read(given.images)) / _SPREAD
        return Judged(
            _array(probability),
            _array(last - before),
            _bools(self.subject.answers(logits, question) & ~self.subject.answers(given.logits, question)),
            _bools(rising),
            oracle,
            factors,
            _array((images - given.images).mean(dim=(0, 1))),
        )

    def together(self, given: Prepared, question: Question, columns: Sequence[int], length: float) -> list[Floats]:
        """Whether images turn by the first, the first two, ... of the columns together; (N,) of 0 and 1 each."""
        counts = range(1, len(columns) + 1)
        return [self._turned(given, question, self.step(given, columns[:count], length)) for count in counts]

    def at_random(
        self, given: Prepared, question: Question, columns: Sequence[int], length: float, draws: int = 3
    ) -> list[Floats]:
        """The same for random directions of each image's same length, averaged over draws."""
        found = []
        for count in range(1, len(columns) + 1):
            norms = self.step(given, columns[:count], length).norm(dim=1, keepdim=True)
            turned = []
            for draw in range(draws):
                generator = torch.Generator().manual_seed(draw)
                drawn = torch.randn(1, given.codes.shape[1], generator=generator).to(given.codes)
                turned.append(self._turned(given, question, norms * functional.normalize(drawn, dim=1)))
            found.append(np.mean(turned, axis=0))
        return found

    def _turned(self, given: Prepared, question: Question, steps: Tensor) -> Floats:
        logits = self.subject.logits(changed(self.model, given, steps, self.how))
        crossed = self.subject.answers(logits, question) & ~self.subject.answers(given.logits, question)
        return _array(crossed)


_SPREAD = 1 / 3**0.5
"""Standard deviation of a factor that is drawn evenly from -1 to 1."""


def _array(values: Tensor) -> Floats:
    return np.asarray(values.detach().double().cpu().numpy())


def _bools(values: Tensor) -> NDArray[np.bool_]:
    return np.asarray(values.cpu().numpy())


def selectivity(change: Floats) -> float:
    """The largest mean change of a factor over the next one, of changes of shape (N, F)."""
    sizes = np.sort(np.abs(change.mean(axis=0)))[::-1]
    return float(sizes[0] / max(sizes[1], 1e-9))
