"""The conformance statement (PS3.2), made from the tables that the code itself uses."""

from collections.abc import Iterable

from pydicom.datadict import dictionary_description
from pydicom.uid import UID
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node.deliver import stow
from dicom_node.dicom import commitment, structure
from dicom_node.dicom.image_pixel import USUAL
from dicom_node.dicom.negotiation import TRANSFER_SYNTAXES, storage_sop_classes
from dicom_node.dicom.tls import CIPHER_SUITES
from dicom_node.settings.sections import DeliverySettings, NodeSettings, TLSSettings
from dicom_node.status import COMMITMENT_MEANING, FAILURES, REJECTIONS, STATUS_MEANING
from dicom_node.watch import audit_message, audit_syslog
from explain_core import plugins

RESULTS = "dicom_node.results.objects"


def result_sop_classes() -> dict[str, tuple[str, ...]]:
    """SOP Classes that this node sends, by the name of the result object; imports the builders."""
    return {
        name: tuple(str(uid) for uid in plugins.load(RESULTS, name).sop_class_uids)
        for name in plugins.available(RESULTS)
    }


def render() -> str:
    """The conformance statement (PS3.2) as Markdown: the whole of docs/conformance.md."""
    from dicom_node.results.encoding import TRANSFER_SYNTAXES as compressed  # noqa: N811, PLC0415 - loads codecs

    node = NodeSettings()
    lines = [
        "# DICOM conformance statement",
        "",
        "Made by `dicom-node conformance` from the code's own tables; do not edit.",
        "",
        "The node is an acceptor and a requestor of Verification, Storage and the Storage Commitment Push Model; of",
        "Storage Commitment it is SCP and SCU, and both as acceptor and as requestor. It is a user agent of the Store",
        "transaction (STOW-RS) and of one search (QIDO-RS).",
        "",
        "## Association acceptance",
        "",
        *_table(("Setting", "Default"), _limits(node)),
        "",
        "The called AE title must be the node's, the calling AE title one of `node.calling_ae_titles`, called",
        "from the address or network that stands with it; an empty list accepts nobody, unless",
        "`node.accept_any_calling_ae` is true.",
        "",
        *_table(
            ("Result", "Source", "Reason", "Meaning"),
            [(str(r.result), str(r.source), str(r.diagnostic), r.meaning) for r in REJECTIONS],
        ),
        "",
        "A PDU longer than announced, a PDU that takes longer than the deadline, a message that comes too",
        "slowly, and a peer that stays silent end the association without an answer or with A-ABORT.",
        "",
        "## Statuses of the Storage SCP",
        "",
        *_table(
            ("Status", "Name", "Meaning"),
            [(f"0x{status:04X}", *meaning) for status, meaning in STATUS_MEANING.items()],
        ),
        "",
        "Every failure carries an Error Comment (0000,0902). Conformance level 2 (full); no element is coerced, but",
        "group 0002, which belongs to files, is dropped where a peer sends it inside a data set (PS3.5 7.1).",
        "",
        *_commitment(),
        *_security(),
        *_tolerance(),
        "## Transfer syntaxes",
        "",
        "Of every storage SOP Class, in the order of preference; of Verification those without compression; of Storage",
        f"Commitment {', '.join(uid.name for uid in commitment.SYNTAXES)}.",
        "",
        *_table(("Name", "UID"), [(uid.name, str(uid)) for uid in TRANSFER_SYNTAXES]),
        "",
        "## SOP Classes accepted",
        "",
        *_table(("Name", "UID"), [(uid.name, str(uid)) for uid in _accepted()]),
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
        "",
        *_web(),
        "",
        *_audit(),
    ]
    return "\n".join(lines) + "\n"


def _security() -> list[str]:
    """Security profiles (PS3.15); docs/security.md says how they are set up."""
    rows = [
        ("Profile", "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 B.12)"),
        ("Port", f"{TLSSettings().port}, beside the plain port or instead of it"),
        ("Versions", "TLS 1.2 and 1.3"),
        ("Cipher suites of TLS 1.2", ", ".join(CIPHER_SUITES)),
        ("Keys of certificates", "RSA of 2048 bits or more, elliptic curves of 224 bits or more"),
        ("Certificate of the requestor", "must be shown, unless `tls.require_client_certificate` is false"),
        ("Certificate of the acceptor, as requestor", "must be shown and carry the host's name or `tls_name`"),
        ("Revocation", "certificate revocation lists in a file, `tls.revocations`"),
        ("Session resumption, renegotiation, compression", "none"),
        ("No TLS connection", "closed with the alert of TLS; no A-ASSOCIATE is read"),
    ]
    intro = "DICOM TLS in both directions, where the settings have certificates. User identity is not negotiated."
    return ["## Security profiles", "", intro, "", *_table(("", "DICOM TLS"), rows), ""]


