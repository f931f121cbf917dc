"""A process on a CPU keeps what its tensors free, and its threads do not hold a core while they wait."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import resource, sys
from explain_core.processor import keep_memory
assert "torch" not in sys.modules
said = [keep_memory(), keep_memory()] if sys.argv[1] == "kept" else []
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    values = np.ones(8 << 20)  # 64 MiB
    assert values.sum() == 8 << 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(said, min(faults() for _ in range(3)))
"""


def run(how):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    said, _, count = done.stdout.strip().rpartition(" ")
    return said, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_is_kept_on_glibc_and_asking_twice_is_harmless():
    said, faults = run("kept")
    assert said == "[True, True]"
    assert faults < 20, "64 MiB that were freed are there at once"


def test_another_system_is_left_alone(monkeypatch):
    from explain_core import processor

    monkeypatch.setattr(processor.sys, "platform", "darwin")
    assert processor.keep_memory() is False


TRAINING = "training scale no-bundle --method evidence --data none"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="PyTorch's wheels for other systems have no GNU OpenMP")
@pytest.mark.parametrize(
    ("program", "said", "turns"),
    [
        pytest.param("dicom_node doctor", {}, "1000", id="the node"),
        pytest.param(TRAINING, {}, "1000", id="training"),
        pytest.param(TRAINING, {"GOMP_SPINCOUNT": "7"}, "7", id="somebody has said how long"),
        pytest.param(TRAINING, {"OMP_WAIT_POLICY": "active"}, "30000000000", id="somebody has said how"),
    ],
)
def test_a_thread_that_waits_gives_its_core_away_in_either_program(program, said, turns, tmp_path):
    """OpenMP prints how it was set when it is loaded."""
    ours = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-m", *program.split()],
        env=ours | said | {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr, done.stderr
