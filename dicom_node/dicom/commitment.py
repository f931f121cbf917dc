"""Storage Commitment Push Model (PS3.4 Annex J): what its messages say, and the data sets that say it.

Both ways are the same here: we ask destinations about results, modalities and PACS ask us about what they sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dsutils import decode
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, PeerError
from dicom_node.nouns import CommitmentReport, CommitmentRequest, Reference, SOPInstanceUID
from dicom_node.status import CommitmentStatus, FailureReason
from dicom_node.watch.logs import without_warnings

PUSH_MODEL = UID("1.2.840.10008.1.20.1")
WELL_KNOWN = UID("1.2.840.10008.1.20.1.1")
"""The one instance of the Push Model (PS3.4 J.3.5)."""
REQUEST = 1
"""Action Type ID of a request (PS3.4 table J.3-1)."""
ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs of a report (PS3.4 table J.3-2)."""

SYNTAXES: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""No deflated one: a few bytes of it may unpack to any size."""
MOST_REFERENCES = 10_000
"""Objects in one request; a study of so many is asked about in several."""
MOST_BYTES = 2 << 20
"""Of the data set of a request or report: 10,000 references with the longest UIDs take three quarters of it."""
_ITEM, _ITEM_BIG_ENDIAN = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"
"""The tag of an item (PS3.5 7.5); no UID has such bytes."""


class CommitmentUnreadable(PeerError):
    """The data set of a request or report cannot be read, or does not say what it must."""

    status: ClassVar[int] = CommitmentStatus.INVALID_ARGUMENT


class TooMuchAsked(PeerError):
    """The data set names more objects than MOST_REFERENCES, or is longer than MOST_BYTES."""

    status: ClassVar[int] = CommitmentStatus.RESOURCE_LIMITATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An N-ACTION or N-EVENT-REPORT request as it came.

    Attributes:
        type_id: Action Type ID or Event Type ID.
        information: Action Information or Event Information, encoded.
        syntax: in this transfer syntax.
    """

    sop_class_uid: str
    sop_instance_uid: str
    type_id: int | None
    information: BytesIO | None
    syntax: UID

    @classmethod
    def of_action(cls, event: evt.Event) -> "Message":
        """What EVT_N_ACTION brings."""
        asked: Any = event.request
        return cls(
            sop_class_uid=str(asked.RequestedSOPClassUID),
            sop_instance_uid=str(asked.RequestedSOPInstanceUID),
            type_id=asked.ActionTypeID,
            information=asked.ActionInformation,
            syntax=UID(event.context.transfer_syntax),
        )

    @classmethod
    def of_event_report(cls, event: evt.Event) -> "Message":
        """What EVT_N_EVENT_REPORT brings."""
        told: Any = event.request
        return cls(
            sop_class_uid=str(told.AffectedSOPClassUID),
            sop_instance_uid=str(told.AffectedSOPInstanceUID),
            type_id=told.EventTypeID,
            information=told.EventInformation,
            syntax=UID(event.context.transfer_syntax),
        )

    def misdirected(self) -> CommitmentStatus | None:
        """The status that answers a message for another SOP Class or Instance than those of the Push Model."""
        if self.sop_class_uid != PUSH_MODEL:
            return CommitmentStatus.NO_SUCH_CLASS
        return None if self.sop_instance_uid == WELL_KNOWN else CommitmentStatus.NO_SUCH_INSTANCE


def accepted_context() -> PresentationContext:
    """What the listener accepts: the Push Model with the peer as SCU, as SCP (it reports to us), or as both.

    A peer that opens an association to report proposes the role SCP for itself (PS3.7 D.3.3.4).
    """
    context = build_context(PUSH_MODEL, list(SYNTAXES))
    context.scu_role = context.scp_role = True
    return context


class Information(BytesIO):
    """The data set of a request or report as it comes in; what is too long is counted and not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.too_long = False

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Append one fragment."""
        size = memoryview(data).nbytes
        if self.tell() + size > MOST_BYTES:
            self.too_long = True
            return size
        return super().write(data)


