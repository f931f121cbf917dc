"""What an audit message says: the words of PS3.15 A.5 as plain values, and as the standard's XML.

A message is a dict whose keys are the names of the schema (PS3.15 A.5.1): EventIdentification, ActiveParticipant,
AuditSourceIdentification, ParticipantObjectIdentification, in that order. Texts are attributes, dicts are elements and
lists are repeated elements, as in the XML; only the value of a ParticipantObjectDetail is text here and base64 there.
"""

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from xml.etree import ElementTree as ET

from dicom_node.nouns import StudyInstanceUID

Message = dict[str, Any]

_PATIENT_ID_LENGTH: Final = 64  # of the VR LO (PS3.5 6.2); a peer may send more
_TEXT: Final = frozenset({"EventOutcomeDescription", "ParticipantObjectName", "Anonymized"})
"""Elements that hold text; every other text is an attribute."""


class EventID(StrEnum):
    """PS3.16 CID 400 Audit Event ID; values are of the scheme DCM."""

    APPLICATION_ACTIVITY = "110100"
    AUDIT_LOG_USED = "110101"
    BEGIN_TRANSFERRING_DICOM_INSTANCES = "110102"
    DICOM_INSTANCES_ACCESSED = "110103"
    DICOM_INSTANCES_TRANSFERRED = "110104"
    DICOM_STUDY_DELETED = "110105"
    EXPORT = "110106"
    SECURITY_ALERT = "110113"
    USER_AUTHENTICATION = "110114"


class EventType(StrEnum):
    """PS3.16 CID 401 Audit Event Type Code, of which CID 403 Security Alert Type Code has the same."""

    APPLICATION_START = "110120"
    APPLICATION_STOP = "110121"
    LOGIN = "110122"
    LOGOUT = "110123"
    NODE_AUTHENTICATION = "110126"
    SOFTWARE_CONFIGURATION = "110131"
    AUDIT_RECORDING_STOPPED = "110133"
    AUDIT_RECORDING_STARTED = "110134"


class Role(StrEnum):
    """PS3.16 CID 402 Audit Active Participant Role ID Code."""

    APPLICATION = "110150"
    DESTINATION_ROLE_ID = "110152"
    SOURCE_ROLE_ID = "110153"
    DESTINATION_MEDIA = "110154"


class Outcome(StrEnum):
    """EventOutcomeIndicator (PS3.15 A.5.1); of a Security Alert, how grave it is (A.5.3.11)."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


class _Other(StrEnum):
    """PS3.16 CID 404 Audit Participant Object ID Type Code, and of CID 405 Media Type Code the last."""

    STUDY_INSTANCE_UID = "110180"
    NODE_ID = "110182"
    URI = "110037"


_MEANINGS: Final[Mapping[str, str]] = {
    EventID.BEGIN_TRANSFERRING_DICOM_INSTANCES: "Begin Transferring DICOM Instances",
    EventID.DICOM_INSTANCES_ACCESSED: "DICOM Instances Accessed",
    EventID.DICOM_INSTANCES_TRANSFERRED: "DICOM Instances Transferred",
    EventID.DICOM_STUDY_DELETED: "DICOM Study Deleted",
    Role.DESTINATION_ROLE_ID: "Destination Role ID",
    Role.SOURCE_ROLE_ID: "Source Role ID",
    _Other.STUDY_INSTANCE_UID: "Study Instance UID",
    _Other.NODE_ID: "Node ID",
    _Other.URI: "URI",
}


def code(value: StrEnum) -> dict[str, str]:
    """A code of the scheme DCM with its meaning."""
    meaning = _MEANINGS.get(value) or value.name.replace("_", " ").title()
    return {"csd-code": value.value, "codeSystemName": "DCM", "originalText": meaning}


def legible(text: object, longest: int = 1000) -> str:
    """A text as it may stand in JSON and in XML 1.0, which has no control characters; not longer than that."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:longest]).strip()


def message(
    event: EventID,
    action: str,
    *,
    when: datetime,
    source: str,
    participants: Iterable[Mapping[str, Any]],
    objects: Iterable[Mapping[str, Any]] = (),
    type_code: EventType | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    description: str = "",
) -> Message:
    """An audit message.

    Args:
        event: what happened.
        action: C create, R read, U update, D delete or E execute.
        when: the time, aware.
        source: who audits (AuditSourceID).
        participants: from `process`, `person`, `peer` and `media`.
        objects: from `study`, `patient`, `resource` and `node`.
        type_code: what of the event.
        outcome: how it ended.
        description: why it did not end well.
    """
    identification: dict[str, Any] = {
        "EventActionCode": action,
        "EventDateTime": when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "EventOutcomeIndicator": outcome.value,
        "EventID": code(event),
    }
    if type_code is not None:
        identification["EventTypeCode"] = [code(type_code)]
    if description:
        identification["EventOutcomeDescription"] = legible(description)
    made: Message = {
        "EventIdentification": identification,
        "ActiveParticipant": [dict(one) for one in participants],
        # 4: application server process tier in a multi-tier system (PS3.15 A.5.1.2.1)
        "AuditSourceIdentification": {"AuditSourceID": legible(source), "AuditSourceTypeCode": [{"csd-code": "4"}]},
    }
    if found := [dict(one) for one in objects]:
        made["ParticipantObjectIdentification"] = found
    return made


