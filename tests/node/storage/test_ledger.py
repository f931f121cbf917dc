"""The ledger: one transaction per method, leases, outbox; on SQLite, and on PostgreSQL when it is there."""

import dataclasses
import multiprocessing
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from bench.ledger import fill, questions
from sqlalchemy import event
from working import STUDY, T0, association, at, delivery, due, instance, study, task

from dicom_node.errors import OutOfResources
from dicom_node.nouns import Delivery, DeliveryState, StudyState, TaskState
from dicom_node.storage.ledger import Ledger, Replayed, store


@pytest.fixture
def sqlite_ledger(tmp_path):
    made = Ledger(f"sqlite:///{tmp_path}/deep/folder/ledger.sqlite")
    made.create()
    yield made
    made.close()


def receive(ledger: Ledger, *numbers: int, name: str = "a1", seconds: float = 0) -> None:
    ledger.open_association(association(name, seconds))
    for number in numbers:
        assert ledger.add_instance(instance(number, seconds=seconds + number, association_id=name)) == "added"
    ledger.close_association(name, at(seconds + 10))


def ready(ledger: Ledger, *tasks: str, numbers: tuple[int, ...] = (1,)) -> None:
    """A study with one task for each name."""
    receive(ledger, *numbers)
    revision = ledger.study(STUDY, 1)
    made = [task(revision, name, f"route-{name}") for name in tasks or ("t1",)]
    assert ledger.mark_ready(revision, made, at(20))


def explained(ledger: Ledger, *deliveries) -> None:
    ready(ledger)
    assert ledger.lease("t1", "w", at(30), 60)
    assert ledger.complete("t1", "w", deliveries=deliveries, state=StudyState.EXPLAINED, reason=None, now=at(40))


def state_of(ledger: Ledger) -> tuple[StudyState, str | None]:
    (only,) = ledger.studies()
    return only.state, only.reason


# ---- the database


def test_counts_are_of_one_moment(ledger, url):
    """A study that goes on while they are made is in one state, not in none."""
    receive(ledger, 1)
    revision, other, done = ledger.study(STUDY, 1), Ledger(url), []

    def between(_connection, _cursor, statement, *_):
        if statement.startswith("SELECT") and not done:
            done.append(other.mark_ready(revision, [task(revision, "t1", "route")], at(20)))

    event.listen(ledger._engine, "after_cursor_execute", between)
    assert ledger.counts()["studies"] == {"receiving": 1}
    assert done == [True]
    assert ledger.counts()["studies"] == {"ready": 1}
    other.close()


def test_sqlite_is_durable_at_commit(sqlite_ledger):
    with sqlite_ledger._read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 10_000


def test_a_write_transaction_holds_the_lock_from_its_first_moment(sqlite_ledger, tmp_path):
    other = sqlite3.connect(tmp_path / "deep/folder/ledger.sqlite", timeout=0, isolation_level=None)
    with sqlite_ledger._write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_creating_twice_changes_nothing(ledger):
    receive(ledger, 1)
    ledger.create()
    assert ledger.find_instance(instance(1).sop_instance_uid) == instance(1, seconds=1)


def test_naive_times_are_refused(ledger):
    with pytest.raises(sqlalchemy.exc.StatementError, match="aware"):
        ledger.open_association(
            dataclasses.replace(association(), opened_at=datetime(2026, 3, 1))  # noqa: DTZ001
        )


def test_a_database_that_cannot_be_opened_is_out_of_resources(tmp_path):
    (tmp_path / "ledger.sqlite").mkdir()
    broken = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    with pytest.raises(OutOfResources) as caught:
        broken.create()
    assert caught.value.status == 0xA700
    with pytest.raises(OutOfResources):
        broken.add_instance(instance())


def test_a_failure_inside_a_transaction_leaves_nothing(ledger):
    ready(ledger)
    ledger.lease("t1", "w", at(30), 60)
    bad = delivery(number=2, sop_class_uid=None)  # breaks NOT NULL in the second outbox row
    outcome = {"state": StudyState.EXPLAINED, "reason": None, "now": at(40)}
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        ledger.complete("t1", "w", deliveries=[delivery(), bad], **outcome)
    assert ledger.deliveries() == []
    assert ledger.task("t1").state is TaskState.LEASED
    assert state_of(ledger)[0] is StudyState.EXPLAINING


# ---- receiving


def test_instances_come_back_as_they_were(ledger):
    receive(ledger, 1)
    assert ledger.find_instance(instance(1).sop_instance_uid) == instance(1, seconds=1)
    assert ledger.find_instance("1.2.3") is None


def test_the_same_uid_again_is_a_duplicate_or_a_conflict_and_changes_nothing(ledger):
    receive(ledger, 1)
    assert ledger.add_instance(instance(1, seconds=99)) == "duplicate"
    assert ledger.add_instance(instance(1, seconds=99, sha256="f" * 64)) == "conflict"
    assert ledger.find_instance(instance(1).sop_instance_uid) == instance(1, seconds=1)
    assert ledger.counts()["instances"] == {"stored": 1, "quarantined": 0}


