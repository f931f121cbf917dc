"""What the processes of the node count and time, for Prometheus.

Each process counts in files of its own in one folder of the machine (prometheus-client's multiprocess mode), from which
whoever serves /metrics adds them up. What a process has counted outlives it: the files of dead processes are put
together into one, so that no sum ever goes down and no folder fills. A process that cannot count there counts in
memory, says so, and goes on: no number is worth a study.

Labels come from the settings and from tables of ours, never from a peer's text: a caller that is not in the settings
is "other".
"""

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

PREFIX: Final = "dicom_node_"
OTHER: Final = "other"
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_KINDS: Final = ("counter", "histogram", "gauge_livesum")
_FILE: Final = re.compile(r"(counter|histogram|gauge_livesum)_([0-9]+)\.db")
_DEAD: Final = 0
"""In place of a process id, of the file that holds what dead processes have counted."""
_BYTES: Final = 1 << 20
"""Of a file, on the disk from the start: a page of a mapped file that finds no room ends the process (SIGBUS)."""
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Something that processes count or time.

    Attributes:
        name: without the prefix, as Prometheus shows it.
        kind: Counter, Gauge or Histogram.
        text: what it is, with its unit.
        labels: names of its labels.
    """

    name: str
    kind: type[Counter | Gauge | Histogram]
    text: str
    labels: tuple[str, ...] = ()


MEASURES: Final = (
    Measure(
        name="instances_received_total",
        kind=Counter,
        text="Objects that were acknowledged with 0x0000, those that were here before too.",
        labels=("calling_aet",),
    ),
    Measure(
        name="instances_refused_total",
        kind=Counter,
        text="Objects that were answered with a failure.",
        labels=("calling_aet", "status"),
    ),
    Measure(
        name="store_seconds",
        kind=Histogram,
        text="Seconds from the last byte of an object to its answer: disk, folder and ledger.",
    ),
    Measure(name="associations_active", kind=Gauge, text="Associations that are open."),
    Measure(
        name="associations_rejected_total",
        kind=Counter,
        text="Associations that were rejected, and connections that were refused for want of room.",
        labels=("reason",),
    ),
    Measure(
        name="jobs_finished_total",
        kind=Counter,
        text="Tasks that a worker has finished; failed: the study was answered, but not analysed.",
        labels=("outcome",),
    ),
    Measure(
        name="job_seconds",
        kind=Histogram,
        text="Seconds of a task by stage: wait, decode, classify, explain, build, write; total from lease to end.",
        labels=("stage", "model"),
    ),
    Measure(
        name="results_sent_total",
        kind=Counter,
        text="Outcomes of deliveries: sent, warning, retry, unreachable, downgraded, dead.",
        labels=("destination", "status"),
    ),
)


class _Meters:
    """The measures, in memory or in files, as prometheus-client is told to keep values now."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.all = {one.name: self._made(one) for one in MEASURES}

    def _made(self, one: Measure) -> Any:
        more: dict[str, Any] = {}
        if one.kind is Histogram:
            more["buckets"] = _SECONDS
        if one.kind is Gauge:
            more["multiprocess_mode"] = "livesum"
        return one.kind(PREFIX + one.name, one.text, one.labels, registry=self.registry, **more)


_meters = _Meters()
_callers: frozenset[str] = frozenset()
_lock_file: int | None = None


def known_callers(ae_titles: Sequence[str]) -> None:
    """The AE titles that have a series of their own; every other is "other"."""
    global _callers  # noqa: PLW0603 - of the process, like the measures
    _callers = frozenset(ae_titles)


def count(name: str, amount: float = 1, /, **labels: str) -> None:
    """Add to a counter or a gauge of MEASURES."""
    if "calling_aet" in labels:
        labels["calling_aet"] = labels["calling_aet"] if labels["calling_aet"] in _callers else OTHER
    meter = _meters.all[name]
    (meter.labels(**labels) if labels else meter).inc(amount)


def time(name: str, seconds: float, /, **labels: str) -> None:
    """Record a duration in a histogram of MEASURES."""
    meter = _meters.all[name]
    (meter.labels(**labels) if labels else meter).observe(max(0.0, seconds))


def value(name: str, /, **labels: str) -> float | None:
    """What this process has counted; None before it did. Name as Prometheus shows it, without the prefix."""
    return _meters.registry.get_sample_value(PREFIX + name, labels)


