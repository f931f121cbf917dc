"""The recipes of public bug reports, through the command and through a running node."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_every_case_is_answered_right(root, shared_data):
    assert shared_data.is_dir()
    done = subprocess.run([sys.executable, "-m", "tests.cases"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right ") >= 24
