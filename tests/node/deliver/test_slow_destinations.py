"""Destinations that are slow but honest get their objects; those over which nothing moves are given up in time."""

import socket
import struct
import threading
import time

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from slow_line import SlowLine
from working import SC_STORAGE, STUDY, T0, Peer, delivery, free_port, instance, settings, study, task

from dicom_node.clock import utc_now
from dicom_node.deliver import scu, sender, silence
from dicom_node.deliver.sender import Sender
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import AETitle, DeliveryState, Destination, SOPInstanceUID, StudyState
from dicom_node.storage.ledger import Ledger

SIZE = 200_000


def request_for(folder, size):
    """An object of so many bytes that is to be sent."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = SC_STORAGE, "2.25.1", STUDY
    ds.add_new(0x00420011, "OB", b"\1" * size)
    path = folder / "1.dcm"
    ds.save_as(path, enforce_file_format=True)
    return scu.StoreRequest(key="1", sop_instance_uid=SOPInstanceUID("2.25.1"), sop_class_uid=SC_STORAGE, path=path)


@pytest.fixture
def request_(tmp_path):
    return request_for(tmp_path, SIZE)


def send(port, request, timeout):
    there = Destination(name="pacs", ae_title=AETitle("PACS"), host="127.0.0.1", port=port)
    begun = time.monotonic()
    (outcome,) = scu.store(there, [request], calling_ae_title="EXPLAIN", timeout=timeout)
    return outcome, time.monotonic() - begun


@pytest.fixture
def peer():
    started = Peer().start()
    yield started
    started.stop()


def test_an_object_that_takes_longer_than_any_answer_arrives(peer, request_):
    line = SlowLine(peer.port, rate=70_000)
    outcome, seconds = send(line.port, request_, timeout=1)
    line.over.set()
    assert outcome.delivered
    assert seconds > 2, "the line was slow"
    assert peer.uids == ["2.25.1"]


def test_a_line_on_which_nothing_moves_any_more_is_given_up(peer, request_):
    line = SlowLine(peer.port, rate=1e9, most=60_000)
    outcome, seconds = send(line.port, request_, timeout=1)
    line.over.set()
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert outcome.retry
    assert seconds < 8


def test_a_destination_that_never_answers_is_given_up(request_, monkeypatch):
    monkeypatch.setattr(silence, "SLOWEST_READER", 1_000_000)
    released = threading.Event()
    silent = Peer(lambda _uid, _number: released.wait(30) and 0).start()
    try:
        outcome, seconds = send(silent.port, request_, timeout=1)
    finally:
        released.set()
        silent.stop()
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert 1 < seconds < 8


def _read_pdu(connection):
    head = connection.recv(6, socket.MSG_WAITALL)
    return head + connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def _command(context, field):
    """A C-STORE-RSP, or something with another Command Field."""
    body = b"".join(
        struct.pack("<HHLH", 0, element, 2, value)
        for element, value in ((0x0100, field), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0))
    )
    body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    pdv = struct.pack(">LBB", len(body) + 2, context, 3) + body
    return struct.pack(">BBL", 4, 0, len(pdv)) + pdv


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of pynetdicom's own threads
@pytest.mark.parametrize(
    "how", ["half an acceptance", "an unknown command", "half a PDU after the answer", "an unknown PDU"]
)
def test_a_destination_that_breaks_the_protocol_holds_nobody_up(how, request_):
    """pynetdicom waits without end for what these leave out."""
    over = threading.Event()

    def serve():
        with listening, listening.accept()[0] as connection:
            asked = A_ASSOCIATE_RQ()
            asked.decode(_read_pdu(connection))
            if how == "half an acceptance":
                connection.sendall(b"\x02\x00\x00")
                over.wait(30)
                return
            primitive = asked.to_primitive()
            primitive.result, primitive.result_source = 0, 1
            for context in primitive.presentation_context_definition_list:
                context.transfer_syntax, context.result = [context.transfer_syntax[0]], 0
            primitive.presentation_context_definition_results_list = primitive.presentation_context_definition_list
            answer = A_ASSOCIATE_AC()
            answer.from_primitive(primitive)
            connection.sendall(answer.encode())
            _read_pdu(connection)
            context = primitive.presentation_context_definition_list[0].context_id
            said = {
                "an unknown command": _command(context, 0x7777),
                "half a PDU after the answer": _command(context, 0x8001) + b"\x04\x00\x00",
                "an unknown PDU": b"\x99\0\0\0\0\0",
            }
            connection.sendall(said[how])
            over.wait(30)

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    outcomes = []
    sending = threading.Thread(target=lambda: outcomes.append(send(port, request_, timeout=1)), daemon=True)
    sending.start()
    sending.join(20)
    over.set()
    thread.join(5)
    assert outcomes, "it hangs"
    assert outcomes[0][0].delivered == (how == "half a PDU after the answer")


def test_a_batch_is_held_as_long_as_its_sender_lives_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "LEASE_SECONDS", 0.6)
    chosen = settings(tmp_path, ("pacs", "PACS", free_port()))
    ledger = Ledger(chosen.node.database)
    ledger.create()
    ledger.add_instance(instance(1, study=STUDY))
    revision = study(instance(1, study=STUDY))
    ledger.mark_ready(revision, [task(revision, "t1")], T0)
    ledger.lease("t1", "w", T0, 60)
    owed = {"deliveries": [delivery("t1", 1)], "state": StudyState.EXPLAINED, "reason": None, "now": T0}
    assert ledger.complete("t1", "w", **owed)

    def slow(_destination, requests, **_):
        for _ in range(4):
            time.sleep(0.5)
            assert ledger.lease_deliveries("t1-1-pacs", "another", utc_now(), 60) == []
        yield scu.StoreOutcome(key=requests[0].key, status=0, error=None, retry=False)

    assert Sender(settings=chosen, ledger=ledger, store=slow).deliver("t1-1-pacs") == 1
    assert ledger.deliveries()[0].state is DeliveryState.SENT

    ledger.close()
