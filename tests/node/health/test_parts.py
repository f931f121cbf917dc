"""What figures mean: which part is bad, which deserves a look, and that every such part says what to do."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from working import T0, at

from dicom_node.health.asking import Trouble
from dicom_node.health.checks import Certificate, Room
from dicom_node.health.figures import Figures, Told
from dicom_node.health.parts import State, parts, worst
from dicom_node.models.drift import Sample
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Heartbeat, Queue, Work

NOW = at(10_000)
GB = 1 << 30
ROLES = ("listener", "dispatcher", "sender", "worker", "retention")
SETTINGS = Settings()


def beat(role, host="here", ago=5.0, **detail):
    return Heartbeat(role=role, host=host, pid=1, started_at=T0, seen_at=NOW - timedelta(seconds=ago), detail=detail)


WORK = Work(
    tasks={"pending": 0, "leased": 0, "failed": 0},
    studies={},
    dead=0,
    waiting=0,
    oldest_task=None,
    oldest_delivery=None,
    last_received=None,
    last_explained=None,
    last_result=None,
    quarantined=0,
    answered_lately=0,
    failed_lately=0,
)
TOLD = Told(work=WORK, heartbeats=tuple(beat(role) for role in ROLES), queues=(), sizes=(), drift=())
WELL = Figures(
    at=NOW,
    host="here",
    ledger=TOLD,
    redis={"explain": 0},
    room=Room(folder=Path("/spool"), free=9 * GB, refused_below=GB, cleaned_below=2 * GB),
    port=True,
    model=True,
    certificates=(),
    jobs={},
)


def told(**changes):
    return dataclasses.replace(WELL, ledger=dataclasses.replace(TOLD, **changes))


def work(**changes):
    return told(work=dataclasses.replace(WORK, **changes))


def without(role, *others):
    return told(heartbeats=(*(beat(one) for one in ROLES if one != role), *others))


def seen(**changes):
    return dataclasses.replace(WELL, **changes)


def queue(**more):
    return told(queues=(Queue(destination="pacs", waiting=4, dead=0, **({"state": "paused"} | more)),))


def certificate(**left):
    return seen(certificates=(Certificate(which="tls", path=Path("/c.pem"), ends_at=NOW + timedelta(**left)),))


def room(free):
    return seen(room=dataclasses.replace(WELL.room, free=free))


STUCK = {"tasks": {"pending": 3, "leased": 0, "failed": 0}, "oldest_task": NOW - timedelta(seconds=121)}


def looked(days):
    when = (NOW - timedelta(days=days)).timestamp()
    return Sample(name="drift_last_run_timestamp_seconds", text="", labels={"model": "m"}, value=when)


ALARM = Sample(name="drift_alarm", text="", labels={"statistic": "mean", "model": "m", "group": "all"}, value=1.0)


def test_a_node_that_is_well_says_so_of_every_part():
    found = parts(WELL, SETTINGS)
    assert worst(found) is State.GOOD, [one for one in found if one.state is not State.GOOD]
    assert {*ROLES, "ledger", "redis", "disk", "queue", "port", "model", "results"} <= {one.name for one in found}
    assert all(one.advice is None for one in found)


@pytest.mark.parametrize(
    ("figures", "name", "state"),
    [
        (seen(ledger=Trouble(said="no answer within 2 s")), "ledger", State.BAD),
        (seen(redis=Trouble(said="the broker does not answer")), "redis", State.BAD),
        (room(GB - 1), "disk", State.BAD),
        (room(2 * GB - 1), "disk", State.WARNING),
        (seen(room=Trouble(said="no answer")), "disk", State.BAD),
        (seen(port=False), "port", State.BAD),
        (without("listener"), "listener", State.BAD),
        (without("worker", beat("worker", ago=36)), "worker", State.BAD),
        (without("worker", beat("worker", ago=-86_400)), "worker", State.BAD),  # of a clock that was ahead
        (without("dispatcher", beat("dispatcher", "there", ago=36)), "dispatcher", State.BAD),
        (without("sender", beat("sender"), beat("sender", "there", ago=36)), "sender", State.WARNING),
        (without("retention"), "retention", State.WARNING),
        (told(heartbeats=(*TOLD.heartbeats, beat("shadow", ago=36))), "shadow", State.WARNING),
        (work(**STUCK), "queue", State.BAD),
        (work(**STUCK | {"last_explained": NOW - timedelta(seconds=121)}), "queue", State.BAD),
        (work(dead=2), "dead letters", State.WARNING),
        (work(oldest_delivery=NOW - timedelta(minutes=11)), "results", State.WARNING),
        (work(answered_lately=30, failed_lately=3), "studies", State.WARNING),
        (queue(since=NOW - timedelta(hours=2)), "destination:pacs", State.WARNING),
        (queue(state="unknown"), "destination:pacs", State.WARNING),
        (certificate(days=29), "certificate:tls", State.WARNING),
        (certificate(seconds=-1), "certificate:tls", State.BAD),
        (seen(certificates=Trouble(said="x.pem: cannot be read")), "certificates", State.BAD),
        (seen(model=False), "model", State.WARNING),
        (told(drift=(ALARM,)), "drift", State.WARNING),
        (told(drift=(looked(days=4),)), "drift", State.WARNING),
    ],
)
def test_what_is_wrong_is_found_and_says_what_to_do(figures, name, state):
    found = {one.name: one for one in parts(figures, SETTINGS)}
    assert found[name].state is state
    assert found[name].advice
    assert worst(list(found.values())) is state
    assert [one.name for one in found.values() if one.state is not State.GOOD] == [name]


@pytest.mark.parametrize(
    "figures",
    [
        pytest.param(work(**STUCK | {"tasks": {"pending": 3, "leased": 1}}), id="a worker is at work"),
        pytest.param(work(**STUCK | {"last_explained": NOW - timedelta(seconds=9)}), id="one was just finished"),
        pytest.param(work(**STUCK | {"oldest_task": NOW - timedelta(seconds=119)}), id="they came just now"),
        pytest.param(work(answered_lately=31, failed_lately=3), id="less than a tenth failed"),
        pytest.param(work(answered_lately=2, failed_lately=2), id="two failed"),
        pytest.param(queue(since=NOW - timedelta(minutes=59)), id="a destination is away for minutes"),
        pytest.param(certificate(days=31), id="a certificate is good for a month"),
        pytest.param(seen(port=None), id="the port is not known"),
        pytest.param(
            dataclasses.replace(without("listener", beat("listener", "there")), port=False),
            id="another listens",
        ),
        pytest.param(
            dataclasses.replace(without("worker", beat("worker", "there", model="m 1")), model=False),
            id="the bundle is at the workers'",
        ),
        pytest.param(without("worker", beat("worker"), beat("worker", ago=99)), id="a killed process was replaced"),
    ],
)
def test_what_is_no_fault_is_none(figures):
    assert [one for one in parts(figures, SETTINGS) if one.state is not State.GOOD] == []


def test_what_a_peer_wrote_is_not_repeated():
    found = parts(queue(since=NOW - timedelta(hours=2), reason="refused: patient Doe^John is unknown"), SETTINGS)
    assert not any("Doe" in f"{one.said}{one.advice}" for one in found)
