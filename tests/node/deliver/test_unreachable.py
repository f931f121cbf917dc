"""A destination that is away, slow or out of order holds up nobody else, and what waits for it is not given up."""

import threading
import time
from datetime import timedelta

import pytest
from origin_server import OriginServer, reply, stored
from sending import Node
from structlog.testing import capture_logs
from working import Peer, at, due, free_port, settings, wait_for

from dicom_node.deliver.scu import StoreOutcome
from dicom_node.deliver.sender import RetryPolicy, Sender, next_probe
from dicom_node.errors import DeliveryRefused, DeliveryUnreachable
from dicom_node.nouns import DeliveryState

WEEKEND = timedelta(hours=64)


class Away:
    """In place of scu.store: what becomes of objects is what the test says."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.calls: list[list[str]] = []

    def __call__(self, _destination, requests, **_):
        self.calls.append([])
        for one in requests:
            said = self.answer(one.sop_instance_uid)
            self.calls[-1].append(one.sop_instance_uid)
            error = said if isinstance(said, Exception) else None
            if isinstance(said, int) and said:
                error = DeliveryRefused(f"0x{said:04X}")
            status = said if isinstance(said, int) else None
            yield StoreOutcome(key=one.key, status=status, error=error, retry=error is not None)


def away(_uid):
    return DeliveryUnreachable("no association")


def broken(_uid):
    return DeliveryUnreachable("no answer", tried=True)


def full(_uid):
    return 0xA700


@pytest.fixture
def node(tmp_path):
    made = []

    def make(*destinations, answer=None, **delivery_settings) -> Node:
        here = Node(tmp_path, *(destinations or (("pacs", 1),)), **delivery_settings)
        here.away = Away(answer or away)
        if answer is not None:
            here.sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: here.now, store=here.away)
        made.append(here)
        return here

    yield make
    for one in made:
        one.ledger.close()


def until(here: Node, end) -> None:
    """The dispatcher's messages, as time goes by: at each moment at which something is due."""
    while here.now < end:
        for one in here.ledger.deliveries_to_submit(here.now, timedelta(0)):
            here.sender.deliver(one.delivery_id)
        if here.ledger.deliveries_to_submit(here.now, timedelta(0)):
            continue
        moments = [one.next_attempt_at for one in here.ledger.unreachable()]
        moments += [one.next_attempt_at for one in here.ledger.deliveries() if one.state is DeliveryState.PENDING]
        here.now = min((one for one in moments if one > here.now), default=end)
        here.now = min(here.now, end)


def test_the_wait_for_a_destination_doubles_up_to_five_minutes_and_heeds_what_it_asks_for():
    waits = [(next_probe(n, at(0), RetryPolicy()) - at(0)).total_seconds() for n in range(1, 8)]
    assert waits == [30, 60, 120, 240, 300, 300, 300]
    assert next_probe(1, at(0), RetryPolicy(), wanted=200) == at(200)
    assert next_probe(5, at(0), RetryPolicy(), wanted=200) == at(300)
    assert next_probe(1, at(0), RetryPolicy(), wanted=1e9) == at(3600)


@pytest.mark.parametrize("answer", [away, broken, full])
def test_a_weekend_without_the_destination_makes_no_dead_letter(node, answer):
    here = node(answer=answer, probe_seconds=7200)
    here.owe(*(here.result(n) for n in range(1, 13)))
    until(here, at(100) + WEEKEND)
    rows = here.ledger.deliveries()
    assert {one.state for one in rows} == {DeliveryState.PENDING}
    assert max(one.attempts for one in rows) <= (0 if answer is away else 3)
    assert 30 < len(here.away.calls) < 50, "one probe in two hours"
    assert {len(call) for call in here.away.calls[3:]} == {1}, "and of one object"
    (trouble,) = here.ledger.unreachable()
    assert trouble.since == at(100)
    here.away.answer = lambda _uid: 0
    until(here, here.now + timedelta(hours=2))
    assert {one.state for one in here.ledger.deliveries()} == {DeliveryState.SENT}
    assert here.ledger.unreachable() == []


def test_what_comes_while_a_destination_is_away_waits_with_the_rest(node):
    here = node(answer=away)
    here.owe(here.result(1))
    until(here, at(100) + timedelta(hours=1))
    calls = len(here.away.calls)
    here.owe(here.result(2))
    assert due(here.ledger, here.now) == []
    here.sender.deliver("t1-2-pacs")
    assert len(here.away.calls) == calls


def test_an_object_that_breaks_every_association_holds_up_no_other_and_is_dead_in_the_end(node):
    here = node(answer=lambda uid: broken(uid) if uid == "2.25.1" else 0)
    here.owe(here.result(1))
    until(here, at(100) + timedelta(hours=3))
    assert here.states() == {"1-pacs": DeliveryState.PENDING}, "alone, it may be the destination"
    for number in range(2, 14):
        here.owe(here.result(number))
        before = here.now
        until(here, here.now + timedelta(minutes=6))
        assert here.states()[f"{number}-pacs"] is DeliveryState.SENT, "within five minutes"
        here.now = before + timedelta(hours=2)
        until(here, here.now + timedelta(seconds=1))
    assert here.states()["1-pacs"] is DeliveryState.DEAD


def test_a_batch_without_answers_is_given_up_after_the_third(node):
    here = node(answer=broken)
    here.owe(*(here.result(n) for n in range(1, 31)))
    here.sender.deliver("t1-1-pacs")
    assert here.away.calls == [["2.25.1", "2.25.10", "2.25.11"]]
    assert sorted(one.attempts for one in here.ledger.deliveries()) == [0] * 27 + [1] * 3
    assert here.ledger.unreachable()[0].next_attempt_at == at(130)


