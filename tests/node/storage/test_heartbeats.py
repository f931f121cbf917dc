"""What the ledger knows of the node itself: who lives, how the work stands, what needs a person."""

from datetime import timedelta

from working import STUDY, T0, association, at, delivery, instance, study, task

from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger import Noted


def test_a_process_is_seen_until_it_ends_in_order_and_forgotten_a_day_after_it_fell_silent(ledger):
    ledger.beat("worker", "one", 7, at(0), {})
    ledger.beat("worker", "one", 7, at(10), {"device": "cuda:0"})
    ledger.beat("listener", "two", 8, at(5), {})
    listener, worker = ledger.heartbeats()
    assert (worker.role, worker.host, worker.pid) == ("worker", "one", 7)
    assert (worker.started_at, worker.seen_at, worker.detail) == (at(0), at(10), {"device": "cuda:0"})
    assert listener.role == "listener"
    ledger.end_beat("listener", "two", 8)
    assert [one.role for one in ledger.heartbeats()] == ["worker"]
    ledger.beat("sender", "one", 9, at(10) + timedelta(days=1, seconds=1), {})
    assert [one.role for one in ledger.heartbeats()] == ["sender"]


def test_the_work_of_an_empty_ledger_is_nothing(ledger):
    work = ledger.work(T0)
    assert work.tasks == {"pending": 0, "leased": 0, "failed": 0}
    assert work.studies == {"receiving": 0, "ready": 0, "explaining": 0}
    moments = (work.oldest_task, work.oldest_delivery, work.last_received, work.last_explained, work.last_result)
    assert moments == (None,) * 5
    assert (work.dead, work.waiting, work.quarantined, work.answered_lately, work.failed_lately) == (0,) * 5


def test_the_work_says_what_waits_and_since_when(ledger):
    ledger.open_association(association())
    for number in (1, 2, 3):
        ledger.add_instance(instance(number, study=f"{STUDY}{number}", seconds=number))
    for number in (1, 2):
        of = study(instance(number, study=f"{STUDY}{number}", seconds=number))
        assert ledger.mark_ready(of, [task(of, f"t{number}", created_at=at(10 * number))], at(10 * number))
    assert ledger.lease("t1", "w", at(30), 60)
    results = [delivery("t1", 1), delivery("t1", 2, "archive", next_attempt_at=at(40)), delivery("t1", 3)]
    assert ledger.complete("t1", "w", deliveries=results, state=StudyState.EXPLAINED, reason=None, now=at(40))
    ledger.delivery_sent("t1-1-pacs", at(50), 0)
    ledger.add_quarantine("1.2", "1.3", instance().path, "why", at(0))
    work = ledger.work(at(60))
    assert work.tasks == {"pending": 1, "leased": 0, "failed": 0}
    assert work.studies == {"receiving": 1, "ready": 1, "explaining": 0}
    assert (work.oldest_task, work.last_received, work.last_explained) == (at(20), at(3), at(40))
    assert (work.last_result, work.waiting, work.quarantined) == (at(50), 2, 1)
    assert (work.answered_lately, work.failed_lately) == (1, 0)
    assert work.oldest_delivery == T0, "the one to the PACS, due since then"
    ledger.destination_unreachable("pacs", at(60), at(90), "no answer")
    assert ledger.work(at(61)).oldest_delivery == at(40), "what waits for one that is away is not late"
    leased = ledger.lease_deliveries("t1-2-archive", "s", at(62), 30)
    assert [(one.study_instance_uid, one.revision) for one in leased] == [(f"{STUDY}1", 1)]
    ledger.delivery_dead("t1-2-archive", "s", "no", at(63))
    assert ledger.work(at(64)).dead == 1


def test_a_failed_study_counts_for_a_day(ledger):
    of = study(instance(1))
    ledger.add_instance(instance(1))
    ledger.mark_ready(of, [task(of)], at(0))
    ledger.fail("t1", "no", at(1))
    work = ledger.work(at(2))
    assert (work.answered_lately, work.failed_lately, work.tasks["failed"]) == (1, 1, 1)
    later = ledger.work(at(1) + timedelta(days=1, seconds=1))
    assert (later.answered_lately, later.failed_lately, later.tasks["failed"]) == (0, 0, 1)


def noted(name="disk", seconds=0.0, **more):
    values = {"level": "bad", "said": "full", "began_at": at(seconds), "seen_at": at(seconds)} | more
    return Noted(name=name, **values)


def test_what_is_wrong_keeps_its_beginning_and_is_told_by_one(ledger):
    ledger.note([noted()])
    ledger.note([noted(seconds=60, said="fuller")])
    (one,) = ledger.noted()
    assert (one.began_at, one.seen_at, one.said, one.told_at) == (at(0), at(60), "fuller", None)
    assert ledger.claim_alert("disk", at(61), None)
    assert not ledger.claim_alert("disk", at(62), None), "a second host that knew of nobody who was told"
    assert ledger.claim_alert("disk", at(90), at(61))
    ledger.unclaim_alert("disk", at(90), at(61))
    assert ledger.noted()[0].told_at == at(61)
    assert not ledger.end_alert("disk", at(59)), "it was seen since"
    assert ledger.end_alert("disk", at(60))
    assert not ledger.end_alert("disk", at(60)), "one is to tell"
    ledger.restore_alert(one)
    assert ledger.noted() == [one]


def test_one_of_several_has_the_look_when_it_is_due(ledger):
    day = timedelta(days=1)
    assert ledger.look("drift") is None
    assert ledger.claim_look("drift", at(0), day)
    assert not ledger.claim_look("drift", at(1), day)
    assert ledger.look("drift") == (at(0), None)
    ledger.keep_look("drift", at(5), [{"name": "x"}])
    assert ledger.look("drift") == (at(5), [{"name": "x"}])
    assert not ledger.claim_look("drift", at(0) + day, day)
    assert ledger.claim_look("drift", at(5) + day, day)
    assert ledger.claim_look("drift", at(0) - day, day), "the clock was set back"


def test_a_committed_result_is_a_last_result_too(ledger):
    of = study(instance(1))
    ledger.add_instance(instance(1))
    ledger.mark_ready(of, [task(of)], at(0))
    ledger.lease("t1", "w", at(0), 60)
    ledger.complete("t1", "w", deliveries=[delivery()], state=StudyState.EXPLAINED, reason=None, now=at(1))
    ledger.delivery_sent("t1-1-pacs", at(7), 0)
    from dicom_node.storage.ledger.schema import deliveries

    with ledger.in_one_transaction() as connection:
        connection.execute(deliveries.update().values(state=DeliveryState.COMMITTED))
    assert ledger.work(at(9)).last_result == at(7)
