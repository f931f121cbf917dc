"""Train the generators of similar and adversarial images against a frozen classifier.

Equations (5) to (10) of arXiv:2012.07332 with every weight a named setting. One optimiser step moves both generators.
The run resumes from its checkpoint and keeps its last state; the learning rate has decayed to nothing by then. Test
patients are never opened here.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from explain_core.blur import BLUR, gaussian_blur
from explain_core.classifier import Classifier, DecisionRule, look
from explain_core.engine import choose_device
from explain_core.files import write
from explain_core.generators.features import KIND
from explain_core.generators.kinds import Generators, build, seen_by
from explain_core.generators.similar_adversarial import Kind, Output
from explain_core.geometry import AffineRange, draw_affine, warp
from explain_core.losses import (
    LossWeights,
    decision,
    exclusive_decision,
    generator_distance,
    similarity,
    total_variation,
)
from explain_core.quality.localisation import Mask, iou_at_percentiles
from explain_core.quality.similarity import psnr
from training import checkpoints, presets
from training.errors import TrainingError
from training.progress import Progress, silent

STILL = AffineRange(degrees=0.0, height_shift=0.0, width_shift=0.0, zoom=0.0, horizontal_flip=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """Settings of the generators' training, all recorded in the model card.

    Attributes:
        kind: "single", "duo" or "naive" on pixels (`SimilarAdversarial`), or "features" (`FeatureGenerators`).
        filters, head_layers, output, dropout: the architecture on pixels.
        channels, evidence, width, gated: the architecture on features; `fitted` fills in the first two.
        stride: of the finest features that are read, which is the differences' own.
        decisions: heads for each decision of the classifier.
        weights: the loss weights of equations (6) to (10).
        objective: "bce" for equation (7), "margin" for equation (10); exclusive classes always take the margin.
        target: the classifier's output that is explained; not used for exclusive classes.
        rule: how the classifier's logits become its decision.
        sharpness: what the distance of a logit from the threshold is multiplied by in equation (7).
        similar_share: the share of each batch whose x_s the classifier decides about.
        steps, batch, learning_rate: Adam with a linear warm-up and a cosine decay over `steps`.
        warm_up: steps of the warm-up.
        reconstruction_steps: so many of the steps come first without the decision's term: a plain output must learn
            to draw the image before an attack can pay.
        decision_noise: largest standard deviation of the Gaussian noise that the classifier sees on x_s and x_a in
            training, drawn from [0, decision_noise] for each image, so that a decision must change by more than a
            fragile pattern.
        decision_affine: how x_s and x_a are moved before the classifier sees them, for the same reason.
        report_every: steps between validations and checkpoints.
        device: "auto", "cpu" or "cuda[:n]"; precision is bfloat16 where that is safe.
    """

    seed: int = 0
    filters: tuple[int, ...] = (16, 32, 64, 128)
    kind: Kind | Literal["features"] = "single"
    head_layers: int = 2
    output: Output = "identity"
    channels: tuple[int, ...] = ()
    evidence: bool = False
    width: int = 48
    gated: bool = True
    stride: int = 8
    decisions: int = 2
    dropout: float = 0.0
    weights: LossWeights = field(default_factory=LossWeights)
    objective: str = "bce"
    target: int = 0
    rule: DecisionRule = field(default_factory=DecisionRule)
    sharpness: float = 1.0
    similar_share: float = 1.0
    steps: int = 3000
    warm_up: int = 100
    reconstruction_steps: int = 0
    batch: int = 8
    learning_rate: float = 1e-3
    decision_noise: float = 0.01
    decision_affine: AffineRange = STILL
    report_every: int = 200
    device: str = "auto"

    def network(self) -> Generators:
        """Untrained generators of this architecture."""
        return build(asdict(self))

    def fitted(self, classifier: nn.Module, size: int) -> "GeneratorSettings":
        """With the channels of a classifier's features and whether it decides by maps, for generators that read them.

        Raises:
            FeaturesNeeded: the classifier offers none.
        """
        if self.kind != KIND:
            return self
        device = next(classifier.parameters()).device
        with torch.no_grad():
            seen = look(classifier, torch.full((1, 1, size, size), 0.5, device=device))
        read = [one.shape[1] for one in seen.features if round(size / one.shape[-1]) >= self.stride]
        return replace(self, channels=tuple(read), evidence=seen.evidence is not None)

    def decide(self, logits: Tensor) -> Tensor:
        """y(x), int64, shape (N,), of logits, shape (N, outputs)."""
        return self.rule.decide(logits, torch.full((len(logits),), self.target, device=logits.device))


def from_preset(settings: GeneratorSettings, name: str) -> GeneratorSettings:
    """`settings` with the architecture, the loss weights and whatever else a preset says.

    Raises:
        UnknownName: no such preset.
    """
    preset = presets.load(name)
    made = replace(settings, kind=preset.kind, head_layers=preset.head_layers, weights=preset.weights)
    return replace(made, **preset.settings)


def leaky_clip(images: Tensor, slope: float = 0.01) -> Tensor:
    """Images clipped to [0, 1] but for a small slope outside.

    A clip has no gradient there: a plain output that starts below 0 everywhere would stay there for ever.
    """
    inside = images.clamp(0, 1)
    return inside + slope * (images - inside)


def perturbed(images: Tensor, settings: GeneratorSettings, generator: torch.Generator) -> Tensor:
    """What the classifier sees of generated images in training: moved a little, and with noise."""
    matrices = draw_affine(settings.decision_affine, len(images), generator).to(images.device)
    if settings.decision_affine != STILL:
        images = warp(images, matrices, padding="border")
    strength = torch.rand(len(images), 1, 1, 1, generator=generator) * settings.decision_noise
    noise = torch.randn(images.shape, generator=generator) * strength
    return (images + noise.to(images.device)).contiguous(memory_format=torch.channels_last)


def decision_loss(logits_s: Tensor, logits_a: Tensor, y: Tensor, settings: GeneratorSettings) -> Tensor:
    """L_cls: equation (10) over exclusive classes, else (7) or (10) on the one output that is explained.

    Equation (10) on one output takes its logit above the threshold and 0 as the two classes' logits.

    Args:
        logits_s: of the first M images' x_s, shape (M, outputs).
        logits_a: of x_a, shape (N, outputs).
        y: the decisions about x, int64, shape (N,).
        settings: target, rule, sharpness, objective and weights are used.
    """
    if settings.rule.exclusive:
        return exclusive_decision(logits_s, logits_a, y, settings.weights)
    target = torch.full_like(y, settings.target)
    z_s = settings.rule.margin(logits_s, target[: len(logits_s)]) * settings.sharpness
    z_a = settings.rule.margin(logits_a, target) * settings.sharpness
    if settings.objective == "margin":
        pair_s, pair_a = (torch.stack([torch.zeros_like(z), z], dim=1) for z in (z_s, z_a))
        return exclusive_decision(pair_s, pair_a, y, settings.weights)
    return decision(z_s, z_a, y.float(), settings.weights)


def loss_terms(
    x: Tensor,
    network: Generators,
    classifier: nn.Module,
    settings: GeneratorSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The four weighted terms of equation (5) for a batch, shape (N, 1, S, S)."""
    device = x.device.type
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        seen = seen_by(network, cast("Classifier", classifier), x)
        y = settings.decide(seen.logits.float())
    seen = seen.plain()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or not network.reads_features):
        raw_s, raw_a = network(x, y, seen)
    x_s, x_a = leaky_clip(raw_s.float()), leaky_clip(raw_a.float())
    weights = settings.weights
    judged = max(1, round(settings.similar_share * len(x)))
    shown = perturbed(torch.cat([x_s[:judged], x_a]), settings, generator)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # on a CPU its backward pass is slower
        logits_s, logits_a = classifier(shown).float().split([judged, len(x)])
    return {
        "similarity (6)": similarity(x, x_s, x_a, weights),
        "decision (7, 10)": decision_loss(logits_s, logits_a, y, settings),
        "generators (8)": weights.generators * generator_distance(network.paired_parameters()),
        "total variation (9)": weights.total_variation * total_variation(x_s - x_a),
    }


