import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from certificates import Authority, tls_settings
from pydicom import dcmread
from receiving import running
from typer.testing import CliRunner
from working import STUDY, at, delivery, instance, study, task

from dicom_node.cli import app
from dicom_node.demo.run import sample
from dicom_node.nouns import DeliveryState, StoreSize, StudyState
from dicom_node.settings.rule_tables import result_names
from dicom_node.settings.sections import DEFAULT_BUNDLE
from dicom_node.storage.ledger import Ledger
from explain_core.bundles.files import write_sums

LIGHT = (
    "receive.listener", "receive.intake", "route.dispatcher", "deliver.sender", "deliver.scu", "deliver.stow",
    "deliver.web_client", "queue.broker", "status",
    "dicom.negotiation", "storage.ledger", "storage.spool", "models.promotion", "app", "cli",
    "cli.model", "cli.retrain", "cli.audit", "demo.run",
)  # fmt: skip


def run(*arguments, cwd=".", expect=0):
    """The command in this process."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done


def test_the_listener_side_never_loads_torch():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'dicom_node.{name}')\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} loads torch')"
    )
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_is_told_as_whom_to_ask(tmp_path):
    """What root writes of users, audit trail and ledger the node could not use; the command said that all was well."""
    config = tmp_path / "node.toml"
    config.write_text('[node]\nspool = "spool"\ndatabase = "sqlite:///ledger.sqlite"\n')
    (tmp_path / "spool").mkdir()
    os.chown(tmp_path / "spool", 1, 1)
    before = sorted(tmp_path.rglob("*"))
    said = run("status", "--config", config, cwd=tmp_path, expect=2).output
    assert re.search(r"spool is daemon's, and what root writes there daemon cannot use: sudo -u daemon", said)
    assert sorted(tmp_path.rglob("*")) == before


def test_clean_says_what_would_go_and_removes_it_and_status_what_is_there(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(
        '[node]\nspool = "spool"\ndatabase = "sqlite:///ledger.sqlite"\n[retention]\nquarantine_days = 1\n'
    )
    refused = tmp_path / "spool" / "quarantine" / "Refused-1.2.3.dcm"
    refused.parent.mkdir(parents=True)
    refused.write_bytes(bytes(2_500_000))
    os.utime(refused, (0, 0))
    told = json.loads(run("clean", "--config", config, "--dry-run", "--json", cwd=tmp_path).stdout)
    gone = {"store": "quarantine", "why": "age", "items": 1, "bytes": 2_500_000}
    assert told == {"dry_run": True, "removed": [gone]}
    assert refused.exists()
    assert re.search(r"quarantine.*age.*1.*2\.5", run("clean", "--config", config, cwd=tmp_path).stdout)
    assert not refused.exists()
    assert "nothing to remove" in run("clean", "--config", config, cwd=tmp_path).stdout
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.keep_sizes([StoreSize(name="results", files=3, bytes=4_000_000, oldest=at(0), measured_at=at(9))])
    assert re.search(r"results.*3.*4\.0.*2026-03-01", run("status", "--config", config, cwd=tmp_path).stdout)
    (store,) = json.loads(run("status", "--config", config, "--json", cwd=tmp_path).stdout)["stores"]
    assert (store["name"], store["bytes"]) == ("results", 4_000_000)


def test_explain_writes_objects_and_previews_of_the_real_radiograph(tmp_path):
    command = [sys.executable, "-m", "dicom_node", "explain", sample(), "--out", tmp_path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (study,) = json.loads(done.stdout)["studies"]
    assert study["state"] == "explained"
    assert 0 < study["images"][0]["probability"] < 1
    assert [dcmread(path, stop_before_pixels=True).Modality for path in study["objects"]].count("SR") == 1
    assert len(study["objects"]) == 3
    assert all(Path(path).stat().st_size > 10_000 for path in study["previews"])
    assert len(study["previews"]) == 3
    assert {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")} == {0}, "nobody else's to read"


@pytest.mark.slow
def test_explain_makes_every_object_that_there_is(tmp_path):
    done = run("explain", sample(), "--out", tmp_path, "--objects", "all", "--json")
    (study,) = json.loads(done.stdout)["studies"]
    kinds = {Path(path).name.rsplit("-", 1)[0] for path in study["objects"]}
    assert kinds == {*result_names()} - {"parametric_map", "morphs"}, "no plane geometry, no method by attributes"
    assert len(study["previews"]) == len(study["objects"]) - 1, "of all but the key object"
    (image,) = study["images"]
    assert image["explained"] is True


def test_explain_names_decisions_that_it_does_not_explain_and_objects_that_there_are_not(tmp_path, shared_data):
    config = tmp_path / "node.toml"
    config.write_text('[results]\nexplain = "positives"\n')
    negative = shared_data / "rsna_dicom" / "dicom" / "009eb222-eabc-4150-8121-d5a6d06b8ebf.dcm"
    done = run("explain", negative, "--out", tmp_path / "out", "--config", config, "--json")
    (study,) = json.loads(done.stdout)["studies"]
    assert [(one["explained"], one["positive"]) for one in study["images"]] == [(False, False)]
    assert [Path(path).name.rsplit("-", 1)[0] for path in study["objects"]] == ["structured_report"]
    wrong = run("explain", negative, "--out", tmp_path / "no", "--objects", "hologram", expect=2)
    assert "no such result object; there is: key_object" in wrong.stderr


@pytest.mark.slow
def test_explain_by_several_methods(tmp_path):
    wrong = run("explain", sample(), "--out", tmp_path, "--methods", "similar_adversarial,gradient", expect=2)
    assert wrong.stderr.count("\n") == 1
    assert "the method gradient has no scale in this bundle; measure one" in wrong.stderr
    unknown = run("explain", sample(), "--out", tmp_path, "--methods", "guess", expect=2)
    assert "has no 'guess'; there is: " in unknown.stderr
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    with (bundle / "bundle.toml").open("a") as file:
        file.write('[heatmap.gradient]\nfull_scale = 1.0\nblur = 0.02\nunit = "logits"\n')
    write_sums(bundle)
    names = ["--methods", "gradient, similar_adversarial", "--objects", "secondary_capture"]
    done = run("explain", sample(), "--out", tmp_path / "out", *names, "--bundle", bundle, "--json")
    (study,) = json.loads(done.stdout)["studies"]
    (image,) = study["images"]
    assert list(image["methods"]) == ["gradient", "similar_adversarial"]
    assert image["methods"]["gradient"]["decision_changed"] is None
    said = [str(dcmread(path).SeriesDescription) for path in study["objects"]]
    assert [one.split(", ")[1][:8] for one in said] == ["gradient", "similar "]


def test_explain_says_what_it_cannot_read_and_why_it_leaves_things_out(tmp_path, shared_data):
    rubbish = tmp_path / "rubbish.dcm"
    rubbish.write_bytes(b"not DICOM at all")
    hand = shared_data / "dicom" / "nema_wg04" / "RG3_J2KR.dcm"
    done = run("explain", rubbish, hand, "--out", tmp_path / "out", "--json", expect=1)
    answer = json.loads(done.stdout)
    assert "rubbish.dcm" in answer["unreadable"][0]
    (study,) = answer["studies"]
    assert study["state"] == "ignored"
    assert "chest" in study["reason"]
    (report,) = study["objects"]
    assert dcmread(report).Modality == "SR"


def test_rules_test_explains_each_decision(shared_data):
    folder = shared_data / "dicom"
    done = run("rules", "test", sample(), folder / "nih_google_udacity" / "test5.dcm")
    assert f"{sample()}: explain" in done.stdout
    assert "test5.dcm: ignore" in done.stdout
    assert "Modality" in done.stdout
    assert "[CT]" in done.stdout


def test_wrong_configuration_is_one_line_with_file_line_and_key(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text("[node]\nport = 11112\nprot = 1\n")
    for command in (("check-config",), ("serve",), ("status",)):
        done = run(*command, "--config", config, expect=2)
        assert done.stderr.count("\n") == 1
        assert f"{config}:3" in done.stderr
        assert "prot" in done.stderr


TLS = """[node]
calling_ae_titles = ["EXPLAIN"]
[tls]
certificate = "{0.certificate}"
key = "{0.key}"
authorities = "{0.authorities}"
[[destinations]]
name = "pacs"
ae_title = "EXPLAIN"
host = "127.0.0.1"
port = {1}
tls = true
[[destinations]]
name = "plain"
ae_title = "EXPLAIN"
host = "127.0.0.1"
port = {1}
"""


def test_echo_asks_a_destination_over_tls_and_says_in_one_line_why_not(tmp_path):
    files = Authority(tmp_path / "authority").issue("node")
    config = tmp_path / "node.toml"
    with running(tmp_path / "peer", tls=tls_settings(files), calling_ae_titles="EXPLAIN") as peer:
        config.write_text(TLS.format(files, peer.listener.tls_port))
        assert run("echo", "pacs", "--config", config).stdout.splitlines()[-1].endswith("answers C-ECHO over TLS")
        done = run("echo", "plain", "--config", config, expect=1)
        assert done.stdout.splitlines()[-1].startswith("plain: FAILED (DICOM")
        done = run("echo", "paks", "--config", config, expect=2)
        assert "there is no destination 'paks'" in done.stderr


def test_files_of_tls_that_cannot_be_used_are_one_line_before_anything_runs(tmp_path):
    authority = Authority(tmp_path / "authority")
    files, config = authority.issue("node"), tmp_path / "node.toml"
    config.write_text(TLS.format(files, 104))
    assert "ok:" in run("check-config", "--config", config, cwd=tmp_path).stdout
    late = authority.issue("node", ends=-0.5)
    done = run("check-config", "--config", config, expect=2, cwd=tmp_path)
    assert f"error: tls.certificate: {late.certificate} expired on " in done.stderr
    files.key.write_bytes(authority.issue("other").key.read_bytes())
    for command in (("check-config",), ("serve",), ("serve", "--only", "listener")):
        done = run(*command, "--config", config, expect=2, cwd=tmp_path)
        assert f"error: tls.key: {files.key} is not the key of {files.certificate}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("node.spool", 'spool = "FILE/spool"'),
        ("node.database", 'database = "sqlite:///FILE/ledger.sqlite"'),
        ("audit.folder", '[audit]\nfolder = "FILE"'),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_by_its_key_before_anything_runs(key, line, tmp_path):
    """The node started its roles again and again, each with a trace that named no key."""
    (tmp_path / "file").touch()
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\n{line.replace('FILE', str(tmp_path / 'file'))}\n")
    for command in (("check-config",), ("worker",), ("serve",), ("serve", "--only", "retention")):
        said = run(*command, "--config", config, expect=2, cwd=tmp_path).stderr
        what = rf"error: {key}: {tmp_path}/file\S* cannot be (made|written): .* is a file: .*chown.*\n"
        assert re.fullmatch(what, said)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "node.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_spool_of_another_user_is_refused_with_the_reason(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    code = f"""
        import os
        from dicom_node.cli._places import check_folders
        from dicom_node.errors import ConfigError
        from dicom_node.settings.sections import NodeSettings, Settings
        os.chdir({str(tmp_path)!r})
        os.setresuid(65534, 65534, 65534)
        try:
            check_folders(Settings(node=NodeSettings(spool={str(tmp_path)!r} + "/theirs/spool")))
        except ConfigError as error:
            print(error)
    """
    os.chmod(tmp_path, 0o755)  # noqa: S103, PTH101
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"node.spool: {tmp_path}/theirs/spool cannot be made: "), done.stderr


def test_a_method_without_a_scale_is_refused_before_anything_runs(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text('[results]\nmethods = ["grad_cam"]\n')
    for command in (("check-config",), ("worker",), ("serve", "--only", "worker")):
        done = run(*command, "--config", config, expect=2, cwd=tmp_path)
        said = done.stderr.strip().splitlines()[-1]
        assert said.startswith("error: model.bundle: the method grad_cam has no scale in this bundle; "), done.stderr
        assert "`python -m training scale BUNDLE --method grad_cam --data READER:FOLDER`" in said


def test_a_model_in_onnx_is_refused_where_its_runtime_is_missing_and_only_there(tmp_path, monkeypatch):
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    (tmp_path / "bundle" / "classifier.safetensors").rename(tmp_path / "bundle" / "classifier.onnx")
    config = tmp_path / "node.toml"
    config.write_text(f'[model]\nbundle = "{tmp_path}/bundle"\n')
    assert "ok:" in run("check-config", "--config", config, cwd=tmp_path).stdout
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    said = run("check-config", "--config", config, cwd=tmp_path, expect=2).stderr
    assert re.fullmatch(r"error: model\.bundle: .* ONNX Runtime is not installed: run pip install .*\n", said)
    monkeypatch.setitem(sys.modules, "torch", None)  # a machine of the light roles
    assert "ok:" in run("check-config", "--config", config, cwd=tmp_path).stdout


def test_a_damaged_bundle_is_refused_with_the_files_name(tmp_path, root):
    copy = tmp_path / "bundle"
    shutil.copytree(root / "dicom_node" / "bundles" / "default", copy)
    with (copy / "generators.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff\xff\xff")
    done = run("explain", sample(), "--bundle", copy, "--out", tmp_path / "out", expect=2)
    assert "generators.safetensors" in done.stderr
    assert "checksum" in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_to_read_and_nowhere_to_write_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\nspool = "{tmp_path}/spool"\n')
    for command in (("rules", "test", tmp_path / "empty"), ("explain", tmp_path / "empty", "--out", tmp_path / "out")):
        assert run(*command, "--config", config, expect=1).stderr == "error: no DICOM file among what was named\n"
    said = run("explain", sample(), "--out", tmp_path / "file", "--config", config, expect=1).stderr
    assert said == f"error: {tmp_path}/file: File exists\n"


def test_status_and_rerun_of_an_empty_node(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\nspool = "{tmp_path}/spool"\n')
    for command in (("status",), ("rerun", "--failed"), ("verdict", "--list"), ("drift",), ("alert", "list")):
        said = run(*command, "--config", config, expect=2).stderr
        assert f"error: there is no ledger at {tmp_path}/ledger.sqlite: name the node's settings" in said
    assert not (tmp_path / "ledger.sqlite").exists(), "an empty one would answer for another node"
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.create()
    ledger.close()
    assert json.loads(run("status", "--config", config, "--json").stdout)["studies"] == []
    assert "0 task(s)" in run("rerun", "--failed", "--config", config).stdout
    assert "0 task(s)" in run("rerun", "--ignored", "--config", config).stdout
    run("rerun", "--config", config, expect=2)
    run("rerun", "--ignored", "--failed", "--config", config, expect=2)
    run("rerun", "1.2.3", "--config", config, expect=1)


def test_status_shows_downgrades_and_rerun_offers_the_objects_again(tmp_path):
    config, url = tmp_path / "node.toml", f"sqlite:///{tmp_path}/ledger.sqlite"
    config.write_text(f'[node]\ndatabase = "{url}"\nspool = "{tmp_path}/spool"\n')
    ledger = Ledger(url)
    ledger.create()
    ledger.add_instance(instance(1))
    revision = study(instance(1))
    ledger.mark_ready(revision, [task(revision)], at(20))
    ledger.lease("t1", "w", at(30), 60)
    owed = [
        delivery(number=1, kind="segmentation", fallback="overlay"),
        delivery(number=2, kind="overlay", state=DeliveryState.STANDBY),
    ]
    ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=at(40))
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60)
    ledger.delivery_refused("t1-1-pacs", "s", "Segmentation Storage is not taken", at(51))
    status = json.loads(run("status", "--config", config, "--json").stdout)
    assert status["counts"]["deliveries"] == {"downgraded": 1, "pending": 1}
    assert status["downgrades"] == [
        {
            "destination": "pacs",
            "kind": "segmentation",
            "stand_in": "overlay",
            "reason": "Segmentation Storage is not taken",
            "count": 1,
        }
    ]
    text = run("status", "--config", config).stdout
    assert "Downgrades" in text
    assert "downgraded 1" in text
    assert all(word in text for word in ("segmentation", "overlay", "pacs"))
    assert "0 delivery(ies)" in run("rerun", "--failed", "--config", config).stdout
    assert json.loads(run("rerun", STUDY, "--failed", "--json", "--config", config, expect=1).stdout) == {
        "tasks": 0,
        "deliveries": 0,
        "studies": 0,
    }
    assert "1 delivery(ies)" in run("rerun", STUDY, "--config", config).stdout
    assert {one.kind: one.state.value for one in ledger.deliveries()} == {
        "segmentation": "pending",
        "overlay": "standby",
    }
    assert json.loads(run("status", "--config", config, "--json").stdout)["downgrades"] == []
    ledger.close()


def test_status_shows_what_is_sent_and_not_committed(tmp_path):
    config, url = tmp_path / "node.toml", f"sqlite:///{tmp_path}/ledger.sqlite"
    config.write_text(f'[node]\ndatabase = "{url}"\nspool = "{tmp_path}/spool"\n')
    ledger = Ledger(url)
    ledger.create()
    ledger.add_instance(instance(1))
    ledger.mark_ready(study(instance(1)), [task(study(instance(1)))], at(20))
    ledger.lease("t1", "w", at(30), 60)
    owed = [delivery(number=1), delivery(number=2)]
    ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=at(40))
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60)
    for one in owed:
        ledger.delivery_sent(one.delivery_id, at(51), 0, commitment=True)
    opened = ledger.open_commitment("pacs", "PACS", at(52), 60, patience=60)
    assert "no answer yet" in run("status", "--config", config).stdout
    ledger.close_commitment(opened.transaction_uid, "it does not take it", lambda _: at(99), at(53))
    status = json.loads(run("status", "--config", config, "--json").stdout)
    assert status["uncommitted"] == [{"destination": "pacs", "reason": "it does not take it", "count": 2}]
    assert status["counts"]["deliveries"] == {"sent": 2}
    assert (status["counts"]["commitments"], status["counts"]["commitment_reports"]) == ({"closed": 1}, {})
    text = run("status", "--config", config).stdout
    assert "not committed" in text
    assert "it does not take it" in text
    ledger.close()


def test_the_example_configuration_is_valid(root):
    assert "ok:" in run("check-config", "--config", root / "deploy" / "dicom-node.toml").stdout


@pytest.mark.parametrize("command", ["status", "rerun --failed", "drift", "model list", "serve --only dispatcher"])
def test_a_ledger_of_another_schema_is_refused_in_one_line(command, tmp_path, root):
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as old:
        old.executescript((root / "tests" / "golden" / "ledger_0001_sqlite.sql").read_text())
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nspool = "{tmp_path}/spool"\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\n'
        f'[audit]\nfolder = "{tmp_path}/audit"\n'
    )
    said = run(*command.split(), "--config", config, expect=2).stderr.strip()
    assert re.fullmatch(r"error: .*the ledger has the schema 0001, .*`dicom-node migrate`.*", said)
