import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.demo.servers import Orthanc

pytestmark = [pytest.mark.slow]


def environment(tmp_path, *, bare):
    """This environment; bare: with neither Redis nor Orthanc on PATH."""
    env = dict(os.environ)
    if bare:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in ("env", "sh"):
            (tools / name).symlink_to(shutil.which(name))
        env["PATH"] = str(tools)
    return env


def demo(tmp_path, *arguments, bare):
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", "demo", "--once", "--json", "--out", str(tmp_path / "demo"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path, bare=bare),
    )


def processes_of(folder):
    """Processes whose command line names the demo's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    "bare", [pytest.param(True, id="bare"), pytest.param(False, id="orthanc", marks=pytest.mark.external)]
)
def test_a_radiograph_goes_in_and_heatmaps_come_back(tmp_path, bare):
    if not bare and Orthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")
    done = demo(tmp_path, bare=bare)
    assert done.returncode == 0, done.stderr
    (study,) = json.loads(done.stdout)["studies"]
    assert study["state"] == "explained"
    assert (study["received"], study["explained"], study["delivered"]) == (1, 1, 3)
    assert sorted(one["kind"] for one in study["objects"]) == [
        "presentation_state",
        "secondary_capture",
        "structured_report",
    ]
    assert 0 < study["images"][0]["probability"] < 1
    assert study["seconds"]["total"] > 0
    previews = [one["preview"] for one in study["objects"] if one["preview"]]
    assert all(Path(path).stat().st_size > 10_000 for path in previews)
    if not bare:
        assert [one["kind"] for one in study["objects"] if "preview_of_pacs" in one] == ["secondary_capture"]
    assert processes_of(tmp_path) == []


def test_the_demo_stays_up_until_it_is_told_to_stop(tmp_path):
    folder = tmp_path / "demo"
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "demo", "--json", "--out", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment(tmp_path, bare=True),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - ignored below a `make &`
        )
    try:
        deadline = time.monotonic() + 120
        while "until Ctrl-C" not in (tmp_path / "err").read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(processes_of(folder)) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert processes_of(folder) == []


def test_ones_own_files_are_sent_and_each_gets_an_answer(tmp_path, shared_data):
    folder = shared_data / "dicom"
    inputs = [folder / "siim_one" / "siim_cr_jpegbaseline.dcm", folder / "nema_wg04" / "RG3_JPLY.dcm",
              folder / "nih_google_udacity" / "test5.dcm"]  # fmt: skip
    done = demo(tmp_path, *(word for path in inputs for word in ("--input", str(path))), bare=True)
    assert done.returncode == 0, done.stderr
    states = {study["study_instance_uid"]: study["state"] for study in json.loads(done.stdout)["studies"]}
    expected = dict(zip(inputs, ("explained", "ignored", "ignored"), strict=True))
    for path, state in expected.items():
        assert states[dcmread(path, stop_before_pixels=True).StudyInstanceUID] == state
