"""Seconds per image and peak memory of a method, measured in the benchmark's own run."""

import ctypes
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATM = Path("/proc/self/statm")
BUDGET = 5.0
"""Seconds for the repetitions at one batch size, after the fewest."""
FEWEST = 2


def timed(
    call: Callable[[Tensor], Any], images: Tensor, repeats: int, batches: Sequence[int] = (1, 16)
) -> dict[str, float]:
    """Median seconds per image of `call` at each batch size.

    Args:
        call: explains a batch, shape (B, 1, S, S).
        images: at least as many as the largest batch, on the device.
        repeats: timed calls at each batch size, after one to warm up, fewer once `BUDGET` is spent, and two in all
            where one takes longer than that; 1 for methods that search, which are called once without.
        batches: sizes, the largest last.

    Returns:
        batch_1, batch_16 and so on in seconds per image; peak_bytes, the most memory that a call of the last took
        above what was held before it: of the CUDA device, or of the process (sampled every millisecond; 0 where it
        stayed within what the process held already).
    """
    figures: dict[str, float] = {}
    for batch in batches:
        part = images[:batch]
        warming = _seconds(call, part) if repeats > 1 else 0.0
        seconds = [warming] if warming > BUDGET else []  # it was warm long before its end
        while warming <= BUDGET and len(seconds) < repeats - 1 and (len(seconds) < FEWEST or sum(seconds) < BUDGET):
            seconds.append(_seconds(call, part))
        last, peak = _with_peak(lambda part=part: _seconds(call, part), part)  # type: ignore[misc]
        figures[f"batch_{batch}"] = statistics.median([*seconds, last]) / batch
    figures["peak_bytes"] = peak
    return figures


def _seconds(call: Callable[[Tensor], Any], images: Tensor) -> float:
    _wait(images)
    start = time.perf_counter()
    call(images)
    _wait(images)
    return time.perf_counter() - start


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _with_peak(call: Callable[[], float], images: Tensor) -> tuple[float, int]:
    """What `call` returns, and the most memory it took."""
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        result = call()
        return result, int(torch.cuda.max_memory_allocated(images.device) - before)
    _trim()
    done, highest, before = threading.Event(), [0], _resident()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = call()
    finally:
        done.set()
        watcher.join()
    return result, max(highest[0] - before, 0)


def _trim() -> None:
    """Give freed memory back where the C library can (glibc): a warm process hides what a call takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    if not STATM.exists():
        return 0
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
