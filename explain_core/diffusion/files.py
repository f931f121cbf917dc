"""A joint diffusion model as one file: its weights (safetensors), and in the header its shape and what it works in."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from explain_core.diffusion.autoencoders import Autoencoder, Identity, KLAutoencoder, Patches, TinyAutoencoder
from explain_core.diffusion.joint_unet import JointConfig, JointUNet
from explain_core.diffusion.model import JointDiffusion
from explain_core.errors import BundleError
from explain_core.files import write

KEY = "joint_diffusion"


def space_named(name: str) -> Autoencoder:
    """An autoencoder without its weights: "identity", "patches", "tiny" or "kl".

    Raises:
        KeyError: there is none of this name.
    """
    kinds: tuple[Any, ...] = (Identity, Patches, TinyAutoencoder, KLAutoencoder)
    made: Autoencoder = {kind.name: kind for kind in kinds}[name]()
    return made


def save_model(path: Path, model: JointDiffusion, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a model whole or not at all.

    Args:
        path: of the file.
        model: the model.
        weights: instead of its own, e.g. in float16.
    """
    described = {KEY: json.dumps({"space": model.space.name, "config": asdict(model.network.config)})}
    state = {name: value.contiguous() for name, value in (weights or model.state_dict()).items()}
    write(path, save(state, metadata=described))


def load_model(path: Path) -> JointDiffusion:
    """The model of a file, on the CPU in eval mode, in float32.

    Raises:
        BundleError: it is no such file, or its weights have another shape than it says; nothing is loaded then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[KEY])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        lists = {name: tuple(told["config"][name]) for name in ("channels", "attention")}
        model = JointDiffusion(space_named(told["space"]), JointUNet(JointConfig(**told["config"] | lists)))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path} is no joint diffusion model: {type(error).__name__}: {error}") from error
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if other := [name for name in {*own, *shapes} if own.get(name) != shapes.get(name)]:
        raise BundleError(f"{path}: the weights have another shape than the file says, e.g. {min(other)}")
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    if not bool(torch.isfinite(model.scale)) or float(model.scale) <= 0:
        raise BundleError(f"{path}: the scale of the latents is {float(model.scale)}; it is a number above 0")
    return model.eval()
