"""Group 0002 inside a data set: dropped in every encoding and however the bytes are cut, and nothing else is."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from receiving import data_set_bytes, radiograph

from dicom_node.receive.file_meta import FileMetaFilter
from dicom_node.receive.part_file import PartFile
from dicom_node.storage.spool import Spool

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless)


def element(syntax, number, vr, value):
    """An element of group 0002 in the encoding of a transfer syntax."""
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    order = "<" if syntax.is_little_endian else ">"
    tag = struct.pack(f"{order}HH", 2, number)
    if syntax.is_implicit_VR:
        return tag + struct.pack(f"{order}L", len(value)) + value
    if vr == b"OB":
        return tag + vr + b"\0\0" + struct.pack(f"{order}L", len(value)) + value
    return tag + vr + struct.pack(f"{order}H", len(value)) + value


def meta(syntax, said):
    """What some senders write in front: group length, version (OB), SOP Class, and a transfer syntax of their own."""
    parts = [(0x0001, b"OB", b"\0\1"), (0x0002, b"UI", b"1.2.840.10008.5.1.4.1.1.1"), (0x0010, b"UI", said.encode())]
    body = b"".join(element(syntax, *part) for part in parts)
    return element(syntax, 0, b"UL", struct.pack("<L" if syntax.is_little_endian else ">L", len(body))) + body


def cut(data, places):
    ends = [*sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def passed(syntax, parts):
    found = FileMetaFilter(syntax)
    return b"".join(map(found.pass_on, parts)) + found.rest(), found.dropped


@pytest.mark.parametrize("syntax", SYNTAXES)
@given(said=st.sampled_from(["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", ""]), places=st.lists(st.integers(0, 500)))
def test_it_is_dropped_however_the_bytes_are_cut(syntax, said, places):
    body = struct.pack("<HH" if syntax.is_little_endian else ">HH", 8, 5) + bytes(range(60))
    front = meta(syntax, said)
    assert passed(syntax, cut(front + body, places)) == (body, len(front))


@pytest.mark.parametrize("syntax", [*SYNTAXES, DeflatedExplicitVRLittleEndian])
@given(data=st.binary(max_size=40), places=st.lists(st.integers(0, 40)))
def test_nothing_else_is_changed(syntax, data, places):
    found, dropped = passed(syntax, cut(data, places))
    assert data.endswith(found)
    assert len(found) + dropped == len(data)
    if syntax == DeflatedExplicitVRLittleEndian or data[:2] not in (b"\x02\0", b"\0\x02"):
        assert found == data


def test_a_length_beyond_all_measure_is_passed_on_as_it_came():
    data = struct.pack("<HHL", 2, 0x10, 0xFFFFFFFF) + b"x" * 100
    assert passed(ImplicitVRLittleEndian, [data]) == (data, 0)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_stored_file_says_what_was_negotiated_and_is_the_same_object(tmp_path, syntax):
    ds = radiograph(transfer_syntax=syntax)
    body = data_set_bytes(ds, syntax)
    spool = Spool(tmp_path / "spool", 0)
    hashes = []
    for front in (b"", meta(syntax, "1.2.840.10008.1.2.4.90")):
        part = PartFile(spool, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax)
        for piece in cut(front + body, [1, 9, 200]):
            part.write(piece)
        received = part.finish()
        hashes.append((received.sha256, received.size))
        stored = dcmread(received.path)
        assert stored.file_meta.TransferSyntaxUID == syntax
        assert stored.PatientID == "CANARY-ID"
        assert len(stored.PixelData) == len(ds.PixelData)
    assert hashes[0] == hashes[1], "the repetition without it is a duplicate and no conflict"
