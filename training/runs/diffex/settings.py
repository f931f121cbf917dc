"""How a diffusion autoencoder and its directions are shaped, trained and ranked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from explain_core.diffex.directions import Form
from explain_core.diffex.parts import Apart
from explain_core.diffex.ranking import Decoding, Noise
from explain_core.diffex.semantic import Predicts, SemanticAutoencoder, SemanticConfig
from explain_core.diffex.subject import Subject
from training.errors import TrainingError
from training.runs.spaces import Space, space_of

Features: TypeAlias = Literal["classifier", "image", "encoder", "projector"]
Candidates: TypeAlias = Literal["parts", "learnt", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffexSettings:
    """How a classifier is explained by attributes.

    Attributes:
        size: rows and columns of the images in pixels.
        space: what is denoised: the pixels, squares of them, the latents of the tiny autoencoder, or of one's own.
        weights: folder or file of the autoencoder's weights, "" where it has none.
        code, aware, channels, attention, encoder_channels, layers, head_dim, groups, predicts, sketch: see
            `SemanticConfig`.
        steps: of the autoencoder's training.
        batch: images a step.
        learning_rate: of it; it falls to 0 over the second half.
        dropped: part of the images whose code is exchanged for that of no image.
        pull: weight of the Kullback-Leibler divergence between what the classifier says of the image and of its
            prediction; 0 leaves it out.
        pull_below: only where the noise is that of a lower step. 1000 is everywhere: at high steps only the code knows
            the image, so what the classifier sees must go into it. A model that predicts the noise foresees no image
            there; take 300.
        pull_from: part of the training after which the pull begins, to grow over as much again.
        views: weakly changed versions of each image that are kept; 0 for the images as they are.
        average: decay of the average of the weights.
        directions: how many are learnt.
        form: see `Bank`.
        features: what of the changed image is compared: what the classifier's last layer reads, the image itself made
            small, what the autoencoder's encoder says; or a projection of the code, as published.
        direction_steps, direction_batch, direction_rate: of the directions' training.
        glimpse: the step of noise from which changed images are foreseen in one step there.
        reach: length of a change in training, as a part of the distance between the two decisions' mean codes.
        sharpness: of the contrast.
        effect: weight of what directions do to the classifier's logits (the mean logarithm of it): without, they are
            distinct and need not matter; 0 as published. Much of it makes them all alike.
        decorrelation: weight of the directions' squared cosines.
        strength: length of a change when directions are ranked, in the same unit.
        decoding_steps: of changed images.
        guidance: see `Decoding`.
        ranked: images of either decision that directions are ranked on.
        noise: from which directions are ranked and attributes shown: each image's own, or one for all; see `Decoding`.
        attributes: how many are chosen at most.
        parts: how many parts of the evidence there are (`explain_core/diffex/parts.py`); 0 for none.
        apart_by: what tells parts apart: the place of what they change, or how independently they vary over the images.
        candidates: of what attributes are chosen: the parts, the learnt directions, or both.
        least: mean change of the probability below which a direction is no attribute.
        precision, device: as of `training.runs.processes.start`.
        threads: of PyTorch; 0 leaves them as they are.
        checkpoint_every, report_every: steps.
        seed: of everything random.
    """

    size: int
    space: Space = "identity"
    weights: str = ""
    code: int = 128
    aware: bool = True
    channels: tuple[int, ...] = (64, 128, 256)
    attention: tuple[bool, ...] = (False, True, True)
    encoder_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers: int = 2
    head_dim: int = 32
    groups: int = 32
    predicts: Predicts = "v"
    sketch: int = 8
    steps: int = 1000
    batch: int = 32
    learning_rate: float = 5e-4
    dropped: float = 0.15
    pull: float = 0.05
    pull_below: int = 1000
    pull_from: float = 0.15
    views: int = 0
    average: float = 0.9999
    directions: int = 10
    form: Form = "global"
    features: Features = "image"
    direction_steps: int = 300
    direction_batch: int = 8
    direction_rate: float = 0.01
    glimpse: int = 700
    reach: float = 0.5
    sharpness: float = 0.5
    effect: float = 0.0
    decorrelation: float = 0.0
    strength: float = 1.0
    decoding_steps: int = 20
    guidance: float = 1.0
    ranked: int = 64
    noise: Noise = "inverted"
    attributes: int = 5
    parts: int = 5
    apart_by: Apart = "place"
    candidates: Candidates = "parts"
    least: float = 0.05
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    checkpoint_every: int = 200
    report_every: int = 50
    seed: int = 0

    def decoding(self, noise: Noise | None = None) -> Decoding:
        """How changed codes become images, from its own noise or another."""
        return Decoding(
            steps=self.decoding_steps,
            noise=noise or self.noise,
            guidance=self.guidance,
            batch=max(self.batch, 32),
            seed=self.seed,
        )


_DRAWN = DiffexSettings(
    size=32, space="patches", code=64, channels=(32, 64, 64), attention=(False, False, False),
    encoder_channels=(32, 64, 64), layers=1, groups=8, steps=2000, learning_rate=2e-3, average=0.995,
    decoding_steps=10, threads=1, noise="fixed", strength=0.5, pull=0.1, directions=6, direction_steps=200, ranked=48,
)  # fmt: skip
PRESETS: Mapping[str, DiffexSettings] = {
    "phantom": _DRAWN,
    "cells": replace(_DRAWN, parts=12, apart_by="independence"),
    "chest": DiffexSettings(
        size=128, space="tiny", code=128, channels=(64, 96, 128), attention=(False, False, True),
        encoder_channels=(64, 96, 128), layers=1, groups=16, steps=4000, batch=16, learning_rate=1e-3, views=4,
        average=0.998, decoding_steps=10,
    ),
    "folder": DiffexSettings(
        size=64, space="patches", code=128, channels=(48, 96, 96), attention=(False, False, True),
        encoder_channels=(32, 64, 96), layers=1, groups=16, steps=4000, learning_rate=1e-3, average=0.998,
        decoding_steps=10,
    ),
    "gpu": DiffexSettings(
        size=256, space="tiny", code=512, channels=(128, 256, 384), layers=2, steps=30_000, batch=64, views=8,
        pull=0.2, directions=20, direction_steps=2000, direction_batch=32, ranked=256, average=0.9999,
        checkpoint_every=1000,
    ),
}  # fmt: skip
"""Drawn chests and drawn cells in minutes on a core; radiographs of 128 pixels; any folder of images; radiographs on a
GPU, two million images of latents of 32 a side (docs/diffex.md has the times)."""


def build(settings: DiffexSettings, subject: Subject, scale: float = 1.0) -> SemanticAutoencoder:
    """An untrained model.

    Raises:
        TrainingError: a shape that cannot be built.
    """
    space = space_of(settings.space, settings.weights)
    names = (
        "code",
        "aware",
        "channels",
        "attention",
        "encoder_channels",
        "layers",
        "head_dim",
        "groups",
        "predicts",
        "sketch",
    )
    try:
        config = SemanticConfig(
            size=settings.size // space.factor,
            latent_channels=space.channels,
            answers=len(subject.outputs),
            **{name: getattr(settings, name) for name in names},
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return SemanticAutoencoder(space, config, scale)


HOW = frozenset({"device", "precision", "threads", "report_every", "checkpoint_every"})
"""Settings on which no figure depends: a run may go on with others."""


def of_training(settings: DiffexSettings) -> dict[str, Any]:
    """The settings that the autoencoder's weights depend on."""
    apart = {
        *HOW,
        "form",
        "features",
        "directions",
        "glimpse",
        "reach",
        "ranked",
        "sharpness",
        "effect",
        "decorrelation",
        "strength",
        "decoding_steps",
        "guidance",
        "attributes",
        "noise",
        "parts",
        "apart_by",
        "candidates",
        "least",
    }
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in apart and not name.startswith("direction_")
    }
