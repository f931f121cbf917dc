"""The spaces that diffusion models are trained in, by their names in settings."""

from pathlib import Path
from typing import Literal, TypeAlias

import torch

from explain_core.diffusion.autoencoders import Autoencoder, Identity, KLAutoencoder, Patches, TinyAutoencoder
from training.errors import TrainingError

Space: TypeAlias = Literal["identity", "patches", "tiny", "kl"]


def space_of(name: Space, weights: str) -> Autoencoder:
    """An autoencoder, frozen.

    Args:
        name: its kind.
        weights: folder or file of its weights; not looked at where it has none.

    Raises:
        BundleError, TrainingError: its weights cannot be read.
    """
    if name in {"identity", "patches"}:
        return Identity() if name == "identity" else Patches()
    if name == "tiny":
        return TinyAutoencoder(Path(weights))
    own = KLAutoencoder()
    try:
        own.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"{weights}: no weights of an autoencoder of this shape: {error}") from error
    return own.requires_grad_(requires_grad=False)


def needs_weights(name: Space) -> bool:
    """Whether a space has weights that must be named."""
    return name in {"tiny", "kl"}
