"""The listener and Storage Commitment: peers that ask whether what they sent is safe, PACS that report to us."""

import contextlib
import struct
import threading
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from committing import INSTANCE, MODEL, Asker, CommittingPacs, item, request
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from receiving import CR, STUDY, radiograph, running, wait_until
from structlog.testing import capture_logs
from working import SC_STORAGE, T0, at, delivery, instance, study, task

from dicom_node.deliver.reporting import Reporter
from dicom_node.dicom import commitment as push_model
from dicom_node.errors import OutOfResources, PeerError
from dicom_node.nouns import StudyState
from dicom_node.receive import commitment, same_association
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import commitment_reports

BOTH = ((CR, [ExplicitVRLittleEndian]), (MODEL, [ExplicitVRLittleEndian]))
FIRST, SECOND, UNKNOWN = f"{STUDY}.1.1", f"{STUDY}.1.2", "2.25.99"


@pytest.fixture
def node(tmp_path):
    with running(tmp_path) as one:
        yield one


@pytest.fixture
def asker():
    made = Asker()
    yield made
    made.stop()


def ask(association, ds, action=1, instance=INSTANCE):
    return association.send_n_action(ds, action, MODEL, instance)[0].get("Status")


@contextlib.contextmanager
def associated(node, asker, **options):
    handlers = [(evt.EVT_N_EVENT_REPORT, asker.hear)]
    with node.associated(asker.title, contexts=BOTH, evt_handlers=handlers, **options) as association:
        yield association


def reporter(node, *peers, **limits):
    """A sender's side that reports to these peers, as if their time had come."""
    sections = {
        "node": {"database": "sqlite:///x", "spool": "x"},
        "commitment_peers": [{"ae_title": one.title, "host": "127.0.0.1", "port": one.port} for one in peers],
        "delivery": {"timeout": 5} | limits,
    }
    later = datetime.now(UTC) + timedelta(seconds=60)
    return Reporter(settings=Settings.model_validate(sections), ledger=node.ledger, clock=lambda: later)


# ---- the report over the association of the request


def test_the_report_comes_over_the_association_of_the_request_when_it_lasts(node, asker):
    with associated(node, asker) as association:
        assert association.send_c_store(radiograph(1)).Status == 0x0000
        assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0000
        assert asker.came.wait(10)
        wait_until(lambda: node.ledger.report_counts() == {"reported": 1})  # its answer is there before it releases
    assert asker.reports == [(1, "2.25.7", [FIRST], {})]


def test_failures_say_why(node, asker):
    with associated(node, asker) as association:
        for number in (1, 2, 3, 4):
            association.send_c_store(radiograph(number))
        gone, damaged = (node.ledger.find_instance(f"{STUDY}.1.{number}").path for number in (3, 4))
        gone.unlink()
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
        asked = [(CR, FIRST), (SC_STORAGE, SECOND), (CR, UNKNOWN), (CR, f"{STUDY}.1.3"), (CR, f"{STUDY}.1.4")]
        with capture_logs() as logged:
            assert ask(association, request("2.25.7", *asked)) == 0x0000
            assert asker.came.wait(10)
    reasons = {SECOND: 0x0119, UNKNOWN: 0x0112, f"{STUDY}.1.3": 0x0112, f"{STUDY}.1.4": 0x0110}
    assert asker.reports == [(2, "2.25.7", [FIRST], reasons)]
    alarms = [one["event"] for one in logged if one["log_level"] == "error"]
    assert alarms == ["acknowledged file is missing", "acknowledged file is damaged"]
    assert "canary" not in repr(logged).lower()


def test_objects_go_on_coming_while_a_report_is_under_way(node, asker, monkeypatch):
    """pynetdicom's own way takes a C-STORE for the answer to the report, and aborts."""
    monkeypatch.setattr(commitment, "GRACE_SECONDS", 0.0)
    held, original = threading.Event(), asker.hear

    def slow(event):
        held.wait(5)
        return original(event)

    asker.hear = slow
    with associated(node, asker) as association:
        association.send_c_store(radiograph(1))
        assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0000
        for number in range(2, 12):
            assert association.send_c_store(radiograph(number)).Status == 0x0000
        held.set()
        assert asker.came.wait(10)
        wait_until(lambda: node.ledger.report_counts() == {"reported": 1})
        assert association.is_established
        assert association.send_c_store(radiograph(12)).Status == 0x0000


