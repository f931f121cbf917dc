"""Runs a job's stages in their order: resumes, waits, is cancelled, and says what came of it.

A stage whose done.json carries the fingerprint of its inputs is passed over. One that was begun with other inputs is
begun anew in an empty folder; one that was interrupted goes on from its own checkpoints.
"""

import contextlib
import errno
import hashlib
import json
import math
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from explain_core.bundles.tracking import RegistryUnreachable, causes
from explain_core.files import read_json, write, write_json
from explain_core.jobs import RESERVE, JobFolder, JobLog, JobState, now
from training.errors import TrainingError
from training.progress import Cancelled
from training.retrain import job as jobs
from training.retrain.job import Job
from training.retrain.resources import limit_torch, stand_back
from training.retrain.stage import Context, Stage

DONE, FAILED, REFUSED, CANCELLED, WAITING = 0, 1, 3, 4, 75
"""Exit statuses; 75 is EX_TEMPFAIL of sysexits.h: try again later."""

LONGEST_WAIT: Final = 600.0
MOST_STARTS: Final = 5
"""In a row that a process may die without having got any further."""
WEIGHTS: Final[Mapping[str, float]] = {
    "collect": 6, "validate": 0.2, "split": 0.2, "classifier": 40, "calibrate": 0.6, "generators": 36, "bundle": 5,
    "evaluate": 10, "gate": 0.2, "report": 1, "register": 0.8, "attributes": 90, "attach": 0.8,
}  # fmt: skip
"""Usual shares of the stages in a job's time, for the time left."""

_FULL_TEXTS = ("No space left on device", "disk is full", "Disk quota exceeded")


class Stopped(Cancelled):
    """The process was told to end; the job goes on when it is started again."""


@dataclass
class Reporter:
    """Tells state.json, progress.jsonl, the log and the terminal how far a stage is; stops it when asked to."""

    folder: JobFolder
    stage: str
    say: Callable[[str], None]
    stopping: Callable[[], bool]
    after: tuple[str, ...] = ()
    began: float = field(default_factory=time.monotonic)
    _told: float = -math.inf
    _last: tuple[float, dict[str, float | str]] | None = None
    _logged: float = field(default_factory=time.monotonic)

    def __call__(self, done: float, **figures: float | str) -> None:
        """Take note of a part of the stage, 0 to 1; see `training.progress.Progress`."""
        _look(self.folder, self.stopping)
        clock = time.monotonic()
        if (clock - self._told < 0.3 and done < 1) or (done, figures) == self._last:  # noqa: PLR2004 - often enough
            return
        self._told, self._last = clock, (done, figures)
        shown = {name: _plain(value) for name, value in figures.items()}
        done = min(max(done, 0.0), 1.0)
        seconds = clock - self.began
        eta = round(self._left(done, seconds))
        self.folder.update(stage=self.stage, done=round(done, 4), figures=shown, eta_seconds=eta)
        self.folder.progress({"at": now(), "stage": self.stage, "done": round(done, 4), "eta_seconds": eta, **shown})
        text = " ".join(f"{name}={value}" for name, value in shown.items())
        line = f"{self.stage} {done:4.0%} {text} {_duration(eta)} left"
        self.say(line)
        if clock - self._logged > 10:  # noqa: PLR2004 - seconds; the log is for people
            self._logged = clock
            self.folder.log(line)

    def _left(self, done: float, seconds: float) -> float:
        """Seconds left of the job, from how long its stages took so far and what they usually take."""
        stages: dict[str, dict[str, Any]] = self.folder.told().get("stages", {})
        spent = sum(WEIGHTS[name] for name, one in stages.items() if one.get("state") == "done")
        took = sum(float(one.get("seconds", 0.0)) for one in stages.values() if one.get("state") == "done")
        weight = WEIGHTS[self.stage] * max(done, 0.02)
        pace = (took + seconds) / (spent + weight)
        own = seconds / done * (1 - done) if done > 0.05 else pace * WEIGHTS[self.stage] * (1 - done)  # noqa: PLR2004
        later = sum(WEIGHTS[name] for name in self.after)
        return own + pace * later


def _look(folder: JobFolder, stopping: Callable[[], bool]) -> None:
    if folder.cancelled:
        raise Cancelled(f"the job was cancelled; `dicom-node retrain resume {folder.name}` lets it go on")
    if stopping():
        raise Stopped("told to stop")


