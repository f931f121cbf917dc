"""The audit of one process: the trail opened, what waits written and sent in the background, start and stop told."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from dicom_node.errors import ConfigError
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_recorder import Recorder
from dicom_node.watch.audit_syslog import Forwarder, Server
from dicom_node.watch.audit_trail import Trail, taken
from dicom_node.watch.logs import place
from explain_core.files import write

LOOK_SECONDS = 1.0
JOIN_SECONDS = 3.0
KEY_BYTES = 32
CONFIGURATION = "settings.json"
"""Digests of the settings that each process last ran with, table by table."""

log = structlog.get_logger(__name__)


def read_key(path: Path | None) -> bytes | None:
    """The key of the trail's digests, from its file.

    Raises:
        ConfigError: it cannot be read, is too short, or others may read it.
    """
    if path is None:
        return None
    try:
        key, mode = path.read_bytes().strip(), path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"audit.seal_key: {path}: {error.strerror}; make one: (umask 077; openssl rand -hex 32 > {path})"
        ) from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"audit.seal_key: {path}: fewer than {KEY_BYTES} characters; make one: openssl rand -hex 32")
    if mode & 0o077:
        raise ConfigError(f"audit.seal_key: {path}: others may read it: chmod 600 {path}")
    return key


@contextlib.contextmanager
def opened(
    name: str,
    trail: Trail,
    *,
    ae_title: str,
    patient_ids: bool,
    server: Server | None = None,
) -> Iterator[Audit]:
    """The audit of this process; at the end a last try for what waits.

    Args:
        name: of the process: a role or a command.
        trail: where messages go.
        ae_title: of the node.
        patient_ids: whether messages state Patient IDs.
        server: where the trail is sent to, or None.

    Raises:
        ConfigError: the folder cannot be used, or a certificate.
    """
    if not os.access(trail.folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"audit.folder: {trail.folder}: this user may not write there")

    def gap(since: datetime, lost: int) -> tuple[dict[str, object], dict[str, object]]:
        return audit.gap(since, lost)

    recorder = Recorder(trail, gap, lambda: datetime.now(UTC))
    audit = Audit(name, ae_title, recorder.write, patient_ids=patient_ids)
    forwarder = None if server is None else Forwarder(trail.folder, server)
    stop = threading.Event()
    background = threading.Thread(target=_background, args=(recorder, forwarder, stop), name="audit", daemon=True)
    background.start()
    try:
        yield audit
    finally:
        stop.set()
        background.join(JOIN_SECONDS)
        recorder.close()
        if forwarder is not None and not background.is_alive():  # else it waits for a server, and ends with the process
            forwarder.step()
            forwarder.close()


def _background(recorder: Recorder, forwarder: Forwarder | None, stop: threading.Event) -> None:
    while not stop.wait(LOOK_SECONDS):
        try:
            recorder.retry()
            if forwarder is not None:
                forwarder.step()
        except Exception as error:  # noqa: BLE001 - the next look may do better; the work goes on
            log.error("audit failed", error=type(error).__name__, place=place(error))  # noqa: TRY400


@contextlib.contextmanager
def told(audit: Audit) -> Iterator[None]:
    """Application Start before, Application Stop after; why, where an error ends it."""
    audit.application(started=True)
    try:
        yield
    except SystemExit as leaving:
        audit.application(started=False, failure=f"exit status {leaving.code}" if leaving.code else "")
        raise
    except BaseException as error:
        audit.application(started=False, failure=type(error).__name__)
        raise
    audit.application(started=False)


def tell_configuration(audit: Audit, folder: Path, tables: Mapping[str, object], uri: str) -> None:
    """Tell what tables of the settings differ from those that a process of this name last ran with.

    Only digests are kept: settings may hold passwords.

    Args:
        audit: tells.
        folder: of the trail.
        tables: the settings as plain values, by table.
        uri: of the settings file.
    """
    now = {name: hashlib.sha256(json.dumps(table, default=str).encode()).hexdigest() for name, table in tables.items()}
    path = folder / CONFIGURATION
    try:
        with (folder / f"{CONFIGURATION}.lock").open("wb") as lock:
            if not taken(lock.fileno()):  # several workers start at once with the same settings
                return
            try:
                every = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                every = {}
            before = every.get(audit.name)
            if before == now:
                return
            write(path, json.dumps(every | {audit.name: now}, indent=1) + "\n", 0o600)
    except OSError as error:
        log.error("settings not compared", reason=error.strerror)  # noqa: TRY400 - the trail says the rest
        return
    if before is not None:
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        details = {"Changed tables": ", ".join(changed)}
        audit.software_changed(f"{audit.name} runs with other settings than before", uri, details, by_person=False)
