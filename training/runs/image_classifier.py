"""Train a plain classifier on any cohort: what the benchmark explains where no bundle is given.

One finding (sigmoid) or exclusive classes (softmax). Random affine, gamma and noise; optionally one step of
adversarial training (fast gradient sign, Wong et al. 2020, arXiv:2001.03994), which makes the classifier's evidence
larger than a fragile pattern. The best epoch by validation AUC is kept; the run resumes after its last whole epoch.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from explain_core import plugins
from explain_core.classifier import DecisionRule
from explain_core.engine import choose_device
from explain_core.geometry import AffineRange, draw_affine, warp
from training import checkpoints
from training.cohort import Cohort
from training.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassifierSettings:
    """Settings of one classifier.

    Attributes:
        architecture: a module of explain_core/classifiers.
        epochs, batch, learning_rate, weight_decay: AdamW with a one-cycle schedule.
        label_smoothing: targets are moved this far from 0 and 1.
        noise: standard deviation of the Gaussian noise added to training images.
        attack: largest change of a pixel in adversarial training, 0 for none.
        affine: the random transforms.
        device: "auto", "cpu" or "cuda[:n]".
    """

    seed: int = 0
    architecture: str = "resnet20"
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.03
    noise: float = 0.02
    attack: float = 0.0
    affine: AffineRange = field(default_factory=AffineRange)
    device: str = "auto"


def build(architecture: str, outputs: int) -> nn.Module:
    """An untrained classifier.

    Raises:
        LookupError: no such architecture.
    """
    network: nn.Module = plugins.load("explain_core.classifiers", architecture)(outputs)
    return network


def augment(images: Tensor, settings: ImageClassifierSettings, generator: torch.Generator) -> Tensor:
    """Random affine, gamma and noise: uint8 (N, 1, S, S) -> float in [0, 1]."""
    x = images.float() / 255
    count = len(x)
    x = warp(x, draw_affine(settings.affine, count, generator), padding="border")
    gamma = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * 0.15)
    x = x.clamp(1e-4, 1) ** gamma
    return (x + torch.randn(x.shape, generator=generator) * settings.noise).clamp_(0, 1)


def loss_of(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of one sigmoid output, shape (N, 1), or of exclusive classes, shape (N, outputs)."""
    if logits.shape[1] == 1:
        smooth = targets.float() * (1 - 2 * smoothing) + smoothing
        return functional.binary_cross_entropy_with_logits(logits[:, 0], smooth)
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def attacked(x: Tensor, gradient: Callable[[Tensor], Tensor], size: float) -> Tensor:
    """Images moved from a random start by one signed gradient step, at most `size` a pixel."""
    delta = torch.empty_like(x).uniform_(-size, size)
    step = gradient((x + delta).clamp(0, 1)).sign() * 1.25 * size
    return (x + (delta + step).clamp(-size, size)).clamp(0, 1)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Logits, float32 on the CPU, shape (N, outputs), of uint8 images in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(chunk.to(device).float() / 255).float().cpu() for chunk in images.split(batch)])


def auc(targets: np.ndarray[tuple[int], np.dtype[np.int64]], logits: Tensor) -> float:
    """ROC AUC of one output; the mean of one class against the rest for exclusive classes."""
    if logits.shape[1] == 1:
        return float(roc_auc_score(targets, logits[:, 0].numpy()))
    return float(roc_auc_score(targets, DecisionRule(exclusive=True).probabilities(logits).numpy(), multi_class="ovr"))


def fingerprint_of(images: Cohort) -> str:
    """What tells one set of labelled images from another."""
    return checkpoints.fingerprint(images.images, images.targets)


def settings_of(folder: Path, training: Cohort) -> ImageClassifierSettings:
    """The settings of the run in `folder`.

    Raises:
        TrainingError: there is no such run, or it saw other training images, which may be test images here.
    """
    path = folder / "classifier.json"
    if not path.is_file() or not (folder / "classifier.pt").is_file():
        raise TrainingError(f"{folder}: no classifier.json and classifier.pt of training.runs.image_classifier")
    made = json.loads(path.read_text())
    if made.get("data") != fingerprint_of(training):
        raise TrainingError(f"{folder}: trained on other images, which may be among those tested here")
    affine = AffineRange(**made["settings"].pop("affine"))
    return ImageClassifierSettings(**made["settings"], affine=affine)