def test_quarantine_is_counted(ledger):
    ledger.add_quarantine("1.2", "1.2.3", Path("/spool/quarantine/x"), "same UID, other bytes", T0)
    assert ledger.counts()["instances"] == {"stored": 0, "quarantined": 1}


def test_the_snapshot_shows_what_assembly_needs(ledger):
    ledger.open_association(association("a1"))
    ledger.open_association(association("a2"))
    ledger.add_instance(instance(1, seconds=1))
    ledger.add_instance(instance(2, seconds=5, association_id="a2"))
    (activity,) = ledger.assembly_snapshot()
    assert (activity.study_instance_uid, activity.revision) == (STUDY, 1)
    assert (activity.first_received, activity.last_received) == (at(1), at(5))
    assert (activity.open_associations, activity.new_instances) == (2, 2)
    ledger.close_association("a1", at(6))
    assert ledger.assembly_snapshot()[0].open_associations == 1


def test_an_association_that_only_repeats_an_instance_still_touches_the_study(ledger):
    receive(ledger, 1, 2)
    ledger.open_association(association("again", 20))
    ledger.add_instance(instance(1, seconds=21, association_id="again"))
    assert ledger.assembly_snapshot()[0].open_associations == 1


def test_a_crashed_listeners_associations_are_closed(ledger):
    ledger.open_association(association("a1"))
    for name, listener in (("a2", "dead"), ("a3", "living")):
        ledger.open_association(replace(association(name), listener=listener))
    for number, name in enumerate(("a1", "a2", "a3"), 1):
        ledger.add_instance(replace(instance(number), association_id=name))
    assert ledger.assembly_snapshot()[0].open_associations == 3
    assert ledger.close_stale_associations(at(50), lambda listener: listener == "living") == 2
    assert ledger.assembly_snapshot()[0].open_associations == 1
    assert ledger.close_stale_associations(at(51), lambda _: False) == 1
    assert ledger.close_stale_associations(at(52), lambda _: False) == 0


# ---- revisions


def test_a_revision_is_closed_once(ledger):
    ready(ledger)
    assert ledger.assembly_snapshot() == []
    again = study(instance(1, seconds=1))
    assert not ledger.mark_ready(again, [task(again, "other")], at(21))
    assert [one.task_id for one in ledger.tasks(STUDY)] == ["t1"]


def test_a_late_image_makes_the_next_revision_and_leaves_the_first_alone(ledger):
    explained(ledger, delivery())
    first = (ledger.study(STUDY, 1), ledger.tasks(STUDY), ledger.deliveries(), ledger.timeline(STUDY, 1))
    receive(ledger, 2, name="a2", seconds=100)
    (activity,) = ledger.assembly_snapshot()
    assert (activity.revision, activity.new_instances) == (2, 1)
    late = ledger.study(STUDY, 2)
    assert late.instances == (instance(2, seconds=102, association_id="a2"),)
    assert ledger.mark_ready(late, [task(late, "t2")], at(120))
    assert ledger.assembly_snapshot() == []
    assert first == (
        ledger.study(STUDY, 1),
        ledger.tasks(STUDY)[:1],
        ledger.deliveries(),
        ledger.timeline(STUDY, 1),
    )
    assert [(one.revision, one.state) for one in ledger.studies()] == [
        (2, StudyState.READY),
        (1, StudyState.EXPLAINED),
    ]


def test_an_instance_that_slips_in_while_rules_decide_is_not_lost(ledger):
    receive(ledger, 1)
    seen = ledger.study(STUDY, 1)
    ledger.add_instance(instance(2, seconds=15))
    ledger.mark_ready(seen, [task(seen)], at(20))
    assert ledger.study(STUDY, 1).instances == (instance(1, seconds=1),)
    (activity,) = ledger.assembly_snapshot()
    assert (activity.revision, activity.new_instances) == (2, 1)


def test_an_ignored_revision_needs_no_task(ledger):
    receive(ledger, 1)
    ledger.mark_ready(ledger.study(STUDY, 1), [], at(20), state=StudyState.IGNORED, reason="own results")
    assert state_of(ledger) == (StudyState.IGNORED, "own results")
    assert ledger.timeline(STUDY).explained_at == at(20)


def test_studies_are_listed_by_state_with_those_still_receiving(ledger):
    receive(ledger, 1)
    (one,) = ledger.studies()
    assert (one.state, one.revision, one.instances) == (StudyState.RECEIVING, 1, 1)
    assert ledger.studies(state=StudyState.READY) == []
    assert ledger.counts()["studies"] == {"receiving": 1}
    ledger.mark_ready(ledger.study(STUDY, 1), [task(study(instance()))], at(20))
    assert [one.state for one in ledger.studies(state=StudyState.READY)] == [StudyState.READY]


