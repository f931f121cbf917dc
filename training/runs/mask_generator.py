"""Train the mask generator of one output of a frozen classifier (arXiv:1705.07857, variant of arXiv:2012.07332).

The network learns to mark what must be replaced for the class to be lost (destroyer) and what alone
keeps it (preserver), as little and as smooth as possible. The best state by validation loss is kept; an interrupted
run resumes from its checkpoint exactly where it was.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from explain_core.blur import gaussian_blur
from explain_core.classifier import DecisionRule
from explain_core.generators.mask_generator import MaskGenerator, MaskWeights, blend, terms
from explain_core.geometry import AffineRange, draw_affine, warp
from training import checkpoints
from training.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSettings:
    """Settings of the mask generator's training.

    What replaces the masked part follows arXiv:1705.07857: for each image either its blurred version or a constant grey
    with noise. The authors' images span 4 units, ours 1, so their 0.11 and 0.66 are divided by 4.

    Attributes:
        seed: of weights, batches, transforms and replacements.
        filters: channels of the network per level; see `MaskGenerator`.
        weights: of the loss.
        area_warm_up: share of the steps over which the weight of the area grows from 0. The published power, 0.3, has a
            slope almost without bound at the empty mask: at full weight from the start, masks can become empty
            before the destroyer has found anything, and stay so. Not in the paper; 0 is without.
        steps, batch, learning_rate: Adam with a linear warm-up over at most 100 steps and a cosine decay.
        blur: standard deviation of the blurred version, a fraction of the image side; 20 pixels at 224 as in
            arXiv:2012.07332.
        blur_probability: of the blurred version; 1 is the variant of arXiv:2012.07332's authors.
        noise: standard deviation of the noise on the constant grey.
        grey_range: the grey is uniform in 0.5 plus or minus half of this.
        transforms: random affine transforms of the training images.
        bfloat16: whether both networks run in bfloat16 in training, where that is safe.
        report_every: steps between validations and checkpoints.
    """

    seed: int = 0
    filters: tuple[int, ...] = (16, 32, 64, 128)
    weights: MaskWeights = field(default_factory=MaskWeights)
    area_warm_up: float = 0.5
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    blur: float = 20 / 224
    blur_probability: float = 0.5
    noise: float = 0.11 / 4
    grey_range: float = 0.66 / 4
    transforms: AffineRange = field(default_factory=AffineRange)
    bfloat16: bool = True
    report_every: int = 200


def alternatives(images: Tensor, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """What replaces the masked part of images in [0, 1], shape (N, 1, S, S); of that shape."""
    count = len(images)
    blurred = torch.rand(count, 1, 1, 1, generator=generator) < settings.blur_probability
    grey = 0.5 + settings.grey_range * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    plain = (grey + settings.noise * torch.randn(images.shape, generator=generator)).to(images.device)
    return torch.where(blurred.to(images.device), gaussian_blur(images, settings.blur * images.shape[-1]), plain)


@dataclass(frozen=True, slots=True)
class Task:
    """What is explained: one output of a frozen classifier on its device, and how its logits become a decision."""

    classifier: nn.Module
    rule: DecisionRule
    output: int

    @property
    def device(self) -> torch.device:
        """Where the classifier is, and so where everything runs."""
        return next(self.classifier.parameters()).device

    def margin(self, images: Tensor) -> Tensor:
        """f_c - f_other of images, shape (N, 1, S, S), float32, shape (N,)."""
        logits = self.classifier(images.contiguous(memory_format=torch.channels_last)).float()
        return self.rule.margin(logits, torch.full((len(images),), self.output, device=images.device))


def measure(
    network: MaskGenerator, x: Tensor, task: Task, settings: MaskSettings, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms of the loss for a batch, shape (N, 1, S, S), and figures about its masks.

    Returns:
        The weighted terms; and the mean mask, the share of decided images that lose the class (destroyed) and that
        keep it (preserved), with their number (decided).
    """
    with torch.no_grad():
        decided = task.margin(x) >= 0
    mask = network(x.contiguous(memory_format=torch.channels_last)).float()
    other = alternatives(x, settings, generator)
    without, only = task.margin(torch.cat([blend(x, mask, other), blend(x, 1 - mask, other)])).chunk(2)
    figures = {
        "mask": mask.detach().mean(),
        "destroyed": ((without.detach() < 0) & decided).sum(),
        "preserved": ((only.detach() >= 0) & decided).sum(),
        "decided": decided.sum(),
    }
    return terms(mask, without, only, decided, settings.weights), figures


def require_finite(losses: dict[str, Tensor], step: int) -> None:
    """Stop where a term of the loss is no number.

    Raises:
        TrainingError: naming the step and the term.
    """
    for name, value in losses.items():
        if not bool(torch.isfinite(value)):
            found = float(value.detach())
            raise TrainingError(f"step {step}: the loss term {name} is {found}; lower the learning rate")


@torch.no_grad()
def validate(network: MaskGenerator, images: Tensor, task: Task, settings: MaskSettings, step: int) -> dict[str, float]:
    """Mean terms, their sum, and figures over uint8 validation images; the same replacements at every call."""
    network.eval()
    generator = torch.Generator().manual_seed(settings.seed)
    sums: dict[str, float] = {}
    for chunk in images.split(32):
        losses, figures = measure(network, chunk.to(task.device).float() / 255, task, settings, generator)
        require_finite(losses, step)
        for name, value in (losses | {"mask": figures["mask"]}).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(chunk) / len(images)
        for name in ("destroyed", "preserved", "decided"):
            sums[name] = sums.get(name, 0.0) + float(figures[name])
    network.train()
    decided = max(sums.pop("decided"), 1.0)
    loss = sum(sums[name] for name in losses)
    shares = {name: sums.pop(name) / decided for name in ("destroyed", "preserved")}
    return {"validation_loss": loss} | {f"validation_{name}": value for name, value in (sums | shares).items()}


