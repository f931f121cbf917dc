"""Measure by what an image was drawn: a network that reads the factors of drawn images off them.

It never sees what is explained, nor the model that explains; how well it reads is stated beside what it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain_core.classifiers.resnet20 import ResNet20
from explain_core.diffex.subject import Question, Subject
from explain_core.geometry import InputSpec
from training import checkpoints
from training.cohort import Cohort
from training.datasets.loading import load_inputs
from training.datasets.samples import Factor, Redraw
from training.errors import TrainingError

BATCH, EPOCHS, RATE = 64, 15, 3e-3


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads factors.

    Attributes:
        factors: what is read, in order.
        network: images in [0, 1], shape (N, 1, S, S) -> factors, -1 to 1 where they were drawn, shape (N, F).
        explained: part of each factor's variance that it reads off held-out images (R squared), shape (F,).
    """

    factors: tuple[Factor, ...]
    network: nn.Module
    explained: NDArray[np.float64]

    @torch.no_grad()
    def read(self, images: Tensor) -> NDArray[np.float64]:
        """Factors of images in [0, 1], shape (N, 1, S, S): shape (N, F)."""
        parts = [self.network(part.cpu()) for part in images.split(BATCH)]
        return np.asarray(torch.cat(parts).double().numpy())


def meter(
    training: Cohort, held_out: Cohort, factors: tuple[Factor, ...], out: Path, *, seed: int = 0, epochs: int = EPOCHS
) -> Meter:
    """Train a meter, or take the one that an earlier call left in `out`.

    Args:
        training: drawn images with their factors.
        held_out: others, on which it is judged.
        factors: names in the order of the cohorts' columns.
        out: folder for its weights, which is there.
        seed: of its weights and batches.
        epochs: of the training.

    Raises:
        TrainingError: the images were not drawn by these factors, or the folder is another run's.
    """
    if not factors or training.factors.shape[1] != len(factors):
        raise TrainingError("a meter needs images that were drawn by known factors")
    mark = checkpoints.fingerprint(training.images[:1], training.factors, (seed, epochs))
    state = checkpoints.load(out / "meter.pt", mark, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet20(len(factors))
        if state is None:
            _train(network, training, epochs)
            checkpoints.save(out / "meter.pt", {"network": network.state_dict()}, mark)
        else:
            network.load_state_dict(state["network"])
    found = Meter(factors, network.eval(), np.zeros(len(factors)))
    error = (found.read(held_out.images.float() / 255) - held_out.factors) ** 2
    return Meter(factors, found.network, 1 - error.mean(axis=0) / held_out.factors.var(axis=0))


@torch.no_grad()
def true_effects(
    subject: Subject,
    question: Question,
    patients: Sequence[str],
    factors: Sequence[Factor],
    redraw: Redraw,
    size: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """What each factor does to drawn images that are decided otherwise, drawn anew with it at either end.

    It asks no model but the classifier: what a ranking of attributes has to agree with.

    Args:
        subject: the classifier.
        question: the answer in question.
        patients: the images' own; those that are decided so already are left out.
        factors: by which they were drawn, from -1 to 1.
        redraw: see `Dataset`.
        size: rows and columns of the images in pixels.
        device: where the classifier runs.

    Returns:
        for each factor, the strongest first: "to" (the end that does more), "probability" (mean change of the
        answer's probability) and "crossed" (part of the images that are turned).
    """

    def logits(changes: Mapping[str, float]) -> Tensor:
        images = load_inputs([redraw(patient, changes) for patient in patients], InputSpec(size=size))
        return torch.cat([subject.logits(part.to(device).float() / 255) for part in images.split(BATCH)])

    plain = logits({})
    other = ~subject.answers(plain, question)
    found = {}
    for factor in factors:
        ends = []
        for end in (-1.0, 1.0):
            moved = logits({factor.name: end})
            change = subject.probability(moved, question) - subject.probability(plain, question)
            crossed = subject.answers(moved, question)[other].double().mean()
            ends.append({"to": end, "probability": float(change[other].double().mean()), "crossed": float(crossed)})
        found[factor.name] = max(ends, key=lambda one: one["probability"])
    return dict(sorted(found.items(), key=lambda one: -one[1]["probability"]))


def _train(network: nn.Module, training: Cohort, epochs: int) -> None:
    images, targets = training.images, torch.from_numpy(training.factors)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            seen = images[rows].float() / 255
            noisy = (seen + torch.randn_like(seen) * 0.03 * torch.rand(len(rows), 1, 1, 1)).clamp(0, 1)
            loss = (network(noisy) - targets[rows]).pow(2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
