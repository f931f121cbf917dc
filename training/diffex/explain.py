"""Train the autoencoder and its directions, gate it, and rank the directions on validation images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.diffex.attributes import Attribute, Attributes, save_attributes
from explain_core.diffex.directions import LEARNT, PART, Bank, references
from explain_core.diffex.parts import by_independence, by_place
from explain_core.diffex.ranking import Decoding, Effects, Noise, Prepared, attfind, effects, prepare
from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Question, Subject
from explain_core.engine import choose_device
from explain_core.files import write_json
from training.diffex.request import Materials, Request
from training.errors import TrainingError
from training.measure import attributes as measure
from training.progress import Progress, silent
from training.runs.diffex.autoencoder import frozen, train
from training.runs.diffex.directions import learn
from training.runs.diffex.settings import DiffexSettings

Record = dict[str, Any]


class CodeUnused(TrainingError):
    """The gate after the first stage: images do not follow from their codes, so that these explain nothing."""


FILE = "attributes.safetensors"
EFFECTS = "effects.json"
NOISES: tuple[Noise, ...] = ("inverted", "fixed")
LEAST = 8
"""Images of the other decision, below which nothing is ranked."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a run has made.

    Attributes:
        attributes: what is kept.
        use: see `measure.code_use`.
        gap: see `references`.
        losses: of the directions.
    """

    attributes: Attributes
    use: dict[str, float]
    gap: float
    losses: list[dict[str, float]]


def explain(asked: Request, given: Materials, progress: Progress = silent) -> Found:
    """Train the autoencoder and the directions, and rank them; the result lies in `FILE`.

    Raises:
        TrainingError: the code is not used, too few images of one decision, or the folder is another run's.
    """
    settings, out, subject = asked.settings, asked.out, given.subject
    device, questions = choose_device(settings.device), subject.questions()
    for question in questions:  # too few images are told before anything is trained
        for images in (given.validation.images, given.test.images):
            opposite(images, subject, question, settings.ranked, device)
    told = within(progress, 0.0, 0.7)
    model = frozen(train(settings, subject, given.own.images, out / "autoencoder", told)).to(device)
    held_out = given.validation.images[: 2 * settings.ranked].float().to(device) / 255
    use = measure.code_use(model, subject, held_out, settings.decoding())
    if asked.gate and (reason := measure.refusal(use)) is not None:
        raise CodeUnused(reason)
    latents, codes, logits = encoded(model, subject, given.own.images, device)
    decided = {subject.named(one): _numpy(subject.answers(logits, one)) for one in subject.contrasts()}
    try:
        fixed, names, gap = references(_numpy(codes).astype(np.float64), decided, seed=settings.seed)
    except ValueError as error:
        raise TrainingError(f"{error}; give other images, or leave that answer out") from error
    if settings.parts:
        if settings.apart_by == "independence":
            own = by_independence(codes, settings.parts, seed=settings.seed)
        else:
            classes = fixed[: 2 * len(decided)]
            how_far = {"at": settings.glimpse, "seed": settings.seed}
            own = by_place(model, subject, latents, codes, settings.parts, further=classes, **how_far)
        fixed = torch.cat([own.cpu(), fixed])
        names = (*(f"{PART} {number + 1}" for number in range(len(own))), *names)
    bank = Bank(settings.directions, settings.code, form=settings.form, fixed=fixed, names=names, seed=settings.seed)
    losses = learn(settings, model, subject, latents, codes, bank, gap, out, within(progress, 0.7, 0.75))
    bank = bank.to(device)
    ranked: list[Attribute] = []
    kept = {}
    for place, question in enumerate(questions):
        chosen, _ = opposite(given.validation.images, subject, question, settings.ranked, device)
        found: dict[str, Effects] = {}
        for number, noise in enumerate(NOISES):
            how = settings.decoding(noise)
            done = (place + number / len(NOISES)) / len(questions)
            told = within(progress, 0.75 + 0.25 * done, 0.75 + 0.25 * (done + 1 / len(NOISES) / len(questions)))
            ready, _ = decoded(model, subject, chosen, question, how)
            found[noise] = effects(model, subject, bank, ready, question, settings.strength * gap, how, told)
            if noise == settings.noise:
                whole = measure.Judge(model, subject, bank, how)
                ranked += _ranked(found[noise], whole, ready, question, settings, gap)
        kept[key(question)] = {noise: _effects(one) for noise, one in found.items()}
    result = Attributes(model, bank, tuple(ranked), settings.decoding(), given.explains)
    save_attributes(out / FILE, result)
    write_json(out / EFFECTS, kept)
    return Found(result, use, gap, losses)


def within(progress: Progress, start: float, end: float) -> Progress:
    """Tells `progress` of a part of the work, which itself goes from 0 to 1, as what it is of the whole."""

    def told(done: float, **figures: float | str) -> None:
        progress(start + (end - start) * done, **figures)

    return told


def _numpy(values: Tensor) -> NDArray[Any]:
    return np.asarray(values.detach().cpu().numpy())


def _effects(found: Effects) -> Record:
    return {
        "probability": found.probability.mean(axis=0).tolist(),
        "evidence": found.evidence.mean(axis=0).tolist(),
        "flipped": found.crossed.mean(axis=0).tolist(),
        "images": len(found.crossed),
    }


def key(question: Question) -> str:
    """An answer as a key of JSON."""
    return f"{question.output}{'+' if question.holds else '-'}"


@torch.no_grad()
def encoded(
    model: SemanticAutoencoder, subject: Subject, images: Tensor, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, standardised codes and the classifier's logits of uint8 images."""
    found = []
    for part in images.split(64):
        seen = part.to(device).float() / 255
        latents, logits = model.latents(seen), subject.logits(seen)
        found.append((latents, model.code(latents, subject.probabilities(logits)), logits))
    latents, codes, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return latents, codes, logits


