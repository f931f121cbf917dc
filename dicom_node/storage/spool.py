"""The node's files. One under its final name is complete and survives a power cut.

    <root>/incoming/<owner>/                     what is being written; nothing here was ever acknowledged
    <root>/owners/<owner>                        locked (flock) by the process that writes there, as long as it lives
    <store>/instances/<study>/<sop>-<digest>.dcm acknowledged instances
    <store>/outbox/<task>/<sop>.dcm              results waiting for delivery
    <store>/outbox/<task>/<image>-<method>.view  what the dashboard shows of them
    <store>/quarantine/                          refused, or in conflict with an instance; kept for a person

The store is <root> itself (`folder`), or an object store that several hosts share, each with a root of its own
(`objects`, ADR 20). Names are built from checked UIDs and digests only, never from what a peer wrote elsewhere: an
instance with other content has another name, so that of two listeners none writes over what the other has acknowledged.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import threading
import uuid
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import NodeError, OutOfResources
from dicom_node.settings.sections import Settings
from dicom_node.storage.file_store import FileStore
from dicom_node.storage.folder import Folder

PART_SUFFIX = ".part"
"""Ending of a file that is still being written by the spool itself."""

VIEW_SUFFIX = ".view"
"""Ending of what the dashboard shows of a result."""

_TASK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEGABYTE = 1 << 20
_LONGEST_NAME = 32


class Spool:
    """The node's files.

    Args:
        root: folder of the spool, on this host's disk or a shared one; made when missing.
        low_water_bytes: free space there below which nothing more is accepted, in bytes.
        store: where complete files lie; None: in `root`, too.

    Attributes:
        fetch: gives a local file of what a row of the ledger names (`FileStore.fetch`).
    """

    def __init__(self, root: Path, low_water_bytes: int, store: FileStore | None = None) -> None:
        self.root = root.absolute()
        self.low_water_bytes = low_water_bytes
        self._folder = Folder(self.root)
        self.store: FileStore = store or self._folder
        self.fetch = self.store.fetch
        self.incoming = self.root / "incoming"
        self.owners = self.root / "owners"
        self.instances = self.store.root / "instances"
        self.outbox = self.store.root / "outbox"
        self.quarantined = self.store.root / "quarantine"
        self._owner = ""
        self._claiming = threading.Lock()
        kept = (self.instances, self.outbox, self.quarantined) if self.store.local else ()
        for folder in (self.incoming, self.owners, *kept):
            self._folder.make(folder)
        self._mark = "" if self.store.local else _mark(self.root)

    @classmethod
    def of(cls, settings: Settings, *, margin: int = 1) -> "Spool":
        """The spool that the settings name; `margin` times their low-water mark is left free.

        Raises:
            ConfigError: the object store cannot be used as the settings say.
        """
        low = margin * settings.node.low_water_mb * _MEGABYTE
        if settings.store.url is None:
            return cls(settings.node.spool, low)
        from dicom_node.storage.objects import ObjectStore  # noqa: PLC0415 - with its libraries, only where it is used

        return cls(settings.node.spool, low, ObjectStore(settings.store, settings.node.spool.absolute() / "cache"))

    @property
    def owner(self) -> str:
        """Who this process is to others that share the spool."""
        with self._claiming:
            while not self._owner:
                name = (self._mark + uuid.uuid4().hex)[:_LONGEST_NAME]
                held = os.open(self.owners / name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                if _locked(held) and _is(held, self.owners / name):  # one that sweeps may have been quicker
                    weakref.finalize(self, os.close, held)
                    self._folder.make(self.incoming / name)
                    self._owner = name
                else:
                    os.close(held)
        return self._owner

    def alive(self, owner: str) -> bool:
        """Whether the process of that name lives; on a shared file system that of another machine, too.

        Where each host has a root of its own, nobody here can tell of another's: it counts as alive.
        """
        if not owner.startswith(self._mark):
            return True
        try:
            with (self.owners / owner).open("r+b") as probe:
                return not _locked(probe.fileno())
        except (FileNotFoundError, IsADirectoryError):
            return False

    def _bury(self, owner: str) -> int:
        """Remove what a dead process left, while nobody else can take it for their own; nothing of a living one."""
        with contextlib.ExitStack() as held:
            try:
                lock = held.enter_context((self.owners / owner).open("r+b"))
                if not _locked(lock.fileno()):
                    return 0
            except FileNotFoundError:
                lock = None
            removed = sum(1 for _ in (self.incoming / owner).glob("*"))
            shutil.rmtree(self.incoming / owner, ignore_errors=True)
            if lock is not None:
                (self.owners / owner).unlink(missing_ok=True)
        return removed

    def new_part(self) -> Path:
        """Where to write a file that is not complete; nobody else writes or removes it while this process lives."""
        return self.incoming / self.owner / f"{uuid.uuid4().hex}{PART_SUFFIX}"

    def check_space(self) -> None:
        """Do nothing while there is room.

        Raises:
            OutOfResources: less than the low-water mark is free.
        """
        free = shutil.disk_usage(self.root).free
        if free < self.low_water_bytes:
            raise OutOfResources(f"Low disk space: {free >> 20} MB free, {self.low_water_bytes >> 20} MB needed")

    def instance_path(self, study: str, sop: str, sha256: str, again: str = "") -> Path:
        """Where the instance lies once it is adopted.

        Args:
            study: its Study Instance UID.
            sop: its SOP Instance UID.
            sha256: of its data set as received, hexadecimal.
            again: letters and digits that make the name another one than any that retention may be removing.

        Raises:
            DatasetUnreadable: one of the UIDs is not valid.
        """
        if not _DIGEST.fullmatch(sha256):
            raise NodeError("not a digest")
        return self.instances / checked_uid(study) / f"{checked_uid(sop)}-{sha256[:16]}{again}.dcm"

    def adopt(self, part: Path, study: str, sop: str, sha256: str, again: str = "") -> Path:
        """Make a received file durable under its final name, in place of one with the same content.

        Raises:
            DatasetUnreadable: one of the UIDs is not valid.
            OutOfResources: the disk is full.
        """
        with _full_disk():
            return self.store.put(part, self.instance_path(study, sop, sha256, again))

    def write_outbox(self, task_id: str, datasets: Iterable[Dataset]) -> list[Path]:
        """Write results in the DICOM File Format (PS3.10), durable on return; repeating replaces them.

        Args:
            task_id: the task that made the results.
            datasets: the results; each needs its SOP Instance UID and file meta information.

        Returns:
            where each lies.

        Raises:
            NodeError: the task id cannot be a folder's name.
            OutOfResources: the disk is full.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise NodeError("not a valid task id")
        parts: list[Path] = []

        def written() -> Iterator[tuple[Path, Path]]:
            for dataset in datasets:
                target = self.outbox / task_id / f"{checked_uid(str(dataset.SOPInstanceUID))}.dcm"
                parts.append(self.new_part())
                with parts[-1].open("xb") as file:
                    dataset.save_as(file, enforce_file_format=True)
                yield parts[-1], target

        try:
            with _full_disk():
                return self.store.put_all(written())
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def write_view(self, task_id: str, name: str, content: bytes) -> None:
        """Write what the dashboard shows of a task, beside its results; repeating replaces it.

        Args:
            task_id: the task.
            name: of the view: a SOP Instance UID, a hyphen, a method.
            content: the whole file.

        Raises:
            NodeError: the task id or the name cannot be a file's name.
            OutOfResources: the disk is full.
        """
        if not _TASK_ID.fullmatch(task_id) or not _TASK_ID.fullmatch(name):
            raise NodeError("not a valid name of a view")
        with _full_disk():
            part = self.new_part()
            try:
                part.write_bytes(content)
                self.store.put(part, self.outbox / task_id / f"{name}{VIEW_SUFFIX}")
            finally:
                part.unlink(missing_ok=True)

    def views(self, task_id: str) -> list[Path]:
        """Where the views of a task lie, by name; empty where there are none.

        Raises:
            OutOfResources: the object store does not answer.
        """
        seen = self.store.seen(self.outbox / task_id) if _TASK_ID.fullmatch(task_id) else ()
        return sorted(one.path for one in seen if one.path.suffix == VIEW_SUFFIX)

    def quarantine(self, part: Path, why: str) -> Path:
        """Set a part aside; the same `why` replaces the file: a repeating sender cannot fill the disk.

        Args:
            part: the file.
            why: becomes the file's name: UIDs, digests and plain words only.

        Raises:
            OutOfResources: the disk is full.
        """
        with _full_disk():
            return self.store.put(part, self._quarantine_path(why))

    def set_aside(self, path: Path, why: str) -> Path:
        """Move a file of the store into quarantine.

        Raises:
            Damaged: it is not what was put there.
            OutOfResources: the disk is full.
        """
        with _full_disk():
            return self.store.move(path, self._quarantine_path(why))

    def _quarantine_path(self, why: str) -> Path:
        return self.quarantined / f"{re.sub(r'[^0-9A-Za-z._-]+', '-', why)[:160].lstrip('.')}.dcm"

    def sweep(self) -> int:
        """Remove what processes that have died left in `incoming`.

        Returns:
            How many files were removed.
        """
        owners = {path.name for path in (*self.incoming.iterdir(), *self.owners.iterdir())}
        return sum(map(self._bury, owners))


def _mark(root: Path) -> str:
    """What the names of this root's owners begin with, where other hosts have roots of their own."""
    mark, part = root / "mark", root / f".mark-{uuid.uuid4().hex}"
    if not mark.exists():
        part.write_text(f"{uuid.uuid4().hex[:8]}-")
        with contextlib.suppress(FileExistsError):
            os.link(part, mark)
        part.unlink()
    return mark.read_text()


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int) -> bool:
    """Take the lock of an open file, until it is closed; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def no_room(error: OSError) -> bool:
    """Whether the disk or the quota is full; pydicom wraps the system's error in one without a number."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        cause = cause.__cause__
    return False


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if no_room(error):
            raise OutOfResources("Disk full") from error
        raise
