"""How a joint diffusion model is shaped and trained, and what a run leaves in its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from explain_core.diffusion.autoencoders import Autoencoder
from explain_core.diffusion.joint_unet import JointConfig, JointUNet
from explain_core.diffusion.model import JointDiffusion
from training.errors import TrainingError
from training.runs.spaces import Space, space_of

Unlabelled: TypeAlias = Literal["none", "fixmatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediffusionSettings:
    """How a joint diffusion model is trained.

    Attributes:
        size: rows and columns of the images in pixels.
        space: what it denoises: the pixels, the latents of the tiny autoencoder, or of an autoencoder of one's own.
        weights: folder or file of the autoencoder's weights, "" for the identity.
        channels, attention, layers, head_dim, groups, hidden, dropout, pooling: see `JointConfig`.
        steps: of the training.
        batch: images whose noise is predicted at each step.
        labelled_batch: images that are classified.
        learning_rate: of the trunk.
        head_learning_rate: of the head.
        weight: of the classification's loss; it protects the trunk, the head's steps do not depend on it.
        every: the classification is learnt at every n-th step.
        diffusion: False leaves the denoising out: the control that shows what it is worth.
        unlabelled: what unlabelled images are used for besides denoising.
        unlabelled_weight: of that loss.
        confidence: from which probability the head counts as sure.
        noisy: the head learns at steps up to this one, 0 for clean latents only.
        exclusive: whether exactly one class holds (softmax), or each output is a finding of its own.
        views: weakly changed versions of each image that are kept.
        average: decay of the average of the weights, corrected at the start, that is what remains.
        precision, device: as of `training.runs.processes.start`.
        threads: of PyTorch; 0 leaves them as they are. For a tiny network one is faster than two.
        checkpoint_every, report_every: steps.
        seed: of everything random.
    """

    size: int
    space: Space = "identity"
    weights: str = ""
    channels: tuple[int, ...] = (64, 128, 256)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 2
    head_dim: int = 32
    groups: int = 32
    hidden: int = 1024
    dropout: float = 0.0
    pooling: Literal["mean", "max"] = "mean"
    steps: int = 1000
    batch: int = 64
    labelled_batch: int = 32
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-4
    weight: float = 1e-3
    every: int = 1
    diffusion: bool = True
    unlabelled: Unlabelled = "none"
    unlabelled_weight: float = 1e-3
    confidence: float = 0.95
    noisy: int = 0
    exclusive: bool = False
    views: int = 4
    average: float = 0.9999
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    checkpoint_every: int = 200
    report_every: int = 50
    seed: int = 0


PRESETS: Mapping[str, MediffusionSettings] = {
    "tiny": MediffusionSettings(
        size=32, channels=(16, 32, 64), attention=(False, True, False), layers=1, head_dim=8, groups=8, hidden=128,
        steps=1200, batch=32, learning_rate=1e-3, head_learning_rate=1e-3, weight=1e-2, average=0.995,
        views=4, precision="32-true", threads=1,
    ),
    "small": MediffusionSettings(
        size=128, space="tiny", channels=(32, 64, 128), layers=1, groups=16, hidden=256, steps=3000, batch=16,
        labelled_batch=16, learning_rate=5e-4, head_learning_rate=1e-3, weight=1e-2, noisy=200, average=0.995, views=4,
        threads=1,
    ),
    "cpu": MediffusionSettings(
        size=224, space="tiny", channels=(48, 96, 192), layers=1, groups=16, hidden=256, steps=4000, batch=16,
        labelled_batch=16, weight=1e-3, noisy=200, average=0.999, views=4,
    ),
    "gpu": MediffusionSettings(
        size=256, space="tiny", hidden=1024, steps=30_000, batch=256, labelled_batch=64, average=0.9999, views=8,
        noisy=200, checkpoint_every=1000,
    ),
    "vce-testing": MediffusionSettings(
        size=256, space="kl", channels=(256, 512, 1024), attention=(True, True, True), steps=100_000, batch=64,
        labelled_batch=32, every=4, average=0.9999, views=8, checkpoint_every=1000,
    ),
}  # fmt: skip
"""Minutes on two cores with phantoms; radiographs of 128 pixels in an hour; radiographs in two hours; section 3.4's 16
M network; as the authors' code has it (branch vce-testing), but for the augmentation by flips."""


def shape_of(settings: MediffusionSettings, outputs: int) -> JointConfig:
    """The shape of a network for these settings.

    Raises:
        TrainingError: one that cannot be built.
    """
    return _shape(settings, outputs, space_of(settings.space, settings.weights))


def _shape(settings: MediffusionSettings, outputs: int, space: Autoencoder) -> JointConfig:
    names = ("channels", "attention", "layers", "head_dim", "groups", "hidden", "dropout", "pooling")
    try:
        return JointConfig(
            size=settings.size // space.factor,
            latent_channels=space.channels,
            outputs=outputs,
            **{name: getattr(settings, name) for name in names},
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error


def build(settings: MediffusionSettings, outputs: int, scale: float = 1.0) -> JointDiffusion:
    """An untrained model.

    Raises:
        TrainingError: a shape that cannot be built.
    """
    space = space_of(settings.space, settings.weights)
    return JointDiffusion(space, JointUNet(_shape(settings, outputs, space)), scale)
