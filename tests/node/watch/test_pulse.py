"""Whoever keeps a process hears when it is ready, that it lives, and that it ends; a health check says the same."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from keeping import Systemd
from receiving import running, wait_until

from dicom_node.receive import listener
from dicom_node.receive.server import Server
from dicom_node.watch import pulse


@pytest.fixture(autouse=True)
def _own_keeper():
    yield
    pulse.begin({})


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path):
    with contextlib.closing(Systemd(f"@{tmp_path}" if request.param == "abstract" else str(tmp_path / "s"))) as other:
        yield other


def test_systemd_hears_of_start_life_and_end(systemd, monkeypatch):
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    pulse.begin(environment)
    assert environment == {"HOME": "/"}, "children must not speak for this process"
    pulse.beat()
    assert systemd.heard() is None, "nothing lives that is not ready"
    pulse.ready()
    pulse.ready()
    assert (systemd.heard(), systemd.heard()) == ("READY=1", None)
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.0)
    pulse.beat()
    assert systemd.heard() == "WATCHDOG=1"
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 1e6)
    pulse.beat()
    assert systemd.heard() is None, "a loop of many rounds does not flood"
    pulse.stopping()
    assert systemd.heard() == "STOPPING=1"


def test_ready_is_told_before_any_sign_of_life_of_another_thread(systemd, monkeypatch):
    pulse.begin({"NOTIFY_SOCKET": systemd.address})
    tell = pulse._Keeper.tell

    def late(self, state, patience=0.0):
        pulse.beat()  # of a loop that gets its turn just now
        tell(self, state, patience)

    monkeypatch.setattr(pulse._Keeper, "tell", late)
    pulse.ready()
    assert (systemd.heard(), systemd.heard()) == ("READY=1", None)


def test_a_keeper_that_is_away_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.0)
    pulse.begin({"NOTIFY_SOCKET": str(tmp_path / "nobody"), pulse.VARIABLE: str(tmp_path / "no" / "folder")})
    for tell in (pulse.ready, pulse.beat, pulse.stopping):
        tell()


def test_a_keeper_that_does_not_listen_holds_up_nothing(systemd, monkeypatch):
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.0)
    pulse.begin({"NOTIFY_SOCKET": systemd.address})
    pulse.ready()
    for _ in range(5000):  # more than a socket of the kernel holds
        pulse.beat()
    pulse.stopping()
    assert systemd.heard() == "READY=1"


def checked(file):
    """Exit status and words of the health check of a container."""
    environment = {**os.environ, pulse.VARIABLE: str(file)}
    command = [sys.executable, "-m", "dicom_node.watch.pulse"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_the_health_check_follows_the_file(tmp_path, monkeypatch):
    file = tmp_path / "pulse"
    file.touch()
    pulse.begin({pulse.VARIABLE: str(file)})
    assert checked(file) == (1, "not ready"), "what an earlier process of the container left says nothing"
    pulse.ready()
    assert checked(file) == (0, "")
    long_ago = time.time() - 2 * pulse.LONGEST_SECONDS
    os.utime(file, (long_ago, long_ago))
    assert checked(file) == (1, f"silent for {2 * pulse.LONGEST_SECONDS} s")
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.0)
    pulse.beat()
    assert pulse.why_not({pulse.VARIABLE: str(file)}, time.time()) is None
    pulse.stopping()
    assert checked(file) == (1, "not ready")
    assert pulse.why_not({}, time.time()) == "DICOM_NODE_PULSE is not set"


def test_a_listener_whose_accepting_thread_has_died_beats_no_more(tmp_path, monkeypatch):
    with running(tmp_path) as node:
        assert node.listener.accepting()
        for server in node.listener._servers:
            server.looked -= 10 * listener.STUCK_SECONDS
        wait_until(node.listener.accepting)
        monkeypatch.setattr(listener, "STUCK_SECONDS", 0.5)
        monkeypatch.setattr(Server, "service_actions", lambda _: None)  # its loop goes round no more
        wait_until(lambda: not node.listener.accepting())


OTHERS = [pytest.param(role, marks=pytest.mark.slow) for role in ("dispatcher", "retention", "web")]


@pytest.mark.parametrize("role", ["listener", *OTHERS])
def test_a_role_tells_systemd_that_it_is_ready_lives_and_ends(role, tmp_path):
    told = {
        "NODE__PORT": "0",
        "WEB__PORT": "0",
        "NODE__SPOOL": f"{tmp_path}/spool",
        "NODE__DATABASE": f"sqlite:///{tmp_path}/ledger.sqlite",
        "AUDIT__FOLDER": f"{tmp_path}/audit",
        "BROKER__URL": f"redis+socket://{tmp_path}/nobody",
    }
    environment = {**os.environ, **{f"DICOM_NODE_{key}": value for key, value in told.items()}}
    with contextlib.closing(Systemd(f"{tmp_path}/s")) as systemd:
        command = [sys.executable, "-m", "dicom_node", "serve", "--only", role]
        process = subprocess.Popen(
            command, env={**environment, "NOTIFY_SOCKET": systemd.address}, stderr=subprocess.DEVNULL
        )
        try:
            assert systemd.heard(60) == "READY=1"
            assert systemd.heard(150) == "WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            while (last := systemd.heard(60)) == "WATCHDOG=1":
                pass
            assert last == "STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
