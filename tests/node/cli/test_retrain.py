"""Jobs from the node's side: submitted, watched, cancelled, and kept when Redis and workers die."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from retraining import job_text
from typer.testing import CliRunner
from working import RedisServer, free_port, python, short_folder, wait_for

from dicom_node.cli import app
from dicom_node.errors import NodeError
from dicom_node.learn.jobs import Jobs, checked
from dicom_node.learn.worker import Worker
from dicom_node.settings.sections import RetrainingSettings


class Site:
    """A node's settings with Redis, and a training worker that a test starts and kills."""

    def __init__(self, folder: Path, parts: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder)
        self.config = folder / "node.toml"
        self.write_config(self.redis.url, parts)
        shutil.copy(parts / "mlflow.sqlite", folder)
        self.jobs = Jobs(folder / "jobs")
        self.worker: subprocess.Popen[bytes] | None = None

    def write_config(self, url: str, parts: Path) -> None:
        self.config.write_text(
            f'[node]\ndatabase = "sqlite:///{self.folder}/ledger.sqlite"\nspool = "{self.folder}/spool"\n'
            f'[audit]\nfolder = "{self.folder}/audit"\n'
            f'[broker]\nurl = "{url}"\n[model]\nbundle = "{parts / "champion"}"\n'
            f'[registry]\nuri = "sqlite:///{self.folder}/mlflow.sqlite"\nartifacts = "{self.folder}/artifacts"\n'
            f'[retraining]\njobs = "{self.folder}/jobs"\nnice = 1\nthreads = 1\n'
        )

    def job(self, parts: Path, **changes) -> Path:
        """A job.toml that leaves champion and registry to the node."""
        file = self.folder / "asked.toml"
        nothing = {"champion": {"bundle": None}, "registry": {"uri": None, "artifacts": None}}
        file.write_text(job_text(self.folder, parts / "champion", **(nothing | changes)))
        return file

    def call(self, *arguments: object, status: int = 0) -> str:
        found = CliRunner().invoke(app, ["retrain", *map(str, arguments), "--config", str(self.config)])
        assert found.exit_code == status, found.output + found.stderr
        return found.stdout + found.stderr

    def submit(self, file: Path) -> str:
        return json.loads(self.call("submit", file, "--json"))["job"]

    def start(self, every: float = 0.5) -> None:
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = python(
                "-m", "dicom_node", "retrain", "worker", "--config", str(self.config), "--every", str(every),
                "--retry-seconds", "0.2", stdout=log, stderr=log,
            )  # fmt: skip

    def in_stage(self, job: str, *stages: str) -> None:
        def there() -> bool:
            found = self.jobs.status(job)
            assert found.state in {"queued", "running"}, found.error
            return found.working and found.stage in stages

        try:
            wait_for(there, 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.jobs.status(job)}\n{self.log()}") from None

    def ended(self, job: str, state: str, seconds: float = 200) -> None:
        try:
            wait_for(lambda: self.jobs.status(job).state == state, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.jobs.status(job)}\n{self.log()}") from None

    def log(self) -> str:
        path = self.folder / "worker.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.redis.stop()


@pytest.fixture
def site(parts):
    with short_folder() as folder:
        made = Site(folder, parts)
        made.redis.start()
        try:
            yield made
        finally:
            made.stop()


def test_a_job_waits_for_a_worker_with_everything_that_the_node_knows(site, parts):
    import tomllib

    job = site.submit(site.job(parts))
    asked = tomllib.loads((site.jobs.folder / job / "job.toml").read_text())
    assert asked["champion"]["bundle"] == str(parts / "champion")
    assert asked["registry"]["uri"] == f"sqlite:///{site.folder}/mlflow.sqlite"
    modes = [path.stat().st_mode & 0o777 for path in (site.jobs.job(job).path, site.jobs.job(job).job_file)]
    assert modes == [0o700, 0o600]
    assert (asked["resources"]["nice"], asked["generators"]["steps"]) == (0, 4)
    assert site.redis.client().llen("retrain") == 1
    status = json.loads(site.call("status", job, "--json"))
    assert (status["state"], status["working"], status["version"]) == ("queued", False, None)
    assert job in site.call("status")
    assert site.call("cancel", job) == f"{job}: cancelled\n"
    assert site.jobs.status(job).state == "cancelled"
    assert site.call("resume", job) == f"{job}: queued\n"
    assert site.jobs.status(job).state == "queued"


