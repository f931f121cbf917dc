"""How a job stands back behind the clinical processes of the same machine."""

import contextlib
import os

from training.retrain.job import ResourcesTable

IDLE_NICE = 19


def stand_back(resources: ResourcesTable) -> None:
    """Lower this process's claim on the processor; what it starts inherits that. Nothing is ever raised.

    At niceness 19 the scheduler's idle class is taken where there is one: any other process goes first.
    """
    with contextlib.suppress(OSError, AttributeError):
        if os.getpriority(os.PRIO_PROCESS, 0) < resources.nice:
            os.setpriority(os.PRIO_PROCESS, 0, resources.nice)
    if resources.nice:
        with contextlib.suppress(OSError, AttributeError):
            policy = os.SCHED_IDLE if resources.nice >= IDLE_NICE else os.SCHED_BATCH
            os.sched_setscheduler(0, policy, os.sched_param(0))


def limit_torch(resources: ResourcesTable) -> None:
    """Limit PyTorch's threads, and its share of the GPU's memory."""
    import torch  # noqa: PLC0415 - slow, and not needed before there is something to compute

    torch.set_num_threads(threads(resources))
    if resources.device != "cpu" and torch.cuda.is_available():
        number = int(resources.device.partition(":")[2] or 0)
        torch.cuda.set_per_process_memory_fraction(resources.gpu_memory_fraction, number)


def threads(resources: ResourcesTable) -> int:
    """CPU threads of one process: as many as asked for, or all but one of those that the process may use."""
    return resources.threads or max(1, len(os.sched_getaffinity(0)) - 1)
