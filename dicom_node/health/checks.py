"""What is looked at outside the ledger, for /health, /metrics, alerts and `dicom-node doctor` alike."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from celery import Celery

from dicom_node.dicom import tls
from dicom_node.queue import broker
from dicom_node.settings.sections import Settings

MEGABYTE: Final = 1 << 20
PATIENCE_SECONDS: Final = 2.0
"""For an answer of Redis, and for the port of the listener."""
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address to ask at, not to listen on


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The disk that the spool lies on, in bytes.

    Attributes:
        folder: the spool, or what there is of its path.
        refused_below: objects are refused.
        cleaned_below: what is over goes before its time.
    """

    folder: Path
    free: int
    refused_below: int
    cleaned_below: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of the node's own: "tls", "web", "audit", or the name of a destination."""

    which: str
    path: Path
    ends_at: datetime


def room(settings: Settings) -> Room:
    """How much is free where the spool lies."""
    folder = existing(settings.node.spool)
    return Room(
        folder=folder,
        free=shutil.disk_usage(folder).free,
        refused_below=settings.node.low_water_mb * MEGABYTE,
        cleaned_below=settings.clean_below_mb * MEGABYTE,
    )


def existing(path: Path) -> Path:
    """A path, or the nearest folder above it that exists."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def certificates(settings: Settings) -> list[Certificate]:
    """Until when each certificate that the node shows to others is valid.

    Raises:
        ConfigError: one cannot be read; the message names it.
    """
    return [
        Certificate(which=which, path=path, ends_at=min(one.not_valid_after_utc for one in tls.certificates(path)))
        for which, path in _shown(settings)
    ]


def _shown(settings: Settings) -> Iterator[tuple[str, Path]]:
    if settings.tls.certificate is not None:
        yield "tls", settings.tls.certificate
    if settings.web.certificate is not None:
        yield "web", settings.web.certificate
    if settings.audit.syslog_certificate is not None:
        yield "audit", settings.audit.syslog_certificate
    for one in settings.destinations:
        if one.certificate is not None:
            yield one.name, one.certificate


def patient_celery(settings: Settings) -> Celery:
    """A broker to ask, which is not waited for when it hangs."""
    app = broker.make_celery(settings)
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "socket_timeout": PATIENCE_SECONDS,
        "socket_connect_timeout": PATIENCE_SECONDS,
    }
    return app


def waiting(app: Celery) -> dict[str, int]:
    """How many messages wait in each queue.

    Raises:
        BrokerUnreachable: Redis does not answer.
    """
    return {queue: broker.depth(app, task) for task, queue in broker.QUEUES.items()}


def listening(settings: Settings) -> bool | None:
    """Whether something on this machine takes connections where the listener should; None where no port is known."""
    port = settings.node.port if settings.node.plain else settings.tls.port
    if port == 0:
        return None
    host = _ANYWHERE.get(settings.node.host, settings.node.host)
    try:
        socket.create_connection((host, port), PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True
