"""Retention: what is over goes, what is owed stays; on SQLite, and on PostgreSQL when it is there."""

import contextlib
import os
from pathlib import Path

import pytest
import structlog
from sqlalchemy import select
from working import STUDY, association, at, delivery, instance, settings, task

from dicom_node.errors import NotKept
from dicom_node.learn.jobs import EndedJobs, Jobs
from dicom_node.nouns import DeliveryState, StudyState, TaskState
from dicom_node.storage.ledger.schema import associations, instances, touches
from dicom_node.storage.retention import Retention
from dicom_node.storage.spool import Spool
from explain_core.jobs import JobFolder, JobState

OTHER = "1.2.826.0.1.3680043.9.2"
DAY = 86_400


class Node:
    """A ledger and a spool with real files; `days` moves the clock of retention."""

    def __init__(self, folder: Path, ledger, **kept: object) -> None:
        self.settings = settings(folder, ("pacs", "PACS", 11113), retention=kept)
        self.ledger = ledger
        self.spool = Spool(self.settings.node.spool, 0)
        self.days = 0.0
        self.room = 1 << 50
        self.jobs = folder / "jobs"
        self.retention = Retention(
            settings=self.settings,
            ledger=ledger,
            spool=self.spool,
            others=[(EndedJobs(self.jobs), self.settings.retention.jobs_days)],
            clock=lambda: at(self.days * DAY),
            free=lambda: self.room,
        )

    def receive(self, name: str = STUDY, number: int = 1, seconds: float = 0):
        made = instance(number, study=name, seconds=seconds)
        part = self.spool.new_part()
        part.write_bytes(b"i" * 1000)
        path = self.spool.adopt(part, name, made.sop_instance_uid, made.sha256)
        made = instance(number, study=name, seconds=seconds, path=path)
        _age(path, seconds)
        self.ledger.open_association(association())
        assert self.ledger.add_instance(made) == "added"
        self.ledger.close_association("a1", at(seconds + 1))
        return made

    def explain(self, of: str = STUDY, name: str = "t1", *, revision: int = 1, seconds: float = 0, **outcome) -> None:
        """One revision with one task, explained, and two results for the PACS."""
        found = self.ledger.study(of, revision)
        assert self.ledger.mark_ready(found, [task(found, name)], at(seconds + 20))
        assert self.ledger.lease(name, "w", at(seconds + 30), 60)
        results = []
        for number, kind in enumerate(("secondary_capture", "structured_report"), start=1):
            path = self.spool.outbox / name / f"2.25.{number}.dcm"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"r" * 500)
            _age(path, seconds)
            results.append(delivery(name, number, kind=kind, path=path, next_attempt_at=at(seconds)))
        end = {"state": StudyState.EXPLAINED, "reason": None, "deliveries": results} | outcome
        assert self.ledger.complete(name, "w", now=at(seconds + 40), **end)

    def deliver(self, name: str = "t1", seconds: float = 60) -> None:
        for number in (1, 2):
            self.ledger.delivery_sent(f"{name}-{number}-pacs", at(seconds), 0)

    def clean(self, days: float, **options) -> dict[tuple[str, str], int]:
        self.days = days
        return {(one.store, one.why): one.items for one in self.retention.clean(**options)}

    def files(self) -> dict[str, int]:
        found = {name: [*getattr(self.spool, name).rglob("*.dcm")] for name in ("instances", "outbox", "quarantined")}
        return {name: len(paths) for name, paths in found.items()}


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (at(seconds).timestamp(),) * 2)


@pytest.fixture
def node(tmp_path, ledger):
    return Node(tmp_path, ledger)


def delivered(node: Node, of: str = STUDY, name: str = "t1", seconds: float = 0) -> None:
    node.receive(of, seconds=seconds)
    node.explain(of, name, seconds=seconds)
    node.deliver(name, seconds + 60)


# ---- by age


