"""A-ASSOCIATE-RQs as odd peers send them: served, or rejected with a reason, and never aborted for a trifle."""

import struct
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)
from pynetdicom.pdu import A_ASSOCIATE_RQ
from receiving import CR, radiograph, running
from rude_peers import associate_request, raw

from dicom_node.receive.association_request import legible, tidied

ACCEPTED, REJECTED = 0x02, 0x03
UNKNOWN_CALLING, UNKNOWN_CALLED = b"\x01\x01\x03", b"\x01\x01\x07"
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running(tmp_path_factory.mktemp("node")) as node:
        yield node


def titled(request, called, calling):
    return request[:10] + called + calling + request[42:]


def with_user_items(request, change):
    """The request with the user information's items changed; lengths are made to fit."""
    place = 74
    while request[place] != 0x50:
        place += 4 + struct.unpack_from(">H", request, place + 2)[0]
    length = struct.unpack_from(">H", request, place + 2)[0]
    user = change(request[place + 4 : place + 4 + length])
    body = request[6:place] + struct.pack(">BxH", 0x50, len(user)) + user
    return struct.pack(">BxL", 1, len(body)) + body


@contextmanager
def answered(node, request):
    with raw(node) as connection:
        connection.sendall(request)
        head = connection.recv(6)
        kind, length = struct.unpack(">BxL", head)
        body = b""
        while len(body) < length:
            body += connection.recv(length - len(body))
        yield kind, body


@pytest.mark.parametrize(
    ("called", "calling", "kind", "reason"),
    [
        (b"EXPLAIN".ljust(16, b"\0"), b"MODALITY".ljust(16), ACCEPTED, b""),
        (b"EXPLAIN".ljust(16), b"MODALITY".ljust(16, b"\0"), ACCEPTED, b""),
        (b"  EXPLAIN".ljust(16), b"MODALITY \0".ljust(16, b"\0"), ACCEPTED, b""),
        (b"EXPLAIN".ljust(16), "MÜLLER".encode("latin-1").ljust(16), REJECTED, UNKNOWN_CALLING),
        (b"EXPLAIN".ljust(16), b" " * 16, REJECTED, UNKNOWN_CALLING),
        (b"EXPLAIN".ljust(16), b"\0" * 16, REJECTED, UNKNOWN_CALLING),
        (b"\xff" * 16, b"MODALITY".ljust(16), REJECTED, UNKNOWN_CALLED),
    ],
)
def test_titles_are_compared_without_their_padding_and_strangers_told_why(node, called, calling, kind, reason):
    with answered(node, titled(associate_request(node.entity()), called, calling)) as (found, body):
        assert found == kind
        assert body[1:4] == reason or kind == ACCEPTED


@pytest.mark.parametrize(
    "change",
    [
        lambda user: user + struct.pack(">BxH", 0x5F, 8) + b"whatever",
        lambda user: struct.pack(">BxH", 0x99, 3) + b"odd" + user,
        lambda user: b"".join(part for kind, part in _split(user) if kind != 0x51),
    ],
    ids=["unknown item", "unknown item first", "no maximum length"],
)
def test_user_information_of_any_kind_is_served_to_the_end(node, change):
    request = with_user_items(associate_request(node.entity()), change)
    with raw(node) as connection:
        connection.sendall(request)
        kind, length = struct.unpack(">BxL", connection.recv(6))
        assert kind == ACCEPTED
        while length:
            length -= len(connection.recv(length))
        echo = struct.pack("<HHLLHHL", 0, 0, 4, 56, 0, 2, 18) + b"1.2.840.10008.1.1\0"
        echo += struct.pack("<HHLH", 0, 0x100, 2, 0x30) + struct.pack("<HHLH", 0, 0x110, 2, 1)
        echo += struct.pack("<HHLH", 0, 0x800, 2, 0x101)
        value = struct.pack(">LBB", len(echo) + 2, 1, 3) + echo
        connection.sendall(struct.pack(">BxL", 4, len(value)) + value)
        assert struct.unpack(">BxL", connection.recv(6))[0] == 0x04, "answered, where it was aborted"


def _split(user):
    place = 0
    while place < len(user):
        kind, length = struct.unpack_from(">BxH", user, place)
        yield kind, user[place : place + 4 + length]
        place += 4 + length


@pytest.mark.parametrize(
    ("proposed", "taken"),
    [
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless], JPEG2000Lossless),
        ([ExplicitVRLittleEndian, JPEGLosslessSV1], JPEGLosslessSV1),
        ([ExplicitVRLittleEndian, JPEGBaseline8Bit], ExplicitVRLittleEndian),
        ([JPEGBaseline8Bit], JPEGBaseline8Bit),
    ],
)
def test_of_several_transfer_syntaxes_one_that_spares_a_transcoding_and_loses_nothing_is_taken(node, proposed, taken):
    with node.associated(contexts=[(CR, proposed)]) as association:
        assert [context.transfer_syntax for context in association.accepted_contexts] == [[taken]]


def test_a_good_request_stays_as_it_is(node):
    request = associate_request(node.entity())
    assert tidied(request) == request
    assert radiograph().SOPClassUID == CR


@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_there_is_an_answer_and_other_pdus_are_left_alone(data, begun):
    pdu = (b"\x01\0" + data) if begun else data
    found = tidied(pdu)
    if not pdu.startswith(b"\x01") or len(pdu) < 74:
        assert found == pdu
    else:
        assert found[42:74] == pdu[42:74]
        assert all(0x20 <= byte < 0x7F for byte in found[10:42])


@given(st.integers(0, 255).filter(lambda kind: not 0x51 <= kind <= 0x59), st.binary(max_size=40))
def test_unknown_items_leave_a_request_that_pynetdicom_reads_like_the_plain_one(kind, value):
    body = struct.pack(">HH", 1, 0) + b"EXPLAIN".ljust(16) + b"MODALITY".ljust(16) + bytes(32)
    name = b"1.2.840.10008.3.1.1.1"
    body += struct.pack(">BxH", 0x10, len(name)) + name
    user = struct.pack(">BxHL", 0x51, 4, 16382)
    plain, odd = ((1, user), (1, user + struct.pack(">BxH", kind, len(value)) + value))
    decoded = []
    for _, information in (plain, odd):
        items = body + struct.pack(">BxH", 0x50, len(information)) + information
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(tidied(struct.pack(">BxL", 1, len(items)) + items))
        decoded.append(pdu.encode())
    assert decoded[0] == decoded[1]


TITLES = {
    "MODALITY": "MODALITY",
    " A B ": "A B",
    "A\nfake line": "A?fake line",
    "\x1b[2JM\xdc": "?[2JM?",
    None: "",
    "X" * 40: "X" * 16,
}


@pytest.mark.parametrize("title", TITLES)
def test_a_title_in_a_log_is_one_shortlegible_word(title):
    assert legible(title) == TITLES[title]