def opposite(
    images: Tensor, subject: Subject, question: Question, most: int, device: torch.device, *, least: int = LEAST
) -> tuple[Tensor, NDArray[np.int64]]:
    """The first images that are decided otherwise than asked, in [0, 1], and which of the uint8 ones they are.

    Raises:
        TrainingError: fewer than `least`.
    """
    places: list[int] = []
    with torch.no_grad():
        for start in range(0, len(images), 64):
            seen = images[start : start + 64].to(device).float() / 255
            other = ~subject.answers(subject.logits(seen), question)
            places += (start + other.nonzero()[:, 0]).tolist()
            if len(places) >= most:
                break
    places = places[:most]
    found = images[places].to(device).float() / 255
    if len(found) < least:
        raise TrainingError(
            f"{len(found)} images are decided otherwise than '{subject.named(question)}', and {least} are needed: give "
            "more images"
        )
    return found, np.array(places)


def decoded(
    model: SemanticAutoencoder, subject: Subject, images: Tensor, question: Question, how: Decoding
) -> tuple[Prepared, NDArray[np.bool_]]:
    """Images ready to be changed, without those that are decided as asked once they are decoded; and which stay.

    Raises:
        TrainingError: fewer than two stay: the autoencoder shows the classifier other images.
    """
    ready = prepare(model, subject, images, how)
    stay = ~subject.answers(ready.logits, question)
    if int(stay.sum()) < 2:  # noqa: PLR2004 - nothing to rank on
        raise TrainingError(
            f"{int(stay.sum())} of {len(images)} decoded images are still decided otherwise than "
            f"'{subject.named(question)}': the autoencoder does not show the classifier what it saw; train longer"
        )
    return ready.take(stay), np.asarray(stay.cpu().numpy())


def _ranked(
    found: Effects, judge: measure.Judge, given: Prepared, question: Question, settings: DiffexSettings, gap: float
) -> list[Attribute]:
    """The directions that AttFind chooses of the candidates, in its order."""
    length, kinds = settings.strength * gap, {"parts": (PART,), "learnt": (LEARNT,), "both": (PART, LEARNT)}
    among = np.repeat([name.startswith(kinds[settings.candidates]) for name in judge.bank.names], 2)
    among &= found.probability.mean(axis=0) >= settings.least
    order = attfind(found.probability, settings.attributes, among=among)
    return [
        Attribute(
            name=f"{judge.subject.named(question)} {number + 1}",
            question=question,
            column=column,
            length=length,
            effect=float(found.probability[:, column].mean()),
            evidence=float(found.evidence[:, column].mean()),
            flipped=float(found.crossed[:, column].mean()),
            monotone=float(judge.column(given, question, column, length).monotone.mean()),
        )
        for number, column in enumerate(order)
    ]
