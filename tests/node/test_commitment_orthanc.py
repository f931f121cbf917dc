"""Storage Commitment with a PACS that is not ours: Orthanc commits to our results, and asks us about what it sent."""

import json
import threading
import urllib.request
from io import BytesIO

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from receiving import CR, STUDY, radiograph, running, wait_until
from working import STUDY as RESULTS
from working import T0, delivery, instance, study, task

from dicom_node.deliver.commitment import Committer
from dicom_node.deliver.sender import Sender
from dicom_node.demo.servers import Orthanc
from dicom_node.nouns import StudyState
from dicom_node.settings.sections import Settings

pytestmark = pytest.mark.external


class CommittingOrthanc(Orthanc):
    """Orthanc that knows where the node listens."""

    node_port = 0

    def _configuration(self):
        known = {"AET": "EXPLAIN", "Host": "127.0.0.1", "Port": self.node_port, "AllowStorageCommitment": True}
        return super()._configuration() | {"DicomModalities": {"node": known}}

    def call(self, method, path, content=None, kind="application/json"):
        url, headers = f"http://127.0.0.1:{self.http_port}{path}", {"Content-Type": kind}
        asked = urllib.request.Request(url, data=content, headers=headers, method=method)
        with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310 - on loopback
            return json.loads(answer.read())

    def ask(self, what, content):
        return self.call("POST", f"/modalities/node{what}", json.dumps(content).encode())

    def lose(self, ending):
        """Delete the instance whose SOP Instance UID ends so."""
        (lost,) = [
            one["ID"]
            for one in json.loads(self.get("/instances?expand"))
            if one["MainDicomTags"]["SOPInstanceUID"].endswith(ending)
        ]
        self.call("DELETE", f"/instances/{lost}")


@pytest.fixture
def node(tmp_path):
    with running(tmp_path, calling_ae_titles="ORTHANC") as one:
        yield one


@pytest.fixture
def orthanc(node, tmp_path):
    if Orthanc.executable() is None:
        pytest.skip("needs Orthanc")
    server = CommittingOrthanc(tmp_path / "orthanc", {})
    server.node_port = node.port
    server.start()
    yield server
    server.stop()


@pytest.fixture
def committer(node, orthanc):
    """A sender's side of the node, beside its listener; Orthanc is a destination that is to commit."""
    there = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port, "commitment": True}
    return Committer(
        settings=Settings.model_validate(
            {"node": {"calling_ae_titles": ["ORTHANC"]}, "destinations": [there], "delivery": {"commitment_wait": 1}}
        ),
        ledger=node.ledger,
    )


def test_orthanc_commits_to_what_it_was_sent_over_an_association_that_it_opens(node, orthanc, committer, tmp_path):
    node.ledger.add_instance(instance(1))
    revision = study(instance(1))
    node.ledger.mark_ready(revision, [task(revision)], T0)
    node.ledger.lease("t1", "w", T0, 60)
    owed = []
    for number in (1, 2):
        ds = radiograph(number)
        ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        named = {"sop_instance_uid": ds.SOPInstanceUID, "sop_class_uid": ds.SOPClassUID}
        owed.append(delivery("t1", number, path=tmp_path / f"{number}.dcm", **named))
    node.ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=T0)
    assert Sender(settings=committer.settings, ledger=node.ledger).deliver("t1-1-pacs") == 2
    orthanc.lose(".2")
    assert committer.ask("pacs")
    wait_until(lambda: {one.state.value for one in node.ledger.deliveries()} == {"committed", "pending"}, 20)
    (again,) = [one for one in node.ledger.deliveries() if one.state.value == "pending"]
    assert again.sop_instance_uid.endswith(".2")
    assert "does not have it" in again.last_error
    assert node.ledger.timeline(RESULTS).delivered_at is None
    with node.ledger.in_one_transaction() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at")
    assert Sender(settings=committer.settings, ledger=node.ledger).deliver(again.delivery_id) == 1
    assert committer.ask("pacs")
    wait_until(lambda: {one.state.value for one in node.ledger.deliveries()} == {"committed"}, 20)


def test_orthanc_is_told_whether_what_it_sent_is_safe(node, orthanc, committer):
    sent = []
    for number in (1, 2):
        file = BytesIO()
        radiograph(number, transfer_syntax=ExplicitVRLittleEndian).save_as(file, enforce_file_format=True)
        sent.append(orthanc.call("POST", "/instances", file.getvalue(), "application/dicom")["ID"])
    both = [{"SOPClassUID": CR, "SOPInstanceUID": f"{STUDY}.1.{number}"} for number in (1, 2)]
    first = orthanc.ask("/store", {"Resources": [sent[0]], "StorageCommitment": True})
    second = orthanc.ask("/storage-commitment", {"DicomInstances": both})
    stop = threading.Event()
    loop = threading.Thread(target=committer.run, args=(stop,), daemon=True)
    loop.start()
    try:

        def report(transaction):
            return json.loads(orthanc.get(f"/storage-commitment/{transaction}"))

        wait_until(lambda: report(first["StorageCommitmentTransactionUID"])["Status"] != "Pending", 30)
        wait_until(lambda: report(second["ID"])["Status"] != "Pending", 30)
        assert report(first["StorageCommitmentTransactionUID"])["Status"] == "Success"
        told = report(second["ID"])
        assert told["Status"] == "Failure"
        assert [one["SOPInstanceUID"] for one in told["Success"]] == [f"{STUDY}.1.1"]
        assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [(f"{STUDY}.1.2", 0x0112)]
        wait_until(lambda: node.ledger.report_counts() == {"reported": 2})
    finally:
        stop.set()
        loop.join()
