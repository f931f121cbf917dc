"""One training in one process or in several: what makes N processes take the very steps of one.

A batch is drawn whole in every process, its sampling order, transforms, noise and dropout from one seeded generator;
each process then works on its own rows. Losses are weighted by rows, so that the averaged gradient is the gradient of
the whole batch whatever the parts' sizes.
"""

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explain_core.engine import choose_device
from explain_core.errors import install
from training.errors import TrainingError
from training.progress import Cancelled, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed")


def start(device: str, precision: str, *, partly: bool = False) -> "Fabric":
    """Lightning Fabric for this process: alone, or one of those that torchrun started (gloo on CPU, nccl on GPU).

    Args:
        device: "auto", "cpu" or "cuda[:n]"; torchrun's processes take a GPU each.
        precision: one of `PRECISIONS`; "auto" is bfloat16 where the processor computes in it, else float32. For
            "64-true" network and images must be float64 already: Fabric's own would round the logits to float32.
        partly: whether a step may leave parameters without a gradient.

    Raises:
        TrainingError: no such precision, or Lightning Fabric is not installed.
    """
    if precision not in PRECISIONS:
        raise TrainingError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - takes seconds, and is in an extra
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment  # noqa: PLC0415
        from lightning_fabric.strategies.ddp import DDPStrategy  # noqa: PLC0415
    except ImportError as error:
        raise TrainingError(f"Lightning Fabric is missing: {install('training')}") from error
    chosen = choose_device(device)
    wanted: Any = _auto_precision(chosen) if precision == "auto" else precision.replace("64", "32")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        alone: Any = 1 if chosen.type == "cpu" else [chosen.index or 0]
        fabric = Fabric(
            accelerator=chosen.type, devices=alone, precision=wanted, plugins=[LightningEnvironment()], num_nodes=1
        )
    else:
        count = int(os.environ["LOCAL_WORLD_SIZE"])
        backend = "gloo" if chosen.type == "cpu" else "nccl"
        fabric = Fabric(
            accelerator=chosen.type,
            devices=count,
            num_nodes=int(os.environ["WORLD_SIZE"]) // count,
            strategy=DDPStrategy(process_group_backend=backend, find_unused_parameters=partly),
            precision=wanted,
        )
    fabric.launch()
    return fabric


def _auto_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"  # noqa: SLF001 - has no public name


class Batch:
    """The batch that is being worked on: how many rows it has, and which of them are this process's.

    Attributes:
        generator: of every random number of the training, in the same state in all processes.
        size: rows of the whole batch.
        part: this process's rows.
    """

    def __init__(self, size: int, rank: int, processes: int) -> None:
        self.generator = torch.Generator()
        self.size = size
        rows = torch.arange(size).tensor_split(processes)[rank].tolist()
        self.part = slice(rows[0], rows[-1] + 1)

    @property
    def share(self) -> float:
        """This process's part of the rows, 0 to 1."""
        return len(range(self.size)[self.part]) / self.size

    def uniform(self, shape: torch.Size) -> Tensor:
        """Uniform numbers in [0, 1) for this process's rows, `shape` without the rows, drawn for the whole batch."""
        return torch.rand(self.size, *shape, generator=self.generator)[self.part]


class SharedDropout(nn.Module):
    """Dropout that is drawn for the whole batch, so that it is the same in one process and in several."""

    def __init__(self, rate: float, batch: Batch) -> None:
        super().__init__()
        self.rate = rate
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        """What is kept of `x`, shape (rows of this process, ...), in training; `x` itself otherwise."""
        if not self.training or not self.rate:
            return x
        kept = self.batch.uniform(x.shape[1:]) >= self.rate
        return x * (kept.to(x.device, x.dtype) / (1 - self.rate))


def share_dropout(network: nn.Module, batch: Batch) -> None:
    """Put `SharedDropout` in the place of every nn.Dropout, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, SharedDropout(child.p, batch))


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Every layer that has batch statistics."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 - the base has no public name


def with_statistics_of_all(network: nn.Module, fabric: "Fabric", *, frozen: bool) -> nn.Module:
    """The network as several processes can train it together.

    Raises:
        TrainingError: its batch statistics would be those of each process's own part: they are not frozen, and on a
            CPU processes do not exchange them.
    """
    if fabric.world_size == 1 or frozen or not batch_norms(network):
        return network
    if fabric.device.type == "cpu":
        raise TrainingError(
            f"{fabric.world_size} processes on a CPU do not share batch statistics, so they would not train as one: "
            "set frozen_statistics, or start one process"
        )
    shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return shared


def tell(fabric: "Fabric", progress: Progress, done: float, **figures: float | str) -> None:
    """Tell `progress` in the first process, and stop all of them where it says so.

    Raises:
        Cancelled: in every process.
    """
    stop: Cancelled | None = None
    if fabric.is_global_zero:
        try:
            progress(done, **figures)
        except Cancelled as error:
            stop = error
    if fabric.world_size > 1:
        heard = fabric.all_reduce(torch.tensor(float(stop is not None), device=fabric.device), reduce_op="sum")
        if float(heard) and stop is None:  # type: ignore[arg-type]
            stop = Cancelled("cancelled")
    if stop is not None:
        raise stop


def summed(fabric: "Fabric", values: Tensor) -> Tensor:
    """The sum of `values` over all processes."""
    if fabric.world_size == 1:
        return values
    result = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    assert isinstance(result, Tensor)  # noqa: S101 - of a tensor it is one
    return result