def test_a_study_that_is_closed_while_the_list_is_made_stands_there_once(ledger, monkeypatch):
    receive(ledger, 1)
    look = ledger._receiving

    def receiving(*asked):
        found = look(*asked)
        ledger.mark_ready(ledger.study(STUDY, 1), [task(study(instance()))], at(20))
        return found

    monkeypatch.setattr(ledger, "_receiving", receiving)
    assert [one.state for one in ledger.studies()] == [StudyState.READY]


# ---- leases


def test_a_task_is_leased_by_one_worker_at_a_time(ledger):
    ready(ledger)
    mine = ledger.lease("t1", "w1", at(30), 60)
    assert (mine.state, mine.attempts) == (TaskState.LEASED, 1)
    assert ledger.lease("t1", "w2", at(31), 60) is None
    assert ledger.lease("t1", "w1", at(31), 60) is None
    assert ledger.lease("unknown", "w1", at(31), 60) is None
    assert state_of(ledger)[0] is StudyState.EXPLAINING


def test_a_renewed_lease_does_not_expire(ledger):
    ready(ledger)
    ledger.lease("t1", "w1", at(30), 60)
    assert ledger.renew_lease("t1", "w1", at(80), 60)
    assert ledger.expired_leases(at(100)) == []
    assert not ledger.reclaim("t1", at(100))
    assert [one.task_id for one in ledger.expired_leases(at(140))] == ["t1"]


def test_how_far_a_task_is_stands_in_the_ledger_while_it_is_worked_on(ledger):
    def done():
        (found,) = ledger.studies()
        return found.done

    ready(ledger)
    assert done() is None
    ledger.lease("t1", "w1", at(30), 60)
    assert done() == 0
    assert ledger.renew_lease("t1", "w1", at(50), 60, 0.4)
    assert ledger.renew_lease("t1", "w1", at(60), 60), "without a word nothing is changed"
    assert done() == pytest.approx(0.4)
    assert not ledger.renew_lease("t1", "w2", at(61), 60, 0.9)
    assert done() == pytest.approx(0.4)
    assert ledger.reclaim("t1", at(200))
    assert done() is None
    ledger.lease("t1", "w2", at(201), 60)
    assert done() == 0
    assert ledger.complete("t1", "w2", deliveries=[], state=StudyState.EXPLAINED, reason=None, now=at(202))
    assert done() is None


def test_an_expired_lease_returns_and_its_old_holder_can_no_longer_finish(ledger):
    ready(ledger)
    ledger.lease("t1", "w1", at(30), 60)
    assert ledger.reclaim("t1", at(90))
    assert ledger.lease("t1", "w2", at(91), 60).attempts == 2
    assert not ledger.renew_lease("t1", "w1", at(92), 60)
    late = {"deliveries": [delivery()], "state": StudyState.EXPLAINED, "reason": None, "now": at(93)}
    assert not ledger.complete("t1", "w1", **late)
    assert ledger.deliveries() == []
    assert ledger.complete("t1", "w2", **late)


def test_a_released_task_costs_no_attempt_and_an_ended_lease_does(ledger):
    ready(ledger)
    ledger.lease("t1", "w1", at(30), 60)
    assert ledger.release("t1", "w1", at(30.5))
    assert (ledger.task("t1").state, ledger.task("t1").attempts) == (TaskState.PENDING, 0)
    assert ledger.pending_tasks(at(31), timedelta(seconds=30)) == []
    ledger.lease("t1", "w1", at(31), 60)
    assert ledger.expire_lease("t1", "w1", at(32))
    assert [one.attempts for one in ledger.expired_leases(at(32))] == [1]


def test_a_task_that_is_given_up_has_a_reason_to_report(ledger):
    ready(ledger)
    ledger.lease("t1", "w1", at(30), 60)
    assert ledger.reclaim("t1", at(90), give_up="the worker ended 3 times")
    given_up = ledger.lease("t1", "w2", at(91), 60)
    assert (given_up.reason, given_up.attempts) == ("the worker ended 3 times", 1)
    assert given_up.selected == (instance(1).sop_instance_uid,)


def test_pending_tasks_are_those_never_submitted_or_submitted_long_ago(ledger):
    ready(ledger)
    assert [one.task_id for one in ledger.pending_tasks(at(20), timedelta(seconds=30))] == ["t1"]
    assert len(ledger.pending_tasks(at(20), None)) == 1
    ledger.task_submitted("t1", at(20))
    assert ledger.pending_tasks(at(999), None) == []
    assert ledger.pending_tasks(at(49), timedelta(seconds=30)) == []
    assert [one.task_id for one in ledger.pending_tasks(at(50), timedelta(seconds=30))] == ["t1"]
    ledger.lease("t1", "w", at(51), 60)
    assert ledger.pending_tasks(at(999), timedelta(0)) == []


# ---- completing


