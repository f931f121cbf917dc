"""Roles as child processes, of which each is started again when it ends by itself, later each time."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import structlog

from dicom_node.settings.sections import Settings
from dicom_node.watch import logs, pulse

STOP_SECONDS: Final = 20.0
"""For a role to end; a worker has the time that its study may take."""
MAX_RESTART_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Child:
    """One role's process and when it may be started again."""

    role: str
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    not_before: float = 0.0
    started: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Runs roles as child processes and starts again those that end by themselves, later each time.

    Attributes:
        config: the settings file that the children read, or None.
        roles: names from `app.ROLES`.
        logs: opens the file that a role's output goes to; None: this process's own.
        stop_seconds: that a child has between SIGTERM and SIGKILL.
        hurried: whether somebody wants the children to end at once.
    """

    config: Path | None
    roles: Sequence[str]
    logs: Callable[[str], IO[bytes]] | None = None
    stop_seconds: float = STOP_SECONDS
    hurried: Callable[[], bool] = lambda: False
    _children: list[_Child] = field(default_factory=list, init=False)

    def start(self) -> None:
        """Start every role."""
        self._children = [_Child(role) for role in self.roles]
        self.check()

    def check(self) -> None:
        """Start what is not running and may be started; call this now and then."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                lived = now - child.started
                child.failures = 0 if lived > MAX_RESTART_SECONDS else child.failures + 1
                child.not_before = now + min(0.5 * 2**child.failures, MAX_RESTART_SECONDS)
                log.error("process ended", role=child.role, status=child.process.returncode)
                child.process = None
            if child.process is None and now >= child.not_before:
                child.process = self._spawn(child.role)
                child.started = now

    def pid(self, role: str) -> int | None:
        """Process id of a role, None while it is down."""
        process = next(child.process for child in self._children if child.role == role)
        return None if process is None else process.pid

    def stop(self) -> None:
        """End every child: SIGTERM, and SIGKILL for those that do not end in time."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self.stop_seconds
        for process in running:
            while process.poll() is None and time.monotonic() < deadline and not self.hurried():
                pulse.beat()
                time.sleep(_LOOK_SECONDS)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._children = []

    def _spawn(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dicom_node", "serve", "--only", role]
        if self.config is not None:
            command += ["--config", str(self.config)]
        if self.logs is None:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own program
        with self.logs(role) as output:
            return subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )


def supervise(config: Path | None, roles: Sequence[str], settings: Settings) -> None:
    """Run `roles` until SIGTERM or SIGINT; a second signal ends at once what has not ended by itself."""
    logs.configure(settings.logging.level, as_json=settings.logging.as_json)
    pulse.begin()
    stop = pulse.stop_signal()
    patience = settings.broker.hard_time_limit if "worker" in roles else 0
    supervisor = Supervisor(config, roles, stop_seconds=STOP_SECONDS + patience)
    supervisor.start()
    pulse.ready()
    while not stop.wait(0.5):
        supervisor.check()
        pulse.beat()
    supervisor.hurried = pulse.stop_signal().is_set
    supervisor.stop()
