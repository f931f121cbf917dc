"""The registry on real MLflow: a database with files, a server in a process of its own, and none at all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from explain_core.bundles import files
from explain_core.bundles.registry import ABANDONED, Registry
from explain_core.bundles.tracking import RegistryError, RegistryUnreachable
from explain_core.errors import BundleError

LINEAGE = {"data_sha256": "d" * 64, "code_version": "1.2", "seeds": "0,1", "parent_digest": "", "job": "job-1"}


def small_bundle(folder: Path, version: str = "1.0.0") -> Path:
    """All that a registry looks at: files with checksums; nothing that could explain anything."""
    folder.mkdir(parents=True)
    for name in ("classifier.safetensors", "generators.safetensors", "model_card.md"):
        (folder / name).write_bytes(f"{name} of {version}".encode() * 100)
    (folder / "bundle.toml").write_text(f'name = "small"\nversion = "{version}"\n')
    files.write_sums(folder)
    return folder


@pytest.fixture
def url(empty_registry, tmp_path) -> str:
    shutil.copy(empty_registry, tmp_path / "mlflow.sqlite")
    return f"sqlite:///{tmp_path}/mlflow.sqlite"


@pytest.fixture
def registry(url, tmp_path) -> Registry:
    return Registry(url, "chest", tmp_path / "artifacts")


@pytest.fixture
def bundle(tmp_path) -> Path:
    return small_bundle(tmp_path / "bundle")


def register(registry: Registry, bundle: Path, gate: str = "passed", **more):
    return registry.register(bundle, gate=gate, lineage=LINEAGE, metrics={"auc": 0.9, "ece": 0.01}, **more)


def runs(registry: Registry) -> list:
    with registry._calling() as client:
        return list(client.search_runs([registry._experiment(client)]))


def everything(registry: Registry, bundle: Path, folder: Path) -> None:
    """What holds of every registry, whatever is behind it."""
    report = folder / "report.html"
    report.write_text("<p>figures</p>")
    assert registry.versions() == []
    assert registry.by_alias("champion") is None
    assert registry.by_digest("0" * 64) is None
    one = register(registry, bundle, reason="because", reports=[report])
    digest = files.verify(bundle)
    assert (one.number, one.digest, one.gate) == (1, digest, "passed")
    assert (one.bundle_name, one.bundle_version) == ("small", "1.0.0")
    assert one.metrics == {"auc": 0.9, "ece": 0.01}
    assert one.tags.items() >= LINEAGE.items()
    assert one.tags["reason"] == "because"
    assert register(registry, bundle) == one, "the same bundle is the same version"
    two = register(registry, small_bundle(folder / "b2", "2.0.0"), gate="refused")
    assert (two.number, two.gate) == (2, "refused")
    registry.set_alias("champion", 1)
    registry.set_alias("challenger", 2)
    assert [one.aliases for one in registry.versions()] == [{"champion"}, {"challenger"}]
    registry.set_alias("champion", 2)
    assert registry.by_alias("champion") == registry.version(2) == registry.by_digest(two.digest)
    registry.remove_alias("champion")
    registry.remove_alias("champion")
    assert registry.by_alias("champion") is None
    registry.note(1, {"forced": "why"})
    assert registry.version(1).tags["forced"] == "why"
    assert registry.versions()[0].tags["forced"] == "why"
    fetched = registry.fetch(1, folder / "store")
    assert fetched == folder / "store" / digest
    assert files.verify(fetched) == digest
    (copied,) = registry.reports(1, folder / "copied")
    assert copied.read_text() == "<p>figures</p>"
    with pytest.raises(RegistryError, match="not found"):
        registry.version(9)


@pytest.mark.slow
def test_versions_aliases_notes_files_and_reports_in_a_database(registry, bundle, tmp_path):
    everything(registry, bundle, tmp_path)


@pytest.mark.slow
def test_the_database_and_its_folders_are_made(tmp_path, bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = Registry("sqlite:///var/reg/mlflow.sqlite", "chest", Path("var/artifacts"))
    register(registry, bundle)
    assert (tmp_path / "var" / "reg" / "mlflow.sqlite").is_file()
    monkeypatch.chdir("/")
    assert files.verify(registry.fetch(1, tmp_path / "store"))


def test_a_damaged_bundle_is_refused_and_nothing_is_sent(registry, bundle):
    (bundle / "model_card.md").write_text("changed")
    with pytest.raises(BundleError, match=r"model_card\.md"):
        register(registry, bundle)
    assert runs(registry) == []
    with pytest.raises(RegistryError, match="gate 'good'"):
        register(registry, bundle, gate="good")


def test_files_that_the_bundle_does_not_list_are_not_registered(registry, bundle, tmp_path):
    (bundle / "notes.txt").write_text("a name of a patient")
    register(registry, bundle)
    assert not list((tmp_path / "artifacts").rglob("notes.txt"))
    assert len(list((tmp_path / "artifacts").rglob("*.*"))) == 4


def test_tampered_artifacts_are_not_fetched_and_leave_the_store_as_it_was(registry, bundle, tmp_path):
    one = register(registry, bundle)
    (kept,) = (tmp_path / "artifacts").rglob("classifier.safetensors")
    content = kept.read_bytes()
    kept.write_bytes(b"x" + content[1:])
    with pytest.raises(BundleError, match="checksum"):
        registry.fetch(1, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    # Checksums written anew do not help: the digest is another.
    files.write_sums(kept.parent)
    with pytest.raises(BundleError, match="not the ones that were registered"):
        registry.fetch(1, tmp_path / "store")
    kept.write_bytes(content)
    files.write_sums(kept.parent)
    assert registry.fetch(1, tmp_path / "store").name == one.digest


def test_a_damaged_copy_in_the_store_is_replaced_and_a_sound_one_is_left_alone(registry, bundle, tmp_path):
    register(registry, bundle)
    fetched = registry.fetch(1, tmp_path / "store")
    number = fetched.stat().st_ino
    assert registry.fetch(1, tmp_path / "store").stat().st_ino == number
    (fetched / "model_card.md").unlink()
    assert files.verify(registry.fetch(1, tmp_path / "store")) == fetched.name
    assert fetched.stat().st_ino != number
    assert len(list((tmp_path / "store").glob("damaged-*"))) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from explain_core.bundles.registry import Registry
registry = Registry(sys.argv[1], "chest", Path(sys.argv[2]))
with registry._calling() as client:
    step = getattr(client, sys.argv[4])
    def deadly(*arguments, **options):
        if sys.argv[5] == "after":
            step(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(client, sys.argv[4], deadly)
registry.register(Path(sys.argv[3]), gate="passed", lineage={"job": "j"}, metrics={"auc": 0.5})
"""
STEPS = [
    ("log_param", "before"),
    ("log_artifact", "after"),
    ("set_terminated", "after"),
    ("create_model_version", "after"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "when"), STEPS)
