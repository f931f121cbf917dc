"""One object, written to disk as its bytes come, and hashed on the way; nothing of it is kept in memory."""

import hashlib
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta

from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources, PeerError
from dicom_node.receive.file_meta import FileMetaFilter
from dicom_node.status import Status
from dicom_node.storage.spool import Spool

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = structlog.get_logger(__name__)

PREAMBLE = b"\0" * 128 + b"DICM"  # PS3.10 7.1
SPACE_CHECK_EVERY = 16 << 20
WRITE_EVERY = 1 << 20
"""Bytes after which the system is asked to begin writing to the disk: little is left to wait for at the end."""
_BUFFER = 1 << 16
"""Bytes; fragments of the usual PDUs are longer and pass it by."""


class InvalidInstanceUID(PeerError):
    """The Affected SOP Instance UID or SOP Class UID breaks the rules for UIDs."""

    status = Status.INVALID_SOP_INSTANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One object, complete as sent, in a file that is not durable yet.

    Attributes:
        path: in the spool's `incoming`; DICOM File Format.
        sha256: of the data set as sent, without file meta information.
        size: of the data set, in bytes.
    """

    path: Path
    sha256: str
    size: int


class PartFile(BytesIO):
    """Stands in for the buffer of a C-STORE's data set; nothing is kept in memory.

    Failures are kept until `finish`, so that a full disk becomes an answer and not a broken association.
    """

    def __init__(self, spool: Spool, sop_class: str, sop_instance: str, transfer_syntax: str) -> None:
        super().__init__()
        self.path = spool.incoming
        self.size = 0
        self._spool = spool
        self._digest = hashlib.sha256()
        self._filter = FileMetaFilter(transfer_syntax)
        self._next_check = SPACE_CHECK_EVERY
        self._begun = 0
        self._file: Any = None
        self._failure: NodeError | None = None
        try:
            _check_uids(sop_class, sop_instance)
            spool.check_space()
            self.path = spool.new_part()
            self._file = self.path.open("xb", buffering=_BUFFER)
            self._file.write(PREAMBLE)
            meta = create_file_meta(
                sop_class_uid=UID(sop_class),
                sop_instance_uid=UID(sop_instance),
                transfer_syntax=UID(transfer_syntax),
            )
            write_file_meta_info(self._file, meta)
        except (NodeError, OSError) as error:
            self._fail(error)

    def write(self, buffer: "ReadableBuffer", /) -> int:
        """Append one fragment."""
        self._append(self._filter.pass_on(buffer))
        return memoryview(buffer).nbytes

    def _append(self, data: "ReadableBuffer") -> None:
        self.size += memoryview(data).nbytes
        if self._failure is None:
            try:
                self._file.write(data)
                self._digest.update(data)
                if self.size - self._begun >= WRITE_EVERY:
                    self._begin_writing()
                if self.size >= self._next_check:
                    self._next_check += SPACE_CHECK_EVERY
                    self._spool.check_space()
            except (NodeError, OSError) as error:
                self._fail(error)

    def _begin_writing(self) -> None:
        """Have what is new written to the disk while more comes; it stays in memory, for the header is read soon."""
        self._file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), self._begun, self.size - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.size

    def finish(self) -> Received:
        """Hand the file over.

        Raises:
            OutOfResources: it could not be written.
            InvalidInstanceUID: the request named it wrongly.
        """
        self._append(self._filter.rest())
        if self._filter.dropped:
            log.warning("file meta information in a data set was dropped", part=self.path.name)
        if self._failure is None:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)
        if self._failure is not None:
            raise self._failure
        return Received(path=self.path, sha256=self._digest.hexdigest(), size=self.size)

    def discard(self) -> None:
        """Forget the file, wherever it has got to; does nothing when it was moved away."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError:
            log.debug("part could not be flushed", part=self.path.name)
        if self._file is not None:
            self.path.unlink(missing_ok=True)

    def _fail(self, error: NodeError | OSError) -> None:
        if isinstance(error, NodeError):
            self._failure = error
        else:
            self._failure = OutOfResources(f"Spool cannot be written: {error.strerror}")
            self._failure.__cause__ = error
        self.discard()


def _check_uids(*uids: str) -> None:
    try:
        for uid in uids:
            checked_uid(uid)
    except DatasetUnreadable as error:
        raise InvalidInstanceUID("UID in the request is not valid") from error
