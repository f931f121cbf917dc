"""A whole node with the toy: one study is followed through logs and traces, and everything shows in /metrics."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from certificates import Authority
from otlp import Collector
from pynetdicom import AE
from radiographs import synthetic
from served import Web
from working import CR_STORAGE, STUDY, Peer, RedisServer, free_port, python, short_folder, wait_for

from dicom_node.clock import utc_now
from dicom_node.models import look
from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.observations import Observation
from dicom_node.watch.traces import trace_id
from explain_core.bundles import files

pytestmark = pytest.mark.slow

ROLES = ("listener", "dispatcher", "worker", "sender", "retention", "web")
PATIENT = "Zyxcanary"
CONFIG = """
[node]
port = {port}
calling_ae_titles = ["MODALITY"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 0
[tls]
certificate = "{tls.certificate}"
key = "{tls.key}"
authorities = "{tls.authorities}"
port = {tls_port}
[study]
quiet_seconds = 0.5
[broker]
url = "{redis}"
[audit]
folder = "{folder}/audit"
[metrics]
folder = "{folder}/metrics"
[retraining]
jobs = "{folder}/jobs"
[web]
port = {web}
users = "{folder}/users.toml"
session_key = "{folder}/session.key"
search_key = "{folder}/search.key"
[tracing]
endpoint = "{endpoint}"
[logging]
level = "info"
json = true
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""


class Node:
    def __init__(self, folder: Path, redis: str, pacs: int, endpoint: str) -> None:
        self.folder, self.port, self.web = folder, free_port(), Web(free_port())
        self.config = folder / "node.toml"
        ports = {"port": self.port, "web": self.web.port, "pacs": pacs, "tls_port": free_port()}
        tls = Authority(folder / "tls").issue("node")
        self.config.write_text(CONFIG.format(folder=folder, redis=redis, endpoint=endpoint, tls=tls, **ports))
        self.settings = load_settings(self.config, {})
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        script, root = str(Path(__file__).with_name("observed_role.py")), str(Path(__file__).parents[2])
        for role in ROLES:
            with (self.folder / f"{role}.log").open("ab") as log:
                environment = os.environ | {"PYTHONPATH": root}
                self.processes[role] = python(script, role, str(self.config), stdout=log, stderr=log, env=environment)
        wait_for(self.web.answers, 120, "the role web")
        wait_for(lambda: self.web.health()[0] == 200, 120, "a node that is well")

    def send(self) -> int:
        entity = AE("MODALITY")
        entity.add_requested_context(CR_STORAGE, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", self.port, ae_title="EXPLAIN")
        assert association.is_established
        image = synthetic(bits=8, StudyInstanceUID=STUDY, PatientName=f"{PATIENT}^A", PatientID=f"{PATIENT}1")
        status = association.send_c_store(image).Status
        association.release()
        stranger = AE("STRANGER")
        stranger.add_requested_context(CR_STORAGE)
        assert not stranger.associate("127.0.0.1", self.port, ae_title="EXPLAIN").is_established
        return int(status)

    def look_for_drift(self) -> None:
        """What the node does once a day, of enough images to say something."""
        digest = files.verify(self.settings.model.bundle)
        values = {"probability": 0.2, "threshold": 0.5, "positive": False, "near_threshold": False, "distance": 1.0}
        same = values | {"far": False, "statistics": {"mean": 0.5}, "heatmap": None, "seconds": 1.0, "role": "champion"}
        model = {"digest": digest, "model_name": "chest", "model_version": "1", "observed_at": utc_now()}
        self.ledger.observe(
            Observation(**same, **model, task_id=f"t{one}", study_instance_uid="2.25.1", sop_instance_uid=f"2.25.{one}")
            for one in range(60)
        )
        look.keep(self.settings, self.ledger, utc_now())

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ledger.close()

    def lines(self, role: str) -> list[dict[str, object]]:
        found = []
        for line in (self.folder / f"{role}.log").read_text().splitlines():
            with contextlib.suppress(ValueError):  # what Python itself writes
                found.append(json.loads(line) | {"role": role})
        return found


@pytest.fixture(scope="module")
def story():
    """A node that has explained a study, what it showed, and what it left."""
    with short_folder() as folder, Collector() as collector:
        redis, pacs = RedisServer(folder), Peer().start()
        redis.start()
        node = Node(folder, redis.url, pacs.port, collector.url)
        try:
            node.start()
            assert node.send() == 0
            wait_for(lambda: node.ledger.timeline(STUDY).delivered_at, 120, "the delivery")
            wait_for(lambda: any("device" in one.detail for one in node.ledger.heartbeats()), 60, "the worker's device")
            node.look_for_drift()
            wait_for(node.ledger.sizes, 60, "a measurement of the stores")
            node.health, node.page = node.web.health(), node.web.get("/metrics")[1].decode()
            node.samples = node.web.samples()
        finally:
            node.stop()
            redis.stop()
            pacs.stop()
        node.collector = collector
        yield node


def test_one_identifier_follows_the_study_through_the_logs_of_every_role(story):
    lines = [line for role in ROLES for line in story.lines(role)]
    of_study = [line for line in lines if line.get("study") == STUDY]
    told = [(line["role"], line["event"]) for line in sorted(of_study, key=lambda line: line["timestamp"])]
    steps = [one for index, one in enumerate(told) if one not in told[:index]]
    steps.remove(("dispatcher", "task submitted"))  # a worker may be quicker than the line that says so
    assert steps == [
        ("listener", "stored"),
        ("dispatcher", "study ready"),
        ("worker", "task taken"),
        ("worker", "task finished"),
        ("sender", "delivered"),
    ]
    stored = next(line for line in of_study if line["event"] == "stored")
    assert {stored["association"]} == {
        line["association"] for line in lines if line["event"] in {"association accepted", "association ended"}
    }
    (task,) = {line["task"] for line in of_study if line["role"] in {"worker", "sender"}}
    ids = {str(one) for row in story.ledger.deliveries() for one in (row.delivery_id, row.sop_instance_uid)} | {task}
    strays = [line for line in lines if line.get("study") != STUDY and any(one in json.dumps(line) for one in ids)]
    assert strays == [], "a line about the study that does not say so"
    assert not any(STUDY in json.dumps(line) for line in lines if line.get("study") != STUDY)
    assert not any(str(line["event"]).startswith("Task ") for line in lines), "a line of Celery, which knows no study"


def test_one_trace_tells_where_the_time_went_and_names_no_patient(story):
    spans = story.collector.spans
    assert {one.trace for one in spans} == {f"{trace_id(STUDY, 1):032x}"}
    by_name = {one.name: one for one in spans}
    assert {"receive", "wait", "explain", "decode", "classify", "build", "write", "deliver"} == set(by_name)
    root = by_name["receive"]
    whole = next(one for one in spans if one.name == "explain" and one.parent == root.span)
    assert (root.parent, root.role) == ("", "dispatcher")
    assert {by_name[name].parent for name in ("wait", "deliver")} == {root.span}
    assert by_name["deliver"].role == "sender"
    parts = [one for one in spans if one.parent == whole.span]
    assert [one.name for one in sorted(parts, key=lambda one: one.began)] == [
        "decode", "classify", "explain", "build", "write",
    ]  # fmt: skip
    assert all(whole.began <= one.began <= one.ended <= whole.ended for one in parts)
    assert root.began <= root.ended <= by_name["wait"].ended
    assert root.said["dicom_node.study"] == STUDY
    assert PATIENT.encode() not in story.collector.bytes


def test_the_node_is_well_and_counts_what_it_did(story):
    status, parts = story.health
    assert status == 200
    assert {name for name, one in parts.items() if one["state"] != "good"} == {"drift"}, "as it was planted"
    samples = story.samples
    sent = len([one for one in story.ledger.deliveries() if one.state == "sent"])
    assert samples['dicom_node_instances_received_total{calling_aet="MODALITY"}'] == 1
    assert samples['dicom_node_results_sent_total{destination="pacs",status="sent"}'] == sent > 0
    assert samples['dicom_node_jobs_finished_total{outcome="explained"}'] == 1
    assert samples['dicom_node_associations_rejected_total{reason="calling AE title not recognised"}'] == 1
    assert samples["dicom_node_associations_active"] == 0
    assert samples["dicom_node_store_seconds_count"] == 1
    stages = {re.search('stage="([a-z]+)"', name)[1] for name in samples if "job_seconds_count" in name}
    assert stages == {"wait", "decode", "classify", "explain", "build", "write", "total"}
    assert {name: samples[f'dicom_node_processes{{role="{name}"}}'] for name in ROLES} == dict.fromkeys(ROLES, 1)


def test_every_name_in_rules_dashboard_and_document_is_one_that_the_node_shows(story, root):
    shown = set(re.findall(r"^# TYPE (\S+)", story.page, re.MULTILINE))
    for name in (
        "deploy/prometheus/dicom-node.rules.yml",
        "deploy/prometheus/dicom-node.rules.test.yml",
        "deploy/grafana/dashboards/dicom-node.json",
    ):
        used = set(re.findall(r"\bdicom_node_[a-z_]+", (root / name).read_text()))
        used = {re.sub("_(bucket|count|sum)$", "", one) for one in used}
        assert len(used) > 15
        assert used <= shown, name


def test_nothing_that_is_shown_names_the_patient(story):
    assert PATIENT not in story.page
    assert PATIENT not in json.dumps(story.health)
    assert STUDY not in story.page
    assert not any(PATIENT in path.read_text() for path in story.folder.glob("*.log"))


def test_processes_that_ended_in_order_are_not_waited_for(story):
    ledger = Ledger(story.settings.node.database)
    assert ledger.heartbeats() == []
    ledger.close()
