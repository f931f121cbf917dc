"""What the sender tells the audit: a batch that is sent to a destination, study by study."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from dicom_node.dicom import elements
from dicom_node.dicom.reading import read_header
from dicom_node.errors import DatasetUnreadable, DeliveryError
from dicom_node.nouns import Delivery, Destination, WebDestination
from dicom_node.watch.audit import Audit, Node
from dicom_node.watch.logs import without_warnings


class Sending:
    """One batch on its way; that it begins is on the disk before anything is sent.

    Args:
        audit: is told.
        destination: where it goes; of a DICOMweb server its name stands in for the AE title.
        batch: what is to be sent.
    """

    def __init__(self, audit: Audit, destination: Destination | WebDestination, batch: Iterable[Delivery]) -> None:
        self._transfers = audit.sending(_node(destination))
        self._of = {one.delivery_id: _about(one) for one in batch}
        for one in self._of.values():
            self._transfers.plan(*one)
        self._transfers.begin()

    def tell(self, delivery: Delivery, error: DeliveryError | None) -> None:
        """Tell what became of one object."""
        about = self._of.pop(delivery.delivery_id)
        if error is None:
            self._transfers.done(*about)
        else:
            self._transfers.failed(*about, str(error))

    def end(self) -> None:
        """Tell how it ended; of what nothing was told was not sent."""
        for about in self._of.values():
            self._transfers.failed(*about, "not sent")
        self._transfers.end()


def _node(destination: Destination | WebDestination) -> Node:
    if isinstance(destination, WebDestination):
        return Node(ae_title=destination.name, address=urlsplit(destination.url).hostname or "")
    return Node(ae_title=destination.ae_title, address=destination.host)


def _about(delivery: Delivery) -> tuple[str, str, str]:
    """Study, Patient ID and SOP Class of a result; a file that cannot be read says nothing of the first two."""
    try:
        with without_warnings():
            header = read_header(delivery.path, ("StudyInstanceUID", "PatientID"))
            return str(header.get("StudyInstanceUID") or ""), elements.patient_id(header), delivery.sop_class_uid
    except DatasetUnreadable:
        return "", "", delivery.sop_class_uid
