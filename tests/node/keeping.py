"""The other end of NOTIFY_SOCKET, for tests of processes that tell how they are."""

import socket


class Systemd:
    """Hears what a process says of itself.

    Args:
        address: a path, or a name that begins with @.
    """

    def __init__(self, address):
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))

    def heard(self, seconds=0.0):
        """The next message, or None."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1000).decode()
        except (BlockingIOError, TimeoutError):
            return None

    def close(self):
        self._socket.close()
