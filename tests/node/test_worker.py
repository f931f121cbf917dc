"""The worker: lease, explain, outbox, one transaction; with real data sets, a real ledger and a toy model."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from radiographs import encode, synthetic
from structlog.testing import capture_logs
from working import STUDY, association, at, instance, settings, task, wait_for

from dicom_node import pipeline, worker
from dicom_node.errors import ConfigError, OutOfResources, StudyUnsuitable
from dicom_node.ledger import Ledger
from dicom_node.model import DeliveryState, StudyState, TaskState
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from explain_core.testing import ToyExplainer

SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.33"
RULES = [
    {"name": "chest", "action": "explain", "destinations": ["pacs", "archive"]},
    {"name": "quick", "action": "explain", "destinations": ["pacs"], "results": ["structured_report"]},
]


class Doing(ToyExplainer):
    """The toy model, after doing something."""

    def __init__(self, before) -> None:
        super().__init__()
        object.__setattr__(self, "_before", before)

    def explain(self, radiograph):
        self._before()
        return super().explain(radiograph)


class Node:
    """A study with one received image and one task, and workers for it."""

    def __init__(self, folder: Path, *, image: bytes | None = None, **limits) -> None:
        self.settings = settings(
            folder, ("pacs", "PACS", 11113), ("archive", "ARCHIVE", 11114), rules=RULES, broker=limits
        )
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.spool = Spool(self.settings.node.spool, 0)
        self.now = at(30)
        self.receive(1, image)
        self.add_task("t1")

    def receive(self, number: int, image: bytes | None = None) -> None:
        made = instance(number, path=self.settings.node.spool / f"{number}.dcm")
        made.path.write_bytes(image or chest(number))
        self.ledger.open_association(association())
        assert self.ledger.add_instance(made) == "added"
        self.ledger.close_association("a1", at(1))

    def add_task(self, name: str, revision: int = 1, **changes) -> None:
        seen = self.ledger.study(STUDY, revision)
        assert self.ledger.mark_ready(seen, [task(seen, name, **changes)], at(20))

    def worker(self, explainer=None, **options) -> Worker:
        load = options.pop("load", lambda: explainer or ToyExplainer())
        options = {"clock": lambda: self.now} | options
        return Worker(self.settings, self.ledger, self.spool, load, **options)

    @property
    def state(self) -> tuple[StudyState, str | None]:
        return self.ledger.studies()[0].state, self.ledger.studies()[0].reason

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.spool.outbox.rglob("*.dcm")}

    @property
    def owed(self) -> list[tuple[str, str]]:
        return sorted((one.sop_instance_uid, one.destination) for one in self.ledger.deliveries())

    @property
    def report(self):
        """The one result, which must be a report."""
        (path,) = {one.path for one in self.ledger.deliveries()}
        found = dcmread(path)
        assert found.SOPClassUID == SR_STORAGE
        return found

    @property
    def report_text(self) -> str:
        """All text of the one report."""
        return "\n".join(str(one.TextValue) for one in _items(self.report) if "TextValue" in one)


def _items(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from _items(child)


def chest(number: int = 1, **changes) -> bytes:
    made = instance(number)
    return encode(
        synthetic(
            bits=8,
            SOPInstanceUID=made.sop_instance_uid,
            StudyInstanceUID=made.study_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
            **changes,
        )
    )


@pytest.fixture
def node(tmp_path):
    made = []

    def make(**options) -> Node:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Node(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


# ---- what went well


def test_an_explained_study_owes_every_result_to_every_destination_of_its_route(node):
    here = node()
    assert here.worker().run("t1")
    assert here.state == (StudyState.EXPLAINED, None)
    assert here.ledger.task("t1").state is TaskState.DONE
    rows = here.ledger.deliveries()
    assert len({one.sop_instance_uid for one in rows}) == 3
    assert {one.destination for one in rows} == {"pacs", "archive"}
    assert len(rows) == 6
    for row in rows:
        written = dcmread(row.path)
        assert (written.SOPInstanceUID, written.SOPClassUID) == (row.sop_instance_uid, row.sop_class_uid)
        assert written.StudyInstanceUID == STUDY


def test_a_route_chooses_destinations_and_results(node):
    here = node()
    here.receive(2)
    here.add_task("t2", 2, route="quick")
    here.worker().run("t2")
    (row,) = here.ledger.deliveries()
    assert (row.destination, row.sop_class_uid) == ("pacs", SR_STORAGE)


def test_the_same_message_again_does_nothing(node):
    here = node()
    one = here.worker()
    assert one.run("t1")
    before = (here.files, here.owed)
    assert not one.run("t1")
    assert not here.worker().run("t1")
    assert not one.run("unknown")
    assert before == (here.files, here.owed)


def test_the_model_is_loaded_once_and_only_when_it_is_needed(node):
    here = node()
    loads = []
    one = here.worker(load=lambda: loads.append(1) or ToyExplainer())
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="a lateral view")
    one.run("t2")
    assert loads == []
    here.receive(3)
    here.add_task("t3", 3)
    one.run("t1")
    one.run("t3")
    assert loads == [1]


# ---- doing it twice


class Killed(BaseException):
    """What a kill looks like to Python code that runs on."""


def test_files_are_durable_before_any_row_and_a_second_run_makes_the_same_set(node, monkeypatch):
    here = node()
    seen = []

    def killed(*_, deliveries, **__):
        seen.append([one.path.exists() for one in deliveries])
        raise Killed

    monkeypatch.setattr(here.ledger, "complete", killed)
    with pytest.raises(Killed):
        here.worker().run("t1")
    assert seen == [[True] * 6]
    assert here.owed == []
    first = here.files
    monkeypatch.undo()
    here.now = at(30 + here.settings.broker.lease_seconds)
    assert here.ledger.reclaim("t1", here.now)
    assert here.worker().run("t1")
    assert here.files == first
    assert len(here.owed) == 6


def test_a_worker_that_lost_its_lease_writes_nothing(node):
    here = node()

    def lose() -> None:
        here.now = at(30 + here.settings.broker.lease_seconds)
        assert here.ledger.reclaim("t1", here.now)
        assert here.ledger.lease("t1", "another", here.now, 60)

    assert not here.worker(Doing(lose)).run("t1")
    assert (here.files, here.owed) == ({}, [])
    assert here.ledger.task("t1").state is TaskState.LEASED


def test_a_worker_overtaken_while_writing_records_nothing(node, monkeypatch):
    here = node()
    write = here.spool.write_outbox

    def overtaken(*arguments):
        here.now = at(30 + 2 * here.settings.broker.lease_seconds)
        if here.ledger.reclaim("t1", here.now):
            here.ledger.lease("t1", "another", here.now, 60)
        return write(*arguments)

    monkeypatch.setattr(here.spool, "write_outbox", overtaken)
    assert not here.worker().run("t1")
    assert here.owed == []
    assert here.state[0] is StudyState.EXPLAINING


def test_a_rerun_sends_the_same_objects_again_and_makes_no_others(node):
    here = node()
    here.worker().run("t1")
    before = (here.files, here.owed)
    here.ledger.rerun_study(STUDY, at(60))
    assert here.worker().run("t1")
    assert before == (here.files, here.owed)


def test_a_late_image_leaves_the_results_of_the_first_revision_alone(node):
    here = node()
    here.worker().run("t1")
    before = here.files
    here.receive(2)
    here.add_task("t2", 2)
    here.worker().run("t2")
    assert before.items() <= here.files.items()
    assert len(here.files) == 6


# ---- what went wrong: never silence


def test_an_unsuitable_image_is_reported(node):
    here = node(image=chest(BodyPartExamined="HAND"))
    assert here.worker().run("t1")
    state, reason = here.state
    assert state is StudyState.FAILED
    assert "HAND" in reason
    assert reason in here.report_text
    assert {one.destination for one in here.ledger.deliveries()} == {"pacs", "archive"}


def test_a_truncated_file_is_reported(node):
    here = node(image=chest()[:-20_000])
    assert here.worker().run("t1")
    assert here.state[0] is StudyState.FAILED
    assert here.report.StudyInstanceUID == STUDY


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("Canary^Bird"), "the analysis failed (ZeroDivisionError)"),
        (MemoryError("Canary^Bird"), "the analysis failed (MemoryError)"),
        (StudyUnsuitable("it is a drawing"), "it is a drawing"),
    ],
)
def test_any_failure_is_terminal_reported_and_quotes_nothing(node, error, reason):
    here = node()

    def fail() -> None:
        raise error

    with capture_logs() as logged:
        assert here.worker(Doing(fail)).run("t1")
    assert here.state == (StudyState.FAILED, reason)
    assert reason in here.report_text
    assert here.ledger.task("t1").state is TaskState.FAILED
    assert here.ledger.task("t1").attempts == 1
    assert not here.worker().run("t1")
    assert "canary" not in repr(logged).lower()


def test_a_model_that_cannot_be_loaded_is_reported_and_tried_again_with_the_next_task(node):
    here = node()
    turns = iter([ConfigError("model.bundle: generators.safetensors does not match"), None])

    def load():
        if (error := next(turns)) is not None:
            raise error
        return ToyExplainer()

    one = here.worker(load=load)
    assert one.run("t1")
    assert here.state == (StudyState.FAILED, "the analysis failed (ConfigError)")
    assert here.report
    assert here.ledger.replay_failed(None, at(60)).tasks == 1
    assert one.run("t1")
    assert here.state == (StudyState.EXPLAINED, None)


def test_results_that_cannot_be_written_are_reported(node, monkeypatch):
    here = node()
    write = here.spool.write_outbox

    def picky(name, dataset):
        if dataset.SOPClassUID != SR_STORAGE:
            raise ValueError("Canary^Bird")
        return write(name, dataset)

    monkeypatch.setattr(here.spool, "write_outbox", picky)
    with capture_logs() as logged:
        assert here.worker().run("t1")
    assert here.state == (StudyState.FAILED, "the results could not be written (ValueError)")
    assert "could not be written" in here.report_text
    assert "canary" not in repr(logged).lower()


def test_when_not_even_a_report_can_be_made_the_study_has_visibly_failed(node, monkeypatch):
    here = node()

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "explain_study", broken)
    monkeypatch.setattr(pipeline, "report_not_analysed", broken)
    assert here.worker().run("t1")
    assert here.state == (
        StudyState.FAILED,
        "the analysis failed (ZeroDivisionError); no report could be made (ZeroDivisionError)",
    )
    assert here.ledger.task("t1").state is TaskState.FAILED


def test_a_study_that_no_rule_takes_is_answered_everywhere(node):
    here = node()
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="a lateral view")
    assert here.worker().run("t2")
    newest = here.ledger.studies()
    assert (StudyState.IGNORED, "a lateral view") in [(one.state, one.reason) for one in newest]
    assert "a lateral view" in here.report_text
    assert {one.destination for one in here.ledger.deliveries()} == {"pacs", "archive"}


def test_a_task_given_up_is_reported_without_the_model_and_can_be_replayed(node):
    here = node()
    here.ledger.lease("t1", "dead", at(30), 60)
    assert here.ledger.reclaim("t1", at(90), give_up="the analysis ended 3 times without a result")

    def load():
        raise AssertionError("the model must not be loaded for a report")

    here.now = at(100)
    assert here.worker(load=load).run("t1")
    assert here.state == (StudyState.FAILED, "the analysis ended 3 times without a result")
    assert "ended 3 times" in here.report_text
    here.ledger.replay_failed(STUDY, at(200))
    assert here.worker().run("t1")
    assert here.state == (StudyState.EXPLAINED, None)


def test_a_full_disk_puts_the_task_back_and_costs_no_attempt(node, monkeypatch):
    here = node()

    def full(*_):
        raise OutOfResources("Disk full")

    monkeypatch.setattr(here.spool, "write_outbox", full)
    assert not here.worker().run("t1")
    found = here.ledger.task("t1")
    assert (found.state, found.attempts) == (TaskState.PENDING, 0)
    assert here.ledger.pending_tasks(at(31), timedelta(seconds=30)) == []
    monkeypatch.undo()
    here.now = at(60)
    assert here.worker().run("t1")


def test_a_route_without_destinations_still_finishes_the_study(node):
    here = node()
    here.settings = here.settings.model_copy(update={"destinations": ()})
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="a lateral view")
    assert here.worker().run("t2")
    assert here.owed == []


# ---- time


def real_clock() -> datetime:
    return datetime.now(UTC)


def test_the_lease_is_kept_as_long_as_the_task_runs(node):
    here = node(lease_seconds=1)
    expired = []

    def slowly() -> None:
        for _ in range(8):
            time.sleep(0.2)
            expired.extend(here.ledger.expired_leases(real_clock()))

    assert here.worker(Doing(slowly), clock=real_clock).run("t1")
    assert expired == []


def test_the_soft_limit_ends_the_analysis_with_a_report(node):
    here = node(soft_time_limit=1)
    started = time.monotonic()
    assert here.worker(Doing(lambda: time.sleep(30))).run("t1")
    assert time.monotonic() - started < 10
    assert here.state == (StudyState.FAILED, "the analysis took longer than 1 s")
    assert here.report


def test_the_soft_limit_leaves_no_alarm_behind():
    with worker.soft_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(worker.SoftLimitExceeded), worker.soft_limit(0.05):
        time.sleep(5)


def test_at_the_hard_limit_the_process_ends_and_the_task_is_free_at_once(node):
    here = node(hard_time_limit=1, lease_seconds=600)
    ended: list[int] = []
    let_go = threading.Event()

    def hang() -> None:
        let_go.wait(20)

    one = here.worker(Doing(hang), clock=real_clock, end=ended.append)
    thread = threading.Thread(target=one.run, args=("t1",))
    thread.start()
    wait_for(lambda: ended, 10)
    assert ended == [worker.EXIT_HARD_LIMIT]
    (found,) = here.ledger.expired_leases(real_clock())
    assert (found.task_id, found.attempts) == ("t1", 1)
    assert here.ledger.reclaim("t1", real_clock())
    let_go.set()
    thread.join(10)
    assert here.owed == []


def test_at_the_hard_limit_the_process_ends_even_when_the_ledger_hangs(node, monkeypatch):
    here = node(hard_time_limit=1)
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(here.ledger, "expire_lease", lambda *_: time.sleep(30))
    ended: list[int] = []
    let_go = threading.Event()
    one = here.worker(Doing(lambda: let_go.wait(20)), end=ended.append)
    thread = threading.Thread(target=one.run, args=("t1",))
    thread.start()
    wait_for(lambda: ended, 10)
    let_go.set()
    thread.join(10)


def test_a_forked_worker_is_refused_before_it_takes_anything(node):
    here = node()
    one = here.worker()
    one._process = os.getpid() + 1
    with pytest.raises(ConfigError, match="solo"):
        one.run("t1")
    assert here.ledger.task("t1").state is TaskState.PENDING


def test_deliveries_are_named_by_task_object_and_destination(node):
    here = node()
    here.worker().run("t1")
    rows = here.ledger.deliveries()
    assert len({one.delivery_id for one in rows}) == len(rows) == 6
    assert {(one.state, one.attempts, one.next_attempt_at) for one in rows} == {(DeliveryState.PENDING, 0, at(30))}
