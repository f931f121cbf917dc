"""The only SQL: associations, instances, studies, tasks (leases), deliveries (outbox), Storage Commitment both ways.

The ledger is the truth about all work; the broker's messages are hints that may be lost or repeated.
"""

from dicom_node.storage.ledger.commitment_reports import CommitmentReports, OwedReport, TooManyOwed, TransactionInUse
from dicom_node.storage.ledger.commitments import Commitments, Taken, Uncommitted, Verdict
from dicom_node.storage.ledger.deliveries import Deliveries
from dicom_node.storage.ledger.deployments import Deployments
from dicom_node.storage.ledger.figures import Figures, Work
from dicom_node.storage.ledger.finding import Finding
from dicom_node.storage.ledger.keeping import Cutoff, Keeping
from dicom_node.storage.ledger.observations import Observations
from dicom_node.storage.ledger.overview import DeadLetter, Highest, Overview, Overviews
from dicom_node.storage.ledger.pulse import Heartbeat, Noted, Pulse
from dicom_node.storage.ledger.receiving import Added, Receiving
from dicom_node.storage.ledger.replaying import Replayed, Replaying
from dicom_node.storage.ledger.reports import Downgrade, StudySummary, Timeline
from dicom_node.storage.ledger.set_back import SetBack
from dicom_node.storage.ledger.stories import Stories
from dicom_node.storage.ledger.story import Story
from dicom_node.storage.ledger.tasks import Tasks
from dicom_node.storage.ledger.unreachable import Breakers, Queue

__all__ = [
    "Added",
    "Cutoff",
    "DeadLetter",
    "Downgrade",
    "Heartbeat",
    "Highest",
    "Ledger",
    "Noted",
    "Overview",
    "OwedReport",
    "Queue",
    "Replayed",
    "Story",
    "StudySummary",
    "Taken",
    "Timeline",
    "TooManyOwed",
    "TransactionInUse",
    "Uncommitted",
    "Verdict",
    "Work",
]


class Ledger(
    Receiving,
    Tasks,
    Deliveries,
    Breakers,
    Commitments,
    CommitmentReports,
    Overviews,
    Stories,
    Replaying,
    Deployments,
    Observations,
    Keeping,
    Finding,
    SetBack,
    Pulse,
    Figures,
):
    """One database with all that the node knows.

    Several processes may use the same one; every method is one transaction.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:///var/ledger.sqlite` or `postgresql+psycopg://host/node`.

    Raises:
        OutOfResources: by every method, when the database is locked, full or unreachable.
    """
