"""Section 4.2.1: what the listener accepts and answers."""

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from conformance.markdown import prose, table
from dicom_node.dicom import commitment
from dicom_node.dicom.negotiation import NATIVE, TRANSFER_SYNTAXES, storage_sop_classes
from dicom_node.results.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.settings.sections import NodeSettings
from dicom_node.status import COMMITMENT_MEANING, REJECTIONS, STATUS_MEANING


def render() -> list[str]:
    """The section."""
    return [
        "## 4.2 AE specifications",
        "",
        "### 4.2.1 LISTENER",
        "",
        *_policies(),
        *_contexts(),
        *_storage(),
        *_commitment(),
    ]


def _policies() -> list[str]:
    node = NodeSettings()
    rows = [
        ("AE title", node.ae_title),
        ("Application context", "1.2.840.10008.3.1.1.1"),
        ("Maximum PDU length received", f"{node.max_pdu} bytes"),
        ("Associations at a time", str(node.max_associations)),
        ("Of these, from one host and AE", str(node.max_associations_per_peer)),
        ("Associations that it opens", "none"),
        ("Asynchronous operations", "not supported"),
        ("ACSE time-out", f"{node.acse_timeout:g} s"),
        ("Network time-out", f"{node.network_timeout:g} s"),
        ("Deadline of one PDU", f"{node.association_deadline:g} s"),
        ("Slowest peer, within a message", f"{node.slowest_peer} bytes/s over {node.slowest_peer_seconds:g} s"),
        ("User identity negotiation", "not supported"),
    ]
    return [
        "#### 4.2.1.1 Association policies",
        "",
        *table(("Policy", "Value, by default"), rows),
        *prose(
            "The called AE title must be the node's, the calling AE title one of `node.calling_ae_titles`,",
            "called from the address or network that stands with it; an empty list accepts nobody, unless",
            "`node.accept_any_calling_ae` is true.",
        ),
        *table(
            ("Result", "Source", "Reason", "Meaning"),
            [(str(r.result), str(r.source), str(r.diagnostic), r.meaning) for r in REJECTIONS],
        ),
        *prose(
            "A PDU longer than announced, a PDU that takes longer than the deadline, a message that comes too",
            "slowly, and a peer that stays silent end the association without an answer or with A-ABORT.",
        ),
        *prose(
            f"Implementation Class UID {PYNETDICOM_IMPLEMENTATION_UID} and Implementation Version Name",
            f"{PYNETDICOM_IMPLEMENTATION_VERSION} in associations, those of the library; in files that the node writes",
            f"{IMPLEMENTATION_CLASS_UID} and {IMPLEMENTATION_VERSION_NAME}.",
        ),
    ]


def _contexts() -> list[str]:
    both = "SCP; SCU, where the peer proposes the role of SCP"
    rows = [
        (UID(Verification).name, str(Verification), ", ".join(uid.name for uid in NATIVE), "SCP"),
        (commitment.PUSH_MODEL.name, commitment.PUSH_MODEL, ", ".join(uid.name for uid in commitment.SYNTAXES), both),
        ("every storage SOP Class, below", "below", "every transfer syntax, below", "SCP"),
    ]
    return [
        "#### 4.2.1.2 Presentation contexts accepted",
        "",
        *table(("Abstract syntax", "UID", "Transfer syntaxes", "Role"), rows),
        *prose(
            "Of several transfer syntaxes in one context the first of this list is chosen. No extended",
            "negotiation.",
        ),
        *table(("Transfer syntax", "UID"), [(uid.name, str(uid)) for uid in TRANSFER_SYNTAXES]),
        *table(("Storage SOP Class", "UID"), [(uid.name, str(uid)) for uid in storage_sop_classes()]),
    ]


def _storage() -> list[str]:
    return [
        "#### 4.2.1.3 SOP-specific conformance: Verification and Storage",
        "",
        *prose(
            "C-ECHO is answered with 0x0000. Storage: level 2 (full), no element is coerced; but group 0002,",
            "which belongs to files, is dropped where a peer sends it inside a data set (PS3.5 7.1). Digital",
            "signatures stay whole and are not verified. What is received is kept until it is answered, then",
            "for `retention.images_days`; nobody can query or retrieve it. Every failure carries an Error",
            "Comment (0000,0902).",
        ),
        *table(
            ("Status of C-STORE", "Name", "Meaning"),
            [(f"0x{status:04X}", *meaning) for status, meaning in STATUS_MEANING.items()],
        ),
    ]


def _commitment() -> list[str]:
    return [
        "#### 4.2.1.4 SOP-specific conformance: Storage Commitment Push Model",
        "",
        *prose(
            "As SCP: who may send may ask. A request is durable before its N-ACTION is answered. An object is",
            "committed when the ledger knows it and its file still has the size and digest of its reception;",
            "else the report (Event Type 2) gives 0x0112 (not here, or its file is missing), 0x0119 (another",
            "SOP Class) or 0x0110 (its file is damaged). The report comes over the association of the request",
            "where the peer keeps it open, else over one that the SENDER opens to the peer, proposing the role",
            "of SCP, and is repeated until it is acknowledged. Committed is what is held at that moment: the",
            "node is no archive, an administrator decides how long images are kept. No storage media are named.",
        ),
        *prose(
            f"A request names at most {commitment.MOST_REFERENCES:,} objects in at most",
            f"{commitment.MOST_BYTES >> 20} MB.",
        ),
        *prose(
            "As SCU, of reports on what the SENDER has asked: a report from another AE title than the one",
            "asked, of another transaction, or about other objects changes nothing.",
        ),
        *table(
            ("Status of N-ACTION, N-EVENT-REPORT", "Name", "Meaning"),
            [(f"0x{status:04X}", *meaning) for status, meaning in COMMITMENT_MEANING.items()],
        ),
    ]
