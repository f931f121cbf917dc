"""One received object: taken or refused. Success is answered only when file, folder and ledger row are durable.

data set                                   file           ledger       status
-----------------------------------------  -------------  -----------  ------------------------------
new                                        instances/     instance     Success
stored already, same bytes                 removed        -            Success
stored already, in another encoding        removed        -            Success
stored already, with other content         quarantine/    quarantine   Duplicate SOP Instance
other SOP Class or Instance than asked     quarantine/    quarantine   Data Set Does Not Match
unreadable, too much to read, bad UIDs     quarantine/    quarantine   Cannot Understand
no room, ledger does not answer            removed        -            Refused: Out of Resources
a fault of ours                            removed        -            Processing Failure
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydicom import Dataset

from dicom_node.dicom.elements import texts
from dicom_node.dicom.identity import same_object
from dicom_node.dicom.reading import read_header
from dicom_node.dicom.structure import check_structure
from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources, PeerError, SOPClassMismatch
from dicom_node.nouns import AETitle, Association, Instance, SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from dicom_node.receive.reception import Received
from dicom_node.status import Status, error_comment
from dicom_node.storage.spool import Spool
from dicom_node.watch.logs import without_warnings

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

log = structlog.get_logger(__name__)

_LOCKS = 64
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the C-STORE request says of the object."""

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax: str
    association: Association


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer to a C-STORE request; failures carry a comment for the sender's log."""

    status: Status
    comment: str | None = None


class Conflict(PeerError):
    """The SOP Instance UID is stored with another data set."""

    status = Status.DUPLICATE_SOP_INSTANCE


class Intake:
    """Takes received objects into the spool and the ledger; safe to call from many threads."""

    def __init__(self, ledger: "Ledger", spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def take(self, request: Request, received: Received, now: datetime) -> Outcome:
        """Store one object, or refuse it; never raises.

        Args:
            request: what was asked.
            received: the file; it is gone from `incoming` on return.
            now: the time of reception, aware.
        """
        entry = log.bind(
            association=request.association.association_id,
            calling=request.association.calling_ae_title,
            sop=request.sop_instance_uid,
        )
        try:
            return self._take(request, received, now)
        except PeerError as error:
            where = self._quarantine(request, received, error, now)
            entry.warning("object refused", status=f"0x{error.status:04X}", reason=str(error), quarantine=where)
            return refusal(error)
        except NodeError as error:
            entry.error("object not stored", status=f"0x{error.status:04X}", reason=str(error))
            return refusal(error)
        except OSError as error:
            entry.exception("object not stored")
            return refusal(OutOfResources(f"Spool cannot be written: {error.strerror}"))
        except Exception:  # noqa: BLE001 - whatever happened, the peer is told that nothing was stored
            entry.exception("object not stored")
            return Outcome(status=Status.PROCESSING_FAILURE, comment="Internal error, see the log of the node")
        finally:
            received.path.unlink(missing_ok=True)

    def _take(self, request: Request, received: Received, now: datetime) -> Outcome:
        self._spool.check_space()
        instance = _identify(request, received, self._spool, now)
        uid = instance.sop_instance_uid
        with self._locks[hash(uid) % _LOCKS]:
            known = self._ledger.find_instance(uid)
            if known is not None and known.sha256 != instance.sha256 and not same_object(known.path, received.path):
                raise Conflict("SOP Instance UID is already stored with other content")
            if known is None or not known.path.exists():
                self._spool.adopt(received.path, instance.study_instance_uid, uid, instance.sha256)
            if known is None and self._ledger.add_instance(instance) == "conflict":
                self._yield(instance, received)
        log.info(
            "duplicate acknowledged" if known else "stored",
            association=instance.association_id,
            calling=instance.calling_ae_title,
            study=instance.study_instance_uid,
            sop=uid,
            size=instance.size,
        )
        return Outcome(status=Status.SUCCESS)

    def _yield(self, instance: Instance, received: Received) -> None:
        """Take a file back whose UID another listener has recorded meanwhile.

        Raises:
            Conflict: with other content.
        """
        instance.path.replace(received.path)
        known = self._ledger.find_instance(instance.sop_instance_uid)
        if known is None or not same_object(known.path, received.path):
            raise Conflict("SOP Instance UID is already stored with other content")

    def _quarantine(self, request: Request, received: Received, error: PeerError, now: datetime) -> str | None:
        """Keep a refused object for a person to look at; the answer to the peer does not depend on it."""
        name = f"{type(error).__name__}-{request.sop_instance_uid}-{received.sha256[:16]}"
        try:
            target = self._spool.quarantine_path(name)
            seen = target.exists()
            self._spool.quarantine(received.path, name)
            if not seen:
                study = _study_of(target)
                self._ledger.add_quarantine(request.sop_instance_uid, study, target, str(error), now)
        except (NodeError, OSError):
            log.exception("quarantine failed", sop=request.sop_instance_uid)
            return None
        return target.name


def refusal(error: NodeError) -> Outcome:
    """The answer that an error stands for."""
    return Outcome(status=Status(error.status), comment=error_comment(str(error)))


def _identify(request: Request, received: Received, spool: Spool, now: datetime) -> Instance:
    """Name the object by its own data set.

    Raises:
        DatasetUnreadable: the data set cannot be read or is too much to read, or a UID is missing or not valid.
        SOPClassMismatch: the data set is not what the request says.
    """
    check_structure(received.path)
    with without_warnings():
        header = read_header(received.path, _UIDS)
        found = {keyword: _uid(header, keyword) for keyword in _UIDS}
    for keyword, uid in found.items():
        if not uid:
            raise DatasetUnreadable(f"{keyword} is missing")
        try:
            checked_uid(uid)
        except DatasetUnreadable:
            raise DatasetUnreadable(f"{keyword} is not a valid UID") from None
    if found["SOPClassUID"] != request.sop_class_uid:
        raise SOPClassMismatch("SOP Class UID differs from the request")
    if found["SOPClassUID"] != request.abstract_syntax:
        raise SOPClassMismatch("SOP Class UID differs from the presentation context")
    if found["SOPInstanceUID"] != request.sop_instance_uid:
        raise SOPClassMismatch("SOP Instance UID differs from the request")
    study, sop = found["StudyInstanceUID"], found["SOPInstanceUID"]
    return Instance(
        sop_instance_uid=SOPInstanceUID(sop),
        sop_class_uid=found["SOPClassUID"],
        series_instance_uid=SeriesInstanceUID(found["SeriesInstanceUID"]),
        study_instance_uid=StudyInstanceUID(study),
        transfer_syntax_uid=request.transfer_syntax,
        association_id=request.association.association_id,
        calling_ae_title=AETitle(request.association.calling_ae_title),
        path=spool.instance_path(study, sop, received.sha256),
        sha256=received.sha256,
        size=received.size,
        received_at=now,
    )


def _uid(header: Dataset, keyword: str) -> str:
    """The value of a UI element, whatever VR a damaged one has; two values make no UID."""
    return "\\".join(texts(header, keyword))


def _study_of(path: Path) -> str:
    """The Study Instance UID in a quarantined file, or the empty string."""
    try:
        with without_warnings():
            return checked_uid(_uid(read_header(path, ("StudyInstanceUID",)), "StudyInstanceUID"))
    except DatasetUnreadable:
        return ""
