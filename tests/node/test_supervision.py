"""How roles end: a worker has the time of its study, and a second signal ends at once."""

import subprocess
import sys
import time

import pytest

from dicom_node.supervision import Supervisor

SLOW = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep({seconds}), exit(7)))
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def running(monkeypatch):
    """A supervisor of one child, which needs so many seconds to end."""
    ended = []

    def start(seconds, **options):
        command = [sys.executable, "-c", SLOW.format(seconds=seconds)]

        def spawn(*_):
            child = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert child.stdout.readline() == b"up\n"
            ended.append(child)
            return child

        monkeypatch.setattr(Supervisor, "_spawn", spawn)
        made = Supervisor(None, ["worker"], **options)
        made.start()
        return made, ended[-1]

    yield start
    for child in ended:
        child.kill()
        child.stdout.close()


def test_a_child_has_its_time_to_end(running):
    supervisor, child = running(1.0, stop_seconds=30)
    supervisor.stop()
    assert child.returncode == 7


def test_a_child_that_takes_longer_is_killed(running):
    supervisor, child = running(30, stop_seconds=0.5)
    supervisor.stop()
    assert child.returncode == -9


def test_who_is_in_a_hurry_ends_it_at_once(running):
    supervisor, child = running(30, stop_seconds=60, hurried=lambda: True)
    began = time.monotonic()
    supervisor.stop()
    assert child.returncode == -9
    assert time.monotonic() - began < 20
