"""What holds of every command: help, --json with a shape that is written down, errors, completion, docs/cli.md."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys

import cli_page
import pytest
import typer
from typer.testing import CliRunner
from working import STUDY, instance, study, task

from dicom_node.app import ROLES
from dicom_node.cli import _completion, app
from dicom_node.storage.ledger import Ledger
from explain_core import plugins

WITHOUT_JSON = {
    "serve": "runs until stopped; its log is JSON with logging.json",
    "worker": "the same",
    "retrain worker": "the same",
    "retrain logs": "prints a file as it is",
    "conformance": "prints a document",
}
COMMANDS = dict(cli_page.commands())


def run(*arguments, expect=0, cwd="."):
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done


def test_the_walk_finds_every_group():
    assert {"status", "init", "send", "model promote", "retrain submit", "audit verify", "rules test"} <= {*COMMANDS}
    assert {*WITHOUT_JSON} <= {*COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_answers_in_json(name):
    command = COMMANDS[name]
    assert command.help, "a help text"
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert ("--json" in options) != (name in WITHOUT_JSON)
    assert ("JSON" in command.help) != (name in WITHOUT_JSON), "the shape is written down"
    nameless = [one.name for one in command.params if not getattr(one, "help", None)]
    assert nameless in ([], ["help"]), "every argument and option has a help text"


def written_down(name):
    """The names that the help of a command has for its JSON, up to the first sentence that is about another answer."""
    said = COMMANDS[name].help.partition("JSON")[2].partition(". ")[0]
    return {*re.findall(r"`([a-z_]+)`", said)}


@pytest.fixture
def site(tmp_path):
    """A node with one study, and its settings."""
    file = tmp_path / "node.toml"
    text = f'[node]\nspool = "{tmp_path}/spool"\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\n'
    text += f'[retraining]\njobs = "{tmp_path}/jobs"\n[audit]\nfolder = "{tmp_path}/audit"\n'
    text += "".join(
        f'[[destinations]]\nname = "{name}"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
        for name in ("pacs", "archive")
    )
    file.write_text(text + "[delivery]\ntimeout = 2\n")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.create()
    ledger.add_instance(instance(1))
    ledger.mark_ready(study(instance(1)), [task(study(instance(1)))], instance(1).received_at)
    ledger.close()
    return file


@pytest.mark.parametrize(
    ("name", "more", "status"),
    [
        ("status", [], 0),
        ("rerun", ["--failed"], 0),
        ("clean", ["--dry-run"], 0),
        ("check-config", [], 0),
        ("migrate", [], 0),
        ("echo", [], 1),
        ("doctor", ["--no-model"], 1),
        ("drift", [], 1),
        ("model list", [], 0),
    ],
)
def test_the_json_has_the_names_that_are_written_down(name, more, status, site):
    told = json.loads(run(*name.split(), *more, "--config", site, "--json", expect=status, cwd=site.parent).stdout)
    assert {*(told[0] if isinstance(told, list) else told)} == written_down(name)


def test_the_story_of_one_study_in_json_and_on_a_narrow_terminal(site, monkeypatch):
    told = json.loads(run("status", "43.9.1", "--config", site, "--json").stdout)
    said = COMMANDS["status"].help.partition("Of one study:")[2]
    assert {*told} == {*re.findall(r"`([a-z_]+)`", said)}
    (revision,) = told["revisions"]
    assert (told["study_instance_uid"], revision["state"], revision["seconds"]["received"]) == (STUDY, "ready", 0.0)
    assert told["next"][0].startswith("no worker takes its task")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")  # a terminal of 80 columns
    lines = run("status", STUDY[:-1], "--config", site).stdout.splitlines()
    assert lines[0] == f"study {STUDY}"
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["waiting", f"{STUDY}.1.1"] for line in lines)
    assert "no study is known" in run("status", "7.7", "--config", site, expect=1).stderr


def test_in_a_pipe_no_uid_is_folded_and_every_study_is_a_line(site, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = f"{STUDY}.{'7' * (63 - len(STUDY))}"
    ledger = Ledger(f"sqlite:///{site.parent}/ledger.sqlite")
    ledger.add_instance(instance(2, study=long))
    ledger.close()
    lines = run("status", "--config", site).stdout.splitlines()
    assert {line.split()[-1] for line in lines if line} >= {STUDY, long}
    assert f"study {long}" in run("status", long, "--config", site).stdout.splitlines()[0]


def test_a_part_of_several_uids_is_asked_for_more(site):
    ledger = Ledger(f"sqlite:///{site.parent}/ledger.sqlite")
    ledger.add_instance(instance(2, study=f"{STUDY}9"))
    ledger.close()
    done = run("status", STUDY[:-2], "--config", site, expect=2)
    assert f"say more of it: {STUDY}, {STUDY}9" in done.stderr
    assert run("status", STUDY, "--config", site).stdout.startswith(f"study {STUDY}\n")


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["status", "--nope"], "No such option: --nope", 2),
        (["nope"], "No such command 'nope'.", 2),
        (["model", "promote"], "Missing argument 'VERSION'.", 2),
        (["echo", "paks"], "there is no destination 'paks'", 2),
        (["rerun"], "give a Study Instance UID, or --failed, or --ignored alone", 2),
        (["status", "7.7"], "7.7: no study is known", 1),
    ],
)
def test_an_error_is_one_object_where_json_is_asked_for(words, said, status, site):
    more = [] if words[-1] in {"--nope", "nope", "promote"} else ["--config", site]
    done = run(*words, *more, "--json", expect=status)
    assert done.stdout == ""
    error = json.loads(done.stderr)
    assert {*error} == {"error", "status"}
    assert said in error["error"]
    assert error["status"] == status


# ---- completion


def complete(line, *, cwd, **env):
    """What bash is offered after a line: typer's protocol."""
    words = line.split(" ")
    asked = {"_DICOM_NODE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    program = "import sys; sys.argv[0] = 'dicom-node'; from dicom_node.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked | env, cwd=cwd, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_a_shell_is_offered_commands_destinations_and_studies(site):
    folder, config = site.parent, f"--config {site}"
    assert complete("dicom-node stat", cwd=folder) == ["status"]
    assert complete("dicom-node model pro", cwd=folder) == ["promote"]
    assert complete(f"dicom-node echo {config} ", cwd=folder) == ["pacs", "archive"]
    assert complete("dicom-node echo a", cwd=folder, DICOM_NODE_CONFIG=str(site)) == ["archive"]
    assert complete(f"dicom-node status {config} 1.2", cwd=folder) == [STUDY]


def test_where_nothing_is_to_be_had_nothing_is_offered_and_nothing_made(tmp_path):
    (tmp_path / "node.toml").write_text("[node\n")
    assert complete("dicom-node echo --config node.toml ", cwd=tmp_path) == []
    assert complete("dicom-node status 1.2", cwd=tmp_path) == []
    assert [one.name for one in tmp_path.iterdir()] == ["node.toml"]


def test_what_is_offered_is_what_there_is(site):
    context = typer.Context(typer.main.get_command(app))
    context.params = {"config": site}
    assert _completion.roles(context, "") == [*ROLES]
    assert _completion.methods(context, "") == [*plugins.available(plugins.METHODS)]
    assert _completion.objects(context, "") == ["all", *plugins.available("dicom_node.results.objects")]
    assert _completion.methods(context, "grad_cam,similar") == ["grad_cam,similar_adversarial"]
    assert "grad_cam,grad_cam" not in _completion.methods(context, "grad_cam,")
    (site.parent / "jobs" / "2026-a").mkdir(parents=True)
    (site.parent / "jobs" / "2026-a" / "job.toml").touch()
    assert _completion.jobs(context, "2026") == ["2026-a"]


def test_the_shell_gets_a_script():
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # not the shell that runs the tests
    command = [sys.executable, "-m", "dicom_node", "--show-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=named)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o" in done.stdout


# ---- docs/cli.md


def test_the_reference_is_the_one_made_from_the_code():
    assert cli_page.PAGE.read_text() == cli_page.render(), "run: python tests/docs/cli_page.py"


def test_every_example_of_the_reference_is_understood(root):
    lines = re.findall(r"^dicom-node .*$", (root / "docs" / "cli.md").read_text(), re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        name = next(one for one in (" ".join(words[:2]), words[0]) if one in COMMANDS)
        COMMANDS[name].make_context(name, words[len(name.split()) :])
