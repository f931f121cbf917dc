"""Sections 1 to 3 and 4.1: overview, introduction, implementation model."""

from collections.abc import Mapping, Sequence

from pydicom.uid import UID
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from conformance.markdown import prose, table
from dicom_node.dicom import commitment
from dicom_node.dicom.negotiation import storage_sop_classes
from dicom_node.settings.sections import StudySettings

RADIOGRAPHS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1",
    }
)
"""What the node is there for: CR and DX for presentation; it takes and answers the others too."""


def overview(sent: Mapping[str, Sequence[str]]) -> list[str]:
    """Section 1; `sent` are the SOP Classes of results by the name of the object."""
    results = {uid: None for uids in sent.values() for uid in uids}
    rows = [
        (UID(Verification).name, "Yes", "Yes"),
        *((UID(uid).name, "No", "Yes") for uid in sorted(RADIOGRAPHS)),
        *((UID(uid).name, "Yes", "Yes") for uid in results),
        (f"The other {len(set(storage_sop_classes()) - RADIOGRAPHS - set(results))} storage SOP Classes", "No", "Yes"),
        (commitment.PUSH_MODEL.name, "Yes", "Yes"),
    ]
    web = [("Store (STOW-RS)", "Yes", "No"), ("Search for studies (QIDO-RS), as a test of the connection", "Yes", "No")]
    return [
        "# DICOM conformance statement",
        "",
        *prose(
            "Made by `python tests/docs/conformance_page.py` from the code's own tables and from objects that are",
            "really built; do not edit. The sections are those of the template that PS3.2 had as Annex A up to its",
            "edition of 2022.",
        ),
        "# 1 Conformance statement overview",
        "",
        *prose(
            "The node receives chest radiographs, explains what a classifier decides about them, and sends the",
            "explanations into the same study. It displays nothing, answers no queries, prints nothing and",
            "writes no media.",
        ),
        *table(("Network service", "User (SCU)", "Provider (SCP)"), rows),
        *table(("DICOMweb service", "User agent", "Origin server"), web),
        "# 2 Table of contents",
        "",
        *prose(
            "1 Overview. 3 Introduction. 4 Networking: 4.1 implementation model, 4.2 AE specifications (4.2.1",
            "listener, 4.2.2 sender, 4.2.3 DICOMweb user agent), 4.3 network interfaces, 4.4 configuration. 5",
            "Media interchange. 6 Character sets. 7 Security. 8 Annexes: 8.1 IOD contents, 8.2 private",
            "attributes, 8.3 coded terminology and templates, 8.4 grayscale image consistency, 8.5 extended SOP",
            "Classes, 8.6 private transfer syntaxes, 8.7 what is tolerated.",
        ),
        "# 3 Introduction",
        "",
        *prose(
            "For whoever connects the node to a PACS or to modalities ([pacs.md](pacs.md) has recipes).",
            "Conformance is not interoperability: try each connection with `dicom-node echo` and one study.",
            "Revisions: git, and CHANGELOG.md. Terms and abbreviations are those of the DICOM standard.",
            "References: NEMA PS3, DICOM; IHE Radiology AI Results ([ihe-air.md](ihe-air.md)).",
        ),
    ]


def model() -> list[str]:
    """Section 4.1."""
    study = StudySettings()
    return [
        "# 4 Networking",
        "",
        "## 4.1 Implementation model",
        "",
        "### 4.1.1 Application data flow",
        "",
        "```",
        " remote AE            LISTENER                                          SENDER              remote AE",
        " C-STORE      ──►  receive, store      ──►  assemble, decide,   ──►  send results   ──►  C-STORE or STOW-RS",
        " N-ACTION     ──►  promise a report         explain, build      ──►  ask to commit  ──►  N-ACTION",
        " N-EVENT-REPORT ──►  take a report                              ──►  report         ──►  N-EVENT-REPORT",
        " C-ECHO       ──►  answer                                            `dicom-node echo` ──►  C-ECHO, QIDO-RS",
        "```",
        "",
        "### 4.1.2 Functional definition of AEs",
        "",
        *prose(
            "LISTENER takes associations, answers C-ECHO, stores what is sent, takes requests and reports of",
            "Storage Commitment. SENDER opens associations to the destinations of the settings, sends results,",
            "asks for commitment, and reports on what peers have asked. Both are processes of their own under",
            "one AE title, that of `node.ae_title`, and share the node's ledger.",
        ),
        "### 4.1.3 Sequencing of real-world activities",
        "",
        *prose(
            f"A study is complete {study.quiet_seconds:g} s after its last object ({study.open_quiet_seconds:g}",
            f"s while an association that sent some is open; {study.max_seconds:g} s after its first in any",
            "case). It is then explained and its results are sent. An object that comes",
            "later makes another revision of the study: its report names the former one as predecessor. An",
            "object is acknowledged before and independently of all this.",
        ),
    ]
