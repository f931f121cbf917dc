"""pynetdicom's server as a listener needs it: what happens to a connection before anybody has read a byte of it."""

import copy
import socket
import time
from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer

from dicom_node.receive.secure import ServerTLS

log = structlog.get_logger(__name__)


class _Contexts(list[PresentationContext]):
    """pynetdicom makes a deep copy for each connection before it accepts the next: 40 ms, of what nobody changes."""

    def __deepcopy__(self, _memo: object) -> list[PresentationContext]:
        return [copy.copy(one) for one in self]


class Server(AssociationServer):
    """pynetdicom's server with a check before each connection, no delay on answers, and time-outs at once.

    It sets an association up before it accepts the next connection, so that the check counts exactly. Nothing here
    waits for a peer: the handshake of TLS is made later, by the thread of the connection.
    """

    request_queue_size = 64

    def __init__(
        self, *args: Any, admit: Callable[[str], bool], timeout: float, tls: ServerTLS | None, **kwargs: Any
    ) -> None:
        self._admit = admit
        self._seconds = timeout
        self._tls = tls
        self.looked = time.monotonic()
        super().__init__(*args, **kwargs)
        self.contexts = _Contexts(self.contexts)

    def service_actions(self) -> None:
        """Once in every round of the loop that accepts connections: note that it goes round."""
        super().service_actions()
        self.looked = time.monotonic()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's signature
        """Whether the connection is wanted."""
        return self._admit(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Say what went wrong while a connection was set up."""
        log.error("connection failed", peer=client_address[0], exc_info=True)  # noqa: LOG014 - called by one

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection, and secure it where this is the port of TLS."""
        connection, address = super().get_request()
        connection.settimeout(self._seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (connection if self._tls is None else self._tls.wrap(connection)), address
