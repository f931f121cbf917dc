"""Storage Commitment as the listener sees it (PS3.4 Annex J): peers ask about what they sent, destinations report.

N-ACTION          recorded in the ledger, then answered; the objects are looked at after that. When the peer keeps
                  its association open, the report comes over it; else a sender opens one to the peer
N-EVENT-REPORT    what a destination commits to, over an association that it has opened (storage.commitment)
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import structlog

from dicom_node.dicom import commitment as push_model
from dicom_node.dicom.commitment import Message
from dicom_node.errors import NodeError
from dicom_node.receive.same_association import SameAssociation
from dicom_node.settings.sections import Settings
from dicom_node.status import CommitmentStatus
from dicom_node.storage import holdings
from dicom_node.storage.commitment import hear_report
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import TooManyOwed, TransactionInUse
from dicom_node.watch.logs import place

if TYPE_CHECKING:
    from dicom_node.storage.ledger import Ledger

GRACE_SECONDS: Final = 0.5
"""Most peers release their association right after the answer; a report would only get into their way."""
HEAD_START: Final = timedelta(seconds=10)
"""How long the listener has before a sender takes the report over, even from a listener that was killed."""
REPORTING: Final = 4
"""Reports over associations of peers at a time."""

log = structlog.get_logger(__name__)


class CommitmentProvider:
    """Takes requests and reports of peers; safe to call from many threads.

    Args:
        settings: when what failed is sent again.
        ledger: what is asked, promised and stored.
        clock: the time.
        fetch: gives a local file of what a row names (`FileStore.fetch`).
    """

    def __init__(self, settings: Settings, ledger: "Ledger", clock: Callable[[], datetime], fetch: Fetch) -> None:
        self._settings = settings
        self._fetch = fetch
        self._ledger = ledger
        self._clock = clock
        self._pool = ThreadPoolExecutor(REPORTING, thread_name_prefix="commitment")
        self._stopping = threading.Event()

    def close(self) -> None:
        """Take nothing more on; what is left is in the ledger."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def hear(self, message: Message, ae_title: str) -> CommitmentStatus:
        """A destination reports; never raises."""
        return hear_report(self._ledger, self._settings.delivery, message, ae_title, self._clock())

    def take(self, message: Message, ae_title: str, association: SameAssociation, context_id: int) -> CommitmentStatus:
        """A peer asks whether objects are safe; never raises.

        Args:
            message: the N-ACTION.
            ae_title: of the peer.
            association: over which it asks.
            context_id: of the presentation context.

        Returns:
            the status to answer with; 0x0000 when the request is in the ledger and a report will come.
        """
        entry = log.bind(calling=ae_title)
        try:
            transaction_uid = self._record(message, ae_title)
        except _Refused as refused:
            entry.warning("commitment request refused", status=f"0x{refused.status:04X}", reason=str(refused))
            return refused.status
        except NodeError as error:
            status = CommitmentStatus.PROCESSING_FAILURE if error.retry else CommitmentStatus(error.status)
            entry.warning("commitment request refused", status=f"0x{status:04X}", reason=str(error))
            return status
        except Exception as error:  # noqa: BLE001 - whatever happened, the peer is told that nothing is promised
            entry.error("commitment request not taken", error=type(error).__name__, place=place(error))
            return CommitmentStatus.PROCESSING_FAILURE
        entry.info("commitment request taken", transaction=transaction_uid)
        if not self._stopping.is_set():
            self._pool.submit(self._report, transaction_uid, ae_title, association, context_id)
        return CommitmentStatus.SUCCESS

    def _record(self, message: Message, ae_title: str) -> str:
        misdirected = message.misdirected()
        if misdirected is not None:
            raise _Refused(misdirected, "not the Push Model")
        if message.type_id != push_model.REQUEST:
            raise _Refused(CommitmentStatus.NO_SUCH_ACTION, "unknown Action Type ID")
        request, now = push_model.read_request(message.information, message.syntax), self._clock()
        try:
            self._ledger.owe_report(ae_title, request, now, now + HEAD_START)
        except TransactionInUse:
            reason = "the Transaction UID is in use for other objects"
            raise _Refused(CommitmentStatus.INVALID_ARGUMENT, reason) from None
        except TooManyOwed:
            raise _Refused(CommitmentStatus.RESOURCE_LIMITATION, "too many requests wait for their reports") from None
        return request.transaction_uid

    def _report(self, transaction_uid: str, ae_title: str, association: SameAssociation, context_id: int) -> None:
        entry = log.bind(calling=ae_title, transaction=transaction_uid)
        try:
            self._report_if_it_lasts(transaction_uid, ae_title, association, context_id)
        except NodeError as error:
            entry.warning("commitment not reported yet", reason=str(error))
        except Exception as error:  # noqa: BLE001 - a sender will report it
            entry.error("commitment not reported yet", error=type(error).__name__, place=place(error))

    def _report_if_it_lasts(
        self, transaction_uid: str, ae_title: str, association: SameAssociation, context_id: int
    ) -> None:
        lasts, seconds = association.lasts(GRACE_SECONDS), self._settings.node.dimse_timeout
        held = self._ledger.lease_reports(
            ae_title, f"listener-{uuid4().hex}", self._clock(), 4 * seconds, transaction_uid=transaction_uid
        )
        for owed in held:
            status = None
            if lasts:
                report = holdings.check(self._ledger, owed.request, self._fetch)
                data_set = push_model.report_data_set(report, self._settings.node.ae_title)
                status = association.report(data_set, push_model.event_type(report), context_id, seconds)
            if status == CommitmentStatus.SUCCESS:
                counts = (len(report.committed), len(report.failed))
                self._ledger.report_sent(ae_title, transaction_uid, counts, self._clock())
                log.info("commitment reported", peer=ae_title, committed=counts[0], failed=counts[1])
            else:
                now = self._clock()
                self._ledger.report_failed(
                    ae_title, transaction_uid, "not over its association", now, now, counts=False
                )


class _Refused(Exception):
    """A request that is not taken, with the status that says so."""

    def __init__(self, status: CommitmentStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