# ---- the report over an association of our own


def test_a_peer_that_releases_is_called_by_a_sender_that_says_it_is_the_scp(node, asker):
    asker.listen()
    with associated(node, asker) as association:
        association.send_c_store(radiograph(1))
        assert ask(association, request("2.25.7", (CR, FIRST), (CR, UNKNOWN))) == 0x0000
    wait_until(lambda: reporter(node, asker).report("MODALITY"))
    assert asker.reports == [(2, "2.25.7", [FIRST], {UNKNOWN: 0x0112})]
    assert asker.roles == [(False, True)]
    assert node.ledger.report_counts() == {"reported": 1}


def test_a_listener_that_is_killed_after_its_answer_has_its_report_sent_by_a_sender(tmp_path, asker, monkeypatch):
    monkeypatch.setattr(commitment.CommitmentProvider, "_report", lambda *_: None)  # killed before its first step
    asker.listen()
    with running(tmp_path) as node:
        with associated(node, asker) as association:
            association.send_c_store(radiograph(1))
            assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0000
        assert node.ledger.report_counts() == {"owed": 1}
        assert reporter(node, asker).report("MODALITY") == 1
    assert asker.reports == [(1, "2.25.7", [FIRST], {})]


def test_several_reports_go_over_one_association_and_a_refused_one_comes_again(node, asker, monkeypatch):
    monkeypatch.setattr(commitment.CommitmentProvider, "_report", lambda *_: None)
    asker.status = 0x0110
    asker.listen()
    with associated(node, asker) as association:
        association.send_c_store(radiograph(1))
        for number in range(3):
            assert ask(association, request(f"2.25.{number + 1}", (CR, FIRST))) == 0x0000
    with capture_logs() as logged:
        assert reporter(node, asker).report("MODALITY") == 3
    assert len(asker.reports) == 3
    assert "N-EVENT-REPORT status 0x0110" in logged[0]["reason"]
    assert node.ledger.report_counts() == {"owed": 3}
    assert reporter(node, asker).report("MODALITY") == 0, "not before its time"


def test_a_peer_without_an_address_is_named_and_given_up_in_the_end(node, asker, monkeypatch):
    monkeypatch.setattr(commitment.CommitmentProvider, "_report", lambda *_: None)
    with associated(node, asker) as association:
        assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0000
    with capture_logs() as logged:
        assert reporter(node, max_attempts=1).report("MODALITY") == 1
    assert "name it in [[commitment_peers]]" in logged[0]["reason"]
    assert node.ledger.report_counts() == {"dead": 1}


def test_nobody_there_is_tried_again(node, asker, monkeypatch):
    monkeypatch.setattr(commitment.CommitmentProvider, "_report", lambda *_: None)
    with associated(node, asker) as association:
        assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0000
    assert reporter(node, asker).report("MODALITY") == 1
    assert node.ledger.report_counts() == {"owed": 1}


# ---- what is refused


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # what is sent here
def test_what_makes_no_sense_is_refused_and_promises_nothing(node, asker):
    no_uid = request("2.25.7", (CR, FIRST))
    del no_uid.TransactionUID
    no_objects = Dataset()
    no_objects.TransactionUID = "2.25.7"
    with associated(node, asker) as association:
        assert ask(association, no_uid) == 0x0115
        assert ask(association, no_objects) == 0x0115
        assert ask(association, request("../etc", (CR, FIRST))) == 0x0115
        assert ask(association, request("2.25.7", (CR, "not a uid"))) == 0x0115
        assert ask(association, None) == 0x0115
        assert ask(association, request("2.25.7", (CR, FIRST)), action=2) == 0x0123
        assert ask(association, request("2.25.7", (CR, FIRST)), instance="2.25.1") == 0x0112
        assert association.send_c_store(radiograph(1)).Status == 0x0000
    assert node.ledger.report_counts() == {}