def read_request(information: BytesIO | None, syntax: UID) -> CommitmentRequest:
    """The Action Information of an N-ACTION.

    Raises:
        CommitmentUnreadable: it cannot be read, lacks a UID, or names no object.
        TooMuchAsked: it names too many.
    """
    with _read(information, syntax) as ds:
        references = tuple(dict.fromkeys(reference for reference, _ in _items(ds, "ReferencedSOPSequence")))
        if not references:
            raise CommitmentUnreadable("Referenced SOP Sequence is missing or empty")
        return CommitmentRequest(transaction_uid=_uid(ds, "TransactionUID"), references=references)


def read_report(information: BytesIO | None, syntax: UID) -> CommitmentReport:
    """The Event Information of an N-EVENT-REPORT; of an object that is named as both, the failure counts.

    Raises:
        CommitmentUnreadable: it cannot be read, lacks a UID, or names no object.
        TooMuchAsked: it names too many.
    """
    with _read(information, syntax) as ds:
        failed = {reference: _reason(item) for reference, item in _items(ds, "FailedSOPSequence")}
        named = dict.fromkeys(reference for reference, _ in _items(ds, "ReferencedSOPSequence"))
        if not named and not failed:
            raise CommitmentUnreadable("the report names no object")
        committed = tuple(reference for reference in named if reference not in failed)
        return CommitmentReport(transaction_uid=_uid(ds, "TransactionUID"), committed=committed, failed=failed)


def request_data_set(request: CommitmentRequest) -> Dataset:
    """The Action Information that asks for it (PS3.4 table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = Sequence(map(_item, request.references))
    return ds


def report_data_set(report: CommitmentReport, ae_title: str) -> Dataset:
    """The Event Information that reports it (PS3.4 table J.3-2).

    Args:
        report: what is safe and what is not.
        ae_title: ours, as Retrieve AE Title where there is anything safe: here the objects are.
    """
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.RetrieveAETitle = ae_title
        ds.ReferencedSOPSequence = Sequence(map(_item, report.committed))
    if report.failed:
        ds.FailedSOPSequence = Sequence(_failed_item(one, reason) for one, reason in report.failed.items())
    return ds


def event_type(report: CommitmentReport) -> int:
    """The Event Type ID of a report."""
    return FAILURES_EXIST if report.failed else ALL_COMMITTED


@contextmanager
def _read(information: BytesIO | None, syntax: UID) -> Iterator[Dataset]:
    """The data set of a message. Its items are counted first: pydicom takes a minute for a million of them.

    Whatever pydicom raises inside is a data set that cannot be read: values are looked at only when they are asked for.
    """
    if information is None:
        raise CommitmentUnreadable("the message has no data set")
    if getattr(information, "too_long", False) or information.getbuffer().nbytes > MOST_BYTES:
        raise TooMuchAsked(f"the data set is longer than {MOST_BYTES >> 20} MB")
    if information.getvalue().count(_ITEM if syntax.is_little_endian else _ITEM_BIG_ENDIAN) > 2 * MOST_REFERENCES:
        raise TooMuchAsked(f"more than {MOST_REFERENCES:,} objects")
    with without_warnings():
        try:
            yield decode(information, syntax.is_implicit_VR, syntax.is_little_endian)
        except PeerError:
            raise
        except Exception as error:
            raise CommitmentUnreadable("the data set cannot be read") from error


def _items(ds: Dataset, keyword: str) -> Iterator[tuple[Reference, Dataset]]:
    found = ds.get(keyword)
    if found is None:
        return
    if not isinstance(found, Sequence):
        raise CommitmentUnreadable(f"{keyword} is no sequence")
    if len(found) > MOST_REFERENCES:
        raise TooMuchAsked(f"more than {MOST_REFERENCES:,} objects")
    for item in found:
        reference = Reference(
            _uid(item, "ReferencedSOPClassUID"), SOPInstanceUID(_uid(item, "ReferencedSOPInstanceUID"))
        )
        yield reference, item


def _uid(ds: Dataset, keyword: str) -> str:
    try:
        return checked_uid(str(ds.get(keyword) or ""))
    except DatasetUnreadable:
        raise CommitmentUnreadable(f"{keyword} is missing or not a valid UID") from None


def _reason(item: Dataset) -> int:
    """The Failure Reason of an object; 0x0110 where it is missing or no number."""
    found = item.get("FailureReason")
    return int(found) if isinstance(found, int) else int(FailureReason.PROCESSING_FAILURE)


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _failed_item(reference: Reference, reason: int) -> Dataset:
    item = _item(reference)
    item.FailureReason = reason
    return item
