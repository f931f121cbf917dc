"""What this node promises on the wire: statuses, presentation contexts, reject reasons. One table of each.

Everything that answers a peer takes its numbers from here, and `render()` makes docs/conformance.md from the
same tables, so that the document cannot promise what the code does not do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node.settings import NodeSettings
from explain_core import plugins

RESULTS = "dicom_node.results"
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

TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)
"""Of every storage SOP Class. Which one an association uses is the sender's choice: the first it proposes."""

_VERIFICATION_SYNTAXES = TRANSFER_SYNTAXES[:4]


def storage_sop_classes() -> tuple[UID, ...]:
    """Every storage SOP Class of the standard that the library knows, in the order of their UIDs' names."""
    classes = {context.abstract_syntax for context in AllStoragePresentationContexts if context.abstract_syntax}
    return tuple(sorted(classes, key=lambda uid: uid.name))


def presentation_contexts() -> list[PresentationContext]:
    """What the listener accepts: Verification, and every storage SOP Class in every transfer syntax.

    The limit of 128 presentation contexts (PS3.8 9.3.2.2) holds for a requestor; an acceptor may know more.
    """
    contexts = [build_context(Verification, list(_VERIFICATION_SYNTAXES))]
    contexts += [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_sop_classes()]
    return contexts


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


def result_sop_classes() -> dict[str, tuple[str, ...]]:
    """SOP Classes that this node sends, by the name of the result object; imports the builders."""
    return {
        name: tuple(str(uid) for uid in plugins.load(RESULTS, name).sop_class_uids)
        for name in plugins.available(RESULTS)
    }


def render() -> str:
    """The conformance statement (PS3.2) as Markdown: the whole of docs/conformance.md."""
    from dicom_node.results._encoding import TRANSFER_SYNTAXES as compressed  # noqa: N811, PLC0415 - loads codecs

    node = NodeSettings()
    lines = [
        "# DICOM conformance statement",
        "",
        "Made by `dicom-node conformance` from the code's own tables; do not edit.",
        "",
        "The node is an acceptor of Verification and Storage, and a requestor of Verification and Storage.",
        "",
        "## Association acceptance",
        "",
        *_table(("Setting", "Default"), _limits(node)),
        "",
        "The called AE title must be the node's, the calling AE title one of `node.calling_ae_titles`;",
        "an empty list accepts nobody, unless `node.accept_any_calling_ae` is true.",
        "",
        *_table(
            ("Result", "Source", "Reason", "Meaning"),
            [(str(r.result), str(r.source), str(r.diagnostic), r.meaning) for r in REJECTIONS],
        ),
        "",
        "A PDU longer than announced, a PDU that takes longer than the deadline, and a peer that stays",
        "silent end the association without an answer or with A-ABORT.",
        "",
        "## Statuses of the Storage SCP",
        "",
        *_table(
            ("Status", "Name", "Meaning"),
            [(f"0x{status:04X}", *meaning) for status, meaning in STATUS_MEANING.items()],
        ),
        "",
        "Every failure carries an Error Comment (0000,0902). Conformance level 2 (full); no element is coerced.",
        "",
        "## Transfer syntaxes",
        "",
        "Of every storage SOP Class; of Verification the first four.",
        "",
        *_table(("Name", "UID"), [(uid.name, str(uid)) for uid in TRANSFER_SYNTAXES]),
        "",
        "## SOP Classes accepted",
        "",
        *_table(("Name", "UID"), [(uid.name, str(uid)) for uid in (UID(Verification), *storage_sop_classes())]),
        "",
        "## SOP Classes sent",
        "",
        "In Explicit VR Little Endian and Implicit VR Little Endian. Pictures with a legend that a destination",
        "wants compressed (`compression` in the settings) are offered in one of these alone:",
        "",
        *_table(("Name", "UID"), [(uid.name, str(uid)) for uid in compressed]),
        "",
        "A destination that rejects the presentation contexts of an object, or answers 0x0122, gets the stand-in of",
        "the last column instead, where there is one; the node records that and shows it in `dicom-node status`.",
        "",
        *_table(
            ("Result", "Name", "UID", "Stand-in"),
            [
                (name, UID(uid).name, uid, plugins.load(RESULTS, name).fallback or "none")
                for name, uids in result_sop_classes().items()
                for uid in uids
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _limits(node: NodeSettings) -> list[tuple[str, str]]:
    return [
        ("AE title", node.ae_title),
        ("Port", str(node.port)),
        ("Maximum PDU length received", f"{node.max_pdu} bytes"),
        ("Associations at a time", str(node.max_associations)),
        ("Asynchronous operations", "not supported"),
        ("ACSE time-out", f"{node.acse_timeout:g} s"),
        ("Network time-out", f"{node.network_timeout:g} s"),
        ("Deadline of one PDU", f"{node.association_deadline:g} s"),
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
