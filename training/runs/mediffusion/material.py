"""The latents of the training images in several changed versions, made once and kept."""

import math
from collections.abc import Iterator
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

ENCODE_BATCH = 32


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
    settings: MediffusionSettings, images: Tensor, targets: Tensor, out: Path, initial: JointDiffusion | None = None
) -> Material:
    """The latents of every view of the training images, made once and kept in `out`.

    Args:
        settings: of the run.
        images: uint8, shape (N, 1, S, S).
        targets: 1, 0 or NaN, shape (N, outputs).
        out: folder of the run.
        initial: a model whose space and scale are taken instead of the settings'.

    Raises:
        TrainingError: images of another size, no label at all, or the folder of another run.
    """
    if images.shape[-1] != settings.size:
        raise TrainingError(f"images of {images.shape[-1]} pixels a side, and the model is for {settings.size}")
    if not bool((targets == targets).any()):  # noqa: PLR0124 - NaN is not itself
        raise TrainingError("no image has a label: the head would learn nothing")
    space = space_of(settings.space, settings.weights) if initial is None else initial.space
    mark = checkpoints.fingerprint(
        images,
        *cast("nn.Module", space).state_dict().values(),
        (settings.space, settings.views, settings.unlabelled, settings.seed),
    )
    kept = checkpoints.load(out / "latents.pt", mark, torch.device("cpu"))
    if kept is None:
        generator = torch.Generator().manual_seed(settings.seed)
        weak = torch.stack([_latents(space, changed(images, generator)) for _ in range(settings.views)])
        strong = weak[:0]
        if settings.unlabelled == "fixmatch":
            strong = torch.stack(
                [_latents(space, changed(images, generator, strongly=True)) for _ in range(settings.views)]
            )
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


def _latents(space: Autoencoder, images: Tensor) -> Tensor:
    return torch.cat([space.encode(part.float() / 255) for part in images.split(ENCODE_BATCH)]).half()
