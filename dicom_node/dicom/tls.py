"""DICOM TLS: contexts for the BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 B.12).

TLS 1.2 and 1.3; of TLS 1.2 the four cipher suites that RFC 9325 section 4.2 recommends. No session is resumed: every
connection shows its certificate, so that one that is renewed or revoked counts from the next connection on.

All files are PEM. What is wrong with one is a `ConfigError` that names the setting, the file and what to do; what goes
wrong between the peers is in `tls_failures`.
"""

import socket
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dicom_node.errors import ConfigError
from dicom_node.nouns import TLSFiles

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CIPHER_SUITES = (
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
)
"""Of TLS 1.2, in the order of preference, by their IANA names; those of TLS 1.3 are all good and cannot be chosen."""
_OPENSSL_NAMES = ":".join(
    name.removeprefix("TLS_").replace("_WITH_AES_", "-AES").replace("_", "-") for name in CIPHER_SUITES
)
_SECURITY_LEVEL = 2
"""OpenSSL's: RSA keys of 2048 bits, no SHA-1 signatures (RFC 9325 sections 4.5 and 4.6)."""


class Connection(ssl.SSLSocket):
    """A TLS connection that remembers why it failed, and of which nothing ever leaves without TLS."""

    failure: OSError | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the standard library's signature
        """Shake hands; pynetdicom keeps the reason of a failure to itself."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = error
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's signature
        """Read; in TLS 1.3 a server's refusal of our certificate comes here, after the handshake."""
        try:
            return super().read(len, buffer)
        except (ssl.SSLError, ConnectionError) as error:
            self.failure = error
            raise

    def shutdown(self, how: int) -> None:
        """End the connection in TCP alone: SSLSocket.shutdown would let a thread that is sending go on in the clear."""
        socket.socket.shutdown(self, how)


class Context(ssl.SSLContext):
    """Makes connections of ours."""

    sslsocket_class: ClassVar[type[ssl.SSLSocket]] = Connection  # type: ignore[misc]  # a class attribute there too


def server_context(files: TLSFiles, *, require_client_certificate: bool) -> ssl.SSLContext:
    """For the side that is connected to.

    Args:
        files: certificate and key must be there, and authorities where peers must show a certificate.
        require_client_certificate: False: whoever shows none is taken too; one that is shown is checked.

    Raises:
        ConfigError: a file is missing, unreadable or not what it should be, or the key is of another certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files, "tls.authorities")
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    if require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    else:
        context.verify_mode = ssl.CERT_OPTIONAL if files.authorities is not None else ssl.CERT_NONE
    return context


def client_context(files: TLSFiles, *, check_name: bool) -> ssl.SSLContext:
    """For the side that connects; the other side's certificate is always checked.

    Args:
        files: authorities must be there; certificate and key where the other side wants one.
        check_name: whether the certificate must carry the name that the connection is made for.

    Raises:
        ConfigError: as of `server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files, "the authorities of the destination")
    context.check_hostname = check_name
    return context


def _context(protocol: int, files: TLSFiles, believed: str) -> ssl.SSLContext:
    context = Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{_OPENSSL_NAMES}:@SECLEVEL={_SECURITY_LEVEL}")
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    if files.certificate is not None and files.key is not None:
        _load_chain(context, files.certificate, files.key)
    for setting, path in ((believed, files.authorities), ("tls.revocations", files.revocations)):
        if path is not None:
            _check_readable(setting, path)
            try:
                context.load_verify_locations(path)
            except ssl.SSLError:
                raise ConfigError(f"{setting}: {path} holds nothing of the kind in PEM form") from None
    context.verify_flags |= (
        ssl.VERIFY_X509_PARTIAL_CHAIN
    )  # an issuing authority or a station's own will do, without a root
    if files.revocations is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for setting, path in (("tls.certificate", certificate), ("tls.key", key)):
        _check_readable(setting, path)
    certificates(certificate)
    asked = []

    def password() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or ""
        if asked:
            advice = (
                f"{key} is encrypted; nobody is there to be asked: openssl pkey -in {key} -out FILE, chmod 400 FILE"
            )
        elif reason == "KEY_VALUES_MISMATCH":
            advice = f"{key} is not the key of {certificate}; both must come from the same request"
        elif reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
            raise ConfigError(
                f"tls.certificate: {certificate} is too weak ({reason.replace('_', ' ').lower()}); "
                "RSA of 2048 bits or more, signed with SHA-256"
            ) from None
        else:
            advice = f"{key} holds no private key in PEM form"
        raise ConfigError(f"tls.key: {advice}") from None


def _check_readable(setting: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except PermissionError:
        raise ConfigError(f"{setting}: {path} cannot be read; give it to the user that the node runs as") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from None


def certificates(path: Path) -> list["Certificate"]:
    """The certificates of a PEM file, the node's own first.

    Raises:
        ConfigError: there is none.
    """
    from cryptography import x509  # noqa: PLC0415 - only a node with TLS has any

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"tls.certificate: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"tls.certificate: {path} holds no certificate in PEM form") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when until when the node's own certificate is valid, and those that it comes with.

    Attributes:
        path: the file.
    """

    path: Path
    begins: datetime
    ends: datetime

    def check(self, now: datetime) -> None:
        """See that it is valid now.

        Raises:
            ConfigError: it has expired, or is not valid yet.
        """
        if self.begins > now:
            when = _minute(self.begins)
            raise ConfigError(f"tls.certificate: {self.path} is valid from {when} on; check the clock, or the file")
        if self.ends <= now:
            when = _minute(self.ends)
            raise ConfigError(
                f"tls.certificate: {self.path} expired on {when}, peers refuse it; put a renewed one there"
            )


def validity(files: TLSFiles) -> Validity:
    """When the node's own certificate is valid.

    Raises:
        ConfigError: there is none.
    """
    if files.certificate is None:
        raise ConfigError("tls.certificate: set it, with tls.key")
    chain = certificates(files.certificate)
    return Validity(
        path=files.certificate,
        begins=max(one.not_valid_before_utc for one in chain),
        ends=min(one.not_valid_after_utc for one in chain),
    )


def exposed(key: Path) -> str | None:
    """A warning about a key that everybody on the machine may read, or None."""
    try:
        mode = key.stat().st_mode
    except OSError:
        return None
    if mode & stat.S_IROTH:
        return f"tls.key: everybody on this machine may read {key}; chmod o= {key}"
    return None


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