def _plain(value: float | str) -> float | str:
    if isinstance(value, str):
        return value
    number = float(value)
    return f"{number}" if not math.isfinite(number) else int(number) if number.is_integer() else float(f"{number:.5g}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


def prepare(folder: JobFolder, job: Job) -> None:
    """Write down what is asked; the same again changes nothing."""
    text = job.text()
    if not folder.job_file.is_file() or folder.job_file.read_text(encoding="utf-8") != text:
        write(folder.job_file, text, mode=0o600)
        folder.forget_starts()
    if not folder.told():
        folder.update(state=JobState.QUEUED, name=job.job.name, created_at=now())


@dataclass
class Request:
    """How a job is to be run.

    Attributes:
        path: the job folder.
        job: what is asked; None: what the folder says.
        force: why a refusal of the gate is to be passed over, if it refuses in this run.
        wait: whether to wait here for a full disk or a registry that is away, or to end with `WAITING`.
        retry_seconds: before the first repetition; each further wait is twice as long, up to ten minutes.
        limits: what a site allows at most: nice, threads, gpu_memory_fraction.
        say: told every line of progress.
    """

    path: Path
    job: Job | None = None
    force: str = ""
    wait: bool = True
    retry_seconds: float = 10.0
    limits: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None


def run(request: Request, stages: Mapping[str, tuple[Stage, ...]] | None = None) -> int:
    """Run a job to its end, to a refusal or to a failure.

    Args:
        request: which job and how.
        stages: by the kind of the job, instead of the real ones, for tests.

    Returns:
        DONE, FAILED, REFUSED, CANCELLED, or WAITING where it must not wait itself.

    Raises:
        JobBusy: another process works on it.
        JobError: job.toml is wrong; the job has then failed.
    """
    folder = JobFolder(request.path)
    folder.make()
    with folder.lock(), _signals() as stopping:
        if request.job is not None:
            prepare(folder, request.job)
        try:
            job = jobs.load(folder.job_file)
        except jobs.JobError as error:
            if folder.job_file.is_file():
                folder.update(state=JobState.FAILED, error=str(error), eta_seconds=None)
            raise
        limits = {key: request.limits.get(key) for key in ("nice", "threads", "gpu_memory_fraction")}
        resources = job.resources.within(**limits)
        stand_back(resources)
        job = job.model_copy(update={"resources": resources})
        one = _Run(request, folder, job, stopping, None if stages is None else stages[job.job.kind])
        try:
            return one.to_the_end() if folder.starts() <= MOST_STARTS else one.given_up()
        finally:
            folder.forget_starts()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come; both let the job stop at the next safe point."""
    came: list[int] = []
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, lambda got, _: came.append(got))
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Run:
    request: Request
    folder: JobFolder
    job: Job
    stopping: Callable[[], bool]
    stages: tuple[Stage, ...] | None

    def to_the_end(self) -> int:
        wait = self.request.retry_seconds
        while True:
            try:
                return self._finished(self._all())
            except Cancelled as stop:
                return self._stopped(stop)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the state must say so
                reason = waiting_reason(error, self.folder.path)
                if reason is None:
                    return self._failed(error)
            retry_at = (datetime.now(UTC) + timedelta(seconds=wait)).isoformat(timespec="seconds")
            self.folder.update(state=JobState.WAITING, error=reason, retry_at=retry_at, eta_seconds=None)
            self.folder.log(f"waiting {wait:.0f} s: {reason}")
            self.request.say(f"waiting {wait:.0f} s: {reason}")
            try:
                if not self.request.wait:
                    return WAITING
                self._sleep(wait)
            except Cancelled as stop:
                return self._stopped(stop)
            wait = min(2 * wait, LONGEST_WAIT)

    def _all(self) -> Context:
        self._look()
        self.folder.reserve()
        self.folder.update(state=JobState.RUNNING, error=None, retry_at=None, verdict=None, version=None)
        if self.stages is None:
            limit_torch(self.job.resources)
            from training.retrain.stages import STAGES  # noqa: PLC0415 - loads PyTorch

            self.stages = STAGES[self.job.job.kind]
        context = Context(self.job, self.folder, lambda *_, **__: None)
        for stage in self.stages:
            self._one(stage, context)
            if stage.name == "gate":
                self._force(context.made("gate").get("verdict", ""))
        return context

    def _force(self, verdict: str) -> None:
        """Keep a reason together with the verdict that it was given for; for any other it is none."""
        state = self.folder.told()
        if self.request.force:
            self.folder.update(forced=self.request.force, forced_for=verdict)
        elif "forced" in state and state.get("forced_for") != verdict:
            self.folder.log(f"not used, for it was given for another verdict: --force {state['forced']}")
            self.folder.update(forced=None, forced_for=None)

    def _one(self, stage: Stage, context: Context) -> None:
        """Run one stage, unless it is done with these inputs."""
        self._look()
        folder = self.folder.stage(stage.name)
        mark = hashlib.sha256(json.dumps(stage.inputs(context), sort_keys=True).encode()).hexdigest()
        done = read_json(folder / "done.json")
        if done.get("fingerprint") == mark:
            self._stage_state(stage.name, JobState.DONE, done["seconds"])
            return
        if read_json(folder / "begun.json").get("fingerprint") != mark:
            shutil.rmtree(folder)
            folder.mkdir()
            write_json(folder / "begun.json", {"fingerprint": mark, "at": now()})
        after = [one.name for one in (self.stages or ())]
        after = after[after.index(stage.name) + 1 :]
        reporter = Reporter(self.folder, stage.name, self.request.say, self.stopping, tuple(after))
        self._stage_state(stage.name, JobState.RUNNING)
        self.folder.update(stage=stage.name, done=0.0, figures={})
        self.folder.log(f"stage {stage.name}")
        reporter(0.0)
        context.progress = reporter
        with contextlib.redirect_stdout(JobLog(self.folder)):
            made = stage.make(context)
        seconds = round(time.monotonic() - reporter.began, 2)
        write_json(folder / "done.json", {"fingerprint": mark, "seconds": seconds, "at": now(), "made": made})
        self._stage_state(stage.name, JobState.DONE, seconds)
        self.folder.update(done=1.0)
        self.folder.log(f"stage {stage.name} done in {seconds:.1f} s: {json.dumps(made)[:500]}")

    def _stage_state(self, name: str, state: str, seconds: float = 0.0) -> None:
        stages = self.folder.told().get("stages", {})
        self.folder.update(stages=stages | {name: {"state": state, "seconds": seconds}})

    def _look(self) -> None:
        _look(self.folder, self.stopping)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            time.sleep(min(0.2, seconds))

    def _finished(self, context: Context) -> int:
        verdict, made = context.made("gate"), context.made("register")
        passed = verdict.get("passed", True) or bool(context.forced)
        state = JobState.DONE if passed else JobState.REFUSED
        summary = verdict | ({"forced": context.forced} if context.forced else {})
        self.folder.update(
            state=state, stage="", done=1.0, eta_seconds=0, figures={}, verdict=summary, version=made.get("version"),
            error=None if passed else verdict.get("reason"),
        )  # fmt: skip
        self.folder.log(f"{state}: {verdict.get('reason', '')}" if not passed else state)
        return DONE if passed else REFUSED

    def _stopped(self, stop: Cancelled) -> int:
        cancelled = not isinstance(stop, Stopped) and self.folder.cancelled
        self.folder.update(
            state=JobState.CANCELLED if cancelled else JobState.QUEUED,
            error=str(stop) if cancelled else "the process was told to stop; the job goes on when it is started again",
            eta_seconds=None,
        )
        self.folder.log(str(stop))
        return CANCELLED

    def given_up(self) -> int:
        """After deaths in a row."""
        return self._failed(
            TrainingError(
                f"the job's process died {MOST_STARTS} times in a row without getting any further, perhaps for want of "
                "memory: see the system's log; `resume` tries again"
            )
        )

    def _failed(self, error: BaseException) -> int:
        reason = str(error) or type(error).__name__
        known = isinstance(error, (SystemExit, ValueError)) or type(error).__module__.startswith(
            ("training", "explain_core")
        )
        if not known:
            reason = f"{type(error).__name__}: {reason}"
        self.folder.log("".join(traceback.format_exception(error)).rstrip())
        self.folder.update(state=JobState.FAILED, error=reason, eta_seconds=None)
        self.request.say(f"failed: {reason}")
        return FAILED


def waiting_reason(error: BaseException, path: Path) -> str | None:
    """Why the job must wait for somebody to make room or to start a server; None for any other error."""
    for one in causes(error):
        if isinstance(one, RegistryUnreachable):
            return str(one)
        full = (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT)) or any(
            text in str(one) for text in _FULL_TEXTS
        )
        short = isinstance(one, (OSError, RuntimeError)) and shutil.disk_usage(path).free < RESERVE
        if full or short:
            return f"the disk of {path} is full; make room, the job goes on by itself"
    return None
