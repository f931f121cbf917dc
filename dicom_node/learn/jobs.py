"""Job folders of retraining, as the node and a dashboard see them: JSON files. Nothing here loads PyTorch.

`training/retrain/folder.py` writes them. A process that works on a job holds a lock on the file `lock` in it; the
state of a job is changed from here only while nobody does.
"""

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import ConfigError, NodeError

OPEN: Final = ("queued", "running", "waiting")
STAGES: Final = (
    "collect", "validate", "split", "classifier", "calibrate", "generators", "bundle", "evaluate", "gate", "report",
    "register",
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class NoSuchJob(NodeError):
    """There is no job of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What is known of one job.

    Attributes:
        name: of its folder: the job's identifier.
        state: "queued", "running", "waiting", "done", "refused", "failed" or "cancelled".
        working: whether a process works on it now; "running" without one was interrupted, and a worker goes on.
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
    state: str
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

    def path(self, name: str) -> Path:
        """A job's folder.

        Raises:
            NoSuchJob: there is none of that name.
        """
        path = self.folder / name
        if not _NAME.fullmatch(name) or not (path / "job.toml").is_file():
            raise NoSuchJob(f"no job {name!r} in {self.folder}; `dicom-node retrain status` lists them")
        return path

    def names(self) -> list[str]:
        """All jobs, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if (path / "job.toml").is_file()]
        return [path.name for path in sorted(found, key=lambda path: (_created(path), path.name), reverse=True)]

    def status(self, name: str) -> JobStatus:
        """What is known of a job.

        Raises:
            NoSuchJob: there is none of that name.
        """
        path = self.path(name)
        state = _state(path)
        stages = state.get("stages", {})
        return JobStatus(
            name=name,
            state=str(state.get("state", "queued")),
            working=_busy(path),
            cancelling=(path / "cancel").exists() and state.get("state") in OPEN,
            stage=str(state.get("stage", "")),
            done=float(state.get("done", 0.0)),
            eta_seconds=state.get("eta_seconds"),
            figures=state.get("figures", {}),
            stages={stage: stages[stage] for stage in STAGES if stage in stages},
            error=str(state.get("error", "")),
            version=state.get("version"),
            verdict=state.get("verdict", {}),
            created_at=str(state.get("created_at", "")),
            updated_at=str(state.get("updated_at", "")),
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

    def queue(self, path: Path, job: str) -> None:
        """Make a reserved folder a job that waits for a worker; job.toml comes last: without it there is no job."""
        (path / "stages").mkdir(exist_ok=True)
        _change(path, {"state": "queued", "created_at": _now()})
        _write(path / "job.toml", job, mode=0o600)

    def cancel(self, name: str) -> str:
        """Ask a job to stop; returns the state that it then has.

        One that nobody works on is cancelled at once; one that is being worked on ends at its next safe point.

        Raises:
            NoSuchJob: there is none of that name.
        """
        path = self.path(name)
        if _state(path).get("state") not in OPEN:
            return str(_state(path).get("state"))
        (path / "cancel").touch()
        with _alone(path) as alone:
            if alone and _state(path).get("state") in OPEN:
                _change(path, {"state": "cancelled", "error": "the job was cancelled"})
            elif alone and _state(path).get("state") != "cancelled":  # it ended meanwhile
                (path / "cancel").unlink()
        return str(_state(path).get("state"))

    def resume(self, name: str, force: str = "") -> bool:
        """Let a job that was cancelled, refused, has failed or waits go on; False where a process works on it already.

        Args:
            name: of the job.
            force: why the gate's verdict as it is now is to be passed over, "" where it is not.

        Raises:
            NoSuchJob: there is none of that name.
            NodeError: a reason is given, and nothing was judged yet.
        """
        path, forced = self.path(name), {}
        if force:
            verdict = _read(path / "stages" / "gate" / "done.json").get("made", {}).get("verdict")
            if verdict is None:
                raise NodeError(f"{name}: nothing was judged yet, so there is no refusal to pass over by force")
            forced = {"forced": force, "forced_for": verdict}
        with _alone(path) as alone:
            if not alone:
                return False
            for file in ("cancel", "starts.json"):
                (path / file).unlink(missing_ok=True)
            _change(path, {"state": "queued", "error": None, "retry_at": None} | forced)
        return True


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _state(path: Path) -> dict[str, Any]:
    return _read(path / "state.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _created(path: Path) -> str:
    return str(_state(path).get("created_at", ""))


def _change(path: Path, changes: Mapping[str, Any]) -> None:
    state = {"job": path.name, "stages": {}} | _state(path) | dict(changes) | {"updated_at": _now()}
    _write(path / "state.json", json.dumps({k: v for k, v in state.items() if v is not None}, indent=1) + "\n")


def _write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file whole or not at all; `mode` as in open(2)."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with open(fresh, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _busy(path: Path) -> bool:
    try:
        with (path / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the job's lock for a moment; False where a process works on it."""
    with (path / "lock").open("ab") as file:
        for _ in range(5):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                yield True
                return
        yield False
