"""Two hosts with folders of their own, one ledger on PostgreSQL, one Redis, one bucket: nobody loses anything."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pydicom
import pytest
import test_kill9
from databases import emptied
from object_stores import Hosts
from test_kill9 import RESULTS, image
from working import instance, short_folder, wait_for

from dicom_node.settings.sections import Settings

pytestmark = [pytest.mark.slow, pytest.mark.external]

FIRST = ("listener", "dispatcher")
"""Roles of the first host; the others run on the second."""


class Node(test_kill9.Node):
    """The roles on two hosts, each with a spool of its own."""

    def __init__(self, folder: Path, database: str, hosts: Hosts) -> None:
        super().__init__(folder, database)
        self.hosts = hosts
        made = json.loads((folder / "settings.json").read_text())
        for name in ("first", "second"):
            (folder / name).mkdir()
            here = made["node"] | {"spool": str(folder / name / "spool")}
            settings = Settings.model_validate(made | {"node": here, "store": hosts.table})
            (folder / name / "settings.json").write_text(settings.model_dump_json(by_alias=True))

    def _started(self, role: str, point: str, _number: int) -> subprocess.Popen[bytes]:
        host = self.folder / ("first" if role in FIRST else "second")
        command = (test_kill9.PROCESSES, role, str(host), point)
        with (self.folder / f"{role}.log").open("ab") as log:
            return test_kill9.python(*command, stdout=log, stderr=log, env=os.environ)

    def go(self) -> None:
        (self.folder / "second" / "go").touch()

    def parts(self) -> list[Path]:
        return [*(self.folder / "first" / "spool" / "incoming").glob("*/*.part")]


@pytest.fixture
def node(hosts, postgres_url):
    with short_folder() as folder:
        made = Node(folder, emptied(postgres_url), hosts)
        try:
            yield made
        finally:
            made.stop()


def about(node):
    """How many results the PACS holds of each source image, by what it was sent."""
    found = {instance(number).sop_instance_uid: 0 for number in (1, 2, 3)}
    seen = set()
    for uid, _, data in node.pacs.received:
        if uid not in seen:
            seen.add(uid)
            ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), force=True)
            named = {one.value for one in ds.iterall() if one.keyword == "ReferencedSOPInstanceUID"}
            for one in named & set(found):
                found[one] += 1
    return found


def test_a_study_goes_from_host_to_host_whoever_is_killed_and_while_the_store_is_away(node, hosts):
    node.go()
    node.start("listener")
    node.listening()
    association = node.connect()
    assert association.send_c_store(image(1)).Status == 0

    # The listener dies in the middle of a PUT: there is no object, no row, and no success.
    hosts.server.line.hold = 2_000_000
    sending = threading.Thread(target=association.send_c_store, args=(image(2, 2000),))
    sending.start()
    assert hosts.server.line.held.wait(60)
    node.kill("listener")
    sending.join(20)
    hosts.server.restore()
    assert len(hosts.objects("instances")) == 1
    assert node.ledger.find_instance(instance(2).sop_instance_uid) is None
    assert len(node.parts()) == 1
    node.start("listener")
    node.listening()
    assert node.parts() == []

    # The store is away: refused, and the modality keeps its image until it is back.
    hosts.server.line.away = True
    association = node.connect()
    assert association.send_c_store(image(2)).Status == 0xA700
    hosts.server.restore()
    assert [association.send_c_store(image(number)).Status for number in (2, 3)] == [0, 0]
    association.release()
    assert len(hosts.objects("instances")) == 3

    # A worker dies with one result written; the store is away while the next one works.
    node.start("dispatcher")
    node.start("worker", point="written")
    node.wait_until_killed("worker")
    assert node.ledger.deliveries() == []
    written = hosts.objects("outbox")
    assert len(written) == 1
    hosts.server.line.away = True
    node.start("worker", "sender")
    wait_for(lambda: "object store does not answer" in node.log("worker"), 90, "the worker to miss the store")
    hosts.server.restore()
    node.wait_for_delivery(studies=len(node.ledger.studies()))
    wait_for(lambda: set(about(node).values()) == {RESULTS}, 60, "results of three images")
    assert set(written) <= set(hosts.objects("outbox"))
    assert not (node.folder / "first" / "spool" / "instances").exists()


def test_a_damaged_result_is_dead_and_named_and_a_damaged_image_is_reported(node, hosts):
    node.go()
    node.start("listener")
    node.listening()
    association = node.connect()
    assert [association.send_c_store(image(number)).Status for number in (1, 2)] == [0, 0]
    association.release()
    hosts.spoil(node.ledger.find_instance(instance(2).sop_instance_uid).path)
    node.start("dispatcher", "worker")
    wait_for(node.ledger.deliveries, 120, "results")
    victim = next(one for one in node.ledger.deliveries() if one.kind == "secondary_capture")
    hosts.spoil(victim.path)
    node.start("sender")

    def settled():
        return {one.state.value for one in node.ledger.deliveries()} <= {"sent", "dead", "standby"}

    wait_for(settled, 120, "the deliveries")
    (dead,) = [one for one in node.ledger.deliveries() if one.state.value == "dead"]
    assert (dead.delivery_id, dead.last_error) == (victim.delivery_id, "the stored object is damaged")
    assert victim.path.name in node.log("sender")
    assert "an object is damaged" in node.log("dispatcher")
    study = node.ledger.studies()[0]
    assert study.state.value == "explained"
    (task,) = node.ledger.tasks(study.study_instance_uid)
    assert ["cannot be read" in one.reason for one in task.passed_by] == [True]
