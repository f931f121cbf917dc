"""A process on a CPU keeps what its tensors free."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from explain_core.memory import keep_memory
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
    from explain_core import memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_memory() is False
