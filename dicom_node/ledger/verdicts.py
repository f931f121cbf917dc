"""What radiologists said of results."""

from dicom_node.ledger.store import Store


class Verdicts(Store):
    """What radiologists said of results."""