def _accepted() -> tuple[UID, ...]:
    return (UID(Verification), commitment.PUSH_MODEL, *storage_sop_classes())


def _commitment() -> list[str]:
    """Storage Commitment (PS3.4 Annex J), both ways."""
    sending = DeliverySettings()
    reasons = [
        (f"0x{reason:04X}", one.meaning, "sent again" if one.resend else "dead letter")
        for reason, one in FAILURES.items()
    ]
    return [
        "## Storage Commitment Push Model",
        "",
        "As SCP: who may send may ask. A request is durable before its N-ACTION is answered. An object is committed",
        "when the ledger knows it and its file still has the size and digest of its reception; else the report (Event",
        "Type 2) gives 0x0112 (not here, or its file is missing), 0x0119 (another SOP Class) or 0x0110 (its file is",
        "damaged). The report comes over the association of the request where the peer keeps it open, else over one",
        "that the node opens to it, proposing the role of SCP, and is repeated until it is acknowledged. Committed is",
        "what is held at that moment: the node is no archive, an administrator decides how long images are kept.",
        "",
        f"A request names at most {commitment.MOST_REFERENCES:,} objects in at most {commitment.MOST_BYTES >> 20} MB.",
        "",
        "As SCU: a destination with `commitment = true` is asked about what it was sent. Its report is taken over the",
        f"association of the request, which stays open for {sending.commitment_wait:g} s, or over one that it opens,",
        "with role selection or without. Nothing in time: a new request under a new Transaction UID, after",
        f"{sending.commitment_timeout:g} s, at most {sending.max_attempts} times. A report from another AE title than",
        "the one asked, of another transaction, or about other objects changes nothing.",
        "",
        *_table(("Failure Reason", "Meaning", "The object is"), reasons),
        "",
        "Any other Failure Reason: sent again.",
        "",
        *_table(
            ("Status of N-ACTION, N-EVENT-REPORT", "Name", "Meaning"),
            [(f"0x{status:04X}", *meaning) for status, meaning in COMMITMENT_MEANING.items()],
        ),
        "",
    ]


def _tolerance() -> list[str]:
    """What peers and files get wrong, and what becomes of it; tests/cases.py tries the cases of public bug reports."""
    most = f"{structure.MOST_NESTED} sequences inside each other, {structure.MOST_ELEMENTS:,} elements"
    rows = [
        ("AE titles padded with NUL or blanks", "compared without the padding"),
        ("A calling AE title that is not ASCII", "compared as it is, rejected with a reason where nobody has it"),
        ("Unknown user items; no Maximum Length item", "ignored (PS3.8 9.3.1); served"),
        ("Several transfer syntaxes in one context", "the first of the table below that is proposed"),
        ("Group 0002 inside a data set", "dropped; the presentation context decides"),
        ("The same instance in another transfer syntax", "Success; the first file stays"),
        ("The same SOP Instance UID with other content", "0x0111, quarantined"),
        (f"More than {most}", "0xC000, quarantined"),
        (f"An element of more than {structure.MOST_BYTES >> 20} MB without bulk data", "0xC000, quarantined"),
        ("0x0111 from a destination, after an answer that was lost", "delivered"),
        ("An association that is never released", "a study is complete `open_quiet_seconds` after its last object"),
        ("Two patients under one Study Instance UID", "the first one's images are analysed, the report says so"),
        ("An image that cannot be read, decoded or built upon", "a line in the report; the others are analysed"),
        ("Body part, region, view and modality in other words", "one table of words and codes, in eight languages"),
        ("A view that is nowhere stated", "taken for a frontal one, and said so"),
        ("Lookup tables that are empty, windows that show nothing", "the next one, then the range of the data"),
        *((f"{dictionary_description(keyword)} is missing", taken) for keyword, taken in USUAL.items()),
        ("A codestream of another sign than Pixel Representation", "the reading without wrapped values"),
        ("A codestream of another size, or of deeper values than Bits Stored", "not analysed, with the reason"),
        ("A Specific Character Set that is misspelt, empty or undecodable", "read as well as can be; never copied"),
    ]  # fmt: skip
    return ["## What is tolerated", "", *_table(("Peer or file", "Answer"), rows), ""]


