"""The folder of a retraining job: the one truth about it, for the node that queues it and the process that runs it.

Every file is written whole or not at all; a lock says who works on it.

job.toml         what was asked, every key
state.json       state, stage, how far, figures, time left
progress.jsonl   one line per report
job.log          what happened, for people
cancel           its presence asks to stop
starts.json      how often in a row the process died
lock             held with flock by the process that works; the kernel frees it when that process dies
stages/<name>/   what a stage made; done.json says of what
bundle/, report.html
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from explain_core.errors import ExplainError
from explain_core.files import read_json, write_json

STAGES: Final = (
    "collect", "validate", "split", "classifier", "calibrate", "generators", "bundle", "evaluate", "gate", "report",
    "register", "attributes", "attach",
)  # fmt: skip
"""Of jobs of every kind, in an order in which each has its own."""


class JobState(StrEnum):
    """What has become of a job; RUNNING without a process that holds the lock was interrupted."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self in {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}


RESERVE: Final = 1 << 17
"""Bytes kept aside so that a full disk can still be reported."""

LOCK_SECONDS = 1.0
"""How long to wait for a lock that somebody who only looks may hold."""


class JobBusy(ExplainError):
    """Another process works on this job."""


def now() -> str:
    """The time as it stands in state.json: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class JobFolder:
    """One job's folder.

    Args:
        path: its last part is the job's identifier.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def make(self) -> None:
        """Make it where it is missing, for its owner alone: job.toml may hold the registry's password."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / "stages").mkdir(exist_ok=True)

    @property
    def name(self) -> str:
        """The job's identifier."""
        return self.path.name

    @property
    def job_file(self) -> Path:
        """What was asked."""
        return self.path / "job.toml"

    @property
    def log_file(self) -> Path:
        """What happened."""
        return self.path / "job.log"

    def stage(self, name: str) -> Path:
        """The folder of a stage, made where it is missing."""
        folder = self.path / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def told(self) -> dict[str, Any]:
        """The content of state.json."""
        return read_json(self.path / "state.json")

    @property
    def state(self) -> JobState:
        """What has become of the job; one whose file says something that nobody knows has failed."""
        told = self.told().get("state", JobState.QUEUED)
        return JobState(told) if told in {*JobState} else JobState.FAILED

    def verdict(self) -> str | None:
        """SHA-256 of the gate's verdict; None where nothing was judged yet."""
        made: dict[str, Any] = read_json(self.path / "stages" / "gate" / "done.json").get("made", {})
        return made.get("verdict")

    def update(self, **changes: Any) -> dict[str, Any]:
        """Change state.json; a value of None removes its key.

        A full disk must not keep from being told that the job waits or has ended: the reserve is given up for that,
        and for nothing else.

        Raises:
            OSError: the disk is full, and the job runs.
        """
        state = {"job": self.name, "state": JobState.QUEUED, "stages": {}} | self.told() | changes
        state = {key: value for key, value in state.items() if value is not None}
        state["updated_at"] = now()
        try:
            write_json(self.path / "state.json", state)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or changes.get("state", JobState.RUNNING) is JobState.RUNNING:
                raise
            (self.path / ".reserve").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                write_json(self.path / "state.json", state)
        return state

    def reserve(self) -> None:
        """Keep some bytes aside for `update` on a full disk.

        Raises:
            OSError: the disk is full.
        """
        path = self.path / ".reserve"
        if not path.is_file() or path.stat().st_size < RESERVE:
            with path.open("wb") as file:
                file.write(bytes(RESERVE))
                file.flush()
                os.fsync(file.fileno())

    def starts(self) -> int:
        """How often in a row, this time included, a process started and the one before had died without progress.

        Progress is a later stage, or the next hundredth of one. Whoever ends in good order calls `forget_starts`.
        """
        before, state = read_json(self.path / "starts.json"), self.told()
        stage = state.get("stage", "")
        reached = [STAGES.index(stage) if stage in STAGES else -1, int(100 * state.get("done", 0.0))]
        furthest = before.get("furthest", [-1, 0])
        count = 1 if reached > furthest else int(before.get("count", 0)) + 1
        with contextlib.suppress(OSError):
            write_json(self.path / "starts.json", {"count": count, "furthest": max(reached, furthest)})
        return count

    def forget_starts(self) -> None:
        """The next start is the first again."""
        (self.path / "starts.json").unlink(missing_ok=True)

    def log(self, text: str) -> None:
        """Add a line to job.log; a disk that is full loses it."""
        with contextlib.suppress(OSError), self.log_file.open("a", encoding="utf-8") as file:
            file.write(f"{now()} {text}\n")

    def progress(self, row: Mapping[str, Any]) -> None:
        """Add a line to progress.jsonl; a disk that is full loses it."""
        with contextlib.suppress(OSError), (self.path / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to stop."""
        return (self.path / "cancel").exists()

    @contextlib.contextmanager
    def lock(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Work on the job, alone.

        Raises:
            JobBusy: another process does, also after some seconds.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # a reader that only looks holds it for a moment
                    if time.monotonic() > end:
                        raise JobBusy(f"{self.path}: another process works on this job") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    @property
    def busy(self) -> bool:
        """Whether a process works on the job."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False


class JobLog(io.TextIOBase):
    """What a training run prints goes to the job's log."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    def write(self, text: str) -> int:
        """Log every line that is not empty."""
        for line in text.splitlines():
            if line.strip():
                self._folder.log(line)
        return len(text)