def test_completing_is_one_transaction_and_idempotent(ledger):
    explained(ledger, delivery(), delivery(number=2))
    before = (ledger.studies(), ledger.tasks(STUDY), ledger.deliveries())
    assert ledger.tasks(STUDY)[0].state is TaskState.DONE
    assert len(ledger.deliveries()) == 2
    for owner in ("w", "other"):
        assert not ledger.complete(
            "t1", owner, deliveries=[delivery(number=3)], state=StudyState.FAILED, reason="x", now=at(50)
        )
    assert before == (ledger.studies(), ledger.tasks(STUDY), ledger.deliveries())


def test_a_study_of_two_tasks_is_finished_with_the_last(ledger):
    ready(ledger, "t1", "t2")
    ledger.lease("t1", "w", at(30), 60)
    ledger.complete("t1", "w", deliveries=[], state=StudyState.EXPLAINED, reason=None, now=at(31))
    assert state_of(ledger)[0] is StudyState.EXPLAINING
    ledger.lease("t2", "w", at(32), 60)
    ledger.complete("t2", "w", deliveries=[], state=StudyState.FAILED, reason="no memory", now=at(33))
    assert state_of(ledger) == (StudyState.FAILED, "no memory")


def test_two_tasks_of_one_study_that_finish_together_finish_the_study(ledger, url):
    for turn in range(10):
        uid = f"{STUDY}.{turn}"
        ledger.add_instance(instance(1, study=uid))
        revision = ledger.study(uid, 1)
        names = [f"{turn}-{n}" for n in range(2)]
        ledger.mark_ready(revision, [task(revision, name, name) for name in names], at(20))
        barrier = threading.Barrier(2)

        def finish(name, barrier=barrier):
            own = Ledger(url)
            own.lease(name, name, at(30), 60)
            barrier.wait()
            own.complete(name, name, deliveries=[], state=StudyState.EXPLAINED, reason=None, now=at(31))
            own.close()

        threads = [threading.Thread(target=finish, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ledger.counts()["studies"] == {"explained": 10}


def test_a_failed_task_is_terminal_visible_and_replayable(ledger):
    ready(ledger)
    assert ledger.fail("t1", "no report could be built", at(40))
    assert not ledger.fail("t1", "again", at(41))
    assert state_of(ledger) == (StudyState.FAILED, "no report could be built")
    assert ledger.replay_failed(None, at(50)) == Replayed(tasks=1, deliveries=0)
    assert state_of(ledger) == (StudyState.READY, None)
    again = ledger.lease("t1", "w", at(51), 60)
    assert (again.attempts, again.reason) == (1, None)


def test_replaying_touches_one_study_only_and_nothing_that_went_well(ledger):
    explained(ledger, delivery(), delivery(number=2))
    for one in ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60):
        if one.delivery_id == "t1-1-pacs":
            ledger.delivery_sent(one.delivery_id, at(51), 0)
        else:
            ledger.delivery_dead(one.delivery_id, "s", "refused", at(51))
    assert ledger.replay_failed("1.2.3", at(60)) == Replayed(tasks=0, deliveries=0)
    assert ledger.replay_failed(STUDY, at(60)) == Replayed(tasks=0, deliveries=1)
    (again,) = due(ledger, at(60))
    assert (again.delivery_id, again.attempts, again.last_error) == ("t1-2-pacs", 0, "refused")
    assert ledger.rerun_study(STUDY, at(61)) == Replayed(tasks=1, deliveries=1)


# ---- the outbox


def test_a_batch_is_what_is_due_at_one_destination(ledger):
    explained(
        ledger,
        delivery(),
        delivery(number=2),
        delivery(number=3, next_attempt_at=at(999)),
        delivery(number=1, destination="archive"),
    )
    batch = ledger.lease_deliveries("t1-1-pacs", "s1", at(50), 60)
    assert [one.delivery_id for one in batch] == ["t1-1-pacs", "t1-2-pacs"]
    assert {one.attempts for one in batch} == {1}
    assert ledger.lease_deliveries("t1-2-pacs", "s2", at(51), 60) == []
    assert [one.destination for one in due(ledger, at(51))] == ["archive"]
    assert ledger.lease_deliveries("unknown", "s2", at(51), 60) == []


def test_one_sender_at_a_time_is_at_a_destination(ledger):
    explained(ledger, delivery(), delivery(number=2), delivery(destination="archive"))
    assert len(ledger.lease_deliveries("t1-1-pacs", "s1", at(50), 60, limit=1)) == 1
    assert ledger.lease_deliveries("t1-2-pacs", "s2", at(51), 60) == []
    assert len(ledger.lease_deliveries("t1-1-archive", "s3", at(51), 60)) == 1
    ledger.delivery_sent("t1-1-pacs", at(52), 0)
    assert len(ledger.lease_deliveries("t1-2-pacs", "s2", at(53), 60)) == 1


def test_a_dead_senders_batch_is_due_again(ledger):
    explained(ledger, delivery())
    ledger.lease_deliveries("t1-1-pacs", "s1", at(50), 60)
    ledger.renew_deliveries("s1", at(60), 60)
    assert due(ledger, at(111)) == []
    assert len(due(ledger, at(120))) == 1
    (again,) = ledger.lease_deliveries("t1-1-pacs", "s2", at(120), 60)
    assert again.attempts == 2
    ledger.delivery_retry("t1-1-pacs", "s1", at(500), "stale sender")
    ledger.delivery_dead("t1-1-pacs", "s1", "stale sender", at(121))
    assert ledger.deliveries()[0].last_error is None


def test_a_delivery_ends_sent_or_dead_or_waits(ledger):
    explained(ledger, *(delivery(number=n) for n in (1, 2, 3, 4)))
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60)
    ledger.delivery_sent("t1-1-pacs", at(51), 0)
    ledger.delivery_sent("t1-2-pacs", at(51), 0xB007)
    ledger.delivery_retry("t1-3-pacs", "s", at(80), "unreachable")
    ledger.delivery_dead("t1-4-pacs", "s", "refused", at(51))
    shown = {one.delivery_id[3]: (one.state, one.last_error) for one in ledger.deliveries(study=STUDY)}
    assert shown == {
        "1": (DeliveryState.SENT, None),
        "2": (DeliveryState.SENT, "delivered with warning 0xB007"),
        "3": (DeliveryState.PENDING, "unreachable"),
        "4": (DeliveryState.DEAD, "refused"),
    }
    assert due(ledger, at(79)) == []
    assert [one.delivery_id for one in due(ledger, at(80))] == ["t1-3-pacs"]
    assert ledger.counts()["deliveries"] == {"sent": 2, "pending": 1, "dead": 1}
    assert len(ledger.deliveries(state=DeliveryState.DEAD)) == 1


