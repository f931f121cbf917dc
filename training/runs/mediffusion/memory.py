"""Whether there is memory for a training, told before anything is made.

What a step keeps for its gradients is counted by the forward half of one step on tensors without content (PyTorch's
"meta" device), in float32.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from explain_core.diffusion.joint_unet import JointConfig, JointUNet
from training.errors import TrainingError
from training.runs.mediffusion.settings import MediffusionSettings

_COPIES = 5
"""Of the weights: themselves, their gradients, two moments, their average."""
_GIB = 1 << 30
_HELP = "take a smaller batch, fewer views, smaller images or a smaller preset"


def check(
    settings: MediffusionSettings, config: JointConfig, images: int, device: torch.device, processes: int = 1
) -> None:
    """Refuse what would end without memory.

    Args:
        settings: of the run.
        config: of the network.
        images: that are learnt from.
        device: that the network is trained on; the latents lie in the machine's memory.
        processes: that share the batch, and the machine; each holds all latents.

    Raises:
        TrainingError: the latents, or the training, need more than is free.
    """
    rows = {name: -(-getattr(settings, name) // processes) for name in ("batch", "labelled_batch")}
    step = training_bytes(replace(settings, **rows), config)
    parts = {f"the latents of {images} images": latents_bytes(settings, config, images) * processes}
    training = {f"a step of {settings.batch} of them": step if device.type == "cuda" else step * processes}
    if device.type == "cuda":
        _refuse(training, torch.cuda.mem_get_info(device)[0])
    else:
        parts |= training
    _refuse(parts, free())


def _refuse(parts: Mapping[str, int], there: int | None) -> None:
    if there is not None and sum(parts.values()) > there:
        told = " and ".join(f"{name} {count / _GIB:.1f} GiB" for name, count in parts.items())
        raise TrainingError(f"too little memory: {told}, and {there / _GIB:.1f} GiB are free; {_HELP}")


def latents_bytes(settings: MediffusionSettings, config: JointConfig, images: int) -> int:
    """Of the latents of all views in float16, and of the images of the one view that is being changed, twice."""
    views = settings.views * (2 if settings.unlabelled == "fixmatch" else 1)
    return images * (views * config.latent_channels * config.size**2 * 2 + 2 * settings.size**2)


def training_bytes(settings: MediffusionSettings, config: JointConfig) -> int:
    """Of the network in all its copies, and of what one step keeps for its gradients."""
    with torch.device("meta"):
        network = JointUNet(config)
    weights = list(network.parameters())
    own = {StorageWeakRef(value.untyped_storage()).cdata for value in weights}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        key = StorageWeakRef(storage).cdata
        if key not in own:
            kept[key] = storage
        return value

    outputs = []  # they hold what is counted, so that no place is counted for two
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        if settings.diffusion:
            outputs.append(network(*_batch(config, settings.batch)))
        outputs.append(network.classify(*_batch(config, settings.labelled_batch)))
        if settings.unlabelled == "fixmatch":
            outputs.append(network.classify(*_batch(config, settings.batch)))
    copies: int = _COPIES * sum(value.nbytes for value in weights)
    return copies + sum(storage.nbytes() for storage in kept.values())


def _batch(config: JointConfig, rows: int) -> tuple[Tensor, Tensor]:
    z = torch.empty(rows, config.latent_channels, config.size, config.size, device="meta")
    return z, torch.zeros(rows, dtype=torch.long, device="meta")


def free(system: Path = Path("/")) -> int | None:
    """Bytes that this machine, or the group of processes that is limited together, has left; None where none says.

    Args:
        system: where /proc and /sys lie.
    """
    found = []
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    group = system / "sys/fs/cgroup"
    try:
        most, held = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text().splitlines()
        found.append(most - held + sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file ")))
    except (OSError, ValueError, IndexError):
        pass  # no limit ("max"), or no such group
    return min(found, default=None)
