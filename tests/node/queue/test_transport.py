"""A worker and a real Redis into which somebody else has written."""

import base64
import json

import pytest
from working import python, wait_for

from dicom_node.queue import broker
from dicom_node.queue.transport import unusable
from dicom_node.settings.sections import Settings

WORKER = """
import sys
from dicom_node.queue import broker
from dicom_node.settings.sections import Settings
app = broker.make_celery(Settings.model_validate({"broker": {"url": sys.argv[1]}}))
broker.register(app, broker.EXPLAIN, lambda identifier: print("did", identifier, flush=True))
broker.run_worker(app, broker.EXPLAIN)
"""


@pytest.fixture
def redis(redis_server):
    with redis_server.client() as client:
        client.flushall()
    return redis_server


@pytest.fixture
def app(redis):
    return broker.make_celery(Settings.model_validate({"broker": {"url": redis.url}}))


@pytest.fixture
def message(redis, app):
    """One of ours, as it lies in Redis."""
    broker.submit(app, broker.EXPLAIN, "task-0")
    with redis.client() as client:
        return json.loads(client.lpop("explain"))


def packed(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


def wrong(message):
    yield from (b"\xff\x00garbage", b"", b"5", b"null", b"[1, 2]", b"{}", b'"text"')
    for changes in (
        {"properties": {}},
        {"properties": message["properties"] | {"delivery_tag": None}},
        {"headers": None},
        {"headers": {}},
        {"body": None},
        {"body": "!!!"},
        {"body": base64.b64encode(b"{").decode()},
        {"body": packed({"a": 1})},
        {"body": packed([["a", "b"], {}, {}])},
        {"body": packed([[{"a": 1}], {}, {}])},
        {"body": packed([["a"], {"b": 1}, {}])},
        {"body": packed([["a"], {}, 7])},
        {"content-type": "application/x-python-serialize"},
    ):
        yield json.dumps(message | changes).encode()


def test_a_message_of_ours_is_usable_and_nothing_else(message):
    assert unusable(message) is None
    for raw in wrong(message):
        try:
            found = json.loads(raw)
        except ValueError:
            continue
        assert unusable(found), raw


@pytest.mark.slow
def test_a_worker_passes_over_what_is_no_message_and_goes_on(redis, app, message, tmp_path):
    with redis.client() as client:
        client.hset("unacked", "tag", "garbage")
        client.zadd("unacked_index", {"tag": 1})
        for raw in wrong(message):
            client.lpush("explain", raw)
        broker.submit(app, broker.EXPLAIN, "task-1")
        log = tmp_path / "log"
        with log.open("wb") as file:
            worker = python("-c", WORKER, redis.url, stdout=file, stderr=file)
        try:
            wait_for(lambda: worker.poll() is not None or b"did task-1" in log.read_bytes(), what=log.read_text())
            assert worker.poll() is None, log.read_text()
            wait_for(lambda: not client.exists("unacked"), what="nothing is left that nobody acknowledges")
            assert client.llen("explain") == 0
        finally:
            worker.kill()
            worker.wait()
    assert log.read_text().count("did ") == 1


@pytest.mark.parametrize("key", ["unacked", "unacked_index"])
def test_a_key_of_another_type_is_removed(redis, app, key):
    with redis.client() as client:
        client.set(key, "x")
        assert broker.depth(app, broker.EXPLAIN) == 0
        assert not client.exists(key)


@pytest.mark.slow
def test_a_worker_that_celery_ends_over_an_error_ends_with_a_status(redis):
    ends = 'app.Worker.start = lambda worker: setattr(worker, "exitcode", 1)'
    worker = python("-c", WORKER.replace("broker.run_worker", f"{ends}\nbroker.run_worker"), redis.url)
    assert worker.wait(60) == 1