def test_one_message_wakes_one_sender_for_each_destination(ledger):
    explained(ledger, delivery(), delivery(number=2), delivery(destination="archive"))
    n = timedelta(seconds=30)

    def names(seconds):
        return [one.delivery_id for one in ledger.deliveries_to_submit(at(seconds), n)]

    assert sorted(names(50)) == ["t1-1-archive", "t1-1-pacs"]
    ledger.delivery_submitted("t1-1-pacs", at(50))
    assert names(60) == ["t1-1-archive"]
    assert sorted(names(80)) == ["t1-1-archive", "t1-1-pacs"]
    ledger.lease_deliveries("t1-1-pacs", "s", at(80), 60)
    assert names(81) == ["t1-1-archive"]
    ledger.delivery_sent("t1-1-pacs", at(82), 0)
    ledger.delivery_retry("t1-2-pacs", "s", at(83), "busy")
    assert sorted(names(83)) == ["t1-1-archive", "t1-2-pacs"]


def test_a_dead_destination_is_left_in_peace_and_others_are_not(ledger):
    explained(ledger, delivery(), delivery(destination="archive"))
    ledger.destination_unreachable("pacs", at(10), at(40), "away")
    ledger.destination_unreachable("pacs", at(40), at(500), "still away")
    (row,) = ledger.unreachable()
    assert (row.attempts, row.since, row.next_attempt_at, row.reason) == (2, at(10), at(500), "still away")
    assert [one.destination for one in due(ledger, at(499))] == ["archive"]
    assert ledger.lease_deliveries("t1-1-pacs", "s", at(499), 60) == []
    assert len(due(ledger, at(500))) == 2
    assert [ledger.destination_reached("pacs") for _ in range(2)] == [True, False]
    assert len(due(ledger, at(499))) == 2


def test_of_a_paused_destination_the_delivery_that_was_tried_the_least_is_tried_alone(ledger):
    explained(ledger, *(delivery(number=n) for n in (1, 2, 3)))
    assert len(ledger.lease_deliveries("t1-1-pacs", "s1", at(50), 60, pause_after=2)) == 3
    ledger.delivery_retry("t1-1-pacs", "s1", at(-9), "broke off")
    ledger.delivery_untried("t1-2-pacs", "s1", "away")
    ledger.delivery_untried("t1-3-pacs", "s1", "away")
    for _ in range(2):
        ledger.destination_unreachable("pacs", at(52), at(60), "away")
    (probe,) = ledger.lease_deliveries("t1-1-pacs", "s2", at(60), 60, pause_after=2)
    assert (probe.delivery_id, probe.attempts) == ("t1-2-pacs", 1)
    ledger.delivery_untried("t1-2-pacs", "s1", "not held by this one")
    assert ledger.lease_deliveries("t1-1-pacs", "s3", at(61), 60, pause_after=2) == []
    ledger.delivery_untried("t1-2-pacs", "s2", "away")
    assert [one.attempts for one in ledger.deliveries()] == [1, 0, 0]


