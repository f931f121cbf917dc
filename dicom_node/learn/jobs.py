"""The retraining jobs of a node, as its commands and a dashboard see them. Nothing here loads PyTorch.

The state of a job is changed from here only while no process works on it.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.errors import ConfigError, NodeError
from explain_core.files import write
from explain_core.jobs import STAGES, JobBusy, JobFolder, JobState, now

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_GONE = "."
"""Begins the name of a folder that is being removed."""
_GLANCE = 0.25
"""Seconds for which somebody who only looks may hold a job's lock."""


class NoSuchJob(NodeError):
    """There is no job of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What is known of one job.

    Attributes:
        name: of its folder: the job's identifier.
        state: what has become of it.
        working: whether a process works on it now; one that runs without it was interrupted, and a worker goes on.
        cancelling: whether it was asked to stop and has not yet.
        stage: which stage runs, "" before the first and after the last.
        done: part of the stage that is done, 0 to 1.
        eta_seconds: of the whole job, None where nobody can say.
        figures: of the stage, e.g. epoch and loss.
        stages: state and seconds of every stage that was begun, in their order.
        error: why it waits, failed or was refused, "" otherwise.
        version: of the registry, None before.
        verdict: of the gate: passed, reason, failed, forced; empty before.
        created_at, updated_at: ISO 8601, UTC.
    """

    name: str
    state: JobState
    working: bool
    cancelling: bool
    stage: str
    done: float
    eta_seconds: float | None
    figures: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    error: str
    version: int | None
    verdict: Mapping[str, Any]
    created_at: str
    updated_at: str


