"""Why there is no TLS connection to a peer: what happened and what to do, in one clause for the log.

It is told by OpenSSL's reasons, never in the peer's own words.
"""

import ssl

HANDSHAKE_RECORD = b"\x16"
"""The first byte of a connection of TLS (RFC 8446 section 5.1)."""


class NotTLS(OSError):
    """The first byte of a connection belongs to another protocol."""


_NO_TLS = "the peer does not speak TLS: switch it on there, or use the port without"
_CLAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (_NO_TLS, ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")),
    (
        "the peer offers nothing newer than TLS 1.1: it must be set or updated to TLS 1.2 or 1.3",
        ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"),
    ),
    (
        "the peer shows no certificate: give it one that tls.authorities has signed",
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE",),
    ),
    (
        "no cipher suite in common, or the peer misses a certificate: docs/conformance.md lists the cipher suites",
        ("NO_SHARED_CIPHER", "SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_INSUFFICIENT_SECURITY"),
    ),
    (
        "the peer wants a certificate of this node: set tls.certificate and tls.key",
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED",),
    ),
)
_REFUSALS = {
    "TLSV1_ALERT_UNKNOWN_CA": "unknown authority",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "TLSV1_ALERT_DECRYPT_ERROR": "bad signature",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "not acceptable",
}
"""Alerts by which a peer refuses our certificate (RFC 8446 section 6.2)."""
_VERIFICATION = {
    3: "renew tls.revocations: no list of its authority is there",
    9: "it is not valid yet, check both clocks",
    10: "it must be renewed",
    12: "renew tls.revocations: the list of its authority has expired",
    23: "its authority has revoked it",
    62: "set tls_name to the name that it carries",
    64: "set tls_name to the name that it carries",
}
"""What to do about a certificate that is not accepted, by OpenSSL's X509_V_ERR_*."""
_UNKNOWN_SIGNER = "it must be signed by one of the authorities of the settings, for this use"


def meaning(error: OSError) -> str:
    """The clause.

    Args:
        error: that ended the handshake, or the first exchange after it.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _VERIFICATION.get(error.verify_code, _UNKNOWN_SIGNER)
        return f"the peer's certificate is not accepted ({error.verify_message.rstrip('.')}): {advice}"
    reason = getattr(error, "reason", None) or ""
    if reason in _REFUSALS:
        return (
            f"the peer does not accept this node's certificate ({_REFUSALS[reason]}): its side must know the authority"
        )
    return next((clause for clause, reasons in _CLAUSES if reason in reasons), None) or _without_reason(error, reason)


def _without_reason(error: OSError, reason: str) -> str:
    if isinstance(error, NotTLS):
        return _NO_TLS
    if isinstance(error, TimeoutError):
        return "the handshake took too long: the line or the peer is slow, or the peer does not speak TLS"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return "the peer closed the connection: its log says why, it may not accept this node's certificate"
    return f"TLS failed ({reason.replace('_', ' ').lower() or type(error).__name__})"
