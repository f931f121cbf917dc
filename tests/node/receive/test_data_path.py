"""Data of an object go straight into its file; whatever else a PDU holds goes the usual way."""

import contextlib
import itertools
import struct
import threading
import time

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from receiving import MB, data_set_bytes, radiograph, running, wait_until
from rude_peers import associated, closed_after, p_data, still_serves, store_command

from dicom_node.receive.data_path import data_of
from dicom_node.receive.part_file import PartFile
from dicom_node.receive.wire import P_DATA_TF

SLOW = {"acse_timeout": 20, "network_timeout": 20, "association_deadline": 20}
"""So that nothing below is right because a time-out came."""


@pytest.fixture
def node(tmp_path):
    with running(tmp_path, **SLOW) as started:
        yield started


def item(payload, header=0x00, context=1, length=None):
    """A presentation data value item (PS3.8 9.3.5.1)."""
    return struct.pack(">LBB", len(payload) + 2 if length is None else length, context, header) + payload


def pdu(*items):
    body = b"".join(items)
    return struct.pack(">BxL", 0x04, len(body)) + body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (item(b"abc"), [b"abc"]),
        (item(b"abc") + item(b"") + item(b"d"), [b"abc", b"", b"d"]),
        (item(b"abc", header=0xFC), [b"abc"]),  # the other bits are not looked at (PS3.8 E.2)
        (b"", None),
        (item(b"abc", header=0x01), None),
        (item(b"abc", header=0x02), None),
        (item(b"abc") + item(b"d", header=0x02), None),
        (item(b"abc", context=3), None),
        (item(b"abc", length=6), None),
        (item(b"abc", length=4), None),
        (item(b"abc", length=1), None),
        (item(b"abc", length=0), None),
        (item(b"abc", length=0xFFFFFFFF), None),
        (item(b"abc") + b"\0\0\0\2\1", None),
    ],
)
def test_only_fragments_of_one_data_set_that_goes_on_are_data(body, found):
    assert data_of(memoryview(body), 1) == found


@pytest.mark.parametrize("max_pdu", [4096, 131072])
def test_an_object_is_stored_as_sent_and_pynetdicom_sees_its_first_and_last_pdu_alone(tmp_path, monkeypatch, max_pdu):
    seen, decode = [], DULServiceProvider._decode_pdu

    def counted(self, data):
        if self.assoc.is_acceptor and data[0] == P_DATA_TF:
            seen.append(len(data))
        return decode(self, data)

    monkeypatch.setattr(DULServiceProvider, "_decode_pdu", counted)
    ds = radiograph(1, size=MB)
    with running(tmp_path, max_pdu=max_pdu, **SLOW) as node:
        assert [answer.Status for answer in node.store(ds)] == [0x0000]
        (path,) = node.files("instances")
        assert path.read_bytes().endswith(data_set_bytes(ds, ExplicitVRLittleEndian))
    assert 2 <= len(seen) <= 3


def test_items_of_any_size_in_pdus_of_any_number_make_the_same_object(node):
    body = data_set_bytes(radiograph(50, size=4096), ExplicitVRLittleEndian)
    cuts = [0, 1, 1, 7, 500, 501, 2000, len(body) - 1, len(body)]
    items = [item(body[a:b]) for a, b in itertools.pairwise(cuts)]
    with associated(node) as connection:
        connection.sendall(pdu(item(store_command(), header=0x03), items[0]))
        connection.sendall(pdu(items[1]) + pdu(*items[2:5]) + pdu(items[5]))
        connection.sendall(pdu(items[6], item(b"", header=0x00), item(body[-1:], header=0x02)))
        answer = connection.recv(4096)
    assert answer.split(b"\0\0\0\x09\2\0\0\0", 1)[1][:2] == b"\0\0"
    (path,) = node.files("instances")
    assert path.read_bytes().endswith(body)


@pytest.mark.parametrize(
    "bad",
    [
        pdu(item(b"abc", length=40)),
        pdu(item(b"abc", length=0)),
        struct.pack(">BxL", 0x04, 0x00FFFFFF) + b"abc",
        b"\x09" + bytes(5),
    ],
    ids=["item longer than its PDU", "item too short", "PDU too long", "no PDU"],
)
def test_what_breaks_a_rule_in_the_midst_of_an_object_ends_the_association(node, bad):
    with associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03) + pdu(item(bytes(1000))) * 3 + bad)
        assert closed_after(connection, 15) < 10
    wait_until(lambda: not node.listener._receptions)
    assert node.files("incoming") == node.files("instances") == []
    still_serves(node)


def test_a_peer_that_closes_within_a_pdu_leaves_nothing(node):
    with associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03) + pdu(item(bytes(1000))) + pdu(item(bytes(1000)))[:500])
        wait_until(lambda: node.files("incoming"))
    wait_until(lambda: not node.listener._receptions, 5)
    assert node.files("incoming") == node.files("instances") == []


def test_what_the_node_has_to_say_does_not_wait_for_an_object_that_never_ends(tmp_path, monkeypatch):
    """As a report of Storage Commitment, or an abort."""
    written, write = [], PartFile.write

    def slowly(self, buffer):
        written.append(len(buffer))
        time.sleep(0.002)
        return write(self, buffer)

    def send_for_ever(connection):
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(pdu(item(bytes(1000))))

    monkeypatch.setattr(PartFile, "write", slowly)
    said = P_DATA()
    said.presentation_data_value_list = [[1, b"\x03said"]]
    with running(tmp_path, **SLOW | {"acse_timeout": 1}) as node, associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03))
        sending = threading.Thread(target=send_for_ever, args=(connection,))
        sending.start()
        wait_until(lambda: len(written) > 20)
        ((acceptor, _),) = node.listener._receptions.items()
        acceptor.dul.send_pdu(said)
        connection.settimeout(10)
        assert connection.recv(1) == b"\x04"
        node.listener.stop(grace=0)
        sending.join()
        assert node.files("incoming") == []
