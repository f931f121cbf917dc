"""The recipe without a PACS: dcmtk's storescp receives, a shell script sends chest radiographs on to the node."""

import os
import subprocess

import pytest
from orthanc_recipe import picture
from receiving import needs
from receiving import running as listening
from working import free_port, wait_for

pytestmark = pytest.mark.external


@pytest.fixture
def script(root):
    for program in ("storescp", "storescu", "dcmsend", "dcmdump"):
        needs(program)
    return root / "deploy" / "pacs" / "dcmtk" / "route-chest.sh"


def environment(port):
    return os.environ | {"NODE_PORT": str(port), "TCP_NODELAY": "1"}


@pytest.mark.slow
def test_storescp_sends_chest_radiographs_on_when_their_study_has_ended(script, tmp_path):
    inbox, port = tmp_path / "inbox", free_port()
    inbox.mkdir()
    (chest, study), (hand, _) = picture(tmp_path, "chest"), picture(tmp_path, "hand", BodyPartExamined="HAND")
    result, _ = picture(tmp_path, "result", Manufacturer="DICOM explanation node")
    with listening(tmp_path, calling_ae_titles="ROUTER") as node:
        command = ["storescp", "--aetitle", "ROUTER", "--accept-all", "--output-directory", inbox]
        command += ["--sort-on-study-uid", "study", "--eostudy-timeout", "1"]
        command += ["--exec-sync", "--exec-on-eostudy", f"{script} {inbox}", str(port)]
        receiver = subprocess.Popen(command, env=environment(node.port))
        try:
            sent = ["storescu", "-aec", "ROUTER", "127.0.0.1", str(port), chest, hand, result]
            wait_for(lambda: subprocess.run(sent, check=False, capture_output=True).returncode == 0, 30, "storescp")
            wait_for(lambda: len([*(inbox / "done").glob("*")]) == 3, 60, "all are dealt with")
        finally:
            receiver.terminate()
            receiver.wait(20)
        assert [one.study_instance_uid for one in node.ledger.received_instances(study)] == [study]
        assert len(node.files("instances")) == 1


def test_what_could_not_be_sent_stays_and_is_tried_again(script, tmp_path):
    inbox = tmp_path / "inbox"
    folder = inbox / "study_1"
    folder.mkdir(parents=True)
    chest, _ = picture(tmp_path, "chest")
    held = chest.rename(folder / "CR.1")
    done = subprocess.run([script, inbox], env=environment(free_port()), check=False, capture_output=True)
    assert (done.returncode, held.exists()) == (1, True)
    with listening(tmp_path, calling_ae_titles="ROUTER") as node:
        done = subprocess.run([script, inbox], env=environment(node.port), check=False, capture_output=True)
        assert (done.returncode, held.exists()) == (0, False), done.stderr
        assert len(node.files("instances")) == 1
