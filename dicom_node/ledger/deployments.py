"""Which model version runs, which runs in its shadow, and what ran before."""

from dicom_node.ledger.store import Store


class Deployments(Store):
    """Which model version runs, which runs in its shadow, and what ran before."""