@torch.no_grad()
def validate(
    images: Tensor,
    network: Generators,
    classifier: nn.Module,
    settings: GeneratorSettings,
    truths: Sequence[Mask | None] = (),
) -> dict[str, float]:
    """Flip rates, kept decisions, PSNR in dB and localisation over uint8 validation images.

    Args:
        images: uint8, shape (N, 1, S, S).
        network: the generators.
        classifier: what they explain.
        settings: of the run.
        truths: union masks of the lesions, one an image, or none at all.
    """
    network.eval()
    device = next(network.parameters()).device
    kept, changed, called, psnr_s, psnr_a, size = ([] for _ in range(6))
    ious: list[float] = []
    for first in range(0, len(images), 32):
        x = images[first : first + 32].to(device).float() / 255
        seen = seen_by(network, cast("Classifier", classifier), x)
        y = settings.decide(seen.logits)
        raw_s, raw_a = network(x, y, seen)
        x_s, x_a = raw_s.float().clamp(0, 1), raw_a.float().clamp(0, 1)
        y_s, y_a = (settings.decide(classifier(v)) for v in (x_s, x_a))
        called.append(y > 0)
        kept.append(y_s == y)
        changed.append(y_a != y)
        psnr_s.append(psnr(x, x_s))
        psnr_a.append(psnr(x, x_a))
        maps = (x_s - x_a).abs()
        size.append(maps.mean(dim=(1, 2, 3)))
        for shown, truth in zip(_shown(maps), truths[first : first + 32], strict=False):
            if truth is not None:
                ious.append(float(iou_at_percentiles(shown, truth, (90,))[0]))
    network.train()
    positive, changes = torch.cat(called), torch.cat(changed)
    found = {
        "kept": float(torch.cat(kept).float().mean()),
        "flip_rate": float(changes.float().mean()),
        "flip_rate_positive": float(changes[positive].float().mean()) if bool(positive.any()) else 0.0,
        "psnr_similar": float(torch.cat(psnr_s).mean()),
        "psnr_adversarial": float(torch.cat(psnr_a).mean()),
        "mean_explanation": float(torch.cat(size).mean()),
    }
    return found | ({"iou_90": float(np.mean(ious))} if ious else {})