def test_results_go_first_then_images_with_reports_and_rows_last(node):
    delivered(node)
    assert node.clean(6) == {}
    assert node.clean(8) == {("results", "age"): 1}
    assert node.files() == {"instances": 1, "outbox": 1, "quarantined": 0}, "the report stays"
    assert node.clean(9) == {}
    assert node.clean(31) == {("images", "age"): 1}
    assert node.files() == {"instances": 0, "outbox": 0, "quarantined": 0}
    assert [*node.spool.instances.iterdir(), *node.spool.outbox.iterdir()] == [], "nor empty folders"
    assert [one.state for one in node.ledger.studies()] == [StudyState.EXPLAINED], "what it was is still told"
    assert node.clean(32) == {}
    assert node.clean(731) == {("ledger", "age"): 1}
    assert node.ledger.studies() == [] == node.ledger.deliveries() == node.ledger.tasks(STUDY)
    with node.ledger._read() as connection:
        for table in (instances, associations, touches):
            assert connection.execute(select(table)).all() == []


def test_what_the_dashboard_shows_goes_with_the_results(node):
    delivered(node)
    node.spool.write_view("t1", "1.2.3-evidence", b"v")
    assert node.clean(8) == {("results", "age"): 1}
    assert node.spool.views("t1") == []
    assert node.files()["outbox"] == 1, "the report stays"


def test_a_dry_run_says_the_same_and_changes_nothing(node):
    delivered(node)
    delivered(node, OTHER, "t2", seconds=29 * DAY)
    foreseen = node.clean(31, dry_run=True)
    assert foreseen == node.clean(31, dry_run=True) == {("results", "age"): 1, ("images", "age"): 1}
    assert node.files() == {"instances": 2, "outbox": 4, "quarantined": 0}
    assert node.clean(31) == foreseen
    assert node.files() == {"instances": 1, "outbox": 2, "quarantined": 0}


@pytest.mark.parametrize("days", [8, 31, 731, 10_000])
def test_what_waits_for_its_delivery_stays(node, days):
    node.receive()
    node.explain()
    node.ledger.delivery_sent("t1-1-pacs", at(60), 0)
    node.room = 0
    assert node.clean(days) == {}
    assert node.files() == {"instances": 1, "outbox": 2, "quarantined": 0}


def test_what_is_not_explained_yet_stays(node):
    node.receive()
    assert node.clean(10_000) == {}
    found = node.ledger.study(STUDY, 1)
    node.ledger.mark_ready(found, [task(found)], at(20))
    assert node.clean(10_000) == {}
    node.ledger.lease("t1", "w", at(30), 60)
    assert node.clean(10_000) == {}
    assert node.files()["instances"] == 1


def test_a_dead_letter_holds_its_study_until_it_is_replayed(node):
    node.receive()
    node.explain()
    node.ledger.delivery_sent("t1-1-pacs", at(60), 0)
    node.ledger.lease_deliveries("t1-2-pacs", "s", at(60), 60)
    node.ledger.delivery_dead("t1-2-pacs", "s", "refused", at(61))
    assert node.clean(10_000) == {}
    assert node.ledger.replay_failed(None, at(62)).deliveries == 1
    node.deliver()
    assert node.clean(31) == {("results", "age"): 1, ("images", "age"): 1}


def test_with_failed_days_a_dead_letter_goes_too_and_is_no_longer_replayed(tmp_path, ledger):
    node = Node(tmp_path, ledger, failed_days=90)
    node.receive()
    node.explain()
    node.ledger.delivery_sent("t1-1-pacs", at(60), 0)
    node.ledger.lease_deliveries("t1-2-pacs", "s", at(60), 60)
    node.ledger.delivery_dead("t1-2-pacs", "s", "refused", at(61))
    assert node.clean(89) == {}
    assert node.clean(91) == {("results", "age"): 1, ("images", "age"): 1}
    assert node.ledger.replay_failed(None, at(91 * DAY)).deliveries == 0, "its file is gone"


