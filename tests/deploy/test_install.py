"""deploy/install.sh for real, below a folder; and what ShellCheck says of every script."""

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest
from deployed import DEPLOY, ROOT, kept, tool
from test_units import EVERY, verified

from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import migration
from dicom_node.storage.ledger.schema import FIRST, SCHEMA

SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), ROOT / ".ci" / "run"])
INSTALL = DEPLOY / "install.sh"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.name)
def test_shellcheck_has_nothing_to_say(script):
    done = tool("shellcheck", script)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def test_shellcheck_would_say_something(tmp_path):
    script = tmp_path / "bad.sh"
    script.write_text(INSTALL.read_text().replace('rm -rf "$release"', "rm -rf $release"))
    assert "SC2086" in tool("shellcheck", script).stdout


def install(folder, *options):
    """The script, for environments in which this one's packages are found: only the node itself is installed."""
    packages = {"PYTHONPATH": sysconfig.get_paths()["purelib"], "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    told = os.environ | packages
    command = [INSTALL, "--prefix", folder, "--python", sys.executable, *options]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


TOLD = [(), ("--workers", "2", "--retraining", "--postgresql"), ("--services", "--no-retraining"), ("--uninstall",)]


@pytest.mark.parametrize("options", TOLD)
def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path, options):
    said = install(tmp_path / "root", "--dry-run", *options)
    assert "would run:" in said
    assert files(tmp_path) == []


