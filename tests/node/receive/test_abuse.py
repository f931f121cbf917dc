"""Peers that lie, stall, trickle, flood or vanish: none of them costs another peer its slot, or the node its memory."""

import contextlib
import copy
import re
import socket
import struct
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import receiving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.fsm import InvalidEventError
from receiving import MB, radiograph, running, wait_until
from rude_peers import associate_request, associated, closed_after, p_data, raw, still_serves, store_command

from dicom_node.receive.listener import MOST_PENDING
from dicom_node.receive.reception import MOST_UNANSWERED

FAST = {"acse_timeout": 1.2, "network_timeout": 1.2, "association_deadline": 1.2, "dimse_timeout": 1.2}


@pytest.fixture
def node(tmp_path):
    with running(tmp_path, **FAST) as started:
        yield started


def resident():
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


# --- time


def test_a_silent_connection_is_closed(node):
    with raw(node) as connection:
        assert closed_after(connection, 5) < 3
        wait_until(lambda: not node.listener._receptions, seconds=2)
    still_serves(node)


def test_a_stall_in_the_middle_of_an_association_request_is_closed(node):
    with raw(node) as connection:
        connection.sendall(associate_request(node.entity())[:40])
        assert closed_after(connection, 5) < 3
        wait_until(lambda: not node.listener._receptions, seconds=2)
    still_serves(node)


def test_a_stall_in_the_middle_of_a_pdu_is_closed_and_leaves_no_part(node):
    with associated(node) as connection:
        connection.sendall(struct.pack(">BxL", 0x04, 60_000) + b"x" * 1000)
        assert closed_after(connection, 5) < 3
    wait_until(lambda: not node.listener._receptions)
    still_serves(node)


@pytest.mark.parametrize("begun", [0, 40])
def test_a_trickle_meets_the_deadline(node, begun):
    """One byte at a time satisfies every time-out between bytes; only the deadline for the whole PDU ends it."""
    message = associate_request(node.entity())
    with raw(node) as connection:
        connection.sendall(message[:begun])
        start = time.monotonic()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):  # noqa: PT012 - which byte fails is not given
            for byte in message[begun:]:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - start < 4
    still_serves(node)


def test_an_idle_association_is_aborted(node):
    with associated(node) as connection:
        assert closed_after(connection, 6) < 4
    still_serves(node)


def test_a_slow_but_honest_sender_is_served(tmp_path):
    with running(tmp_path, **{**FAST, "association_deadline": 20, "network_timeout": 20}) as node:
        message = associate_request(node.entity())
        with raw(node) as connection:
            for start in range(0, len(message), 20):
                connection.sendall(message[start : start + 20])
                time.sleep(0.05)
            assert connection.recv(1) == b"\x02"


# --- memory


def test_a_giant_pdu_before_the_association_is_refused_unread(node):
    before = resident()
    with raw(node) as connection:
        connection.sendall(struct.pack(">BxL", 0x01, 400 * MB))
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe, at any of the writes
            for _ in range(400):
                connection.sendall(bytes(MB))
    assert resident() - before < 50 * MB
    still_serves(node)


def test_a_giant_pdu_after_negotiation_is_refused_unread(node):
    before = resident()
    with associated(node) as connection:
        connection.sendall(struct.pack(">BxL", 0x04, 200 * MB))
        with pytest.raises(OSError):  # noqa: PT011, PT012
            for _ in range(200):
                connection.sendall(bytes(MB))
    assert resident() - before < 50 * MB
    still_serves(node)


def test_a_pdu_of_the_negotiated_length_is_taken_and_one_longer_is_not(tmp_path):
    limit = 4096
    with running(tmp_path, max_pdu=limit, **FAST) as node:
        for length, taken in ((limit, True), (limit + 2048, False)):
            with associated(node) as connection:
                connection.sendall(p_data(bytes(length - 6), header=0x01))
                connection.settimeout(0.4)
                try:
                    refused = connection.recv(1) in (b"", b"\x07")
                except TimeoutError:
                    refused = False
                except ConnectionError:
                    refused = True
                assert refused is not taken


@pytest.mark.parametrize("header", [0x00, 0x01])
def test_fragments_that_never_end_do_not_collect_in_memory(node, header):
    """Command fragments without a last one, and data before any command.

    After its A-ABORT the node reads and drops what still comes until ARTIM expires (PS3.8 9.2, Sta13), then closes.
    """
    before = resident()
    deadline = time.monotonic() + 30
    with associated(node) as connection, pytest.raises(OSError):  # noqa: PT011, PT012
        while time.monotonic() < deadline:
            connection.sendall(p_data(bytes(100_000), header=header))
    assert resident() - before < 50 * MB
    still_serves(node)