class Jobs:
    """The job folders of one node.

    Args:
        folder: `[retraining] jobs`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def job(self, name: str) -> JobFolder:
        """A job's folder.

        Raises:
            NoSuchJob: there is none of that name.
        """
        found = JobFolder(self.folder / name)
        if not _NAME.fullmatch(name) or not found.job_file.is_file():
            raise NoSuchJob(f"no job {name!r} in {self.folder}; `dicom-node retrain status` lists them")
        return found

    def all(self) -> list[JobFolder]:
        """All jobs, the oldest first."""
        if not self.folder.is_dir():
            return []
        inside = [path for path in self.folder.iterdir() if not path.name.startswith(_GONE)]
        found = [JobFolder(path) for path in inside if (path / "job.toml").is_file()]
        return sorted(found, key=lambda job: (str(job.told().get("created_at", "")), job.name))

    def names(self) -> list[str]:
        """All jobs, the newest first."""
        return [job.name for job in reversed(self.all())]

    def status(self, name: str) -> JobStatus:
        """What is known of a job.

        Raises:
            NoSuchJob: there is none of that name.
        """
        job = self.job(name)
        told = job.told()
        stages = told.get("stages", {})
        return JobStatus(
            name=name,
            state=job.state,
            working=job.busy,
            cancelling=job.cancelled and job.state.open,
            stage=str(told.get("stage", "")),
            done=float(told.get("done", 0.0)),
            eta_seconds=told.get("eta_seconds"),
            figures=told.get("figures", {}),
            stages={stage: stages[stage] for stage in STAGES if stage in stages},
            error=str(told.get("error", "")),
            version=told.get("version"),
            verdict=told.get("verdict", {}),
            created_at=str(told.get("created_at", "")),
            updated_at=str(told.get("updated_at", "")),
        )

    def reserve(self, name: str) -> Path:
        """Make an empty folder for a new job: the name, the time, and a number where that is taken.

        It is its owner's alone: job.toml may hold the registry's password.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        for number in range(1, 1000):
            path = self.folder / (stem if number == 1 else f"{stem}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                return path
        raise ConfigError(f"{self.folder}: too many jobs called {stem}")

    def ended_before(self, moment: datetime) -> list[JobFolder]:
        """Jobs in which nothing is left to do and that nobody has changed since, the oldest first."""
        told = [(job, _updated(job)) for job in self.all() if not job.state.open]
        return [job for job, updated in told if updated is not None and updated < moment]

    def remove(self, name: str) -> bool:
        """Remove a job's folder; False where a process works on it, or where it goes on.

        Raises:
            NoSuchJob: there is none of that name.
        """
        job = self.job(name)
        try:
            with job.lock(_GLANCE):
                if job.state.open:
                    return False
                gone = job.path.rename(self.folder / f"{_GONE}{name}")  # half of a folder would be another job
        except JobBusy:
            return False
        shutil.rmtree(gone)
        return True

    def queue(self, path: Path, job: str) -> None:
        """Make a reserved folder a job that waits for a worker; job.toml comes last: without it there is no job."""
        folder = JobFolder(path)
        folder.make()
        folder.update(created_at=now())
        write(folder.job_file, job, mode=0o600)

    def cancel(self, name: str) -> JobState:
        """Ask a job to stop; returns the state that it then has.

        One that nobody works on is cancelled at once; one that is being worked on ends at its next safe point.

        Raises:
            NoSuchJob: there is none of that name.
        """
        job = self.job(name)
        if not job.state.open:
            return job.state
        (job.path / "cancel").touch()
        with contextlib.suppress(JobBusy), job.lock(_GLANCE):
            if job.state.open:
                job.update(state=JobState.CANCELLED, error="the job was cancelled")
            elif job.state is not JobState.CANCELLED:  # it ended meanwhile
                (job.path / "cancel").unlink()
        return job.state

    def resume(self, name: str, force: str = "") -> bool:
        """Let a job that was cancelled, refused, has failed or waits go on; False where a process works on it already.

        Args:
            name: of the job.
            force: why the gate's verdict as it is now is to be passed over, "" where it is not.

        Raises:
            NoSuchJob: there is none of that name.
            NodeError: a reason is given, and nothing was judged yet.
        """
        job, forced = self.job(name), {}
        if force:
            verdict = job.verdict()
            if verdict is None:
                raise NodeError(f"{name}: nothing was judged yet, so there is no refusal to pass over by force")
            forced = {"forced": force, "forced_for": verdict}
        try:
            with job.lock(_GLANCE):
                (job.path / "cancel").unlink(missing_ok=True)
                job.forget_starts()
                job.update(state=JobState.QUEUED, error=None, retry_at=None, **forced)
        except JobBusy:
            return False
        return True


def _updated(job: JobFolder) -> datetime | None:
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(str(job.told().get("updated_at", "")))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


class EndedJobs:
    """The folders of jobs as a store of which retention removes what has ended.

    Args:
        folder: `[retraining] jobs`.
    """

    name = "jobs"

    def __init__(self, folder: Path) -> None:
        self._jobs = Jobs(folder)

    def expire(self, before: datetime | None, *, dry_run: bool) -> tuple[int, int]:
        """Remove the jobs that ended before a time (None: none); returns how many and their bytes."""
        ended = [] if before is None else self._jobs.ended_before(before)
        sizes = {job.name: sum(path.stat().st_size for path in _files(job.path)) for job in ended}
        gone = [name for name in sizes if dry_run or self._jobs.remove(name)]
        return len(gone), sum(sizes[name] for name in gone)

    def files(self) -> Iterator[Path]:
        """Every file of every job."""
        return _files(self._jobs.folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def checked(
    file: Path, *, defaults: Mapping[str, Any], sources: Sequence[str] = (), python: str = sys.executable
) -> tuple[str, str]:
    """Check a job.toml in a process of its own: what a job may say is known to the training side alone.

    Args:
        file: the job.toml.
        defaults: values by "table.key" for what it does not say.
        sources: further sources of data.
        python: which interpreter has the training side.

    Returns:
        The job's name, and the whole job as TOML with every key, paths absolute.

    Raises:
        ConfigError: in one line, `file:line: key: what to do`.
    """
    command = [python, "-m", "training", "retrain", str(file), "--check", "--defaults"]
    for source in sources:
        command += ["--source", source]
    told = json.dumps(dict(defaults))  # not on the command line: the registry's password may be among them
    found = subprocess.run(command, input=told, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["the job cannot be checked"]
        raise ConfigError(lines[-1].removeprefix("error: "))
    name = re.search(r'^\[job\]\nname = "([^"]+)"', found.stdout, re.MULTILINE)
    return name[1] if name else "retraining", found.stdout
