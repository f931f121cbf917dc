"""The Storage SCU and the sender, against real SCPs on loopback."""

import gc
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import RLELossless
from sending import CR_STORAGE, SEG_STORAGE, SR_STORAGE, Node, write
from structlog.testing import capture_logs
from working import SC_STORAGE, STUDY, T0, Peer, at, due, forbidden, free_port, wait_for

from dicom_node.deliver import scu
from dicom_node.deliver.sender import RetryPolicy, Sender, next_attempt
from dicom_node.errors import DatasetUnreadable, DeliveryRefused, DeliveryUnreachable, OutOfResources
from dicom_node.nouns import AETitle, DeliveryState, Destination, SOPInstanceUID
from dicom_node.storage.ledger import Ledger, Replayed


def request(folder: Path, number: int, sop_class: str = SC_STORAGE) -> scu.StoreRequest:
    uid = f"2.25.{number}"
    return scu.StoreRequest(
        key=str(number),
        sop_instance_uid=SOPInstanceUID(uid),
        sop_class_uid=sop_class,
        path=write(folder, uid, sop_class),
    )


def to(port: int, ae_title: str = "PACS") -> Destination:
    return Destination(name="pacs", ae_title=AETitle(ae_title), host="127.0.0.1", port=port)


def send(destination: Destination, *requests: scu.StoreRequest, timeout: float = 5) -> list[scu.StoreOutcome]:
    return list(scu.store(destination, requests, calling_ae_title="EXPLAIN", timeout=timeout))


@pytest.fixture
def peers():
    started = []

    def make(*arguments, **options) -> Peer:
        started.append(Peer(*arguments, **options).start())
        return started[-1]

    yield make
    for one in started:
        one.stop()


# ---- the SCU


def test_all_objects_go_over_one_association_and_arrive_as_they_are(peers, tmp_path):
    peer = peers()
    outcomes = send(to(peer.port), *(request(tmp_path, n) for n in (1, 2, 3)))
    assert [(one.key, one.status, one.delivered) for one in outcomes] == [(str(n), 0, True) for n in (1, 2, 3)]
    assert (peer.uids, peer.associations) == (["2.25.1", "2.25.2", "2.25.3"], 1)
    written = (tmp_path / "2.25.1.dcm").read_bytes()
    assert written.endswith(peer.received[0][2])


def test_every_status_is_looked_at(peers, tmp_path):
    statuses = {"2.25.1": 0x0000, "2.25.2": 0xB000, "2.25.3": 0xA700, "2.25.4": 0xB007, "2.25.5": 0xC123}
    peer = peers(lambda uid, _: statuses[uid])
    outcomes = send(to(peer.port), *(request(tmp_path, n) for n in range(1, 6)))
    assert [one.status for one in outcomes] == list(statuses.values())
    assert [one.delivered for one in outcomes] == [True, True, False, True, False]
    assert isinstance(outcomes[2].error, DeliveryRefused)
    assert "0xA700" in str(outcomes[2].error)
    assert outcomes[2].retry


def test_a_rejected_context_fails_only_the_objects_that_need_it(peers, tmp_path):
    peer = peers(classes=[SC_STORAGE])
    outcomes = send(to(peer.port), request(tmp_path, 1, SR_STORAGE), request(tmp_path, 2))
    assert [one.delivered for one in outcomes] == [False, True]
    assert str(outcomes[0].error) == (
        "the destination does not accept Comprehensive SR Storage (presentation context rejected)"
    )
    assert not outcomes[0].retry
    assert [one.class_refused for one in outcomes] == [True, False]


def test_a_compressed_file_needs_its_own_transfer_syntax(peers, tmp_path):
    peer = peers()
    compressed, native = request(tmp_path, 1), request(tmp_path, 2)
    ds = dcmread(compressed.path)
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.save_as(compressed.path, enforce_file_format=True)
    outcomes = send(to(peer.port), compressed, native)
    assert [(one.delivered, one.class_refused) for one in outcomes] == [(False, True), (True, False)]
    assert "Secondary Capture Image Storage in RLE Lossless (presentation" in str(outcomes[0].error)


