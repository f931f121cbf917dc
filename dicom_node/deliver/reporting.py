"""Reports of Storage Commitment that this node owes (PS3.4 J.3.3), over associations that it opens for them.

The node is the SCP of the Push Model there and says so in the negotiation (PS3.7 D.3.3.4).
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from pynetdicom import build_context, build_role
from pynetdicom.association import Association

from dicom_node.clock import utc_now
from dicom_node.deliver import scu
from dicom_node.deliver.sender import RetryPolicy, next_attempt
from dicom_node.dicom import commitment as push_model
from dicom_node.nouns import CommitmentReport, Destination
from dicom_node.settings.sections import Settings
from dicom_node.status import CommitmentStatus
from dicom_node.storage import holdings
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger, OwedReport

LEASE_SECONDS: Final = 600.0
"""Of a batch: the objects of ten reports are read, and ten answers awaited, in this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Sends the reports that are due.

    Attributes:
        settings: addresses, times, our AE title.
        ledger: what was asked, and what there is.
        fetch: gives a local file of what a row names (`FileStore.fetch`).
        clock: the time.
    """

    settings: Settings
    ledger: Ledger
    fetch: Fetch = Path
    clock: Callable[[], datetime] = utc_now

    def report(self, ae_title: str) -> int:
        """Send one peer its reports, over one association.

        Returns:
            how many were due.
        """
        owner = f"reporter-{os.getpid()}-{uuid.uuid4().hex}"
        owed = self.ledger.lease_reports(ae_title, owner, self.clock(), LEASE_SECONDS)
        if not owed:
            return 0
        peer = self.settings.commitment_peer(ae_title)
        if peer is None:
            why = f"no address of {ae_title} is known: name it in [[commitment_peers]]"
            for one in owed:
                self._failed(one, why)
        else:
            reports = [(one, holdings.check(self.ledger, one.request, self.fetch)) for one in owed]
            self._send(peer, reports)
        return len(owed)

    def _send(self, peer: Destination, reports: list[tuple[OwedReport, CommitmentReport]]) -> None:
        contexts = [build_context(push_model.PUSH_MODEL, list(push_model.SYNTAXES))]
        roles = [build_role(push_model.PUSH_MODEL, scp_role=True)]
        node, timeout = self.settings.node.ae_title, self.settings.delivery.timeout
        with scu.associated(peer, contexts, node, timeout, roles=roles) as (association, _):
            association.dimse_timeout = timeout
            for number, (owed, report) in enumerate(reports, start=1):
                why = self._tell(association, report, number)
                if why is None:
                    counts = (len(report.committed), len(report.failed))
                    self.ledger.report_sent(owed.ae_title, owed.request.transaction_uid, counts, self.clock())
                    log.info("commitment reported", peer=owed.ae_title, committed=counts[0], failed=counts[1])
                else:
                    self._failed(owed, why)

    def _tell(self, association: Association, report: CommitmentReport, number: int) -> str | None:
        """Send one report; why it has not arrived, or None."""
        if not association.is_established:
            rejected = bool(association.rejected_contexts)
            return "the peer does not take the report's context" if rejected else scu.why_not(association)
        data_set = push_model.report_data_set(report, self.settings.node.ae_title)
        try:
            answer, _ = association.send_n_event_report(
                data_set, push_model.event_type(report), push_model.PUSH_MODEL, push_model.WELL_KNOWN, msg_id=number
            )
        except (RuntimeError, ValueError):  # the association ended between our look and the report
            return "the association was ended"
        if "Status" not in answer:
            return "no answer to N-EVENT-REPORT"
        taken = answer.Status == CommitmentStatus.SUCCESS
        return None if taken else f"the peer refused the report (N-EVENT-REPORT status 0x{answer.Status:04X})"

    def _failed(self, owed: OwedReport, why: str) -> None:
        now = self.clock()
        again = next_attempt(owed.attempts, now, RetryPolicy.of(self.settings.delivery))
        self.ledger.report_failed(owed.ae_title, owed.request.transaction_uid, why, again, now)
        entry = log.bind(peer=owed.ae_title, transaction=owed.request.transaction_uid, reason=why)
        if again is None:
            entry.error("commitment not reported, given up", attempts=owed.attempts)
        else:
            entry.warning("commitment not reported", attempts=owed.attempts, again=again.isoformat())
