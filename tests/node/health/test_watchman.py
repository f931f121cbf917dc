"""The loop that tells: once, by one of several hosts, after a restart too, and without the ledger."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from alarmed import Hook
from working import free_port, settings

from dicom_node.errors import OutOfResources
from dicom_node.health import watchman as watchmen
from dicom_node.health.watchman import Watchman
from dicom_node.models import look
from dicom_node.storage.ledger import Ledger

START = datetime.now(UTC)


class Site:
    """A node without any process: nearly everything is wrong with it."""

    def __init__(self, folder, url) -> None:
        (folder / "spool").mkdir()
        self.settings = settings(
            folder,
            broker={"url": f"redis://127.0.0.1:{free_port()}/0"},
            alerts={"webhooks": [url]},
            node={"spool": folder / "spool", "database": f"sqlite:///{folder}/ledger.sqlite", "port": free_port()},
        )
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.now = START

    def watchman(self, ledger=None) -> Watchman:
        return Watchman(self.settings, ledger or self.ledger, clock=lambda: self.now)

    def later(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture
def hook():
    with Hook() as made:
        yield made


@pytest.fixture
def site(tmp_path, hook):
    made = Site(tmp_path, hook.url)
    yield made
    made.close()


def told(hook):
    return [(one["name"], one["state"]) for _, _, content in hook.posts for one in json.loads(content)["alerts"]]


def names(hook):
    return {name for name, _ in told(hook)}


WRONG = {"redis", "listener", "dispatcher", "sender", "worker", "retention"}


def test_it_is_told_once_by_one_of_several_hosts_and_not_again_after_a_restart(site, hook):
    one, other = site.watchman(), site.watchman()
    one.step()
    assert told(hook) == []
    site.later(2)
    one.step()
    other.step()
    assert names(hook) >= WRONG
    assert len(hook.posts) == 1, "one message for all that is wrong"
    site.later(1)
    site.watchman().step()
    assert len(hook.posts) == 1
    for role in ("listener", "dispatcher", "sender", "worker", "retention"):
        site.ledger.beat(role, "elsewhere", 1, datetime.now(UTC), {})
    site.later(6)
    other.step()
    one.step()
    over = {name for name, state in told(hook) if state == "over"}
    assert over == {"listener", "dispatcher", "sender", "worker", "retention"}
    assert len(hook.posts) == 2
    assert "redis" in {noted.name for noted in site.ledger.noted()}


def test_what_could_not_be_told_is_told_later(site, hook):
    watchman = site.watchman()
    watchman.step()
    site.later(2)
    hook.status = 500
    watchman.step()
    assert all(noted.told_at is None for noted in site.ledger.noted())
    hook.status = 204
    site.later(1)
    watchman.step()
    assert len(hook.posts) == 2
    assert all(noted.told_at == site.now for noted in site.ledger.noted())


def test_a_ledger_that_is_away_is_told_from_memory_and_so_is_its_return(site, hook, tmp_path):
    away = Ledger(f"sqlite:///{tmp_path}/no-tables.sqlite")
    watchman = site.watchman(away)
    for _ in range(4):
        watchman.step()
        site.later(2)
    assert told(hook) == [("ledger", "firing")], "once, and nothing that only the ledger knows to have been told"
    away.create()
    watchman.step()
    site.later(6)
    watchman.step()
    assert ("ledger", "over") in told(hook)
    assert told(hook).count(("ledger", "firing")) == 1
    away.close()


def test_messages_name_no_patient_and_no_study(site, hook):
    from working import instance, study, task

    of = study(instance(1))
    site.ledger.add_instance(instance(1))
    site.ledger.mark_ready(of, [task(of, created_at=site.now - timedelta(hours=1))], site.now - timedelta(hours=1))
    watchman = site.watchman()
    watchman.step()
    site.later(2)
    watchman.step()
    assert "queue" in names(hook)
    assert not any(of.study_instance_uid.encode() in content for _, _, content in hook.posts)


def test_the_daily_look_for_drift_is_kept_and_had_once(site, monkeypatch):
    kept = []
    monkeypatch.setattr(look, "keep", lambda *_: kept.append(1))
    for _ in range(3):
        site.watchman().look_for_drift()
    site.later(24 * 60)
    site.watchman().look_for_drift()
    assert kept == [1, 1]


def test_the_role_beside_him_is_begun_again_until_the_ledger_answers(site, monkeypatch):
    monkeypatch.setattr(watchmen, "AGAIN_SECONDS", 0.01)
    stop, begun = threading.Event(), []

    def work():
        begun.append(1)
        if len(begun) < 3:
            raise OutOfResources("the ledger does not answer")
        stop.set()

    watchmen.beside(site.settings, stop, work)
    assert begun == [1, 1, 1]