@pytest.mark.parametrize(("status", "refused"), [(0x0122, True), (0x0124, False), (0xA700, False), (0xB000, False)])
def test_one_status_says_that_the_class_is_not_taken(peers, tmp_path, status, refused):
    peer = peers(lambda _uid, _n: status)
    (outcome,) = send(to(peer.port), request(tmp_path, 1))
    assert (outcome.status, outcome.class_refused) == (status, refused)
    assert not (outcome.class_refused and outcome.retry)


def test_a_destination_that_accepts_none_of_the_classes_says_so(peers, tmp_path):
    peer = peers(classes=["1.2.840.10008.5.1.4.1.1.2"])
    (outcome,) = send(to(peer.port), request(tmp_path, 1))
    assert "presentation context rejected" in str(outcome.error)
    assert (outcome.class_refused, outcome.retry) == (True, False)


def test_nobody_there_is_unreachable(tmp_path):
    (outcome,) = send(to(free_port()), request(tmp_path, 1))
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert (outcome.status, outcome.retry, outcome.class_refused) == (None, True, False)


def test_refused_connections_leave_no_descriptor_behind(tmp_path):
    gc.disable()  # what only the collector frees would pile up in a sender that waits for a dead destination
    try:
        one, to_nobody = request(tmp_path, 1), to(free_port())
        send(to_nobody, one)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            send(to_nobody, one)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()


def test_a_rejected_association_gives_the_peers_reason(peers, tmp_path):
    peer = peers()
    (outcome,) = send(to(peer.port, "WRONG"), request(tmp_path, 1))
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert str(outcome.error) == "association rejected: Called AE title not recognised"


def test_a_silent_listener_is_unreachable_within_the_timeout(tmp_path):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (outcome,) = send(to(silent.getsockname()[1]), request(tmp_path, 1), timeout=0.5)
    assert isinstance(outcome.error, DeliveryUnreachable)


def test_an_association_that_breaks_costs_one_object_not_the_rest(peers, tmp_path):
    peer = peers(lambda uid, _: None if uid == "2.25.2" else 0)
    outcomes = send(to(peer.port), *(request(tmp_path, n) for n in (1, 2, 3)))
    assert [one.delivered for one in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error, DeliveryUnreachable)
    assert peer.associations == 2


def test_a_missing_or_damaged_file_is_its_own_fault(peers, tmp_path):
    peer = peers()
    missing, damaged, fine = (request(tmp_path, n) for n in (1, 2, 3))
    missing.path.unlink()
    damaged.path.write_bytes(b"not DICOM")
    outcomes = send(to(peer.port), missing, damaged, fine)
    assert [one.delivered for one in outcomes] == [False, False, True]
    assert not outcomes[0].retry
    assert not outcomes[1].retry


def test_a_file_that_this_host_cannot_read_now_is_sent_later(peers, tmp_path):
    """Permissions after an upgrade, too many open files: no dead letter."""
    peer = peers()
    asked = request(tmp_path, 1)
    with forbidden(asked.path):
        (outcome,) = send(to(peer.port), asked)
    assert (outcome.delivered, outcome.retry, outcome.class_refused) == (False, True, False)
    (outcome,) = send(to(peer.port), asked)
    assert outcome.delivered


def test_a_destination_that_takes_only_the_default_transfer_syntax_gets_it(peers, tmp_path):
    peer = peers(syntaxes=["1.2.840.10008.1.2"])
    (outcome,) = send(to(peer.port), request(tmp_path, 1))
    assert outcome.delivered
    assert b"Canary^Bird" in peer.received[0][2]
    assert b"PN" not in peer.received[0][2]


