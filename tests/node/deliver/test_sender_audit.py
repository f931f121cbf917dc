"""What the sender tells the audit, to real destinations."""

import dataclasses

from auditing import events, lines
from radiographs import encode, synthetic
from test_sender import STUDY, Node
from working import SC_STORAGE, Peer, free_port

from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_trail import Trail

BEGUN, DONE = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"


def owing(folder, port):
    """A node that owes two results of one patient."""
    made = Node(folder, ("pacs", port))
    made.sender = dataclasses.replace(made.sender, audit=Audit("sender", "EXPLAIN", Trail(folder / "audit").append))
    results = [made.result(1), made.result(2)]
    for one in results:
        ds = synthetic(
            SOPInstanceUID=one.sop_instance_uid, SOPClassUID=SC_STORAGE, StudyInstanceUID=STUDY, PatientID="P7"
        )
        one.path.write_bytes(encode(ds))
    made.owe(*results)
    return made


def test_what_is_sent_is_begun_before_and_told_after(tmp_path):
    seen = []

    def answer(_uid, _number):
        seen.append(events(tmp_path / "audit"))
        return 0

    peer = Peer(answer).start()
    made = owing(tmp_path, peer.port)
    made.deliver_all()
    peer.stop()
    made.ledger.close()
    assert seen[0] == [BEGUN], "before the first object"
    begun, done = lines(tmp_path / "audit")
    for message in (begun, done):
        study, patient = message["ParticipantObjectIdentification"]
        assert (study["ParticipantObjectID"], patient["ParticipantObjectID"]) == (STUDY, "P7")
        assert study["ParticipantObjectDescription"] == [{"SOPClass": [{"UID": SC_STORAGE, "NumberOfInstances": "2"}]}]
    source, target = done["ActiveParticipant"]
    assert (source["UserName"], target["UserID"]) == ("sender", "PACS")
    assert done["EventIdentification"]["EventActionCode"] == "R"
    assert done["EventIdentification"]["EventOutcomeIndicator"] == "0"


def test_what_is_not_delivered_is_told_with_its_reason(tmp_path):
    made = owing(tmp_path, free_port())
    made.deliver_all()
    assert events(tmp_path / "audit") == [BEGUN, DONE]
    event = lines(tmp_path / "audit")[1]["EventIdentification"]
    assert event["EventOutcomeIndicator"] == "8"
    said = "2 of 2 not transferred; the last: no association: the destination does not answer"
    assert event["EventOutcomeDescription"] == said
    made.ledger.close()


def test_one_refused_of_two_is_a_minor_failure(tmp_path):
    peer = Peer(lambda uid, _: 0xA700 if uid.endswith(".1") else 0).start()
    made = owing(tmp_path, peer.port)
    made.sender.deliver("t1-1-pacs")
    peer.stop()
    event = lines(tmp_path / "audit")[-1]["EventIdentification"]
    assert (event["EventOutcomeIndicator"], "0xA700" in event["EventOutcomeDescription"]) == ("4", True)
    made.ledger.close()


def test_a_file_that_is_gone_stops_no_audit(tmp_path):
    peer = Peer().start()
    made = owing(tmp_path, peer.port)
    for one in made.ledger.deliveries():
        one.path.unlink()
    made.sender.deliver("t1-1-pacs")
    peer.stop()
    assert events(tmp_path / "audit") == [DONE]
    made.ledger.close()
