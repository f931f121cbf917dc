"""`python -m training synthesize --model FILE --out DIR`: labelled images that a joint diffusion model makes.

From pure noise, guided by the model's own head towards the finding or its absence; kept is only what the head then
decides as asked (the authors' public code does the same). Beside each kept image stands the nearest training image, so
that one that was learnt by heart is seen. The folder is a dataset that the reader `folder` takes; every image is marked
synthetic by its patient and its source, and belongs to the training split alone.
"""

import csv
import io
import json
import math
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from explain_core.diffusion.counterfactual import Settings, denoise
from explain_core.diffusion.files import load_model
from explain_core.diffusion.model import Guidance, JointDiffusion
from explain_core.files import fresh, write, write_json
from explain_core.geometry import InputSpec
from training import cohort, datasets
from training.errors import TrainingError
from training.progress import Progress, silent

COLUMNS = ("file", "patient_id", "target", "split", "target_source")
SOURCE = "synthetic"
_ROWS = 256
"""Latents whose distances to all training images are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisSettings:
    """How images are made.

    Attributes:
        count: images of either label that are to be kept.
        tries: for each that is to be kept, at most.
        scale: of the guidance.
        steps: of the chain from pure noise.
        batch: made at once.
        seed: of the noise.

    Raises:
        ValueError: a number below 1, or a scale that is none.
    """

    count: int = 50
    tries: int = 4
    scale: float = 300.0
    steps: int = 50
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.tries, self.batch, self.steps) < 1 or not 0 <= self.scale < math.inf:
            raise ValueError("count, tries, batch and steps are at least 1, and the scale is a number not below 0")


@dataclass(frozen=True, slots=True)
class Made:
    """Images of one requested label.

    Attributes:
        images: those that were kept, in [0, 1], shape (N, 1, S, S).
        tried: how many were made.
        accepted: how many of those the head decides as asked; more than are kept where the last batch made too many.
        nearest: root mean square distance of each to its nearest training image, in latents, shape (N,).
        neighbours: which one that is, shape (N,).
    """

    images: Tensor
    tried: int
    accepted: int
    nearest: Tensor
    neighbours: Tensor

    @property
    def acceptance(self) -> float:
        """Part of what was made that the head decides as asked."""
        return self.accepted / self.tried


@torch.no_grad()
def sample(
    model: JointDiffusion, target: int, training: Tensor, settings: SynthesisSettings, progress: Progress = silent
) -> Made:
    """Make images of one label until enough are kept, or too many were made.

    Args:
        model: in eval mode.
        target: 1 for the finding, 0 for its absence.
        training: images that the model has learnt from, uint8, shape (N, 1, S, S).
        settings: how.
        progress: told after every batch.
    """
    config = model.network.config
    chain = Settings(start=1000, steps=settings.steps)
    generator = torch.Generator().manual_seed(settings.seed * 2 + target)
    kept: list[Tensor] = []
    tried = 0
    while sum(map(len, kept)) < settings.count and tried < settings.count * settings.tries:
        noise = torch.randn(settings.batch, config.latent_channels, config.size, config.size, generator=generator)
        scales = torch.full((settings.batch,), settings.scale)
        latents = denoise(model, noise, Guidance(0, target, scales), chain)
        decided = model.network.classify(latents)[:, 0] >= 0
        kept.append(latents[decided == bool(target)])
        tried += settings.batch
        progress(min(1.0, sum(map(len, kept)) / settings.count), target=target, tried=tried)
    accepted = sum(map(len, kept))
    latents = torch.cat(kept)[: settings.count]
    nearest, neighbours = _nearest(latents.flatten(1), _encoded(model, training, settings.batch))
    return Made(model.decode(latents).clamp(0, 1), tried, accepted, nearest, neighbours)


def synthesize(
    model: JointDiffusion, training: Tensor, out: Path, settings: SynthesisSettings, progress: Progress = silent
) -> dict[str, Any]:
    """Write a dataset of both labels, with a sheet of each beside its nearest training images.

    Args:
        model: in eval mode.
        training: images that the model has learnt from, uint8, shape (N, 1, S, S).
        out: a new folder.
        settings: how.
        progress: told after every batch.

    Returns:
        by label: images, tried, acceptance, and the quartiles of the distance to the nearest training image, beside
        those of training images to their own nearest neighbour; also in synthesis.json.

    Raises:
        TrainingError: the folder is there already, or no image of a label was kept.
    """
    if out.exists():
        raise TrainingError(f"{out} is there already; name a new folder")
    made = {target: sample(model, target, training, settings, progress) for target in (0, 1)}
    for target, found in made.items():
        if not len(found.images):
            what = "present" if target else "absent"
            raise TrainingError(f"of {found.tried} images none is decided as {what}; raise the scale, or train longer")
    (out / "images").mkdir(parents=True)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    for target, found in made.items():
        for number, image in enumerate(found.images):
            name = f"images/{SOURCE}-{target}-{number:05d}.png"
            with fresh(out / name) as file:
                _picture(image[0]).save(file, format="PNG")
            patient = f"{SOURCE}-{settings.seed}-{target}-{number}"
            row = {"file": name, "patient_id": patient, "target": target, "split": "train", "target_source": SOURCE}
            writer.writerow(row)
        with fresh(out / f"nearest-{target}.png") as file:
            _beside(found, training).save(file, format="PNG")
    write(out / "labels.csv", table.getvalue())
    known = _encoded(model, training, settings.batch)
    apart = _nearest(known, known, itself=True)[0]
    report: dict[str, Any] = {"settings": asdict(settings), "training_apart": _quartiles(apart)}
    for target, found in made.items():
        report[("absent", "present")[target]] = {
            "images": len(found.images), "tried": found.tried, "acceptance": found.acceptance,
            "nearest": _quartiles(found.nearest),
        }  # fmt: skip
    write_json(out / "synthesis.json", report)
    return report


@torch.no_grad()
def _encoded(model: JointDiffusion, images: Tensor, batch: int) -> Tensor:
    """Flattened latents of images in uint8."""
    return torch.cat([model.encode(part.float() / 255).flatten(1) for part in images.split(batch)])


def _nearest(latents: Tensor, known: Tensor, *, itself: bool = False) -> tuple[Tensor, Tensor]:
    """Root mean square distance of each to its nearest of `known`, and which that is.

    Args:
        latents: shape (N, d).
        known: shape (M, d).
        itself: `known` is the same list, and of each the nearest other one is wanted.
    """
    found = []
    for first in range(0, len(latents), _ROWS):
        distances = torch.cdist(latents[first : first + _ROWS], known) / known.shape[1] ** 0.5
        if itself:
            distances.diagonal(first).fill_(torch.inf)
        found.append(distances.min(dim=1))
    values = torch.cat([latents.new_zeros(0), *(one.values for one in found)])
    return values, torch.cat([torch.zeros(0, dtype=torch.long), *(one.indices for one in found)])


def _quartiles(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in torch.quantile(values, torch.tensor([0.25, 0.5, 0.75]))]


def _picture(plane: Tensor) -> Image.Image:
    return Image.fromarray(np.rint(plane.numpy() * 255).astype(np.uint8))


def _beside(found: Made, training: Tensor, shown: int = 8) -> Image.Image:
    """Images above, their nearest training images below."""
    above = torch.cat([image[0] for image in found.images[:shown]], dim=1)
    below = torch.cat([training[int(place), 0].float() / 255 for place in found.neighbours[:shown]], dim=1)
    return _picture(torch.cat([above, below]))


def markdown(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    for name in ("present", "absent"):
        row = report[name]
        lines.append(
            f"{name}: {row['images']} kept, {row['acceptance']:.0%} of {row['tried']} accepted; nearest training image "
            f"{' / '.join(f'{value:.2f}' for value in row['nearest'])} (quartiles)"
        )
    apart = " / ".join(f"{value:.2f}" for value in report["training_apart"])
    return (
        "\n".join([*lines, f"training images from their own nearest: {apart}", json.dumps(report["settings"])]) + "\n"
    )


def command(arguments: Namespace) -> dict[str, Any]:
    """What `python -m training synthesize` does."""
    model = load_model(arguments.model)
    images, _ = cohort.load(datasets.read(arguments.data), InputSpec(size=model.side))
    settings = SynthesisSettings(count=arguments.count, scale=arguments.scale, seed=arguments.seed)
    report = synthesize(model, images.part(cohort.TRAIN).images, arguments.out, settings)
    print(markdown(report))
    return report