def test_more_classes_than_one_association_can_negotiate_take_several(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(scu, "MAX_CONTEXTS", 4)
    peer = peers()
    classes = [SC_STORAGE, SR_STORAGE, "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2"]
    outcomes = send(to(peer.port), *(request(tmp_path, n, one) for n, one in enumerate(classes, start=1)))
    assert all(one.delivered for one in outcomes)
    assert peer.associations == 2


def test_echo(peers):
    peer = peers()
    assert scu.echo(to(peer.port), calling_ae_title="EXPLAIN", timeout=5) == 0
    with pytest.raises(DeliveryUnreachable):
        scu.echo(to(free_port()), calling_ae_title="EXPLAIN", timeout=5)


@pytest.mark.parametrize(
    ("status", "warning"), [(0, False), (0xB000, True), (0xBFFF, True), (0xA700, False), (0xC000, False)]
)
def test_warnings_are_the_class_b(status, warning):
    assert scu.is_warning(status) is warning


# ---- when to try again


def test_the_default_waits_double_from_half_a_minute_and_end_after_ten():
    waits = [next_attempt(n, T0, RetryPolicy()) for n in range(1, 11)]
    assert [int((one - T0).total_seconds()) for one in waits[:-1]] == [
        30,
        60,
        120,
        240,
        480,
        960,
        1920,
        3600,
        3600,
    ]
    assert waits[-1] is None


@given(
    first=st.floats(0.001, 1e5),
    factor=st.floats(1, 10),
    attempts=st.integers(1, 10_000),
    most=st.integers(1, 10_000),
)
def test_waits_never_shrink_never_exceed_the_cap_and_end(first, factor, attempts, most):
    policy = RetryPolicy(first=timedelta(seconds=first), factor=factor, cap=timedelta(days=2), max_attempts=most)
    now, after = next_attempt(attempts, T0, policy), next_attempt(attempts + 1, T0, policy)
    assert (now is None) == (attempts >= most)
    if now is not None:
        assert T0 < now <= T0 + policy.cap
    if after is not None:
        assert now <= after


# ---- the sender


@pytest.fixture
def node(tmp_path):
    made = []

    def make(*destinations, **delivery_settings) -> Node:
        made.append(Node(tmp_path, *destinations, **delivery_settings))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


def test_one_message_delivers_all_that_is_due_there_and_nothing_elsewhere(peers, node):
    pacs, archive = peers(), peers()
    here = node(("pacs", pacs.port), ("archive", archive.port))
    here.owe(here.result(1), here.result(2), here.result(1, "archive"))
    assert here.sender.deliver("t1-2-pacs") == 2
    assert (pacs.uids, pacs.associations, archive.uids) == (["2.25.1", "2.25.2"], 1, [])
    assert here.sender.deliver("t1-1-pacs") == 0
    assert pacs.associations == 1
    assert here.states()["1-archive"] is DeliveryState.PENDING


def test_a_duplicate_counts_as_delivered_where_an_earlier_answer_was_lost_and_only_there(peers, node):
    """The peer stores, the association breaks before its answer, and the repetition is a duplicate to it."""
    pacs = peers(lambda uid, number: 0x0111 if number > 1 or uid == "2.25.2" else None)
    here = node(("pacs", pacs.port))
    here.owe(here.result(1))
    here.sender.deliver("t1-1-pacs")
    assert here.states()["1-pacs"] is DeliveryState.PENDING
    here.now = at(1000)
    here.sender.deliver("t1-1-pacs")
    (row,) = here.ledger.deliveries()
    assert row.state is DeliveryState.SENT
    assert row.last_error == "stored by an earlier attempt whose answer was lost (0x0111)"
    here.owe(here.result(2))
    here.sender.deliver("t1-2-pacs")
    assert here.states()["2-pacs"] is DeliveryState.PENDING, "at the first attempt it is another object of this UID"


def test_a_warning_counts_as_delivered_and_is_kept(peers, node):
    pacs = peers(lambda _uid, _n: 0xB000)
    here = node(("pacs", pacs.port))
    here.owe(here.result(1))
    here.sender.deliver("t1-1-pacs")
    (row,) = here.ledger.deliveries()
    assert (row.state, row.last_error) == (DeliveryState.SENT, "delivered with warning 0xB000")


def test_refused_objects_come_again_later_and_the_others_do_not(peers, node):
    pacs = peers(lambda uid, number: 0xA700 if uid == "2.25.1" and number < 3 else 0)
    here = node(("pacs", pacs.port))
    here.owe(here.result(1), here.result(2))
    here.sender.deliver("t1-1-pacs")
    row = here.ledger.deliveries()[0]
    assert (row.state, row.next_attempt_at, row.attempts) == (DeliveryState.PENDING, at(130), 1)
    assert "0xA700" in row.last_error
    here.now = at(129)
    assert here.sender.deliver("t1-1-pacs") == 0
    here.now = at(130)
    assert here.sender.deliver("t1-1-pacs") == 1
    assert pacs.uids == ["2.25.1", "2.25.2", "2.25.1"]
    assert set(here.states().values()) == {DeliveryState.SENT}


def test_refusals_end_in_dead_letters_that_replay_once_the_destination_takes_them(peers, node):
    pacs = peers(lambda _uid, number: 0xC000 if number <= 3 else 0)
    here = node(("pacs", pacs.port), retry_seconds=30, max_attempts=3)
    here.owe(here.result(1))
    attempts = []
    for _ in range(5):
        if here.sender.deliver("t1-1-pacs"):
            attempts.append(here.now)
        (row,) = here.ledger.deliveries()
        here.now = max(here.now, row.next_attempt_at)
    assert [int((one - at(100)).total_seconds()) for one in attempts] == [0, 30, 90]
    assert row.state is DeliveryState.DEAD
    assert "0xC000" in row.last_error
    assert here.ledger.replay_failed(None, here.now) == Replayed(tasks=0, deliveries=1)
    here.sender.deliver("t1-1-pacs")
    assert pacs.uids == ["2.25.1"] * 4
    assert here.states() == {"1-pacs": DeliveryState.SENT}


def test_one_dead_destination_holds_up_nobody_else(peers, node):
    archive = peers()
    here = node(("pacs", free_port()), ("archive", archive.port))
    here.owe(here.result(1), here.result(2), here.result(1, "archive"))
    here.sender.deliver("t1-1-pacs")
    assert [one.destination for one in due(here.ledger, here.now)] == ["archive"]
    here.sender.deliver("t1-1-archive")
    assert archive.uids == ["2.25.1"]


def test_what_waits_for_an_unreachable_destination_is_not_tried_one_by_one(node, monkeypatch):
    monkeypatch.setattr(Ledger.lease_deliveries, "__defaults__", (1,))  # batches of one
    here = node(("pacs", free_port()))
    here.owe(here.result(1), here.result(2))
    assert here.sender.deliver("t1-1-pacs") == 1
    assert due(here.ledger, here.now) == []
    assert [one.attempts for one in here.ledger.deliveries()] == [0, 0]
    assert len(due(here.ledger, at(130))) == 2


def test_a_class_that_the_destination_does_not_take_is_dead_at_once_and_the_rest_arrives(peers, node):
    pacs = peers(classes=[SC_STORAGE])
    here = node(("pacs", pacs.port))
    here.owe(here.result(1), here.result(2, sop_class=SR_STORAGE))
    here.sender.deliver("t1-1-pacs")
    assert here.states() == {"1-pacs": DeliveryState.SENT, "2-pacs": DeliveryState.DEAD}
    assert "Comprehensive SR Storage" in here.ledger.deliveries()[1].last_error


@pytest.mark.parametrize(
    ("classes", "wanted", "arrives", "states"),
    [
        ((CR_STORAGE, SC_STORAGE), ("segmentation",), (2,), ("downgraded", "sent", "standby")),
        ((SC_STORAGE,), ("segmentation",), (3,), ("downgraded", "downgraded", "sent")),
        ((SC_STORAGE, SEG_STORAGE), ("overlay",), (3,), ("standby", "downgraded", "sent")),
        ((CR_STORAGE,), ("segmentation", "overlay"), (2,), ("downgraded", "sent", "standby")),
        ((SEG_STORAGE,), ("segmentation",), (1,), ("sent", "standby", "standby")),
        ((SR_STORAGE,), ("segmentation",), (), ("dead", "dead", "dead")),
    ],
)
def test_a_refused_class_is_downgraded_until_something_is_taken(peers, node, classes, wanted, arrives, states):
    pacs = peers(classes=classes)
    here = node(("pacs", pacs.port))
    here.owe_chain(*wanted)
    here.deliver_all()
    assert pacs.uids == [f"2.25.{number}" for number in arrives]
    assert tuple(here.kinds().values()) == states
    timeline = here.ledger.timeline(f"{STUDY}.1")
    assert (timeline.delivered_at is None) == (not arrives)


def test_a_status_that_refuses_the_class_is_downgraded_too(peers, node):
    pacs = peers(lambda uid, _: 0x0122 if uid == "2.25.1" else 0)
    here = node(("pacs", pacs.port))
    here.owe_chain("segmentation")
    here.deliver_all()
    assert pacs.uids == ["2.25.1", "2.25.2"]
    assert here.ledger.deliveries()[0].last_error.startswith("C-STORE status 0x0122")


def test_a_downgrade_is_a_warning_that_names_no_patient(peers, node):
    pacs = peers(classes=(CR_STORAGE,))
    here = node(("pacs", pacs.port))
    here.owe_chain("segmentation")
    with capture_logs() as logged:
        here.deliver_all()
    (entry,) = [one for one in logged if one["event"] == "downgraded"]
    assert (entry["log_level"], entry["kind"], entry["stand_in"]) == ("warning", "segmentation", "overlay")
    assert entry["sop_instance_uid"] == "2.25.1"
    assert [one["event"] for one in logged].count("dead letter") == 0
    assert "canary" not in repr(logged).lower()


def test_storescp_that_takes_no_segmentation_gets_the_overlay(node, tmp_path):
    program = shutil.which("storescp")
    if program is None:
        pytest.skip("needs storescp of dcmtk")
    profile = tmp_path / "storescp.cfg"
    profile.write_text(
        "[[TransferSyntaxes]]\n[Native]\nTransferSyntax1 = LocalEndianExplicit\n"
        f"[[PresentationContexts]]\n[Some]\nPresentationContext1 = {CR_STORAGE}\\Native\n"
        "[[Profiles]]\n[Restricted]\nPresentationContexts = Some\n"
    )
    port = free_port()
    folder = tmp_path / "archive"
    folder.mkdir()
    options = ["--output-directory", str(folder), "--config-file", str(profile), "Restricted", str(port)]
    archive = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: send(to(port), request(tmp_path, 9, CR_STORAGE))[0].delivered, what="storescp")
        here = node(("pacs", port))
        here.owe_chain("segmentation")
        here.deliver_all()
    finally:
        archive.kill()
        archive.wait()
    assert tuple(here.kinds().values()) == ("downgraded", "sent", "standby")
    assert sorted(str(dcmread(path).SOPInstanceUID) for path in folder.iterdir()) == ["2.25.2", "2.25.9"]


