"""A queue whose Redis dies: Sentinels name another, and everybody goes on with that one."""

import subprocess
from pathlib import Path

import pytest
import redis
from test_kill9 import RESULTS, Node, put, sources
from working import STUDY, free_port, instance, redis_program, short_folder, wait_for

from dicom_node.errors import BrokerUnreachable, ConfigError
from dicom_node.nouns import TaskState
from dicom_node.queue import broker
from dicom_node.settings.loading import load_settings
from dicom_node.settings.sections import Settings

NAME = "queue"


class Watched:
    """A Redis, its replica, and a Sentinel that watches them: three processes on free ports of loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port(), free_port()]
        self.port = free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port};sentinel://127.0.0.1:{free_port()}"  # of two Sentinels one is down

    def start(self) -> None:
        first, second = self.ports
        self._run(f"port {first}\nsave ''\n", first)
        self._run(f"port {second}\nsave ''\nreplicaof 127.0.0.1 {first}\nrepl-diskless-sync-delay 0\n", second)
        watch = f"port {self.port}\nsentinel monitor {NAME} 127.0.0.1 {first} 1\n"
        watch += f"sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n"
        wait_for(lambda: self._replicates(second), 60, "the replica")
        self._run(watch, self.port, "--sentinel")
        wait_for(self._sees_the_replica, 60, "the Sentinel")

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def kill_the_master(self) -> None:
        self._running[0].kill()
        self._running[0].wait()

    def client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, decode_responses=True, socket_timeout=5)

    def _run(self, text: str, port: int, *more: str) -> None:
        file = self._folder / f"{port}.conf"
        file.write_text(f"bind 127.0.0.1\ndir {self._folder}\n{text}")
        with (self._folder / f"{port}.log").open("ab") as log:
            command = [redis_program(), str(file), *more]
            self._running.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _replicates(self, port: int) -> bool:
        try:
            with self.client(port) as client:
                return client.info("replication").get("master_link_status") == "up"
        except redis.ConnectionError:
            return False

    def _sees_the_replica(self) -> bool:
        try:
            with self.client(self.port) as client:
                return client.sentinel_master(NAME)["num-slaves"] == 1
        except redis.RedisError:
            return False


@pytest.fixture
def node():
    with short_folder() as folder:
        made = Node(folder, redis=Watched(folder), broker={"sentinel_master": NAME})
        try:
            yield made
        finally:
            made.stop()


@pytest.mark.slow
@pytest.mark.external
def test_the_master_killed_in_mid_run_costs_a_failover_and_nothing_else(node):
    node.start("dispatcher", "worker", "sender")
    put(node, 1)
    wait_for((node.folder / "explaining").exists, 60, "the worker to begin")
    put(node, 2)
    wait_for(lambda: len(node.ledger.tasks(STUDY)) == 2, 60, "revision 2")
    node.redis.kill_the_master()
    put(node, 3)
    wait_for(lambda: len(node.ledger.tasks(STUDY)) == 3, 60, "revision 3, without a broker")
    node.go()
    node.wait_for_delivery(studies=3, seconds=180)
    assert len(node.pacs.uids) == len(set(node.pacs.uids)) == 3 * RESULTS
    assert sources(node) == {instance(number).sop_instance_uid: RESULTS for number in (1, 2, 3)}
    assert {one.state for one in node.ledger.tasks(STUDY)} == {TaskState.DONE}
    with node.redis.client(node.redis.ports[1]) as client:
        assert client.role()[0] == "master"


@pytest.mark.slow
def test_sentinels_that_nobody_reaches_are_a_broker_that_does_not_answer():
    url = f"sentinel://127.0.0.1:{free_port()};sentinel://127.0.0.1:{free_port()}"
    app = broker.make_celery(Settings.model_validate({"broker": {"url": url}}))
    with pytest.raises(BrokerUnreachable, match="does not answer"):
        broker.submit(app, broker.EXPLAIN, "task")


@pytest.mark.parametrize("url", ["sentinel://", "sentinel://a:1;redis://b:2", "sentinel://a:1;", "memory://"])
def test_a_url_that_names_no_broker_is_refused(url):
    with pytest.raises(ConfigError, match="BROKER__URL"):
        load_settings(None, {"DICOM_NODE_BROKER__URL": url})
