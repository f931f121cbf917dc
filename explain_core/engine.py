"""How a model runs, apart from what it computes: device, memory format, fused batch statistics."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)

PIXELS_CPU, PIXELS_CUDA = 8 * 224**2, 512 * 224**2
"""Of all images of a batch together."""


def choose_device(wanted: str) -> torch.device:
    """Resolve "auto", "cpu" or "cuda[:n]" to a device.

    Raises:
        ValueError: CUDA is asked for by name and there is none; "auto" falls back to the CPU.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {wanted!r} was asked for but no CUDA device is visible; use 'auto' or 'cpu'")
    return device


def at_once(images: Tensor, device: torch.device | None = None) -> int:
    """How many images of this size a network takes in one batch: beyond it a CPU's caches, or a GPU's memory, run over.

    Args:
        images: shape (N, 1, S, S).
        device: where the network runs; None where the images are.
    """
    pixels = PIXELS_CUDA if (device or images.device).type == "cuda" else PIXELS_CPU
    return max(1, pixels // images.shape[-1] ** 2)


def fuse_batch_norm(model: nn.Module) -> None:
    """Fold every BatchNorm that follows a convolution in a Sequential into it, in place; eval mode only."""
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            first, second = module[index], module[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(first, second)
                module[index + 1] = nn.Identity()


def for_inference(model: ModuleT, device: torch.device) -> ModuleT:
    """A copy of `model` for inference: eval mode, frozen, fused, float32, channels last, on `device`."""
    ready = copy.deepcopy(model).eval().float().requires_grad_(requires_grad=False)
    fuse_batch_norm(ready)
    return ready.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