def _web() -> list[str]:
    """The user agent's side of PS3.18."""
    most = f"a study's objects, at most {stow.MOST_OBJECTS} and {stow.MOST_BYTES >> 20} MiB, or one larger one"
    codes = ", ".join(f"0x{code:04X}" for code in sorted(stow.CLASS_REFUSED))
    rows = [
        ("Transaction", "Store (PS3.18 10.5), POST to /studies/{study}"),
        ("Request", f"multipart/related; type=application/dicom, with Content-Length; {most}"),
        ("Transfer syntaxes", "as above, each object as it is written"),
        ("Answer", "application/dicom+json is asked for, application/dicom+xml understood; at most 1 MiB"),
        ("Stored", "what Referenced SOP Sequence (0008,1199) names, with or without a Warning Reason (0008,1196)"),
        ("Failed", "what Failed SOP Sequence (0008,1198) names, by its Failure Reason (0008,1197); what neither names"),
        ("Not taken", f"{codes}, status 415: the stand-in is sent"),
        ("Redirects", "not followed"),
        ("HTTP", "1.1, a connection for each request; Retry-After is heeded, up to an hour"),
        ("Security", "TLS 1.2 and newer, client certificates; Bearer tokens for client credentials (RFC 6749 4.4)"),
        ("Verification", "Search (PS3.18 10.6), GET /studies?limit=1: `dicom-node echo`; the answer is not read"),
    ]  # fmt: skip
    return ["## DICOMweb user agent", "", *_table(("What", "How"), rows)]


def _audit() -> list[str]:
    """The audit messages and what triggers them (PS3.2 N.11.2.2)."""
    event, kind = audit_message.EventID, audit_message.EventType
    rows = [
        (event.APPLICATION_ACTIVITY, kind.APPLICATION_START, "a role begins its work"),
        (event.APPLICATION_ACTIVITY, kind.APPLICATION_STOP, "a role ends; with the error that ended it"),
        (event.AUDIT_LOG_USED, None, "`dicom-node audit verify`"),
        (event.BEGIN_TRANSFERRING_DICOM_INSTANCES, None, "a study's first object came; objects will be sent"),
        (event.DICOM_INSTANCES_TRANSFERRED, None, "the association ended; they were sent, or were not"),
        (event.EXPORT, None, "`dicom-node export`, `dicom-node retrain submit --labels`"),
        (event.SECURITY_ALERT, kind.NODE_AUTHENTICATION, "an association was rejected: unknown AE title"),
        (event.SECURITY_ALERT, kind.SOFTWARE_CONFIGURATION, "`dicom-node model` changed what runs; other settings"),
        (event.SECURITY_ALERT, kind.AUDIT_RECORDING_STOPPED, "since then the trail could not be written"),
        (event.SECURITY_ALERT, kind.AUDIT_RECORDING_STARTED, "the trail is written again"),
    ]  # fmt: skip
    return [
        "## Audit messages",
        "",
        "Audit Trail Message Format Profile (PS3.15 A.5) and, where `audit.syslog_host` is set, Audit Trail Message",
        f"Transmission Profile - SYSLOG-TLS (PS3.15 A.6), MSGID {audit_syslog.MESSAGE_ID}, no structured data.",
        "Patients are named by Patient ID alone, and not at all where `audit.patient_ids` is false.",
        "",
        *_table(
            ("Event ID", "Event type", "Trigger"),
            [(_coded(one), _coded(of) if of is not None else "", trigger) for one, of, trigger in rows],
        ),
    ]


def _coded(value: audit_message.EventID | audit_message.EventType) -> str:
    code = audit_message.code(value)
    return f'({code["csd-code"]}, {code["codeSystemName"]}, "{code["originalText"]}")'


def _limits(node: NodeSettings) -> list[tuple[str, str]]:
    return [
        ("AE title", node.ae_title),
        ("Port", str(node.port)),
        ("Maximum PDU length received", f"{node.max_pdu} bytes"),
        ("Associations at a time", str(node.max_associations)),
        ("Of these, from one host and AE", str(node.max_associations_per_peer)),
        ("Asynchronous operations", "not supported"),
        ("ACSE time-out", f"{node.acse_timeout:g} s"),
        ("Network time-out", f"{node.network_timeout:g} s"),
        ("Deadline of one PDU", f"{node.association_deadline:g} s"),
        ("Slowest peer, within a message", f"{node.slowest_peer} bytes/s over {node.slowest_peer_seconds:g} s"),
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
