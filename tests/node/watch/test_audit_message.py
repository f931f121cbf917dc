"""Audit messages are what PS3.15 A.5 asks for: its grammar, its codes, what each event must have."""

import base64
import json

import pytest
from auditing import CR, NOW, PEER, STUDY, all_messages, grammar, said
from lxml import etree
from pydicom.sr import _cid_dict, _concepts_dict

from dicom_node.watch import audit_message as words
from dicom_node.watch.audit import ALERTS_PER_MINUTE, MINUTE, STUDIES_PER_MESSAGE, Audit
from dicom_node.watch.audit_message import EventID, EventType, Outcome, Role
from dicom_node.watch.audit_syslog import framed, syslog
from dicom_node.watch.audit_transfers import MOST_STUDIES, Transferred

GROUPS = [(400, EventID), (401, EventType), (403, EventType), (402, Role), (404, words._Other), (405, words._Other)]


def xml(message):
    return etree.fromstring(words.to_xml(message))


def texts(message):
    return json.dumps(message)


def test_every_message_is_of_the_grammar_of_the_standard():
    allowed = grammar()
    made = all_messages()
    assert len({said(one) for one in made}) == 13
    for message in made:
        document = etree.fromstring(words.to_xml(message))
        assert allowed.validate(document), (said(message), allowed.error_log)


def test_the_grammar_refuses_what_is_wrong():
    allowed = grammar()
    good = words.to_xml(all_messages()[0])
    for old, new in [
        (b'EventActionCode="E"', b'EventActionCode="X"'),
        (b"csd-code", b"code"),
        (b"<ActiveParticipant", b"<ParticipantObjectIdentification /><ActiveParticipant"),
        (b'EventDateTime="2026-03-01T', b'EventDateTime="2026-03-01 '),
    ]:
        assert old in good
        assert not allowed.validate(etree.fromstring(good.replace(old, new)))


@pytest.mark.parametrize(("group", "kind"), GROUPS, ids=lambda one: getattr(one, "__name__", one))
def test_codes_and_meanings_are_those_of_the_context_groups(group, kind):
    concepts = _concepts_dict.concepts["DCM"]
    standard = {
        value: meaning[0] for name in _cid_dict.cid_concepts[group]["DCM"] for value, meaning in concepts[name].items()
    }
    ours = [one for one in kind if kind is not words._Other or (one is words._Other.URI) == (group == 405)]
    assert ours
    for one in ours:
        assert words.code(one) == {"csd-code": one.value, "codeSystemName": "DCM", "originalText": standard[one.value]}


def test_a_transfer_names_study_and_patient_and_no_more_of_them():
    made = [one for one in all_messages() if "Transfer" in said(one)]
    assert [said(one) for one in made] == ["Begin Transferring DICOM Instances", "DICOM Instances Transferred"] * 2
    begun, received = made[0], made[1]
    study, patient = received["ParticipantObjectIdentification"]
    assert study["ParticipantObjectID"] == STUDY
    assert study["ParticipantObjectDescription"] == [{"SOPClass": [{"UID": CR, "NumberOfInstances": "1"}]}]
    assert (patient["ParticipantObjectID"], patient["ParticipantObjectName"]) == ("P1", "")
    assert begun["EventIdentification"]["EventActionCode"] == "E"
    event = received["EventIdentification"]
    assert (event["EventActionCode"], event["EventOutcomeIndicator"]) == ("C", "4")
    assert event["EventOutcomeDescription"] == "1 of 2 not transferred; the last: Data set cannot be read"
    source, ours = received["ActiveParticipant"]
    assert (source["UserID"], source["AlternativeUserID"]) == ("MODALITY", "AETITLES=MODALITY")
    assert (source["NetworkAccessPointID"], source["NetworkAccessPointTypeCode"]) == ("10.1.2.3", "2")
    assert (ours["AlternativeUserID"], ours["UserName"]) == ("AETITLES=EXPLAIN", "listener")
    assert made[3]["EventIdentification"]["EventActionCode"] == "R", "nobody knows what the PACS held before"
    assert made[3]["ActiveParticipant"][1]["NetworkAccessPointTypeCode"] == "1"


def test_without_patient_ids_no_message_has_one():
    assert "P1" in texts(all_messages())
    assert "P1" not in texts(all_messages(patient_ids=False))


