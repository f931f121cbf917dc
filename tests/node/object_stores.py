"""A real S3 server (moto's) for the tests, and a line to it that can be cut, held up, or spoil what goes over it."""

import contextlib
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from working import free_port, wait_for

from dicom_node.settings.sections import StoreSettings
from dicom_node.storage.objects import ObjectStore
from dicom_node.storage.spool import Spool

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "node",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
PAGE = 3
"""Objects in one answer to a listing."""


class Line(threading.Thread):
    """Passes connections on to a port.

    Attributes:
        away: no connection goes through, those that are open end.
        hold: after so many bytes of one connection nothing more of it goes through; `held` says when.
        spoil: the byte of a connection that is changed on its way there.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._there = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.away = False
        self.hold: int | None = None
        self.held = threading.Event()
        self.spoil: int | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.away:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._there))
                for one, other, name in ((near, far, "there"), (far, near, "back")):
                    threading.Thread(target=self._pass, args=(one, other), name=name, daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        there = threading.current_thread().name == "there"
        passed = 0
        with contextlib.suppress(OSError), one, other:
            one.settimeout(0.2)
            while not self.away:
                try:
                    part = bytearray(one.recv(8192))
                except TimeoutError:
                    continue
                if not part:
                    return
                if there and self.spoil is not None and passed <= self.spoil < passed + len(part):
                    part[self.spoil - passed] ^= 1
                passed += len(part)
                if there and self.hold is not None and passed > self.hold:
                    self.held.set()
                    return_when_cut(one)
                    return
                other.sendall(part)

    def close(self) -> None:
        self.away = True
        self._listening.close()


def return_when_cut(connection: socket.socket) -> None:
    """Read nothing, until the other side has gone or a minute is over."""
    for _ in range(300):
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1, socket.MSG_PEEK):
                return
            threading.Event().wait(0.2)


class S3Server:
    """moto's server, and a line to it; whatever was put is gone when it stops."""

    def __init__(self) -> None:
        self._port = free_port()
        env = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        wait_for(self._answers, 120, "the S3 server")
        self.line = Line(self._port)

    def stop(self) -> None:
        self.line.close()
        self._process.kill()
        self._process.wait()

    def restore(self) -> None:
        self.line.away, self.line.hold, self.line.spoil = False, None, None
        self.line.held.clear()

    def bucket(self) -> dict[str, object]:
        """The [store] table of a new bucket."""
        name = f"node-{uuid.uuid4().hex}"
        self._ask("PUT", name)
        endpoint = f"http://127.0.0.1:{self.line.port}"
        return {"url": f"s3://{name}/spool", "endpoint": endpoint, "region": "us-east-1", "timeout": 3}

    def _ask(self, method: str, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, f"/{path}")
            assert connection.getresponse().status == 200

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self._ask("GET", "")
            return True
        return False


@pytest.fixture(scope="session")
def s3_server():
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("moto and the extra [s3]")
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server, through a line that is as it should be."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    s3_server.restore()
    yield s3_server
    s3_server.restore()


class Hosts:
    """Hosts that share a bucket and have their own folders."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder, self.table = server, folder, server.bucket()

    def store(self, host: str = "a", **changes: object) -> ObjectStore:
        return ObjectStore(StoreSettings(**self.table | changes), self.folder / host / "spool" / "cache")

    def spool(self, host: str = "a") -> Spool:
        return Spool(self.folder / host / "spool", 0, self.store(host))

    def spoil(self, path: Path) -> None:
        """Write over an object behind the node's back."""
        self.store("spoiling")._call("put_object", path, Body=b"spoilt")

    def objects(self, folder: str) -> list[str]:
        return sorted(str(one.path) for one in self.store("looking").seen(Path(folder)))


@pytest.fixture
def hosts(s3, tmp_path):
    return Hosts(s3, tmp_path)
