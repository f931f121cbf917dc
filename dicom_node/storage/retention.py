"""Retention: what is over leaves the disk, by age, and before its time when room runs short.

store        over when                                                     goes after
-----------  ------------------------------------------------------------  ------------------------------
results      every delivery of the task is settled; reports stay           results_days
images       the same of every task of the study; its reports go, too      images_days
quarantine   a person had the time to look                                 quarantine_days, quarantine_mb
jobs         the job has ended                                             jobs_days
audit        the day is over, and the audit repository has it              audit_days
rows         the study's files are gone                                    ledger_days

Nothing goes before it is delivered: a delivery that waits holds its study, and one that is dead does until it is
replayed or `failed_days` have passed. When less than `clean_below_mb` is free, whatever is over goes at once, results
first, the oldest first: so the node goes on before it must refuse. What cannot be removed holds nothing else up: it is
said, and tried again. What lies in the spool and in no row was never acknowledged, or the ledger is older than the
spool: an image is set aside for a person, a result goes.
"""

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from dicom_node.clock import utc_now
from dicom_node.errors import DatasetUnreadable, NodeError
from dicom_node.nouns import REPORT, StoreSize
from dicom_node.settings.sections import Settings
from dicom_node.storage.file_store import Stored
from dicom_node.storage.folder import looked_at
from dicom_node.storage.ledger import Cutoff, Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch import pulse

