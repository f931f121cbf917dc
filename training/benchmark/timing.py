"""Seconds per image and peak memory of a method, measured in the benchmark's own run."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATM = Path("/proc/self/statm")


def timed(call: Callable[[Tensor], Any], images: Tensor, repeats: int) -> dict[str, float]:
    """Median seconds per image of `call` at batch 1 and at batch 16, after one call to warm up.

    Args:
        call: explains a batch, shape (B, 1, S, S).
        images: at least 16, on the device.
        repeats: timed calls at each batch size.

    Returns:
        batch_1 and batch_16 in seconds per image; peak_bytes, the most memory that a call at batch 16 took above what
        was held before it: of the CUDA device, or of the process (sampled every millisecond; 0 where it stayed within
        what the process held already).
    """
    figures: dict[str, float] = {}
    for batch in (1, 16):
        part = images[:batch]
        call(part)
        seconds = []
        for _ in range(repeats):
            _wait(images)
            start = time.perf_counter()
            call(part)
            _wait(images)
            seconds.append(time.perf_counter() - start)
        figures[f"batch_{batch}"] = statistics.median(seconds) / batch
    figures["peak_bytes"] = _peak(call, images[:16])
    return figures


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _peak(call: Callable[[Tensor], Any], images: Tensor) -> int:
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        call(images)
        return int(torch.cuda.max_memory_allocated(images.device) - before)
    done, highest, before = threading.Event(), [0], _resident()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    call(images)
    done.set()
    watcher.join()
    return max(highest[0] - before, 0)


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    if not STATM.exists():
        return 0
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
