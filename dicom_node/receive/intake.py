"""One received object: taken or refused. Success is answered only when file, folder and ledger row are durable.

data set                                   file           ledger       status
-----------------------------------------  -------------  -----------  ------------------------------
new                                        instances/     instance     Success
stored already, same bytes                 removed        -            Success
stored already, in another encoding        removed        -            Success
stored already, with other content         quarantine/    quarantine   Duplicate SOP Instance
stored once, removed by retention since    instances/     instance     Success
other SOP Class or Instance than asked     quarantine/    quarantine   Data Set Does Not Match
unreadable, too much to read, bad UIDs     quarantine/    quarantine   Cannot Understand
no room, ledger does not answer            removed        -            Refused: Out of Resources
a fault of ours                            removed        -            Processing Failure
"""

import dataclasses
import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydicom import Dataset

from dicom_node.dicom import elements
from dicom_node.dicom.reading import read_header
from dicom_node.dicom.structure import check_structure
from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources, PeerError, SOPClassMismatch
from dicom_node.nouns import AETitle, Association, Instance, SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from dicom_node.receive.part_file import Received
from dicom_node.status import Status, error_comment
from dicom_node.storage.spool import Spool
from dicom_node.watch.logs import without_warnings

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

log = structlog.get_logger(__name__)

_LOCKS = 64
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_ABOUT = ("StudyInstanceUID", "PatientID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the C-STORE request says of the object."""

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax: str
    association: Association


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Whose object it is, for the audit alone; empty where the object does not say.

    Attributes:
        study: Study Instance UID.
        patient_id: Patient ID; a repr leaves it out.
        known: whether the object was here before.
    """

    study: str = ""
    patient_id: str = field(default="", repr=False)
    known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer to a C-STORE request; failures carry a comment for the sender's log."""

    status: Status
    comment: str | None = None
    about: About = About()


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
            where, about = self._quarantine(request, received, error, now)
            entry.warning(
                "object refused",
                study=about.study or None,
                status=f"0x{error.status:04X}",
                reason=str(error),
                quarantine=where,
            )
            return refusal(error, about)
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
        instance, patient_id = _identify(request, received, self._spool, now)
        uid, study, again = instance.sop_instance_uid, instance.study_instance_uid, ""
        with self._locks[hash(uid) % _LOCKS]:
            known = self._ledger.find_instance(uid)
            if known is not None and known.removed:
                known, again = None, f"-{uuid.uuid4().hex[:8]}"
            if known is not None and known.sha256 != instance.sha256 and not self._same(known, received):
                raise Conflict("SOP Instance UID is already stored with other content")
            if known is None or not self._spool.store.exists(known.path):
                path = self._spool.adopt(received.path, study, uid, instance.sha256, again)
                instance = dataclasses.replace(instance, path=path)
            added = self._ledger.add_instance(instance) if known is None else None
            if added == "conflict":
                self._yield(instance, received)
            elif added == "duplicate":
                self._leave_to(uid, instance)
        log.info(
            "duplicate acknowledged" if known else "stored",
            association=instance.association_id,
            calling=instance.calling_ae_title,
            study=study,
            sop=uid,
            size=instance.size,
        )
        about = About(study=instance.study_instance_uid, patient_id=patient_id, known=known is not None)
        return Outcome(status=Status.SUCCESS, about=about)

    def _yield(self, instance: Instance, received: Received) -> None:
        """Take a file back whose UID another listener has recorded meanwhile.

        Raises:
            Conflict: with other content.
        """
        self._spool.store.take_back(instance.path, received.path)
        known = self._ledger.find_instance(instance.sop_instance_uid)
        if known is None or not self._same(known, received):
            raise Conflict("SOP Instance UID is already stored with other content")

    def _leave_to(self, uid: str, instance: Instance) -> None:
        """Remove a file whose like another listener has recorded meanwhile, under another name."""
        known = self._ledger.find_instance(uid)
        if known is not None and known.path != instance.path:
            self._spool.store.remove([instance.path])

    def _same(self, known: Instance, received: Received) -> bool:
        """Whether a stored instance is what was received; one that cannot be read any more is not."""
        from dicom_node.dicom.identity import same_object  # noqa: PLC0415 - loads NumPy, for a rare case

        try:
            return same_object(self._spool.fetch(known.path), received.path)
        except DatasetUnreadable:
            return False

    def _quarantine(
        self, request: Request, received: Received, error: PeerError, now: datetime
    ) -> tuple[str | None, About]:
        """Keep a refused object for a person to look at; the answer to the peer does not depend on it."""
        name = f"{type(error).__name__}-{request.sop_instance_uid}-{received.sha256[:16]}"
        try:
            about = _about(received.path)
            target = self._spool.quarantine(received.path, name)
            self._ledger.add_quarantine(request.sop_instance_uid, about.study, target, str(error), now)
        except (NodeError, OSError):
            log.exception("quarantine failed", sop=request.sop_instance_uid)
            return None, About()
        return target.name, about


def refusal(error: NodeError, about: About | None = None) -> Outcome:
    """The answer that an error stands for."""
    return Outcome(status=Status(error.status), comment=error_comment(str(error)), about=about or About())


def _identify(request: Request, received: Received, spool: Spool, now: datetime) -> tuple[Instance, str]:
    """Name the object by its own data set, and its patient's ID.

    Raises:
        DatasetUnreadable: the data set cannot be read or is too much to read, or a UID is missing or not valid.
        SOPClassMismatch: the data set is not what the request says.
    """
    check_structure(received.path)
    with without_warnings():
        header = read_header(received.path, (*_UIDS, *_ABOUT))
        found = {keyword: _uid(header, keyword) for keyword in _UIDS}
    patient_id = elements.patient_id(header)
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
    instance = Instance(
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
    return instance, patient_id


def _uid(header: Dataset, keyword: str) -> str:
    """The value of a UI element, whatever VR a damaged one has; two values make no UID."""
    return "\\".join(elements.texts(header, keyword))


def _about(path: Path) -> About:
    """What a quarantined file says of its study and patient, as far as it can be read."""
    try:
        with without_warnings():
            header = read_header(path, _ABOUT)
            patient_id = elements.patient_id(header)
            study = checked_uid(_uid(header, "StudyInstanceUID"))
    except DatasetUnreadable:
        return About()
    return About(study=study, patient_id=patient_id)