def test_a_registration_killed_at_any_step_ends_in_exactly_one_version(registry, url, bundle, tmp_path, step, when):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, url, tmp_path / "artifacts", bundle, step, when]
    assert subprocess.run(list(map(str, command)), check=False).returncode == -signal.SIGKILL
    left = [one.number for one in registry.versions()]
    assert left == ([1] if step == "create_model_version" else []), "the version comes last"
    one = register(registry, bundle)
    assert [version.number for version in registry.versions()] == [1]
    assert files.verify(registry.fetch(1, tmp_path / "store")) == one.digest
    marked = {run.info.run_id: ABANDONED in run.data.tags for run in runs(registry)}
    assert marked.pop(one.run_id) is False
    assert all(marked.values())
    assert len(marked) == (0 if step == "create_model_version" else 1)


def test_two_that_register_the_same_bundle_at_once_make_one_version(registry, bundle, monkeypatch):
    register(registry, bundle)
    monkeypatch.setattr(registry, "by_digest", lambda _: None)  # the other one has not finished when we look
    assert register(registry, bundle).number == 1
    assert [one.number for one in registry.versions()] == [1]


def test_a_server_that_is_away_or_silent_is_said_within_seconds_and_no_password_with_it(bundle, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for listening in (False, True):
            if listening:
                silent.listen(1)  # takes connections and never answers
            registry = Registry(f"http://user:secret@127.0.0.1:{port}", "chest", tmp_path)
            began = time.monotonic()
            with pytest.raises(RegistryUnreachable, match="does not answer") as caught:
                register(registry, bundle)
            assert time.monotonic() - began < 12
            assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path, bundle):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="file") as caught:
        register(Registry(f"sqlite:///{tmp_path}/file/m.sqlite", "chest", tmp_path), bundle)
    assert "\n" not in str(caught.value)


def test_without_mlflow_one_line_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from pathlib import Path\nfrom explain_core.bundles.registry import Registry\n"
        "Registry('sqlite:///m.sqlite', 'chest', Path('a')).versions()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'pip install -c constraints.txt ".[registry]"' in done.stderr.splitlines()[-1]


def test_nothing_of_mlflow_or_torch_is_loaded_before_it_is_needed():
    code = (
        "import sys; from explain_core.bundles.registry import Registry; from pathlib import Path\n"
        "Registry('http://127.0.0.1:9', 'chest', Path('a')); sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def server(tmp_path):
    """A real MLflow server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.sqlite"]
    arguments += ["--artifacts-destination", str(tmp_path / "kept"), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments, "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < end, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        _end(process)


def _end(process) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_versions_aliases_notes_files_and_reports_on_a_server_until_it_is_away(server, bundle, tmp_path):
    url, process = server
    registry = Registry(url, "chest", tmp_path / "unused")
    everything(registry, bundle, tmp_path)
    assert not (tmp_path / "unused").exists()
    assert list((tmp_path / "kept").rglob("classifier.safetensors"))
    _end(process)
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable):
        registry.versions()
    with pytest.raises(RegistryUnreachable):
        register(registry, bundle)
    assert time.monotonic() - began < 10
