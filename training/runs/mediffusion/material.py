"""The latents of the training images in several changed versions, made once and kept."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from explain_core.diffusion.autoencoders import Autoencoder
from explain_core.diffusion.model import JointDiffusion
from training import checkpoints
from training.errors import TrainingError
from training.runs.mediffusion.settings import MediffusionSettings
from training.runs.spaces import space_of
from training.runs.views import changed

ENCODE_BATCH = 8
"""Images at once: one of 256 pixels takes 16 MiB in every layer of the tiny autoencoder."""


@dataclass(frozen=True, slots=True)
class Material:
    """Latents of the training images.

    Attributes:
        weak: of weakly changed images, float16, shape (views, N, C, s, s), scaled to unit variance.
        strong: of strongly changed ones, where consistency is learnt; else empty.
        targets: 1, 0, or NaN where nobody said, float32, shape (N, outputs).
        scale: by which latents were multiplied.
    """

    weak: Tensor
    strong: Tensor
    targets: Tensor
    scale: float


@torch.no_grad()
def material(
    settings: MediffusionSettings,
    images: Tensor,
    targets: Tensor,
    out: Path,
    initial: JointDiffusion | None = None,
    device: torch.device | None = None,
) -> Material:
    """The latents of every view of the training images, made once and kept in `out`.

    Args:
        settings: of the run.
        images: uint8, shape (N, 1, S, S).
        targets: 1, 0 or NaN, shape (N, outputs).
        out: folder of the run.
        initial: a model whose space and scale are taken instead of the settings'.
        device: that encodes; None for the CPU.

    Raises:
        TrainingError: images of another size, a class that no image is labelled with, or the folder of another run.
    """
    if images.shape[-1] != settings.size:
        raise TrainingError(f"images of {images.shape[-1]} pixels a side, and the model is for {settings.size}")
    _check_labels(targets, exclusive=settings.exclusive)
    space = space_of(settings.space, settings.weights) if initial is None else deepcopy(initial.space)
    mark = checkpoints.fingerprint(
        images,
        *cast("nn.Module", space).state_dict().values(),
        (settings.space, settings.views, settings.unlabelled, settings.seed),
    )
    kept = checkpoints.load(out / "latents.pt", mark, torch.device("cpu"))
    if kept is None:
        where = device or torch.device("cpu")
        cast("nn.Module", space).to(where)
        generator = torch.Generator().manual_seed(settings.seed)
        weak = _views(space, images, settings.views, generator, where)
        strong = weak[:0]
        if settings.unlabelled == "fixmatch":
            strong = _views(space, images, settings.views, generator, where, strongly=True)
        kept = {"weak": weak, "strong": strong, "scale": 1 / _spread(weak)}
        checkpoints.save(out / "latents.pt", kept, mark)
    scale = float(kept["scale"] if initial is None else initial.scale)
    for views in (kept["weak"], kept["strong"]):
        for part in _parts(views):
            part.copy_(part.float() * scale)
    return Material(kept["weak"], kept["strong"], targets.float(), scale)


def _parts(views: Tensor) -> Iterator[Tensor]:
    """A few images of one view after the other: all in float32 at once would be four times as large."""
    for view in views:
        yield from view.split(ENCODE_BATCH)


def _spread(views: Tensor) -> float:
    """Standard deviation of all values."""
    count = views.numel()
    mean = sum(float(part.double().sum()) for part in _parts(views)) / count
    squares = sum(float((part.double() - mean).square().sum()) for part in _parts(views))
    return math.sqrt(squares / (count - 1))


def _views(
    space: Autoencoder,
    images: Tensor,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    strongly: bool = False,
) -> Tensor:
    """Latents of `count` changed versions of the images, float16, shape (count, N, C, s, s); none is copied."""
    side = images.shape[-1] // space.factor
    made = torch.empty(count, len(images), space.channels, side, side, dtype=torch.float16)
    for view in made:
        pixels = changed(images, generator, strongly=strongly)
        for part, place in zip(pixels.split(ENCODE_BATCH), view.split(ENCODE_BATCH), strict=True):
            place.copy_(space.encode(part.to(device).float() / 255))
    return made


def _check_labels(targets: Tensor, *, exclusive: bool) -> None:
    """Refuse what the head could not learn: every finding is there in some image and not in another."""
    if not bool(torch.isfinite(targets).any()):
        raise TrainingError("no image has a label: the head would learn nothing")
    for number, column in enumerate(targets.T, 1):
        for answer, what in ((1, "present"), (0, "absent")):
            if not bool((column == answer).any()) and (answer or not exclusive):
                raise TrainingError(
                    f"no image is labelled {what} for output {number} of {targets.shape[1]}: the head would learn "
                    "nothing of it; label some, or leave that class out"
                )
