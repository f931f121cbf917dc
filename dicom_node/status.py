"""What this node answers a peer: statuses of Storage and Storage Commitment, reject reasons. One table of each.

Everything that answers takes its numbers from here, and the conformance statement is made from the same tables.
"""

from dataclasses import dataclass
from enum import IntEnum

ERROR_COMMENT_LENGTH = 64  # PS3.7 E.1: (0000,0902) is LO


class Status(IntEnum):
    """Statuses that the Storage SCP answers (PS3.4 B.2.3, PS3.7 Annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    INVALID_SOP_INSTANCE = 0x0117
    OUT_OF_RESOURCES = 0xA700
    DATASET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


STATUS_MEANING: dict[Status, tuple[str, str]] = {
    Status.SUCCESS: (
        "Success",
        (
            "The object is durable: file and folder are synced to disk, the ledger has its row. The same data set "
            "again is acknowledged and changes nothing."
        ),
    ),
    Status.PROCESSING_FAILURE: (
        "Processing failure",
        "A fault of this node, logged with its place in the code. Nothing is stored; send again.",
    ),
    Status.DUPLICATE_SOP_INSTANCE: (
        "Duplicate SOP Instance",
        (
            "The SOP Instance UID is stored with another data set. The first is kept, this one quarantined. "
            "Sending again does not help: one of the two objects needs a new UID."
        ),
    ),
    Status.INVALID_SOP_INSTANCE: (
        "Invalid SOP Instance",
        "The Affected SOP Instance UID breaks the rules for UIDs (PS3.5 9.1).",
    ),
    Status.OUT_OF_RESOURCES: (
        "Refused: Out of Resources",
        "The disk is below its low-water mark or full, or the ledger does not answer. Send again later.",
    ),
    Status.DATASET_MISMATCH: (
        "Error: Data Set Does Not Match SOP Class",
        (
            "SOP Class UID or SOP Instance UID of the data set differs from the request or the presentation "
            "context. The object is quarantined."
        ),
    ),
    Status.CANNOT_UNDERSTAND: (
        "Error: Cannot Understand",
        (
            "The data set cannot be read, or the UID of its study, series or instance is missing or not valid. "
            "The object is quarantined."
        ),
    ),
}


class CommitmentStatus(IntEnum):
    """Statuses that answer N-ACTION and N-EVENT-REPORT of Storage Commitment (PS3.7 10.1.1.1.8, 10.1.4.1.10)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_CLASS = 0x0118
    NO_SUCH_ACTION = 0x0123
    RESOURCE_LIMITATION = 0x0213


COMMITMENT_MEANING: dict[CommitmentStatus, tuple[str, str]] = {
    CommitmentStatus.SUCCESS: (
        "Success",
        "N-ACTION: the request is in the ledger, a report will come. N-EVENT-REPORT: the report is taken.",
    ),
    CommitmentStatus.PROCESSING_FAILURE: (
        "Processing failure",
        "The ledger does not answer, or a fault of this node, which is logged. Ask, or report, again later.",
    ),
    CommitmentStatus.NO_SUCH_INSTANCE: (
        "No such SOP Instance",
        "The instance is not the well-known one, 1.2.840.10008.1.20.1.1.",
    ),
    CommitmentStatus.NO_SUCH_EVENT_TYPE: ("No such event type", "The Event Type ID is neither 1 nor 2."),
    CommitmentStatus.INVALID_ARGUMENT: (
        "Invalid argument value",
        (
            "The data set cannot be read, lacks a UID or names no object; a Transaction UID that is in use for other "
            "objects; a report that this node has not asked this peer for, or that names objects it did not ask about. "
            "Nothing is changed."
        ),
    ),
    CommitmentStatus.NO_SUCH_CLASS: ("No such SOP Class", "The SOP Class is not the Push Model."),
    CommitmentStatus.NO_SUCH_ACTION: ("No such action", "The Action Type ID is not 1."),
    CommitmentStatus.RESOURCE_LIMITATION: (
        "Resource limitation",
        "Too many objects in one request, or too many requests whose reports wait. Ask about fewer, or later.",
    ),
}


class FailureReason(IntEnum):
    """Why an object is not committed: Failure Reason (0008,1197) (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION = 0x0131
    RESOURCE_LIMITATION = 0x0213


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a Failure Reason of a destination means for the object.

    Attributes:
        meaning: a plain clause.
        resend: whether sending the object again may help; else the delivery is dead.
    """

    meaning: str
    resend: bool


FAILURES: dict[int, Failure] = {
    FailureReason.PROCESSING_FAILURE: Failure(meaning="the destination failed to process it", resend=True),
    FailureReason.NO_SUCH_INSTANCE: Failure(meaning="the destination does not have it", resend=True),
    FailureReason.CLASS_CONFLICT: Failure(
        meaning="the destination has it under another SOP Class (class-instance conflict)", resend=False
    ),
    FailureReason.CLASS_NOT_SUPPORTED: Failure(
        meaning="the destination does not commit to its SOP Class", resend=False
    ),
    FailureReason.DUPLICATE_TRANSACTION: Failure(
        meaning="the destination says that the Transaction UID is in use already", resend=False
    ),
    FailureReason.RESOURCE_LIMITATION: Failure(meaning="the destination lacks the resources", resend=True),
}


def failure(reason: int) -> Failure:
    """What a Failure Reason means; one that PS3.3 does not list is worth another attempt."""
    known = FAILURES.get(reason, Failure(meaning="of an unknown reason", resend=True))
    return Failure(meaning=f"{known.meaning} (0x{reason:04X})", resend=known.resend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An A-ASSOCIATE-RJ as this node sends it (PS3.8 table 9-21)."""

    result: int
    source: int
    diagnostic: int
    meaning: str


REJECTIONS = (
    Rejection(result=1, source=1, diagnostic=3, meaning="calling AE title not recognised"),
    Rejection(result=1, source=1, diagnostic=7, meaning="called AE title not recognised"),
    Rejection(result=2, source=3, diagnostic=2, meaning="local limit exceeded"),
)


def rejection(result: int, source: int, diagnostic: int) -> str:
    """The meaning of an A-ASSOCIATE-RJ of ours, for the log."""
    for known in REJECTIONS:
        if (known.result, known.source, known.diagnostic) == (result, source, diagnostic):
            return known.meaning
    return f"result {result}, source {source}, reason {diagnostic}"


def error_comment(text: str) -> str:
    """`text` as an Error Comment (0000,0902): at most 64 printable ASCII characters, no backslash."""
    kept = "".join(letter if letter.isascii() and letter.isprintable() and letter != "\\" else " " for letter in text)
    return kept[:ERROR_COMMENT_LENGTH].rstrip()
