"""/health and /metrics over HTTP, of a ledger, a Redis and a port that are real, well, hung and away."""

import os
import shutil
import signal
import socket
import threading

import pytest
from served import served
from working import RedisServer, settings, short_folder

from dicom_node.clock import utc_now
from dicom_node.health import heartbeat
from dicom_node.storage.ledger import Ledger

ROLES = ("listener", "dispatcher", "sender", "worker", "retention")


@pytest.fixture(scope="module")
def redis():
    with short_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def site(tmp_path, redis):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        (tmp_path / "spool").mkdir()
        made = settings(
            tmp_path,
            ("pacs", "PACS", 104),
            node={
                "spool": tmp_path / "spool",
                "database": f"sqlite:///{tmp_path}/ledger.sqlite",
                "low_water_mb": 0,
                "port": listening.getsockname()[1],
            },
            broker={"url": redis.url},
            metrics={"folder": tmp_path / "metrics"},
        )
        ledger = Ledger(made.node.database)
        ledger.create()
        for number, role in enumerate(ROLES):
            detail = {"device": "cpu", "model": "toy 1"} if role == "worker" else {}
            ledger.beat(role, heartbeat.host(), number, utc_now(), detail)
        yield made, ledger
        ledger.close()


@pytest.fixture
def web(site):
    with served(*site) as made:
        yield made


def test_a_node_that_is_well_answers_200_and_every_part_says_what_it_is(web):
    status, found = web.health()
    assert (status, {one["state"] for one in found.values()}) == (200, {"good"})
    assert {"ledger", "redis", "disk", "port", "model", "queue", "destination:pacs", *ROLES} <= set(found)
    assert "cpu" in found["worker"]["said"]


def test_a_redis_that_hangs_holds_up_nothing_and_is_named(web, redis):
    os.kill(redis._process.pid, signal.SIGSTOP)
    try:
        status, found = web.health()
        assert status == 503
        assert {name for name, one in found.items() if one["state"] != "good"} == {"redis"}
        assert "start Redis" in found["redis"]["advice"]
        assert web.get("/health/live")[0] == 200
        samples = web.samples()
        assert samples['dicom_node_health{part="redis"}'] == 2
        assert 'dicom_node_queue_depth{queue="explain"}' not in samples, "what is not known is not said"
        assert "dicom_node_dead_letters" in samples
    finally:
        os.kill(redis._process.pid, signal.SIGCONT)


def test_a_ledger_that_hangs_holds_up_nothing_either(site, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(site[1], "work", lambda _: gate.wait())
    with served(*site) as web:
        status, found = web.health()
        assert (status, found["ledger"]["state"], found["redis"]["state"]) == (503, "bad", "good")
        assert b"dicom_node_spool_free_bytes" in web.get("/metrics")[1]
        gate.set()


def test_gauges_and_what_processes_counted_stand_in_one_page(web, tmp_path):
    (tmp_path / "metrics").mkdir()
    sample = tmp_path / "metrics" / "counter_4194305.db"  # of a process that is dead
    from prometheus_client.mmap_dict import MmapedDict, mmap_key

    counted = MmapedDict(str(sample))
    name = "dicom_node_jobs_finished_total"
    counted.write_value(mmap_key(name.removesuffix("_total"), name, ["outcome"], ["explained"], "x"), 5.0, 0.0)
    counted.close()
    samples = web.samples()
    assert samples['dicom_node_jobs_finished_total{outcome="explained"}'] == 5
    assert samples[f'dicom_node_gpu_available{{host="{heartbeat.host()}"}}'] == 0, "all on the CPU"
    assert samples['dicom_node_processes{role="worker"}'] == 1
    assert samples["dicom_node_spool_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert samples['dicom_node_queue_depth{queue="explain"}'] == 0


def test_the_look_for_drift_is_shown(site):
    labels = {"statistic": "mean", "model": "m", "group": "all"}
    site[1].keep_look("drift", utc_now(), [{"name": "drift_alarm", "text": "x.", "labels": labels, "value": 1.0}])
    with served(*site) as web:
        assert web.samples()['dicom_node_drift_alarm{group="all",model="m",statistic="mean"}'] == 1
        assert web.health()[1]["drift"]["state"] == "warning"