def test_a_failed_task_that_nobody_was_told_of_holds_its_images(node):
    node.receive()
    node.explain(state=StudyState.FAILED, reason="no report could be made", deliveries=[])
    assert node.clean(10_000) == {}
    assert node.files()["instances"] == 1


def test_a_failed_task_that_was_reported_holds_nothing(node):
    node.receive()
    node.explain(state=StudyState.FAILED, reason="the analysis failed")
    node.deliver()
    assert node.clean(31) == {("results", "age"): 1, ("images", "age"): 1}


def test_a_late_image_keeps_its_study(node):
    delivered(node)
    node.receive(number=2, seconds=20 * DAY)
    assert node.clean(31) == {("results", "age"): 1}
    assert node.files()["instances"] == 2
    node.explain(name="t2", revision=2, seconds=20 * DAY)
    node.deliver("t2", 20 * DAY + 60)
    assert node.clean(31) == {("results", "age"): 1}
    assert node.clean(51) == {("images", "age"): 1}


@pytest.mark.parametrize(
    ("kept", "gone"),
    [
        ({"results_days": 0, "images_days": 0}, set()),
        ({"images_days": 0}, {("results", "age")}),
        ({"ledger_days": 0}, {("results", "age"), ("images", "age")}),
    ],
)
def test_0_days_are_for_ever(tmp_path, ledger, kept, gone):
    node = Node(tmp_path, ledger, **kept)
    delivered(node)
    assert node.clean(20_000).keys() == gone
    assert len(node.ledger.studies()) == 1


# ---- and again


def test_what_was_removed_is_received_anew(node):
    delivered(node)
    node.clean(31)
    known = node.ledger.find_instance(instance(1).sop_instance_uid)
    assert known.removed
    made = node.receive(seconds=40 * DAY)
    assert not node.ledger.find_instance(made.sop_instance_uid).removed
    (activity,) = node.ledger.assembly_snapshot()
    assert (activity.revision, activity.new_instances) == (2, 1)
    node.explain(name="t2", revision=2, seconds=40 * DAY)
    assert node.clean(60) == {}


def test_a_replay_makes_removed_results_anew(node):
    delivered(node)
    node.clean(8)
    assert node.ledger.rerun_study(STUDY, at(9 * DAY)).tasks == 1
    assert [one for one in node.ledger.deliveries() if one.state is DeliveryState.PENDING] == [], "nothing to send yet"
    assert node.clean(40) == {}
    assert node.ledger.lease("t1", "w", at(40 * DAY), 60)
    results = [delivery("t1", number, next_attempt_at=at(0)) for number in (1, 2)]
    end = {"state": StudyState.EXPLAINED, "reason": None, "now": at(40 * DAY)}
    assert node.ledger.complete("t1", "w", deliveries=results, **end)
    assert [one.state for one in node.ledger.deliveries()] == [DeliveryState.PENDING] * 2


def test_a_replay_of_removed_images_says_what_to_do(node):
    delivered(node)
    node.clean(31)
    with pytest.raises(NotKept, match="send them again"):
        node.ledger.rerun_study(STUDY, at(32 * DAY))
    assert [one.state for one in node.ledger.tasks(STUDY)] == [TaskState.DONE]


def test_a_study_that_is_replayed_meanwhile_stays_whole(node):
    """Between the look for candidates and the removal."""
    delivered(node)
    node.days = 31
    look = node.ledger.studies_to_remove

    def then_replayed(*arguments):
        found = look(*arguments)
        if found:
            node.ledger.rerun_study(STUDY, at(31 * DAY))
        return found

    node.ledger.studies_to_remove = then_replayed
    node.ledger.tasks_to_empty = lambda *_: []
    assert node.retention.clean() == []
    assert node.files()["instances"] == 1


# ---- quarantine, jobs, orphans, room


def quarantined(node: Node, number: int, days: float, size: int = 1 << 20) -> Path:
    part = node.spool.new_part()
    part.write_bytes(b"q" * size)
    path = node.spool.quarantine(part, f"Refused-{number}")
    node.ledger.add_quarantine(f"1.2.{number}", STUDY, path, "refused", at(days * DAY))
    _age(path, days * DAY)
    return path