# ---- objects whose SOP Class a destination does not take


def chain(*, destination: str = "pacs", wanted: tuple[str, ...] = ("segmentation",), of: str = "t1") -> list[Delivery]:
    """segmentation -> overlay -> secondary_capture; what is not wanted is on standby."""
    kinds = {"segmentation": "overlay", "overlay": "secondary_capture", "secondary_capture": None}
    return [
        delivery(
            of,
            number,
            destination,
            kind=kind,
            fallback=fallback,
            state=DeliveryState.PENDING if kind in wanted else DeliveryState.STANDBY,
        )
        for number, (kind, fallback) in enumerate(kinds.items(), start=1)
    ]


def shown(ledger: Ledger, destination: str = "pacs") -> dict[str, tuple[str, str | None]]:
    rows = ledger.deliveries(study=STUDY)
    return {one.kind: (one.state.value, one.stand_in) for one in rows if one.destination == destination}


def refuse(ledger: Ledger, number: int, seconds: float, destination: str = "pacs") -> Delivery:
    """Lease what is due and have the destination refuse one SOP Class."""
    name, owner = f"t1-{number}-{destination}", f"s{seconds}"
    assert name in [one.delivery_id for one in ledger.lease_deliveries(name, owner, at(seconds), 1)]
    return ledger.delivery_refused(name, owner, "not taken", at(seconds))


def test_what_stands_by_is_not_sent_and_does_not_hold_up_the_end(ledger):
    explained(ledger, *chain())
    assert [one.kind for one in due(ledger, at(9999))] == ["segmentation"]
    assert ledger.counts()["deliveries"] == {"pending": 1, "standby": 2}
    assert ledger.timeline(STUDY).delivered_at is None
    ledger.delivery_sent("t1-1-pacs", at(45), 0)
    assert ledger.timeline(STUDY).delivered_at == at(45)
    assert shown(ledger)["overlay"] == ("standby", None)


def test_nothing_but_standby_is_not_delivered(ledger):
    explained(ledger, *chain(wanted=()))
    assert ledger.timeline(STUDY).delivered_at is None


def test_a_refused_class_calls_in_the_next_of_the_chain(ledger):
    explained(ledger, *chain(), *chain(destination="archive"))
    settled = refuse(ledger, 1, 50)
    assert (settled.state, settled.stand_in, settled.last_error) == (DeliveryState.DOWNGRADED, "overlay", "not taken")
    assert shown(ledger) == {
        "segmentation": ("downgraded", "overlay"),
        "overlay": ("pending", None),
        "secondary_capture": ("standby", None),
    }
    assert shown(ledger, "archive")["overlay"] == ("standby", None)
    assert [one.kind for one in due(ledger, at(50)) if one.destination == "pacs"] == ["overlay"]
    assert ledger.timeline(STUDY).delivered_at is None


def test_a_stand_in_is_due_at_once_and_a_message_is_sent_for_it(ledger):
    explained(ledger, *chain())
    ledger.delivery_submitted("t1-1-pacs", at(49))
    refuse(ledger, 1, 50)
    submit = ledger.deliveries_to_submit(at(50), timedelta(seconds=30))
    assert [(one.kind, one.attempts, one.next_attempt_at) for one in submit] == [("overlay", 0, at(50))]


def test_a_refused_stand_in_calls_in_the_next(ledger):
    explained(ledger, *chain())
    refuse(ledger, 1, 50)
    refuse(ledger, 2, 51)
    assert shown(ledger) == {
        "segmentation": ("downgraded", "secondary_capture"),
        "overlay": ("downgraded", "secondary_capture"),
        "secondary_capture": ("pending", None),
    }
    ledger.delivery_sent("t1-3-pacs", at(60), 0)
    assert ledger.timeline(STUDY).delivered_at == at(60)
    assert {(one.destination, one.kind, one.stand_in, one.count, one.reason) for one in ledger.downgrades()} == {
        ("pacs", "segmentation", "secondary_capture", 1, "not taken"),
        ("pacs", "overlay", "secondary_capture", 1, "not taken"),
    }


def test_what_is_sent_anyway_stands_in_without_being_sent_twice(ledger):
    explained(ledger, *chain(wanted=("segmentation", "overlay")))
    ledger.delivery_sent("t1-2-pacs", at(49), 0)
    refuse(ledger, 1, 50)
    assert shown(ledger)["segmentation"] == ("downgraded", "overlay")
    assert due(ledger, at(999)) == []
    assert ledger.timeline(STUDY).delivered_at == at(50)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)])
def test_when_everything_is_refused_everything_is_dead_in_any_order(ledger, order):
    explained(ledger, *chain(wanted=("segmentation", "overlay", "secondary_capture")))
    for seconds, number in enumerate(order, start=50):
        refuse(ledger, number, seconds * 10)
    assert set(shown(ledger).values()) == {("dead", None)}
    assert ledger.timeline(STUDY).delivered_at is None
    assert ledger.downgrades() == []
    assert {one.last_error for one in ledger.deliveries()} == {"not taken"}
    assert ledger.replay_failed(None, at(999)) == Replayed(tasks=0, deliveries=3)