def test_so_many_objects_in_one_request_and_no_more(node, asker, monkeypatch):
    many = [(CR, f"2.25.{number}") for number in range(1, 302)]
    monkeypatch.setattr(push_model, "MOST_REFERENCES", 300)
    with associated(node, asker) as association:
        assert ask(association, request("2.25.7", *many[:300])) == 0x0000
        assert ask(association, request("2.25.8", *many)) == 0x0213
        monkeypatch.setattr(push_model, "MOST_BYTES", 10_000)
        assert ask(association, request("2.25.9", *many[:200])) == 0x0213
        assert ask(association, request("2.25.10", (CR, FIRST))) == 0x0000


def test_what_is_too_long_is_not_kept():
    buffer = push_model.Information()
    for _ in range(100):
        assert buffer.write(bytes(100_000)) == 100_000
    assert buffer.getbuffer().nbytes <= push_model.MOST_BYTES
    with pytest.raises(push_model.TooMuchAsked):
        push_model.read_request(buffer, ImplicitVRLittleEndian)


def test_ten_thousand_objects_with_the_longest_uids_fit():
    def element(number, value):
        return struct.pack("<HHL", 0x0008, number, len(value)) + value

    def one(number):
        uid = f"1.2.{10**59 + number}".encode()
        body = element(0x1150, uid) + element(0x1155, uid)
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body

    real = element(0x1195, b"2.25.7") + element(0x1199, b"".join(map(one, range(10_000))))
    assert len(real) < push_model.MOST_BYTES
    few = element(0x1195, b"2.25.7") + element(0x1199, b"".join(map(one, range(20))))
    assert len(push_model.read_request(BytesIO(few), ImplicitVRLittleEndian).references) == 20


def test_so_many_requests_wait_for_their_reports_and_no_more(node, asker, monkeypatch):
    monkeypatch.setattr(commitment.CommitmentProvider, "_report", lambda *_: None)
    monkeypatch.setattr(commitment_reports, "MOST_OWED", 2)
    with associated(node, asker) as association:
        asked = [ask(association, request(f"2.25.{number}", (CR, FIRST))) for number in (1, 2, 3)]
        assert asked == [0x0000, 0x0000, 0x0213]
        assert ask(association, request("2.25.2", (CR, FIRST))) == 0x0000, "the same again is the same"
        assert ask(association, request("2.25.2", (CR, SECOND))) == 0x0115


def test_so_many_requests_over_one_association_and_no_more(node, asker, monkeypatch):
    monkeypatch.setattr(same_association, "MOST_REQUESTS", 3)
    with associated(node, asker) as association:
        for number in (1, 2, 3):
            assert ask(association, request(f"2.25.{number}", (CR, FIRST))) == 0x0000
        assert ask(association, request("2.25.4", (CR, FIRST))) is None
        wait_until(lambda: association.is_aborted)


def test_a_peer_that_waits_for_no_answer_is_stopped(node, asker, monkeypatch):
    release = threading.Event()

    def slow(*_):
        release.wait(10)
        return 0x0110

    monkeypatch.setattr(commitment.CommitmentProvider, "take", slow)
    with associated(node, asker) as association:
        context = association._get_valid_context(MODEL, "", None).context_id
        for number in range(1, 6):
            primitive = N_ACTION()
            primitive.MessageID, primitive.ActionTypeID = number, 1
            primitive.RequestedSOPClassUID, primitive.RequestedSOPInstanceUID = MODEL, INSTANCE
            ds = request("2.25.7", (CR, FIRST))
            primitive.ActionInformation = BytesIO(encode(ds, is_implicit_vr=False, is_little_endian=True))
            association.dimse.send_msg(primitive, context)
        wait_until(lambda: association.is_aborted)
        release.set()


def test_who_may_not_send_may_not_ask(node):
    association = node.entity("STRANGER", BOTH).associate("127.0.0.1", node.port, ae_title="EXPLAIN")
    assert association.is_rejected