def test_quarantine_goes_by_age_and_by_size(tmp_path, ledger):
    node = Node(tmp_path, ledger, quarantine_mb=2)
    kept = [quarantined(node, number, number) for number in (1, 20, 21, 22)]
    assert node.clean(32) == {("quarantine", "age"): 1, ("quarantine", "size"): 1}
    assert [path.exists() for path in kept] == [False, False, True, True]
    assert node.ledger.counts()["instances"]["quarantined"] == 2


def test_jobs_that_have_ended_go(node):
    for name, state, day in (
        ("ended", JobState.DONE, 1),
        ("open", JobState.WAITING, 1),
        ("fresh", JobState.FAILED, 150),
    ):
        job = JobFolder(node.jobs / name)
        job.make()
        job.job_file.write_text("x")
        job.update(state=state)
        told = (job.path / "state.json").read_text()
        moment = job.told()["updated_at"]
        (job.path / "state.json").write_text(told.replace(moment, at(day * DAY).isoformat()))
    assert node.clean(182, dry_run=True) == node.clean(182) == {("jobs", "age"): 1}
    assert sorted(Jobs(node.jobs).names()) == ["fresh", "open"]


def test_a_job_that_is_worked_on_stays(node):
    job = JobFolder(node.jobs / "busy")
    job.make()
    job.job_file.write_text("x")
    job.update(state=JobState.DONE)
    with job.lock():
        assert node.clean(10_000) == {}
    assert node.clean(10_000) == {("jobs", "age"): 1}


def test_an_image_that_no_row_names_is_set_aside_and_a_result_goes(node):
    delivered(node)
    lost = node.spool.adopt(_part(node), OTHER, f"{OTHER}.1.9", "9" * 64)
    result = node.spool.outbox / "nobodys" / "2.25.9.dcm"
    result.parent.mkdir()
    result.write_bytes(b"r")
    for path in (lost, result, result.parent):
        _age(path, 0)
    assert node.clean(0.9) == {}, "somebody may be about to name them"
    assert node.clean(2) == {("images", "orphan"): 1, ("results", "orphan"): 1}
    assert node.files() == {"instances": 1, "outbox": 2, "quarantined": 1}
    assert node.ledger.counts()["instances"]["quarantined"] == 1


def test_a_spool_that_was_moved_is_no_heap_of_orphans(node, tmp_path):
    """A relative path, a link or another mount: rows say other paths than those that lie there now."""
    delivered(node)
    node.spool.root.rename(tmp_path / "moved")
    node.spool = node.retention.spool = Spool(tmp_path / "moved", 0)
    assert node.clean(5, dry_run=True) == node.clean(5) == {}
    assert node.files() == {"instances": 1, "outbox": 2, "quarantined": 0}


def test_what_was_set_aside_is_not_what_makes_room(tmp_path, ledger):
    """It may have been acknowledged: the ledger may be older than the spool."""
    node = Node(tmp_path, ledger, quarantine_mb=0, clean_below_mb=1)
    lost = node.spool.adopt(_part(node), OTHER, f"{OTHER}.1.9", "9" * 64)
    _age(lost, 0)
    node.room = 0
    assert node.clean(2) == {("images", "orphan"): 1}
    assert node.clean(3) == {}
    assert node.files()["quarantined"] == 1
    assert node.clean(31) == {("quarantine", "age"): 1}


def _part(node: Node) -> Path:
    path = node.spool.new_part()
    path.write_bytes(b"lost")
    return path


def test_a_spool_whose_empty_folder_was_removed_makes_it_again(node):
    first = node.spool.adopt(_part(node), STUDY, f"{STUDY}.1.1", "1" * 64)
    first.unlink()
    first.parent.rmdir()
    assert node.spool.adopt(_part(node), STUDY, f"{STUDY}.1.1", "1" * 64).read_bytes() == b"lost"


