"""Commitment in the ledger, both ways: on SQLite, and on PostgreSQL when it is there."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select
from working import SC_STORAGE, STUDY, at, delivery, due, instance, study, task

from dicom_node.nouns import CommitmentReport, CommitmentRequest, DeliveryState, Reference, SOPInstanceUID, StudyState
from dicom_node.storage.ledger import Taken, TooManyOwed, TransactionInUse, Uncommitted, commitment_reports
from dicom_node.storage.ledger.commitments import settled_for_good
from dicom_node.storage.ledger.schema import deliveries as rows

SENT, COMMITTED, PENDING, DEAD = (
    DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.PENDING, DeliveryState.DEAD,
)  # fmt: skip


def reference(number: int, sop_class: str = SC_STORAGE) -> Reference:
    return Reference(sop_class, SOPInstanceUID(f"2.25.{number}"))


def report(uid: str, *committed: int, failed: dict[int, int] | None = None) -> CommitmentReport:
    return CommitmentReport(
        transaction_uid=uid,
        committed=tuple(map(reference, committed)),
        failed={reference(number): reason for number, reason in (failed or {}).items()},
    )


def later(seconds: float, most: int = 3):
    return lambda attempts: at(seconds) if attempts < most else None


@pytest.fixture
def owed(ledger):
    """Owes results, by number, to the destination "pacs"."""

    def owe(*deliveries) -> None:
        ledger.add_instance(instance(1))
        revision = study(instance(1))
        ledger.mark_ready(revision, [task(revision)], at(0))
        ledger.lease("t1", "w", at(0), 60)
        assert ledger.complete("t1", "w", deliveries=deliveries, state=StudyState.EXPLAINED, reason=None, now=at(0))

    return owe


@pytest.fixture
def sent(ledger, owed):
    """Results that were sent to a destination that is to commit to them, at 10 s."""

    def send(*numbers: int) -> None:
        owed(*(delivery("t1", number) for number in numbers))
        transmit(ledger, 10)

    return send


def transmit(ledger, seconds: float) -> None:
    while waiting := due(ledger, at(seconds)):
        for one in ledger.lease_deliveries(waiting[0].delivery_id, f"s{seconds}", at(seconds), 60):
            ledger.delivery_sent(one.delivery_id, at(seconds), 0, commitment=True)


def ask(ledger, seconds: float = 20, **how) -> CommitmentRequest | None:
    return ledger.open_commitment("pacs", "PACS", at(seconds), 100, patience=60, **how)


def states(ledger) -> dict[int, tuple[DeliveryState, str | None]]:
    return {int(one.sop_instance_uid.split(".")[-1]): (one.state, one.last_error) for one in ledger.deliveries()}


def test_a_request_asks_about_all_that_was_sent_once(ledger, sent):
    sent(1, 2)
    request = ask(ledger)
    assert set(request.references) == {reference(1), reference(2)}
    assert request.transaction_uid.startswith("2.25.")
    assert len(request.transaction_uid) <= 64
    assert ask(ledger) is None


def test_what_no_commitment_is_wanted_of_is_not_asked_about(ledger, owed):
    owed(delivery("t1", 1))
    ledger.lease_deliveries("t1-1-pacs", "s", at(10), 60)
    ledger.delivery_sent("t1-1-pacs", at(10), 0)
    assert ask(ledger) is None
    assert ledger.uncommitted() == []


def test_a_request_waits_for_the_rest_of_a_batch_but_not_for_ever(ledger, owed):
    owed(delivery("t1", 1), delivery("t1", 2))
    ledger.lease_deliveries("t1-1-pacs", "s", at(10), 600)
    ledger.delivery_sent("t1-1-pacs", at(10), 0, commitment=True)
    assert ask(ledger, 20) is None
    assert ask(ledger, 71).references == (reference(1),)


def test_a_report_commits(ledger, sent):
    sent(1, 2)
    uid = ask(ledger).transaction_uid
    assert ledger.uncommitted() == [Uncommitted(destination="pacs", reason=None, count=2)]
    verdict = ledger.report_commitment(report(uid, 1, 2), "PACS", later(50), at(30))
    assert (verdict.taken, verdict.committed, verdict.destination) == (Taken.TAKEN, 2, "pacs")
    assert states(ledger) == {1: (COMMITTED, None), 2: (COMMITTED, None)}
    assert ledger.uncommitted() == []
    assert ledger.timeline(STUDY).delivered_at is not None


def test_a_report_that_comes_before_the_answer_to_its_request_counts(ledger, sent):
    sent(1)
    uid = ask(ledger).transaction_uid
    ledger.report_commitment(report(uid, 1), "PACS", later(50), at(21))
    ledger.commitment_asked(uid, at(3600))
    assert ledger.overdue_commitments(at(9999)) == []
    assert states(ledger)[1][0] is COMMITTED


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"uid": "2.25.9"}, Taken.UNKNOWN),
        ({"title": "OTHER"}, Taken.UNKNOWN),
        ({"numbers": (1, 2, 3)}, Taken.NOT_ASKED),
        ({"numbers": (1,), "failed": {3: 0x0112}}, Taken.NOT_ASKED),
    ],
)
def test_what_nobody_asked_of_this_peer_changes_nothing(ledger, sent, change, taken):
    sent(1, 2)
    uid = ask(ledger).transaction_uid
    told = report(change.get("uid", uid), *change.get("numbers", (1, 2)), failed=change.get("failed"))
    assert ledger.report_commitment(told, change.get("title", "PACS"), later(50), at(30)).taken is taken
    assert states(ledger) == {1: (SENT, None), 2: (SENT, None)}
    assert ledger.report_commitment(report(uid, 1, 2), "PACS", later(50), at(31)).taken is Taken.TAKEN


def test_an_object_under_another_class_was_not_asked_about(ledger, sent):
    sent(1)
    uid = ask(ledger).transaction_uid
    other = CommitmentReport(transaction_uid=uid, committed=(reference(1, "1.2.3"),), failed={})
    assert ledger.report_commitment(other, "PACS", later(50), at(30)).taken is Taken.NOT_ASKED


def test_a_repeated_report_changes_nothing(ledger, sent):
    sent(1)
    uid = ask(ledger).transaction_uid
    ledger.report_commitment(report(uid, 1), "PACS", later(50), at(30))
    again = ledger.report_commitment(report(uid, failed={1: 0x0112}), "PACS", later(50), at(31))
    assert again.taken is Taken.REPEATED
    assert states(ledger)[1][0] is COMMITTED


@pytest.mark.parametrize("reason", [0x0110, 0x0112, 0x0213, 0x0999])
def test_a_failure_that_sending_may_mend_sends_the_object_again_and_needs_a_new_commitment(ledger, sent, reason):
    sent(1, 2)
    first = ask(ledger).transaction_uid
    verdict = ledger.report_commitment(report(first, 1, failed={2: reason}), "PACS", later(50), at(30))
    assert (verdict.committed, verdict.resent, verdict.dead) == (1, 1, 0)
    state, why = states(ledger)[2]
    assert state is PENDING
    assert why.startswith("not committed: ")
    assert f"0x{reason:04X}" in why
    assert due(ledger, at(49)) == []
    transmit(ledger, 50)
    late = ledger.report_commitment(report(first, 1, 2), "PACS", later(99), at(60))
    assert late.taken is Taken.REPEATED
    assert states(ledger)[2] == (SENT, None)
    assert ask(ledger, 60).references == (reference(2),)


def test_an_object_that_is_never_committed_is_sent_so_often_and_no_more(ledger, sent):
    sent(1)
    for seconds in (100, 200, 300):
        uid = ask(ledger, seconds).transaction_uid
        ledger.report_commitment(report(uid, failed={1: 0x0112}), "PACS", later(seconds + 50), at(seconds + 10))
        transmit(ledger, seconds + 50)
    assert states(ledger)[1] == (DEAD, "not committed: the destination does not have it (0x0112)")


@pytest.mark.parametrize(
    ("reason", "words"),
    [(0x0119, "class-instance conflict"), (0x0122, "does not commit to its SOP Class"), (0x0131, "in use already")],
)
def test_a_failure_for_good_is_a_dead_letter_with_its_reason(ledger, sent, reason, words):
    sent(1)
    ledger.report_commitment(report(ask(ledger).transaction_uid, failed={1: reason}), "PACS", later(50), at(30))
    state, why = states(ledger)[1]
    assert state is DEAD
    assert words in why


def test_what_a_report_does_not_name_is_asked_about_again(ledger, sent):
    sent(1, 2)
    verdict = ledger.report_commitment(report(ask(ledger).transaction_uid, 1), "PACS", later(50), at(30))
    assert (verdict.committed, verdict.unnamed) == (1, 1)
    assert states(ledger)[2] == (SENT, "not committed: the report does not name it")
    assert ask(ledger, 40) is None
    assert ask(ledger, 50).references == (reference(2),)


def test_a_request_without_an_answer_is_made_again_so_often_then_dead(ledger, sent):
    sent(1)
    uids = set()
    for seconds in (20, 200, 300):
        uid = ask(ledger, seconds).transaction_uid
        uids.add(uid)
        ledger.commitment_asked(uid, at(seconds + 10))
        assert ledger.overdue_commitments(at(seconds + 9)) == []
        assert ledger.overdue_commitments(at(seconds + 10)) == [(uid, "pacs")]
        closed = ledger.close_commitment(uid, "no answer", later(seconds + 20), at(seconds + 10))
    assert len(uids) == 3
    assert closed == (0, 1)
    assert states(ledger)[1] == (DEAD, "not committed: no answer (3 requests)")


def test_a_killed_sender_s_request_is_overdue_soon(ledger, sent):
    sent(1)
    uid = ask(ledger).transaction_uid
    assert ledger.overdue_commitments(at(119)) == []
    assert ledger.overdue_commitments(at(120)) == [(uid, "pacs")]


def test_a_late_answer_counts_as_long_as_nothing_was_sent_again(ledger, sent):
    sent(1)
    first = ask(ledger).transaction_uid
    ledger.close_commitment(first, "no answer", later(30), at(25))
    second = ask(ledger, 40).transaction_uid
    assert ledger.report_commitment(report(first, 1), "PACS", later(50), at(50)).committed == 1
    assert states(ledger)[1] == (COMMITTED, None)
    assert ledger.report_commitment(report(second, failed={1: 0x0112}), "PACS", later(60), at(51)).resent == 0
    assert states(ledger)[1] == (COMMITTED, None)


def test_a_late_failure_of_an_earlier_request_leaves_the_open_one_alone(ledger, sent):
    sent(1)
    first = ask(ledger).transaction_uid
    ledger.close_commitment(first, "no answer", later(30), at(25))
    second = ask(ledger, 40).transaction_uid
    assert ledger.report_commitment(report(first, failed={1: 0x0112}), "PACS", later(50), at(50)).resent == 0
    assert ledger.report_commitment(report(second, 1), "PACS", later(60), at(51)).committed == 1


def test_a_late_answer_to_what_was_sent_again_since_changes_nothing(ledger, sent):
    sent(1)
    first = ask(ledger).transaction_uid
    ledger.rerun_study(STUDY, at(30))
    transmit(ledger, 31)
    assert ledger.report_commitment(report(first, 1), "PACS", later(50), at(40)).committed == 0
    assert states(ledger)[1][0] is SENT
    assert ask(ledger, 41).references == (reference(1),)


def test_who_does_not_take_such_requests_is_asked_again_without_end_and_it_shows(ledger, sent):
    sent(1)
    for seconds in range(100, 1000, 100):
        uid = ask(ledger, seconds).transaction_uid
        ledger.close_commitment(uid, "does not take it", lambda _, s=seconds: at(s + 50), at(seconds), counts=False)
        assert ledger.uncommitted() == [Uncommitted(destination="pacs", reason="does not take it", count=1)]
    assert states(ledger)[1] == (SENT, "not committed: does not take it")
    first = ask(ledger, 1500).transaction_uid
    assert ledger.close_commitment(first, "no answer", later(1600, most=2), at(1500)) == (1, 0), "none of them counted"
    ledger.report_commitment(report(ask(ledger, 2000).transaction_uid, 1), "PACS", later(50), at(2001))
    assert states(ledger)[1] == (COMMITTED, None)


def test_what_is_not_wanted_any_more_is_not_waited_for(ledger, sent):
    sent(1)
    assert ledger.waive_commitments(["pacs"]) == 0
    assert ledger.waive_commitments(["archive"]) == 1
    assert ledger.uncommitted() == []
    assert ask(ledger) is None


def test_two_senders_open_one_transaction(ledger, sent):
    sent(*range(1, 30))
    found, start = [], threading.Barrier(4)

    def race() -> None:
        start.wait()
        found.append(ask(ledger))

    racers = [threading.Thread(target=race) for _ in range(4)]
    for one in racers:
        one.start()
    for one in racers:
        one.join()
    asked = [reference for request in found if request is not None for reference in request.references]
    assert len(asked) == len(set(asked)) == 29


def test_what_is_settled_for_good(ledger, owed):
    owed(
        delivery("t1", 1),
        delivery("t1", 2),
        delivery("t1", 3, state=DeliveryState.STANDBY),
        delivery("t1", 4, "archive"),
        delivery("t1", 5, "archive", state=DeliveryState.STANDBY),
    )

    def settled() -> set[str]:
        with ledger._read() as connection:
            return set(connection.execute(select(rows.c.delivery_id).where(settled_for_good())).scalars())

    assert settled() == set()
    ledger.lease_deliveries("t1-4-archive", "s", at(10), 60)
    ledger.delivery_sent("t1-4-archive", at(10), 0)
    assert settled() == {"t1-4-archive", "t1-5-archive"}, "no commitment is wanted there"
    transmit(ledger, 10)
    assert settled() == {"t1-4-archive", "t1-5-archive"}
    uid = ask(ledger).transaction_uid
    ledger.report_commitment(report(uid, 1, failed={2: 0x0119}), "PACS", later(50), at(30))
    assert settled() == {"t1-4-archive", "t1-5-archive", "t1-1-pacs"}, "the dead one may be replayed"
    ledger.replay_failed(None, at(40))
    transmit(ledger, 50)
    ledger.report_commitment(report(ask(ledger, 60).transaction_uid, 2), "PACS", later(50), at(70))
    assert settled() == {one.delivery_id for one in ledger.deliveries()}


def test_requests_that_are_done_with_are_forgotten(ledger, sent):
    sent(1)
    uid = ask(ledger).transaction_uid
    assert ledger.forget_commitments(at(9999)) == 0
    ledger.report_commitment(report(uid, 1), "PACS", later(50), at(30))
    assert ledger.commitment_counts() == {"answered": 1}
    assert ledger.forget_commitments(at(30)) == 0
    assert ledger.forget_commitments(at(31)) == 1
    assert ledger.report_commitment(report(uid, 1), "PACS", later(50), at(40)).taken is Taken.UNKNOWN


# ---- what peers ask us


def request(uid: str, *numbers: int) -> CommitmentRequest:
    return CommitmentRequest(transaction_uid=uid, references=tuple(map(reference, numbers)))


def owe(ledger, uid: str = "2.25.7", *numbers: int, title: str = "MODALITY", seconds: float = 0) -> None:
    ledger.owe_report(title, request(uid, *(numbers or (1, 2))), at(seconds), at(seconds + 10))


def test_a_request_of_a_peer_is_due_to_a_sender_after_a_while(ledger):
    owe(ledger)
    assert ledger.who_is_owed(at(9)) == []
    assert ledger.lease_reports("MODALITY", "o", at(9), 60) == []
    assert ledger.who_is_owed(at(10)) == ["MODALITY"]
    (held,) = ledger.lease_reports("MODALITY", "o", at(10), 60)
    assert (held.request, held.attempts) == (request("2.25.7", 1, 2), 1)
    assert ledger.who_is_owed(at(11)) == []
    ledger.report_sent("MODALITY", "2.25.7", (1, 1), at(12))
    assert ledger.report_counts() == {"reported": 1}
    assert ledger.who_is_owed(at(9999)) == []


def test_a_killed_holder_s_report_is_due_when_its_lease_ends(ledger):
    owe(ledger)
    assert ledger.lease_reports("MODALITY", "killed", at(1), 60, transaction_uid="2.25.7")
    assert ledger.lease_reports("MODALITY", "other", at(60), 60) == []
    assert ledger.lease_reports("MODALITY", "other", at(61), 60)


def test_the_same_request_again_is_one_and_after_its_report_a_new_one(ledger):
    owe(ledger)
    owe(ledger, seconds=5)
    assert ledger.report_counts() == {"owed": 1}
    with pytest.raises(TransactionInUse):
        owe(ledger, "2.25.7", 3)
    owe(ledger, "2.25.7", 3, title="PACS")
    ledger.report_sent("MODALITY", "2.25.7", (2, 0), at(12))
    owe(ledger, "2.25.7", 3, seconds=20)
    (held,) = ledger.lease_reports("MODALITY", "o", at(30), 60)
    assert held.request == request("2.25.7", 3)


def test_a_peer_waits_for_so_many_reports(ledger, monkeypatch):
    monkeypatch.setattr(commitment_reports, "MOST_OWED", 2)
    owe(ledger, "2.25.7")
    owe(ledger, "2.25.8")
    with pytest.raises(TooManyOwed):
        owe(ledger, "2.25.9")
    owe(ledger, "2.25.9", title="PACS")
    ledger.report_sent("MODALITY", "2.25.8", (2, 0), at(12))
    owe(ledger, "2.25.9")


def test_a_report_that_fails_comes_again_and_is_given_up(ledger):
    owe(ledger)
    ledger.lease_reports("MODALITY", "o", at(10), 60)
    ledger.report_failed("MODALITY", "2.25.7", "nobody there", at(40), at(11))
    assert ledger.who_is_owed(at(39)) == []
    (held,) = ledger.lease_reports("MODALITY", "p", at(40), 60)
    assert held.attempts == 2
    ledger.report_failed("MODALITY", "2.25.7", "not over its association", at(41), at(41), counts=False)
    (held,) = ledger.lease_reports("MODALITY", "q", at(41), 60)
    assert held.attempts == 2
    ledger.report_failed("MODALITY", "2.25.7", "nobody there", None, at(42))
    assert ledger.report_counts() == {"dead": 1}
    assert ledger.forget_reports(at(42) + timedelta(seconds=1)) == 1


def test_a_clock_that_was_ahead_delays_no_commitment(ledger, owed):
    """Sent, and asked about, by a clock that was a month ahead; then it was put right."""
    month = 30 * 86_400
    owed(delivery("t1", 1), delivery("t1", 2))
    transmit(ledger, month)
    assert ask(ledger, 60) is None
    ledger.bring_back(at(60), task_lease=timedelta(seconds=60), longest_wait=timedelta(0))
    first = ask(ledger, 61)
    ledger.close_commitment(first.transaction_uid, "no answer", later(62), at(62))
    asked = ask(ledger, month + 70)
    assert ledger.bring_back(at(80), task_lease=timedelta(seconds=60), longest_wait=timedelta(0)) == 1
    assert ledger.overdue_commitments(at(179)) == []
    assert ledger.overdue_commitments(at(181)) == [(asked.transaction_uid, "pacs")]
    ledger.report_commitment(report(asked.transaction_uid, 1, 2), "PACS", later(200), at(90))
    assert states(ledger) == {1: (COMMITTED, None), 2: (COMMITTED, None)}
