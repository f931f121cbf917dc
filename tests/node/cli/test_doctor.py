"""`dicom-node doctor`: each thing that can be wrong is found, and said with what to do."""

import json
import os
import sys
import time

import pytest
from typer.testing import CliRunner
from working import Peer, RedisServer, free_port, short_folder

from dicom_node.cli import app


@pytest.fixture
def site(tmp_path):
    """Settings of a node whose Redis and PACS are there."""
    spool = tmp_path / "spool"
    with short_folder() as folder:
        pacs = Peer().start()
        redis = RedisServer(folder)
        redis.start()
        file = tmp_path / "node.toml"
        file.write_text(f"""
[node]
spool = "{spool}"
database = "sqlite:///{tmp_path}/ledger.sqlite"
calling_ae_titles = ["PACS"]
low_water_mb = 1
[broker]
url = "{redis.url}"
[audit]
folder = "{tmp_path}/audit"
[export]
key = "{tmp_path}/export.key"
[retraining]
jobs = "{tmp_path}/jobs"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs.port}
""")
        spool.mkdir(mode=0o700)
        yield file, redis, pacs
        redis.stop()
        pacs.stop()


def looked(file, *, well):
    done = CliRunner().invoke(app, ["doctor", "--config", str(file), "--no-model", "--json"])
    assert done.exit_code == (0 if well else 1), done.output
    return {one["what"]: (one["good"], one["said"]) for one in json.loads(done.stdout)}


def test_a_node_that_is_well(site):
    file, *_ = site
    found = looked(file, well=True)
    assert {*found} == {"disk", "permissions", "clock", "ledger", "redis", "certificates", "senders", "pacs"}
    assert {good for good, _ in found.values()} == {True}
    assert not (file.parent / "ledger.sqlite").exists(), "nothing is made"


@pytest.mark.slow
def test_an_object_store_is_tried_and_what_is_wrong_with_it_said(site, hosts):
    file, *_ = site
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in hosts.table.items())
    file.write_text(f"{file.read_text()}\n[store]\n{table}\n")
    assert "written, confirmed, read and removed" in looked(file, well=True)["store"][1]
    assert hosts.objects("probe") == []
    hosts.server.line.away = True
    good, said = looked(file, well=False)["store"]
    assert not good
    assert "the object store does not answer" in said
    assert "store.endpoint" in said


def test_what_others_may_read_is_named(site):
    file, *_ = site
    for name in ("spool/instances/1.2/1.2.3.dcm", "export.key"):
        path = file.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        path.chmod(0o644)
    (file.parent / "spool").chmod(0o755)
    good, said = looked(file, well=False)["permissions"]
    assert not good
    assert said.startswith(
        f"others may read {file.parent}/export.key, {file.parent}/spool/instances/1.2/1.2.3.dcm: chmod"
    )
    (file.parent / "spool").chmod(0o700)
    (file.parent / "export.key").chmod(0o600)
    assert looked(file, well=True)["permissions"][0], "nobody gets to what lies in a folder of one's own"


def test_what_is_away_or_full_or_open_to_all_is_said_with_what_to_do(site):
    file, redis, pacs = site
    redis.stop()
    text = file.read_text().replace("low_water_mb = 1", "low_water_mb = 1000000000").replace('["PACS"]', "[]")
    file.write_text(text.replace(f"port = {pacs.port}", f"port = {free_port()}"))
    found = looked(file, well=False)
    assert found["redis"][1].endswith("start Redis, or see broker.url; what is received waits in the ledger meanwhile")
    assert "objects are refused below 1,000,000,000 MB" in found["disk"][1]
    assert found["senders"] == (False, "nobody may send: node.calling_ae_titles is empty")
    assert "see host and port" in found["pacs"][1]
    assert [what for what, (good, _) in found.items() if good] == ["permissions", "clock", "ledger", "certificates"]


def test_a_clock_that_differs_from_the_spools_is_found(site, monkeypatch):
    file, *_ = site
    real = os.stat
    late = time.time() - 100

    def stat(path, *arguments, **options):
        found = real(path, *arguments, **options)
        return os.stat_result((*found[:7], late, late, late)) if ".doctor-" in str(path) else found

    monkeypatch.setattr("os.stat", stat)
    good, said = looked(file, well=False)["clock"]
    assert not good
    assert said.endswith("have both follow one NTP server")


def test_a_machine_without_pytorch_has_workers_elsewhere(site, monkeypatch):
    file, *_ = site
    monkeypatch.setitem(sys.modules, "torch", None)
    done = CliRunner().invoke(app, ["doctor", "--config", str(file), "--json"])
    assert done.exit_code == 0, done.output
    (model,) = [one for one in json.loads(done.stdout) if one["what"] == "model"]
    assert model["said"].startswith("PyTorch is not installed here")


def test_a_table_for_people_shows_what_is_wrong(site):
    file, *_ = site
    file.write_text(file.read_text().split("[[destinations]]")[0])
    done = CliRunner().invoke(app, ["doctor", "--config", str(file), "--no-model"], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "WRONG" in done.stdout
    assert "add a [[destinations]] table" in done.stdout