def test_when_room_runs_short_the_oldest_of_what_is_over_goes_results_first(tmp_path, ledger):
    node = Node(tmp_path, ledger, clean_below_mb=1)
    delivered(node)
    delivered(node, OTHER, "t2", seconds=DAY)
    node.room = (1 << 20) - 400
    assert node.clean(2, dry_run=True) == node.clean(2) == {("results", "room"): 1}
    assert not (node.spool.outbox / "t1" / "2.25.1.dcm").exists()
    assert node.files() == {"instances": 2, "outbox": 3, "quarantined": 0}
    node.room = 0
    assert node.clean(2) == {("results", "room"): 1, ("images", "room"): 2}
    assert node.files() == {"instances": 0, "outbox": 0, "quarantined": 0}


def test_what_was_answered_within_the_hour_stays_even_without_room(tmp_path, ledger):
    node = Node(tmp_path, ledger, clean_below_mb=1)
    delivered(node)
    node.room = 0
    with structlog.testing.capture_logs() as logged:
        assert node.clean(0.02) == node.clean(0.02) == {}
        node.room = 1 << 50
        node.clean(0.02)
    said = ["too little disk space, and nothing more may go", "enough disk space again"]
    assert [line["event"] for line in logged] == said, "each once"


def test_what_cannot_be_removed_holds_nothing_else_up(tmp_path, ledger):
    """A folder that root put back from a backup, say; the oldest comes first, in every pass."""
    node = Node(tmp_path, ledger, quarantine_days=3, clean_below_mb=1)
    for number in (1, 2):
        delivered(node, f"{STUDY}.{number}", f"t{number}", seconds=number)
    old = quarantined(node, 1, 1)
    with unwritable(tmp_path, node.spool.instances / f"{STUDY}.1"), structlog.testing.capture_logs() as logs:
        for days in (31, 32):
            gone = node.clean(days)
            if days == 31:
                assert gone == {("results", "age"): 2, ("images", "age"): 1, ("quarantine", "age"): 1}
            else:
                assert gone == {}
    assert node.files() == {"instances": 1, "outbox": 1, "quarantined": 0}
    assert not old.exists()
    (said,) = [one for one in logs if one["event"] == "some cannot be removed, all else was"]
    assert (said["items"], said["first"]) == (1, f"{STUDY}.1")
    assert said["reason"] == "PermissionError: Permission denied"
    assert node.clean(33) == {("images", "age"): 1}
    assert node.files()["instances"] == 0


@contextlib.contextmanager
def unwritable(root: Path, folder: Path):
    """Nothing may be removed from a folder; root, to whom nothing is forbidden, works as another user meanwhile."""
    is_root = os.geteuid() == 0
    closed = {one: one.stat().st_mode for one in root.parents if is_root and not one.stat().st_mode & 0o001}
    for one in closed:
        one.chmod(0o711)
    for one in (root, *root.rglob("*")) if is_root else ():
        one.chmod(0o777)
    folder.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        for one, mode in closed.items():
            one.chmod(mode)


def test_sizes_and_ages_are_measured_and_kept(node):
    delivered(node)
    quarantined(node, 1, 3)
    node.days = 4
    node.ledger.keep_sizes(node.retention.measure())
    found = {one.name: (one.files, one.bytes, one.oldest) for one in node.ledger.sizes()}
    assert found["images"] == (1, 1000, at(0))
    assert found["results"] == (2, 1000, at(0))
    assert found["quarantine"] == (1, 1 << 20, at(3 * DAY))
    assert found["jobs"] == (0, 0, None)
    assert {one.measured_at for one in node.ledger.sizes()} == {at(4 * DAY)}


def test_more_studies_than_one_look_finds(node, monkeypatch):
    monkeypatch.setattr("dicom_node.storage.retention._BATCH", 2)
    for number in range(5):
        delivered(node, f"{OTHER}.{number}", f"t{number}", seconds=float(number))
    assert node.clean(31) == {("results", "age"): 5, ("images", "age"): 5}
    assert node.retention.clean() == []