def test_what_no_xml_may_hold_does_not_get_into_a_message():
    made = []
    audit = Audit("listener", "EXPLAIN", made.extend)
    audit.receiving(PEER).done(STUDY, 'A<&">\x1b\x00\ud800Ä\n', CR)
    assert grammar().validate(etree.fromstring(words.to_xml(made[0])))
    patient = xml(made[0]).findall("ParticipantObjectIdentification")[1]
    assert patient.get("ParticipantObjectID") == 'A<&">???Ä?'


def test_details_are_base64_in_xml_and_legible_in_json():
    message = next(one for one in all_messages() if "Node Authentication" in said(one))
    assert "calling AE title not recognised" in texts(message)
    detail = xml(message).find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail.get("type") == "Alert Description"
    assert base64.b64decode(detail.get("value")) == b"calling AE title not recognised"


def test_duplicates_alone_are_read_and_not_created():
    made = []
    transfers = Audit("listener", "EXPLAIN", made.extend).receiving(PEER)
    transfers.done(STUDY, "P1", CR, known=True)
    transfers.end()
    assert [one["EventIdentification"]["EventActionCode"] for one in made] == ["E", "R"]
    transfers.failed("", "", CR, "Data set cannot be read")
    event = made[2]["EventIdentification"]
    assert (said(made[2]), event["EventOutcomeIndicator"]) == ("DICOM Instances Transferred", "8")
    assert "ParticipantObjectIdentification" not in made[2]


def test_two_patients_under_one_study_uid_are_told_apart():
    made = []
    transfers = Audit("listener", "EXPLAIN", made.extend).receiving(PEER)
    for patient in ("P1", "P2", "P1"):
        transfers.done(STUDY, patient, CR)
    transfers.end()
    told = [one["ParticipantObjectIdentification"] for one in made[2:]]
    assert [(study["ParticipantObjectID"], patient["ParticipantObjectID"]) for study, patient in told] == [
        (STUDY, "P1"),
        (STUDY, "P2"),
    ]


def test_an_association_that_stays_open_keeps_few_studies_in_memory():
    made = []
    transfers = Audit("listener", "EXPLAIN", made.extend).receiving(PEER)
    for number in range(3 * MOST_STUDIES):
        transfers.done(f"{STUDY}.{number}", "P1", CR)
        assert len(transfers._studies) <= MOST_STUDIES
    transfers.end()
    ended = [one for one in made if said(one) == "DICOM Instances Transferred"]
    assert len(ended) == 3 * MOST_STUDIES


def test_a_host_that_comes_again_and_again_fills_no_disk(monkeypatch):
    made, time = [], [0.0]
    monkeypatch.setattr("dicom_node.watch.audit.time.monotonic", lambda: time[0])
    audit = Audit("listener", "EXPLAIN", made.extend)
    for _ in range(10 * ALERTS_PER_MINUTE):
        audit.node_rejected(PEER, "unknown")
    assert len(made) == ALERTS_PER_MINUTE
    time[0] = MINUTE
    audit.node_rejected(PEER, "unknown")
    assert len(made) == ALERTS_PER_MINUTE + 1
    assert f"{9 * ALERTS_PER_MINUTE} more of this host" in texts(made[-1])


def test_a_large_export_is_several_messages_that_a_repository_must_take():
    made = []
    every = [
        Transferred(study=f"1.2.{10**55 + n}", patient_id="P" * 60 + str(n), sop_classes={CR: 2}) for n in range(60)
    ]
    from pathlib import Path

    Audit("export", "EXPLAIN", made.extend).exported(Path("/srv/out"), every)
    assert len(made) == -(-60 // STUDIES_PER_MESSAGE)
    assert max(len(syslog(one, "host")) for one in made) < 32768
    assert '"Anonymized": "true"' in texts(made[0])


def test_a_syslog_message_is_framed_and_headed_as_the_profile_says():
    message = syslog(all_messages()[0], "node1")
    head, _, text = message.partition(b"\xef\xbb\xbf")
    fields = head.decode().split(" ")
    assert fields[:4] == ["<85>1", "2026-03-01T12:00:00.123Z", "node1", "dicom-node"]
    assert fields[5:] == ["DICOM+RFC3881", "-", ""]
    assert etree.fromstring(text).tag == "AuditMessage"
    assert framed(message) == str(len(message)).encode() + b" " + message
    failed = next(one for one in all_messages() if one["EventIdentification"]["EventOutcomeIndicator"] == "12")
    assert syslog(failed, "node1").startswith(b"<84>1 ")


def test_times_are_stated_with_their_zone():
    assert all_messages()[0]["EventIdentification"]["EventDateTime"] == "2026-03-01T12:00:00.123Z"
    assert NOW.tzinfo is not None
    assert Outcome.SUCCESS == "0"
