"""Train the generators of similar and adversarial images against a frozen classifier.

One flat script: equations (5) to (9) of arXiv:2012.07332 with every weight a named setting. One optimiser step moves
both generators. The best state by flip rate and distance on the validation fold is kept; the run resumes from its
checkpoint. Test folds are never opened here.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0
from explain_core.engine import choose_device, for_inference
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.geometry import AffineRange, InputSpec, draw_affine, warp
from explain_core.losses import LossWeights, decision, generator_distance, similarity, total_variation
from training import datasets
from training.datasets.nih import FINDINGS
from training.splits import TEST_FOLDS, VALIDATION_FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """Settings of the generators' training, all recorded in the model card.

    Attributes:
        filters, head_layers, output, conditioned, dropout: the architecture; see `SimilarAdversarial`.
        weights: the loss weights of equations (6) to (9).
        steps, batch, learning_rate: Adam with a linear warm-up and a cosine decay over `steps`.
        decision_noise: standard deviation of the Gaussian noise that the classifier sees on x_s and x_a in training,
            so that a decision must change by more than a fragile pattern.
        decision_jitter: largest shift in pixels of what the classifier sees, for the same reason.
        threshold: decision threshold of the classifier; y(x) = f(x) >= threshold.
        report_every: steps between validations and checkpoints.
        device: "auto", "cpu" or "cuda[:n]"; precision is bfloat16 where that is safe.
    """

    seed: int = 0
    filters: tuple[int, ...] = (16, 32, 64, 128)
    head_layers: int = 2
    output: str = "identity"
    conditioned: bool = True
    dropout: float = 0.0
    weights: LossWeights = field(default_factory=LossWeights)
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    decision_noise: float = 0.01
    decision_jitter: int = 4
    threshold: float = 0.5
    report_every: int = 200
    device: str = "auto"


def load_classifier(path: Path) -> EfficientNetLite0:
    """The classifier of an earlier run."""
    model = EfficientNetLite0(1 + len(FINDINGS))
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model


def opacity(model: nn.Module, images: Tensor) -> Tensor:
    """Opacity logits, shape (N,), of grey images in [0, 1]."""
    logits: Tensor = model(images)[:, 0]
    return logits.float()


def perturbed(images: Tensor, settings: GeneratorSettings, generator: torch.Generator) -> Tensor:
    """What the classifier sees of generated images in training: shifted and with noise."""
    jitter = settings.decision_jitter
    if jitter:
        shift = [int(v) for v in torch.randint(-jitter, jitter + 1, (2,), generator=generator)]
        images = torch.roll(images, shift, dims=(-2, -1))
    noise = torch.randn(images.shape, generator=generator) * settings.decision_noise
    return images + noise.to(images.device)


def loss_of(
    x: Tensor,
    generators: SimilarAdversarial,
    classifier: nn.Module,
    settings: GeneratorSettings,
    generator: torch.Generator,
) -> Tensor:
    """L of equation (5) for a batch, shape (N, 1, S, S)."""
    with torch.no_grad():
        y = (torch.sigmoid(opacity(classifier, x)) >= settings.threshold).float()
    raw_s, raw_a = generators(x, y)
    x_s, x_a = raw_s.float().clamp(0, 1), raw_a.float().clamp(0, 1)
    seen = perturbed(torch.cat([x_s, x_a]), settings, generator)
    logit_s, logit_a = opacity(classifier, seen.contiguous(memory_format=torch.channels_last)).chunk(2)
    weights = settings.weights
    return (
        similarity(x, x_s, x_a, weights)
        + decision(logit_s, logit_a, y, weights)
        + weights.generators * generator_distance(generators.paired_parameters())
        + weights.total_variation * total_variation(x_s - x_a)
    )


@torch.no_grad()
def validate(
    images: Tensor, generators: SimilarAdversarial, classifier: nn.Module, threshold: float
) -> dict[str, float]:
    """Flip rate, kept decisions and PSNR in dB over uint8 validation images."""
    generators.eval()
    device = next(generators.parameters()).device
    kept, flipped, flipped_positive, positive, error_s, error_a, size = 0, 0, 0, 0, 0.0, 0.0, 0.0
    for chunk in images.split(32):
        x = chunk.to(device).float() / 255
        y = torch.sigmoid(opacity(classifier, x)) >= threshold
        with torch.autocast(device.type, torch.bfloat16):
            raw_s, raw_a = generators(x, y.long())
        x_s, x_a = raw_s.float().clamp(0, 1), raw_a.float().clamp(0, 1)
        y_s, y_a = (torch.sigmoid(opacity(classifier, v)) >= threshold for v in (x_s, x_a))
        flipped_positive += int((y_a != y)[y].sum())
        positive += int(y.sum())
        kept += int((y_s == y).sum())
        flipped += int((y_a != y).sum())
        error_s += float((x - x_s).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().sum())
        error_a += float((x - x_a).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().sum())
        size += float((x_s - x_a).abs().mean(dim=(1, 2, 3)).sum())
    generators.train()
    count = len(images)
    return {
        "kept": kept / count,
        "flip_rate": flipped / count,
        "flip_rate_positive": flipped_positive / max(positive, 1),
        "psnr_similar": -10 * error_s / count,
        "psnr_adversarial": -10 * error_a / count,
        "mean_explanation": size / count,
    }


@torch.no_grad()
def balanced_odds(images: Tensor, classifier: nn.Module, threshold: float) -> Tensor:
    """Sampling odds, shape (N,), with which both decisions of the classifier are equally frequent."""
    device = next(classifier.parameters()).device
    decided = torch.cat(
        [
            torch.sigmoid(opacity(classifier, chunk.to(device).float() / 255)).cpu() >= threshold
            for chunk in images.split(64)
        ]
    )
    share = decided.float().mean().clamp(0.05, 0.95)
    return torch.where(decided, 1 / share, 1 / (1 - share))


def train(settings: GeneratorSettings, nih: str, classifier_path: Path, out: Path, initial: Path | None = None) -> None:
    """Train to `settings.steps`, resuming from `out`/checkpoint.pt, or starting from the weights in `initial`."""
    torch.manual_seed(settings.seed)
    (out / "generators.json").write_text(json.dumps(asdict(settings), indent=1))
    adults = datasets.read(nih)
    spec = InputSpec()
    training = datasets.load_inputs([s for s in adults if s.fold not in TEST_FOLDS | VALIDATION_FOLDS], spec)
    validation = datasets.load_inputs([s for s in adults if s.fold in VALIDATION_FOLDS], spec)
    device = choose_device(settings.device)
    classifier = for_inference(load_classifier(classifier_path), device)
    generators = (
        SimilarAdversarial(
            settings.filters, settings.head_layers, settings.output, settings.dropout, conditioned=settings.conditioned
        )
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    optimiser = torch.optim.Adam(generators.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.1, total_iters=100),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(settings.steps - 100, 1), 1e-5),
        ],
        [100],
    )
    start, checkpoint = 0, out / "checkpoint.pt"
    if initial is not None and not checkpoint.is_file():
        generators.load_state_dict(torch.load(initial, weights_only=True)["generators"])
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        generators.load_state_dict(state["generators"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
        for _ in range(start):
            schedule.step()
        print(f"resuming at step {start}", flush=True)
    odds = balanced_odds(training, classifier, settings.threshold)
    generator = torch.Generator().manual_seed(settings.seed + start)
    began = time.monotonic()
    for step in range(start, settings.steps):
        index = torch.multinomial(odds, settings.batch, generator=generator)
        x = training[index].to(device).float() / 255
        x = warp(x, draw_affine(AffineRange(), len(x), generator), padding="border").clamp_(0, 1)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(x.contiguous(memory_format=torch.channels_last), generators, classifier, settings, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generators.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % settings.report_every == 0 or step + 1 == settings.steps:
            rate = (step + 1 - start) * settings.batch / (time.monotonic() - began)
            row = {"step": step + 1, "loss": float(loss.detach()), "images_per_second": round(rate, 1)}
            row |= validate(validation, generators, classifier, settings.threshold)
            print(json.dumps(row), flush=True)
            with (out / "history.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            torch.save(
                {
                    "generators": generators.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                },
                checkpoint,
            )


def main() -> None:
    """Entry point: `python -m training.runs.generators --help`."""
    defaults = GeneratorSettings()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--nih", default="nih:../shared/data/nih_cxr14_subset")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier.pt of an earlier run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--filters", type=int, nargs="+", default=list(defaults.filters))
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--unconditioned", action="store_true", help="one adversarial head for both decisions")
    parser.add_argument("--start", type=Path, help="checkpoint.pt whose weights to start from")
    parser.add_argument("--output", choices=("identity", "plain"), default=defaults.output)
    parser.add_argument("--threshold", type=float, default=defaults.threshold)
    parser.add_argument("--decision-noise", type=float, default=defaults.decision_noise)
    for name, value in asdict(defaults.weights).items():
        parser.add_argument(f"--weight-{name.replace('_', '-')}", type=float, default=value)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = LossWeights(**{name: getattr(arguments, f"weight_{name}") for name in asdict(defaults.weights)})
    settings = replace(
        defaults,
        seed=arguments.seed,
        filters=tuple(arguments.filters),
        output=arguments.output,
        conditioned=not arguments.unconditioned,
        device=arguments.device,
        weights=weights,
        steps=arguments.steps,
        batch=arguments.batch,
        threshold=arguments.threshold,
        decision_noise=arguments.decision_noise,
    )
    train(settings, arguments.nih, arguments.classifier, arguments.out, arguments.start)


if __name__ == "__main__":
    main()
