"""Instances on disk. A file under its final name is complete and survives a power cut.

    <root>/incoming/<owner>/                     what is being written; nothing here was ever acknowledged
    <root>/instances/<study>/<sop>-<digest>.dcm  acknowledged instances
    <root>/outbox/<task>/<sop>.dcm               results waiting for delivery
    <root>/outbox/<task>/<image>-<method>.view   what the dashboard shows of them
    <root>/quarantine/                           refused, or in conflict with an instance; kept for a person
    <root>/owners/<owner>                        locked (flock) by the process that writes there, as long as it lives

Order of every write: bytes, fsync of the file, rename, fsync of the folder (and of the parents of a new
folder). Names are built from checked UIDs and digests only, never from what a peer wrote elsewhere: an instance with
other content has another name, so that of two listeners none writes over what the other has acknowledged.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import NodeError, OutOfResources
from explain_core.files import sync

PART_SUFFIX = ".part"
"""Ending of a file that is still being written by the spool itself."""

VIEW_SUFFIX = ".view"
"""Ending of what the dashboard shows of a result."""

_TASK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_MOST_REMEMBERED = 10_000  # folders
_ATTEMPTS = 3


class Spool:
    """The node's files.

    Args:
        root: folder of the spool; made when missing.
        low_water_bytes: free space below which nothing more is accepted, in bytes.
    """

    def __init__(self, root: Path, low_water_bytes: int) -> None:
        self.root = root.absolute()
        self.low_water_bytes = low_water_bytes
        self.incoming = self.root / "incoming"
        self.owners = self.root / "owners"
        self.instances = self.root / "instances"
        self.outbox = self.root / "outbox"
        self.quarantined = self.root / "quarantine"
        self._durable: set[Path] = set()
        self._owner = ""
        self._claiming = threading.Lock()
        for folder in (self.incoming, self.owners, self.instances, self.outbox, self.quarantined):
            self._make_folder(folder)

    @property
    def owner(self) -> str:
        """Who this process is to others that share the spool."""
        with self._claiming:
            while not self._owner:
                name = uuid.uuid4().hex
                held = os.open(self.owners / name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                if _locked(held) and _is(held, self.owners / name):  # one that sweeps may have been quicker
                    weakref.finalize(self, os.close, held)
                    self._make_folder(self.incoming / name)
                    self._owner = name
                else:
                    os.close(held)
        return self._owner

    def alive(self, owner: str) -> bool:
        """Whether the process of that name lives; on a shared file system that of another machine, too."""
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
        target = self.instance_path(study, sop, sha256, again)
        with _full_disk():
            self._move(part, target)
        return target

    def write_outbox(self, task_id: str, dataset: Dataset) -> Path:
        """Write a result in the DICOM File Format (PS3.10), durable on return; repeating replaces it.

        Args:
            task_id: the task that made the result.
            dataset: the result; it needs its SOP Instance UID and file meta information.

        Raises:
            NodeError: the task id cannot be a folder's name.
            OutOfResources: the disk is full.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise NodeError("not a valid task id")
        target = self.outbox / task_id / f"{checked_uid(str(dataset.SOPInstanceUID))}.dcm"
        with _full_disk():
            part = self.new_part()
        try:
            with _full_disk():
                with part.open("xb") as file:
                    dataset.save_as(file, enforce_file_format=True)
                self._move(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target

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
            part.write_bytes(content)
            self._move(part, self.outbox / task_id / f"{name}{VIEW_SUFFIX}")

    def views(self, task_id: str) -> list[Path]:
        """The views of a task, by name; empty where there are none."""
        return sorted((self.outbox / task_id).glob(f"*{VIEW_SUFFIX}")) if _TASK_ID.fullmatch(task_id) else []

    def quarantine_path(self, why: str) -> Path:
        """Where `quarantine` puts a file with this reason."""
        return self.quarantined / f"{re.sub(r'[^0-9A-Za-z._-]+', '-', why)[:160].lstrip('.')}.dcm"

    def quarantine(self, part: Path, why: str) -> Path:
        """Set a file aside; the same `why` replaces the file: a repeating sender cannot fill the disk.

        Args:
            part: the file.
            why: becomes the file's name: UIDs, digests and plain words only.

        Raises:
            OutOfResources: the disk is full.
        """
        target = self.quarantine_path(why)
        with _full_disk():
            self._move(part, target)
        return target

    def sweep(self) -> int:
        """Remove what processes that have died left in `incoming`.

        Returns:
            How many files were removed.
        """
        owners = {path.name for path in (*self.incoming.iterdir(), *self.owners.iterdir())}
        return sum(map(self._bury, owners))

    def _move(self, part: Path, target: Path) -> None:
        sync(part)
        for attempt in range(_ATTEMPTS):
            self._make_folder(target.parent)
            try:
                part.replace(target)
                break
            except FileNotFoundError:  # retention removes folders that are empty
                self._durable.discard(target.parent)
                if attempt + 1 == _ATTEMPTS or not part.exists():
                    raise
        sync(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make `folder`; return only when its name is durable, also if another thread or process made it."""
        if folder in self._durable:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for new in (folder, *folder.parents):
            sync(new.parent)
            if new == self.root:
                break
        if len(self._durable) >= _MOST_REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)


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
