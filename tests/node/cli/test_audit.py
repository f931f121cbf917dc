"""`dicom-node audit verify`, and what commands and roles leave in the trail."""

import json
import re
import shutil

import pytest
from auditing import events, lines
from exporting import Node, film
from typer.testing import CliRunner

from dicom_node.app import audited
from dicom_node.cli import app
from dicom_node.errors import ConfigError
from dicom_node.settings.loading import load_settings
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_trail import Trail, files
from dicom_node.watch.audit_verify import verify


@pytest.fixture
def site(tmp_path):
    """A settings file and a trail of four lines."""
    config = tmp_path / "node.toml"
    config.write_text(f'[audit]\nfolder = "{tmp_path}/audit"\n')
    audit = Audit("listener", "EXPLAIN", Trail(tmp_path / "audit").append)
    for number in range(4):
        audit.login(f"user{number}", "127.0.0.1")
    return tmp_path


def run(site, *arguments, expect=0):
    done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(site / "node.toml")])
    assert done.exit_code == expect, done.output + done.stderr
    return done


def change(folder):
    path = files(folder)[-1]
    path.write_bytes(path.read_bytes().replace(b"user2", b"userX"))


def test_a_sound_trail_is_said_with_its_end_and_the_look_is_in_it(site):
    said = run(site, "audit", "verify").stdout
    end = re.search(r"^end: (4:[0-9a-f]{64})$", said, re.MULTILINE)[1]
    assert said.startswith("4 line(s) fit, 1 to 4\n")
    used = lines(site / "audit")[-1]
    assert events(site / "audit")[-1] == "Audit Log Used"
    assert used["ParticipantObjectIdentification"][0]["ParticipantObjectName"] == "Security Audit Log"
    assert used["ParticipantObjectIdentification"][0]["ParticipantObjectID"] == (site / "audit").as_uri()
    assert run(site, "audit", "verify", "--noted", end).stdout.startswith("5 line(s) fit")
    other = end[:-1] + ("0" if end[-1] != "0" else "1")
    assert "the trail was written anew" in run(site, "audit", "verify", "--noted", other, expect=1).stderr
    assert "--noted" in run(site, "audit", "verify", "--noted", "4", expect=2).stderr


def test_a_changed_line_is_named_and_the_status_is_1(site):
    change(site / "audit")
    done = run(site, "audit", "verify", expect=1)
    assert re.fullmatch(r"error: audit-[\d-]+\.jsonl:3: changed, added, or not a line of this trail\n", done.stderr)
    assert "end:" not in done.stdout
    found = json.loads(run(site, "audit", "verify", "--json", expect=1).stdout)
    assert (found["lines"], found["last"], ":3: changed" in found["fault"]) == (2, 2, True)
    assert lines(site / "audit")[-1]["EventIdentification"]["EventOutcomeIndicator"] == "12"


def test_a_copy_is_looked_at_and_not_written_to(site):
    copy = shutil.copytree(site / "audit", site / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert "4 line(s) fit" in run(site, "audit", "verify", "--folder", copy).stdout
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert "there is no audit trail" in run(site, "audit", "verify", "--folder", site / "nowhere", expect=1).stderr


def test_a_key_is_made_well_or_refused_with_advice(site):
    key = site / "seal.key"
    (site / "node.toml").write_text(f'[audit]\nfolder = "{site}/audit"\nseal_key = "{key}"\n')
    assert "openssl rand -hex 32" in run(site, "audit", "verify", expect=2).stderr
    assert "openssl rand -hex 32" in run(site, "check-config", expect=2).stderr
    key.write_text("short")
    assert "fewer than 32 characters" in run(site, "audit", "verify", expect=2).stderr
    key.write_text("k" * 64)
    key.chmod(0o644)
    assert "others may read it: chmod 600" in run(site, "audit", "verify", expect=2).stderr
    key.chmod(0o600)
    assert "no line was written with the key" in run(site, "audit", "verify", expect=1).stderr
    assert "to know: the first 4 line(s) were written before there was a key" in run(site, "audit", "verify").stdout


def test_an_export_is_in_the_trail_before_it_is_there(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2), film(3, study=film(2).StudyInstanceUID))
    node.run("export", "--unlabelled", "--out", tmp_path / "out")
    (message,) = lines(tmp_path / "audit")
    assert events(tmp_path / "audit") == ["Export"]
    objects = message["ParticipantObjectIdentification"]
    studies = [one for one in objects if one["ParticipantObjectTypeCode"] == "2"]
    of = {"1": film(1).StudyInstanceUID, "2": film(2).StudyInstanceUID}
    assert sorted(one["ParticipantObjectID"] for one in studies) == [of["1"], of["2"], of["2"]], "one for each patient"
    assert sum(int(one["ParticipantObjectDescription"][0]["SOPClass"][0]["NumberOfInstances"]) for one in studies) == 3
    assert {one["ParticipantObjectDescription"][0]["Anonymized"] for one in studies} == {"true"}
    assert {"CANARY1", "CANARY2", "CANARY3"} <= {one["ParticipantObjectID"] for one in objects}
    person, process, media = message["ActiveParticipant"]
    assert (person["UserIsRequestor"], process["UserName"]) == ("true", "export")
    assert media["UserID"] == (tmp_path / "out").as_uri()
    node.run("export", "--unlabelled", "--out", tmp_path / "out", expect=1)
    assert len(lines(tmp_path / "audit")) == 1


