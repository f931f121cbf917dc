"""Models and jobs in the browser: what runs, promotion with its gate, rollback, reports, a job that is stopped."""

import contextlib
import threading
import time

import httpx2
import pytest
from toys import Site

from dicom_node.health.figures import Observer
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit
from dicom_node.web import server
from dicom_node.web.node import Node
from dicom_node.web.users import UserRole, Users
from explain_core.jobs import JobFolder, JobState

PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture
def site(tmp_path, empty_registry, monkeypatch):
    made = Site(tmp_path, empty_registry)
    web = {"port": 0, "users": tmp_path / "users.toml", "session_key": tmp_path / "session.key"}
    retraining = made.settings.retraining.model_copy(update={"jobs": tmp_path / "jobs"})
    made.settings = made.settings.model_copy(
        update={"web": made.settings.web.model_copy(update=web), "retraining": retraining}
    )
    Users(tmp_path / "users.toml").put("anna", PASSWORD, UserRole.ADMINISTRATOR)
    made.told, stop, ports = [], threading.Event(), []
    node = Node(
        settings=made.settings,
        ledger=made.ledger,
        spool=Spool.of(made.settings),
        audit=Audit("web", "EXPLAIN", made.told.extend),
        search_key=None,
        observer=Observer(made.settings, made.ledger),
    )
    monkeypatch.setattr(server.log, "info", lambda _, **told: ports.append(told["port"]))
    role = threading.Thread(target=server.run, args=(node, stop))
    role.start()
    while not ports:
        assert role.is_alive()
        time.sleep(0.01)
    made.url = f"http://127.0.0.1:{ports[0]}"
    yield made
    stop.set()
    role.join(20)
    made.ledger.close()


@contextlib.contextmanager
def anna(site):
    with httpx2.Client(base_url=site.url, headers={"Origin": site.url}, trust_env=False, timeout=120) as client:
        assert client.post("/login", data={"name": "anna", "password": PASSWORD}).status_code == 303
        yield client


def test_a_version_is_promoted_with_its_gate_or_by_force_with_a_reason_and_taken_back(site, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<h1>Figures</h1>")
    site.version("1")
    site.version("2", "refused")
    site.registry.attach(site.registry.version(1).digest, [report])
    with anna(site) as client:
        versions = client.get("/models/versions").text
        assert "passed" in versions
        assert "refused" in versions
        assert client.post("/models/1/promote", data={"reason": "first"}).headers["location"] == "/models"
        assert "champion: version 1" in client.get("/models").text
        client.post("/models/2/promote", data={})
        assert "refused by its gate" in client.get("/models").text
        assert site.ledger.deployed("champion").number == 1
        client.post("/models/2/promote", data={"force": "on", "reason": "the old one is broken"})
        assert site.ledger.deployed("champion").number == 2
        assert site.ledger.deployed("champion").by == "anna"
        client.post("/models/rollback", data={"reason": "worse"})
        assert site.ledger.deployed("champion").number == 1
        page = client.get("/models/1").text
        assert "report.html" in page
        answer = client.get("/models/1/reports/report.html")
        assert answer.text == "<h1>Figures</h1>"
        assert "sandbox" in answer.headers["content-security-policy"], "a report runs no program in this site's name"
        assert client.get("/models/1/reports/..%2fnode.toml").status_code == 404
        assert client.get("/models/9").status_code == 404
    assert sum("champion: " in str(one) for one in site.told) == 3, "each in the audit"


def test_a_job_shows_how_far_it_is_and_is_stopped(site):
    job = JobFolder(site.settings.retraining.jobs / "half-1")
    job.make()
    job.job_file.write_text("name = 'half'\n")
    job.update(state=JobState.QUEUED, stage="classifier", done=0.25, created_at="2026-03-01T12:00:00+00:00")
    job.log_file.write_text("epoch 1 <b>loss</b> 0.5\n")
    with anna(site) as client:
        assert "25.0 %" in client.get("/jobs").text
        page = client.get("/jobs/half-1").text
        assert "epoch 1 &lt;b&gt;loss&lt;/b&gt; 0.5" in page
        assert client.post("/jobs/half-1/cancel", data={}).headers["location"] == "/jobs/half-1"
        assert "half-1 is cancelled" in client.get("/jobs/half-1").text
        assert client.get("/jobs/..%2fmlflow.sqlite").status_code == 404
        assert client.get("/jobs/none").status_code == 404
    assert job.state is JobState.CANCELLED