@pytest.mark.parametrize("options", [("--workers", "two"), ("--worker", "1"), ("--prefix",), ("--prefix", "here")])
def test_wrong_use_is_told_in_a_line(options):
    done = subprocess.run([INSTALL, "--dry-run", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("install: ")
    assert done.stderr.count("\n") == 1


def test_an_upgrade_whose_migration_fails_starts_the_version_before_again(tmp_path):
    """The part of the script that stops, migrates and switches, with its own settings of the shell and functions."""
    text = INSTALL.read_text()
    shell = next(line for line in text.splitlines() if line.startswith("set -"))
    functions = [text[text.index(f"{name}() {{") :].partition("\n}\n")[0] + "\n}\n" for name in ("run", "as_node")]
    part = text[text.index("# 5. Stop") :].partition("\nfi\nif has_systemd; then")[0] + "\nfi\n"
    told = tmp_path / "told"
    (tmp_path / "script").write_text(
        f"""{shell}
        say() {{ echo "install: $*"; }}
        has_systemd() {{ true; }}
        systemctl() {{ [ "$1" = --quiet ] || echo "$*" >>{told}; }}
        runuser() {{ echo migrate >>{told}; echo disk is full >&2; return 1; }}
        prefix= dry=no program={tmp_path}/now release={tmp_path}/new
        releases={tmp_path} data={tmp_path} settings={tmp_path}
        {"".join(functions)}
        {part}
        """
    )
    done = subprocess.run(["bash", tmp_path / "script"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the version before runs on" in done.stderr
    assert told.read_text().splitlines() == [
        "stop dicom-node.target dicom-node*.service", "migrate", "start dicom-node.target",
    ]  # fmt: skip
    assert not (tmp_path / "now").exists()


@pytest.mark.parametrize(
    ("said", "enabled", "ended"),
    [
        ("", "worker@0 worker@1 worker@2 retraining", ""),
        ("workers=1", "worker@0 retraining", "worker@1 worker@2"),
        ("services=yes retraining=no", "@listener @dispatcher @sender @retention @web worker@0 worker@1 worker@2",
         "retraining"),
    ],
    ids=["nothing", "fewer", "other"],
)  # fmt: skip
def test_what_is_not_said_again_holds_and_what_is_said_again_ends_units(tmp_path, said, enabled, ended):
    """A machine of three workers that only explains and retrains."""
    text = INSTALL.read_text()
    shell = next(line for line in text.splitlines() if line.startswith("set -"))
    runs = text[text.index("run() {") :].partition("\n}\n")[0] + "\n}\n"
    first = text[text.index("# 0. What") :].partition("\nextras=")[0]
    last = text[text.rindex("if has_systemd; then") :].partition("\nfi\n")[0] + "\nfi\n"
    wanted = tmp_path / "dicom-node.target.wants"
    wanted.mkdir()
    for number in range(3):
        (wanted / f"dicom-node-worker@{number}.service").touch()
    (tmp_path / "install.options").write_text("# so\nworkers=3\nservices=no\nretraining=yes\npython=/opt/python3.12\n")
    (tmp_path / "script").write_text(
        f"""{shell}
        say() {{ :; }}
        has_systemd() {{ true; }}
        systemctl() {{ echo "$*"; }}
        units={tmp_path} options={tmp_path}/install.options dry=no running=no
        workers= services= retraining= python= {said}
        {runs}
        {first}
        {last}
        echo "$python"
        """
    )
    done = subprocess.run(["bash", tmp_path / "script"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [f"dicom-node{'' if one[0] == '@' else '-'}{one}.service" for one in ended.split()]
    ends = [f"disable --quiet --now {' '.join(told)}"] if told else []
    starts = [f"dicom-node{'' if one[0] == '@' else '-'}{one}.service" for one in enabled.split()]
    by_kind = sorted(starts, key=lambda one: ("retraining" in one, "worker" in one))
    assert done.stdout.splitlines() == [
        *ends, f"enable --quiet dicom-node.target {' '.join(by_kind)}", "/opt/python3.12",
    ]  # fmt: skip


def test_the_program_on_the_path_has_the_settings_and_the_environment_of_the_units(tmp_path):
    """deploy/dicom-node.sh with the folders of a prefix, and a program that says what it was called with."""
    (tmp_path / "etc" / "dicom-node").mkdir(parents=True)
    (tmp_path / "opt" / "dicom-node" / "bin").mkdir(parents=True)
    called = tmp_path / "opt" / "dicom-node" / "bin" / "dicom-node"
    called.write_text('#!/bin/sh\nenv | grep -E "^(DICOM_NODE|AWS)_"; echo "$@"\n')
    called.chmod(0o755)
    script = tmp_path / "dicom-node.sh"
    text = (DEPLOY / "dicom-node.sh").read_text()
    script.write_text(text.replace("=/etc", f"={tmp_path}/etc").replace("=/opt", f"={tmp_path}/opt"))
    (tmp_path / "etc" / "dicom-node" / "environment").write_text(
        "# a comment\n; another\n\nDICOM_NODE_BROKER__URL__FILE=/etc/dicom-node/secrets/broker-url\n"
        "AWS_SECRET_ACCESS_KEY=\"a$b c='d'\"\nDICOM_NODE_WEB__PORT='81'\nDICOM_NODE_NODE__PORT=104"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("DICOM_NODE_", "AWS_"))}
    said = subprocess.run(["sh", script, "status", "a b"], env=plain, capture_output=True, text=True, check=True)
    assert sorted(said.stdout.splitlines()) == sorted([
        f"DICOM_NODE_CONFIG={tmp_path}/etc/dicom-node/node.toml",
        "DICOM_NODE_BROKER__URL__FILE=/etc/dicom-node/secrets/broker-url",
        "AWS_SECRET_ACCESS_KEY=a$b c='d'", "DICOM_NODE_WEB__PORT=81", "DICOM_NODE_NODE__PORT=104", "status a b",
    ])  # fmt: skip
    other = plain | {"DICOM_NODE_CONFIG": "other.toml"}
    said = subprocess.run(["sh", script], env=other, capture_output=True, text=True, check=True).stdout
    assert "DICOM_NODE_CONFIG=other.toml" in said


def outside():
    """What an installation on this machine itself would have made."""
    return [path for path in ("/opt/dicom-node", "/etc/dicom-node", "/var/lib/dicom-node") if Path(path).exists()]


@pytest.mark.slow
def test_a_life_of_an_installation(tmp_path):
    root, before = tmp_path / "root", outside()
    said = install(root, "--workers", "0")
    assert "next: edit" in said
    program = root / "opt" / "dicom-node"
    first = program.readlink()
    toml = root / "etc" / "dicom-node" / "node.toml"
    settings = load_settings(toml, {})
    data = root / "var" / "lib" / "dicom-node"
    assert settings.node.database == f"sqlite:///{data}/ledger.sqlite"
    assert [key for key, path in kept(settings) if not path.is_relative_to(data)] == []
    assert migration.schema(settings.node.database) == SCHEMA
    assert outside() == before, "nothing is touched but what lies below the folder"

    runs = [program / "bin" / "dicom-node", "check-config", "--config", toml]
    packages = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    done = subprocess.run(runs, env=packages, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ok: "), done.stderr

    on_path = root / "usr" / "local" / "bin" / "dicom-node"
    (root / "etc" / "dicom-node" / "environment").write_text(
        "# theirs\nDICOM_NODE_NODE__AE_TITLE='FROM FILE'\nDICOM_NODE_DELIVERY__TIMEOUT=nothing\n"
    )
    done = subprocess.run([on_path, "check-config"], env=packages, capture_output=True, text=True, check=False)
    assert "DICOM_NODE_DELIVERY__TIMEOUT" in done.stderr, "the environment of the units is heard"
    (root / "etc" / "dicom-node" / "environment").unlink()
    done = subprocess.run([on_path, "status"], cwd=tmp_path, env=packages, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    if shutil.which("systemd-analyze") is not None:
        assert verified(root / "etc" / "systemd" / "system", *EVERY) == ""

    toml.write_text(toml.read_text() + "# ours\n")
    again = files(root)
    assert "is there already" in install(root), "no worker, as it was said before"
    assert files(root) == again, "twice is once"
    assert toml.read_text().endswith("# ours\n")

    ledger = data / "ledger.sqlite"
    ledger.unlink()
    with closing(sqlite3.connect(ledger)) as old:
        old.executescript((ROOT / "tests" / "golden" / "ledger_0001_sqlite.sql").read_text())
    said = install(root, "--retraining")  # another program: an upgrade
    assert program.readlink() != first
    assert first.is_dir(), "the version before stays, to go back to"
    assert migration.schema(settings.node.database) == SCHEMA
    (backup,) = data.glob("ledger-*.backup")
    assert f"backup: {backup}" in said
    assert migration.schema(f"sqlite:///{backup}") == FIRST

    install(root, "--uninstall")
    assert not on_path.is_symlink()
    left = {path.parts[0] for path in files(root) if (root / path).is_file()}
    assert left == {"etc", "var"}
    assert sorted(path.name for path in (root / "etc").rglob("*") if path.is_file()) == ["install.options", "node.toml"]
    assert backup.exists()
    assert outside() == before
