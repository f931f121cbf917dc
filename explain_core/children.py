"""Child processes that end with the process that started them, however it ends."""

import os
import signal
import sys

_PROGRAM = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[1])); "
    "os.getppid() == int(sys.argv[2]) or sys.exit(1); os.execv(sys.argv[3], sys.argv[3:])"
)
"""PR_SET_PDEATHSIG of prctl(2); it outlives execve(2). The parent may have died before."""


def bound_to_parent(number: int = signal.SIGTERM) -> list[str]:
    """The beginning of a command: the program that follows gets this signal when this thread's process dies."""
    return [sys.executable, "-c", _PROGRAM, str(int(number)), str(os.getpid())]
