"""A process tells whoever keeps it that it is ready, that it lives, and that it is about to end.

Under systemd it tells over the socket of sd_notify(3). In a container, which has none, the file that DICOM_NODE_PULSE
names is there while the process is ready and is touched while it lives; `python -m dicom_node.watch.pulse` is the
health check: exit status 0 while the file is fresh. Where nobody listens nothing happens.

`beat` stands in the loops whose standstill makes a process useless, never in a thread that does nothing but beat: who
is told that a process lives may rely on it.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "DICOM_NODE_PULSE"
"""Names the file; not a setting."""
LONGEST_SECONDS: Final = 180
"""How long a process that lives may be silent; WatchdogSec of its unit is the same."""
_EVERY_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 30.0
"""While a machine starts its systemd is busy, and this is said only once."""


@dataclass(slots=True)
class _Keeper:
    """Who keeps this process.

    Attributes:
        address: systemd's socket, or None; one that begins with @ is in the abstract namespace.
        file: a container's, or None.
    """

    address: str | None
    file: Path | None
    ready: bool = False
    told: float = 0.0

    def tell(self, state: str, patience: float = 0.0) -> None:
        """Say it to systemd, within so many seconds; one that does not listen is no reason to end, nor to wait."""
        if self.address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            sender.sendto(state.encode(), self.address.replace("@", "\0", 1))


_keeper = _Keeper(None, None)


def begin(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell what is told from now on to the keeper that the environment names, if any.

    Its variables are taken out of the environment: children of this process have no keeper but this process.
    """
    global _keeper  # noqa: PLW0603 - a process has one keeper, from its start to its end
    address, file = environment.pop("NOTIFY_SOCKET", None), environment.pop(VARIABLE, None)
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        environment.pop(name, None)
    _keeper = _Keeper(address, None if file is None else Path(file))
    if _keeper.file is not None:
        with contextlib.suppress(OSError):
            _keeper.file.unlink(missing_ok=True)  # of the process before, in the same container


def ready() -> None:
    """The process does its work from now on; only the first time is told, before any sign of life of another thread."""
    if _keeper.ready:
        return
    _keeper.tell("READY=1", patience=_PATIENCE_SECONDS)
    _keeper.told = time.monotonic()
    _keeper.ready = True
    if _keeper.file is not None:
        try:
            _keeper.file.touch()
        except OSError as error:
            logging.getLogger(__name__).error("%s: %s cannot be written: %s", VARIABLE, _keeper.file, error.strerror)  # noqa: TRY400


def beat() -> None:
    """The process lives; cheap enough for every round of a loop."""
    now = time.monotonic()
    if not _keeper.ready or now - _keeper.told < _EVERY_SECONDS:
        return
    _keeper.told = now
    _keeper.tell("WATCHDOG=1")
    if _keeper.file is not None:
        with contextlib.suppress(OSError):
            os.utime(_keeper.file)


def stopping() -> None:
    """The process ends: it takes no new work."""
    _keeper.ready = False
    _keeper.tell("STOPPING=1")
    if _keeper.file is not None:
        with contextlib.suppress(OSError):
            _keeper.file.unlink(missing_ok=True)


def stop_signal() -> threading.Event:
    """Is set at SIGTERM or SIGINT; the keeper is told at once that the process ends."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        stopping()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return stop


def why_not(environment: MutableMapping[str, str], now: float) -> str | None:
    """What keeps the process of this container from being ready and alive, or None.

    Args:
        environment: names the file.
        now: in seconds since the epoch.
    """
    named = environment.get(VARIABLE)
    if named is None:
        return f"{VARIABLE} is not set"
    try:
        silent = now - Path(named).stat().st_mtime
    except OSError:
        return "not ready"
    return None if silent < LONGEST_SECONDS else f"silent for {silent:.0f} s"


if __name__ == "__main__":
    sys.exit(why_not(os.environ, time.time()))
