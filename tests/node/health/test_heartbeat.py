import pytest
from structlog.testing import capture_logs
from working import wait_for

from dicom_node.health import heartbeat
from dicom_node.storage.ledger import Ledger


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(heartbeat, "_detail", {})


def test_a_role_is_seen_while_it_runs_and_not_waited_for_when_it_has_ended(ledger, url):
    with heartbeat.beating(Ledger(url), "worker", every=0.05):
        wait_for(ledger.heartbeats)
        (first,) = ledger.heartbeats()
        assert (first.role, first.host, first.detail) == ("worker", heartbeat.host(), {})
        heartbeat.tell(device="cpu", model="m 1")
        wait_for(lambda: ledger.heartbeats()[0].detail == {"device": "cpu", "model": "m 1"})
        wait_for(lambda: ledger.heartbeats()[0].seen_at > first.seen_at)
    assert ledger.heartbeats() == []


def test_what_a_process_says_of_itself_is_seen_at_once(ledger, url):
    with heartbeat.beating(Ledger(url), "worker", every=3600):
        wait_for(ledger.heartbeats)
        heartbeat.tell(device="cuda:0")
        wait_for(lambda: ledger.heartbeats()[0].detail == {"device": "cuda:0"})
    assert ledger.heartbeats() == []


def test_a_ledger_that_is_away_is_told_once_and_tried_again(tmp_path):
    file = tmp_path / "ledger.sqlite"
    file.mkdir()  # in the place of the database
    with capture_logs() as lines, heartbeat.beating(Ledger(f"sqlite:///{file}"), "sender", every=0.02):
        wait_for(lambda: lines)
        file.rmdir()
        seen = Ledger(f"sqlite:///{file}")
        seen.create()
        wait_for(seen.heartbeats)
    seen.close()
    assert [one["event"] for one in lines] == ["no heartbeat, will go on trying"]
