"""Compressed images are decoded in a process of its own, which may take so much memory and so many seconds.

Decoders are C code that holds Python's lock: one that a codestream leads astray can neither be interrupted nor
survived in the worker's own process. The child (`python -m dicom_node.dicom.decoding SOCKET`) decodes one image after
the other; it is started with the first, ends with its socket, and is killed when an image takes too long. One that
loses its parent in the midst of an image ends at its limit of processor time.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

SECONDS = 30.0
"""For one image: the largest radiographs take two on an idle core."""
BYTES_PER_PIXEL = 32
"""Memory of a decoder beside its input: OpenJPEG took 13 of 98 megapixels (measured), and some is only reserved."""
BYTES_BESIDE = 256 << 20

Options: TypeAlias = Mapping[str, Any]
"""What pydicom's decoders are told: rows, columns, bits_allocated, ... (pydicom.pixels.decoders)."""


class CannotDecode(Exception):
    """The bytes are no such image, or make the decoder take more than an image may; the text says which."""


def decoded(data: bytes, syntax: UID, options: Options) -> NDArray[np.generic]:
    """The first frame of encapsulated pixel data.

    Args:
        data: value of Pixel Data (PS3.5 A.4).
        syntax: a compressed transfer syntax.
        options: what the decoder is told.

    Returns:
        stored values, shape (rows, columns), or (rows, columns, samples).

    Raises:
        CannotDecode: it is no such image, or too much of one.
    """
    with _lock:
        return _child().decode(data, syntax, options)


class _Child:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very module
                [sys.executable, "-m", "dicom_node.dicom.decoding", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # a terminal's interrupt is for its parent
            )
        self._connection = Connection(ours.detach())
        self.owner = os.getpid()

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and not self._connection.closed and self._process.poll() is None

    def decode(self, data: bytes, syntax: UID, options: Options) -> NDArray[np.generic]:
        memory = BYTES_BESIDE + BYTES_PER_PIXEL * int(options["rows"]) * int(options["columns"])
        asked = {"syntax": str(syntax), "options": dict(options), "memory": memory}
        try:
            self._connection.send_bytes(json.dumps(asked).encode())
            self._connection.send_bytes(data)
            in_time = self._connection.poll(SECONDS)
            answer: dict[str, Any] = (
                json.loads(self._connection.recv_bytes()) if in_time else {"error": "it takes too long"}
            )
            if "error" not in answer:
                pixels = np.frombuffer(self._connection.recv_bytes(), dtype=answer["dtype"])
                return pixels.reshape(answer["shape"])
        except (OSError, EOFError, ValueError) as error:  # it died: by a fault of its own, or for want of memory
            self._end()
            raise CannotDecode("the decoder gave up") from error
        except BaseException:  # the worker's own limit
            self._end()
            raise
        self._end()
        raise CannotDecode(answer["error"])

    def _end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


_lock = threading.Lock()
_kept: list[_Child] = []


def _child() -> _Child:
    """The child of this process; a fork's parent has another."""
    if not (_kept and _kept[0].usable):
        _kept[:] = [_Child()]
    return _kept[0]


def as_array(data: bytes, syntax: UID, options: Options) -> NDArray[np.generic]:
    """The first frame of pixel data in this process; pydicom's decoders raise whatever they like."""
    array, _ = get_decoder(syntax).as_array(data, index=0, **options)
    return array


def serve(connection: Connection) -> None:
    """Decode what comes until nothing more does."""
    held = _address_space()
    _, most_memory = resource.getrlimit(resource.RLIMIT_AS)
    _, most_time = resource.getrlimit(resource.RLIMIT_CPU)
    while True:
        try:
            asked, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except EOFError:
            return
        if held:
            _limit(resource.RLIMIT_AS, held + 2 * len(data) + asked["memory"], most_memory)
        _limit(resource.RLIMIT_CPU, int(time.process_time() + 2 * SECONDS), most_time)
        try:
            pixels = np.ascontiguousarray(as_array(data, UID(asked["syntax"]), asked["options"]))
        except MemoryError:
            connection.send_bytes(json.dumps({"error": "it takes more memory than such an image may"}).encode())
            continue
        except Exception as error:  # noqa: BLE001 - decoders raise whatever they like: these bytes are not an image
            connection.send_bytes(json.dumps({"error": f"damaged ({type(error).__name__})"}).encode())
            continue
        connection.send_bytes(json.dumps({"dtype": pixels.dtype.str, "shape": pixels.shape}).encode())
        connection.send_bytes(pixels.reshape(-1).view(np.uint8).data)


def _limit(what: int, most: int, hard: int) -> None:
    """Set a limit of this process, within one that it was started with."""
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space() -> int:
    """Bytes of address space that the process has without an image; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    return 0


def _main() -> None:
    import pydicom.pixels.decoders  # noqa: F401, PLC0415 - all plug-ins, before the memory is measured

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    _main()
