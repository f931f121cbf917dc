"""How a process on a CPU keeps the memory of its tensors; nothing here loads PyTorch."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # mallopt(3)
_KEPT, _PAD = (1 << 31) - 1, 64 << 20


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
