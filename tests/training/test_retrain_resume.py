"""A job that is killed, cancelled, or meets a full disk or a registry that is away, goes on and ends the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from retraining import finished, job_text, started

from explain_core.jobs import JobBusy, JobFolder
from training.retrain import stages

STAGES = tuple(one.name for one in stages.STAGES["classifier"])
DONE, CANCELLED, WAITING = 0, 4, 75


pytestmark = pytest.mark.slow


def prepare(folder: Path, parts: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(parts / "mlflow.sqlite", folder)
    job = folder / "asked.toml"
    job.write_text(job_text(folder, parts / "champion", **changes))
    return job


def state(path: Path) -> dict:
    return json.loads((path / "state.json").read_text())


def made(path: Path, *names: str) -> dict:
    return {name: json.loads((path / "stages" / name / "done.json").read_text())["made"] for name in names}


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def versions(folder: Path) -> list:
    from explain_core.bundles.registry import Registry

    return Registry(f"sqlite:///{folder}/mlflow.sqlite", "chest", folder / "artifacts").versions()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, parts):
    """A job that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finished(folder / "job", job=prepare(folder, parts)) == DONE, (folder / "job" / "job.log").read_text()
    return folder / "job"


def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(tmp_path, parts, undisturbed):
    job, path = prepare(tmp_path, parts), tmp_path / "job"
    for stage in STAGES:
        for when in ("middle", "made") if stage in {"classifier", "generators"} else ("made",):
            assert finished(path, job=job, die_in=stage, when=when) == -signal.SIGKILL, stage
            assert (state(path)["state"], state(path)["stage"]) == ("running", stage)
            assert not JobFolder(path).busy
            assert not (path / "stages" / stage / "done.json").exists()
    assert finished(path, job=job) == DONE, (path / "job.log").read_text()

    same = ("collect", "split", "classifier", "calibrate", "generators", "bundle")
    assert made(path, *same) == made(undisturbed, *same)
    log = (path / "job.log").read_text()
    assert [log.count(f"stage {stage} done in") for stage in STAGES] == [1] * len(STAGES)
    assert list(state(path)["stages"]) == list(STAGES)
    (version,) = versions(tmp_path)
    assert version.digest == made(path, "report")["report"]["digest"]
    assert (tmp_path / "splits.csv").read_text().count("phantom/phantom-7,") == 1


def test_what_is_done_stays_done_and_what_is_changed_is_done_again(tmp_path, parts, undisturbed):
    from explain_core.bundles.files import write_sums

    folder = tmp_path / "job"
    shutil.copytree(undisturbed, folder)
    job = tmp_path / "asked.toml"
    text = (undisturbed.parent / "asked.toml").read_text()
    before = {name: (folder / "stages" / name / "done.json").stat().st_mtime_ns for name in STAGES}

    def redone() -> list[str]:
        assert finished(folder, job=job) == DONE, (folder / "job.log").read_text()
        now = {name: (folder / "stages" / name / "done.json").stat().st_mtime_ns for name in STAGES}
        changed = [name for name in STAGES if now[name] != before[name] and name != "validate"]
        before.update(now)
        return changed

    job.write_text(text)
    assert redone() == []
    job.write_text(text.replace("draws = 20", "draws = 21"))
    assert redone() == list(STAGES[STAGES.index("evaluate") :])
    job.write_text(text.replace("epochs = 2", "epochs = 3"))
    assert redone() == list(STAGES[STAGES.index("classifier") :])

    champion = tmp_path / "elsewhere"
    shutil.copytree(parts / "champion", champion)
    job.write_text(text.replace(str(parts / "champion"), str(champion)).replace("epochs = 2", "epochs = 3"))
    assert redone() == [], "the same bundle"
    with (champion / "model_card.md").open("a") as card:
        card.write("Another bundle.")
    write_sums(champion)
    assert redone() == [name for name in STAGES if name != "validate"]


def test_one_process_works_on_a_job(tmp_path, parts):
    job, path = prepare(tmp_path, parts), tmp_path / "job"
    (path / "stages").mkdir(parents=True)
    with JobFolder(path).lock():
        assert finished(path, job=job) == 1
        assert JobFolder(path).busy
        with pytest.raises(JobBusy), JobFolder(path).lock():
            pass
    assert not (path / "state.json").exists()
    assert not JobFolder(path).busy


@pytest.mark.parametrize("stage", ["classifier", "generators"])
def test_cancelled_it_stops_where_it_is_and_goes_on_later(tmp_path, parts, stage):
    long = {"classifier": {"epochs": 5000}, "generators": {"steps": 50000}}
    job, path = prepare(tmp_path, parts, **{stage: long[stage]}), tmp_path / "job"
    process = started(path, job=job)
    wait_for(lambda: path.exists() and JobFolder(path).told().get("stage") == stage)
    wait_for(lambda: JobFolder(path).told().get("done", 0) > 0)
    (path / "cancel").touch()
    process.join(30)
    assert process.exitcode == CANCELLED
    assert (state(path)["state"], state(path)["stage"]) == ("cancelled", stage)
    assert finished(path, job=job) == CANCELLED
    (path / "cancel").unlink()
    process = started(path)
    wait_for(lambda: state(path)["state"] == "running" and state(path).get("done", 0) > 0)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert state(path)["state"] == "queued"
    assert process.exitcode == CANCELLED
    row = json.loads((path / "progress.jsonl").read_text().splitlines()[-1])
    assert row["stage"] == stage
    assert row["loss"] > 0
    assert row["eta_seconds"] > 0