def test_a_data_set_of_another_message_is_dropped(node):
    """A C-ECHO that claims a data set: nothing of it is kept."""
    from pydicom.dataset import Dataset
    from pynetdicom.dsutils import encode

    command = Dataset()
    command.AffectedSOPClassUID, command.CommandField = "1.2.840.10008.1.1", 0x0030
    command.MessageID, command.CommandDataSetType = 1, 0x0000
    body = encode(command, True, True)
    command.CommandGroupLength = len(body)
    before = resident()
    with associated(node) as connection:
        connection.sendall(p_data(encode(command, True, True), header=0x03))
        for _ in range(1000):
            connection.sendall(p_data(bytes(100_000), header=0x00))
    assert resident() - before < 50 * MB
    still_serves(node)


# --- slots


def test_silent_connections_of_one_host_leave_slots_for_others(tmp_path):
    with running(tmp_path, max_associations=12, **{**FAST, "acse_timeout": 20}) as node, ExitStack() as stack:
        silent = [stack.enter_context(raw(node, source="127.0.0.2")) for _ in range(40)]
        assert len(silent) == 40
        wait_until(lambda: len(node.listener._receptions) >= 8)
        still_serves(node)


@pytest.mark.slow
def test_many_connections_do_not_make_many_threads(tmp_path):
    with running(tmp_path, max_associations=2, **{**FAST, "acse_timeout": 4}) as node, ExitStack() as stack:
        for number in range(100):
            stack.enter_context(raw(node, source=f"127.0.0.{2 + number % 20}"))
        time.sleep(0.5)
        assert len(node.listener._receptions) <= 2 + MOST_PENDING
        assert threading.active_count() < 2 * MOST_PENDING + 40


SLOW = {"acse_timeout": 20, "network_timeout": 20, "association_deadline": 20}
"""So that nothing below is right because a time-out came."""


def test_connections_that_come_and_go_take_no_slot(tmp_path):
    """As the checks of a load balancer do."""
    with running(tmp_path, max_associations=2, **SLOW) as node:
        for _ in range(12):
            for _ in range(3):
                with raw(node):
                    pass
            still_serves(node)
        wait_until(lambda: not node.listener._receptions, seconds=3)


@pytest.mark.parametrize("begun", [0, 4, 40])
def test_half_open_connections_of_several_hosts_take_no_slot(tmp_path, begun):
    with running(tmp_path, max_associations=2, **SLOW) as node, ExitStack() as stack:
        for host in range(2, 6):
            for _ in range(8):
                stack.enter_context(raw(node, f"127.0.0.{host}")).sendall(associate_request(node.entity())[:begun])
        for _ in range(4):
            still_serves(node)
        stack.close()
        wait_until(lambda: not node.listener._receptions, seconds=3)


def test_a_connection_costs_the_listener_next_to_nothing_before_its_first_byte(node):
    """Connections are set up one after the other: who comes behind many of them waits for all."""
    contexts = node.listener._server.contexts
    made = copy.deepcopy(contexts)  # as pynetdicom does
    assert made == list(contexts)
    assert all(one is not of for one, of in zip(made, contexts, strict=True))
    assert all(one._transfer_syntax is of._transfer_syntax for one, of in zip(made, contexts, strict=True))


def test_one_peer_takes_so_many_slots_and_no_more(tmp_path):
    with running(tmp_path, max_associations=6, max_associations_per_peer=3, **SLOW) as node, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(associated(node))
        with raw(node) as one_more:
            one_more.sendall(associate_request(node.entity()))
            assert one_more.recv(10)[:1] == b"\x03"
        with node.associated(title="PACS") as other:
            assert other.send_c_store(radiograph(5)).Status == 0x0000
        stack.close()
        wait_until(lambda: not node.listener._receptions)
        still_serves(node)


def test_more_associations_than_there_may_be_are_told_so(tmp_path):
    with running(tmp_path, max_associations=2, max_associations_per_peer=2, **SLOW) as node, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(associated(node))
        with raw(node) as one_more:
            one_more.sendall(associate_request(node.entity()))
            assert one_more.recv(10) == bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2]), "transient, local limit exceeded"


# --- broken transfers


def break_off(node, how):
    """Send the beginning of an object, then leave in some way."""
    with associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03))
        connection.sendall(p_data(bytes(50_000), header=0x00))
        wait_until(lambda: node.files("incoming"))
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "abort":
            connection.sendall(struct.pack(">BxLxxBB", 0x07, 4, 0, 0))
        elif how == "release":
            connection.sendall(struct.pack(">BxLL", 0x05, 4, 0))
        elif how == "junk":
            connection.sendall(b"\xff" * 64)
        elif how == "wrong context":
            connection.sendall(p_data(store_command(), header=0x03, context=99))