def test_a_wrong_job_is_refused_when_it_is_submitted(site, parts):
    file = site.job(parts, classifier={"epocs": 3})
    line = 1 + file.read_text().splitlines().index("epocs = 3")
    said = site.call("submit", file, status=2)
    assert said == f"error: {file}:{line}: classifier.epocs: unknown key; did you mean epochs?\n"
    assert site.jobs.names() == []


@pytest.mark.slow
def test_labels_of_studies_that_nobody_sent_are_refused_by_line(site, parts):
    labels = site.folder / "labels.csv"
    labels.write_text("study_instance_uid,target\n1.2.3,1\n1.2.3,0\n")
    said = site.call("submit", site.job(parts), "--labels", labels, status=1)
    assert f"{labels}:2: " in said
    assert f"{labels}:3: " in said
    assert site.jobs.names() == []
    assert list(site.jobs.folder.iterdir()) == []


@pytest.mark.slow
def test_without_redis_a_job_stays_queued_and_that_is_said(site, parts):
    site.redis.stop()
    site.write_config(f"redis://127.0.0.1:{free_port()}/0", parts)
    assert "queued; the broker does not answer" in site.call("submit", site.job(parts))
    assert [site.jobs.status(name).state for name in site.jobs.names()] == ["queued"]


@pytest.mark.parametrize("name", ["no-such-job", "../node.toml", ".."])
def test_a_job_that_is_not_there_is_named(site, name):
    for command in ("status", "cancel", "resume", "logs"):
        assert f"no job '{name}'" in site.call(command, name, status=1)


def test_a_password_of_the_registry_is_on_no_command_line(tmp_path):
    uri, spy, file = "postgresql://mlflow:geheim@db/mlflow", tmp_path / "python", tmp_path / "job.toml"
    file.write_text('[data]\nsources = ["nih:x"]\n')
    spy.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/seen\nexec {sys.executable} "$@"\n')
    spy.chmod(0o755)
    _, text = checked(file, defaults={"registry.uri": uri, "resources.nice": 3}, python=str(spy))
    assert f'uri = "{uri}"' in text
    assert "nice = 3" in text
    seen = (tmp_path / "seen").read_text()
    assert "retrain" in seen
    assert "geheim" not in seen


def one_job(folder: Path, state: str) -> Jobs:
    """Jobs with one called "a"."""
    jobs = Jobs(folder)
    (folder / "a").mkdir(parents=True)
    jobs.queue(folder / "a", "")
    (folder / "a" / "state.json").write_text(json.dumps({"state": state}))
    return jobs


def test_a_job_that_ends_while_it_is_cancelled_stays_what_it_is(tmp_path):
    jobs = one_job(tmp_path, "running")
    path = jobs.job("a").path
    locked = threading.Event()

    def end() -> None:
        with (path / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            locked.set()
            wait_for((path / "cancel").exists, 60)
            (path / "state.json").write_text(json.dumps({"state": "done", "version": 3}))

    working = threading.Thread(target=end)
    working.start()
    locked.wait(20)
    assert jobs.cancel("a") == "done"
    working.join()
    assert (jobs.status("a").state, jobs.status("a").version) == ("done", 3)
    assert not (path / "cancel").exists()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_whose_process_died_is_taken_up_also_when_it_is_to_be_cancelled(tmp_path, cancelled):
    jobs = one_job(tmp_path, "running")
    if cancelled:
        (jobs.job("a").path / "cancel").touch()
    worker = Worker(RetrainingSettings(jobs=tmp_path))
    assert [job.name for job in worker.look()] == ["a"]
    (jobs.job("a").path / "state.json").write_text(json.dumps({"state": "cancelled"}))
    assert worker.look() == []


def test_a_state_that_nobody_knows_holds_up_no_other_job(tmp_path):
    jobs = one_job(tmp_path, "levitating")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "state.json").write_text(json.dumps({"state": "queued"}))
    assert jobs.status("a").state == "failed"
    assert [job.name for job in Worker(RetrainingSettings(jobs=tmp_path)).look()] == ["b"]


