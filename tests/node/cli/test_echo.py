"""`dicom-node echo` and what `dicom-node status` says of destinations."""

import json

import pytest
from origin_server import OriginServer, reply
from typer.testing import CliRunner
from working import STUDY, Peer, at, delivery, free_port, instance, study, task

from dicom_node.cli import app
from dicom_node.nouns import StudyState
from dicom_node.storage.ledger import Ledger


def run(*arguments, expect=0):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done


@pytest.fixture
def pacs():
    started = Peer().start()
    yield started
    started.stop()


def config(folder, *destinations) -> str:
    text = f'[node]\ndatabase = "sqlite:///{folder}/ledger.sqlite"\nspool = "{folder}/spool"\n[delivery]\ntimeout = 2\n'
    for one in destinations:
        text += "[[destinations]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in one.items())
    (folder / "node.toml").write_text(text)
    return str(folder / "node.toml")


def dicom(name, port, ae_title="PACS"):
    return {"name": name, "ae_title": ae_title, "host": "127.0.0.1", "port": port}


def test_every_destination_is_tried_with_a_line_each(pacs, tmp_path):
    with OriginServer() as web:
        file = config(tmp_path, dicom("pacs", pacs.port), {"name": "archive", "url": web.url})
        lines = run("echo", "--config", file).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("pacs: ok (DICOM, ")
    assert lines[1].startswith("archive: ok (DICOMweb, ")
    assert not (tmp_path / "ledger.sqlite").exists(), "it needs no ledger"


def test_one_that_fails_says_what_to_do_and_the_others_are_tried_all_the_same(pacs, tmp_path):
    with OriginServer(lambda *_: reply(404)) as web:
        file = config(
            tmp_path,
            dicom("nobody", free_port()),
            dicom("misnamed", pacs.port, "WRONG"),
            {"name": "web", "url": web.url},
            dicom("pacs", pacs.port),
        )
        lines = run("echo", "--config", file, expect=1).stdout.splitlines()
        assert [line.partition(" (")[0] for line in lines] == [
            "nobody: FAILED",
            "misnamed: FAILED",
            "web: FAILED",
            "pacs: ok",
        ]
        assert "see host and port" in lines[0]
        assert "Called AE title not recognised: put the PACS's own AE title into ae_title" in lines[1]
        assert "there is no DICOMweb service: see url" in lines[2]
        found = json.loads(run("echo", "--config", file, "--json", expect=1).stdout)
    assert [(one["destination"], one["reached"]) for one in found] == [
        ("nobody", False),
        ("misnamed", False),
        ("web", False),
        ("pacs", True),
    ]
    assert run("echo", "pacs", "--config", file).stdout.startswith("pacs: ok")


def test_a_destination_that_there_is_not(tmp_path):
    file = config(tmp_path, dicom("pacs", 1))
    assert "there is no destination 'psca'" in run("echo", "psca", "--config", file, expect=2).stderr
    assert "there is none; add" in run("echo", "--config", config(tmp_path), expect=2).stderr


def test_status_shows_the_queues_of_destinations(tmp_path):
    file = config(tmp_path, dicom("pacs", 1), dicom("archive", 1), dicom("slow", 1))
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.create()
    ledger.add_instance(instance(1))
    revision = study(instance(1))
    ledger.mark_ready(revision, [task(revision)], at(20))
    ledger.lease("t1", "w", at(30), 60)
    owed = [delivery(number=n, destination=name) for n, name in ((1, "pacs"), (2, "pacs"), (3, "slow"), (4, "gone"))]
    assert ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=at(40))
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60, 1)
    ledger.delivery_dead("t1-1-pacs", "s", "refused", at(51))
    for number in range(3):
        ledger.destination_unreachable("pacs", at(60 + number), at(90), "no association")
    ledger.destination_unreachable("slow", at(60), at(90), "no answer to C-STORE")
    ledger.close()
    queues = json.loads(run("status", "--config", file, "--json").stdout)["queues"]
    assert [(one["destination"], one["state"], one["waiting"], one["dead"]) for one in queues] == [
        ("pacs", "paused", 1, 1),
        ("archive", "open", 0, 0),
        ("slow", "troubled", 1, 0),
        ("gone", "unknown", 1, 0),
    ]
    assert queues[0]["reason"] == "no association"
    assert queues[0]["since"] == "2026-03-01 12:01:00+00:00"
    assert queues[1]["since"] is None
    text = run("status", "--config", file).stdout
    assert all(word in text for word in ("Destinations", "paused", "troubled", "unknown"))
    assert STUDY in json.dumps(json.loads(run("status", "--config", file, "--json").stdout))