def _shown(maps: Tensor) -> NDArray[np.float32]:
    """Maps as they are delivered, smooth, shape (N, S, S)."""
    return gaussian_blur(maps, BLUR * maps.shape[-1])[:, 0].cpu().numpy()


@torch.no_grad()
def balanced_odds(images: Tensor, classifier: nn.Module, settings: GeneratorSettings) -> Tensor:
    """Sampling odds, shape (N,), with which all decisions of the classifier are equally frequent."""
    device = next(classifier.parameters()).device
    decided = torch.cat([settings.decide(classifier(c.to(device).float() / 255)).cpu() for c in images.split(64)])
    shares = torch.bincount(decided).float() / len(decided)
    return 1 / shares.clamp(min=0.05)[decided]


def train(
    settings: GeneratorSettings,
    training: Tensor,
    validation: Tensor,
    classifier: nn.Module,
    out: Path,
    initial: Path | Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    truths: Sequence[Mask | None] = (),
) -> Generators:
    """Train to `settings.steps`, resuming from `out`/checkpoint.pt, or starting from the weights in `initial`.

    Args:
        settings: of the run.
        training: uint8 images, shape (N, 1, S, S).
        validation: others of that kind, for the report.
        classifier: frozen, in eval mode.
        out: an existing folder for generators.json, history.jsonl and checkpoint.pt.
        initial: checkpoint.pt of another run, a bundle's generators.safetensors, or the weights by name.
        progress: told after every step: step, loss, and the figures of the last validation.
        truths: union masks of the validation images' lesions, for the report.

    Raises:
        TrainingError: a term of the loss is not finite (the message names the step and the term), the weights to start
            from have another architecture, or the checkpoint is another run's.
        Cancelled: by `progress`; the last checkpoint stays.
    """
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)
    classifier = classifier.to(device)
    settings = settings.fitted(classifier, training.shape[-1])
    (out / "generators.json").write_text(json.dumps(asdict(settings), indent=1))
    network = settings.network().to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    start, checkpoint = 0, out / "checkpoint.pt"
    ways = replace(settings, steps=0, report_every=0, device="")  # what may differ when a run goes on
    mark = checkpoints.fingerprint(ways, classifier, training)
    state = checkpoints.load(checkpoint, mark, device)
    if initial is not None and state is None:
        _fill(network, initial)
    if state is not None:
        network.load_state_dict(state["generators"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
        print(f"resuming at step {start}", flush=True)
    odds = balanced_odds(training, classifier, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    if state is not None:
        generator.set_state(state["generator"].cpu())
    _forget_later(out / "history.jsonl", start)
    began, validated = time.monotonic(), dict[str, float]()
    for step in range(start, settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings.steps, settings.warm_up)
        index = torch.multinomial(odds, settings.batch, replacement=len(odds) < settings.batch, generator=generator)
        x = training[index].to(device).float() / 255
        x = warp(x, draw_affine(AffineRange(), len(x), generator), padding="border").clamp_(0, 1)
        terms = loss_terms(x.contiguous(memory_format=torch.channels_last), network, classifier, settings, generator)
        if step < settings.reconstruction_steps:
            terms["decision (7, 10)"] = terms["decision (7, 10)"] * 0
        loss = sum_finite(terms, step + 1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % settings.report_every == 0 or step + 1 == settings.steps:
            rate = (step + 1 - start) * settings.batch / (time.monotonic() - began)
            row = {"step": step + 1, "loss": float(loss.detach()), "images_per_second": round(rate, 1)}
            validated = validate(validation, network, classifier, settings, truths)
            row |= validated
            print(json.dumps(row), flush=True)
            with (out / "history.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            state = {
                "generators": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "step": step + 1,
            }
            checkpoints.save(checkpoint, state, mark)
        progress((step + 1) / settings.steps, step=step + 1, loss=float(loss.detach()), **validated)
    return network.eval()


def _forget_later(history: Path, step: int) -> None:
    """Take away the rows of steps that are done again: the run was stopped between its history and its checkpoint."""
    if history.is_file():
        kept = [row for row in history.read_text().splitlines(keepends=True) if json.loads(row)["step"] <= step]
        write(history, "".join(kept))


def _fill(network: Generators, initial: Path | Mapping[str, Tensor]) -> None:
    if not isinstance(initial, Path):
        weights = initial
    elif initial.suffix == ".safetensors":
        weights = load_file(initial)
    else:
        weights = torch.load(initial, weights_only=True, map_location="cpu")["generators"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise TrainingError(f"the generators to start from have another architecture: {text}") from error


def _schedule(step: int, steps: int, warm_up: int) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine to a hundredth."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(steps - warm_up, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def sum_finite(terms: dict[str, Tensor], step: int) -> Tensor:
    """The sum of a loss's terms.

    Raises:
        TrainingError: a term is not finite; the message names the step and the term.
    """
    total = sum(terms.values(), torch.zeros(()))
    if not bool(torch.isfinite(total)):
        wrong = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
        raise TrainingError(
            f"step {step}: the loss term {', '.join(wrong) or 'sum'} is not finite; lower the learning rate or its "
            "weight, and look at the classifier's logits"
        )
    return total