def process(pid: int, ae_title: str, name: str, *, roles: Iterable[Role] = (), requestor: bool = False) -> Message:
    """A process of this node: its number, and in UserName what it does (PS3.15 A.5.2.1, A.5.2.2)."""
    return _participant(str(pid), requestor=requestor, roles=roles, alternative=_titles(ae_title), name=name)


def person(user: str, *, roles: Iterable[Role] = (), address: str = "") -> Message:
    """A person, as user@host; of one who sits elsewhere, the address (type 2: IP address)."""
    return _participant(user, requestor=True, roles=roles, access=(address, "2"))


def peer(ae_title: str, address: str, *, roles: Iterable[Role], requestor: bool) -> Message:
    """An Application Entity of another node, at its host name or address."""
    numeric = address.replace(".", "").isdigit() or ":" in address
    access = (address, "2" if numeric else "1")
    return _participant(ae_title, requestor=requestor, roles=roles, alternative=_titles(ae_title), access=access)


def media(uri: str) -> Message:
    """A folder that data are written to."""
    made = _participant(uri, requestor=False, roles=[Role.DESTINATION_MEDIA])
    return made | {"MediaIdentifier": {"MediaType": code(_Other.URI)}}


def _participant(
    user: str,
    *,
    requestor: bool,
    roles: Iterable[Role],
    alternative: str = "",
    name: str = "",
    access: tuple[str, str] = ("", ""),
) -> Message:
    made: Message = {"UserID": legible(user)}
    if alternative:
        made["AlternativeUserID"] = legible(alternative)
    if name:
        made["UserName"] = legible(name)
    made["UserIsRequestor"] = "true" if requestor else "false"
    if access[0]:
        made |= {"NetworkAccessPointID": legible(access[0]), "NetworkAccessPointTypeCode": access[1]}
    if coded := [code(role) for role in roles]:
        made["RoleIDCode"] = coded
    return made


def _titles(ae_title: str) -> str:
    return f"AETITLES={ae_title}"


def study(uid: StudyInstanceUID | str, sop_classes: Mapping[str, int], *, anonymized: bool | None = None) -> Message:
    """A study and how many instances of which SOP Class of it; it has no name, which the schema wants as an element."""
    described: dict[str, Any] = {
        "SOPClass": [{"UID": legible(one), "NumberOfInstances": str(count)} for one, count in sop_classes.items()]
    }
    if anonymized is not None:
        described["Anonymized"] = "true" if anonymized else "false"
    return _object(uid, "2", "3", code(_Other.STUDY_INSTANCE_UID)) | {"ParticipantObjectDescription": [described]}


def patient(patient_id: str) -> Message:
    """A patient by Patient ID; the name, which is optional, stays away."""
    number = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
    return _object(patient_id[:_PATIENT_ID_LENGTH], "1", "1", number)


def resource(uri: str, name: str = "", details: Mapping[str, str] | None = None) -> Message:
    """A file, folder or other resource that security is about."""
    kind = {"csd-code": "12", "codeSystemName": "RFC-3881", "originalText": "URI"}
    return _object(uri, "2", "13", kind, name, details)


def node(address: str, details: Mapping[str, str]) -> Message:
    """A node that an alert is about."""
    return _object(address, "2", "13", code(_Other.NODE_ID), "", details)


def _object(
    identifier: str,
    type_code: str,
    role: str,
    kind: Mapping[str, str],
    name: str = "",
    details: Mapping[str, str] | None = None,
) -> Message:
    made: Message = {
        "ParticipantObjectID": legible(identifier),
        "ParticipantObjectTypeCode": type_code,
        "ParticipantObjectTypeCodeRole": role,
        "ParticipantObjectIDTypeCode": dict(kind),
        "ParticipantObjectName": legible(name),
    }
    if details:
        made["ParticipantObjectDetail"] = [{"type": key, "value": legible(text)} for key, text in details.items()]
    return made


def to_xml(made: Message) -> bytes:
    """The message as an XML document in UTF-8, of the grammar of PS3.15 A.5.1."""
    root = ET.Element("AuditMessage")
    _add(root, made)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode").encode()


def _add(element: ET.Element, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, str):
            if name in _TEXT:
                ET.SubElement(element, name).text = value
            else:
                encoded = element.tag == "ParticipantObjectDetail" and name == "value"
                element.set(name, base64.b64encode(value.encode()).decode() if encoded else value)
        else:
            for one in value if isinstance(value, list) else [value]:
                _add(ET.SubElement(element, name), one)
