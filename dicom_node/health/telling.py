"""Alerts by e-mail (SMTP) and webhook (HTTP POST of JSON); a server that hangs or refuses costs seconds and no more.

Messages name parts of the node, AE titles, hosts and numbers; never a patient. A webhook's body is signed when there is
a secret: X-Signature-256 is "sha256=" and its HMAC-SHA256, hexadecimal.
"""

import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from dicom_node.errors import ConfigError, NodeError
from dicom_node.health.alerts import Kind, Message
from dicom_node.settings.monitoring import AlertSettings

SECONDS: Final = 15.0
"""For each answer of a server."""
SIGNATURE: Final = "X-Signature-256"
_MOST_NAMED: Final = 3


class Untold(NodeError):
    """A server did not take a message."""


def tell(settings: AlertSettings, node: str, host: str, messages: Sequence[Message], now: datetime) -> list[str]:
    """Tell everybody who is to be told.

    Args:
        settings: who, and by what.
        node: AE title of the node.
        host: of the process that tells.
        messages: at least one.
        now: the time.

    Returns:
        what went wrong, a line for each server that did not take it.

    Raises:
        Untold: no server took it, though there are some.
    """
    failures, ways = [], 0
    for way, send in _ways(settings, node, host, messages, now):
        ways += 1
        try:
            send()
        except (Untold, ConfigError) as error:
            failures.append(f"{way}: {error}")
    if failures and len(failures) == ways:
        raise Untold("; ".join(failures))
    return failures


def _ways(
    settings: AlertSettings, node: str, host: str, messages: Sequence[Message], now: datetime
) -> Iterator[tuple[str, Callable[[], None]]]:
    if settings.smtp_host is not None:
        yield "e-mail", lambda: send_mail(settings, mail(settings, node, host, messages, now))
    content = body(node, host, messages, now)

    def posted(url: str) -> None:
        key = None if settings.webhook_secret_file is None else secret(settings.webhook_secret_file)
        post(url, content, key)

    for url in settings.webhooks:
        yield "webhook", partial(posted, url)


def mail(settings: AlertSettings, node: str, host: str, messages: Sequence[Message], now: datetime) -> EmailMessage:
    """The messages as one e-mail."""
    made = EmailMessage()
    named = [one.about.name for one in messages]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    over = all(one.kind is Kind.OVER for one in messages)
    made["Subject"] = f"[{node}] {'over: ' if over else ''}{', '.join(named[:_MOST_NAMED])}{more}"
    made["From"], made["To"] = settings.sender, ", ".join(settings.to)
    made["Date"], made["Message-ID"] = format_datetime(now), make_msgid(domain="dicom-node")
    made["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    made.set_content("\n".join([*(_line(one) for one in messages), "", f"node {node} on {host}", ""]))
    return made


def body(node: str, host: str, messages: Sequence[Message], now: datetime) -> bytes:
    """The messages as the body of a webhook."""
    told = [
        {
            "name": one.about.name,
            "state": one.kind.value,
            "level": one.about.level,
            "said": one.about.said,
            "since": one.about.began_at.isoformat(),
        }
        for one in messages
    ]
    return json.dumps({"node": node, "host": host, "at": now.isoformat(), "alerts": told}).encode()


def _line(one: Message) -> str:
    since = f"{one.about.began_at:%Y-%m-%d %H:%M} UTC"
    if one.kind is Kind.OVER:
        return f"over: {one.about.name} (it began {since}: {one.about.said})"
    still = ", still" if one.kind is Kind.AGAIN else ""
    return f"{one.about.level}{still}: {one.about.name}, since {since}\n  {one.about.said}"


def send_mail(settings: AlertSettings, message: EmailMessage) -> None:
    """Hand an e-mail to the server.

    Raises:
        Untold: it does not take it.
        ConfigError: a file cannot be read.
    """
    context = _context(settings.smtp_authorities)
    host, port = settings.smtp_host or "", settings.smtp_port
    password = None if settings.smtp_password_file is None else secret(settings.smtp_password_file)
    try:
        if settings.smtp_tls == "tls":
            connected: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context)
        else:
            connected = smtplib.SMTP(host, port, timeout=SECONDS)
        with connected as server:
            if settings.smtp_tls == "starttls":
                server.starttls(context=context)
            if settings.smtp_user is not None and password is not None:
                server.login(settings.smtp_user, password)
            server.send_message(message)
    except smtplib.SMTPResponseException as error:
        raise Untold(f"{host}:{port} refused it (SMTP {error.smtp_code})") from None
    except (smtplib.SMTPException, OSError) as error:
        raise Untold(f"{host}:{port} did not take it ({type(error).__name__})") from None


def post(url: str, content: bytes, key: str | None) -> None:
    """POST a body to a webhook.

    Raises:
        Untold: no answer, or another than 2xx; the message names the host alone, for the path may be a secret.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers[SIGNATURE] = "sha256=" + hmac.new(key.encode(), content, hashlib.sha256).hexdigest()
    there = urlsplit(url).hostname
    try:
        with (
            httpx2.Client(timeout=SECONDS, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, content=content, headers=headers) as answer,
        ):
            status = answer.status_code
    except httpx2.HTTPError as error:
        raise Untold(f"{there} did not take it ({type(error).__name__})") from None
    if not httpx2.codes.is_success(status):
        raise Untold(f"{there} refused it (HTTP {status})")


def secret(path: Path) -> str:
    """What a file holds, without the line's end.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the secret cannot be read ({type(error).__name__})") from None
    if not found:
        raise ConfigError(f"{path}: is empty; it must hold the secret")
    return found


def _context(authorities: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"alerts.smtp_authorities: {authorities} cannot be used ({type(error).__name__})") from None
