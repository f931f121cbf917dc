"""What the sender tells the audit: a batch that is sent to a destination, study by study."""

from collections.abc import Iterable

from dicom_node.dicom import elements
from dicom_node.dicom.reading import read_header
from dicom_node.errors import DatasetUnreadable, DeliveryError
from dicom_node.nouns import Delivery, Destination
from dicom_node.watch.audit import Audit, Node
from dicom_node.watch.logs import without_warnings


class Sending:
    """One batch on its way; that it begins is on the disk before anything is sent.

    Args:
        audit: is told.
        destination: where it goes.
        batch: what is to be sent.
    """

    def __init__(self, audit: Audit, destination: Destination, batch: Iterable[Delivery]) -> None:
        self._transfers = audit.sending(Node(ae_title=destination.ae_title, address=destination.host))
        self._of = {one.delivery_id: _about(one) for one in batch}
        for one in self._of.values():
            self._transfers.plan(*one)
        self._transfers.begin()

    def tell(self, delivery: Delivery, error: DeliveryError | None) -> None:
        """Tell what became of one object."""
        about = self._of[delivery.delivery_id]
        if error is None:
            self._transfers.done(*about)
        else:
            self._transfers.failed(*about, str(error))

    def end(self, rest: Iterable[Delivery]) -> None:
        """Tell how it ended; the rest was not sent."""
        for one in rest:
            self._transfers.failed(*self._of[one.delivery_id], "not sent")
        self._transfers.end()


def _about(delivery: Delivery) -> tuple[str, str, str]:
    """Study, Patient ID and SOP Class of a result; a file that cannot be read says nothing of the first two."""
    try:
        with without_warnings():
            header = read_header(delivery.path, ("StudyInstanceUID", "PatientID"))
            return str(header.get("StudyInstanceUID") or ""), elements.patient_id(header), delivery.sop_class_uid
    except DatasetUnreadable:
        return "", "", delivery.sop_class_uid
