"""What each model version said of each image: scores and image statistics, for shadow mode and drift."""

from dicom_node.ledger.store import Store


class Observations(Store):
    """What each model version said of each image: scores and image statistics, for shadow mode and drift."""
