"""A small real origin server (PS3.18 section 10.5) on loopback, with a token endpoint; it misbehaves as it is told."""

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Self

from pydicom import dcmread

SECRET = "s3cr3t/of=the node"  # noqa: S105


@dataclass
class Received:
    """One request; `parts` are the files in its body, `uids` their SOP Instance UIDs."""

    method: str
    path: str
    headers: Message
    body: bytes
    parts: list[bytes] = field(default_factory=list)

    @property
    def uids(self) -> list[str]:
        return [str(dcmread(BytesIO(part), stop_before_pixels=True).SOPInstanceUID) for part in self.parts]


Reply = tuple[int, dict[str, str], bytes]


def reply(status: int, body: object = b"", content_type: str = "application/dicom+json", **headers: str) -> Reply:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        status,
        {"Content-Type": content_type} | {name.replace("_", "-"): one for name, one in headers.items()},
        encoded,
    )


def stored(uids, failed=None, warnings=None) -> dict:
    """A Store Instances Response Module in DICOM JSON."""

    def item(uid, tag=None, code=None):
        one = {"00081155": {"vr": "UI", "Value": [uid]}}
        return one | ({tag: {"vr": "US", "Value": [code]}} if tag else {})

    made = {}
    if uids or warnings:
        good = [item(uid) for uid in uids] + [item(uid, "00081196", code) for uid, code in (warnings or {}).items()]
        made["00081199"] = {"vr": "SQ", "Value": good}
    if failed:
        made["00081198"] = {"vr": "SQ", "Value": [item(uid, "00081197", code) for uid, code in failed.items()]}
    return made


class OriginServer:
    """Stores what it gets, unless `answer` says something else.

    Args:
        answer: (request, its number from 1) -> a reply, None for the usual one, or a function that is given the
            handler and writes what it likes.
        tokens: whether a token of its own endpoint is asked for.
        tls: (certificate, key) and, where clients must show one, the authority of their certificates.
        expires_in: seconds that its tokens say they last.
        keep: whether what comes is kept, or read and thrown away.
    """

    def __init__(
        self,
        answer: Callable | None = None,
        *,
        tokens: bool = False,
        tls: tuple = (),
        expires_in=3600,
        keep: bool = True,
    ) -> None:
        self.requests: list[Received] = []
        self.tokens_given: list[str] = []
        self.token_reply: Reply | None = None
        self.expires_in = expires_in
        self.revoked: set[str] = set()
        self.objects: dict[str, bytes] = {}
        server, self._answer, self._tokens, self._keep = self, answer, tokens, keep
        self.bytes_read = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                server._handle(self)

            do_GET = do_POST  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls[0], tls[1])
            if len(tls) > 2:
                context.load_verify_locations(tls[2])
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"

    @property
    def token_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/token"

    @property
    def stores(self) -> list[Received]:
        return [one for one in self.requests if one.path.startswith("/dicom-web/studies/")]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length) if self._keep else self._discard(handler.rfile, length)
        request = Received(handler.command, handler.path, handler.headers, body)
        if handler.headers.get_content_type() == "multipart/related":
            request.parts = parts(handler.headers.get_boundary(), body) if self._keep else []
        self.requests.append(request)
        if request.path == "/token":
            self._write(handler, self._token())
            return
        if self._tokens and not self._knows(request):
            self._write(handler, reply(401, b"who?", "text/plain"))
            return
        said = self._answer(request, len(self.requests)) if self._answer else None
        if callable(said):
            with contextlib.suppress(OSError):
                said(handler)
            handler.close_connection = True
            return
        self._write(handler, said or self._store(request))

    def _discard(self, file, length: int) -> bytes:
        while length and (part := file.read(min(length, 65536))):
            length -= len(part)
            self.bytes_read += len(part)
        return b""

    def _store(self, request: Received) -> Reply:
        if request.method == "GET":
            return reply(200, [{"0020000D": {"vr": "UI", "Value": ["2.25.7"]}}])
        uids = request.uids
        self.objects |= dict(zip(uids, request.parts, strict=True))
        return reply(200, stored(uids))

    def _token(self) -> Reply:
        if self.token_reply is not None:
            return self.token_reply
        token = f"token-{len(self.tokens_given)}-of-this-server"
        self.tokens_given.append(token)
        said = {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        return reply(200, said, "application/json")

    def _knows(self, request: Received) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme == "Bearer" and token in self.tokens_given and token not in self.revoked

    @staticmethod
    def _write(handler, said: Reply) -> None:
        status, headers, body = said
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(body)


def parts(boundary: str, body: bytes) -> list[bytes]:
    """The parts of a multipart body, to the letter of RFC 2046 section 5.1.1."""
    found = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    assert found[0] == b""
    assert found[-1] == b"--\r\n"
    return [one.partition(b"\r\n\r\n")[2] for one in found[1:-1]]


def drip(seconds: float, first: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n") -> Callable:
    """An answer of which a byte comes now and then, for so long."""

    def write(handler) -> None:
        handler.wfile.write(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return write


def reset(handler) -> None:
    """End the connection in the middle of nothing."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def certificates(folder: Path, *names: str) -> dict[str, Path]:
    """An authority and what it signed for 127.0.0.1, PEM: "authority", and NAME, NAME.key for each name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, made = dt.datetime.now(dt.UTC), {}
    root_key, root_name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=authority")

    def sign(name, key, *, ca):
        subject = x509.Name.from_rfc4514_string(f"CN={name}")
        identity = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        if ca:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "encipher_only", "decipher_only"), False,
            )  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        else:
            builder = builder.add_extension(issuer, critical=False)
        made[name] = folder / f"{name}.pem"
        made[name].write_bytes(builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    sign("authority", root_key, ca=True)
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        sign(name, key, ca=False)
        made[f"{name}.key"] = folder / f"{name}.key"
        made[f"{name}.key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return made
