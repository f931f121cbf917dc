"""A sender is killed between a request for commitment and its report; the listener goes on from the ledger."""

import json
import signal
from pathlib import Path

import pytest
from committing import CommittingPacs
from receiving import CR, radiograph, running
from working import T0, delivery, instance, python, study, task

from dicom_node.deliver.sender import Sender
from dicom_node.nouns import StudyState
from dicom_node.settings.sections import Settings

PROCESSES = Path(__file__).with_name("processes.py")


@pytest.fixture
def pacs():
    started = CommittingPacs("never")
    started.classes.append(CR)
    started.start()
    yield started
    started.stop()


def test_a_sender_killed_between_request_and_report_loses_nothing(tmp_path, pacs):
    there = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commitment": True}
    node = {"spool": str(tmp_path / "spool"), "database": f"sqlite:///{tmp_path}/ledger.sqlite"}
    written = {"node": node, "destinations": [there], "delivery": {"commitment_wait": 0}}
    (tmp_path / "settings.json").write_text(json.dumps(written))
    radiograph().save_as(tmp_path / "1.dcm", enforce_file_format=True)
    result = delivery(path=tmp_path / "1.dcm", sop_instance_uid=radiograph().SOPInstanceUID, sop_class_uid=CR)
    with running(tmp_path) as here:
        here.ledger.add_instance(instance(1))
        here.ledger.mark_ready(study(instance(1)), [task(study(instance(1)))], T0)
        here.ledger.lease("t1", "w", T0, 60)
        here.ledger.complete("t1", "w", deliveries=[result], state=StudyState.EXPLAINED, reason=None, now=T0)
        assert Sender(settings=Settings.model_validate(written), ledger=here.ledger).deliver("t1-1-pacs") == 1
        with (tmp_path / "log").open("wb") as log:
            killed = python(str(PROCESSES), "committer", str(tmp_path), "asked", stdout=log, stderr=log)
            assert killed.wait(60) == -signal.SIGKILL
        (request,) = pacs.requests
        assert here.ledger.commitment_counts() == {"asking": 1}
        assert pacs.call(here.port, pacs.information(request)) == [0x0000]
        assert [one.state.value for one in here.ledger.deliveries()] == ["committed"]
