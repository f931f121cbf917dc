"""A slow line between a sender and a real destination, for any protocol over TCP."""

import contextlib
import socket
import threading
import time


class SlowLine(threading.Thread):
    """Passes a connection on to a port, so many bytes a second and at most so many; the answers as they come."""

    def __init__(self, port: int, rate: float, most: float = float("inf")) -> None:
        super().__init__(daemon=True)
        self._there, self._rate, self._most = port, rate, most
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port = self._listening.getsockname()[1]
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            near = held.enter_context(held.enter_context(self._listening).accept()[0])
            far = held.enter_context(socket.create_connection(("127.0.0.1", self._there)))
            near.settimeout(60)
            far.settimeout(60)
            back = threading.Thread(target=self._back, args=(far, near), daemon=True)
            back.start()
            passed = 0
            while not self.over.is_set():
                if passed >= self._most:
                    self.over.wait(30)
                    return
                part = near.recv(2048)
                if not part:
                    return
                far.sendall(part)
                passed += len(part)
                if passed > 2048:  # the negotiation goes through at once
                    time.sleep(len(part) / self._rate)

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := far.recv(4096):
                near.sendall(part)
