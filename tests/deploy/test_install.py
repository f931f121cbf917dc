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


@pytest.mark.parametrize("options", [(), ("--workers", "2", "--retraining", "--postgresql"), ("--uninstall",)])
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

    if shutil.which("systemd-analyze") is not None:
        assert verified(root / "etc" / "systemd" / "system", *EVERY) == ""

    toml.write_text(toml.read_text() + "# ours\n")
    again = files(root)
    assert "is there already" in install(root, "--workers", "0")
    assert files(root) == again, "twice is once"
    assert toml.read_text().endswith("# ours\n")

    ledger = data / "ledger.sqlite"
    ledger.unlink()
    with closing(sqlite3.connect(ledger)) as old:
        old.executescript((ROOT / "tests" / "golden" / "ledger_0001_sqlite.sql").read_text())
    said = install(root, "--workers", "0", "--retraining")  # another program: an upgrade
    assert program.readlink() != first
    assert first.is_dir(), "the version before stays, to go back to"
    assert migration.schema(settings.node.database) == SCHEMA
    (backup,) = data.glob("ledger-*.backup")
    assert f"backup: {backup}" in said
    assert migration.schema(f"sqlite:///{backup}") == FIRST

    install(root, "--uninstall")
    left = {path.parts[0] for path in files(root) if (root / path).is_file()}
    assert left == {"etc", "var"}
    assert sorted(path.name for path in (root / "etc").rglob("*") if path.is_file()) == ["node.toml"]
    assert backup.exists()
    assert outside() == before
