"""The dispatcher and its reconciler, with a real ledger and a real Redis that is flushed, stopped and started."""

import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from radiographs import encode, synthetic
from structlog.testing import capture_logs
from working import STUDY, association, at, delivery, instance, settings, study, wait_for

from dicom_node.errors import BrokerUnreachable, ConfigError, NotKept, OutOfResources, Reason
from dicom_node.nouns import DeliveryState, PassedBy, Route, StudyState, TaskState
from dicom_node.queue import broker
from dicom_node.queue.broker import DELIVER, EXPLAIN
from dicom_node.route import rules
from dicom_node.route.dispatcher import Dispatcher
from dicom_node.route.planning import plan
from dicom_node.route.rules import ONLY_ANSWERS, StudyDecision
from dicom_node.settings.rule_tables import Condition, Rule
from dicom_node.storage.ledger import Cutoff, Ledger, Replayed
from dicom_node.storage.search_terms import term

RESUBMIT = timedelta(seconds=30)
CHEST = Route(name="chest", destinations=("pacs",), results=())


@pytest.fixture
def redis(redis_server):
    if not redis_server._answers():
        redis_server.start()
    with redis_server.client() as client:
        client.flushall()
        yield client


class Node:
    """A ledger, a spool with real files and a dispatcher; the test is the clock, the listener and the worker."""

    def __init__(self, folder: Path, url: str, **limits) -> None:
        self.folder = folder
        self.settings = settings(folder, ("pacs", "PACS", 11113), broker={"url": url, **limits})
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.app = broker.make_celery(self.settings)
        self.dispatcher = Dispatcher(self.settings, self.ledger, self.app, resubmit=RESUBMIT)

    def receive(self, number: int = 1, seconds: float = 0, uid: str = STUDY, **changes) -> None:
        made = instance(number, study=uid, seconds=seconds, association_id=f"a{number}")
        ds = synthetic(
            bits=8,
            SOPInstanceUID=made.sop_instance_uid,
            StudyInstanceUID=made.study_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
            **changes,
        )
        self.store(made, encode(ds))

    def store(self, made, data: bytes) -> None:
        path = self.folder / f"{made.sop_instance_uid}.dcm"
        path.write_bytes(data)
        self.ledger.open_association(association(made.association_id))
        assert self.ledger.add_instance(_at_path(made, path)) == "added"
        self.ledger.close_association(made.association_id, made.received_at)

    @property
    def only_task(self):
        (task,) = self.ledger.tasks(STUDY)
        return task

    @property
    def state(self) -> tuple[StudyState, str | None]:
        newest = max(self.ledger.studies(), key=lambda one: one.revision)
        return newest.state, newest.reason


def _at_path(made, path: Path):
    import dataclasses

    return dataclasses.replace(made, path=path)


@pytest.fixture
def node(tmp_path, redis_server, redis):  # noqa: ARG001 - an empty, running Redis
    made = []

    def make(**limits) -> Node:
        made.append(Node(tmp_path, redis_server.url, **limits))
        return made[-1]

    yield make
    for one in made:
        one.app.close()
        one.ledger.close()


def queued(redis, queue: str = "explain") -> list[dict]:
    return [json.loads(raw) for raw in redis.lrange(queue, 0, -1)]


# ---- from instances to tasks


def test_an_object_store_that_is_away_for_long_costs_a_study_nothing_but_time(node):
    here = node(max_attempts=3)
    here.receive()
    away = [True]

    def fetch(path):
        if away:
            raise OutOfResources("the object store does not answer")
        return path

    dispatcher = Dispatcher(here.settings, here.ledger, here.app, fetch=fetch, resubmit=RESUBMIT)
    for second in range(30, 40):
        dispatcher.step(at(second))
    assert here.ledger.tasks(STUDY) == []
    away.clear()
    dispatcher.step(at(40))
    assert (here.only_task.reason, len(here.only_task.selected)) == (None, 1)