def test_one_answer_is_enough(node):
    here = node(answer=lambda uid: 0 if uid == "2.25.1" else broken(uid))
    here.owe(here.result(1), here.result(2))
    here.sender.deliver("t1-1-pacs")
    assert here.ledger.unreachable() == []
    assert here.ledger.deliveries()[1].next_attempt_at == at(130)


def test_a_destination_that_shuts_its_door_in_mid_batch_is_left_in_peace(node):
    busy = DeliveryUnreachable("busy", wait=90)
    here = node(answer=lambda uid: 0 if uid == "2.25.1" else busy)
    here.owe(here.result(1), here.result(2))
    here.sender.deliver("t1-1-pacs")
    assert here.states() == {"1-pacs": DeliveryState.SENT, "2-pacs": DeliveryState.PENDING}
    (trouble,) = here.ledger.unreachable()
    assert (trouble.attempts, trouble.next_attempt_at, trouble.reason) == (1, at(190), "busy")
    assert here.ledger.deliveries()[1].attempts == 0


def test_pause_and_recovery_are_said_once_and_name_no_patient(node):
    here = node(answer=away)
    here.owe(here.result(1))
    with capture_logs() as logged:
        until(here, at(100) + timedelta(hours=1))
        here.away.answer = lambda _uid: 0
        until(here, here.now + timedelta(minutes=6))
    said = [(one["event"], one["log_level"]) for one in logged]
    assert said.count(("destination paused", "error")) == 1
    assert said.count(("destination answers again", "info")) == 1
    assert "canary" not in repr(logged).lower()


def test_a_replay_tries_a_paused_destination_at_once(node):
    here = node(answer=away)
    here.owe(here.result(1), here.result(2))
    until(here, at(100) + timedelta(hours=1))
    assert due(here.ledger, here.now) == []
    here.ledger.replay_failed(None, here.now)
    assert len(due(here.ledger, here.now)) == 2


def test_a_destination_that_is_taken_out_of_the_settings_while_things_wait_is_dead_not_lost(node):
    here = node(answer=away)
    here.owe(*(here.result(n) for n in range(1, 4)))
    until(here, at(100) + timedelta(hours=1))
    here.sender = Sender(settings=settings(here.folder), ledger=here.ledger, clock=lambda: here.now)
    until(here, here.now + timedelta(minutes=6))
    assert {one.last_error for one in here.ledger.deliveries()} == {"the destination is not in the settings"}
    assert {one.state for one in here.ledger.deliveries()} == {DeliveryState.DEAD}
    assert here.ledger.unreachable() == []


def test_over_dicomweb_too_and_retry_after_is_heeded(node):
    answers = iter([reply(503, Retry_After="100"), None, reply(202, stored([], {"2.25.2": 0x0122}))])
    with OriginServer(lambda *_: next(answers)) as server:
        here = node({"name": "pacs", "url": server.url})
        here.owe(here.result(1))
        until(here, at(199))
        assert (len(server.requests), here.states()) == (1, {"1-pacs": DeliveryState.PENDING})
        until(here, at(201))
        assert here.states() == {"1-pacs": DeliveryState.SENT}
        here.owe(here.result(2))
        until(here, at(202))
        assert here.states()["2-pacs"] is DeliveryState.DEAD


def test_a_class_that_is_not_taken_over_dicomweb_gets_its_stand_in(node):
    def answer(request, _number):
        return reply(202, stored([], {"2.25.1": 0x0122})) if request.uids == ["2.25.1"] else None

    with OriginServer(answer) as server:
        here = node({"name": "pacs", "url": server.url})
        here.owe_chain("segmentation")
        here.deliver_all()
        assert here.kinds() == {"segmentation": "downgraded", "overlay": "sent", "secondary_capture": "standby"}


def test_three_destinations_one_away_one_dripping_one_fine(node):
    """As many threads as destinations, messages as the dispatcher sends them, real servers."""
    each, stop = 20, threading.Event()
    fine = Peer().start()
    dripping = Peer(lambda _uid, _number: stop.wait(2) and 0).start()
    here = node(("fine", fine.port), ("dripping", dripping.port), ("away", free_port()), retry_seconds=1)
    names = ("fine", "dripping", "away")
    here.owe(*(here.result(n, name) for n in range(1, each + 1) for name in names))
    begun = time.monotonic()
    here.sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: at(100 + time.monotonic() - begun))

    def work() -> None:
        while not stop.is_set():
            for one in here.ledger.deliveries_to_submit(here.sender.clock(), timedelta(0)):
                here.sender.deliver(one.delivery_id)
            stop.wait(0.02)

    threads = [threading.Thread(target=work) for _ in names]
    try:
        for one in threads:
            one.start()
        wait_for(lambda: len(fine.uids) == each, what="the fine one")
        assert 0 < len(dripping.uids) < each, "the other one is still at it"
    finally:
        stop.set()
        for one in threads:
            one.join()
        fine.stop()
        dripping.stop()
    rows = {(one.destination, one.state) for one in here.ledger.deliveries()}
    assert {state for name, state in rows if name == "fine"} == {DeliveryState.SENT}
    assert {state for name, state in rows if name == "away"} == {DeliveryState.PENDING}
    assert {one.attempts for one in here.ledger.deliveries() if one.destination == "away"} == {0}
