"""What the audit is told of what is sent: a batch that is sent to a destination, study by study."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from dicom_node.deliver.scu import StoreRequest
from dicom_node.dicom import elements
from dicom_node.dicom.reading import read_header
from dicom_node.errors import DatasetUnreadable, DeliveryError, OutOfResources
from dicom_node.nouns import Destination, WebDestination
from dicom_node.watch.audit import Audit, Node
from dicom_node.watch.logs import without_warnings


class Sending:
    """One batch on its way; that it begins is on the disk before anything is sent.

    Args:
        audit: is told.
        destination: where it goes; of a DICOMweb server its name stands in for the AE title.
        batch: what is to be sent.
    """

    def __init__(self, audit: Audit, destination: Destination | WebDestination, batch: Iterable[StoreRequest]) -> None:
        self._transfers = audit.sending(_node(destination))
        self._of = {one.key: _about(one) for one in batch}
        for one in self._of.values():
            self._transfers.plan(*one)
        self._transfers.begin()

    def tell(self, key: str, error: DeliveryError | None) -> None:
        """Tell what became of the object that the caller calls `key`."""
        about = self._of.pop(key)
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


def _about(request: StoreRequest) -> tuple[str, str, str]:
    """Study, Patient ID and SOP Class of an object; a file that cannot be read says nothing of the first two."""
    try:
        with without_warnings():
            header = read_header(request.path, ("StudyInstanceUID", "PatientID"))
            return str(header.get("StudyInstanceUID") or ""), elements.patient_id(header), request.sop_class_uid
    except (DatasetUnreadable, OutOfResources):
        return "", "", request.sop_class_uid
