"""What the listener tells the audit, over real associations."""

import pytest
from auditing import events, lines
from receiving import CR, STUDY, radiograph, running, wait_until
from working import wait_for

from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_trail import Trail
from dicom_node.watch.audit_verify import verify


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def node(tmp_path, folder):
    with running(tmp_path, audit=Audit("listener", "EXPLAIN", Trail(folder).append)) as made:
        yield made


BEGUN, DONE = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"


def of(folder, event):
    return [one for one in lines(folder) if one["EventIdentification"]["EventID"]["originalText"] == event]


def ids(message):
    return [one["ParticipantObjectID"] for one in message.get("ParticipantObjectIdentification", [])]


def test_an_association_is_begun_with_its_first_object_and_told_at_its_end(node, folder):
    with node.associated() as association:
        assert association.send_c_store(radiograph(1)).Status == 0
        assert events(folder) == [BEGUN], "on the disk before the peer has its answer"
        assert association.send_c_store(radiograph(2)).Status == 0
        other = {"StudyInstanceUID": f"{STUDY}.5", "PatientID": "OTHER"}
        assert association.send_c_store(radiograph(3, **other)).Status == 0
    wait_for(lambda: len(events(folder)) == 4, what="the end")
    first, second = of(folder, DONE)
    assert (ids(first), ids(second)) == ([STUDY, "CANARY-ID"], [f"{STUDY}.5", "OTHER"])
    described = first["ParticipantObjectIdentification"][0]["ParticipantObjectDescription"]
    assert described == [{"SOPClass": [{"UID": CR, "NumberOfInstances": "2"}]}]
    assert first["EventIdentification"]["EventActionCode"] == "C"
    source, ours = first["ActiveParticipant"]
    assert (source["UserID"], source["NetworkAccessPointID"]) == ("MODALITY", "127.0.0.1")
    assert ours["RoleIDCode"][0]["originalText"] == "Destination Role ID"
    assert verify(folder).fault == ""


def test_duplicates_and_refused_objects_are_told_as_such(node, folder):
    for _ in range(2):
        node.store(radiograph(1))
    wait_for(lambda: len(of(folder, DONE)) == 2)
    assert [one["EventIdentification"]["EventActionCode"] for one in of(folder, DONE)] == ["C", "R"]
    node.store(radiograph(1, PatientName="Changed"), radiograph(2))
    wait_for(lambda: len(of(folder, DONE)) == 3)
    event = of(folder, DONE)[2]["EventIdentification"]
    assert event["EventOutcomeIndicator"] == "4"
    assert event["EventOutcomeDescription"].startswith("1 of 2 not transferred; the last: SOP Instance UID is already")
    node.store(radiograph(3, StudyInstanceUID=None))
    wait_for(lambda: len(of(folder, DONE)) == 4)
    last = of(folder, DONE)[3]
    assert (last["EventIdentification"]["EventOutcomeIndicator"], ids(last)) == ("8", [])


def test_a_transfer_that_breaks_off_is_told_too(node, folder):
    association = node.entity().associate("127.0.0.1", node.port, ae_title="EXPLAIN")
    assert association.send_c_store(radiograph(1)).Status == 0
    association.abort()
    wait_for(lambda: events(folder) == [BEGUN, DONE])


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "EXPLAIN"), ("MODALITY", "WRONG")])
def test_an_unknown_ae_title_is_a_security_alert(node, folder, title, called):
    association = node.entity(title).associate("127.0.0.1", node.port, ae_title=called)
    assert association.is_rejected
    wait_until(lambda: folder.exists() and lines(folder))
    (alert,) = lines(folder)
    assert events(folder) == ["Security Alert: Node Authentication"]
    assert alert["EventIdentification"]["EventOutcomeIndicator"] == "4"
    assert alert["ActiveParticipant"][1]["UserID"] == title
    (subject,) = alert["ParticipantObjectIdentification"]
    assert (subject["ParticipantObjectID"], subject["ParticipantObjectIDTypeCode"]["csd-code"]) == (
        "127.0.0.1",
        "110182",
    )
    assert "AE title" in subject["ParticipantObjectDetail"][0]["value"]


def test_a_full_node_is_no_security_alert(tmp_path, folder):
    audit = Audit("listener", "EXPLAIN", Trail(folder).append)
    with running(tmp_path, audit=audit, max_associations=1) as node, node.associated():
        refused = node.entity().associate("127.0.0.1", node.port, ae_title="EXPLAIN")
        assert refused.is_rejected
    assert lines(folder) == []


def test_an_audit_that_cannot_be_written_costs_no_object(tmp_path):
    def fail(_):
        raise OSError(28, "No space left on device")

    from dicom_node.watch.audit_recorder import Recorder

    trail = Trail(tmp_path / "audit")
    trail.append = fail
    audit = Audit("listener", "EXPLAIN", lambda messages: recorder.write(messages))  # noqa: PLW0108 - made below
    recorder = Recorder(trail, audit.gap, audit._clock)
    with running(tmp_path, audit=audit) as node:
        assert [answer.Status for answer in node.store(radiograph(1), radiograph(2))] == [0, 0]
        assert node.ledger.find_instance(f"{STUDY}.1.2")
