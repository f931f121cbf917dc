"""A node with several processes of each role, of which any can be killed; those that ended are started again."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from working import RedisServer, free_port, wait_for

from dicom_node.app import open_ledger
from dicom_node.deliver.scu import echo
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination
from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = ROOT / "tests" / "node" / "processes.py"
LOOK_SECONDS = 0.5
SETTLED = {"sent", "standby", "downgraded"}
FINAL = {"explained", "ignored", "failed"}

_CONFIG = """
[node]
ae_title = "EXPLAIN"
port = {port}
calling_ae_titles = ["MODALITY", "PACS"]
spool = "{folder}/spool"
database = "{database}"
low_water_mb = 50

[study]
quiet_seconds = {quiet}
open_quiet_seconds = 30

[broker]
url = "{redis}"
lease_seconds = 15

[model]
store = "{folder}/models"
{bundle}

[metrics]
folder = "{folder}/metrics"

[results]
long_edge = 512

[delivery]
retry_seconds = 2
timeout = 10
max_attempts = 20

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}

[logging]
json = true
"""


@dataclass
class Process:
    """One process of a role; `port` of a listener, else 0."""

    role: str
    number: int
    port: int = 0
    running: subprocess.Popen[bytes] | None = None
    not_before: float = 0.0
    peak: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}{self.number}"


@dataclass
class Fleet:
    """Redis and the processes of a node.

    Attributes:
        folder: everything the node writes; short enough for unix sockets.
        database: URL of the ledger.
        pacs: port of its destination.
        counts: processes by role.
        bundle: of the model; None: the toy model.
        quiet: seconds after which a study is complete.
        killed: how many processes were killed, by role.
        ended: exit statuses of processes that ended by themselves, by role; a signal is negative.
    """

    folder: Path
    database: str
    pacs: int
    counts: Mapping[str, int]
    bundle: Path | None = None
    quiet: float = 2.0
    killed: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.redis = RedisServer(self.folder)
        self.processes = [
            Process(role, number, free_port() if role == "listener" else 0)
            for role, count in self.counts.items()
            for number in range(count)
        ]
        self.config = self.folder / "dicom-node.toml"
        self.config.write_text(
            _CONFIG.format(
                port=self.ports[0],
                folder=self.folder,
                database=self.database,
                quiet=self.quiet,
                redis=self.redis.url,
                bundle=f'bundle = "{self.bundle}"' if self.bundle else "",
                pacs=self.pacs,
            )
        )
        settings = load_settings(self.config, {})
        (self.folder / "settings.json").write_text(settings.model_dump_json(by_alias=True))
        (self.folder / "go").touch()  # of processes.py
        self.ledger: Ledger = open_ledger(settings)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="fleet", daemon=True)

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.processes if one.role == "listener"]

    def start(self) -> None:
        """Start everything; returns when every listener answers."""
        self.redis.start()
        self._look()
        self._tending.start()
        for port in self.ports:
            wait_for(lambda port=port: _answers(port), 120, f"the listener; see the logs in {self.folder}")

    def stop(self) -> None:
        self._stop.set()
        if self._tending.is_alive():
            self._tending.join()
        running = [one.running for one in self.processes if one.running is not None]
        for one in running:
            one.terminate()
        for one in running:
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self.redis.stop()
        self.ledger.close()

    def kill(self, role: str, which: int, seconds: float) -> str:
        """SIGKILL one process; it is started again after so many seconds.

        Returns:
            its name.
        """
        with self._lock:
            some = [one for one in self.processes if one.role == role]
            chosen = some[which % len(some)]
            if chosen.running is not None and chosen.running.poll() is None:
                chosen.running.kill()
                chosen.running.wait()
                chosen.running = None
                chosen.not_before = time.monotonic() + seconds
                self.killed[role] += 1
            return chosen.name

    def renew(self, role: str, which: int) -> int | None:
        """SIGTERM one process, and start the next when it has ended, as an upgrade does.

        Returns:
            its exit status; None where it had not ended after a minute and was killed.
        """
        with self._lock:
            one = [one for one in self.processes if one.role == role][which]
            assert one.running is not None
            one.running.terminate()
            try:
                return one.running.wait(60)
            except subprocess.TimeoutExpired:
                one.running.kill()
                one.running.wait()
                return None
            finally:
                one.running = self._spawn(one)

    def settled(self) -> bool:
        """Whether nothing is left to do."""
        counts = self.ledger.counts()
        return set(counts["studies"]) <= FINAL and set(counts["deliveries"]) <= SETTLED

    def peaks(self) -> dict[str, int]:
        """The most memory of a process of each role, its children included, in bytes."""
        return {role: max(one.peak for one in self.processes if one.role == role) for role in self.counts}

    def log(self, role: str) -> list[dict[str, object]]:
        """The lines of the log of a role's processes."""
        lines = [
            line
            for one in self.processes
            if one.role == role
            for line in (self.folder / f"{one.name}.log").read_text(errors="replace").splitlines()
        ]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _tend(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Measure what runs, start again what does not."""
        with self._lock:
            for one in self.processes:
                if one.running is not None and one.running.poll() is not None:
                    self.ended[f"{one.role} {one.running.returncode}"] += 1
                    one.running, one.not_before = None, time.monotonic() + 1
                if one.running is not None:
                    one.peak = max(one.peak, _resident(one.running.pid))
                elif time.monotonic() >= one.not_before:
                    one.running = self._spawn(one)

    def _spawn(self, one: Process) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dicom_node", "serve", "--only", one.role, "--config", str(self.config)]
        if one.role == "worker" and self.bundle is None:
            command = [sys.executable, str(PROCESSES), one.role, str(self.folder)]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"DICOM_NODE_NODE__PORT": str(one.port)} if one.port else {})
        with (self.folder / f"{one.name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)


def _answers(port: int) -> bool:
    listener = Destination(name="x", ae_title=AETitle("EXPLAIN"), host="127.0.0.1", port=port)
    try:
        return echo(listener, calling_ae_title="MODALITY", timeout=5) == 0
    except DeliveryUnreachable:
        return False


def _resident(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0
