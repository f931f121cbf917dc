"""The table of attacks: each promise is held, and a promise that is not is said to be none."""

import subprocess
import sys

import faults
import pytest


def test_an_attack_that_fails_or_cannot_be_tried_is_a_failed_row(monkeypatch, capsys):
    def broken():
        raise OSError("no such thing")

    good = faults.Attack("good", "a", "b", "c", lambda: ("0 of 3", True))
    bad = faults.Attack("bad", "a", "b", "c", lambda: ("2 of 3", False))
    none = faults.Attack("none", "a", "b", "c", broken)
    monkeypatch.setattr(faults, "ATTACKS", (good, bad, none))
    monkeypatch.setattr(faults, "_quiet", lambda: None)
    assert faults.main(["good"]) == 0
    assert faults.main(["good", "bad"]) == 1
    assert faults.main(["none"]) == 1
    assert "OSError: no such thing" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_attack_meets_what_is_promised(root):
    command = [sys.executable, "-m", "tests.faults", "--patience", "4"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held") == len(faults.ATTACKS)
