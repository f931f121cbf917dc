"""Train a classifier on any cohort: from nothing for the benchmark, from a champion's weights for a retraining.

One finding (sigmoid) or exclusive classes (softmax). Random affine, gamma and noise; optionally one step of
adversarial training (fast gradient sign, Wong et al. 2020, arXiv:2001.03994), which makes the classifier's evidence
larger than a fragile pattern. The best epoch by validation AUC is kept. The run resumes from its last checkpoint, in
the middle of an epoch too, and ends as if it had never stopped. Lightning Fabric runs it on a CPU, a GPU, or in the
processes that torchrun started; those take the very steps of one (`processes.py`).
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
from explain_core.classifier import DecisionRule, offers, unwrapped
from explain_core.files import fresh, write
from explain_core.geometry import AffineRange, draw_affine, warp
from training import checkpoints
from training.cohort import Cohort
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs.evidence_targets import POSITIVE, map_loss, maps_known
from training.runs.processes import Batch, batch_norms, share_dropout, start, summed, tell, with_statistics_of_all
from training.runs.weights import Initial, start_from


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassifierSettings:
    """Settings of one classifier.

    Attributes:
        architecture: a module of explain_core/classifiers.
        epochs, batch, learning_rate, weight_decay: AdamW with a one-cycle schedule; processes divide the batch.
        label_smoothing: targets are moved this far from 0 and 1.
        noise: largest standard deviation of the Gaussian noise on training images, drawn from [0, noise] for each.
        map_weight: of the loss of the maps that a classifier decides by, where images have boxes; 0 for none.
        attack: largest change of a pixel in adversarial training, 0 for none.
        affine: the random transforms.
        device: "auto", "cpu" or "cuda[:n]".
        precision: "auto" (bfloat16 where the processor computes in it), "32-true", "bf16-mixed", or "64-true", in which
            runs compare digit by digit: in float32 the rounding of one processor's kernels grows over the steps.
        frozen_statistics: whether batch norm keeps the statistics it starts with, as in fine-tuning on few images.
        average_decay: of the moving average of the weights, per step; it is what is kept then; 0 for none.
        checkpoint_every: steps between checkpoints, besides the one at the end of each epoch; 0 for none.
    """

    seed: int = 0
    architecture: str = "resnet20"
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.03
    noise: float = 0.02
    map_weight: float = 1.0
    attack: float = 0.0
    affine: AffineRange = field(default_factory=AffineRange)
    device: str = "auto"
    precision: str = "auto"
    frozen_statistics: bool = False
    average_decay: float = 0.0
    checkpoint_every: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the images, the weights and the loss."""
        return torch.float64 if self.precision == "64-true" else torch.float32


def build(architecture: str, outputs: int) -> nn.Module:
    """An untrained classifier.

    Raises:
        UnknownName: no such architecture.
    """
    network: nn.Module = plugins.load("explain_core.classifiers", architecture)(outputs)
    return network


def trained(folder: Path, architecture: str, outputs: int) -> nn.Module:
    """The classifier that a run left in `folder`/classifier.pt, on the CPU, in training mode."""
    network = build(architecture, outputs)
    network.load_state_dict(torch.load(folder / "classifier.pt", weights_only=True, map_location="cpu"))
    return network