def test_a_chain_of_which_the_study_has_nothing_more_is_dead(ledger):
    explained(ledger, delivery(kind="segmentation", fallback="overlay"))
    assert refuse(ledger, 1, 50).state is DeliveryState.DEAD


def test_a_stand_in_that_dies_for_another_reason_is_followed_by_the_next(ledger):
    explained(ledger, *chain())
    refuse(ledger, 1, 50)
    ledger.lease_deliveries("t1-2-pacs", "s", at(60), 60)
    ledger.delivery_dead("t1-2-pacs", "s", "the result file cannot be read", at(61))
    assert shown(ledger) == {
        "segmentation": ("downgraded", "secondary_capture"),
        "overlay": ("dead", None),
        "secondary_capture": ("pending", None),
    }


def test_a_sender_that_lost_its_lease_downgrades_nothing(ledger):
    explained(ledger, *chain())
    ledger.lease_deliveries("t1-1-pacs", "s1", at(50), 60)
    ledger.lease_deliveries("t1-1-pacs", "s2", at(120), 60)
    assert ledger.delivery_refused("t1-1-pacs", "s1", "stale sender", at(121)) is None
    assert shown(ledger)["segmentation"] == ("pending", None)
    assert shown(ledger)["overlay"] == ("standby", None)


def test_the_stand_ins_of_every_image_are_called_in(ledger):
    several = [
        delivery(number=number, kind=kind, fallback=fallback, state=state)
        for number, (kind, fallback, state) in enumerate(
            2 * [("segmentation", "overlay", DeliveryState.PENDING)] + 2 * [("overlay", None, DeliveryState.STANDBY)],
            start=1,
        )
    ]
    explained(ledger, *several)
    for one in ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60):
        ledger.delivery_refused(one.delivery_id, "s", "not taken", at(51))
    assert ledger.counts()["deliveries"] == {"downgraded": 2, "pending": 2}
    assert [(one.kind, one.count) for one in ledger.downgrades()] == [("segmentation", 2)]


def test_a_rerun_offers_what_was_refused_again_and_its_stand_in_waits(ledger):
    explained(ledger, *chain())
    refuse(ledger, 1, 50)
    ledger.delivery_sent("t1-2-pacs", at(51), 0)
    assert ledger.replay_failed(None, at(60)) == Replayed(tasks=0, deliveries=0)
    assert shown(ledger)["segmentation"] == ("downgraded", "overlay")
    assert ledger.rerun_study(STUDY, at(61)) == Replayed(tasks=1, deliveries=1)
    assert shown(ledger) == {
        "segmentation": ("pending", None),
        "overlay": ("standby", None),
        "secondary_capture": ("standby", None),
    }
    refuse(ledger, 1, 70)
    assert shown(ledger)["overlay"] == ("pending", None)


def test_a_destination_that_now_wants_what_stood_by_gets_it(ledger):
    explained(ledger, *chain())
    ledger.delivery_sent("t1-1-pacs", at(45), 0)
    ledger.rerun_study(STUDY, at(50))
    ledger.lease("t1", "w", at(51), 60)
    wanted = chain(wanted=("segmentation", "overlay"))
    assert ledger.complete("t1", "w", deliveries=wanted, state=StudyState.EXPLAINED, reason=None, now=at(52))
    assert shown(ledger)["overlay"] == ("pending", None)
    ledger.delivery_sent("t1-2-pacs", at(53), 0)
    ledger.rerun_study(STUDY, at(60))
    assert shown(ledger)["overlay"] == ("pending", None)


# ---- timeline


def test_the_timeline_has_every_step(ledger):
    explained(ledger, delivery(), delivery(number=2))
    assert ledger.timeline(STUDY).seconds() == {
        "received": 0.0,
        "ready": 19.0,
        "leased": 10.0,
        "explained": 10.0,
        "delivered": None,
        "total": None,
    }
    ledger.delivery_sent("t1-1-pacs", at(45), 0)
    assert ledger.timeline(STUDY).delivered_at is None
    ledger.delivery_sent("t1-2-pacs", at(47), 0)
    assert ledger.timeline(STUDY).seconds()["delivered"] == 7.0
    assert ledger.timeline(STUDY).seconds()["total"] == 46.0
    assert set(ledger.timeline("1.2.3").seconds().values()) == {None}


# ---- several processes


def _create(url: str, barrier, results) -> None:
    ledger = Ledger(url)
    barrier.wait(30)
    try:
        ledger.create()
        results.put(len(ledger.studies()))
    except OutOfResources as error:
        results.put(repr(error))
    ledger.close()


