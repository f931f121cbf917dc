"""What the N-EVENT-REPORT of a destination changes (PS3.4 J.3.3), on whichever association it comes.

The sender hears it on the association of its request, the listener on one that the destination opens.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from dicom_node.dicom.commitment import ALL_COMMITTED, FAILURES_EXIST, Message, read_report
from dicom_node.errors import NodeError
from dicom_node.nouns import CommitmentReport
from dicom_node.settings.sections import DeliverySettings
from dicom_node.status import CommitmentStatus
from dicom_node.storage.ledger import Ledger, Taken, Verdict
from dicom_node.watch.logs import place

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

_ANSWER = {
    Taken.TAKEN: CommitmentStatus.SUCCESS,
    Taken.REPEATED: CommitmentStatus.SUCCESS,
    Taken.UNKNOWN: CommitmentStatus.INVALID_ARGUMENT,
    Taken.NOT_ASKED: CommitmentStatus.INVALID_ARGUMENT,
}
"""A stranger is told the same as one who reports what nobody asked for: neither learns what there is."""


def hear_report(
    ledger: Ledger, settings: DeliverySettings, message: Message, ae_title: str, now: datetime
) -> CommitmentStatus:
    """Take a report, or refuse it; never raises.

    Args:
        ledger: what we asked for.
        settings: when what failed is sent again.
        message: the N-EVENT-REPORT.
        ae_title: of the peer that sent it.
        now: the time.

    Returns:
        the status to answer with; but for 0x0000 nothing is changed.
    """
    entry = log.bind(calling=ae_title)
    refused = message.misdirected()
    if refused is None and message.type_id not in {ALL_COMMITTED, FAILURES_EXIST}:
        refused = CommitmentStatus.NO_SUCH_EVENT_TYPE
    if refused is not None:
        entry.warning("commitment report refused", status=f"0x{refused:04X}")
        return refused
    try:
        report = read_report(message.information, message.syntax)
        verdict = ledger.report_commitment(report, ae_title, _again(settings, now), now)
    except NodeError as error:
        status = CommitmentStatus.PROCESSING_FAILURE if error.retry else CommitmentStatus(error.status)
        entry.warning("commitment report refused", status=f"0x{status:04X}", reason=str(error))
        return status
    except Exception as error:  # noqa: BLE001 - whatever happened, the peer is told that it is not taken
        entry.error("commitment report not taken", error=type(error).__name__, place=place(error))
        return CommitmentStatus.PROCESSING_FAILURE
    _say(verdict, report, ae_title)
    return _ANSWER[verdict.taken]


def _again(settings: DeliverySettings, now: datetime) -> "Callable[[int], datetime | None]":
    def again(attempts: int) -> datetime | None:
        return now + timedelta(seconds=settings.retry_seconds) if attempts < settings.max_attempts else None

    return again


def _say(verdict: Verdict, report: CommitmentReport, ae_title: str) -> None:
    entry = log.bind(calling=ae_title, transaction=report.transaction_uid, destination=verdict.destination)
    if verdict.taken is Taken.UNKNOWN:
        entry.warning("commitment report refused", reason="this peer was not asked under this Transaction UID")
    elif verdict.taken is Taken.NOT_ASKED:
        entry.warning("commitment report refused", reason="it names objects that were not asked about")
    elif verdict.taken is Taken.REPEATED:
        entry.info("commitment report repeated, nothing changed")
    elif verdict.dead or verdict.resent or verdict.unnamed:
        told = {"committed": verdict.committed, "resent": verdict.resent, "dead": verdict.dead}
        entry.warning("not everything is committed", **told, unnamed=verdict.unnamed)
    else:
        entry.info("committed", count=verdict.committed)
