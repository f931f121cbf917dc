"""Servers that alerts are told to: a mail server and a web server that keep what they get, and one that hangs."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from working import free_port


class Mailbox:
    """Keeps what comes; refuses recipients of nowhere.example."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    async def handle_RCPT(self, _server, _session, envelope, address, _options) -> str:  # noqa: N802 - aiosmtpd's name
        if address.endswith("@nowhere.example"):
            return "550 no such user Doe^John"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server, _session, envelope) -> str:  # noqa: N802
        self.messages.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


@contextlib.contextmanager
def mail_server(*, password: str | None = None, **tls) -> Iterator[tuple[Mailbox, int]]:
    """A mail server; with a password it asks for user "explain", with tls_context for STARTTLS first."""
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # it tells of every line that it gets
    mailbox, port = Mailbox(), free_port()

    def check(_server, _session, _envelope, _mechanism, data) -> AuthResult:
        right = (data.login, data.password) == (b"explain", (password or "").encode())
        return AuthResult(success=right, handled=False)

    asks = {} if password is None else {"authenticator": check, "auth_required": True}
    secured = {"require_starttls": True} if tls else {}
    server = Controller(mailbox, hostname="127.0.0.1", port=port, **asks, **secured, **tls)
    server.start()
    try:
        yield mailbox, port
    finally:
        server.stop()


class Hook:
    """A web server that keeps what is posted to it, and answers as it is told."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((self.path, dict(self.headers), content))
                self.send_response(hook.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/secret-path"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
