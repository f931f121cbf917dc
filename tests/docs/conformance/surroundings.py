"""Sections 4.3 to 7 and 8.7: network, configuration, media, character sets, security, what is tolerated."""

from collections.abc import Iterator
from types import NoneType
from typing import Any

from pydantic import BaseModel
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_description

from conformance.markdown import prose, table
from dicom_node.dicom import structure
from dicom_node.dicom.image_pixel import USUAL
from dicom_node.dicom.tls import CIPHER_SUITES
from dicom_node.settings.answers import CommitmentPeer, DestinationSettings
from dicom_node.settings.sections import DeliverySettings, NodeSettings, StudySettings, TLSSettings
from dicom_node.watch import audit_message, audit_syslog

_SECTIONS: dict[str, type[BaseModel]] = {
    "node": NodeSettings,
    "tls": TLSSettings,
    "study": StudySettings,
    "delivery": DeliverySettings,
    "destinations": DestinationSettings,
    "commitment_peers": CommitmentPeer,
}
"""What of the settings concerns the network."""


def render() -> list[str]:
    """Sections 4.3 to 7."""
    return [*_network(), *_configuration(), *_charsets(), *_security(), *_audit()]


def _network() -> list[str]:
    node, tls = NodeSettings(), TLSSettings()
    rows = [
        ("Interface", "whatever the operating system has; TCP over IPv4 (IPv6 is not tested)"),
        ("DICOM Upper Layer, listening", f"port {node.port} at {node.host}, unless `node.plain` is false"),
        ("DICOM Upper Layer over TLS, listening", f"port {tls.port} at {node.host}, where `tls.certificate` is set"),
        ("Outgoing", "to the address and port of each destination and commitment peer; HTTP and HTTPS for DICOMweb"),
        ("Names", "DNS, by the operating system"),
        ("Time", "the system's clock; a Network Time Protocol client is recommended, `dicom-node doctor` looks at it"),
    ]
    return ["## 4.3 Network interfaces", "", *table(("What", "How"), rows)]


def _configuration() -> list[str]:
    return [
        "## 4.4 Configuration",
        "",
        *prose(
            "AE titles, addresses and ports of the node and of its peers stand in one TOML file; `dicom-node",
            "check-config` says what is wrong with it. A change is read when the roles are started.",
            "[install.md](install.md) and `deploy/dicom-node.toml` explain every key.",
        ),
        *table(("Parameter", "Default"), _parameters()),
    ]


def _parameters() -> Iterator[tuple[str, str]]:
    for section, of in _SECTIONS.items():
        for name, field in of.model_fields.items():
            yield f"`{section}.{field.alias or name}`", "must be given" if field.is_required() else _said(field.default)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == () or isinstance(value, NoneType):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _charsets() -> list[str]:
    every = sorted(name for name in python_encoding if name and name != "ISO 2022 58")  # an alias of pydicom's
    plain = [name for name in every if not name.startswith("ISO 2022")]
    extended = [name for name in every if name.startswith("ISO 2022")]
    return [
        "# 5 Media interchange",
        "",
        *prose("Not supported."),
        "# 6 Support of character sets",
        "",
        *prose(
            "Objects in any Specific Character Set are received and kept as they are. Results carry the",
            "source's Specific Character Set and its text byte for byte; what the node adds is ASCII, which",
            "every character set contains. A Specific Character Set that is misspelt is put right where what is",
            "meant is certain, else left out. The patient's name in pictures is read by these terms, with all",
            "groups of a Person Name; where no font has the letters the picture says so:",
        ),
        *table(
            ("Character sets", "Defined terms"),
            [
                ("Default", "ISO_IR 6"),
                ("Without code extensions", ", ".join(plain)),
                ("With code extensions (ISO 2022)", ", ".join(extended)),
            ],
        ),
        *prose("Other characters in what the settings say of the site are written without their accents."),
    ]


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
    return [
        "# 7 Security",
        "",
        "## 7.1 Security profiles",
        "",
        *prose(
            "DICOM TLS in both directions, where the settings have certificates. User identity is not",
            "negotiated. No digital signatures, no media security. De-identification: not of what is sent, only",
            "of training sets ([export.md](export.md)).",
        ),
        *table(("", "DICOM TLS"), rows),
        "## 7.2 Association level security",
        "",
        *prose("By calling AE title and address (4.2.1.1), and by certificate. ([security.md](security.md))"),
    ]


def _audit() -> list[str]:
    """The audit messages and what triggers them (PS3.15 A.5, A.6)."""
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
    ]
    return [
        "## Audit messages",
        "",
        *prose(
            "Audit Trail Message Format Profile (PS3.15 A.5) and, where `audit.syslog_host` is set, Audit Trail",
            f"Message Transmission Profile - SYSLOG-TLS (PS3.15 A.6), MSGID {audit_syslog.MESSAGE_ID}, no",
            "structured data. Patients are named by Patient ID alone, and not at all where `audit.patient_ids`",
            "is false.",
        ),
        *table(
            ("Event ID", "Event type", "Trigger"),
            [(_coded(one), _coded(of) if of is not None else "", trigger) for one, of, trigger in rows],
        ),
    ]


def _coded(value: audit_message.EventID | audit_message.EventType) -> str:
    code = audit_message.code(value)
    return f'({code["csd-code"]}, {code["codeSystemName"]}, "{code["originalText"]}")'


def tolerance() -> list[str]:
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
    return ["## 8.7 What is tolerated", "", *table(("Peer or file", "Answer"), rows)]
