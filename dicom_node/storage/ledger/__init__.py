"""The only SQL: associations, instances, studies, tasks (leases), deliveries (outbox).

The ledger is the truth about all work; the broker's messages are hints that may be lost or repeated.
"""

from dicom_node.storage.ledger.deliveries import Deliveries
from dicom_node.storage.ledger.deployments import Deployments
from dicom_node.storage.ledger.observations import Observations
from dicom_node.storage.ledger.receiving import Added, Receiving
from dicom_node.storage.ledger.reports import Downgrade, Replayed, Reports, StudySummary, Timeline
from dicom_node.storage.ledger.tasks import Tasks
from dicom_node.storage.ledger.unreachable import Breakers
from dicom_node.storage.ledger.verdicts import Verdicts

__all__ = ["Added", "Downgrade", "Ledger", "Replayed", "StudySummary", "Timeline"]


class Ledger(Receiving, Tasks, Deliveries, Breakers, Reports, Deployments, Observations, Verdicts):
    """One database with all that the node knows.

    Several processes may use the same one; every method is one transaction.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:///var/ledger.sqlite` or `postgresql+psycopg://host/node`.

    Raises:
        OutOfResources: by every method, when the database is locked, full or unreachable.
    """
