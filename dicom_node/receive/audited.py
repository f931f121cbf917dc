"""What the listener tells the audit: objects that came over an association, and how that ended."""

from dicom_node.receive.intake import Outcome, Request
from dicom_node.receive.reception import Reception
from dicom_node.status import Status
from dicom_node.watch.audit import Audit, Node


def tell_object(audit: Audit, reception: Reception, request: Request, outcome: Outcome) -> None:
    """Tell of one object; at the first one of a study the audit is on the disk when this returns.

    Args:
        audit: is told.
        reception: the association; it may have ended while the object was stored.
        request: what was asked.
        outcome: what became of it.
    """
    if reception.transfers is None:
        came_from = request.association
        peer = Node(ae_title=came_from.calling_ae_title, address=came_from.peer_address)
        reception.transfers = audit.receiving(peer)
    about, sop_class = outcome.about, request.sop_class_uid
    if outcome.status is Status.SUCCESS:
        reception.transfers.done(about.study, about.patient_id, sop_class, known=about.known)
    else:
        reception.transfers.failed(about.study, about.patient_id, sop_class, outcome.comment or "refused")
    if reception.ended:
        tell_end(reception)


def tell_end(reception: Reception) -> None:
    """Tell of the end of an association, if anything came over it."""
    if reception.transfers is not None:
        reception.transfers.end()