def train(
    settings: ImageClassifierSettings, training: Cohort, validation: Cohort, out: Path, initial: Path | None = None
) -> nn.Module:
    """Train to `settings.epochs`, resuming from `out`/checkpoint.pt; the best epoch lies in `out`/classifier.pt.

    Args:
        settings: of the run.
        training: labelled images to learn from.
        validation: labelled images that choose the epoch.
        out: an existing folder.
        initial: weights to start from.

    Raises:
        TrainingError: a split lacks a class or is smaller than a batch, a loss is not finite, or the checkpoint is
            another run's.
    """
    for name, images in (("training", training), ("validation", validation)):
        if len(np.unique(images.targets)) < len(images.classes):
            raise TrainingError(f"the {name} split of {len(images)} images lacks a class; give more patients")
    if len(training) < settings.batch:
        raise TrainingError(f"{len(training)} training images are fewer than one batch of {settings.batch}")
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)
    model = build(settings.architecture, training.outputs).to(device).to(memory_format=torch.channels_last)
    if initial is not None:
        model.load_state_dict(torch.load(initial, weights_only=True, map_location="cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * (len(training) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, max(steps, 10), pct_start=0.2)
    checkpoint, history = out / "checkpoint.pt", []
    mark = checkpoints.fingerprint(replace(settings, device=""), fingerprint_of(training), fingerprint_of(validation))
    state = checkpoints.load(checkpoint, mark, device)
    if state is not None:
        parts: tuple[Any, ...] = (model, optimiser, schedule)
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        history = state["history"]
    for epoch in range(len(history), settings.epochs):
        began = time.monotonic()
        loss = _epoch(model, training, optimiser, schedule, settings, epoch)
        row = {
            "epoch": epoch,
            "loss": loss,
            "validation_auc": auc(validation.targets, predict(model, validation.images)),
        }
        row["images_per_second"] = round(len(training) / (time.monotonic() - began), 1)
        if row["validation_auc"] > max((r["validation_auc"] for r in history), default=-1.0):
            torch.save(model.state_dict(), out / "classifier.new")
            (out / "classifier.new").replace(out / "classifier.pt")
        history.append(row)
        print(json.dumps(row), flush=True)
        states = [part.state_dict() for part in (model, optimiser, schedule)]
        checkpoints.save(checkpoint, {"parts": states, "history": history}, mark)
    made = {"settings": asdict(settings), "data": fingerprint_of(training), "history": history}
    checkpoints.write(out / "classifier.json", json.dumps(made, indent=1))
    model.load_state_dict(torch.load(out / "classifier.pt", weights_only=True, map_location=device))
    return model.eval()


def _epoch(
    model: nn.Module,
    training: Cohort,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    settings: ImageClassifierSettings,
    epoch: int,
) -> float:
    """One pass over the training images; returns the mean loss."""
    generator = torch.Generator().manual_seed(settings.seed * 1000 + epoch)
    device = next(model.parameters()).device
    targets = torch.from_numpy(training.targets)
    model.train()
    losses: list[float] = []
    for index in torch.randperm(len(training), generator=generator).split(settings.batch):
        if len(index) < settings.batch:
            break
        x = (
            augment(training.images[index], settings, generator)
            .to(device)
            .contiguous(memory_format=torch.channels_last)
        )
        y = targets[index].to(device)

        def gradient(images: Tensor, y: Tensor = y) -> Tensor:
            images = images.detach().requires_grad_()
            return torch.autograd.grad(loss_of(model(images), y, settings.label_smoothing), images)[0]

        if settings.attack:
            x = attacked(x, gradient, settings.attack)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(x)
        loss = loss_of(logits.float(), y, settings.label_smoothing)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"epoch {epoch}, step {len(losses) + 1}: the cross-entropy is not finite; lower the learning rate"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)
