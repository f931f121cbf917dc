"""The listener's side of DICOM TLS: files that are renewed without a restart, and the handshake of one connection.

The accept loop makes no handshake: it only puts a context around the connection. The handshake is made by the thread of
the connection with its first bytes, within the time that its first message has (`node.acse_timeout`).
"""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from dicom_node.dicom import tls
from dicom_node.dicom.tls_failures import HANDSHAKE_RECORD, NotTLS, meaning
from dicom_node.errors import ConfigError
from dicom_node.settings.sections import TLSSettings

log = structlog.get_logger(__name__)

REMIND_BEFORE = timedelta(days=30)
REMIND_EVERY = timedelta(days=1)
_FINGERPRINT = 32
"""Hexadecimal digits of a certificate's SHA-256 in the log; it is found again by its beginning."""

_Stamp = tuple[int, int, int] | None


class ServerTLS:
    """What new connections are secured with; its files are looked at again whenever they have changed.

    Args:
        settings: with certificate and key.
        clock: the time, aware.

    Raises:
        ConfigError: a file cannot be used. A certificate that has expired can: who does not mind may go on sending.
    """

    def __init__(self, settings: TLSSettings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._context, self._validity = self._load()
        self._remind_at = clock()
        self._remind()

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """The same connection with TLS around it, before its handshake."""
        self.look()
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def look(self) -> None:
        """Take up files that have changed, and say once a day that the certificate is about to expire.

        Files that cannot be used are named in the log, once, and the former ones stay.
        """
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                self._renew()
            self._remind()

    def _load(self) -> tuple[ssl.SSLContext, tls.Validity]:
        context = tls.server_context(
            self._settings.files, require_client_certificate=self._settings.require_client_certificate
        )
        return context, tls.validity(self._settings.files)

    def _renew(self) -> None:
        try:
            context, validity = self._load()
            validity.check(self._clock())
        except ConfigError as error:
            log.error("TLS files not taken up, the former ones stay in use", reason=str(error))  # noqa: TRY400
            return
        self._context, self._validity = context, validity
        self._remind_at = self._clock()
        log.info("TLS files taken up", valid_until=f"{validity.ends:%Y-%m-%d}")

    def _remind(self) -> None:
        now = self._clock()
        if now < self._remind_at:
            return
        self._remind_at = now + REMIND_EVERY
        if self._settings.key is not None and (warning := tls.exposed(self._settings.key)):
            log.warning("TLS key is exposed", reason=warning)
        try:
            self._validity.check(now)
        except ConfigError as error:
            log.error("TLS certificate is not valid", reason=str(error))  # noqa: TRY400
            return
        if now > self._validity.ends - REMIND_BEFORE:
            log.warning(
                "TLS certificate expires soon",
                valid_until=f"{self._validity.ends:%Y-%m-%d}",
                advice="put a renewed one in its place; it is taken up without a restart",
            )

    def _stamps(self) -> tuple[_Stamp, ...]:
        files = self._settings.files
        found: list[_Stamp] = []
        for path in (files.certificate, files.key, files.authorities, files.revocations):
            try:
                known = path.stat() if path is not None else None
            except OSError:
                known = None
            found.append((known.st_mtime_ns, known.st_size, known.st_ino) if known else None)
        return tuple(found)


class Handshake:
    """The handshake of one connection, made with its first bytes.

    Args:
        connection: not yet secured.
        seconds: for the handshake, from now on.

    Attributes:
        made: how the connection is secured, for the log: version, and the beginning of the SHA-256 of the peer's
            certificate; None before the handshake.
    """

    def __init__(self, connection: ssl.SSLSocket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds
        self._tried = False
        self.made: dict[str, str] | None = None

    def make(self, peer: str) -> bool:
        """Shake hands, once: pynetdicom may ask again before it takes notice of a failure.

        Returns:
            False when the peer has gone without a byte, as the checks of a load balancer do.

        Raises:
            OSError: it failed; the log says why.
        """
        if self._tried:
            raise ConnectionAbortedError("there is no TLS connection")
        self._tried = True
        connection = self._connection
        try:
            self._limit()
            first = socket.socket.recv(connection, 1, socket.MSG_PEEK)
            if not first:
                return False
            if first != HANDSHAKE_RECORD:
                raise NotTLS
            self._limit()
            connection.do_handshake()
        except OSError as error:
            log.warning("no TLS connection", peer=peer, reason=meaning(error))
            raise
        shown = connection.getpeercert(binary_form=True)
        self.made = {"tls": str(connection.version())}
        if shown:
            self.made["certificate"] = hashlib.sha256(shown).hexdigest()[:_FINGERPRINT]
        return True

    def _limit(self) -> None:
        self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
