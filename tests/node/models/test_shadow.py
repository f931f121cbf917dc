"""Shadow mode: a challenger sees what the champion explained, is compared, and is never sent."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from shadowing import STUDIES, Node, Wrapped, load
from structlog.testing import capture_logs
from typer.testing import CliRunner
from working import at, python, wait_for

from dicom_node.cli import app
from dicom_node.errors import OutOfResources
from dicom_node.explain.leases import EXIT_HARD_LIMIT
from dicom_node.models import shadow
from dicom_node.nouns import StudyState, TaskState

SHADOWING = str(Path(__file__).parents[1] / "shadowing.py")


@pytest.fixture
def node(tmp_path):
    made = []

    def make(**sections) -> Node:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Node(folder, **sections))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


def outbox(here: Node) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in here.spool.outbox.rglob("*.dcm")}


def command(here: Node, *arguments: str):
    config = here.folder / "node.toml"
    config.write_text(
        f'[node]\nspool = "{here.settings.node.spool}"\ndatabase = "{here.settings.node.database}"\n'
        f'[model]\nbundle = "{here.settings.model.bundle}"\nstore = "{here.settings.model.store}"\n'
        f'[audit]\nfolder = "{here.folder}/audit"\n'
    )
    return CliRunner().invoke(app, [*arguments, "--config", str(config)])


def failing(error: BaseException, study: str):
    """Loads a toy that cannot explain one study."""

    def loaded(folder: Path):
        toy = load(folder)

        def explain(radiograph, methods, assessment=None):
            if radiograph.source_id.startswith(study):
                raise error
            return toy.explain(radiograph, methods, assessment)

        return Wrapped(toy, explain)

    return loaded


# ---- what went well


@pytest.mark.slow
def test_a_challenger_sees_what_the_champion_explained_and_nothing_of_it_is_owed_to_anybody(node):
    here = node(results={"objects": ["secondary_capture", "structured_report"]})
    here.receive(1, 2, 3, 4, 5, 6)
    here.explain(1)  # before the challenger came
    here.now = at(100)
    digest = here.deploy("2.0.0", threshold=0.9)
    here.explain(2, 3, 4, 5, 6)
    owed, files = here.ledger.deliveries(), outbox(here)
    here.watch()
    seen = here.ledger.observed(digest)
    assert [one.task_id for one in seen] == ["t2", "t3", "t4", "t5", "t6"]
    assert {one.role for one in seen} == {"challenger"}
    assert {one.threshold for one in seen} == {0.9}
    assert (here.ledger.deliveries(), outbox(here)) == (owed, files)
    assert here.kept(digest) == {"t2", "t3", "t4", "t5", "t6"}
    kinds = {dcmread(path).Modality for path in (here.spool.root / "shadow" / digest / "t2").glob("*.dcm")}
    assert kinds == {"OT", "SR"}
    assert not here.shadow().step()
    assert here.ledger.observed(digest) == seen


def test_the_comparison_is_shown_by_the_command(node):
    here = node()
    here.receive(1, 2, 3, 4, 5)
    here.now = at(100)
    digest = here.deploy("2.0.0", threshold=0.6)
    here.explain(1, 2, 3, 4, 5)
    here.watch()
    here.receive(6)
    here.explain(6)
    champion = {one.sop_instance_uid: one.positive for one in here.ledger.observed(here.champion)}
    other = {one.sop_instance_uid: one.positive for one in here.ledger.observed(digest)}
    agree = sum(champion[uid] == other[uid] for uid in other)
    assert agree == 2
    found = json.loads(command(here, "shadow", "--json").stdout)
    assert (found["images"], found["studies"], found["waiting"], found["agree"]) == (5, 5, 1, agree)
    assert found["challenger"] == f"toy 2.0.0 {digest[:12]}"
    assert len(found["disagreements"]) == 5 - agree
    assert {one["study_instance_uid"] for one in found["disagreements"]} == {
        uid.removesuffix(".1.1") for uid in other if champion[uid] != other[uid]
    }
    assert found["mean_difference"] == 0
    assert found["correlation"] == pytest.approx([1, 1, 1])
    assert found["failures"] == []
    text = command(here, "shadow").stdout
    assert f"{agree} of 5" in text
    assert command(here, "shadow", "--since", "1").exit_code == 1  # nothing yesterday: the test's clock is in the past


def test_without_a_challenger_the_command_says_so(node):
    here = node()
    result = command(here, "shadow")
    assert result.exit_code == 1
    assert "no challenger is deployed" in result.output


def test_clinical_work_goes_first(node):
    here = node()
    here.receive(1, 2)
    digest = here.deploy("2.0.0")
    here.explain(1)
    shade = here.shadow()
    assert not shade.step()  # t2 is pending
    assert here.ledger.lease("t2", "worker", here.now, 60)
    assert not shade.step()  # and now somebody works on it
    assert here.ledger.observed(digest) == []
    assert here.ledger.fail("t2", "no", here.now)
    assert shade.step()
    assert [one.task_id for one in here.ledger.observed(digest)] == ["t1"]


def test_a_study_that_the_champion_failed_is_left_alone(node):
    here = node()
    here.receive(1, BodyPartExamined="HAND")
    digest = here.deploy("2.0.0")
    here.explain(1)
    here.watch()
    assert (here.ledger.observed(digest), here.kept(digest)) == ([], set())


def test_a_study_that_no_rule_takes_is_left_alone(node):
    here = node()
    here.receive(1, selected=(), reason="no routing rule takes it")
    digest = here.deploy("2.0.0")
    here.explain(1)
    assert here.ledger.studies()[0].state is StudyState.IGNORED
    here.watch()
    assert (here.ledger.observed(digest), here.ledger.shadow_failures(digest)) == ([], [])


def test_another_challenger_is_taken_between_two_studies(node):
    here = node()
    here.receive(1, 2)
    first = here.deploy("2.0.0")
    here.explain(1, 2)
    shade = here.shadow()
    assert shade.step()
    here.now = at(200)
    second = here.deploy("3.0.0")
    here.receive(3)
    here.explain(3)
    here.watch(shade)
    assert [one.task_id for one in here.ledger.observed(first)] == ["t1"]
    assert [(one.task_id, one.model_version) for one in here.ledger.observed(second)] == [("t3", "3.0.0")]
    assert here.ledger.withdraw("challenger", by="test", reason="", now=at(300))
    with capture_logs() as logged:
        assert not shade.step()
        assert not shade.step()
    assert [one["event"] for one in logged] == ["no challenger is deployed"]


def test_only_the_newest_results_are_kept(node, tmp_path):
    here = node()
    here.receive(1)
    here.explain(1)
    objects = [dcmread(path) for path in here.spool.outbox.rglob("*.dcm")]
    for number in range(5):
        shadow.store(tmp_path / "s", f"digest{number % 2}", f"t{number}", objects, keep=3)
        os.utime(tmp_path / "s" / f"digest{number % 2}" / f"t{number}", (number, number))
    for _ in range(2):  # a repetition takes the place of what is there
        shadow.store(tmp_path / "s", "digest1", "t4", objects, keep=2)
    assert sorted(str(one.relative_to(tmp_path / "s")) for one in (tmp_path / "s").glob("*/*")) == [
        "digest0/t4",
        "digest1/t4",
    ]
    assert len(list((tmp_path / "s" / "digest1" / "t4").iterdir())) == len(objects)


# ---- what went wrong


def test_a_tampered_challenger_is_refused_said_once_and_taken_when_it_is_sound_again(node):
    here = node()
    here.receive(1)
    digest = here.deploy("2.0.0")
    here.explain(1)
    weights = here.folder / "models" / digest / "classifier.safetensors"
    weights.write_text("something else")
    shade = here.shadow()
    with capture_logs() as logged:
        for _ in range(3):
            assert not shade.step()
    (line,) = [one for one in logged if one["event"] == "the challenger cannot be used"]
    assert "classifier.safetensors does not match its checksum" in line["reason"]
    assert here.ledger.observed(digest) == []
    weights.write_text("nothing")
    here.watch(shade)
    assert len(here.ledger.observed(digest)) == 1


def test_another_bundle_in_its_place_is_refused(node):
    here = node()
    here.receive(1)
    digest, other = here.deploy("2.0.0"), here.deploy("3.0.0", role="champion")
    here.explain(1)
    models = here.folder / "models"
    (models / digest).rename(models / "aside")
    (models / other).rename(models / digest)
    with capture_logs() as logged:
        assert not here.shadow().step()
    assert "holds another bundle" in logged[0]["reason"]
    assert here.ledger.observed(digest) == []


def test_a_poison_study_is_given_up_and_the_others_go_on(node):
    here = node()
    here.receive(1, 2, 3)
    digest = here.deploy("2.0.0")
    here.explain(1, 2, 3)
    shade = here.shadow(failing(ZeroDivisionError("Canary^Bird"), f"{STUDIES}.2"))
    with capture_logs() as logged:
        here.watch(shade)
        assert [one.task_id for one in here.ledger.observed(digest)] == ["t1", "t3"]
        assert here.ledger.shadow_failures(digest) == []  # it may still succeed
        for _ in range(5):
            here.later()
            here.watch(shade)
    (failure,) = here.ledger.shadow_failures(digest)
    assert (failure.study_instance_uid, failure.reason) == (f"{STUDIES}.2", "ZeroDivisionError")
    tries = [one for one in logged if one["event"] == "the challenger failed"]
    assert len(tries) == here.settings.broker.max_attempts
    assert "canary" not in repr(logged).lower()
    assert json.loads(command(here, "shadow", "--json").stdout)["failures"][0]["task_id"] == "t2"


def test_images_that_only_the_challenger_refuses_are_counted(node):
    from explain_core.errors import ExplainError

    here = node()
    here.receive(1)
    digest = here.deploy("2.0.0")
    here.explain(1)
    here.watch(here.shadow(failing(ExplainError("it cannot"), STUDIES)))
    (failure,) = here.ledger.shadow_failures(digest)
    assert failure.reason == "1 of 1 images: model"


def test_a_study_that_takes_too_long_is_tried_again_and_then_given_up(node):
    here = node()
    here.receive(1)
    digest = here.deploy("2.0.0")
    here.explain(1)
    here.limit(soft_time_limit=1, max_attempts=1)

    def slow(folder):
        toy = load(folder)
        return Wrapped(toy, lambda *given: (time.sleep(5), toy.explain(*given))[1])

    before = time.monotonic()
    here.watch(here.shadow(slow))
    assert time.monotonic() - before < 4.5
    (failure,) = here.ledger.shadow_failures(digest)
    assert failure.reason == "it took longer than 1 s"


def test_a_study_that_hangs_for_ever_ends_the_process(node):
    here = node()
    here.receive(1)
    here.deploy("2.0.0")
    here.explain(1)
    here.limit(hard_time_limit=1)
    ended, go = [], threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        go.set()

    def hangs(folder):
        toy = load(folder)
        return Wrapped(toy, lambda *given: (go.wait(20), toy.explain(*given))[1])

    from dicom_node.explain import leases

    thread = threading.Thread(target=here.shadow(hangs, end=end).step)  # not the main thread: no soft limit
    thread.start()
    thread.join(20)
    assert ended == [leases.EXIT_HARD_LIMIT] == [EXIT_HARD_LIMIT]


def test_a_full_disk_costs_no_attempt(node, monkeypatch):
    here = node()
    here.receive(1)
    digest = here.deploy("2.0.0")
    here.explain(1)
    shade = here.shadow()

    def full(*_):
        raise OutOfResources("Disk full")

    with monkeypatch.context() as patched:
        patched.setattr(shadow, "store", full)
        for _ in range(5):
            assert not shade.step()
            here.later()
    assert here.ledger.observed(digest) == []
    here.watch(shade)
    assert [one.task_id for one in here.ledger.observed(digest)] == ["t1"]
    assert here.ledger.shadow_failures(digest) == []


@pytest.mark.slow
def test_killed_in_a_study_it_does_it_again_without_harm(node):
    here = node()
    here.receive(1, 2)
    here.now = at(100)
    digest = here.deploy("2.0.0")
    here.explain(1, 2)
    owed, files = here.ledger.deliveries(), outbox(here)
    (here.folder / "hang").touch()
    arguments = here.process()
    process = python(*arguments)
    wait_for((here.folder / "began").exists, 60, "the first study")
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -9
    assert here.ledger.observed(digest) == []
    (here.folder / "hang").unlink()
    with sqlite3.connect(here.folder / "ledger.sqlite") as database:
        (attempts,) = database.execute("SELECT attempts FROM shadow_work").fetchone()
        database.execute("UPDATE shadow_work SET changed_at = '2026-01-01 00:00:00.000000'")  # its rest is over
    assert attempts == 1
    process = python(*arguments)
    try:
        wait_for(lambda: len(here.ledger.observed(digest)) == 2, 60, "both studies")
    finally:
        process.kill()
        process.wait()
    assert here.kept(digest) == {"t1", "t2"}
    assert (here.ledger.deliveries(), outbox(here)) == (owed, files)
    assert here.ledger.shadow_failures(digest) == []


def test_what_kills_the_process_each_time_is_given_up(node):
    here = node()
    here.receive(1)
    digest = here.deploy("2.0.0")
    here.explain(1)
    again = timedelta(seconds=here.settings.broker.hard_time_limit)
    for _ in range(here.settings.broker.max_attempts):
        assert here.ledger.take_shadow(digest, at(0), here.now, again)  # and then it is killed
        here.later()
    here.watch()
    (failure,) = here.ledger.shadow_failures(digest)
    assert failure.reason == "it ended the process each time"
    assert here.ledger.observed(digest) == []


def test_two_shadows_take_different_studies(node):
    here = node()
    here.receive(1, 2)
    digest = here.deploy("2.0.0")
    here.explain(1, 2)
    again = timedelta(seconds=60)
    taken = [here.ledger.take_shadow(digest, at(0), here.now, again) for _ in range(3)]
    assert taken == [("t1", 1), ("t2", 1), None]


# ---- the real thing


@pytest.mark.slow
def test_the_role_runs_a_real_bundle_beside_the_node_at_the_lowest_priority(tmp_path, root):
    """`dicom-node serve --only shadow` with the default bundle under another version number as challenger."""
    import shutil

    from explain_core.bundles.files import verify, write_sums
    from explain_core.explainer import open_bundle

    default = root / "dicom_node" / "bundles" / "default"
    here = Node(tmp_path, model={"bundle": default, "store": tmp_path / "models", "device": "cpu", "augmentations": 0})
    challenger = tmp_path / "challenger"
    shutil.copytree(default, challenger)
    description = challenger / "bundle.toml"
    description.write_text(description.read_text().replace('version = "', 'version = "9.', 1))
    write_sums(challenger)
    digest = verify(challenger)
    shutil.copytree(challenger, tmp_path / "models" / digest)
    here.ledger.deploy("challenger", digest=digest, number=2, name="x", version="9", by="t", reason="", now=here.now)
    here.receive(1)
    from dicom_node.explain.worker import Worker

    champion = open_bundle(default, device="cpu", augmentations=0)
    assert Worker(here.settings, here.ledger, here.spool, lambda: champion, clock=lambda: here.now).run("t1")
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nspool = "{here.settings.node.spool}"\ndatabase = "{here.settings.node.database}"\n'
        f'[model]\nbundle = "{default}"\nstore = "{tmp_path}/models"\ndevice = "cpu"\naugmentations = 0\n'
        f'[audit]\nfolder = "{tmp_path}/audit"\n[metrics]\nfolder = "{tmp_path}/metrics"\n'
    )
    process = subprocess.Popen([sys.executable, "-m", "dicom_node", "serve", "--only", "shadow", "-c", str(config)])
    try:
        wait_for(lambda: here.ledger.observed(digest), 200, "the challenger's answer")
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    finally:
        process.terminate()
    assert process.wait(60) == 0
    (one,) = here.ledger.observed(champion.identity.digest)
    (two,) = here.ledger.observed(digest)
    assert (one.probability, one.heatmap) == (two.probability, two.heatmap)
    assert set(two.statistics) == {"mean", "contrast", "sharpness", "aspect"}
    assert {row.task_id for row in here.ledger.deliveries()} == {"t1"}
    assert here.ledger.task("t1").state is TaskState.DONE
