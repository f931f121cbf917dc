"""Processes: a sender is killed between a request for commitment and its report; one works without any broker."""

import json
import signal
from pathlib import Path

import pytest
from committing import CommittingPacs
from receiving import CR, radiograph, running, wait_until
from working import T0, delivery, instance, python, study, task

from dicom_node.deliver.sender import Sender
from dicom_node.nouns import StudyState
from dicom_node.settings.sections import Settings

pytestmark = pytest.mark.slow

PROCESSES = Path(__file__).with_name("processes.py")


@pytest.fixture
def pacs():
    started = CommittingPacs("never")
    started.classes.append(CR)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def sent(tmp_path, pacs):
    """A node whose one result was sent and is to be committed; settings.json and node.toml are its settings."""
    there = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commitment": True}
    node = {"spool": f"{tmp_path}/spool", "database": f"sqlite:///{tmp_path}/ledger.sqlite", "low_water_mb": 0}
    written = {"node": node, "destinations": [there], "delivery": {"commitment_wait": 0}}
    (tmp_path / "settings.json").write_text(json.dumps(written))
    (tmp_path / "node.toml").write_text(
        f'[node]\nspool = "{node["spool"]}"\ndatabase = "{node["database"]}"\ncalling_ae_titles = ["PACS"]\n'
        f'[broker]\nurl = "redis+socket://{tmp_path}/nobody"\n'
        f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
        "commitment = true\n"
    )
    radiograph().save_as(tmp_path / "1.dcm", enforce_file_format=True)
    result = delivery(path=tmp_path / "1.dcm", sop_instance_uid=radiograph().SOPInstanceUID, sop_class_uid=CR)
    with running(tmp_path) as here:
        here.ledger.add_instance(instance(1))
        here.ledger.mark_ready(study(instance(1)), [task(study(instance(1)))], T0)
        here.ledger.lease("t1", "w", T0, 60)
        here.ledger.complete("t1", "w", deliveries=[result], state=StudyState.EXPLAINED, reason=None, now=T0)
        assert Sender(settings=Settings.model_validate(written), ledger=here.ledger).deliver("t1-1-pacs") == 1
        yield here


def states(node):
    return [one.state.value for one in node.ledger.deliveries()]


def test_a_sender_killed_between_request_and_report_loses_nothing(sent, tmp_path, pacs):
    with (tmp_path / "log").open("wb") as log:
        killed = python(str(PROCESSES), "committer", str(tmp_path), "asked", stdout=log, stderr=log)
        assert killed.wait(60) == -signal.SIGKILL
    (request,) = pacs.requests
    assert sent.ledger.commitment_counts() == {"asking": 1}
    assert pacs.call(sent.port, pacs.information(request)) == [0x0000]
    assert states(sent) == ["committed"]


def test_the_sender_s_process_asks_and_needs_no_broker_for_it(sent, tmp_path, pacs):
    pacs.when = "after"
    with (tmp_path / "log").open("wb") as log:
        command = ("-m", "dicom_node", "serve", "--only", "sender", "--config", str(tmp_path / "node.toml"))
        sender = python(*command, stdout=log, stderr=log)
    try:
        wait_until(lambda: states(sent) == ["committed"], 60)
    finally:
        sender.kill()
        sender.wait()