@torch.no_grad()
def balanced_odds(images: Tensor, task: Task) -> Tensor:
    """Sampling odds, shape (N,), with which images with and without the class are equally frequent."""
    decided = torch.cat([task.margin(c.to(task.device).float() / 255).cpu() >= 0 for c in images.split(64)])
    share = decided.float().mean().clamp(0.05, 0.95)
    return torch.where(decided, 1 / share, 1 / (1 - share))


def rate_at(step: int, settings: MaskSettings) -> float:
    """Learning rate of a step counted from 0: a linear warm-up, then half a cosine down to nothing."""
    warm = min(100, settings.steps // 10 + 1)
    rise = min((step + 1) / warm, 1.0)
    return settings.learning_rate * rise * (1 + math.cos(math.pi * step / settings.steps)) / 2


def weights_at(step: int, settings: MaskSettings) -> MaskWeights:
    """The weights of a step counted from 0; only that of the area changes."""
    grown = min(step / max(settings.area_warm_up * settings.steps, 1), 1.0) if settings.area_warm_up else 1.0
    return replace(settings.weights, area=grown * settings.weights.area)


@dataclass(slots=True)
class Run:
    """A training run as its checkpoint holds it: weights, optimiser, random numbers and what was measured."""

    network: MaskGenerator
    optimiser: torch.optim.Adam
    generator: torch.Generator
    settings: MaskSettings
    out: Path
    mark: str
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.out / "checkpoint.pt"

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one.

        Raises:
            TrainingError: it was made with other settings, data or classifier.
        """
        state = checkpoints.load(self.checkpoint, self.mark, torch.device("cpu"))
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step, self.history = state["step"], state["history"]
        print(json.dumps({"resuming_at_step": self.step}), flush=True)

    def report(self, row: dict[str, float]) -> None:
        """Keep a row, the best state by validation loss and the checkpoint."""
        best = min((past["validation_loss"] for past in self.history), default=math.inf)
        self.history.append(row)
        print(json.dumps(row), flush=True)
        if row["validation_loss"] < best:
            checkpoints.save(self.out / "mask_generator.pt", {"network": self.network.state_dict()}, self.mark)
        (self.out / "history.jsonl").write_text("".join(json.dumps(past) + "\n" for past in self.history))
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "history": self.history,
        }
        checkpoints.save(self.checkpoint, state, self.mark)


def start(settings: MaskSettings, device: torch.device, out: Path, mark: str) -> Run:
    """A run at step 0; the global random state is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = MaskGenerator(settings.filters)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate)
    return Run(network, optimiser, torch.Generator().manual_seed(settings.seed), settings, out, mark)


def train(
    settings: MaskSettings,
    training: Tensor,
    validation: Tensor,
    classifier: nn.Module,
    rule: DecisionRule,
    output: int,
    out: Path,
) -> MaskGenerator:
    """Train to `settings.steps`, resuming from `out`/checkpoint.pt.

    Args:
        settings: of the run; a checkpoint with other settings is refused.
        training: images, uint8, shape (N, 1, S, S).
        validation: other images of that shape; they choose the state that is kept.
        classifier: in eval mode, frozen; everything runs on its device.
        rule: how its logits become a decision.
        output: the class whose evidence is masked.
        out: an existing folder; mask_generator.pt (the best state), mask_generator.json (the settings), history.jsonl
            and checkpoint.pt are written there.

    Returns:
        The best network by validation loss, in eval mode and frozen.

    Raises:
        TrainingError: there are no images, a term of the loss is no number, or the checkpoint is another run's.
    """
    if not len(training) or not len(validation):
        raise TrainingError(f"{len(training)} training and {len(validation)} validation images: both are needed")
    task = Task(classifier, rule, output)
    run = start(settings, task.device, out, checkpoints.fingerprint(settings, rule, output, classifier, training))
    run.resume()
    (out / "mask_generator.json").write_text(json.dumps(asdict(settings) | {"explained": output}, indent=1))
    odds = balanced_odds(training, task)
    began, first = time.monotonic(), run.step
    while run.step < settings.steps:
        losses = improve(run, training, odds, task)
        if run.step % settings.report_every == 0 or run.step == settings.steps:
            speed = (run.step - first) * settings.batch / (time.monotonic() - began)
            row = {"step": run.step, "loss": float(sum(losses.values())), "images_per_second": round(speed, 1)}
            run.report(row | validate(run.network, validation, task, settings, run.step))
    best = torch.load(out / "mask_generator.pt", weights_only=True, map_location=task.device)
    run.network.load_state_dict(best["network"])
    return run.network.eval().requires_grad_(requires_grad=False)


def improve(run: Run, training: Tensor, odds: Tensor, task: Task) -> dict[str, float]:
    """One step of the optimiser on a random batch; the terms of its loss.

    Raises:
        TrainingError: a term is no number.
    """
    settings, generator = run.settings, run.generator
    index = torch.multinomial(odds, settings.batch, replacement=True, generator=generator)
    x = training[index].float() / 255
    x = warp(x, draw_affine(settings.transforms, len(x), generator), padding="border").clamp_(0, 1).to(task.device)
    with torch.autocast(task.device.type, torch.bfloat16, enabled=settings.bfloat16):
        losses, _ = measure(run.network, x, task, replace(settings, weights=weights_at(run.step, settings)), generator)
    require_finite(losses, run.step + 1)
    for group in run.optimiser.param_groups:
        group["lr"] = rate_at(run.step, settings)
    run.optimiser.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimiser.step()
    run.step += 1
    return {name: float(value.detach()) for name, value in losses.items()}
