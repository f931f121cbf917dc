"""kill -9 of real processes around a real Redis: nothing acknowledged is lost, and there is one set of results."""

import collections
import os
import subprocess
import threading
from pathlib import Path

import pydicom
import pytest
from databases import emptied
from radiographs import encode, synthetic
from working import (
    CR_STORAGE,
    SC_STORAGE,
    STUDY,
    Peer,
    RedisServer,
    free_port,
    instance,
    python,
    settings,
    short_folder,
    wait_for,
)

from dicom_node.deliver import scu
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import DeliveryState, Destination, StudyState, TaskState
from dicom_node.storage.ledger import Ledger

PROCESSES = str(Path(__file__).with_name("processes.py"))
SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.33"
RESULTS = 3
"""Objects about each explained image: secondary capture, presentation state, the report of its revision."""
SETTLED = {"sent", "standby", "downgraded"}


SEVERAL = {"listener": 2, "worker": 3, "sender": 2}


class Node:
    """Redis, a PACS, and the four roles as processes that a test starts and kills; of a role several, or one."""

    def __init__(
        self,
        folder: Path,
        database: str | None = None,
        counts: dict[str, int] | None = None,
        redis=None,
        broker: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.counts = counts or {}
        self.redis = redis or RedisServer(folder)
        self.redis.start()
        self.pacs = Peer().start()
        self.port = free_port()
        made = settings(
            folder,
            ("pacs", "PACS", self.pacs.port),
            node={
                "spool": str(folder / "spool"),
                "database": database or f"sqlite:///{folder}/ledger.sqlite",
                "low_water_mb": 0,
                "port": self.port,
                "calling_ae_titles": ["MODALITY"],
            },
            study={"quiet_seconds": 0.5},
            broker={"url": self.redis.url, "lease_seconds": 5, "max_attempts": 20} | (broker or {}),
            delivery={"retry_seconds": 0.5, "timeout": 3},
        )
        (folder / "settings.json").write_text(made.model_dump_json(by_alias=True))
        self.ledger = Ledger(made.node.database)
        self.ledger.create()
        self.processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.entities: list[scu._Entity] = []

    def start(self, *roles: str, point: str = "") -> None:
        """Start all processes of each role; where they kill themselves at a point, one."""
        for role in roles:
            count = 1 if point else self.counts.get(role, 1)
            self.processes[role] = [self._started(role, point, number) for number in range(count)]

    def _started(self, role: str, point: str, number: int) -> subprocess.Popen[bytes]:
        port = {"NODE_PORT": str(free_port())} if role == "listener" and number else {}
        with (self.folder / f"{role}.log").open("ab") as log:
            return python(PROCESSES, role, str(self.folder), point, stdout=log, stderr=log, env=os.environ | port)

    def kill(self, role: str) -> None:
        for process in self.processes.pop(role):
            process.kill()
            assert process.wait(60) == -9

    def wait_until_killed(self, role: str) -> None:
        """By its own hand, at the point that it was started with."""
        (process,) = self.processes.pop(role)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(self.log("dispatcher") + self.log(role)) from None
        assert status == -9, self.log(role)

    def worker_of_the_task(self) -> subprocess.Popen[bytes]:
        """The one that holds the lease of the only task."""
        from sqlalchemy import select

        from dicom_node.storage.ledger.schema import tasks

        with self.ledger._read() as connection:
            owner = connection.execute(select(tasks.c.owner)).scalar_one()
        return next(one for one in self.processes["worker"] if f"-{one.pid}-" in owner)

    def go(self) -> None:
        (self.folder / "go").touch()

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text(errors="replace")[-4000:]

    def listening(self) -> None:
        listener = Destination(name="x", ae_title="EXPLAIN", host="127.0.0.1", port=self.port)

        def answers() -> bool:
            try:
                return scu.echo(listener, calling_ae_title="MODALITY", timeout=5) == 0
            except DeliveryUnreachable:
                return False

        wait_for(answers, 60, "the listener")

    def connect(self):
        entity = scu._Entity("MODALITY")  # pynetdicom itself does not close a connection that the peer has reset
        self.entities.append(entity)
        entity.add_requested_context(CR_STORAGE, "1.2.840.10008.1.2.1")
        entity.dimse_timeout = entity.network_timeout = 5
        association = entity.associate("127.0.0.1", self.port, ae_title="EXPLAIN")
        assert association.is_established, self.log("listener")
        return association

    def wait_for_delivery(self, studies: int, seconds: float = 120) -> None:
        def delivered() -> bool:
            counts = self.ledger.counts()
            states = set(counts["deliveries"])
            return counts["studies"] == {"explained": studies} and "sent" in states and states <= SETTLED

        try:
            wait_for(delivered, seconds)
        except AssertionError:
            logs = "\n".join(f"--- {role}\n{self.log(role)}" for role in ("dispatcher", "worker", "sender"))
            raise AssertionError(f"{self.ledger.counts()}\n{logs}") from None

    def stop(self) -> None:
        for role in list(self.processes):
            self.kill(role)
        for entity in self.entities:
            entity.connection.close()
        self.pacs.stop()
        self.redis.stop()
        self.ledger.close()


SEVERAL_ON_POSTGRESQL = pytest.param("several on PostgreSQL", marks=(pytest.mark.slow, pytest.mark.external))


@pytest.fixture(params=["one on SQLite", SEVERAL_ON_POSTGRESQL])
def node(request):
    several = request.param != "one on SQLite"
    database = emptied(request.getfixturevalue("postgres_url")) if several else None
    with short_folder() as folder:
        made = Node(folder, database, SEVERAL if several else None)
        try:
            yield made
        finally:
            made.stop()


def image(number: int, side: int = 0) -> pydicom.Dataset:
    made = instance(number)
    changes = {"Rows": side, "Columns": side, "PixelData": bytes(side * side)} if side else {}
    return synthetic(
        bits=8,
        SOPInstanceUID=made.sop_instance_uid,
        StudyInstanceUID=made.study_instance_uid,
        SeriesInstanceUID=made.series_instance_uid,
        **changes,
    )


def put(node: Node, *numbers: int) -> None:
    """Receive without a listener: what the listener leaves behind."""
    import dataclasses
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    for number in numbers:
        path = node.folder / f"{number}.dcm"
        path.write_bytes(encode(image(number)))
        made = dataclasses.replace(instance(number), path=path, received_at=now)
        assert node.ledger.add_instance(made) == "added"


def sources(node: Node) -> collections.Counter:
    """How many different results the PACS holds about each source image."""
    images = {instance(number).sop_instance_uid for number in (1, 2, 3)}
    found: list[str] = []
    for uid in set(node.pacs.uids):
        row = next(one for one in node.ledger.deliveries() if one.sop_instance_uid == uid)
        elements = pydicom.dcmread(row.path).iterall()
        found += images & {one.value for one in elements if one.keyword == "ReferencedSOPInstanceUID"}
    return collections.Counter(found)


@pytest.mark.slow
def test_a_listener_killed_while_it_receives_loses_nothing_that_it_acknowledged(node):
    node.go()
    node.start("listener", "dispatcher", "worker", "sender")
    node.listening()
    association = node.connect()
    assert association.send_c_store(image(1)).Status == 0
    big = image(2, 6000)
    sending = threading.Thread(target=association.send_c_store, args=(big,))
    sending.start()
    incoming = node.folder / "spool" / "incoming"
    wait_for(lambda: any(part.stat().st_size for part in incoming.glob("*/*.part")), what="a part")
    node.kill("listener")
    sending.join(20)
    assert node.ledger.find_instance(instance(1).sop_instance_uid)
    assert node.ledger.find_instance(instance(2).sop_instance_uid) is None
    node.start("listener")
    node.listening()
    association = node.connect()
    assert [association.send_c_store(image(n)).Status for n in (1, 2, 3)] == [0, 0, 0]
    association.release()
    node.wait_for_delivery(studies=len(node.ledger.studies()))
    wait_for(lambda: len(sources(node)) == 3, what="results of three images")
    node.wait_for_delivery(studies=len(node.ledger.studies()))
    assert len(set(node.pacs.uids)) == len(node.pacs.uids)
    assert sources(node) == {instance(n).sop_instance_uid: RESULTS for n in (1, 2, 3)}


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_task_leaves_one_set_of_results(node):
    put(node, 1)
    node.start("dispatcher", "worker", "sender")
    wait_for((node.folder / "explaining").exists, 60, "the worker to begin")
    node.kill("worker")
    assert node.ledger.tasks(STUDY)[0].state is TaskState.LEASED
    assert node.ledger.deliveries() == []
    node.go()
    node.start("worker")
    node.wait_for_delivery(studies=1)
    assert node.ledger.tasks(STUDY)[0].attempts == 2
    assert sorted(node.pacs.uids) == sorted(set(node.pacs.uids))
    assert sources(node) == {instance(1).sop_instance_uid: RESULTS}


@pytest.mark.slow
def test_killed_at_every_state_change_there_is_still_one_set_of_results(node):
    node.go()
    put(node, 1, 2)
    node.start("dispatcher")
    for point in ("leased", "written", "explained", "completed"):
        node.start("worker", point=point)
        node.wait_until_killed("worker")
        assert bool(node.ledger.deliveries()) == (point == "completed")
    node.start("worker")
    node.start("sender", point="stored")
    node.wait_until_killed("sender")
    assert len(node.pacs.uids) == 1
    _let_the_delivery_lease_run_out(node)
    node.start("sender")
    node.wait_for_delivery(studies=1)
    # The object under way when the sender died came twice, under one UID: the archive keeps one.
    assert len(node.pacs.uids) == len(set(node.pacs.uids)) + 1
    assert sources(node) == {instance(n).sop_instance_uid: RESULTS for n in (1, 2)}
    twice = [uid for uid, count in collections.Counter(node.pacs.uids).items() if count == 2]
    assert len({bytes(data) for uid, _, data in node.pacs.received if uid == twice[0]}) == 1
    assert node.ledger.tasks(STUDY)[0].attempts == 4


@pytest.mark.slow
def test_a_sender_killed_between_a_downgrade_and_its_stand_in_loses_neither(node):
    node.pacs.stop()
    node.pacs._classes = [SC_STORAGE, SR_STORAGE]
    node.pacs.start()
    node.go()
    put(node, 1)
    node.start("dispatcher", "worker")
    node.start("sender", point="downgraded")
    node.wait_until_killed("sender")
    rows = {one.kind: one for one in node.ledger.deliveries()}
    assert rows["presentation_state"].state is DeliveryState.DOWNGRADED
    assert rows["overlay"].state is DeliveryState.PENDING
    assert rows["overlay"].sop_instance_uid not in node.pacs.uids
    _let_the_delivery_lease_run_out(node)
    node.start("sender")
    node.wait_for_delivery(studies=1)
    assert node.pacs.uids.count(rows["overlay"].sop_instance_uid) == 1
    assert sources(node) == {instance(1).sop_instance_uid: RESULTS}
    assert node.ledger.studies()[0].state is StudyState.EXPLAINED
    assert [(one.kind, one.stand_in) for one in node.ledger.downgrades()] == [("presentation_state", "overlay")]


def _let_the_delivery_lease_run_out(node: Node) -> None:
    """Delivery leases last longer than a test should; waiting is the ledger's own business (test_ledger)."""
    from sqlalchemy import update

    from dicom_node.storage.ledger.schema import deliveries

    with node.ledger._write() as connection:
        connection.execute(update(deliveries).values(lease_until=None))


@pytest.mark.slow
def test_a_worker_told_to_end_finishes_its_task_first(node):
    put(node, 1)
    node.start("dispatcher", "worker")
    wait_for((node.folder / "explaining").exists, 60, "the worker to begin")
    worker = node.worker_of_the_task()
    worker.terminate()
    node.go()
    assert worker.wait(60) == 0
    node.processes["worker"].remove(worker)
    (task,) = node.ledger.tasks(STUDY)
    assert (task.state, task.attempts) == (TaskState.DONE, 1), node.log("worker")


@pytest.mark.slow
def test_redis_killed_and_emptied_in_mid_run_loses_nothing(node):
    node.start("dispatcher", "worker", "sender")
    put(node, 1)
    wait_for((node.folder / "explaining").exists, 60, "the worker to begin")
    node.redis.stop()
    put(node, 2)
    wait_for(lambda: len(node.ledger.studies()) == 2 or len(node.ledger.tasks(STUDY)) == 2, 60, "revision 2")
    node.redis.start()
    node.go()
    node.wait_for_delivery(studies=2, seconds=60)
    assert len(node.pacs.uids) == len(set(node.pacs.uids)) == 2 * RESULTS
    assert [one.attempts for one in node.ledger.tasks(STUDY)] == [1, 1]
    assert {one.state for one in node.ledger.deliveries()} == {DeliveryState.SENT, DeliveryState.STANDBY}
    assert {one.state for one in node.ledger.studies()} == {StudyState.EXPLAINED}


@pytest.mark.slow
def test_a_worker_that_cannot_acknowledge_its_message_takes_the_next_when_redis_is_back(node):
    node.start("dispatcher", "worker", "sender")
    put(node, 1)
    wait_for((node.folder / "explaining").exists, 60, "the worker to begin")
    node.redis.stop()
    node.go()
    wait_for(lambda: node.ledger.tasks(STUDY)[0].state is TaskState.DONE, 60, "the task, without a broker")
    wait_for(lambda: "Connection to broker lost" in node.log("worker"), 60, "the worker to notice")
    node.redis.start()
    put(node, 2)
    node.wait_for_delivery(studies=2, seconds=60)
    assert [worker.poll() for worker in node.processes["worker"]] == [None] * node.counts.get("worker", 1)
