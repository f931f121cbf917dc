"""Runs retraining jobs, one at a time, each in a process of its own: `python -m training retrain`.

A message on the queue names a job that may have something to do. It is acknowledged before the job runs: the job folder
is the truth, and a message that Redis hands out again after hours must not run a job twice. The worker also looks
through the folders by itself, so that a lost message, a flushed queue or a killed worker loses nothing.

A job's process ends with the worker, however that ends; the job goes on when a worker runs again.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from celery import signals
from filelock import FileLock, Timeout

from dicom_node.errors import NodeError
from dicom_node.learn.jobs import Jobs, NoSuchJob
from dicom_node.queue import broker
from dicom_node.settings.sections import RetrainingSettings, Settings
from explain_core.children import bound_to_parent
from explain_core.jobs import JobFolder, JobState

LONGEST_WAIT = 600.0

log = structlog.get_logger(__name__)


@dataclass
class Worker:
    """Runs jobs, one at a time.

    Attributes:
        settings: the folder of the jobs, and what a job may claim at most.
        every: seconds between two looks through the folders.
        retry_seconds: first wait of a job that meets a full disk or a registry that is away.
    """

    settings: RetrainingSettings
    every: float = 15.0
    retry_seconds: float = 10.0
    _one: threading.Lock = field(default_factory=threading.Lock)
    _child: subprocess.Popen[bytes] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _waits: dict[str, float] = field(default_factory=dict)

    def run(self, name: str) -> None:
        """Run one job to its end unless there is nothing to do, or another process works on it.

        Args:
            name: of the job's folder; anything else is passed over.
        """
        with self._one, contextlib.suppress(NoSuchJob):
            self._run(Jobs(self.settings.jobs).job(name))

    def _run(self, job: JobFolder) -> None:
        if self._stopping.is_set() or not _due(job):
            return
        told, wait = self.settings, self._waits.get(job.name, self.retry_seconds)
        command = [
            *bound_to_parent(), sys.executable, "-m", "training", "retrain", "--folder", str(job.path), "--quiet",
            "--no-wait", "--retry-seconds", str(wait), "--nice", str(told.nice), "--threads", str(told.threads),
            "--gpu-memory-fraction", str(told.gpu_memory_fraction),
        ]  # fmt: skip
        with job.log_file.open("ab") as output:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603 - our own program
        status = self._child.wait()
        self._child = None
        waiting = job.state is JobState.WAITING
        self._waits[job.name] = min(2 * wait, LONGEST_WAIT) if waiting else self.retry_seconds
        log.info("job ended", job=job.name, status=status, state=job.state.value)

    def look(self) -> list[JobFolder]:
        """The jobs that have something left to do, the oldest first."""
        return [job for job in Jobs(self.settings.jobs).all() if _due(job)]

    def watch(self) -> None:
        """Run what is left to do, again and again, until `stop`; while a message's job runs, nothing else does."""
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):  # a folder that was removed meanwhile
                for job in self.look():
                    if self._one.acquire(blocking=False):
                        try:
                            self._run(job)
                        finally:
                            self._one.release()
            self._stopping.wait(self.every)

    def stop(self, **_: Any) -> None:
        """Begin no further job; the one that runs stops at its next safe point."""
        self._stopping.set()
        child = self._child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)


def _due(job: JobFolder) -> bool:
    """Whether a job has something left to do now and nobody works on it; one that is to be cancelled has that."""
    retry_at = job.told().get("retry_at", "")
    later = retry_at and datetime.fromisoformat(retry_at) > datetime.now(UTC)
    return job.state.open and not later and not job.busy


def work(settings: Settings, *, every: float, retry_seconds: float) -> None:
    """Consume the queue and look through the folders until SIGTERM or SIGINT.

    Args:
        settings: of the node.
        every: seconds between two looks through the folders.
        retry_seconds: first wait of a job that meets a full disk or a registry that is away.

    Raises:
        NodeError: another worker runs these jobs.
    """
    told = settings.retraining
    told.jobs.mkdir(parents=True, exist_ok=True)
    alone = FileLock(told.jobs / ".worker.lock", timeout=0)
    try:
        with alone:
            if os.getpriority(os.PRIO_PROCESS, 0) < told.nice:
                os.setpriority(os.PRIO_PROCESS, 0, told.nice)
            worker, app = Worker(told, every, retry_seconds), broker.make_celery(settings)
            broker.register(app, broker.RETRAIN, worker.run)
            signals.worker_shutting_down.connect(worker.stop)
            watch = threading.Thread(target=worker.watch, name="watch")
            watch.start()
            try:
                broker.run_worker(app, broker.RETRAIN)
            finally:
                worker.stop()
                watch.join()
    except Timeout as error:
        raise NodeError(f"{told.jobs}: another worker runs these jobs; one at a time is meant to run") from error
