"""The role `web` over HTTP: what everybody may see, what a user may, what an administrator may do."""

import contextlib
import dataclasses
import functools
import re
import shutil
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from radiographs import encode, synthetic
from working import STUDY, association, at, instance, study, task

from dicom_node.errors import ConfigError
from dicom_node.health.figures import Observer
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.settings.dashboard import WebSettings
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.search_terms import term, terms
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit
from dicom_node.web import server
from dicom_node.web.node import Node
from dicom_node.web.users import UserRole, Users

PASSWORD = "correct horse battery"  # noqa: S105
KEY = bytes(range(32))
NAME, PATIENT, ACCESSION = "Canary^Yellow", "PAT-4711", "ACC-0815"


@functools.cache
def users_file():
    """Made once: a password's hash takes its time on purpose."""
    path = Path(tempfile.mkdtemp()) / "users.toml"
    for name, role in (("anna", UserRole.ADMINISTRATOR), ("viktor", UserRole.VIEWER)):
        Users(path).put(name, PASSWORD, role)
    return path


class Site:
    """A node with one study that was explained, and its dashboard."""

    def __init__(self, folder, **web):
        self.told = []
        chosen = {"port": 0, "users": folder / "users.toml", "session_key": folder / "session.key"} | web
        self.settings = Settings.model_validate(
            {
                "node": {"spool": folder / "spool", "database": f"sqlite:///{folder}/ledger.sqlite"},
                "web": chosen,
                "registry": {"uri": f"sqlite:///{folder}/mlflow.sqlite"},
                "retraining": {"jobs": folder / "jobs"},
                "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9}],
            }
        )
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.spool = Spool(folder / "spool", 0)
        self.users = Users(folder / "users.toml")
        shutil.copy(users_file(), folder / "users.toml")
        audit = Audit("web", "EXPLAIN", self.told.extend)
        self.node = Node(
            settings=self.settings,
            ledger=self.ledger,
            spool=self.spool,
            audit=audit,
            search_key=KEY,
            observer=Observer(self.settings, self.ledger),
        )
        self.stop = threading.Event()

    def start(self, monkeypatch):
        ports = []
        monkeypatch.setattr(server.log, "info", lambda _, **told: ports.append(told["port"]))
        self.role = threading.Thread(target=server.run, args=(self.node, self.stop))
        self.role.start()
        while not ports:
            assert self.role.is_alive()
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{ports[0]}"

    def end(self):
        self.stop.set()
        self.role.join(20)
        self.ledger.close()
        return not self.role.is_alive()

    @contextlib.contextmanager
    def client(self, name=None):
        with httpx2.Client(base_url=self.url, headers={"Origin": self.url}, trust_env=False, timeout=60) as made:
            if name is not None:
                answer = made.post("/login", data={"name": name, "password": PASSWORD})
                assert answer.status_code == 303, answer.text
            yield made

    def receive(self, folder):
        """One study of one image, explained, its report dead at the PACS."""
        ds = synthetic(PatientName=NAME, PatientID=PATIENT, AccessionNumber=ACCESSION)
        path = folder / "one.dcm"
        path.write_bytes(encode(ds))
        image = instance(1, path=path)
        self.ledger.open_association(association())
        self.ledger.add_instance(image)
        self.ledger.close_association("a1", at(1))
        whole = study(image)
        made = task(whole)
        assert self.ledger.mark_ready(whole, [made], at(2), state=StudyState.READY, reason=None)
        self.ledger.add_terms(STUDY, terms(KEY, [ds]))
        return made


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(tmp_path)
    made.task = made.receive(tmp_path)
    made.start(monkeypatch)
    yield made
    assert made.end()


EVERYBODY = (
    "/", "/studies/rows", f"/studies/{STUDY}", "/queues", "/models", "/models/versions", "/jobs", "/destinations",
    "/system", "/login", "/api/studies", f"/api/studies/{STUDY}", "/api/queues", "/health/live",
)  # fmt: skip


def test_without_login_everything_is_shown_by_uid_and_nothing_of_the_patient(site):
    with site.client() as client:
        for path in EVERYBODY:
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            for secret in ("Canary", "Yellow", PATIENT, ACCESSION):
                assert secret not in answer.text, path
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert STUDY in client.get("/").text
        assert client.get("/settings").status_code == 303, "paths and addresses are for users"