def test_no_export_without_an_audit(tmp_path):
    node = Node(tmp_path).receive(film(1))
    (tmp_path / "audit").write_text("in the way")
    assert "audit.folder" in node.run("export", "--unlabelled", "--out", tmp_path / "out", expect=2).stderr
    assert not (tmp_path / "out").exists()


def settings_of(folder, quiet, extra=""):
    config = folder / "node.toml"
    config.write_text(f'[audit]\nfolder = "{folder}/audit"\n[study]\nquiet_seconds = {quiet}\n{extra}')
    return load_settings(config, {}), config


START, STOP = "Application Activity: Application Start", "Application Activity: Application Stop"


def test_start_stop_and_changed_settings_of_a_role_are_told(tmp_path):
    for quiet, extra in ((5, ""), (5, ""), (6, '[logging]\nlevel = "error"\n')):
        settings, config = settings_of(tmp_path, quiet, extra)
        with audited(settings, "dispatcher", config):
            pass
    changed = "Security Alert: Software Configuration"
    assert events(tmp_path / "audit") == [START, STOP, START, STOP, START, changed, STOP]
    subject = lines(tmp_path / "audit")[5]["ParticipantObjectIdentification"][0]
    told = {one["type"]: one["value"] for one in subject["ParticipantObjectDetail"]}
    assert told["Changed tables"] == "logging, study"
    assert subject["ParticipantObjectID"] == config.as_uri()
    with audited(settings, "sender", config):  # another role has not run with any
        pass
    assert events(tmp_path / "audit")[-2:] == [START, STOP]
    assert verify(tmp_path / "audit").fault == ""


@pytest.mark.parametrize(
    ("error", "outcome", "said"),
    [(ConfigError("x"), "12", "ConfigError"), (SystemExit(3), "12", "exit status 3"), (SystemExit(0), "0", None)],
)
def test_a_role_that_an_error_ends_says_so(tmp_path, error, outcome, said):
    settings, config = settings_of(tmp_path, 5)
    with pytest.raises(type(error)), audited(settings, "listener", config):
        raise error
    event = lines(tmp_path / "audit")[-1]["EventIdentification"]
    assert (event["EventOutcomeIndicator"], event.get("EventOutcomeDescription")) == (outcome, said)
    assert events(tmp_path / "audit") == [START, STOP]


def test_settings_of_the_repository_that_cannot_work_are_one_line(site):
    def said(text):
        (site / "node.toml").write_text(f"[audit]\n{text}")
        return run(site, "check-config", expect=2).stderr

    assert "node.toml:2: audit.syslog_ca: is for the server syslog_host" in said('syslog_ca = "x"\n')
    assert "audit.syslog_key: is the key of syslog_certificate" in said('syslog_host = "a"\nsyslog_key = "x"\n')
    assert "audit.syslog_ca: x cannot be used: No such file" in said('syslog_host = "a"\nsyslog_ca = "x"\n')
