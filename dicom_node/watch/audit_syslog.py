"""The audit trail sent to an audit repository: syslog over TLS (PS3.15 A.6, RFC 5424, RFC 5425).

The trail's files are the queue: `syslog.json` says how far they were sent. One process sends at a time, whichever holds
the lock `syslog.lock`; when it ends, another goes on. A server that is away costs nobody anything: what waits is on the
disk already, and is sent in order when it is back.

Syslog has no acknowledgement. A message counts as sent when the server's TCP has acknowledged its bytes and has not
closed the connection; so a broken connection makes some come twice, and only a server that dies with bytes it has
acknowledged and not read loses any.
"""

import fcntl
import json
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_node.errors import ConfigError
from dicom_node.watch.audit_message import Message, Outcome, to_xml
from dicom_node.watch.audit_trail import files, order, taken
from explain_core.files import write

POSITION: Final = "syslog.json"
LOCK: Final = "syslog.lock"
SECONDS: Final = 10.0
"""For a connection, and for bytes on their way."""
LONGEST_WAIT: Final = 60.0
MESSAGE_ID: Final = "DICOM+RFC3881"
_FACILITY = 10
"""Security and authorization messages (PS3.15 A.6)."""
_NOTICE, _WARNING = 5, 4
_BATCH_BYTES = 1 << 18
_NEEDED = ("EventIdentification", "ActiveParticipant", "AuditSourceIdentification")
_OBJECTS = "ParticipantObjectIdentification"
_BOM = b"\xef\xbb\xbf"  # RFC 5424 6.4: the text is UTF-8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An audit repository.

    Attributes:
        host: its name, which its certificate must have.
        port: 6514 by RFC 5425.
        authorities: PEM file of whom to believe; None: those of the system.
        certificate: PEM file of our certificate and what leads to its authority, or None.
        key: PEM file of its key, or None where the certificate's file has it.
    """

    host: str
    port: int
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, with the server's certificate and name checked.

        Raises:
            ConfigError: a file cannot be used; the message names the setting.
        """
        try:
            made = ssl.create_default_context(cafile=self.authorities)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"audit.syslog_ca: {self.authorities} cannot be used: {_why(error)}") from error
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            try:
                made.load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"audit.syslog_certificate: {self.certificate} cannot be used with its key: {_why(error)}"
                ) from error
        return made


def _why(error: Exception) -> str:
    """What is the matter with a connection or a file, in few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not believed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def syslog(message: Message, host: str) -> bytes:
    """A SYSLOG-MSG (RFC 5424) of an audit message; failures are warnings, all else is a notice (PS3.15 A.6)."""
    event = message["EventIdentification"]
    severity = _NOTICE if event["EventOutcomeIndicator"] == Outcome.SUCCESS.value else _WARNING
    header = f"<{_FACILITY * 8 + severity}>1 {event['EventDateTime']} {host} dicom-node {os.getpid()} {MESSAGE_ID} - "
    return header.encode("ascii") + _BOM + to_xml(message)


def framed(message: bytes) -> bytes:
    """With its length before it: octet counting (RFC 5425 4.3)."""
    return str(len(message)).encode("ascii") + b" " + message


class Forwarder:
    """Sends what stands in a trail's files, in order, each line once where nothing breaks.

    Args:
        folder: of the trail.
        server: where to.

    Raises:
        ConfigError: a certificate cannot be used.
    """

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._context = server.context()
        self._host = "".join(letter for letter in socket.gethostname() if letter.isascii() and letter.isprintable())
        self._lock: int | None = None
        self._connection: ssl.SSLSocket | None = None
        self._failures = 0
        self._not_before = 0.0

    def step(self) -> int:
        """Send what there is, if the lock is ours and the server answers; how many messages were sent."""
        if time.monotonic() < self._not_before:
            return 0
        sent = 0
        try:
            if self._ours():
                for messages, position in self._waiting():
                    self._send(messages)
                    write(self._folder / POSITION, json.dumps(position) + "\n", durable=False)
                    sent += len(messages)
        except OSError as error:  # of which those of TLS are some
            self._failed(error)
        return sent

    def close(self) -> None:
        """End the connection, and let another process send."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _ours(self) -> bool:
        if self._lock is None:
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not taken(descriptor):
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _waiting(self) -> Iterator[tuple[list[Message], dict[str, Any]]]:
        """What was not sent yet, in portions, and how far each goes."""
        known = self._position()
        for path in files(self._folder):
            if order(path) < order(Path(known["file"])):
                continue
            start = known["length"] if path.name == known["file"] else 0
            with path.open("rb") as file:
                file.seek(start)
                while whole := _whole_lines(file.read(_BATCH_BYTES), file):
                    start += len(whole)
                    lines = list(_lines(whole, path.name))
                    if lines and 0 < known["number"] < lines[0]["number"] - 1:
                        removed = lines[0]["number"] - 1 - known["number"]
                        log.error("audit messages never sent: their files have been removed", count=removed)
                    number = lines[-1]["number"] if lines else known["number"]
                    known = {"file": path.name, "length": start, "number": number}
                    yield [_message(one) for one in lines], known

    def _position(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / POSITION).read_text())
            return {"file": str(found["file"]), "length": int(found["length"]), "number": int(found["number"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"file": "", "length": 0, "number": 0}

    def _send(self, messages: list[Message]) -> None:
        if self._connection is None:
            plain = socket.create_connection((self._server.host, self._server.port), SECONDS)
            try:
                self._connection = self._context.wrap_socket(plain, server_hostname=self._server.host)
            except BaseException:
                plain.close()
                raise
            if self._failures:
                log.warning("audit messages are sent again", server=self._server.host)
            self._failures = 0
        self._connection.sendall(b"".join(framed(syslog(one, self._host)) for one in messages))
        _wait_until_taken(self._connection)

    def _failed(self, error: OSError) -> None:
        self._disconnect()
        if not self._failures:
            log.warning("audit messages are not sent; they wait", server=self._server.host, reason=_why(error))
        self._failures += 1
        self._not_before = time.monotonic() + min(2.0**self._failures / 2, LONGEST_WAIT)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _whole_lines(portion: bytes, file: Any) -> bytes:
    """Up to the last line end; a line that is longer than a portion is read to its end, one without end is left."""
    if portion and b"\n" not in portion:
        portion += file.readline()
    end = portion.rfind(b"\n") + 1
    file.seek(end - len(portion), os.SEEK_CUR)
    return portion[:end]


def _lines(portion: bytes, name: str) -> Iterator[dict[str, Any]]:
    """The lines that hold a message; a torn line holds none."""
    for raw in portion.splitlines():
        try:
            line = json.loads(raw)
            whole = isinstance(line["number"], int) and all(isinstance(line[part], dict | list) for part in _NEEDED)
        except (ValueError, KeyError, TypeError):
            whole = False
        if whole:
            yield line
        else:
            log.warning("a torn audit line is not sent", file=name)


def _message(line: dict[str, Any]) -> Message:
    return {part: line[part] for part in (*_NEEDED, _OBJECTS) if part in line}


def _wait_until_taken(connection: ssl.SSLSocket) -> None:
    """Until the server's TCP has acknowledged all bytes.

    Raises:
        OSError: it has not in time, or has closed the connection.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        connection.settimeout(0)
        try:
            if connection.recv(1024) == b"":
                raise ConnectionResetError("the server has closed the connection")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        finally:
            connection.settimeout(SECONDS)
        unsent = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        if unsent == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the server takes nothing")
        time.sleep(0.01)
