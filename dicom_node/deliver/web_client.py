"""HTTP to one DICOMweb destination: who we are, how long we wait, and in what words a failure is told.

Nothing follows a redirect, nothing is taken from the environment but what the settings say, and every answer is read up
to a limit. Each request has a connection of its own. Messages are made here: what a server or a library says may hold
a secret or quote a data set. Secrets and tokens are in no attribute that is shown.
"""

import contextlib
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote_plus, urlencode

import httpx2

from dicom_node.deliver.scu import CONNECT_SECONDS
from dicom_node.deliver.silence import SLOWEST_READER, moved
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import WebDestination
from dicom_node.settings.dicomweb import ENVIRONMENT

MOST_ANSWER = 1 << 20
"""Bytes of an answer: a thousand times what says of one instance what became of it."""
ANSWER_TIMEOUTS = 10
"""Time-outs within which an answer must be whole, however slowly its bytes come."""
EARLY = 30.0
"""Seconds before its end at which a token is replaced."""

SERVER = "the server"
UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status, and the body up to MOST_ANSWER bytes; `wait` is what Retry-After asks for, in seconds."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    wait: float = 0.0


@dataclass(slots=True)
class Tokens:
    """The tokens of this process, by destination, each until shortly before its end."""

    _known: dict[WebDestination, tuple[str, float]] = field(default_factory=dict, repr=False)

    def known(self, destination: WebDestination) -> str | None:
        """The one that is still good, or None."""
        token, until = self._known.get(destination, (None, 0.0))
        return token if time.monotonic() < until else None

    def keep(self, destination: WebDestination, token: str, seconds: float) -> None:
        """Remember one that is good for so long."""
        self._known[destination] = (token, time.monotonic() + seconds - EARLY)

    def forget(self, destination: WebDestination) -> None:
        """The server does not take it any more."""
        self._known.pop(destination, None)


class WebClient:
    """Requests to one destination; use as a context.

    Args:
        destination: the server.
        tokens: of this process.
        timeout: seconds without any progress.

    Raises:
        DeliveryUnreachable: by every method, and at its start, where it is about a file of ours that cannot be read.
    """

    def __init__(self, destination: WebDestination, tokens: Tokens, timeout: float) -> None:
        self._destination = destination
        self._tokens = tokens
        self._timeout = timeout

    def __enter__(self) -> Self:
        proxy = self._destination.proxy
        self._client = httpx2.Client(
            verify=_context(self._destination),
            proxy=None if proxy in {None, ENVIRONMENT} else proxy,
            trust_env=proxy == ENVIRONMENT,
            timeout=httpx2.Timeout(None, connect=min(self._timeout, CONNECT_SECONDS)),
            limits=httpx2.Limits(max_keepalive_connections=0),
            headers={"User-Agent": "dicom-explanation-node", "Accept-Encoding": "identity"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: "Iterable[bytes] | None" = None,
        size: int = 0,
        *,
        read: bool = True,
    ) -> Answer:
        """One request, and again with a fresh token where the first was not taken.

        Args:
            method: of HTTP.
            path: below the destination's URL.
            headers: beside those that every request has.
            body: can be gone through twice; None: there is none.
            size: of the body, in bytes.
            read: whether the answer's body is of any interest.

        Raises:
            DeliveryUnreachable: no connection, no token, or no answer.
            OSError: the body cannot be read.
        """
        url, known = self._destination.url + path, self._token()
        answer = self._once(method, url, {**headers, **_bearer(known)}, body, size, read=read)
        if answer.status == UNAUTHORIZED and known is not None:
            self._tokens.forget(self._destination)
            answer = self._once(method, url, {**headers, **_bearer(self._token())}, body, size, read=read)
        return answer

    def _token(self) -> str | None:
        """A token for our credentials (RFC 6749 section 4.4), the one we have or a new one."""
        there = self._destination
        if there.token_url is None:
            return None
        if (known := self._tokens.known(there)) is not None:
            return known
        form = {"grant_type": "client_credentials"} | ({"scope": there.scope} if there.scope else {})
        body = urlencode(form).encode()
        identity = httpx2.BasicAuth(quote_plus(there.client_id or ""), quote_plus(_secret(there)))  # section 2.3.1
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        answer = self._once(
            "POST", there.token_url, headers, [body], len(body), auth=identity, what="the token endpoint"
        )
        token, seconds = _granted(answer)
        self._tokens.keep(there, token, seconds)
        return token

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Iterable[bytes] | None,
        size: int,
        *,
        read: bool = True,
        auth: httpx2.Auth | None = None,
        what: str = SERVER,
    ) -> Answer:
        length = {} if body is None else {"Content-Length": str(size)}
        with _Silence(self._timeout, size) as silence, _told(silence, what):
            request = self._client.build_request(
                method, url, headers={**headers, **length}, content=body, extensions={"trace": silence.watch}
            )
            response = self._client.send(request, stream=True, auth=auth, follow_redirects=False)
            try:
                found = _bounded(response.iter_raw()) if read else b""
            finally:
                response.close()
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        wait = _seconds(response.headers.get("Retry-After", ""))
        return Answer(status=response.status_code, content_type=content_type, body=found, wait=wait)