def _trainers(path: Path) -> list[str]:
    """Process ids of the job's own children: torchrun and those that it starts."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if b"cohort_classifier" in command and str(path).encode() in command:
            found.append(entry.name)
    return found


@pytest.mark.parametrize("when", ["at once", "in training"])
def test_killed_with_several_processes_it_leaves_none(tmp_path, parts, when):
    job = prepare(tmp_path, parts, classifier={"epochs": 5000, "processes": 2, "precision": "32-true"})
    path = tmp_path / "job"
    process = started(path, job=job)
    wait_for(lambda: len(_trainers(path)) == 3)  # torchrun and two
    if when == "in training":
        wait_for(lambda: JobFolder(path).told().get("done", 0) > 0)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    try:
        wait_for(lambda: not _trainers(path), 60)
    finally:
        for number in _trainers(path):
            os.kill(int(number), signal.SIGKILL)


LIMITED = """
import os, pathlib, sys, torch
from training.runs import cohort_classifier
try:
    cohort_classifier.run(pathlib.Path(sys.argv[1]))
except FileNotFoundError:
    print(torch.get_num_threads(), os.getpriority(os.PRIO_PROCESS, 0))
"""


def test_each_of_several_processes_keeps_within_the_limits(tmp_path):
    from explain_core.geometry import InputSpec
    from training import cohort, datasets
    from training.runs import cohort_classifier
    from training.runs.image_classifier import ImageClassifierSettings

    images, _ = cohort.load(datasets.read("phantom?size=32&train=8&validation=6&test=1"), InputSpec(size=32))
    settings = ImageClassifierSettings(architecture="resnet20", epochs=1, batch=4, device="cpu", precision="32-true")
    limits = cohort_classifier.Limits(nice=7, threads=6, gpu_memory_fraction=0.5)
    parts = (images.part("train").labelled(), images.part("validation").labelled())
    cohort_classifier.write_request(tmp_path, settings, *parts, None, limits)
    (tmp_path / "training.npz").unlink()  # the limits come before the images are read
    argv = [sys.executable, "-c", LIMITED, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}
    found = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert found.stdout.splitlines()[-1:] == ["3 7"], found.stderr


def test_the_evaluation_runs_on_the_device_of_the_job(tmp_path, parts):
    from training.retrain.job import load
    from training.retrain.judging import evaluate
    from training.retrain.stage import Context

    asked = prepare(tmp_path, parts)
    assert finished(tmp_path / "job", job=asked, die_in="classifier", when="begun") == -signal.SIGKILL
    folder = JobFolder(tmp_path / "job")
    shutil.copytree(parts / "champion", folder.stage("bundle") / "bundle")
    job = load(folder.job_file)
    job = job.model_copy(update={"resources": job.resources.model_copy(update={"device": "cuda:99"})})
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)cuda|device"):
        evaluate(Context(job, folder, lambda *_, **__: None))


def test_report_and_model_card_name_no_folder(undisturbed, parts):
    for file in ("report.html", "bundle/model_card.md"):
        text = (undisturbed / file).read_text()
        assert "champion" in text
        assert str(undisturbed.parent) not in text
        assert str(parts) not in text


def test_a_registry_that_is_away_is_waited_for(tmp_path, parts, undisturbed):
    path = tmp_path / "job"
    shutil.copytree(undisturbed, path)
    away = {"uri": "http://127.0.0.1:9", "artifacts": str(tmp_path)}
    text = job_text(undisturbed.parent, parts / "champion", registry=away)
    job = tmp_path / "asked.toml"
    job.write_text(text)
    assert finished(path, job=job, wait=False) == WAITING
    assert state(path)["state"] == "waiting"
    assert "127.0.0.1:9 does not answer" in state(path)["error"]
    assert "version" not in state(path)
    process = started(path, job=job, retry_seconds=0.2)
    wait_for(lambda: (path / "job.log").read_text().count("waiting") >= 3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    shutil.copy(parts / "mlflow.sqlite", tmp_path)
    job.write_text(job_text(tmp_path, parts / "champion", split={"book": str(undisturbed.parent / "splits.csv")}))
    assert finished(path, job=job) == DONE, (path / "job.log").read_text()
    assert len(versions(tmp_path)) == 1
    assert state(path)["version"] == 1
    assert state(path).get("error") is None


FULL = """
import json, os, pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
(folder / "filler").write_bytes(bytes(int(sys.argv[2])))
os.execv(sys.executable, [sys.executable, "-m", "training", "retrain", sys.argv[3], "--folder", folder / "job",
                          "--retry-seconds", "0.2"])
"""


@pytest.mark.parametrize("room", [150_000, 900_000])
def test_a_full_disk_is_waited_for(tmp_path, parts, room):
    disk = tmp_path / "disk"
    disk.mkdir()
    job = prepare(tmp_path, parts)
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL, disk]
    argv += [str((3 << 20) - room), job]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([str(part) for part in argv], stdout=out, stderr=out)
    try:
        path = Path(f"/proc/{process.pid}/root{disk}/job")  # a file system of its own, seen through the process
        wait_for(lambda: _state_of(path).get("state") == "waiting", 90)
        assert "is full" in _state_of(path)["error"]
        stage = _state_of(path).get("stage", "")
        assert process.poll() is None
        subprocess.run(
            ["nsenter", f"--target={process.pid}", "--user", "--mount", "--preserve-credentials", "sh", "-c",
             f"rm {disk}/filler && mount -o remount,size=200m {disk}"], check=True,
        )  # fmt: skip
        wait_for(lambda: process.poll() is not None or _state_of(path).get("stage", "") != stage, 60)
        wait_for(lambda: process.poll() is not None, 60)
        assert process.returncode == DONE, (tmp_path / "out").read_text()
    finally:
        process.kill()
        process.wait()
    assert len(versions(tmp_path)) == 1


def _state_of(path: Path) -> dict:
    try:
        return json.loads((path / "state.json").read_text())
    except (OSError, ValueError):
        return {}
