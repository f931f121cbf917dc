"""Sections 4.2.2 and 4.2.3: what the sender proposes, and what it makes of answers."""

from collections.abc import Mapping, Sequence

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from conformance.example import RESULTS
from conformance.markdown import prose, table
from dicom_node.deliver import scu, stow
from dicom_node.deliver.sender import RetryPolicy
from dicom_node.dicom import commitment
from dicom_node.settings.sections import DeliverySettings
from dicom_node.status import FAILURES, Status
from explain_core import plugins


def render(sent: Mapping[str, Sequence[str]]) -> list[str]:
    """The sections; `sent` are the SOP Classes of results by the name of the object."""
    return [
        "### 4.2.2 SENDER",
        "",
        *_policies(),
        *_contexts(sent),
        *_storage(),
        *_commitment(),
        *_web(),
    ]


def _policies() -> list[str]:
    sending = DeliverySettings()
    rows = [
        ("Associations that it accepts", "none"),
        ("Associations at a time", "one to each destination and process; a destination's objects go over one"),
        ("When", "results are due; a commitment is to be asked for or reported; `dicom-node echo`, `doctor`"),
        ("Presentation contexts in one association", f"at most {scu.MAX_CONTEXTS}"),
        ("Asynchronous operations", "not proposed"),
        ("Time-out of the connection", f"{min(sending.timeout, scu.CONNECT_SECONDS):g} s"),
        ("Time in which nothing moves, after which it is given up", f"{sending.timeout:g} s"),
        ("User identity negotiation", "not proposed"),
    ]
    return ["#### 4.2.2.1 Association policies", "", *table(("Policy", "Value, by default"), rows)]


def _contexts(sent: Mapping[str, Sequence[str]]) -> list[str]:
    from dicom_node.results.encoding import TRANSFER_SYNTAXES as compressed  # noqa: N811 - loads codecs

    plain = f"{ExplicitVRLittleEndian.name}, {ImplicitVRLittleEndian.name}"
    return [
        "#### 4.2.2.2 Presentation contexts proposed",
        "",
        *prose("One context for each SOP Class and transfer syntax that is due:"),
        *table(
            ("Result", "Abstract syntax", "UID", "Transfer syntaxes", "Role", "Stand-in"),
            [
                (name, UID(uid).name, uid, plain, "SCU", plugins.load(RESULTS, name).fallback or "none")
                for name, uids in sent.items()
                for uid in uids
            ],
        ),
        *prose(
            "Pictures with a legend that a destination wants compressed (`compression` in the settings) are",
            "offered in one of these alone:",
        ),
        *table(("Transfer syntax", "UID"), [(uid.name, str(uid)) for uid in compressed]),
        *prose(
            f"{commitment.PUSH_MODEL.name} in {', '.join(uid.name for uid in commitment.SYNTAXES)}: as SCU to",
            f"ask, as SCP (role selection) to report. {UID(Verification).name} in the library's default transfer",
            "syntaxes, as SCU.",
        ),
        *prose(
            "A destination that rejects the presentation contexts of an object, or answers 0x0122, gets the",
            "stand-in of the last column instead, where there is one; the node records that and shows it in",
            "`dicom-node status`.",
        ),
    ]


def _storage() -> list[str]:
    policy = RetryPolicy.of(DeliverySettings())
    waits = f"after {policy.first.total_seconds():g} s and each time {policy.factor:g} times as long"
    again = (
        f"sent again {waits}, at most {policy.cap.total_seconds() / 3600:g} h, {policy.max_attempts} times, then dead"
    )
    warnings = [status for status in range(0x10000) if scu.is_warning(status)]
    rows = [
        (f"0x{scu.SUCCESS:04X}", "delivered"),
        (f"0x{warnings[0]:04X} to 0x{warnings[-1]:04X}", "delivered; the warning is in the log"),
        (f"0x{Status.DUPLICATE_SOP_INSTANCE:04X}, after an answer that was lost", "delivered"),
        (f"0x{scu.SOP_CLASS_NOT_SUPPORTED:04X}", "the stand-in is sent; dead where there is none"),
        (
            f"0x{Status.OUT_OF_RESOURCES:04X} to 0x{Status.OUT_OF_RESOURCES + 0xFF:04X}",
            f"{again}; not counted while the destination is paused",
        ),
        ("every other", again),
        ("no answer, or the association ends", "the same; not counted where nothing of the object was on its way"),
    ]
    return [
        "#### 4.2.2.3 SOP-specific conformance: Storage",
        "",
        *prose(
            "Objects go in the order in which they were made. The same object may be sent again after an answer",
            "that was lost: it is the same to the byte, under the same SOP Instance UID. Error Comments of",
            "peers are not repeated anywhere.",
        ),
        *table(("Status of C-STORE", "The object is"), rows),
        *prose(
            f"A destination that has not answered {policy.pause_after} times in a row is paused: one object is",
            f"tried at a time, at least every {policy.probe_cap.total_seconds():g} s, and no attempts are",
            "counted.",
        ),
    ]


def _commitment() -> list[str]:
    sending = DeliverySettings()
    reasons = [
        (f"0x{reason:04X}", one.meaning, "sent again" if one.resend else "dead letter")
        for reason, one in FAILURES.items()
    ]
    return [
        "#### 4.2.2.4 SOP-specific conformance: Storage Commitment Push Model",
        "",
        *prose(
            "As SCU: a destination with `commitment = true` is asked about what it was sent. Its report is",
            f"taken over the association of the request, which stays open for {sending.commitment_wait:g} s, or",
            "over one that it opens to the LISTENER, with role selection or without. Nothing in time: a new",
            f"request under a new Transaction UID, after {sending.commitment_timeout:g} s, at most",
            f"{sending.max_attempts} times.",
        ),
        *table(("Failure Reason", "Meaning", "The object is"), reasons),
        *prose("Any other Failure Reason: sent again. As SCP: see 4.2.1.4."),
    ]


def _web() -> list[str]:
    """The user agent's side of PS3.18."""
    most = f"a study's objects, at most {stow.MOST_OBJECTS} and {stow.MOST_BYTES >> 20} MiB, or one larger one"
    refused = ", ".join(f"0x{code:04X}" for code in sorted(stow.CLASS_REFUSED))
    rows = [
        ("Transaction", "Store (PS3.18 10.5), POST to /studies/{study}"),
        ("Request", f"multipart/related; type=application/dicom, with Content-Length; {most}"),
        ("Transfer syntaxes", "as above, each object as it is written"),
        ("Answer", "application/dicom+json is asked for, application/dicom+xml understood; at most 1 MiB"),
        ("Stored", "what Referenced SOP Sequence (0008,1199) names, with or without a Warning Reason (0008,1196)"),
        ("Failed", "what Failed SOP Sequence (0008,1198) names, by its Failure Reason (0008,1197); what neither names"),
        ("Not taken", f"{refused}, status {stow.UNSUPPORTED_MEDIA_TYPE}: the stand-in is sent"),
        ("Redirects", "not followed"),
        ("HTTP", "1.1, a connection for each request; Retry-After is heeded, up to an hour"),
        ("Security", "TLS 1.2 and newer, client certificates; Bearer tokens for client credentials (RFC 6749 4.4)"),
        ("Verification", "Search (PS3.18 10.6), GET /studies?limit=1: `dicom-node echo`; the answer is not read"),
    ]
    return ["### 4.2.3 DICOMweb user agent", "", *table(("What", "How"), rows)]
