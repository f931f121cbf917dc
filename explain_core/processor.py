"""How a process runs PyTorch on a CPU: memory that it keeps, cores that it shares; nothing here loads PyTorch."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # mallopt(3)
_KEPT, _PAD = (1 << 31) - 1, 64 << 20
_SPIN = "1000"  # what GNU OpenMP takes itself where it has more threads than the machine cores


def keep_memory() -> bool:
    """Let this process keep the memory that tensors free, on Linux with glibc; call it once at the start.

    Otherwise glibc maps every large tensor anew and gives it back when it is freed, and on a CPU the page faults cost
    more than half of a network's time.

    Returns:
        whether the C library took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT) and mallopt(_M_TOP_PAD, _PAD))


def share_cores() -> None:
    """Let PyTorch's threads that wait for each other give their cores away; call it before anything loads PyTorch.

    GNU OpenMP, in PyTorch's wheels for Linux, waits with 300,000 turns of a loop. Where another process wants that
    core, every layer then costs a slice of the scheduler's time: a pass takes eighty times as long beside one busy
    process, in place of twice; what it costs a process alone is in docs/performance.md too. Who has set GOMP_SPINCOUNT
    or OMP_WAIT_POLICY has decided.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)