@pytest.mark.parametrize("state", ["refused", "done"])
def test_a_reason_is_kept_with_the_verdict_that_it_is_for(tmp_path, state):
    jobs = one_job(tmp_path, state)
    path = jobs.job("a").path
    with pytest.raises(NodeError, match="nothing was judged yet"):
        jobs.resume("a", "the head said so")
    (path / "stages" / "evaluate").mkdir()
    (path / "stages" / "evaluate" / "done.json").write_text(json.dumps({"made": {"figures": "x"}}))
    with pytest.raises(NodeError, match="nothing was judged yet"):
        jobs.resume("a", "the head said so")
    (path / "stages" / "gate").mkdir()
    (path / "stages" / "gate" / "done.json").write_text(json.dumps({"made": {"verdict": "abc"}}))
    assert jobs.resume("a", "the head said so")
    found = json.loads((path / "state.json").read_text())
    assert (found["state"], found["forced"], found["forced_for"]) == ("queued", "the head said so", "abc")


def test_the_command_line_loads_neither_torch_nor_training(root):
    program = (
        "import sys, dicom_node.cli.retrain, dicom_node.learn.jobs\n"
        "assert not {'torch', 'mlflow', 'training'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


@pytest.mark.slow
def test_a_lost_redis_and_killed_workers_lose_nothing(site, parts):
    """flushall, then kill -9 of the worker, then of worker and job: one version in the end."""
    from explain_core.bundles.registry import Registry

    job = site.submit(site.job(parts, generators={"steps": 150, "report_every": 50}))
    other = site.submit(site.job(parts, data={"sources": ["phantom?size=32&train=32&validation=6&test=3"]},
                                 limits={"min_patients": 1000}))  # fmt: skip
    site.redis.client().flushall()
    site.start()
    site.in_stage(job, "classifier", "calibrate", "generators")
    assert not site.jobs.status(other).working
    pid = _child_of(site.worker.pid)
    site.worker.kill()
    site.worker.wait()
    wait_for(lambda: not site.jobs.status(job).working, 60, "the job's process outlives its worker")
    wait_for(lambda: _gone(pid), 60, "the job's process outlives its worker")
    assert site.jobs.status(job).state in {"queued", "running"}

    site.start()
    wait_for(lambda: site.jobs.status(job).working, 60)
    pid = _child_of(site.worker.pid)
    os.kill(pid, signal.SIGKILL)
    site.redis.stop()
    site.redis.start()
    site.ended(job, "done")
    site.ended(other, "failed")
    assert site.call("logs", job).count("stage generators done in") == 1
    assert "stage register done" in site.call("logs", job, "-f")
    assert "patients, 1000 are needed" in site.call("status", other)
    registry = Registry(f"sqlite:///{site.folder}/mlflow.sqlite", "chest", site.folder / "artifacts")
    assert [one.number for one in registry.versions()] == [site.jobs.status(job).version]
    assert (site.jobs.folder / job / "report.html").is_file()
    site.worker.terminate()
    assert site.worker.wait(60) == 0


@pytest.mark.slow
def test_cancelled_from_the_command_line_and_resumed(site, parts):
    job = site.submit(site.job(parts, generators={"steps": 100000, "report_every": 50}))
    site.start()
    site.in_stage(job, "generators")
    assert any(answer in site.call("cancel", job) for answer in ("will stop", f"{job}: cancelled"))
    site.ended(job, "cancelled")
    assert site.call("resume", job).startswith(f"{job}: queued")
    site.in_stage(job, "generators")
    assert "works on" in site.call("resume", job, status=1)
    site.worker.terminate()
    assert site.worker.wait(60) == 0
    assert site.jobs.status(job).state == "queued"


def _child_of(pid: int) -> int:
    found: list[int] = []

    def look() -> bool:
        found[:] = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.extend(int(text) for text in (thread / "children").read_text().split())
        return bool(found)

    wait_for(look, 60)
    return found[0]


def _gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
