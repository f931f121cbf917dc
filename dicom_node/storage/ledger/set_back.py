"""Ledger: after the clock was set back, what is written of times to come is brought back to now.

A lease, a wait or a submission that was written before would otherwise last as much longer as the clock was set back.
"""

from datetime import datetime, timedelta

from sqlalchemy import and_, select, update

from dicom_node.nouns import DeliveryState, TaskState
from dicom_node.storage.ledger.deliveries import LEASE_SECONDS
from dicom_node.storage.ledger.schema import commitment_reports, commitments, deliveries, instances, tasks, unreachable
from dicom_node.storage.ledger.store import Store


class SetBack(Store):
    """What the dispatcher writes when it sees that the clock was set back, and when it starts."""

    def bring_back(self, now: datetime, *, task_lease: timedelta, longest_wait: timedelta) -> int:
        """Let no time of the waiting work lie further ahead than it can have been written at `now`.

        Leases end after one lease, unless their holder lives and renews them; what waits longer for its next attempt
        than the longest wait is due, and so is a destination that is left in peace; what was submitted counts as not
        submitted, what was received or sent as received or sent now; a Storage Commitment that is to be asked for is
        due, and one that was asked for is waited for from now on.

        Args:
            now: the time, as the clock says it since.
            task_lease: of a worker.
            longest_wait: between two attempts of a delivery; none makes all that waits due.

        Returns:
            how many rows were changed.
        """
        delivery_lease = timedelta(seconds=LEASE_SECONDS)
        leased = and_(tasks.c.state == TaskState.LEASED, tasks.c.lease_until > now + task_lease)
        submitted = and_(tasks.c.state == TaskState.PENDING, tasks.c.submitted_at > now)
        waits = deliveries.c.state == DeliveryState.PENDING
        held = and_(waits, deliveries.c.lease_until > now + delivery_lease)
        later = and_(waits, deliveries.c.next_attempt_at > now + longest_wait)
        sent = and_(waits, deliveries.c.submitted_at > now)
        done = deliveries.c.state == DeliveryState.SENT
        received = and_(instances.c.revision.is_(None), instances.c.received_at > now)
        changes = (
            update(tasks).where(leased).values(lease_until=now + task_lease),
            update(tasks).where(submitted).values(submitted_at=None),
            update(deliveries).where(held).values(lease_until=now + delivery_lease),
            update(deliveries).where(later).values(next_attempt_at=now, submitted_at=None),
            update(deliveries).where(sent).values(submitted_at=None),
            update(deliveries).where(done, deliveries.c.finished_at > now).values(finished_at=now),
            update(deliveries).where(done, deliveries.c.commitment_at > now + longest_wait).values(commitment_at=now),
            update(instances).where(received).values(received_at=now),
            *(
                update(table).where(table.c.next_attempt_at > now + longest_wait).values(next_attempt_at=now)
                for table in (unreachable, commitment_reports)
            ),
        )
        asked = select(commitments).where(commitments.c.requested_at > now, commitments.c.finished_at.is_(None))
        with self._write() as connection:
            changed = sum(connection.execute(change).rowcount for change in changes)
            for row in connection.execute(asked).mappings().all():
                from_now = {"requested_at": now, "due_at": now + (row["due_at"] - row["requested_at"])}
                mine = commitments.c.transaction_uid == row["transaction_uid"]
                changed += connection.execute(update(commitments).where(mine).values(from_now)).rowcount
            return changed