def test_a_destination_that_is_no_longer_in_the_settings_is_dead_not_lost(node):
    here = node()
    here.owe(here.result(1))
    here.sender.deliver("t1-1-pacs")
    (row,) = here.ledger.deliveries()
    assert (row.state, row.last_error) == (DeliveryState.DEAD, "the destination is not in the settings")


def test_outcomes_are_recorded_one_by_one_so_that_a_killed_sender_repeats_only_the_rest(node):
    here = node(("pacs", free_port()))
    here.owe(here.result(1), here.result(2), here.result(3))

    class Killed(BaseException):
        pass

    def killed_after_one(_destination, requests, **_):
        yield scu.StoreOutcome(key=requests[0].key, status=0, error=None, retry=False)
        raise Killed

    sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: here.now, store=killed_after_one)
    with pytest.raises(Killed):
        sender.deliver("t1-1-pacs")
    assert list(here.states().values()).count(DeliveryState.SENT) == 1
    assert due(here.ledger, here.now) == []
    here.now = at(100 + 600)
    assert [one.delivery_id for one in due(here.ledger, here.now)] == ["t1-2-pacs", "t1-3-pacs"]


def test_while_the_object_store_is_away_what_is_not_here_waits_and_counts_no_attempt(peers, node):
    pacs = peers(lambda *_: 0)
    here = node(("pacs", pacs.port))
    here.owe(here.result(1), here.result(2), here.result(3))

    def fetch(path):
        if path.stem == "2.25.2":
            raise OutOfResources("the object store does not answer")
        return path

    there = {"settings": here.settings, "ledger": here.ledger, "clock": lambda: here.now}
    assert Sender(**there, fetch=fetch).deliver("t1-1-pacs") == 3
    assert pacs.uids == ["2.25.1"]
    waiting = [one for one in here.ledger.deliveries() if one.state is DeliveryState.PENDING]
    assert [(one.attempts, one.last_error) for one in waiting] == 2 * [(0, "the object store does not answer")]
    assert Sender(**there).deliver("t1-2-pacs") == 2
    assert pacs.uids == ["2.25.1", "2.25.2", "2.25.3"]