def test_somebody_logged_in_sees_whose_a_study_is_and_the_audit_is_told(site):
    with site.client("viktor") as client:
        assert "Canary Yellow" in client.get("/").text
        page = client.get(f"/studies/{STUDY}").text
        assert PATIENT in page
        assert ACCESSION in page
        assert client.get("/settings").status_code == 200
    events = [one["EventIdentification"]["EventID"]["csd-code"] for one in site.told]
    assert events == ["110114", "110103"], "User Authentication, DICOM Instances Accessed"
    assert PATIENT in str(site.told[1])


@pytest.mark.parametrize("what", [ACCESSION, ACCESSION.lower(), f" {PATIENT} ", STUDY, STUDY[:20], STUDY[-9:]])
def test_a_study_is_found_by_what_somebody_rings_about(site, what):
    with site.client() as client:
        answer = client.post("/search", data={"what": what})
        assert answer.headers["location"] == f"/studies/{STUDY}"


def test_what_nobody_has_is_not_found_and_stands_in_no_address(site):
    with site.client() as client:
        answer = client.post("/search", data={"what": "ACC-0816"})
        assert "No study matches" in answer.text
        assert client.get("/search?what=ACC-0815").status_code == 405
    assert site.ledger.find_term(term(bytes(32), ACCESSION)) == [], "without the key the hash says nothing"


def test_what_needs_a_look_stands_in_the_head_of_every_page(site):
    with site.client() as client:
        badge = client.get("/system/badge").text
        assert re.search(r"\d+ parts need a look", badge)
        page = client.get("/system").text
        assert "worker" in page
        assert "What to do" in page
        told = client.get("/health")
        assert told.status_code == 503
        wrong = [one for one in told.json()["parts"].values() if one["state"] != "good"]
        assert f"{len(wrong)} parts need" in badge


def test_only_an_administrator_acts(site):
    path = f"/studies/{STUDY}/rerun"
    with site.client() as nobody, site.client("viktor") as viewer, site.client("anna") as administrator:
        assert nobody.post(path, data={}).status_code == 403
        assert viewer.post(path, data={}).status_code == 403
        assert "disabled" in viewer.get(f"/studies/{STUDY}").text
        assert administrator.post(path, data={}).status_code == 400
        assert administrator.post(path, data={"what": "failed"}).status_code == 303
        assert "0 task(s) and 0 delivery(ies) will be tried again" in administrator.get(f"/studies/{STUDY}").text
    assert "anna" in str(site.told[-1])


def test_a_request_of_another_site_changes_nothing(site):
    with site.client("anna") as client:
        for headers in (
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = client.post("/queues/replay", data={}, headers=headers)
            assert answer.status_code == 403, headers
        client.headers.pop("Origin")
        assert client.post("/queues/replay", data={}).status_code == 403, "nor one that does not say where from"


def test_a_form_that_is_too_long_or_does_not_say_how_long_it_is_is_not_read(site):
    with site.client() as client:
        assert client.post("/search", data={"what": "1" * (1 << 16)}).status_code == 413
        assert client.post("/search", content=iter([b"what=1"])).status_code == 411
        assert client.post("/search", data={f"x{number}": "1" for number in range(21)}).status_code == 400


def test_a_connection_that_asks_nothing_is_ended(site, monkeypatch):
    """Few hundred of them would keep /health from answering."""
    monkeypatch.setattr(server, "_PATIENCE_SECONDS", 0.3)
    port = int(site.url.rpartition(":")[2])
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
            idle.sendall(sent)
            assert idle.recv(1) == b""
    with site.client() as client:
        assert client.get("/health/live").status_code == 200
        time.sleep(0.6)
        assert client.get("/health/live").status_code == 200, "one that has asked is kept"


def test_passwords_cannot_be_tried_one_after_the_other(site):
    with site.client() as client:
        for _ in range(5):
            assert client.post("/login", data={"name": "anna", "password": "wrong"}).status_code == 403
        answer = client.post("/login", data={"name": "anna", "password": PASSWORD})
        assert answer.status_code == 429
        assert "try again in" in answer.text
    failures = [one["EventIdentification"]["EventOutcomeIndicator"] for one in site.told]
    assert len(failures) == 5
    assert "0" not in {str(one) for one in failures}


def test_many_passwords_at_once_are_no_more_tries(site):
    """Nor do they take the memory of as many hashes, 64 MiB each."""
    with site.client() as client, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(client.post, "/login", data={"name": "anna", "password": f"wrong {n}"}) for n in range(20)]
        statuses = [one.result().status_code for one in asked]
    assert statuses.count(403) == 5
    assert statuses.count(429) == 15


