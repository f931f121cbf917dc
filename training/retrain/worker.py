"""`python -m training worker`: runs the jobs of a folder, one at a time, each in a process of its own.

A message on the queue "retrain" names a job that may have something to do. It is acknowledged before the job runs: the
job folder is the truth, and a message that Redis hands out again after hours must not run a job twice. The worker also
looks through the folders by itself, so that a lost message, a flushed queue or a killed worker loses nothing.

A job's process ends with the worker, however that ends; the job goes on when a worker runs again.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from celery import Celery, signals
from kombu.entity import Queue

from training.errors import TrainingError
from training.retrain.child import bound_to_parent
from training.retrain.folder import OPEN, JobFolder, read_json

TASK: Final = "training.retrain"
QUEUE: Final = "retrain"
BROKER: Final = "RETRAIN_BROKER"
"""Environment variable with the broker's URL: a command line shows its password to everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told.

    Attributes:
        broker: URL of Redis.
        jobs: folder of the job folders.
        nice, threads, gpu_memory_fraction: what a job may claim at most; None: what it asks for.
        every: seconds between two looks through the folders.
        retry_seconds: first wait of a job that meets a full disk or a registry that is away.
    """

    broker: str
    jobs: Path
    nice: int | None = None
    threads: int | None = None
    gpu_memory_fraction: float | None = None
    every: float = 15.0
    retry_seconds: float = 10.0


@dataclass
class Worker:
    """Runs jobs, one at a time."""

    settings: WorkerSettings
    _one: threading.Lock = field(default_factory=threading.Lock)
    _child: subprocess.Popen[bytes] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _waits: dict[str, float] = field(default_factory=dict)

    def run(self, name: str) -> int | None:
        """Run one job to its end unless there is nothing to do, or another process works on it.

        Args:
            name: of the job's folder; anything else is passed over.
        """
        with self._one:
            return self._run(name)

    def _run(self, name: str) -> int | None:
        path = self.settings.jobs / name
        if self._stopping.is_set() or Path(name).name != name or not self._due(path):
            return None
        limits = {
            "--nice": self.settings.nice,
            "--threads": self.settings.threads,
            "--gpu-memory-fraction": self.settings.gpu_memory_fraction,
        }
        wait = self._waits.get(name, self.settings.retry_seconds)
        command = [
            *bound_to_parent(), sys.executable, "-m", "training", "retrain", "--folder", str(path), "--quiet",
            "--no-wait", "--retry-seconds", str(wait),
            *(part for option, value in limits.items() if value is not None for part in (option, str(value))),
        ]  # fmt: skip
        with (path / "job.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        status = self._child.wait()
        self._child = None
        waiting = read_json(path / "state.json").get("state") == "waiting"
        self._waits[name] = min(2 * wait, 600.0) if waiting else self.settings.retry_seconds
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} job {name} ended with status {status}", flush=True)
        return status

    def _due(self, path: Path) -> bool:
        """Whether a job has something left to do now and nobody works on it; one that is to be cancelled has that."""
        if not (path / "job.toml").is_file():
            return False
        state = read_json(path / "state.json")
        if state.get("state") not in OPEN:
            return False
        retry_at = state.get("retry_at", "")
        if retry_at and datetime.fromisoformat(retry_at) > datetime.now(UTC):
            return False
        return not JobFolder(path).busy

    def look(self) -> list[str]:
        """The jobs that have something left to do, the oldest first."""
        if not self.settings.jobs.is_dir():
            return []
        due = [path for path in self.settings.jobs.iterdir() if path.is_dir() and self._due(path)]
        return [path.name for path in sorted(due, key=_created)]

    def watch(self) -> None:
        """Run what is left to do, again and again, until `stop`; while a message's job runs, nothing else does."""
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):  # a folder that was removed meanwhile
                for name in self.look():
                    if self._one.acquire(blocking=False):
                        try:
                            self._run(name)
                        finally:
                            self._one.release()
            self._stopping.wait(self.settings.every)

    def stop(self, *_: object, **__: object) -> None:
        """Start nothing more, and let the running job stop at its next safe point."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.send_signal(signal.SIGTERM)


def _created(path: Path) -> tuple[str, str]:
    return str(read_json(path / "state.json").get("created_at", "")), path.name


@contextlib.contextmanager
def alone(jobs: Path) -> Iterator[None]:
    """Be the only worker of these jobs.

    Raises:
        TrainingError: there is another.
    """
    jobs.mkdir(parents=True, exist_ok=True)
    with (jobs / ".worker.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{jobs}: another worker runs these jobs; one at a time is meant to run") from None
        yield


def make_celery(broker: str) -> Celery:
    """The Celery app; nothing connects."""
    app = Celery("training", broker=broker, autofinalize=False, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[Queue(QUEUE)],
        task_routes={TASK: {"queue": QUEUE}},
        task_create_missing_queues=False,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_pool="solo",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 10},
        enable_utc=True,
        timezone="UTC",
    )
    return app


def work(settings: WorkerSettings) -> None:
    """Consume the queue and look through the folders until SIGTERM or SIGINT.

    Raises:
        TrainingError: another worker runs these jobs.
    """
    with alone(settings.jobs):
        if settings.nice and os.getpriority(os.PRIO_PROCESS, 0) < settings.nice:
            os.setpriority(os.PRIO_PROCESS, 0, settings.nice)
        worker, app = Worker(settings), make_celery(settings.broker)

        def answer(name: str) -> None:
            worker.run(name)

        app.task(name=TASK)(answer)
        app.finalize()
        signals.setup_logging.connect(_keep_logging)
        signals.worker_shutting_down.connect(worker.stop)
        watch = threading.Thread(target=worker.watch, name="watch")
        watch.start()
        try:
            _consume(app)
        finally:
            worker.stop()
            watch.join()


def _consume(app: Any) -> None:
    app.Worker(
        pool="solo",
        concurrency=1,
        queues=[QUEUE],
        hostname=f"{QUEUE}-{os.getpid()}@%h",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()


def _keep_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from touching levels and handlers."""
