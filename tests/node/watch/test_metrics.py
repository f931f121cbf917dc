"""What processes count: kept when they die, added up over all of them, with labels of ours alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from dicom_node.watch import metrics

COUNTS = """
import os, sys
from pathlib import Path
from dicom_node.watch import metrics
metrics.known_callers(["PACS"])
assert metrics.start(Path(sys.argv[1])) is (sys.argv[2] == "shared")
metrics.count("instances_received_total", 3, calling_aet="PACS")
metrics.count("instances_received_total", calling_aet="Doe^John")
metrics.count("associations_active", 2)
metrics.time("store_seconds", 0.02)
print("ready", flush=True)
sys.stdin.read()
"""


class Counting:
    """A process that has counted and waits."""

    def __init__(self, folder: Path, expected="shared") -> None:
        arguments = [sys.executable, "-c", COUNTS, str(folder), expected]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def counting(tmp_path):
    made = []

    def count(expected="shared"):
        made.append(Counting(tmp_path, expected))
        return made[-1]

    yield count
    for one in made:
        one.kill()


def value(folder, name, **labels):
    return metrics.collect(folder).get_sample_value(f"dicom_node_{name}", labels)


def test_what_processes_count_is_added_up_and_outlives_them(tmp_path, counting):
    first, second = counting(), counting()
    received = ("instances_received_total", tmp_path)
    assert value(received[1], received[0], calling_aet="PACS") == 6
    assert value(tmp_path, "instances_received_total", calling_aet="other") == 2
    assert value(tmp_path, "associations_active") == 4
    first.kill()
    assert value(tmp_path, "instances_received_total", calling_aet="PACS") == 6
    assert value(tmp_path, "associations_active") == 2, "what only a living process has ends with it"
    second.kill()
    third = counting()
    assert value(tmp_path, "instances_received_total", calling_aet="PACS") == 9
    assert value(tmp_path, "store_seconds_count") == 3
    assert value(tmp_path, "store_seconds_bucket", le="0.025") == 3
    assert value(tmp_path, "store_seconds_bucket", le="0.01") == 0
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith("_0.db")}
    pid = third.process.pid
    mine = {f"{kind}_{pid}.db" for kind in ("counter", "histogram", "gauge_livesum")}
    assert left == mine | {f"{pid}.lock", "folder.lock"}, "the files of the dead are put together"


def test_a_caller_that_is_not_in_the_settings_has_no_series_of_its_own(tmp_path, counting):
    counting()
    assert b"Doe" not in generate_latest(metrics.collect(tmp_path))


def test_the_room_of_a_file_is_taken_before_it_is_mapped(tmp_path, counting):
    pid = counting().process.pid
    for kind in ("counter", "histogram", "gauge_livesum"):
        taken = (tmp_path / f"{kind}_{pid}.db").stat().st_blocks * 512
        assert taken >= 1 << 20, "a hole would end the process (SIGBUS)"


def test_a_number_in_use_elsewhere_and_a_disk_without_room_cost_the_sharing_and_nothing_else(tmp_path, monkeypatch):
    import fcntl

    with (tmp_path / f"{os.getpid()}.lock").open("w") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        assert not metrics.start(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not metrics.start(tmp_path / "other")
    assert not list((tmp_path / "other").glob("*.db"))
    before = metrics.value("associations_rejected_total", reason="x") or 0
    metrics.count("associations_rejected_total", reason="x")
    assert metrics.value("associations_rejected_total", reason="x") == before + 1


def test_a_file_that_was_cut_short_is_passed_over(tmp_path, counting):
    (tmp_path / "counter_999999.db").write_bytes(b"\xff" * 40)
    counting()
    assert value(tmp_path, "instances_received_total", calling_aet="PACS") == 3


def test_every_measure_has_a_name_as_prometheus_wants_it():
    for one in metrics.MEASURES:
        assert one.name.endswith("_total") == (one.kind is metrics.Counter), one.name
        assert one.text.endswith("."), one.name


def test_a_port_of_its_own_serves_the_same_and_a_taken_one_is_no_failure(tmp_path, counting):
    import urllib.request

    from working import free_port

    counting()
    port = free_port()
    assert metrics.serve("127.0.0.1", port, tmp_path)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b'dicom_node_instances_received_total{calling_aet="PACS"} 3.0' in answer.read()
    assert not metrics.serve("127.0.0.1", port, tmp_path)