class _Silence(threading.Thread):
    """Ends a connection over which nothing moves any more; a slow one may take its time, as in `silence`.

    When the whole body is acknowledged it may still lie in buffers on the way: to be read from there it has, beside
    `seconds`, the time of SLOWEST_READER. An answer that does not end is ended after ANSWER_TIMEOUTS.
    """

    def __init__(self, seconds: float, size: int) -> None:
        super().__init__(name="silence", daemon=True)
        self._seconds = seconds
        self._size = size
        self._connection: socket.socket | None = None
        self._over = threading.Event()
        self.gave_up = False
        """It was this watch that ended the connection."""

    def watch(self, _event: str, info: Mapping[str, Any]) -> None:
        """Learn of the connection, by httpx's extension "trace"; the last one is that with TLS."""
        stream: Any = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._connection = stream.get_extra_info("socket")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look ten times in the allowed time."""
        seen: tuple[int, int] | None = None
        since, whole_at = time.monotonic(), None
        while not self._over.wait(min(1.0, self._seconds / 10)):
            connection = self._connection
            if connection is None or (now := moved(connection)) is None:  # not yet, or between TCP and TLS
                continue
            moment = time.monotonic()
            if now != seen:
                seen, since = now, moment
            if whole_at is None and now[0] >= self._size:
                whole_at = moment
            buffered = self._size / SLOWEST_READER if whole_at is not None else 0
            endless = whole_at is not None and moment - whole_at > ANSWER_TIMEOUTS * self._seconds + buffered
            if endless or moment - since > self._seconds + buffered:
                self.gave_up = True
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                return


@contextmanager
def _told(silence: _Silence, what: str) -> Iterator[None]:
    """Failures in our words."""
    try:
        yield
    except (httpx2.TransportError, ssl.SSLError) as error:
        reason, sent = ("has stopped answering", True) if silence.gave_up else _why(error)
        raise DeliveryUnreachable(f"{what} {reason}", tried=sent and what == SERVER) from None
    except _TooMuch:
        raise DeliveryUnreachable(f"{what} gave an answer of more than {MOST_ANSWER >> 20} MiB") from None


class _TooMuch(Exception):
    pass


def _bounded(parts: Iterable[bytes]) -> bytes:
    found = bytearray()
    for part in parts:
        found += part
        if len(found) > MOST_ANSWER:
            raise _TooMuch
    return bytes(found)


_UNCONNECTED: Mapping[type[Exception], str] = {
    socket.gaierror: "has a name that cannot be resolved: see url",
    ConnectionRefusedError: "refuses the connection: nobody listens there",
    httpx2.ProxyError: "is not reached by way of the proxy",
    httpx2.ConnectTimeout: "does not answer: no connection",
    httpx2.ConnectError: "cannot be reached",
}


def _why(error: BaseException) -> tuple[str, bool]:
    """A clause after "the server", and whether anything of ours was on its way; from the causes of an exception."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for one in causes:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted ({one.verify_message}): see authorities", False
        if isinstance(one, ssl.SSLError):
            return f"does not agree on TLS ({(one.reason or 'broken off').replace('_', ' ').lower()})", False
    for kind, clause in _UNCONNECTED.items():
        if any(isinstance(one, kind) for one in causes):
            return clause, False
    return f"broke off ({type(error).__name__})", True


def _context(destination: WebDestination) -> ssl.SSLContext:
    """TLS 1.2 or newer (PS3.15 annex B.12), the server's certificate and name checked; ours, where we have one."""
    key = "authorities"
    try:
        context = ssl.create_default_context(cafile=destination.authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if destination.certificate is not None:
            key = "certificate, key"
            # A key with a pass phrase would be asked for on a terminal.
            context.load_cert_chain(destination.certificate, destination.key, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise DeliveryUnreachable(f"{key}: cannot be used ({_of_file(error)})") from None
    return context


def _secret(destination: WebDestination) -> str:
    if destination.client_secret_file is not None:
        try:
            secret = destination.client_secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DeliveryUnreachable(f"client_secret_file: cannot be read ({_of_file(error)})") from None
    else:
        secret = os.environ.get(destination.client_secret_variable or "", "").strip()
    if not secret:
        raise DeliveryUnreachable("there is no client secret: see client_secret_file or client_secret_variable")
    return secret


def _of_file(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "no PEM file, or key and certificate do not belong together"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _granted(answer: Answer) -> tuple[str, float]:
    """Token and seconds out of a token response (RFC 6749 section 5.1); without expires_in it serves once."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    said: Mapping[str, Any] = found if isinstance(found, dict) else {}
    token = said.get("access_token")
    if answer.status != httpx2.codes.OK or not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        code = said.get("error")
        known = code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else ""
        reason = f"status {answer.status}" + (f", {known}" if known else "")
        raise DeliveryUnreachable(f"the token endpoint gives no token ({reason})", wait=answer.wait)
    try:
        return token, float(said.get("expires_in", 0))  # some say it in a string
    except (TypeError, ValueError):
        return token, 0.0


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _seconds(retry_after: str) -> float:
    """Of a Retry-After: a number, or a date (RFC 9110 section 10.2.3); 0 for what is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        until = parsedate_to_datetime(retry_after)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0
