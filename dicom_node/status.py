"""What this node answers a peer: statuses of the Storage SCP, reject reasons. One table of each.

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