def test_a_click_prolongs_a_session_and_what_a_page_asks_by_itself_does_not(site):
    with site.client("anna") as client:
        assert "set-cookie" in client.get("/settings").headers
        assert "set-cookie" not in client.get("/system/badge", headers={"HX-Request": "true"}).headers


def test_a_session_ends_with_its_user_with_another_password_and_at_logout(site):
    with site.client("viktor") as client, site.client("anna") as other:
        site.users.put("viktor", "another password", UserRole.VIEWER)
        assert client.get("/settings").status_code == 303
        assert other.get("/settings").status_code == 200
        assert other.post("/logout", data={}).status_code == 303
        assert other.get("/settings").status_code == 303


def test_after_login_one_comes_back_to_this_site_only(site):
    for asked, there in (
        ("/queues", "/queues"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil", "/"),
    ):
        with site.client() as client:
            answer = client.post("/login", data={"name": "anna", "password": PASSWORD, "next": asked})
            assert answer.headers["location"] == there


def test_pictures_are_for_users_and_only_those_of_a_view(site):
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("radiograph.jpg", b"picture")
    site.spool.write_view(site.task.task_id, "1.2.3-evidence", packed.getvalue())
    path = f"/views/{site.task.task_id}/1.2.3-evidence"
    with site.client() as nobody, site.client("viktor") as viewer:
        assert nobody.get(f"{path}/radiograph.jpg").status_code == 303
        answer = viewer.get(f"{path}/radiograph.jpg")
        assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/jpeg")
        assert answer.headers["cache-control"] == "no-store"
        for wrong in (f"{path}/view.json", f"{path}/other.jpg", f"/views/{site.task.task_id}/1.2.4/radiograph.jpg",
                      "/views/..%2f..%2fetc/passwd/x.jpg"):  # fmt: skip
            assert viewer.get(wrong).status_code == 404, wrong
        assert viewer.get(f"/studies/{STUDY}").status_code == 200, "a view that another version wrote is left out"


def test_a_dead_letter_is_seen_and_tried_again(site):
    delivery = _dead(site)
    with site.client("anna") as client:
        page = client.get("/queues").text
        assert "the PACS is full" in page
        assert STUDY in page
        assert client.post("/queues/replay", data={"study": STUDY}).headers["location"] == "/queues"
    assert [one.state for one in site.ledger.deliveries(study=STUDY)] == [DeliveryState.PENDING]
    assert site.ledger.dead_letters() == []
    assert delivery


def test_results_are_sent_again_without_being_made_again(site):
    made = _dead(site)
    site.ledger.replay_failed(STUDY, at(7))
    site.ledger.lease_deliveries(made.delivery_id, "s", at(8), 60)
    site.ledger.delivery_sent(made.delivery_id, at(9), 0)
    before = site.ledger.tasks(STUDY)
    with site.client("anna") as client:
        assert client.post(f"/studies/{STUDY}/rerun", data={"what": "results"}).status_code == 303
    assert [one.state for one in site.ledger.deliveries(study=STUDY)] == [DeliveryState.PENDING]
    assert site.ledger.tasks(STUDY) == before


def test_a_validator_is_asked_about_an_object_of_the_study_alone(site):
    made = _dead(site)
    path = f"/studies/{STUDY}/objects/{made.sop_instance_uid}/validation"
    with site.client() as nobody, site.client("viktor") as viewer:
        assert nobody.get(path).status_code == 303
        assert "not checked" in viewer.get(path).text, "its file is gone"
        assert viewer.get(f"/studies/{STUDY}/objects/1.2.3/validation").status_code == 404
        assert path in viewer.get(f"/studies/{STUDY}").text


def _dead(site):
    from working import delivery

    made = delivery(site.task.task_id)
    leased = site.ledger.lease(site.task.task_id, "w", at(3), 60)
    assert site.ledger.complete(
        leased.task_id, "w", deliveries=[made], state=StudyState.EXPLAINED, reason=None, now=at(4)
    )
    site.ledger.lease_deliveries(made.delivery_id, "s", at(5), 60)
    site.ledger.delivery_dead(made.delivery_id, "s", "the PACS is full", at(6))
    return made


def test_passwords_in_urls_are_masked():
    from dicom_node.web.operations import masked

    tree = {"node": {"database": "postgresql+psycopg://node:hunter2@db/node"}, "list": ["redis://:s3cret@r/0", "a@b"]}
    said = str(masked(tree))
    assert "hunter2" not in said
    assert "s3cret" not in said
    assert "postgresql+psycopg://node:***@db/node" in said
    assert "a@b" in said


def test_nobody_logs_in_over_a_connection_that_others_can_read(tmp_path, monkeypatch):
    monkeypatch.setattr(WebSettings, "secret", property(lambda _: False))
    made = Site(tmp_path)
    made.start(monkeypatch)
    try:
        with httpx2.Client(base_url=made.url, headers={"Origin": made.url}, trust_env=False) as client:
            answer = client.post("/login", data={"name": "anna", "password": PASSWORD})
            assert "nobody can log in" in answer.text
            assert client.get("/settings").status_code == 303
    finally:
        assert made.end()


def test_behind_a_proxy_nobody_chooses_the_address_that_is_counted_and_audited(tmp_path, monkeypatch):
    """A proxy appends the address that it sees; what stands before it the client wrote."""
    made = Site(tmp_path, proxied=True)
    made.start(monkeypatch)
    try:
        with httpx2.Client(base_url=made.url, headers={"Origin": made.url}, trust_env=False) as client:
            for number in range(6):
                headers = {"X-Forwarded-For": f"10.9.8.{number}, 203.0.113.66", "X-Forwarded-Proto": "https"}
                data = {"name": f"nobody{number}", "password": "wrong"}
                answer = client.post("/login", data=data, headers=headers)
                assert answer.status_code == (429 if number == 5 else 403)
            headers = {"X-Forwarded-For": "<script>"}
            assert client.post("/login", data=data, headers=headers).status_code == 403, "the connection's own"
    finally:
        assert made.end()
    places = {str(one) for one in made.told}
    assert all("203.0.113.66" in one for one in places if "nobody5" not in one)
    assert not any("10.9.8" in one or "script" in one for one in places)


@pytest.mark.parametrize(
    ("chosen", "secret"),
    [({}, True), ({"host": "0.0.0.0"}, False), ({"host": "::1"}, True), ({"host": "node.example"}, False),  # noqa: S104
     ({"host": "0.0.0.0", "proxied": True}, True), ({"host": "0.0.0.0", "certificate": "c", "key": "k"}, True)],  # noqa: S104
)  # fmt: skip
def test_when_a_connection_is_secret(chosen, secret):
    assert WebSettings.model_validate(chosen).secret is secret


def test_a_port_that_is_taken_is_told_with_its_setting(tmp_path):
    made = Site(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = made.settings.web.model_copy(update={"port": taken.getsockname()[1]})
        node = dataclasses.replace(made.node, settings=made.settings.model_copy(update={"web": chosen}))
        with pytest.raises(ConfigError, match=r"web\.port: 127\.0\.0\.1:\d+ cannot be used"):
            server.run(node, threading.Event())
    made.ledger.close()


def test_a_ledger_that_does_not_answer_is_said_and_ends_nothing(site, monkeypatch):
    from dicom_node.errors import OutOfResources

    def away(*_, **__):
        raise OutOfResources("the ledger does not answer (OperationalError)")

    monkeypatch.setattr(Ledger, "overview", away)
    with site.client() as client:
        answer = client.get("/")
        assert answer.status_code == 503
        assert "the ledger does not answer" in answer.text
        assert client.get("/api/studies").json() == {"error": "the ledger does not answer (OperationalError)"}
        assert client.get("/health/live").status_code == 200


def test_every_address_in_every_page_leads_somewhere(site):
    seen, waiting = set(), ["/"]
    with site.client("anna") as client:
        while waiting:
            path = waiting.pop()
            seen.add(path)
            answer = client.get(path)
            assert answer.status_code == 200, path
            found = re.findall(r'(?:href|src|hx-get)="(/[^"#]*)"', answer.text)
            waiting += [one for one in dict.fromkeys(found) if one not in seen and one not in waiting]
    assert {"/queues", "/models", "/jobs", "/destinations", "/system", "/settings", f"/studies/{STUDY}"} <= seen
    assert "/static/style.css" in seen


def test_it_stops_when_it_is_told_to(tmp_path, monkeypatch):
    made = Site(tmp_path)
    made.start(monkeypatch)
    assert made.end()