EVERY_SECONDS: Final = 60.0
"""Between two passes; every so many of them (`FileStore.look_every`) all files are looked at and measured."""
SETTLED: Final = timedelta(hours=1)
"""How long what is over stays even when room runs short: somebody may want it again just now."""
ORPHANED: Final = timedelta(days=1)
"""Age from which a file that no row names is one that no row will name."""
_NOT_IN_LEDGER: Final = "NotInLedger"
_MEGABYTE: Final = 1 << 20
_BATCH: Final = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What went, or would go.

    Attributes:
        store: where it lay.
        why: "age", "size" (quarantine_mb), "room" (clean_below_mb) or "orphan".
        items: tasks, studies, objects, jobs or studies' rows.
        bytes: of its files.
    """

    store: str
    why: str
    items: int
    bytes: int


class Store(Protocol):
    """A store beside the spool, such as the folders of retraining jobs."""

    name: str

    def expire(self, before: datetime | None, *, dry_run: bool) -> tuple[int, int]:
        """Remove what ended before a time (None: nothing); returns how many items and bytes that is."""

    def files(self) -> Iterable[Path]:
        """Every file."""


_Candidates = Callable[[Cutoff, int, datetime | None], list[tuple[str, datetime]]]
_Remove = Callable[[str, Cutoff], int | None]
"""Returns the bytes; None where it may no longer be removed."""


class _Kind(NamedTuple):
    """How results, or images, are found and removed."""

    store: str
    candidates: _Candidates
    remove: _Remove


@dataclass(slots=True, kw_only=True)
class Retention:
    """Removes what is over.

    Attributes:
        settings: how long things are kept.
        ledger: knows what is over.
        spool: where files lie.
        others: stores beside the spool, and the days for which each keeps what has ended.
        clock: the time.
        free: bytes free on the spool's disk.
    """

    settings: Settings
    ledger: Ledger
    spool: Spool
    others: Sequence[tuple[Store, float]] = ()
    clock: Callable[[], datetime] = utc_now
    free: Callable[[], int] | None = None
    _short: bool = field(default=False, init=False)
    _stuck: dict[str, str] = field(default_factory=dict, init=False)
    """What this pass could not remove, and why."""
    _said: dict[str, str] = field(default_factory=dict, init=False)

    def run(self, stop: threading.Event) -> None:
        """Clean and measure until `stop`; trouble is logged, and the next pass tries again."""
        passes = 0
        pulse.ready()
        while True:
            pulse.beat()
            try:
                look = passes % self.spool.store.look_every == 0
                for one in self.clean(orphans=look):
                    log.info("removed", store=one.store, why=one.why, items=one.items, bytes=one.bytes)
                if look:
                    self.ledger.keep_sizes(self.measure())
                passes += 1
            except (NodeError, OSError) as error:
                log.error("retention failed, will try again", error=type(error).__name__, reason=str(error))  # noqa: TRY400
            if stop.wait(EVERY_SECONDS):
                return

    def clean(self, *, dry_run: bool = False, orphans: bool = True) -> list[Freed]:
        """Remove what is over.

        Args:
            dry_run: only say what would go.
            orphans: also look for files that no row names, which reads every folder.

        Returns:
            what went, by store and reason; nothing that is empty.

        Raises:
            OutOfResources: the ledger does not answer.
        """
        self._stuck = {}
        now, kept = self.clock(), self.settings.retention
        aged = [self._cutoff(now, days) for days in (kept.results_days, kept.images_days)]
        kinds = self._kinds(dry_run=dry_run)
        found = [
            *(self._take(kind, cutoff, None) for kind, cutoff in zip(kinds, aged, strict=True)),
            *self._quarantine(now, dry_run=dry_run),
            *(self._other(store, _before(now, days), dry_run=dry_run) for store, days in self.others),
            self._rows(_before(now, kept.ledger_days), dry_run=dry_run),
        ]
        if orphans:
            found += self._orphans(now, dry_run=dry_run)
        passed = [None if cutoff is None else cutoff.settled for cutoff in aged]
        found += self._make_room(now, passed, sum(one.bytes for one in found) if dry_run else 0, dry_run=dry_run)
        if self._stuck != self._said:
            self._said = self._stuck
            if self._stuck:
                first, why = next(iter(self._stuck.items()))
                log.error("some cannot be removed, all else was", items=len(self._stuck), first=first, reason=why)
            else:
                log.info("all can be removed again")
        return [one for one in found if one.items]

    def measure(self) -> list[StoreSize]:
        """What every store holds now; looks at every file."""
        now, seen = self.clock(), self.spool.store.seen
        spool = {
            "images": seen(self.spool.instances),
            "results": seen(self.spool.outbox),
            "quarantine": seen(self.spool.quarantined),
            "incoming": looked_at(path for path in self.spool.incoming.rglob("*") if path.is_file()),
            "ledger": looked_at(self._database()),
        }
        every = {**spool, **{store.name: looked_at(store.files()) for store, _ in self.others}}
        return [_measured(name, files, now) for name, files in every.items()]

    def _cutoff(self, now: datetime, days: float) -> Cutoff | None:
        before, failed = _before(now, days), _before(now, self.settings.retention.failed_days)
        return None if before is None else Cutoff(settled=before, failed=failed)

    def _take(self, what: "_Kind", cutoff: Cutoff | None, after: datetime | None, enough: int | None = None) -> Freed:
        """The oldest of what is over, until `enough` bytes are free."""
        items = freed = 0
        if cutoff is not None:
            for one in _oldest(what.candidates, cutoff, after):
                pulse.beat()
                if enough is not None and freed >= enough:
                    break
                with self._unless_stuck(one):
                    size = what.remove(one, cutoff)
                    items, freed = items + (size is not None), freed + (size or 0)
        return Freed(store=what.store, why="age" if enough is None else "room", items=items, bytes=freed)

    @contextmanager
    def _unless_stuck(self, name: str) -> Iterator[None]:
        """Where a folder's rights or a store stand against a removal, it is kept in mind and the rest goes on."""
        try:
            yield
        except (NodeError, OSError) as error:
            self._stuck[name] = f"{type(error).__name__}: {error.strerror if isinstance(error, OSError) else error}"

    def _kinds(self, *, dry_run: bool) -> tuple["_Kind", "_Kind"]:
        """Results, which can be made again, and images."""
        empty: _Remove = self._empty_task
        remove: _Remove = self._remove_study
        if dry_run:
            empty, remove = self._looking_into(self.spool.outbox), self._looking_into(self.spool.instances)
        return (
            _Kind("results", self.ledger.tasks_to_empty, empty),
            _Kind("images", self.ledger.studies_to_remove, remove),
        )

    def _empty_task(self, task: str, cutoff: Cutoff) -> int | None:
        """Remove the results of a task, but for its reports."""
        with self.ledger.emptying(task, cutoff, self.clock(), (REPORT,)) as found:
            return None if found is None else self.spool.store.remove([*found, *self.spool.views(task)])

    def _remove_study(self, study: str, cutoff: Cutoff) -> int | None:
        """Remove the images of a study, and all that is left of its results."""
        store = self.spool.store
        with self.ledger.removing(study, cutoff, self.clock()) as found:
            if found is None:
                return None
            files, tasks = found
            size = store.remove(files)
            for task in tasks:
                size += store.remove([one.path for one in store.seen(self.spool.outbox / task)])
                store.drop(self.spool.outbox / task)
        store.drop(self.spool.instances / study)
        return size

    def _quarantine(self, now: datetime, *, dry_run: bool) -> Iterator[Freed]:
        before = _before(now, self.settings.retention.quarantine_days)
        files = sorted(self.spool.store.seen(self.spool.quarantined))
        old = [one for one in files if before is not None and one.written < before.timestamp()]
        yield self._unquarantine(old, "age", dry_run=dry_run)
        left = [one for one in files[len(old) :] if not _perhaps_acknowledged(one)]
        excess = sum(one.size for one in left) - self.settings.retention.quarantine_mb * _MEGABYTE
        yield self._unquarantine(_until(left, excess), "size", dry_run=dry_run)

    def _unquarantine(self, files: Sequence[Stored], why: str, *, dry_run: bool) -> Freed:
        items = size = 0
        for one in files:
            with self._unless_stuck(one.path.name):
                if not dry_run:
                    pulse.beat()
                    self.spool.store.remove([one.path])
                    self.ledger.unquarantine(one.path)
                items, size = items + 1, size + one.size
        return Freed(store="quarantine", why=why, items=items, bytes=size)

    def _other(self, store: Store, before: datetime | None, *, dry_run: bool) -> Freed:
        items = size = 0
        with self._unless_stuck(store.name):
            items, size = store.expire(before, dry_run=dry_run)
        return Freed(store=store.name, why="age", items=items, bytes=size)

    def _rows(self, before: datetime | None, *, dry_run: bool) -> Freed:
        items = 0 if before is None else self.ledger.forget(before, dry_run=dry_run)
        return Freed(store="ledger", why="age", items=items, bytes=0)

    def _make_room(
        self, now: datetime, passed: Sequence[datetime | None], foreseen: int, *, dry_run: bool
    ) -> Iterator[Freed]:
        """Let go what is over before its time while too little is free; say once when that does not help.

        Of an object store there is no such thing: what goes there makes no room here.
        """
        if not self.spool.store.local:
            return
        wanted = self.settings.clean_below_mb * _MEGABYTE
        cutoff = Cutoff(settled=now - SETTLED, failed=_before(now, self.settings.retention.failed_days))
        missing = wanted - self._free() - foreseen
        for kind, after in zip(self._kinds(dry_run=dry_run), passed, strict=True):
            if missing > 0:
                yield (freed := self._take(kind, cutoff, after, enough=missing))
                missing -= freed.bytes
        if missing > 0:
            seen, settled = sorted(self.spool.store.seen(self.spool.quarantined)), cutoff.settled.timestamp()
            aside = [one for one in seen if one.written < settled and not _perhaps_acknowledged(one)]
            yield (freed := self._unquarantine(_until(aside, missing), "room", dry_run=dry_run))
            missing -= freed.bytes
        if (missing > 0) is not self._short and not dry_run:
            self._short = missing > 0
            if self._short:
                log.error("too little disk space, and nothing more may go", missing_mb=-(-missing // _MEGABYTE))
            else:
                log.info("enough disk space again")

    def _orphans(self, now: datetime, *, dry_run: bool) -> Iterator[Freed]:
        """Files that no row names: what the dead left, images that were never acknowledged, results of nobody."""
        if not dry_run and (swept := self.spool.sweep()):
            yield Freed(store="incoming", why="orphan", items=swept, bytes=0)
        before = (now - ORPHANED).timestamp()
        items = size = 0
        for folder, files in self.spool.store.groups(self.spool.instances):
            pulse.beat()
            old = [one for one in files if one.written < before]
            rows = self.ledger.named_files(folder.name) if old else {}
            for one in old:
                if rows.get(one.path.name) is False:
                    continue
                with self._unless_stuck(one.path.name):
                    if not dry_run:
                        self._set_aside(one.path, folder.name, removed=one.path.name in rows)
                    items, size = items + 1, size + one.size
            if not dry_run:
                self.spool.store.drop(folder)
        yield Freed(store="images", why="orphan", items=items, bytes=size)
        yield self._lost_results(before, dry_run=dry_run)

    def _set_aside(self, path: Path, study: str, *, removed: bool) -> None:
        if removed:  # by a retention that ended before the file was gone
            self.spool.store.remove([path])
            return
        sop = path.stem.partition("-")[0]
        try:
            target = self.spool.set_aside(path, f"{_NOT_IN_LEDGER}-{path.stem}")
        except DatasetUnreadable:  # said where it was read; a person looks at it where it lies
            return
        self.ledger.add_quarantine(sop, study, target, "in the spool, but not in the ledger", self.clock())
        log.warning("set aside: in the spool, but not in the ledger", study=study, sop=sop, quarantine=target.name)

    def _lost_results(self, before: float, *, dry_run: bool) -> Freed:
        items = size = 0
        folders = self.spool.store.groups(self.spool.outbox)
        while batch := [*islice(folders, _BATCH)]:
            known = self.ledger.known_tasks([folder.name for folder, _ in batch])
            for folder, files in batch:
                if folder.name not in known:
                    old = [one for one in files if one.written < before]
                    with self._unless_stuck(folder.name):
                        if not dry_run:
                            self.spool.store.remove([one.path for one in old])
                            self.spool.store.drop(folder)
                        items, size = items + len(old), size + sum(one.size for one in old)
        return Freed(store="results", why="orphan", items=items, bytes=size)

    def _looking_into(self, root: Path) -> _Remove:
        """In place of removing what a folder of `root` holds: its bytes."""
        return lambda name, _: sum(one.size for one in self.spool.store.seen(root / name))

    def _free(self) -> int:
        return shutil.disk_usage(self.spool.root).free if self.free is None else self.free()

    def _database(self) -> Iterator[Path]:
        """The files of a ledger on SQLite; what a PostgreSQL holds is its administrator's."""
        url = self.settings.node.database
        if url.startswith("sqlite:///"):
            path = Path(url.removeprefix("sqlite:///"))
            yield from (one for one in path.parent.glob(f"{path.name}*") if one.is_file())


def _oldest(candidates: _Candidates, cutoff: Cutoff, after: datetime | None) -> Iterator[str]:
    """All candidates, looked up in batches; what has the last one's time to the microsecond waits for the next pass."""
    while batch := candidates(cutoff, _BATCH, after):
        yield from (name for name, _ in batch)
        after = batch[-1][1]


def _before(now: datetime, days: float) -> datetime | None:
    return now - timedelta(days=days) if days else None


def _measured(name: str, files: Iterable[Stored], now: datetime) -> StoreSize:
    count, size, oldest = 0, 0, None
    for one in files:
        pulse.beat()
        count, size = count + 1, size + one.size
        oldest = one.written if oldest is None else min(oldest, one.written)
    written = None if oldest is None else datetime.fromtimestamp(oldest, UTC)
    return StoreSize(name=name, files=count, bytes=size, oldest=written, measured_at=now)


def _perhaps_acknowledged(one: Stored) -> bool:
    """Of a file in quarantine: whether it was set aside and not refused; it goes by its age alone."""
    return one.path.name.startswith(_NOT_IN_LEDGER)


def _until(files: Sequence[Stored], enough: int) -> list[Stored]:
    """The first files that make up so many bytes together."""
    taken: list[Stored] = []
    for one in files:
        if enough <= 0:
            break
        taken.append(one)
        enough -= one.size
    return taken