def start(folder: Path) -> bool:
    """Count in files of a folder from now on, so that other processes see it.

    Returns:
        False where that cannot be: it is said in the log, and this process counts in memory.
    """
    global _meters, _lock_file
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = os.open(folder / f"{os.getpid()}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if not _locked(mine):
            os.close(mine)
            log.error("metrics not shared: another machine or container counts in this folder", folder=str(folder))
            return False
        sweep(folder)
        (folder / f"gauge_livesum_{os.getpid()}.db").unlink(missing_ok=True)  # of an earlier process of this number
        for kind in _KINDS:
            _reserve(folder / f"{kind}_{os.getpid()}.db")
    except OSError as error:
        log.error("metrics not shared", folder=str(folder), reason=error.strerror)  # noqa: TRY400 - the text says it
        return False
    os.environ[FOLDER_VARIABLE] = str(folder.absolute())
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    _meters, _lock_file = _Meters(), mine
    return True


def collect(folder: Path) -> CollectorRegistry:
    """What all processes of this machine have counted, those that are dead too."""
    registry = CollectorRegistry()
    registry.register(_Undisturbed(folder))
    return registry


def serve(host: str, port: int, folder: Path) -> bool:
    """Serve what `collect` finds, in a thread, for a container with one role; False where the port is taken."""
    try:
        start_http_server(port, host, collect(folder))
    except OSError as error:
        log.error("metrics not served", host=host, port=port, reason=error.strerror)  # noqa: TRY400 - the text says it
        return False
    return True


class _Undisturbed:
    """Reads the files while no process sweeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Any]:
        """What Prometheus shows."""
        if not self._folder.is_dir():
            return
        sweep(self._folder)
        with _alone(self._folder):
            found = [*MultiProcessCollector(None, path=str(self._folder)).collect()]  # type: ignore[no-untyped-call]
        yield from found


def sweep(folder: Path) -> int:
    """Put the files of dead processes together; how many files that were.

    A process holds the lock of its number while it lives, in whatever container. One that is killed here leaves files
    that are counted twice rather than not at all.
    """
    with _alone(folder):
        found = [(path, match) for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))]
        numbers = {int(match[2]) for _, match in found} | {int(one.stem) for one in folder.glob("[0-9]*.lock")}
        swept = 0
        for number in sorted(numbers - {_DEAD, os.getpid()}):
            with _of_the_dead(folder / f"{number}.lock") as dead:
                if dead:
                    for path, match in found:
                        if int(match[2]) == number:
                            _inherit(path, match[1])
                            swept += 1
        return swept


def _inherit(path: Path, kind: str) -> None:
    """Add a dead process's file to the one of all dead; a gauge of the living goes with it."""
    if kind != "gauge_livesum":
        heap, new = path.with_name(f"{kind}_{_DEAD}.db"), path.with_name(f"{kind}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        _reserve(new)
        total = MmapedDict(str(new))  # type: ignore[no-untyped-call]
        try:
            for source in (heap, path):
                for key, amount, stamp, _ in _read(source):
                    known, _ = total.read_value(key)  # type: ignore[no-untyped-call]
                    total.write_value(key, known + amount, stamp)  # type: ignore[no-untyped-call]
        finally:
            total.close()  # type: ignore[no-untyped-call]
        new.replace(heap)
    path.unlink(missing_ok=True)


def _read(path: Path) -> list[tuple[str, float, float, int]]:
    """The values of a file; none of one that is missing or was cut short."""
    try:
        return list(MmapedDict.read_all_values_from_file(str(path)))  # type: ignore[no-untyped-call]
    except (FileNotFoundError, RuntimeError, ValueError, IndexError, UnicodeDecodeError):
        return []


def _reserve(path: Path) -> None:
    """Take the room of a file of values, where it does not exist yet."""
    held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(held, 0, _BYTES)
    except OSError:
        if not os.fstat(held).st_size:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


@contextmanager
def _of_the_dead(path: Path) -> Iterator[bool]:
    """Whether the process that had this lock is dead; its lock goes with it."""
    held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        dead = _locked(held)
        yield dead
        if dead:
            path.unlink(missing_ok=True)
    finally:
        os.close(held)


_threads = threading.Lock()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While the block runs no other process or thread sweeps or reads."""
    with _threads, (folder / "folder.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _locked(descriptor: int) -> bool:
    """Take the lock of an open file, until it is closed; False where another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
