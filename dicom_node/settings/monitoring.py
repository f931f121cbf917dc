"""[metrics], [alerts], [tracing]: what the node tells of itself, and to whom."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from dicom_node.settings.rule_tables import Section, split_words

Problem = tuple[tuple[str | int, ...], str]
Port = Annotated[int, Field(ge=0, le=65535)]


def _web_address(url: str) -> str:
    """An http or https URL with a host, and without a password in it."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a password: settings are no place for secrets")
    return url


def _loopback(parts: SplitResult) -> bool:
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _safe_address(url: str) -> str:
    """The same, and https unless it stays on this machine."""
    parts = urlsplit(_web_address(url))
    if parts.scheme != "https" and not _loopback(parts):
        raise ValueError("must be https: http is for this machine alone")
    return url


MailAddress = Annotated[str, Field(pattern=r"^[^\s@<>,]+@[^\s@<>,]+$")]
Webhook = Annotated[str, AfterValidator(_safe_address)]


class MetricsSettings(Section):
    """[metrics]: where the processes of this machine count, and a port of their own for containers with one role."""

    folder: Path = Path("var/metrics")
    host: str = "127.0.0.1"
    port: Port | None = None


class AlertSettings(Section):
    """[alerts]: who is told by e-mail or webhook when something needs a person. Times as named."""

    to: Annotated[tuple[MailAddress, ...], BeforeValidator(split_words)] = ()
    sender: Annotated[MailAddress | None, Field(alias="from")] = None
    smtp_host: Annotated[str, Field(min_length=1)] | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_authorities: Path | None = None
    smtp_user: str | None = None
    smtp_password_file: Path | None = None
    webhooks: Annotated[tuple[Webhook, ...], BeforeValidator(split_words)] = ()
    webhook_secret_file: Path | None = None
    repeat_hours: PositiveFloat = 24
    stalled_seconds: PositiveFloat = 120
    paused_hours: PositiveFloat = 1
    certificate_days: PositiveFloat = 30
    failed_studies: Annotated[int, Field(ge=1)] = 3
    failed_share: Annotated[float, Field(ge=0, le=1)] = 0.1

    @property
    def wanted(self) -> bool:
        """Whether anybody is told."""
        return bool(self.webhooks) or self.smtp_host is not None


class TracingSettings(Section):
    """[tracing]: an OpenTelemetry collector that gets a trace of each study; none by default."""

    endpoint: Annotated[str, AfterValidator(_web_address)] | None = None


def problems(alerts: AlertSettings) -> Iterator[Problem]:
    """What contradicts itself: the key, and what to do."""
    if alerts.smtp_host is not None and not alerts.to:
        yield ("alerts", "to"), "name at least one address: smtp_host alone tells nobody"
    if alerts.smtp_host is not None and alerts.sender is None:
        yield ("alerts", "from"), "set the address that alerts come from"
    if alerts.smtp_host is None and alerts.to:
        yield ("alerts", "smtp_host"), "set the mail server: without it nobody can be told"
    if (alerts.smtp_user is None) != (alerts.smtp_password_file is None):
        given = "smtp_user" if alerts.smtp_user is not None else "smtp_password_file"
        yield ("alerts", given), "set smtp_user and smtp_password_file, or neither"
    if alerts.smtp_user is not None and alerts.smtp_tls == "none":
        yield ("alerts", "smtp_tls"), "must not be none with a password: it would travel in the clear"
    if alerts.webhook_secret_file is not None and not alerts.webhooks:
        yield ("alerts", "webhook_secret_file"), "has no use without webhooks"