@how(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_any_bytes_are_refused_or_read_and_nothing_else(data, syntax):
    real = encode(request("2.25.7", (CR, FIRST)), syntax.is_implicit_VR, syntax.is_little_endian)
    for bytes_ in (data, real[: len(data)], real[:20] + data, real + data):
        for read in (push_model.read_request, push_model.read_report):
            with contextlib.suppress(PeerError):
                read(BytesIO(bytes_), syntax)


def test_a_million_empty_items_are_refused_unread(monkeypatch):
    monkeypatch.setattr(push_model, "decode", None)
    items = struct.pack("<HHL", 0x0008, 0x1199, 2_000_000) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 250_000
    with pytest.raises(push_model.TooMuchAsked):
        push_model.read_request(BytesIO(items), ImplicitVRLittleEndian)


def test_sequences_inside_each_other_without_end_are_refused():
    deep = b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 15_000
    with pytest.raises(push_model.CommitmentUnreadable):
        push_model.read_request(BytesIO(deep), ExplicitVRLittleEndian)


# ---- a destination reports to us


@pytest.fixture
def asked(node):
    """A request that the destination PACS was made about two results; its Action Information."""
    node.ledger.add_instance(instance(1))
    revision = study(instance(1))
    node.ledger.mark_ready(revision, [task(revision)], T0)
    node.ledger.lease("t1", "w", T0, 60)
    owed = {"deliveries": [delivery(), delivery("t1", 2)], "state": StudyState.EXPLAINED, "reason": None, "now": T0}
    node.ledger.complete("t1", "w", **owed)
    for one in node.ledger.lease_deliveries("t1-1-pacs", "s", at(1), 60):
        node.ledger.delivery_sent(one.delivery_id, at(1), 0, commitment=True)
    opened = node.ledger.open_commitment("pacs", "PACS", at(2), 600, patience=60)
    return request(opened.transaction_uid, (SC_STORAGE, "2.25.1"), (SC_STORAGE, "2.25.2"))


def states(node):
    return {one.sop_instance_uid: one.state.value for one in node.ledger.deliveries()}


@pytest.mark.parametrize("role", [True, False])
def test_a_report_over_an_association_that_the_pacs_opens_commits(node, asked, role):
    pacs = CommittingPacs()
    assert pacs.call(node.port, pacs.information(asked), pacs.information(asked), role=role) == [0x0000, 0x0000]
    assert states(node) == {"2.25.1": "committed", "2.25.2": "committed"}


def test_the_role_of_an_scp_is_accepted(node):
    entity = node.entity("PACS", [(MODEL, [ExplicitVRLittleEndian])])
    association = entity.associate(
        "127.0.0.1", node.port, ae_title="EXPLAIN", ext_neg=[build_role(MODEL, scp_role=True)]
    )
    (context,) = association.accepted_contexts
    association.release()
    assert (context.as_scp, context.as_scu) == (True, False)


def test_reports_that_nobody_asked_for_change_nothing_and_are_logged(node, asked):
    pacs = CommittingPacs()
    right = pacs.information(asked)
    unknown, foreign, empty = pacs.information(asked), pacs.information(asked), Dataset()
    empty.TransactionUID = asked.TransactionUID
    unknown.TransactionUID = "2.25.1"
    foreign.ReferencedSOPSequence.append(item(SC_STORAGE, "2.25.3"))
    with capture_logs() as logged:
        assert pacs.call(node.port, right, ae_title="MODALITY") == [0x0115]
        assert pacs.call(node.port, unknown, foreign, empty) == [0x0115, 0x0115, 0x0115]
        assert pacs.call(node.port, right, event_type=3) == [0x0113]
    refused = [one for one in logged if one["event"] == "commitment report refused"]
    assert len(refused) == 5
    assert {one["log_level"] for one in refused} == {"warning"}
    assert states(node) == {"2.25.1": "sent", "2.25.2": "sent"}
    assert pacs.call(node.port, right) == [0x0000]


def test_failures_that_a_pacs_reports_are_acted_upon(node, asked):
    pacs = CommittingPacs(failures={"2.25.2": 0x0119})
    assert pacs.call(node.port, pacs.information(asked)) == [0x0000]
    assert states(node) == {"2.25.1": "committed", "2.25.2": "dead"}


def test_a_ledger_that_is_away_is_a_processing_failure(node, asked, monkeypatch):
    def away(*_):
        raise OutOfResources("the ledger does not answer")

    pacs = CommittingPacs()
    monkeypatch.setattr(node.ledger, "report_commitment", away)
    assert pacs.call(node.port, pacs.information(asked)) == [0x0110]
    monkeypatch.setattr(node.ledger, "owe_report", away)
    with node.associated(contexts=BOTH) as association:
        assert ask(association, request("2.25.7", (CR, FIRST))) == 0x0110
