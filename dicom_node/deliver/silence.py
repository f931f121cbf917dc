"""A line over which nothing moves any more is ended; a slow one may take its time."""

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Self, cast

from pynetdicom.association import Association

SLOWEST_READER = 20_000
"""Bytes a second at which a destination takes out of its buffers what it has been sent."""
_BESIDE = 4096
"""Bytes of a file that are not sent: preamble and file meta information."""


class Silence(threading.Thread):
    """Ends a connection over which nothing moves any more while one object is sent; a slow one may take its time.

    Progress is what the peer's TCP has acknowledged or sent. When the whole object is acknowledged it may still lie in
    the peer's buffers: to be read from there it has, beside `seconds`, the time of SLOWEST_READER.

    Args:
        association: over which it is sent.
        connection: of the association; None watches nothing.
        seconds: without progress.
        path: the object.
    """

    def __init__(self, association: Association, connection: socket.socket | None, seconds: float, path: Path) -> None:
        super().__init__(name="silence", daemon=True)
        self._association = association
        self._connection = connection
        self._seconds = seconds
        self._size = 0
        with contextlib.suppress(OSError):  # whoever sends it says so
            self._size = path.stat().st_size
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._begun = self._moved() if self._connection is not None else None
        if self._connection is not None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._connection is not None:
            self.join()

    def run(self) -> None:
        """Look ten times in the allowed time."""
        seen, since = self._begun, time.monotonic()
        while not self._over.wait(min(1.0, self._seconds / 10)):
            now = self._moved()
            if now is None or self._begun is None or not self._association.dul.is_alive():
                break
            if now != seen:
                seen, since = now, time.monotonic()
            whole = now[0] - self._begun[0] >= self._size - _BESIDE
            if time.monotonic() - since > self._seconds + (self._size / SLOWEST_READER if whole else 0):
                with contextlib.suppress(OSError):
                    cast("socket.socket", self._connection).shutdown(socket.SHUT_RDWR)
                break
        if not self._over.is_set():  # whoever waits for the answer: there will be none, and pynetdicom may not say so
            self._association.dimse.msg_queue.put((None, None))

    def _moved(self) -> tuple[int, int] | None:
        return moved(cast("socket.socket", self._connection))


def moved(connection: socket.socket) -> tuple[int, int] | None:
    """Bytes that the peer has acknowledged, and bytes that came from it (tcp_info of Linux 4.1); None: it is closed."""
    try:
        return struct.unpack_from("=QQ", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136), 120)
    except (OSError, struct.error):
        return None