def test_late_images_wait_for_a_store_that_cannot_tell_whose_the_earlier_ones_are(node):
    """No fault of the rules, which would silence them for ever; another study has its turn meanwhile."""
    here = node(max_attempts=2)
    here.receive(1)
    here.dispatcher.step(at(20))
    here.receive(2, 30)
    here.receive(3, 30, uid=f"{STUDY}.2")
    earlier = here.folder / f"{instance(1).sop_instance_uid}.dcm"
    away = [True]

    def fetch(path):
        if away and path == earlier:
            raise OutOfResources("the object store does not answer")
        return path

    dispatcher = Dispatcher(here.settings, here.ledger, here.app, fetch=fetch, resubmit=RESUBMIT)
    with capture_logs() as logs:
        for second in range(50, 55):
            dispatcher.step(at(second))
    assert [one.revision for one in here.ledger.tasks(STUDY)] == [1]
    assert [one["part"] for one in logs if one["event"] == "dispatch trouble, will go on trying"] == [
        f"assembly of {STUDY}"
    ]
    assert len(here.ledger.tasks(f"{STUDY}.2")) == 1
    away.clear()
    dispatcher.step(at(60))
    (late,) = [one for one in here.ledger.tasks(STUDY) if one.revision == 2]
    assert (late.reason, late.selected) == (None, (instance(2).sop_instance_uid,))


