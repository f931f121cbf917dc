"""Nothing of a patient is where it should not be: a study full of canaries goes through everything that a node does."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import canaries
import httpx2
import psutil
import pytest
from auditing import events, lines
from canaries import ACCESSION, PATIENT_ID, ROOT, TOKENS, files_of, image, leaks, leaks_of
from pydicom import Dataset
from pynetdicom import AE
from retraining import job_text
from working import Peer, RedisServer, free_port, settings, short_folder, wait_for

import dicom_node
from dicom_node.deliver import scu
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import DeliveryState, Destination
from dicom_node.storage.ledger import Ledger
from dicom_node.watch.audit_verify import verify
from dicom_node.web.users import UserRole, Users

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
PASSWORD = "correct horse battery"  # noqa: S105
PROCESSES = str(Path(__file__).with_name("processes.py"))
ROLES = ("listener", "dispatcher", "sender", "worker")
CONFIG = """
[node]
port = {port}
calling_ae_titles = ["MODALITY"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 0
[audit]
folder = "{folder}/audit"
[metrics]
folder = "{folder}/metrics"
[study]
quiet_seconds = 1
[broker]
url = "{redis}"
[model]
device = "cpu"
augmentations = 0
store = "{folder}/models"
[registry]
uri = "sqlite:///{folder}/mlflow.sqlite"
artifacts = "{folder}/artifacts"
[retraining]
jobs = "{folder}/jobs"
nice = 0
[export]
key = "{folder}/export.key"
[results]
objects = {objects}
[delivery]
retry_seconds = 0.2
max_attempts = 2
timeout = 10
[web]
port = {web}
users = "{folder}/users.toml"
session_key = "{folder}/session.key"
search_key = "{folder}/search.key"
[logging]
level = "debug"
json = true
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
synthetic_images = true
[[destinations]]
name = "refusing"
ae_title = "PACS"
host = "127.0.0.1"
port = {refusing}
[[destinations]]
name = "away"
ae_title = "AWAY"
host = "127.0.0.1"
port = {away}
"""


# The search itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", TOKENS)
def test_the_search_finds_every_canary_in_every_form(token):
    import base64

    text = f"before {token} after"
    forms = [text.encode(), text.upper().encode(), text.encode("utf-16-le"), json.dumps(text).encode()]
    forms += [repr(text).encode(), text.encode().hex().encode(), ascii(text).encode()]
    forms += [base64.b64encode(b"x" * shift + text.encode()) for shift in range(3)]
    for form in forms:
        assert token in leaks(form), form
    assert token in leaks_of({f"folder/{token}.dcm": b""})[f"folder/{token}.dcm"]


def test_the_search_finds_nothing_in_what_is_clean():
    assert leaks(os.urandom(1 << 20)) <= {"柊崎"}, "but for chance: it is short in some encodings"
    assert leaks(json.dumps({"study": ROOT, "state": "explained"}).encode()) == set()


def test_a_canary_is_where_its_image_has_it():
    found = leaks(canaries.file(image(1)))
    found |= leaks(canaries.file(canaries.in_latin_1_said_to_be_utf_8(1, 1)))
    found |= leaks(canaries.file(canaries.in_kanji(1, 1)))
    found |= leaks(canaries.file(canaries.malformed(1, 1))) | leaks(canaries.file(canaries.without_use(1, 1)))
    assert found >= {token for token in TOKENS if token not in {"Qzpeername", "Qzrubbish", "Qzsurplus"}}


# A node of toys: quick ---------------------------------------------------------------------------------------------


class Watcher(threading.Thread):
    """Writes down what goes to Redis, and how the processes of this one were started, as long as it runs."""

    def __init__(self, redis) -> None:
        super().__init__(daemon=True)
        self.commands = []
        self.kept = {}
        self.started = {}
        self._redis = redis
        self._ending = threading.Event()
        self._monitor = threading.Thread(target=self._listen, daemon=True)

    def start(self):
        self._monitor.start()
        wait_for(lambda: self.commands, what="the monitor")
        super().start()
        return self

    def _listen(self):
        with self._redis.client() as client, client.monitor() as monitor:
            self.commands.append("begun")
            with contextlib.suppress(Exception):  # it ends with the server
                for command in monitor.listen():
                    self.commands.append(command["command"])

    def run(self):
        while not self._ending.wait(0.2):
            self.look()

    def look(self):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                told = " ".join(child.cmdline()) + "\n" + json.dumps(child.environ())
                self.started[f"process {child.pid} {child.name()}"] = told.encode()
        with self._redis.client() as client, contextlib.suppress(Exception):
            for key in client.keys("*"):
                self.kept[f"redis {key.decode()}"] = self.kept.get(f"redis {key.decode()}", b"") + client.dump(key)

    def stop(self):
        self._ending.set()
        self.join(20)
        self.look()

    def places(self):
        return {"redis monitor": "\n".join(map(str, self.commands)).encode()} | self.kept | self.started


def table_texts(path):
    """Every cell of a ledger, by table."""
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        names = [row[0] for row in ledger.execute("select name from sqlite_master where type = 'table'")]
        return {f"table {name}": repr(ledger.execute(f"select * from {name}").fetchall()).encode() for name in names}  # noqa: S608


def send(port, *datasets, title="MODALITY"):
    """The answers to C-STORE requests; what a peer's library would not send is sent as the bytes that it is."""
    entity = AE(title)
    entity.dimse_timeout = entity.network_timeout = 30
    for one in (CR, DX):
        entity.add_requested_context(one, EXPLICIT)
    association = entity.associate("127.0.0.1", port, ae_title="EXPLAIN")
    if not association.is_established:
        return None
    connection = association.dul.socket.socket
    try:
        return [association.send_c_store(ds) for ds in datasets]
    finally:
        association.release()
        connection.close()


def listening(port):
    there = Destination(name="x", ae_title="EXPLAIN", host="127.0.0.1", port=port)

    def answers():
        try:
            return scu.echo(there, calling_ae_title="MODALITY", timeout=5) == 0
        except DeliveryUnreachable:
            return False

    wait_for(answers, 120, "the listener")


@pytest.mark.slow
def test_nothing_of_the_patient_is_in_redis_in_a_log_in_the_ledger_or_in_a_name():
    with short_folder() as folder, contextlib.ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        pacs, port = Peer().start(), free_port()
        stack.callback(pacs.stop)
        made = settings(
            folder,
            ("pacs", "PACS", pacs.port),
            node={
                "spool": str(folder / "spool"),
                "database": f"sqlite:///{folder}/ledger.sqlite",
                "low_water_mb": 0,
                "port": port,
                "calling_ae_titles": ["MODALITY"],
            },
            study={"quiet_seconds": 0.5},
            broker={"url": redis.url},
            logging={"level": "debug"},
        )
        (folder / "settings.json").write_text(made.model_dump_json(by_alias=True))
        (folder / "go").touch()
        ledger = Ledger(made.node.database)
        ledger.create()
        stack.callback(ledger.close)
        watcher = Watcher(redis).start()
        with contextlib.ExitStack() as roles:
            for role in ROLES:
                log = roles.enter_context((folder / f"{role}.log").open("wb"))
                process = subprocess.Popen([sys.executable, PROCESSES, role, str(folder)], stdout=log, stderr=log)
                roles.callback(process.wait, 60)
                roles.callback(process.terminate)
            listening(port)
            assert [one.Status for one in send(port, image(1), canaries.in_latin_1_said_to_be_utf_8(2, 2))] == [0, 0]
            assert send(port, image(1, PatientName="Qzsurplus^Name"))[0].Status == 0x0111
            wait_for(lambda: ledger.counts()["studies"] == {"explained": 2}, 120, "results")
            wait_for(lambda: set(ledger.counts()["deliveries"]) <= {"sent", "standby"}, 60, "deliveries")
            watcher.stop()
        places = watcher.places() | table_texts(folder / "ledger.sqlite")
        places |= files_of(folder, *(folder / "spool" / one for one in ("instances", "outbox", "quarantine")))
        assert b"delivered" in places["sender.log"]
        assert b"explain" in places["redis monitor"]
        assert ROOT.encode() in places["table instances"]
        assert leaks_of(places) == {}


# A whole node ------------------------------------------------------------------------------------------------------


class TalkativePeer(Peer):
    """Refuses everything, and says of whom it speaks."""

    def _store(self, event):
        answer = Dataset()
        answer.Status, answer.ErrorComment = (
            0xC000,
            f"cannot understand Qzpeername {event.dataset.get('PatientName', '')}"[:64],
        )
        return answer


class Node:
    """Redis, destinations and the roles as an administrator starts them, at the most talkative level."""

    def __init__(self, folder: Path, parts: Path, stack: contextlib.ExitStack) -> None:
        shutil.copytree(parts, folder, dirs_exist_ok=True)
        self.folder, self.port, self.web = folder, free_port(), free_port()
        self.redis = RedisServer(folder)
        self.redis.start()
        stack.callback(self.redis.stop)
        self.pacs, self.refusing = Peer().start(), TalkativePeer().start()
        stack.callback(self.pacs.stop)
        stack.callback(self.refusing.stop)
        self.config = folder / "node.toml"
        objects = json.dumps(["secondary_capture", "structured_report", "presentation_state", "report_page"])
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                port=self.port,
                web=self.web,
                redis=self.redis.url,
                objects=objects,
                pacs=self.pacs.port,
                refusing=self.refusing.port,
                away=free_port(),
            )
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOM_NODE_")}
        self.environment = environment | {"PYTHONPATH": str(Path(dicom_node.__file__).parents[1])}
        self.said: dict[str, bytes] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dicom_node", *words, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
            )

    def stop(self) -> dict[str, int]:
        for process in self.processes.values():
            process.terminate()
        return {name: process.wait(60) for name, process in self.processes.items()}

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def run(self, *words: object, status: int | None = 0) -> str:
        """A command; what it says is kept to be looked through."""
        command = [sys.executable, "-m", "dicom_node", *map(str, words)]
        if words[0] != "conformance":
            command += ["--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, env=self.environment, cwd=self.folder, check=False)
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, said.decode()
        self.said[f"output {len(self.said)} of {' '.join(map(str, words[:2]))}"] = said
        return done.stdout.decode()


def odd_files(folder: Path) -> Path:
    """Files that only `explain` gets, among them some that are none."""
    folder.mkdir()
    (folder / "good.dcm").write_bytes(canaries.file(image(1, 8)))
    (folder / "cut.dcm").write_bytes(canaries.file(image(2, 8))[:2000])
    (folder / "words.dcm").write_bytes(canaries.file(canaries.malformed(3, 8)))
    (folder / "none.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Qzrubbish Qzfamily" * 40)
    return folder


def everything_that_a_node_does(node: Node) -> None:
    """Receive, explain, deliver, fail to, quarantine, ask, export, submit."""
    folder, ledger = node.folder, Ledger(f"sqlite:///{node.folder}/ledger.sqlite")
    Users(folder / "users.toml").put("anna", PASSWORD, UserRole.ADMINISTRATOR)
    for role in (*ROLES, "web"):
        node.start(role, "serve", "--only", role)
    listening(node.port)
    good = [image(1), image(2, 2, ViewPosition="LL"), canaries.in_latin_1_said_to_be_utf_8(3, 3)]
    good += [canaries.in_kanji(4, 4), canaries.malformed(5, 5), canaries.without_use(6, 6)]
    good += [image(7, 7, PixelData=b"\0" * 10), image(8, 1, PatientID="QZPID77009")]
    assert {one.Status for one in send(node.port, *good)} == {0}
    refused = [image(1, PatientName="Qzsurplus^Name"), image(9, StudyInstanceUID=None), image(10, SOPClassUID=DX)]
    refused[2].file_meta.MediaStorageSOPClassUID = CR
    assert all(one.Status for one in send(node.port, refused[0], refused[1]))
    assert send(node.port, image(11), title="STRANGER") is None

    def settled():
        counts = ledger.counts()
        return (
            sum(counts["studies"].values()) == 7
            and set(counts["studies"]) <= {"explained", "ignored", "failed"}
            and {one.destination for one in ledger.deliveries(state=DeliveryState.PENDING)} == {"away"}
            and [one.destination for one in ledger.unreachable()] == ["away"]
        )

    wait_for(settled, 400, "every study answered, and nothing owed but to the destination that is away")
    assert {"sent", "dead"} <= set(ledger.counts()["deliveries"])
    ledger.close()
    assert node.pacs.uids
    look_at_the_dashboard(node)
    node.run("status")
    node.run("status", "--json")
    node.run("rerun", f"{ROOT}.99", status=1)
    node.run("drift", status=None)
    node.run("drift", "--json", "--metrics", folder / "node.prom", status=None)
    node.run("check-config")
    node.run("verdict", f"{ROOT}.1", "agree", status=None)
    node.run("verdict", "--list")
    node.run("explain", odd_files(folder / "spool" / "given"), "--out", folder / "spool" / "explained", status=1)
    node.run("model", "list", status=None)
    export_and_train(node)
    node.run("audit", "verify")


def look_at_the_dashboard(node: Node) -> None:
    """Every page, as somebody sees it who is not logged in; some as a user sees them, whose patients stand there."""
    site = f"http://127.0.0.1:{node.web}"
    with httpx2.Client(base_url=site, headers={"Origin": site}, trust_env=False, timeout=60) as client:
        pages = ["/", "/queues", "/models", "/jobs", "/destinations", "/system", "/api/studies", "/api/queues"]
        for path in (*pages, f"/studies/{ROOT}.1", f"/api/studies/{ROOT}.2"):
            node.said[f"page {path}"] = client.get(path).content
        answer = client.post("/search", data={"what": ACCESSION})
        assert f"{ROOT}.1" in answer.text + answer.headers.get("location", "")
        node.said["page of a search"] = answer.content + json.dumps(dict(answer.headers)).encode()
        node.said["page of a login"] = client.post("/login", data={"name": "x", "password": "Qzsurplus"}).content
        client.post("/login", data={"name": "anna", "password": PASSWORD})
        assert PATIENT_ID in client.get("/").text
        assert PATIENT_ID in client.get(f"/studies/{ROOT}.1").text
        client.post("/logout", data={})


def export_and_train(node: Node) -> None:
    folder, tables = node.folder, node.folder / "spool" / "tables"
    tables.mkdir()
    table = tables / "labels.csv"
    table.write_text(f"accession_number,target\n{ACCESSION},1\n")
    node.run("export", "--out", folder / "set", "--labels", table, status=1)  # several studies have that number
    table.write_text(f"accession_number,target\nQzsurplus,1\n{ACCESSION},Qzsurplus\n{ACCESSION},0\n")
    node.run("export", "--out", folder / "set", "--labels", table, status=1)
    node.run("export", "--out", folder / "set", "--labels", table, "--json", status=1)
    table.write_text(f"Qzfamily,Qzgiven\n{ACCESSION},1\n")
    node.run("export", "--out", folder / "set", "--labels", table, status=1)
    table.write_bytes(f"accession_number,target\n{ACCESSION},Qzlatinname Müller\n".encode("latin-1"))
    node.run("retrain", "submit", job(node), "--labels", table, status=1)
    table.write_text(f"study_instance_uid,target\n{ROOT}.1,1\n{ROOT}.3,0\n")
    node.run("export", "--out", folder / "set", "--labels", table)
    node.run("export", "--out", folder / "all", "--unlabelled", "--json")
    submitted = json.loads(node.run("retrain", "submit", job(node), "--labels", table, "--json"))["job"]
    node.start("training", "retrain", "worker", "--every", "0.5")

    def ended():
        return json.loads(node.run("retrain", "status", submitted, "--json"))["state"] not in {"queued", "running"}

    wait_for(ended, 200, "the job")
    node.run("retrain", "status")
    node.run("retrain", "logs", submitted)


def job(node: Node) -> Path:
    file = node.folder / "job.toml"
    if not file.exists():
        nothing = {"data": {"sources": None}, "registry": {"uri": None, "artifacts": None}}
        file.write_text(job_text(node.folder, node.folder / "champion", **nothing))
    return file


@pytest.fixture(scope="module")
def aftermath(parts):
    """What a node has left everywhere after a study of canaries: contents by place."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        node = Node(folder, parts, stack)
        stack.callback(node.kill)
        watcher = Watcher(node.redis).start()
        everything_that_a_node_does(node)
        statuses = node.stop()
        watcher.stop()
        spool = folder / "spool"
        patients = ("instances", "outbox", "quarantine", "given", "explained", "tables")
        files = files_of(folder, *(spool / one for one in patients))
        yield {
            "statuses": statuses,
            "audit": {name: data for name, data in files.items() if name.startswith("audit/audit-")},
            "messages": lines(folder / "audit"),
            "events": events(folder / "audit"),
            "verdict": verify(folder / "audit"),
            "files": {name: data for name, data in files.items() if not name.startswith("audit/audit-")},
            "ledger": table_texts(folder / "ledger.sqlite"),
            "watched": watcher.places(),
            "said": node.said,
        }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_study_went_through_everything(aftermath):
    files = aftermath["files"]
    assert aftermath["statuses"] == dict.fromkeys((*ROLES, "web", "training"), 0)
    for name, expected in (
        ("listener.log", b'"event": "stored"'),
        ("listener.log", b'"event": "object refused"'),
        ("worker.log", b'"event": "task finished"'),
        ("sender.log", b'"event": "delivered"'),
        ("sender.log", b'"event": "dead letter"'),
        ("worker.log", b'"level": "debug"'),
        ("training.log", b"job ended"),
    ):
        assert expected in files[name], name
    assert any(name.startswith("spool/quarantine/Conflict") for name in files)
    assert any(name.startswith("set/images/") for name in files)
    assert b"dicom_node_" in files["node.prom"]
    assert ROOT.encode() in aftermath["ledger"]["table quarantine"]
    assert any("explain" in name for name in aftermath["said"])
    assert len(aftermath["watched"]) > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["files", "ledger", "watched", "said"])
def test_nothing_of_the_patient_is_anywhere_but_in_the_spool_and_in_the_audit(aftermath, where):
    assert leaks_of(aftermath[where]) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_audit_names_the_patient_by_id_where_the_standard_has_it_and_nowhere_else(aftermath):
    assert aftermath["verdict"].fault == ""
    ids = set()
    for message in aftermath["messages"]:
        objects = message.get("ParticipantObjectIdentification", [])
        for one in objects:
            if one["ParticipantObjectTypeCode"] == "1":
                ids.add(one["ParticipantObjectID"])
                assert one["ParticipantObjectName"] == ""
                one["ParticipantObjectID"] = ""
        assert leaks(json.dumps(message, ensure_ascii=False).encode()) == set(), message
    assert {PATIENT_ID, "QZPID77009"} <= ids
    assert len(ids) == 3, "the third one's bytes are not of the character set that it declares"
    assert {
        "Application Activity: Application Start",
        "Application Activity: Application Stop",
        "Begin Transferring DICOM Instances",
        "DICOM Instances Transferred",
        "Export",
        "Security Alert: Node Authentication",
        "Audit Log Used",
        "DICOM Instances Accessed",
        "User Authentication: Login",
        "User Authentication: Logout",
    } == set(aftermath["events"])
