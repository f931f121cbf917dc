"""Is an object safe here? The ledger must know it, and its file must still be what was acknowledged."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from dicom_node.dicom.reading import start_of_data_set
from dicom_node.errors import DatasetUnreadable
from dicom_node.nouns import CommitmentReport, CommitmentRequest, Instance, Reference
from dicom_node.status import FailureReason
from dicom_node.storage.file_store import Fetch

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

log = structlog.get_logger(__name__)

_BLOCK = 1 << 20


def check(ledger: "Ledger", request: CommitmentRequest, fetch: Fetch = Path) -> CommitmentReport:
    """Look at every object that a request for Storage Commitment names; reads each file once.

    Args:
        ledger: what was acknowledged.
        request: what is asked about.
        fetch: gives a local file of what a row names (`FileStore.fetch`).

    Raises:
        OutOfResources: the ledger or the object store does not answer.
    """
    stored = ledger.find_instances([one.sop_instance_uid for one in request.references])
    reasons = {one: _missing(stored.get(one.sop_instance_uid), one, fetch) for one in request.references}
    return CommitmentReport(
        transaction_uid=request.transaction_uid,
        committed=tuple(one for one, reason in reasons.items() if reason is None),
        failed={one: int(reason) for one, reason in reasons.items() if reason is not None},
    )


def _missing(known: Instance | None, reference: Reference, fetch: Fetch) -> FailureReason | None:
    if known is None:
        return FailureReason.NO_SUCH_INSTANCE
    if known.sop_class_uid != reference.sop_class_uid:
        return FailureReason.CLASS_CONFLICT
    try:
        intact = _is_intact(known, fetch(known.path))
    except FileNotFoundError:
        log.error("acknowledged file is missing", sop=known.sop_instance_uid, study=known.study_instance_uid)  # noqa: TRY400
        return FailureReason.NO_SUCH_INSTANCE
    except (OSError, DatasetUnreadable) as error:
        log.error(  # noqa: TRY400 - foreseen: no traceback
            "acknowledged file cannot be read",
            sop=known.sop_instance_uid,
            study=known.study_instance_uid,
            error=type(error).__name__,
        )
        return FailureReason.PROCESSING_FAILURE
    if not intact:
        log.error("acknowledged file is damaged", sop=known.sop_instance_uid, study=known.study_instance_uid)
        return FailureReason.PROCESSING_FAILURE
    return None


def _is_intact(instance: Instance, path: Path) -> bool:
    """Whether size and digest of the file's data set are those of its reception."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(start_of_data_set(path))
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size == instance.size and digest.hexdigest() == instance.sha256
