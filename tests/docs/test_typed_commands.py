"""What README and docs tell people to type is there: run where that is quick, else held to the program it names."""

import re
import shutil
import subprocess

import pytest
from commands import OURS, Command, _of_text, commands, problem
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.demo.run import sample
from dicom_node.settings.sections import DEFAULT_BUNDLE
from dicom_node.storage.ledger import Ledger

FOUND = commands()

RUN = (
    "dicom-node check-config --config node.toml",
    "dicom-node rules test --config node.toml FILE",
    "dicom-node status --config node.toml",
    "dicom-node rerun --failed --config node.toml",
    "dicom-node verdict --list",
)
"""Commands that are run here, in a folder with a settings file node.toml and a radiograph FILE."""

NOT_OURS = {
    ("docs/security.md", "openssl"): "tests/node/test_tls_peers.py runs the certificates of the page",
    ("docs/security.md", "printf"): "tests/node/test_tls_peers.py runs the certificates of the page",
    ("docs/security.md", "chmod"): "tests/node/test_tls_peers.py runs the certificates of the page",
    ("docs/security.md", "touch"): "tests/node/test_tls_peers.py runs the revocation of the page",
    ("docs/security.md", "echo"): "tests/node/test_tls_peers.py runs the revocation of the page",
    ("docs/security.md", "storescu"): "tests/node/test_tls_peers.py runs it against a node",
    ("docs/security.md", "storescp"): "tests/node/test_tls_peers.py sends to it from a node",
    ("docs/security.md", "jq"): "a filter over lines of JSON, whose keys tests/node/watch/test_audit_message.py holds",
    ("docs/bundle.md", "sha256sum"): "run below",
    ("docs/extend.md", "cp"): "copies a folder",
    ("docs/howto-add-classifier.md", "cd"): "changes the folder",
    ("docs/howto-add-classifier.md", "sha256sum"): "writes what tests/docs/test_howto.py writes",
    **{
        ("docs/tutorial.md", program): "tests/docs/test_tutorial.py runs it"
        for program in ("Orthanc", "cp", "curl", "echo", "mkdir", "redis-cli", "redis-server", "rm")
    },
    ("docs/training.md", "export"): "sets a variable of the shell",
    **{
        ("docs/deploy.md", program): "tests/deploy/test_deploy_page.py holds what it names"
        for program in ("docker", "helm", "kubectl", "ls", "make-secrets.sh", "sudo", "sudoedit")
    },
    **{
        ("docs/deploy.md", program): "needs systemd as the first process; tests/deploy/test_units.py verifies the units"
        for program in ("journalctl", "systemctl")
    },
    ("docs/backup.md", "sudo"): "tests/docs/test_backup_page.py runs it in a folder",
    ("docs/pacs/any.md", "echoscu"): "a C-ECHO, as `dicom-node echo` has it",
    ("docs/pacs/dcmtk.md", "storescp"): "tests/pacs/test_dcmtk_recipe.py runs it",
}
"""Programs that are not this project's, by page, and what holds their commands."""


def test_every_command_of_this_project_is_one():
    assert len(FOUND) > 150
    wrong = [
        f"{command.page}: {command.text}\n    {what}" for command in FOUND if (what := problem(command)) is not None
    ]
    assert wrong == [], "\n".join(wrong)


def test_every_other_program_stands_in_the_list_and_the_list_is_of_these():
    others = {(command.page, command.words[0]) for command in FOUND if command.words[0] not in OURS}
    assert others == set(NOT_OURS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    (folder / "node.toml").write_text('[node]\ncalling_ae_titles = ["PACS"]\n')
    shutil.copy(sample(), folder / "FILE")
    (folder / "var").mkdir()
    ledger = Ledger(f"sqlite:///{folder}/var/ledger.sqlite")
    ledger.create()  # as `dicom-node serve` does
    ledger.close()
    return folder


@pytest.mark.parametrize("text", RUN)
def test_what_is_quick_is_run_as_it_stands(folder, text, monkeypatch):
    assert any(command.text == text and command.whole for command in FOUND), "no page has it any more: remove it here"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, text.split()[1:])
    assert done.exit_code == 0, done.output


def test_the_checksums_of_a_bundle_are_checked_as_its_page_says():
    lines = [command.words for command in FOUND if command.page == "docs/bundle.md" and command.words[0] == "sha256sum"]
    assert len(lines) == 2
    for words in lines:
        subprocess.run(words, cwd=DEFAULT_BUNDLE, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("dicom-node serve --onyl web", "No such option"),
        ("dicom-node sreve", "no command sreve"),
        ("dicom-node --install-completions", "no option --install-completions"),
        ("dicom-node worker --count many", "valid integer"),
        ("dicom-node explain FILE", "Missing parameter: out"),
        ("dicom-node rules test", "Missing parameter: files"),
        ("dicom-node model promote 1 2", "unexpected extra argument"),
        ("python -m training scale my-bundle --methods a --data b", "no option --methods"),
        ("python -m training scale my-bundle --data b", "required: --method"),
        ("python -m training bundel", "no command bundel"),
        ("python -m training bundle --preset huge --data a --out b", "invalid choice"),
        ("python -m tests.soak --minuets 3", "no option --minuets"),
        ("python -m tests.soup", "no such module"),
        ("make dmeo", "no target dmeo"),
        ('make demo ARGS="--onec"', "No such option"),
        ('make demo ARG="--once"', "no variable ARG"),
        ("pip install .[workers]", "no extra workers"),
        ("pytest tests/nodes", "no such file"),
    ],
)
def test_a_planted_fault_is_found(text, what):
    (command,) = _of_text("page.md", f"```sh\n.venv/bin/{text}    # a comment --with options\n```\n")
    assert what in (problem(command) or ""), problem(command)


def test_commands_are_found_wherever_they_stand():
    text = (
        "Say `dicom-node status --json` or `dicom-node status`, not `x dicom-node`.\n\n"
        "    dicom-node drift [--since DAYS] [--against training|live]\n"
        "                     [--json]\n\n"
        "1. step\n\n   ```sh\n   a=1; make demo && make test | tail  # and so on\n   ```\n\n"
        "```sh\nopenssl x -a 'b # c' \\\n    -d >file\nfor one in a b; do\n    touch $one\ndone\n```\n"
    )
    found = [(" ".join(command.words), command.whole) for command in _of_text("page.md", text)]
    assert sorted(found) == sorted([
        ("dicom-node status", False), ("dicom-node status --json", False),
        ("dicom-node drift --since DAYS --against training --json", True),
        ("make demo", True), ("make test", True), ("tail", True),
        ("openssl x -a b # c -d", True), ("touch $one", True),
    ])  # fmt: skip


def test_a_program_is_known_without_its_folder():
    assert [command.words for command in _of_text("p", "```sh\n/opt/x/bin/pip install -c constraints.txt .\n```")] == [
        ("pip", "install", "-c", "constraints.txt", ".")
    ]
    assert problem(Command("p", ("python", "-m", "venv", "x"), whole=True)) is None
    assert re.match("tests/", NOT_OURS["docs/security.md", "openssl"])