def test_a_command_that_never_ends_after_its_last_fragment_is_no_command(node):
    """The data set is on its way already; more of the command would be kept in memory."""
    with associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03))
        with contextlib.suppress(OSError):
            for _ in range(20):
                connection.sendall(p_data(bytes(16_000), header=0x01))
                time.sleep(0.02)
        assert closed_after(connection, 5) < 1, "at once, and not by a time-out"
    still_serves(node)


def test_a_peer_that_waits_for_no_answer_is_stopped(tmp_path):
    """Each object on its way holds a file open."""
    with running(tmp_path, ledger=None, **FAST) as node, associated(node) as connection:
        body = receiving.data_set_bytes(radiograph(50), ExplicitVRLittleEndian)
        with contextlib.suppress(OSError):
            for _ in range(400):
                connection.sendall(p_data(store_command(), header=0x03) + p_data(body, header=0x02))
        assert len(node.files("incoming")) <= MOST_UNANSWERED
        closed_after(connection, 10)
        still_serves(node)


@pytest.mark.parametrize("how", ["close", "reset", "abort", "release", "junk", "wrong context"])
def test_a_transfer_that_breaks_off_leaves_nothing_behind(node, how):
    break_off(node, how)
    wait_until(lambda: not node.listener._receptions)
    assert node.files("incoming") == node.files("instances") == []
    assert node.ledger.assembly_snapshot() == []
    still_serves(node)


def test_a_connection_is_closed_by_the_node_after_an_abort_too(node):
    """pynetdicom forgets to where the peer resets it at the same time; found by fuzzing, as a socket left open."""
    with associated(node):
        ((acceptor, reception),) = node.listener._receptions.items()
        closed, close = threading.Event(), reception.close
        reception.close = lambda: (close(), closed.set())
        node.listener._end(acceptor)  # what EVT_ABORTED does
        acceptor.kill()
        assert closed.wait(10)
    wait_until(lambda: not node.listener._forgotten)


def test_objects_that_arrive_while_the_peer_leaves_are_kept_or_gone_but_never_half(node):
    """The handler may be at work when the connection goes: what it claimed is its own, the rest is removed."""
    body = receiving.data_set_bytes(radiograph(50, size=MB), ExplicitVRLittleEndian)
    for _ in range(5):
        with associated(node) as connection:
            connection.sendall(p_data(store_command(), header=0x03))
            for start in range(0, len(body), 100_000):
                piece = body[start : start + 100_000]
                connection.sendall(p_data(piece, header=0x02 if start + 100_000 >= len(body) else 0x00))
    wait_until(lambda: not node.listener._receptions)
    wait_until(lambda: not node.files("incoming"))
    wait_until(lambda: len(node.files("instances")) == len(node.ledger.assembly_snapshot()))
    files = node.files("instances")
    assert len(files) <= 1
    assert all(path.read_bytes().endswith(body) for path in files)


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100]
)
def test_other_protocols_are_turned_away(node, junk):
    with raw(node) as connection:
        connection.sendall(junk)
        assert closed_after(connection, 5) < 3
    still_serves(node)


def test_an_abort_of_a_connection_that_closes_already_is_nothing_to_die_of(node):
    with associated(node):
        ((acceptor, _),) = node.listener._receptions.items()
        machine = acceptor.dul.state_machine
        machine.current_state = "Sta13"
        for late in ("Evt7", "Evt8", "Evt9", "Evt14", "Evt15"):
            machine.do_action(late)
        with pytest.raises(InvalidEventError):
            machine.do_action("Evt1")
    still_serves(node)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_context_identifier_that_is_none_ends_the_connection_and_no_thread(node):
    """Found by fuzzing: an even one in an A-ASSOCIATE-RQ (PS3.8 9.3.2.2)."""
    message = bytearray(associate_request(node.entity()))
    place = message.index(b"\x20\x00", 74) + 4
    assert message[place] == 1
    message[place] = 2
    with raw(node) as connection:
        connection.sendall(message)
        assert closed_after(connection, 5) < 3
    wait_until(lambda: not node.listener._receptions, seconds=3)
    still_serves(node)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("source", [0, 1, 2, 27])
def test_an_abort_of_any_source_and_reason_is_an_abort(node, source):
    """Found by fuzzing: pynetdicom's thread died of a source that PS3.8 9.3.8 does not define."""
    with associated(node) as connection:
        connection.sendall(struct.pack(">BxLxxBB", 0x07, 4, source, 200))
        assert closed_after(connection, 5) < 1, "at once, and not by a time-out"
    wait_until(lambda: not node.listener._receptions, seconds=2)
    still_serves(node)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300), st.booleans(), st.sampled_from([0x00, 0x01, 0x02, 0x03]))
def test_any_bytes_end_an_association_and_nothing_else(node, junk, framed, header):
    with associated(node) as connection:
        connection.sendall(p_data(junk, header) if framed else junk)
    wait_until(lambda: not node.listener._receptions)
    still_serves(node)