def test_a_ledger_that_refuses_for_a_while_is_no_end_of_the_dispatcher(node, monkeypatch):
    here = node(max_attempts=2)
    here.receive()

    def refuses(*_args, **_kwargs):
        raise OutOfResources("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(here.ledger, "mark_ready", refuses)
        for second in range(20, 26):
            here.dispatcher.step(at(second))
    assert here.ledger.tasks(STUDY) == []
    here.dispatcher.step(at(30))
    assert (here.only_task.reason, len(here.only_task.selected)) == (None, 1)


def test_a_complete_study_becomes_one_task_with_its_images(node, redis):
    here = node()
    here.receive(1, 0)
    here.receive(2, 5)
    here.dispatcher.step(at(14))
    assert here.ledger.tasks(STUDY) == []
    here.dispatcher.step(at(15))
    task = here.only_task
    assert (task.route, task.reason, task.created_at) == ("chest-frontal", None, at(15))
    assert task.selected == tuple(instance(n).sop_instance_uid for n in (1, 2))
    assert here.state == (StudyState.READY, None)
    assert len(queued(redis)) == 1


def test_images_of_another_patient_are_set_apart_also_when_they_come_later(node):
    here = node()
    here.receive(1, 0, PatientID="A")
    here.receive(2, 1, PatientID="B")
    with capture_logs() as logs:
        here.dispatcher.step(at(15))
    task = here.only_task
    assert task.selected == (instance(1).sop_instance_uid,)
    assert [(one.sop_instance_uid, one.code) for one in task.passed_by] == [
        (instance(2).sop_instance_uid, Reason.PATIENT)
    ]  # fmt: skip
    assert [(one["log_level"], one["images"]) for one in logs if one["event"] == "two patients in one study"] == [
        ("warning", 1)
    ]  # fmt: skip
    assert not any("PatientID" in str(one) or "'B'" in str(one) for one in logs)
    here.receive(3, 20, PatientID="B")
    here.receive(4, 21, PatientID="A")
    here.dispatcher.step(at(40))
    (late,) = [one for one in here.ledger.tasks(STUDY) if one.revision == 2]
    assert late.selected == (instance(4).sop_instance_uid,)
    assert [one.sop_instance_uid for one in late.passed_by] == [instance(3).sop_instance_uid]


def test_a_study_is_found_by_its_accession_number_and_the_ledger_does_not_hold_it(node):
    here, key = node(), bytes(32)
    here.dispatcher = Dispatcher(here.settings, here.ledger, here.app, search_key=key)
    here.receive(1, 0, AccessionNumber="ACC-0815", PatientID="P 1")
    here.receive(2, 1, AccessionNumber="", PatientID="P 1")
    here.dispatcher.step(at(15))
    found = [here.ledger.find_term(term(key, value)) for value in (" acc-0815", "P 1", "", "ACC-081")]
    assert found == [[STUDY], [STUDY], [], []]
    assert not any(b"0815" in path.read_bytes() for path in here.folder.glob("ledger*"))


def test_repeating_the_step_changes_nothing(node, redis):
    here = node()
    here.receive()
    for _ in range(3):
        here.dispatcher.step(at(15))
    other = Dispatcher(here.settings, here.ledger, here.app, resubmit=RESUBMIT)
    other.step(at(16))
    assert len(here.ledger.tasks(STUDY)) == 1
    assert len(queued(redis)) == 1


def test_two_dispatchers_at_once_make_one_task(node):
    here = node()
    for turn in range(5):
        uid = f"{STUDY}.{turn}"
        here.receive(1, uid=uid)
        barrier = threading.Barrier(3)
        others = [Dispatcher(here.settings, here.ledger, here.app, resubmit=RESUBMIT) for _ in range(3)]

        def step(one, barrier=barrier):
            barrier.wait()
            one.step(at(15))

        threads = [threading.Thread(target=step, args=(one,)) for one in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(here.ledger.tasks(uid)) == 1


def test_a_study_that_no_rule_takes_is_answered_with_the_reason(node):
    here = node()
    here.receive(1, BodyPartExamined="HAND")
    here.dispatcher.step(at(15))
    assert (here.only_task.route, here.only_task.selected) == ("", ())
    assert here.only_task.reason == "it does not show the chest: Body Part Examined is 'HAND'"


def test_a_file_that_cannot_be_read_is_answered_too(node):
    here = node()
    here.store(instance(1), b"\0" * 128 + b"DICM" + b"garbage")
    here.dispatcher.step(at(15))
    assert here.only_task.reason == "the data set cannot be read"


def test_a_study_of_nothing_but_reports_is_ignored_silently(node, redis):
    here = node()
    here.receive(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    here.dispatcher.step(at(15))
    assert here.ledger.tasks(STUDY) == []
    assert here.state == (StudyState.IGNORED, ONLY_ANSWERS)
    assert queued(redis) == []


def test_rules_that_fail_do_not_silence_a_study(node, monkeypatch):
    here = node()
    here.receive()

    def broken(*_):
        raise ZeroDivisionError("Canary^Bird")

    monkeypatch.setattr(rules, "decide_study", broken)
    with capture_logs() as logged:
        here.dispatcher.step(at(15))
    assert here.only_task.reason == "the routing rules failed (ZeroDivisionError)"
    assert "canary" not in repr(logged).lower()


def test_a_late_image_is_a_task_of_its_own_revision(node):
    here = node()
    here.receive(1)
    here.dispatcher.step(at(15))
    first = here.only_task
    here.receive(2, 100)
    here.dispatcher.step(at(115))
    tasks = here.ledger.tasks(STUDY)
    assert tasks[0] == first
    assert [(one.revision, one.selected) for one in tasks] == [
        (1, (instance(1).sop_instance_uid,)),
        (2, (instance(2).sop_instance_uid,)),
    ]
    assert tasks[0].task_id != tasks[1].task_id


def test_a_late_lateral_view_does_not_unsay_what_was_said(node):
    here = node()
    here.receive(1)
    here.dispatcher.step(at(15))
    here.receive(2, 100, ViewPosition="LL")
    here.dispatcher.step(at(115))
    assert len(here.ledger.tasks(STUDY)) == 1
    assert here.state == (StudyState.IGNORED, "late images: it is a lateral view: View Position is 'LL'")


def answered(here, task, state, seconds):
    """What a worker says of it."""
    assert here.ledger.lease(task.task_id, "w", at(seconds), 60)
    done = {"state": state, "reason": task.reason, "now": at(seconds)}
    assert here.ledger.complete(task.task_id, "w", deliveries=[], **done)


def with_other_rules(here, *others):
    """The dispatcher as it is after the settings were changed."""
    changed = here.settings.model_copy(update={"rules": (*others, *here.settings.rules)})
    here.dispatcher = Dispatcher(changed, here.ledger, here.app, resubmit=RESUBMIT)


HANDS = Rule(name="hands", action="explain", when=(Condition(tag="BodyPartExamined", equals="HAND"),))


@pytest.mark.parametrize("ask", ["rerun", "ignored"])
def test_what_no_rule_took_is_routed_by_the_rules_of_today_when_asked(node, ask):
    here = node()
    here.receive(1, BodyPartExamined="HAND")
    here.receive(2, BodyPartExamined="HAND")
    here.receive(1, uid=f"{STUDY}.7")
    here.dispatcher.step(at(15))
    told, other = here.ledger.tasks(STUDY)[0], here.ledger.tasks(f"{STUDY}.7")
    answered(here, told, StudyState.IGNORED, 20)
    again = (lambda: here.ledger.rerun_study(STUDY, at(30))) if ask == "rerun" else here.ledger.replay_ignored

    assert again() == Replayed(tasks=0, deliveries=0, studies=1)
    here.dispatcher.step(at(31))
    assert here.ledger.tasks(STUDY)[1:] == [], "the same rules say the same, and nobody is told twice"
    assert here.state == (StudyState.IGNORED, f"as before: {told.reason}")
    for _ in range(3):
        again()
        here.dispatcher.step(at(32))
    assert len(here.ledger.studies()) == 3, "asking again leaves no rows"

    with_other_rules(here, HANDS)
    assert again() == Replayed(tasks=0, deliveries=0, studies=1)
    here.dispatcher.step(at(33))
    task = here.ledger.tasks(STUDY)[1]
    assert (task.revision, task.route, task.reason) == (2, "hands", None)
    assert task.selected == (instance(1).sop_instance_uid, instance(2).sop_instance_uid)
    assert here.ledger.tasks(STUDY)[0].state is TaskState.DONE, "what was said stays said"
    answered(here, task, StudyState.EXPLAINED, 40)
    assert here.ledger.replay_ignored().studies == 0
    assert here.ledger.rerun_study(STUDY, at(50)) == Replayed(tasks=2, deliveries=0)
    assert here.ledger.tasks(f"{STUDY}.7") == other, "another study, which has its route, is left alone"


def test_late_images_that_no_rule_took_are_asked_about_and_the_others_explained_anew(node):
    here = node()
    here.receive(1)
    here.dispatcher.step(at(15))
    answered(here, here.only_task, StudyState.EXPLAINED, 20)
    here.receive(2, 100, BodyPartExamined="HAND")
    here.dispatcher.step(at(115))
    with_other_rules(here, HANDS)
    assert here.ledger.rerun_study(STUDY, at(120)) == Replayed(tasks=1, deliveries=0, studies=1)
    here.dispatcher.step(at(121))
    assert [(one.revision, one.route) for one in here.ledger.tasks(STUDY)] == [(1, "chest-frontal"), (2, "hands")]


def test_what_retention_has_removed_is_not_asked_about(node):
    here = node()
    here.receive(1, BodyPartExamined="HAND")
    here.dispatcher.step(at(15))
    answered(here, here.only_task, StudyState.IGNORED, 20)
    over = at(15 + 40 * 86_400)
    with here.ledger.removing(STUDY, Cutoff(settled=over, failed=None), over) as removed:
        assert removed is not None
    assert here.ledger.replay_ignored().studies == 0
    with pytest.raises(NotKept):
        here.ledger.rerun_study(STUDY, over)


def decision(routes=None, ignored=None, passed_over=()):
    return StudyDecision(
        routes=routes or {},
        ignored=tuple(
            PassedBy(sop_instance_uid=uid, reason=why, code=Reason.RULES) for uid, why in (ignored or {}).items()
        ),
        passed_over=passed_over,
    )


def test_every_route_is_a_task_with_an_identifier_of_its_own():
    revision = study(instance(1), instance(2))
    uids = [one.sop_instance_uid for one in revision.instances]
    other = Route(name="icu", destinations=("icu",), results=())
    made = plan(revision, decision({CHEST: (uids[0],), other: tuple(uids)}), [], at(9))
    again = plan(revision, decision({other: tuple(reversed(uids)), CHEST: (uids[0],)}), [], at(9))
    assert made == again
    assert [(one.route, one.selected) for one in made.tasks] == [("chest", (uids[0],)), ("icu", tuple(uids))]
    assert len({one.task_id for one in made.tasks}) == 2


def test_a_task_carries_what_was_decided_of_it(node):
    here = node()
    here.receive(1)
    here.receive(2, ViewPosition="LL")
    here.dispatcher.step(at(15))
    (found,) = here.ledger.tasks(STUDY)
    assert found.destinations == ("pacs",)
    assert found.results == ()
    lateral = instance(2).sop_instance_uid
    assert found.passed_by == (
        PassedBy(sop_instance_uid=lateral, reason="it is a lateral view: View Position is 'LL'", code=Reason.VIEW),
    )


def test_the_same_reason_is_not_reported_twice_but_a_new_one_is():
    revision = study(instance(1))
    lateral = decision(ignored={instance(1).sop_instance_uid: "it is a lateral view"})
    (report,) = plan(revision, lateral, [], at(9)).tasks
    late = study(instance(2), revision=2)
    assert plan(late, lateral, [report], at(99)).tasks == ()
    hand = decision(ignored={instance(2).sop_instance_uid: "a hand"})
    assert [one.reason for one in plan(late, hand, [report], at(99)).tasks] == ["a hand"]


# ---- the message


def test_the_queue_carries_one_identifier_as_json_and_nothing_else(node, redis):
    here = node()
    here.receive()
    here.dispatcher.step(at(15))
    (message,) = queued(redis)
    assert message["content-type"] == "application/json"
    body = json.loads(_decoded(message))
    assert body[0] == [here.only_task.task_id]
    assert body[1] == {}
    assert message["headers"]["task"] == "dicom_node.explain"
    assert message["headers"]["eta"] is None
    everything = json.dumps(message) + _decoded(message)
    for private in ("Canary", "CANARY7", "Test Hospital", "19500102", STUDY):
        assert private not in everything


def _decoded(message: dict) -> str:
    import base64

    return base64.b64decode(message["body"]).decode()


def test_the_celery_app_cannot_lose_or_double_work(node):
    conf = node().app.conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_pool == "solo"
    assert conf.accept_content == ["json"]
    assert conf.result_backend is None
    assert not conf.worker_hijack_root_logger
    assert conf.broker_transport_options["visibility_timeout"] > node().settings.broker.hard_time_limit


def test_a_visibility_timeout_within_the_hard_limit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="visibility_timeout"):
        broker.make_celery(settings(tmp_path, broker={"visibility_timeout": 900, "hard_time_limit": 900}))


def test_making_the_app_changes_nothing_global(node):
    import celery

    before = celery.current_app._get_current_object()
    made = node().app
    assert celery.current_app._get_current_object() is before is not made
    assert not made.finalized


# ---- the reconciler


def names(redis, queue="explain"):
    """The identifiers in a queue, first in, first out."""
    return [json.loads(_decoded(one))[0][0] for one in reversed(queued(redis, queue))]


def test_a_lost_message_is_sent_again(node, redis):
    here = node()
    here.receive()
    here.dispatcher.step(at(15))
    redis.delete("explain")
    here.dispatcher.step(at(44))
    assert queued(redis) == []
    here.dispatcher.step(at(45))
    assert names(redis) == [here.only_task.task_id]


def test_a_flushed_redis_has_everything_back_at_the_next_step_in_order_of_arrival(node, redis):
    """Also what was submitted long ago, and before a patient who came after the flush."""
    here = node()
    for number in range(7):
        here.receive(1, 40 * number, uid=f"{STUDY}.{9 - number}")
        here.dispatcher.step(at(40 * number + 15))
    before = names(redis)
    assert len(before) == 7
    here.receive(1, 260, uid=f"{STUDY}.1")
    redis.flushall()
    here.dispatcher.step(at(276))
    assert names(redis)[:7] == before
    assert len(names(redis)) == 8
    here.dispatcher.step(at(277))
    assert len(names(redis)) == 8, "the mark is there: nothing is doubled"


def test_another_dispatcher_finds_that_nothing_was_forgotten(node, redis):
    one, other = node(), node()
    one.receive()
    one.dispatcher.step(at(15))
    other.dispatcher.step(at(16))
    assert len(queued(redis)) == 1


@pytest.mark.slow
def test_a_message_that_waits_its_turn_is_not_doubled(node, redis):
    here = node()
    here.receive()
    here.dispatcher.step(at(15))
    for seconds in range(20, 600, 5):
        here.dispatcher.step(at(seconds))
    assert len(queued(redis)) == 1
    here.dispatcher.step(at(15 + 600))
    assert len(queued(redis)) == 2


def test_without_a_broker_the_node_goes_on_says_it_once_and_recovers(node, redis_server):
    here = node()
    here.receive(1)
    redis_server.stop()
    with capture_logs() as logged:
        here.dispatcher.step(at(15))
        assert here.state[0] is StudyState.READY
        here.receive(1, 16, uid=f"{STUDY}.2")
        for seconds in (27, 28, 29):
            here.dispatcher.step(at(seconds))
        assert len(here.ledger.studies(state=StudyState.READY)) == 2
        with pytest.raises(BrokerUnreachable):
            broker.depth(here.app, EXPLAIN)
        redis_server.start()
        here.dispatcher.step(at(30))
    troubles = [one for one in logged if one["event"].startswith("dispatch")]
    assert [one["event"] for one in troubles] == ["dispatch trouble, will go on trying", "dispatch recovered"]
    assert "broker does not answer" in troubles[0]["reason"]
    with redis_server.client() as client:
        assert len(queued(client)) == 2


def test_an_expired_lease_is_offered_again_and_a_held_one_is_not(node, redis):
    here = node()
    here.receive()
    here.dispatcher.step(at(15))
    redis.flushall()
    here.ledger.lease(here.only_task.task_id, "w", at(20), 60)
    here.dispatcher.step(at(79))
    assert (here.only_task.state, queued(redis)) == (TaskState.LEASED, [])
    here.dispatcher.step(at(80))
    assert (here.only_task.state, len(queued(redis))) == (TaskState.PENDING, 1)


def test_after_the_last_attempt_the_study_is_reported_and_when_that_fails_it_has_failed(node):
    here = node(max_attempts=2)
    here.receive()
    here.dispatcher.step(at(15))
    task_id = here.only_task.task_id
    reasons = []
    for turn in range(4):
        here.ledger.lease(task_id, f"w{turn}", at(20 + 100 * turn), 60)
        reasons.append(here.only_task.reason)
        here.dispatcher.step(at(90 + 100 * turn))
    given_up = "the analysis ended 2 times without a result"
    assert reasons == [None, None, given_up, given_up]
    assert here.only_task.state is TaskState.FAILED
    assert here.state == (StudyState.FAILED, f"{given_up}; no report could be made")
    assert here.ledger.replay_failed(None, at(900)).tasks == 1
    assert here.ledger.lease(task_id, "w", at(901), 60).reason is None


# ---- deliveries


def owe(here: Node, *deliveries) -> None:
    here.receive()
    here.dispatcher.step(at(15))
    task_id = here.only_task.task_id
    here.ledger.lease(task_id, "w", at(16), 60)
    owed = [_of_task(one, task_id) for one in deliveries]
    done = {"state": StudyState.EXPLAINED, "reason": None, "now": at(17)}
    assert here.ledger.complete(task_id, "w", deliveries=owed, **done)


def _of_task(one, task_id: str):
    import dataclasses

    return dataclasses.replace(one, task_id=task_id)


def test_due_deliveries_wake_a_sender_once_for_each_destination(node, redis):
    here = node()
    owe(here, delivery(), delivery(number=2), delivery(destination="archive"))
    here.dispatcher.step(at(20))
    here.dispatcher.step(at(21))
    names = sorted(json.loads(_decoded(one))[0][0] for one in queued(redis, "deliver"))
    assert names == ["t1-1-archive", "t1-1-pacs"]


def test_a_lost_delivery_message_is_sent_again(node, redis):
    here = node()
    owe(here, delivery())
    here.dispatcher.step(at(20))
    redis.flushall()
    here.dispatcher.step(at(50))
    assert len(queued(redis, "deliver")) == 1
    here.ledger.delivery_sent("t1-1-pacs", at(51), 0)
    redis.flushall()
    here.dispatcher.step(at(90))
    assert queued(redis, "deliver") == []
    assert here.ledger.deliveries()[0].state is DeliveryState.SENT


def test_depth_counts_what_waits(node):
    here = node()
    assert broker.depth(here.app, DELIVER) == 0
    broker.submit(here.app, DELIVER, "d1")
    assert (broker.depth(here.app, DELIVER), broker.depth(here.app, EXPLAIN)) == (1, 0)


def test_what_a_task_raises_is_logged_without_its_text(node):
    here = node()

    def broken(_identifier):
        raise ZeroDivisionError("Canary^Bird")

    broker.register(here.app, EXPLAIN, broken)
    here.app.finalize()
    with capture_logs() as logged:
        here.app.tasks[EXPLAIN]("t1")
    (entry,) = logged
    assert (entry["error"], entry["id"], entry["log_level"]) == ("ZeroDivisionError", "t1", "error")
    assert "canary" not in repr(logged).lower()


# ---- the loop


def test_no_failure_ends_the_loop_and_the_parts_fail_apart(node, redis, monkeypatch):
    here = node()
    here.receive()
    monkeypatch.setattr(here.ledger, "expired_leases", lambda _now: 1 / 0)
    with capture_logs() as logged:
        here.dispatcher.step(at(15))
        here.dispatcher.step(at(16))
    assert len(queued(redis)) == 1
    assert [one["reason"] for one in logged if one["log_level"] == "error"] == ["ZeroDivisionError"]


def test_the_loop_stops_when_told(node):
    here = node()
    stop = threading.Event()
    loop = threading.Thread(target=here.dispatcher.run, args=(stop, 0.01))
    loop.start()
    time.sleep(0.1)
    stop.set()
    loop.join(5)
    assert not loop.is_alive()


# ---- the watchdog


def test_a_consumer_that_takes_nothing_while_messages_wait_is_ended():
    ended = threading.Event()
    broker.StallWatch(lambda: 1, 0.15, ended.set).start()
    assert ended.wait(5)


@pytest.mark.parametrize("waiting", [0, BrokerUnreachable("away")])
def test_an_idle_worker_or_one_without_a_broker_is_left_alone(waiting):
    def look() -> int:
        if isinstance(waiting, Exception):
            raise waiting
        return waiting

    ended = threading.Event()
    broker.StallWatch(look, 0.06, ended.set).start()
    assert not ended.wait(0.5)


def test_a_working_worker_is_left_alone():
    from celery import signals

    ended = threading.Event()
    watch = broker.StallWatch(lambda: 1, 0.15, ended.set)
    signals.task_prerun.send(sender=None, task_id="x")
    watch.start()
    assert not ended.wait(0.6)
    signals.task_postrun.send(sender=None, task_id="x")
    assert ended.wait(5)


def test_more_than_one_explanation_at_a_time_in_a_process_is_refused(node):
    with pytest.raises(ConfigError, match="one explanation at a time"):
        broker.run_worker(node().app, EXPLAIN, concurrency=2)


def test_headers_that_hold_nothing_are_unreadable(tmp_path):
    from dicom_node.route.dispatcher import read_header

    empty = tmp_path / "empty.dcm"
    Dataset()
    empty.write_bytes(b"")
    assert read_header(_at_path(instance(1), empty)) is None
    assert read_header(_at_path(instance(1), tmp_path / "absent.dcm")) is None


# ---- the clock, and what ends the dispatcher

HOUR = 3600


def test_after_the_clock_was_set_back_nothing_waits_as_much_longer(node, redis):
    """An hour ahead: an image, a task leased by a worker that dies, a delivery held, and one that waits."""
    here = node()
    here.receive(1, HOUR)
    here.dispatcher.step(at(HOUR + 10))
    task = here.only_task
    owed = [delivery(task.task_id, number, next_attempt_at=at(HOUR)) for number in (1, 2)]
    assert here.ledger.lease(task.task_id, "w", at(HOUR + 10), 60)
    done = {"state": StudyState.EXPLAINED, "reason": None, "now": at(HOUR + 20)}
    assert here.ledger.complete(task.task_id, "w", deliveries=owed, **done)
    held, waits = here.ledger.lease_deliveries(owed[0].delivery_id, "s", at(HOUR + 20), 30)
    here.ledger.delivery_retry(waits.delivery_id, "s", at(HOUR + 50), "no answer")
    here.ledger.rerun_study(STUDY, at(HOUR + 21))
    assert here.ledger.lease(task.task_id, "dies", at(HOUR + 22), 60)
    here.receive(2, HOUR + 22)
    here.ledger.destination_unreachable("pacs", at(HOUR + 22), at(HOUR + 300), "no answer")
    here.dispatcher.step(at(HOUR + 23))
    with capture_logs() as logged:
        here.dispatcher.step(at(0))
    (said,) = [line for line in logged if line["event"] == "the clock was set back"]
    assert said["seconds"] == HOUR + 23
    redis.flushall()
    here.dispatcher.step(at(61))
    assert [one.revision for one in here.ledger.tasks(STUDY)] == [1, 2], "the new image is a revision of its own"
    assert {one.state for one in here.ledger.tasks(STUDY)} == {TaskState.PENDING}, "nobody renewed the lease"
    assert {row["headers"]["task"] for row in queued(redis) + queued(redis, "deliver")} == {EXPLAIN, DELIVER}
    found = here.ledger.lease_deliveries(held.delivery_id, "s2", at(61), 30)
    assert {one.delivery_id for one in found} == {held.delivery_id, waits.delivery_id}


def test_a_small_correction_of_the_clock_changes_nothing(node):
    here = node()
    here.receive(1, 3)
    here.dispatcher.step(at(3))
    with capture_logs() as logged:
        here.dispatcher.step(at(1))
    assert logged == []
    assert here.ledger.assembly_snapshot()[0].last_received == at(3)


def test_a_start_makes_no_retry_due_before_its_time(node):
    here = node()
    here.receive(1)
    here.dispatcher.step(at(10))
    task = here.only_task
    assert here.ledger.lease(task.task_id, "w", at(10), 60)
    owed = [delivery(task.task_id, next_attempt_at=at(HOUR))]
    done = {"state": StudyState.EXPLAINED, "reason": None, "now": at(20)}
    assert here.ledger.complete(task.task_id, "w", deliveries=owed, **done)
    Dispatcher(here.settings, here.ledger, here.app, resubmit=RESUBMIT).step(at(30))
    assert here.ledger.deliveries()[0].next_attempt_at == at(HOUR)


def test_a_study_that_ends_the_dispatcher_is_answered_without_being_read(node, monkeypatch):
    here = node(max_attempts=2)
    here.receive(1)
    here.receive(2, uid=f"{STUDY}.2")
    read = []

    def dies(_, study):
        read.append(study.study_instance_uid)
        if study.study_instance_uid == STUDY:
            raise SystemExit
        return StudyDecision(routes={}, ignored=(), passed_over=())

    monkeypatch.setattr(Dispatcher, "_decide", dies)
    for _ in range(2):
        with pytest.raises(SystemExit):
            Dispatcher(here.settings, here.ledger, here.app).step(at(20))
    Dispatcher(here.settings, here.ledger, here.app).step(at(21))
    assert read == [STUDY, STUDY, f"{STUDY}.2"], "and the next one has its turn"
    assert here.only_task.reason == "the dispatcher ended 2 times while it read the study"
    assert here.only_task.destinations == ("pacs",)
    monkeypatch.undo()
    here.receive(3, 30)
    here.dispatcher.step(at(50))
    assert here.ledger.tasks(STUDY)[1].route == "chest-frontal", "of the next revision it is counted anew"


def test_a_study_is_ready_when_its_quiet_time_is_over_and_not_at_the_next_look(node):
    here, began, stop = node(), time.monotonic(), threading.Event()
    here.receive()
    nearly = here.settings.study.quiet.total_seconds() - 0.5
    here.dispatcher = Dispatcher(
        here.settings, here.ledger, here.app, clock=lambda: at(nearly + time.monotonic() - began)
    )
    loop = threading.Thread(target=here.dispatcher.run, args=(stop, 3600.0))
    loop.start()
    try:
        wait_for(lambda: here.ledger.tasks(STUDY), 60, "the study is ready")
    finally:
        stop.set()
        loop.join()