def test_a_damaged_object_is_a_dead_letter_and_the_others_go(peers, node):
    pacs = peers(lambda *_: 0)
    here = node(("pacs", pacs.port))
    here.owe(here.result(1), here.result(2))

    def fetch(path):
        if path.stem == "2.25.1":
            raise DatasetUnreadable("the stored object is damaged")
        return path

    sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: here.now, fetch=fetch)
    assert sender.deliver("t1-1-pacs") == 2
    found = {one.sop_instance_uid: (one.state, one.last_error) for one in here.ledger.deliveries()}
    assert found["2.25.1"] == (DeliveryState.DEAD, "the stored object is damaged")
    assert found["2.25.2"][0] is DeliveryState.SENT


def test_an_unknown_exception_is_visible_retried_and_says_no_more_than_its_class(node):
    here = node(("pacs", free_port()))
    here.owe(here.result(1))

    def broken(*_, **__):
        raise ZeroDivisionError("Canary^Bird")
        yield

    sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: here.now, store=broken)
    with pytest.raises(ZeroDivisionError):
        sender.deliver("t1-1-pacs")
    (row,) = here.ledger.deliveries()
    assert (row.state, row.last_error) == (DeliveryState.PENDING, "sending failed (ZeroDivisionError)")


def test_nothing_of_the_patient_is_logged(peers, node):
    pacs = peers(lambda uid, _: {"2.25.1": 0, "2.25.2": 0xC000, "2.25.3": 0xB000}[uid])
    here = node(("pacs", pacs.port))
    here.owe(*(here.result(n) for n in (1, 2, 3)))
    with capture_logs() as logged:
        here.sender.deliver("t1-1-pacs")
    assert len(logged) == 3
    assert "canary" not in repr(logged).lower()


def test_the_files_are_sent_as_written(peers, node):
    pacs = peers()
    here = node(("pacs", pacs.port))
    here.owe(here.result(1))
    here.sender.deliver("t1-1-pacs")
    sent = dcmread(here.folder / "2.25.1.dcm")
    assert sent.SOPInstanceUID == pacs.uids[0]