def augment(
    images: Tensor, settings: ImageClassifierSettings, generator: torch.Generator, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Random affine, gamma and noise: uint8 (N, 1, S, S) -> float in [0, 1]; drawn for all, made for `part`.

    Returns:
        the images, and the transforms that moved them, shape (N, 3, 3).
    """
    count = len(images)
    matrices = draw_affine(settings.affine, count, generator)
    gamma = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * 0.15)
    strength = torch.rand(count, 1, 1, 1, generator=generator) * settings.noise
    noise = torch.randn(images.shape, generator=generator) * strength
    x = warp(images[part].to(settings.dtype) / 255, matrices[part].to(settings.dtype), padding="border")
    x = x.clamp(1e-4, 1) ** gamma[part]
    return (x + noise[part]).clamp_(0, 1), matrices[part]


def loss_of(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of one sigmoid output, shape (N, 1), or of exclusive classes, shape (N, outputs)."""
    if logits.shape[1] == 1:
        smooth = targets.to(logits.dtype) * (1 - 2 * smoothing) + smoothing
        return functional.binary_cross_entropy_with_logits(logits[:, 0], smooth)
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def attacked(x: Tensor, gradient: Callable[[Tensor], Tensor], size: float, drawn: Tensor | None = None) -> Tensor:
    """Images moved from a random start by one signed gradient step, at most `size` a pixel.

    Args:
        x: images in [0, 1].
        gradient: of the loss by the images.
        size: the largest change.
        drawn: where to start, uniform in [0, 1) like `x`; None to draw it.
    """
    delta = ((torch.rand_like(x) if drawn is None else drawn) * 2 - 1) * size
    step = gradient((x + delta).clamp(0, 1)).sign() * 1.25 * size
    return (x + (delta + step).clamp(-size, size)).clamp(0, 1)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Logits, float32 on the CPU, shape (N, outputs), of uint8 images in eval mode."""
    model.eval()
    kind = next(model.parameters())
    return torch.cat([model(chunk.to(kind) / 255).float().cpu() for chunk in images.split(batch)])


def auc(targets: np.ndarray[tuple[int], np.dtype[np.int64]], logits: Tensor) -> float:
    """ROC AUC of one output; the mean of one class against the rest for exclusive classes."""
    if logits.shape[1] == 1:
        return float(roc_auc_score(targets, logits[:, 0].numpy()))
    return float(roc_auc_score(targets, DecisionRule(exclusive=True).probabilities(logits).numpy(), multi_class="ovr"))


def fingerprint_of(images: Cohort) -> str:
    """What tells one set of labelled images from another."""
    marked = [np.packbits(truth) for truth in images.truths if truth is not None]
    return checkpoints.fingerprint(images.images, images.targets, *marked)


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
    settings: ImageClassifierSettings,
    training: Cohort,
    validation: Cohort,
    out: Path,
    initial: Initial | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """Train to `settings.epochs`, resuming from `out`/checkpoint.pt; the best epoch lies in `out`/classifier.pt.

    Args:
        settings: of the run.
        training: labelled images to learn from.
        validation: labelled images that choose the epoch.
        out: an existing folder; only the first process writes there, all of them read.
        initial: weights to start from; see `weights.start_from`.
        progress: told after every step: epoch, step, loss, validation_auc of the last epoch.

    Returns:
        the best epoch's classifier on the run's device, in eval mode.

    Raises:
        TrainingError: a split lacks a class or is smaller than a batch, a loss is not finite, the weights to start
            from do not fit, or the checkpoint is another run's.
        Cancelled: by `progress`; the last checkpoint stays.
    """
    _check(settings, training, validation)
    run = _Run(settings, training, validation, out, initial)
    history = run.resume()
    for epoch in range(len(history), settings.epochs):
        began = time.monotonic()
        loss = run.epoch(epoch, history, progress)
        logits = run.validate()
        row: dict[str, float] = {"epoch": epoch, "loss": loss, "validation_auc": auc(validation.targets, logits)}
        row["validation_loss"] = float(loss_of(logits, torch.from_numpy(validation.targets), 0.0))
        row["images_per_second"] = round(len(training) / (time.monotonic() - began), 1)
        if row["validation_auc"] > max((r["validation_auc"] for r in history), default=-1.0):
            run.keep()
        history.append(row)
        run.save(history)
        if run.first:
            print(json.dumps(row), flush=True)
        tell(run.fabric, progress, (epoch + 1) / settings.epochs, **row)
    run.finish(history)
    best = trained(out, settings.architecture, training.outputs)
    return best.to(run.fabric.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def _check(settings: ImageClassifierSettings, training: Cohort, validation: Cohort) -> None:
    for name, images in (("training", training), ("validation", validation)):
        if len(np.unique(images.targets)) < len(images.classes):
            raise TrainingError(f"the {name} split of {len(images)} images lacks a class; give more patients")
    if len(training) < settings.batch:
        raise TrainingError(f"{len(training)} training images are fewer than one batch of {settings.batch}")


class _Run:
    """The parts of one training in this process."""

    def __init__(
        self,
        settings: ImageClassifierSettings,
        training: Cohort,
        validation: Cohort,
        out: Path,
        initial: Initial | None,
    ) -> None:
        self.settings, self.training, self.validation, self.out = settings, training, validation, out
        self.fabric = start(settings.device, settings.precision)
        processes = self.fabric.world_size
        if settings.batch < processes:
            raise TrainingError(f"a batch of {settings.batch} has no image for each of {processes} processes")
        torch.manual_seed(settings.seed)
        network = build(settings.architecture, training.outputs)
        ways = replace(settings, device="", checkpoint_every=0)  # what may differ when a run goes on
        marks: list[Any] = [ways, fingerprint_of(training), fingerprint_of(validation)]
        if initial is not None:
            start_from(network, initial)
            marks.append(checkpoints.fingerprint(network))
        self.mark = checkpoints.fingerprint(*marks)
        self._set_up(network)
        self.step, self.losses = 0, list[float]()

    def _set_up(self, network: nn.Module) -> None:
        settings = self.settings
        self.batch = Batch(settings.batch, self.fabric.global_rank, self.fabric.world_size)
        self.average: nn.Module | None = None
        network = network.to(self.fabric.device, settings.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.average_decay:
            decay = torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average_decay)
            self.average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
        network = with_statistics_of_all(network, self.fabric, frozen=settings.frozen_statistics)
        share_dropout(network, self.batch)
        self.network = network
        self.maps: list[Tensor] = []
        self.known = maps_known(self.training)
        marked = not self.training.exclusive and any(one is not None for one in self.training.truths)
        if settings.map_weight and marked and offers(network, "evidence"):
            unwrapped(network).evidence_layer.register_forward_hook(
                lambda _module, _inputs, made: self.maps.append(made)
            )
        self.optimiser = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.steps = len(self.training) // settings.batch
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.learning_rate, max(settings.epochs * self.steps, 10), pct_start=0.2
        )
        self.model, self.stepper = self.fabric.setup(network, self.optimiser)

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.fabric.is_global_zero

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def _parts(self) -> list[Any]:
        return [self.network, self.optimiser, self.schedule, *([self.average] if self.average is not None else [])]

    def resume(self) -> list[dict[str, float]]:
        """Go on from the checkpoint; returns the epochs that are done."""
        state = checkpoints.load(self.out / "checkpoint.pt", self.mark, self.fabric.device)
        if state is None:
            return []
        for part, saved in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step, self.losses = state["step"], state["losses"]
        self.batch.generator.set_state(state["generator"].cpu())
        rows: list[dict[str, float]] = state["history"]
        return rows

    def save(self, history: list[dict[str, float]]) -> None:
        """Write the checkpoint, in the first process."""
        if self.first:
            state = {
                "parts": [part.state_dict() for part in self._parts()],
                "history": history,
                "step": self.step,
                "losses": self.losses,
                "generator": self.batch.generator.get_state(),
            }
            checkpoints.save(self.out / "checkpoint.pt", state, self.mark)

    def keep(self) -> None:
        """Write the weights as the best so far, in the first process."""
        if self.first:
            with fresh(self.out / "classifier.pt") as file:
                torch.save(self.kept.state_dict(), file)

    def finish(self, history: list[dict[str, float]]) -> None:
        """Write what was done, in the first process, and wait for each other."""
        if self.first:
            made = {"settings": asdict(self.settings), "data": fingerprint_of(self.training), "history": history}
            write(self.out / "classifier.json", json.dumps(made, indent=1))
        self.fabric.barrier()

    def validate(self) -> Tensor:
        """Logits of the validation images, shape (N, outputs), each process's part predicted by itself."""
        count = len(self.validation)
        rows = torch.arange(count).tensor_split(self.fabric.world_size)[self.fabric.global_rank]
        logits = torch.zeros(count, self.training.outputs)
        if len(rows):
            logits[rows] = predict(self.kept, self.validation.images[rows])
        return summed(self.fabric, logits).cpu()

    def epoch(self, epoch: int, history: list[dict[str, float]], progress: Progress) -> float:
        """One pass over the training images, or the rest of one; returns the mean loss of the whole."""
        settings, generator = self.settings, self.batch.generator
        resumed = generator.get_state() if self.step else None
        order = torch.randperm(len(self.training), generator=generator.manual_seed(settings.seed * 1000 + epoch))
        if resumed is not None:
            generator.set_state(resumed)
        self.model.train()
        if settings.frozen_statistics:
            for module in batch_norms(self.network):
                module.eval()
        known = {"validation_auc": history[-1]["validation_auc"]} if history else {}
        for index in order.split(settings.batch)[self.step : self.steps]:
            loss = self._learn(index)
            self.step += 1
            if not np.isfinite(loss):
                raise TrainingError(
                    f"epoch {epoch}, step {self.step}: the cross-entropy is not finite; lower the learning rate"
                )
            self.losses.append(loss)
            if settings.checkpoint_every and self.step % settings.checkpoint_every == 0 and self.step < self.steps:
                self.save(history)
            done = (epoch + self.step / self.steps) / settings.epochs
            tell(self.fabric, progress, done, epoch=epoch, step=self.step, loss=loss, **known)
        mean = sum(self.losses) / len(self.losses)
        self.step, self.losses = 0, []
        return mean

    def _learn(self, index: Tensor) -> float:
        """One step on the images at `index`; returns the loss of the whole batch."""
        settings, batch, device = self.settings, self.batch, self.fabric.device
        x, matrices = augment(self.training.images[index], settings, batch.generator, batch.part)
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        y = torch.from_numpy(self.training.targets)[index][batch.part].to(device)

        def gradient(images: Tensor) -> Tensor:
            images = images.detach().requires_grad_()
            return torch.autograd.grad(loss_of(self.network(images), y, settings.label_smoothing), images)[0]

        if settings.attack:
            x = attacked(x, gradient, settings.attack, batch.uniform(x.shape[1:]).to(device))
        self.maps.clear()
        loss = loss_of(self.model(x), y, settings.label_smoothing) * batch.share
        if self.maps:
            loss = loss + settings.map_weight * batch.share * self._map_loss(index[batch.part], matrices)
        whole = float(summed(self.fabric, loss.detach()))
        if np.isfinite(whole):
            self.stepper.zero_grad()
            self.fabric.backward(loss * self.fabric.world_size)  # gradients are averaged over the processes
            self.stepper.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.network)  # type: ignore[operator]
        return whole

    def _map_loss(self, index: Tensor, matrices: Tensor) -> Tensor:
        """Of the maps that the last pass made, for the images at `index`, moved by `matrices`; a mean over them."""
        maps = self.maps[-1][:, :1].to(self.settings.dtype)
        size = self.training.size
        truths = [self.training.truths[place] for place in index.tolist()]
        masks = [torch.zeros(size, size) if one is None else torch.from_numpy(one).float() for one in truths]
        cells = (maps.shape[-2], maps.shape[-1])
        covered = functional.adaptive_avg_pool2d(warp(torch.stack(masks)[:, None], matrices), cells)
        known = self.known[index][:, None]
        return map_loss(maps, covered.to(maps), known.to(maps), None, POSITIVE)
