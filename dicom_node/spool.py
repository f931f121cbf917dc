"""Instances on disk. A file under its final name is complete and survives a power cut.

    <root>/incoming/                     what is being received; nothing here was ever acknowledged
    <root>/instances/<study>/<sop>.dcm   acknowledged instances
    <root>/outbox/<task>/<sop>.dcm       results waiting for delivery
    <root>/quarantine/                   refused, or in conflict with an instance; kept for a person

Order of every write: bytes, fsync of the file, rename, fsync of the folder (and of the parents of a new
folder). Names are built from checked UIDs only, never from what a peer wrote elsewhere.
"""

import errno
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources

PART_SUFFIX = ".part"
"""Ending of a file that is still being written by the spool itself."""

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_UID_LENGTH = 64  # PS3.5, 9.1
_TASK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_META_GROUP_LENGTH_END = 144  # preamble, "DICM", and the element (0002,0000) itself (PS3.10 7.1)
_MOST_INFLATED = 8 << 20
_FIRST_PIXEL_TAG = Tag(0x7FE0, 0x0001)
_MOST_REMEMBERED = 10_000  # folders
_SWEEP_MARGIN = 2.0  # seconds: coarse file times must not make a new file look old


def checked_uid(uid: str) -> str:
    """Return `uid` if it is a valid UID (PS3.5, 9.1): safe as a file name.

    Raises:
        DatasetUnreadable: it is not; the message does not repeat it.
    """
    if len(uid) > _UID_LENGTH or not _UID.fullmatch(uid):
        raise DatasetUnreadable("not a valid UID")
    return uid


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
        self.instances = self.root / "instances"
        self.outbox = self.root / "outbox"
        self.quarantined = self.root / "quarantine"
        self._opened_at = time.time()
        self._durable: set[Path] = set()
        for folder in (self.incoming, self.instances, self.outbox, self.quarantined):
            self._make_folder(folder)

    def check_space(self) -> None:
        """Do nothing while there is room.

        Raises:
            OutOfResources: less than the low-water mark is free.
        """
        free = shutil.disk_usage(self.root).free
        if free < self.low_water_bytes:
            raise OutOfResources(f"Low disk space: {free >> 20} MB free, {self.low_water_bytes >> 20} MB needed")

    def instance_path(self, study: str, sop: str) -> Path:
        """Where the instance lies once it is adopted.

        Raises:
            DatasetUnreadable: one of the UIDs is not valid.
        """
        return self.instances / checked_uid(study) / f"{checked_uid(sop)}.dcm"

    def adopt(self, part: Path, study: str, sop: str) -> Path:
        """Make a received file durable under its final name, in place of any file of that name.

        Raises:
            DatasetUnreadable: one of the UIDs is not valid.
            OutOfResources: the disk is full.
        """
        target = self.instance_path(study, sop)
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
        part = self.incoming / f"{uuid.uuid4().hex}{PART_SUFFIX}"
        try:
            with _full_disk():
                with part.open("xb") as file:
                    dataset.save_as(file, enforce_file_format=True)
                self._move(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target

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
        """Remove what an earlier process left in `incoming`; files of this process stay.

        Returns:
            How many files were removed.
        """
        removed = 0
        for part in self.incoming.iterdir():
            with suppress(FileNotFoundError):
                if part.is_file() and part.stat().st_mtime < self._opened_at - _SWEEP_MARGIN:
                    part.unlink()
                    removed += 1
        return removed

    def _move(self, part: Path, target: Path) -> None:
        _sync(part)
        self._make_folder(target.parent)
        part.replace(target)
        _sync(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make `folder`; return only when its name is durable, also if another thread or process made it."""
        if folder in self._durable:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for new in (folder, *folder.parents):
            _sync(new.parent)
            if new == self.root:
                break
        if len(self._durable) >= _MOST_REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """The data set in a file up to the pixels, however the rest of the file looks.

    Of a deflated data set only the first megabytes are inflated: a small file may unpack to any size.

    Args:
        path: a file in the DICOM File Format.
        keywords: read only these elements and skip all others unread; None for all.

    Raises:
        DatasetUnreadable: there is no data set to read; the message quotes nothing of it.
    """
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _read_deflated_header(path, meta, keywords)
        tags = list(keywords) if keywords is not None else None
        return dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except Exception as error:
        raise DatasetUnreadable("Data set cannot be read") from error


def inflates_within(path: Path, limit: int) -> bool:
    """Whether a file's data set is not deflated, or unpacks to at most `limit` bytes; nothing is kept.

    Raises:
        DatasetUnreadable: the file meta information or the compressed bytes cannot be read.
    """
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return True
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        with path.open("rb") as file:
            file.seek(_META_GROUP_LENGTH_END + int(meta.FileMetaInformationGroupLength))
            waiting = file.read(_MOST_INFLATED)
            while waiting and total <= limit:
                total += len(inflater.decompress(waiting, _MOST_INFLATED))
                waiting = inflater.unconsumed_tail or file.read(_MOST_INFLATED)
    except Exception as error:
        raise DatasetUnreadable("the file cannot be read as DICOM") from error
    return total <= limit


def _read_deflated_header(path: Path, meta: FileMetaDataset, keywords: Sequence[str] | None) -> Dataset:
    start = _META_GROUP_LENGTH_END + int(meta.FileMetaInformationGroupLength)
    with path.open("rb") as file:
        file.seek(start)
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(_MOST_INFLATED), _MOST_INFLATED)
    header = read_dataset(
        BytesIO(inflated),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=[Tag(keyword) for keyword in keywords] if keywords is not None else None,
    )
    header.file_meta = meta
    return header


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