@pytest.mark.slow
def test_processes_that_start_together_create_the_tables_once(url):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    starting = [context.Process(target=_create, args=(url, barrier, results)) for _ in range(3)]
    for one in starting:
        one.start()
    assert [results.get(timeout=60) for _ in starting] == [0] * 3
    for one in starting:
        one.join(30)


def _hammer(url: str, who: int, results) -> None:
    ledger = Ledger(url)
    mine, added = [], 0
    for number in range(40):
        added += ledger.add_instance(instance(number, study=f"{STUDY}.{number}")) == "added"
        if ledger.lease(f"t{number}", f"w{who}", at(30), 60):
            mine.append(number)
            done = {"state": StudyState.EXPLAINED, "reason": None, "now": at(31)}
            assert ledger.complete(f"t{number}", f"w{who}", deliveries=[delivery(f"t{number}")], **done)
        ledger.assembly_snapshot()
    results.put((mine, added))
    ledger.close()


@pytest.mark.slow
def test_processes_share_the_ledger_and_every_task_is_done_once(ledger, url):
    uid = f"{STUDY}.9999"
    ledger.add_instance(instance(1, study=uid))
    revision = ledger.study(uid, 1)
    ledger.mark_ready(revision, [task(revision, f"t{n}", f"r{n}") for n in range(40)], at(20))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_hammer, args=(url, who, results)) for who in range(3)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert sorted(number for mine, _ in outcomes for number in mine) == list(range(40))
    assert sum(added for _, added in outcomes) == 40
    assert len(ledger.deliveries()) == 40
    assert ledger.studies(state=StudyState.EXPLAINED)[0].study_instance_uid == uid


def test_an_acknowledged_row_survives_a_killed_process(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from working import *; from dicom_node.storage.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1]); ledger.create(); ledger.add_instance(instance(1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, url, str(Path(__file__).parents[1])], check=False)
    assert ended.returncode == -9
    survivor = Ledger(url)
    assert survivor.find_instance(instance(1).sop_instance_uid) == instance(1)
    survivor.close()


# ---- size


def test_no_question_of_the_node_reads_a_whole_table(sqlite_ledger):
    """SQLite's plans without statistics do not depend on how much there is; `python -m tests.bench.ledger` measures."""
    fill(sqlite_ledger, 5, 6)
    asked = []
    event.listen(sqlite_ledger._engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
    with closing(sqlite3.connect(sqlite_ledger._engine.url.database)) as connection:
        for name, ask in questions(sqlite_ledger, 5).items():
            asked.clear()
            ask()
            for statement, values in asked:
                if statement.startswith(("SELECT", "UPDATE")):
                    plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                    wrong = WHOLE if name.startswith(("status", "retention")) else WHOLE_OR_ALL_THAT_WAITS
                    assert not [step for step in plan if wrong.match(step)], f"{name}: {statement}: {plan}"


WHOLE = re.compile(r"SCAN (instances|tasks|associations|deliveries|studies)(?! USING (COVERING )?INDEX)")
WHOLE_OR_ALL_THAT_WAITS = re.compile(rf"{WHOLE.pattern}|SEARCH deliveries USING INDEX deliveries_due \(state=\?\)$")


def test_an_object_of_more_than_2_gib_is_recorded(ledger):
    ledger.open_association(association())
    assert ledger.add_instance(instance(1, size=3 << 30)) == "added"
    assert ledger.find_instance(instance(1).sop_instance_uid).size == 3 << 30


# ---- a path that goes silent


def test_a_database_that_takes_connections_and_says_nothing_is_noticed(monkeypatch):
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    monkeypatch.setitem(store._PATIENCE, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = Ledger(f"postgresql+psycopg://node@127.0.0.1:{silent.getsockname()[1]}/node")
        with pytest.raises(OutOfResources, match="the ledger does not answer"):
            one.find_instance("1.2.3")
        one.close()


@pytest.mark.external
def test_connections_to_postgresql_are_watched_by_the_system(postgres_url):
    """Unplugged, they end in half a minute; the system's own times are hours. What the URL says goes before."""
    folder = Path(postgres_url.partition("host=")[2])
    for asked, expected in (("", 20_000), ("?tcp_user_timeout=7000", 7_000)):
        with forwarded(next(folder.glob(".s.PGSQL.*[0-9]"))) as port:
            one = Ledger(f"postgresql+psycopg://node@127.0.0.1:{port}/postgres{asked}")
            with one._read() as connection, closing(socket.fromfd(_number(connection), socket.AF_INET, 1)) as line:
                assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == expected
                assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            one.close()


def _number(connection) -> int:
    return connection.connection.driver_connection.fileno()


@contextmanager
def forwarded(path: Path):
    """A TCP port that leads to a Unix socket, for one connection."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with server.accept()[0] as one, socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            back = threading.Thread(target=pump, args=(other, one))
            back.start()
            pump(one, other)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=serve)
        serving.start()
        yield server.getsockname()[1]
        serving.join(60)
