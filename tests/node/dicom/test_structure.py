"""Data sets that are too much to read are refused by their structure; all others pass, however they are encoded."""

import io
import struct
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmwrite
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from radiographs import PYDICOM_DATA, real, shared, shared_case, synthetic
from working import forbidden

from dicom_node.clock import utc_now
from dicom_node.dicom import reading, structure
from dicom_node.dicom.identity import same_object
from dicom_node.dicom.structure import check_structure
from dicom_node.errors import DatasetUnreadable, OutOfResources
from dicom_node.offline.files import instance_of

SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip


def film(syntax, **changes):
    ds = synthetic(**changes)
    if syntax == ExplicitVRBigEndian:
        del ds.PixelData
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def nested(depth, tag=0x00081115, *, undefined):
    ds = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.add_new(tag, "SQ", [ds])
        outer[tag].is_undefined_length = undefined
        ds.is_undefined_length_sequence_item = undefined
        ds = outer
    return ds


def written(ds, path):
    dcmwrite(path, ds, enforce_file_format=True)
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("tag", [0x00081115, 0x00191001])
def test_so_many_sequences_inside_each_other_and_no_more(syntax, undefined, tag, tmp_path):
    most = structure.MOST_NESTED
    for depth, refused in ((most, False), (most + 1, True)):
        ds = film(syntax)
        if tag == 0x00191001:
            ds.add_new(0x00190010, "LO", "MAKER")
        ds.update(nested(depth, tag, undefined=undefined))
        path = written(ds, tmp_path / f"{depth}.dcm")
        if refused:
            with pytest.raises(DatasetUnreadable, match="more than 64 sequences inside each other"):
                check_structure(path)
        else:
            check_structure(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_so_many_elements_and_no_more(syntax, tmp_path, monkeypatch):
    ds = film(syntax)
    ds.ReferencedStudySequence = [Dataset() for _ in range(40)]
    for item in ds.ReferencedStudySequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2", "1.2.3"
    path = written(ds, tmp_path / "x.dcm")
    pixels = [tag for tag in ds.keys() if tag >= 0x7FE00000]  # noqa: SIM118 - the elements stay undecoded
    count = len(ds) - len(pixels) + 40 * 3
    monkeypatch.setattr(structure, "MOST_ELEMENTS", count + 40 + 1)  # delimiters of items or of the sequence
    check_structure(path)
    monkeypatch.setattr(structure, "MOST_ELEMENTS", count - 1)
    with pytest.raises(DatasetUnreadable, match=f"more than {count - 1} elements"):
        check_structure(path)


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
@pytest.mark.parametrize(
    ("tag", "vr", "refused"),
    [(0x00191001, "OB", True), (0x00204000, "UT", True), (0x00420011, "OB", False), (0x54001010, "OW", False)],
)
def test_one_element_of_so_many_bytes(syntax, tag, vr, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "MOST_BYTES", 10_000)
    ds = film(syntax)
    ds.add_new(0x00190010, "LO", "MAKER")
    ds.add_new(tag, vr, "x" * 20_000 if vr == "UT" else b"\0" * 20_000)
    path = written(ds, tmp_path / "x.dcm")
    if refused:
        with pytest.raises(DatasetUnreadable, match="an element of 0 MB that is no bulk data"):
            check_structure(path)
    else:
        check_structure(path)


@pytest.mark.parametrize("name", PYDICOM_DATA)
def test_real_radiographs_pass(name):
    check_structure(real(name))


def test_every_shared_file_passes():
    for path in sorted(shared("manifest.csv").parent.glob("*/*.dcm")):
        check_structure(path)


def test_an_icon_in_fragments_is_passed_over(tmp_path):
    """Encapsulated pixels inside a sequence: their bytes are no elements."""
    ds = film(ExplicitVRLittleEndian)
    ds.compress(RLELossless)
    icon = Dataset()
    icon.add_new(0x7FE00010, "OB", ds.PixelData)
    icon["PixelData"].is_undefined_length = True
    ds.IconImageSequence = [icon]
    ds.ContributingEquipmentSequence = [Dataset()]
    path = written(ds, tmp_path / "x.dcm")
    check_structure(path)
    seen = list(structure._Look(*_data_set(path))._heads())
    assert len(seen) < 60


def _data_set(path):
    with structure.data_set_of(path, 1 << 20) as (data, syntax):
        return bytes(data), syntax


def empty_items(path, count):
    ds = film(ExplicitVRLittleEndian)
    del ds.PixelData
    buffer = io.BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, ds.file_meta)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    buffer.write(struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, len(items)) + items)
    path.write_bytes(buffer.getvalue())
    return path


def test_a_million_elements_cost_neither_memory_nor_minutes(tmp_path, monkeypatch):
    """Eight megabytes of empty items: refused, and nothing was made of any of them; memory is counted over a tenth."""
    with pytest.raises(DatasetUnreadable, match="elements"):
        check_structure(empty_items(tmp_path / "x.dcm", structure.MOST_ELEMENTS + 1))
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 100_000)
    path = empty_items(tmp_path / "y.dcm", 100_001)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetUnreadable, match="elements"):
            check_structure(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=300)
@given(rest=st.binary(max_size=200), syntax=st.sampled_from((*SYNTAXES[:3], JPEG2000Lossless)))
def test_any_bytes_end_the_look(rest, syntax, tmp_path_factory):
    ds = film(ExplicitVRLittleEndian)
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, ds.file_meta)
    path = tmp_path_factory.getbasetemp() / "any.dcm"
    path.write_bytes(buffer.getvalue() + rest)
    began = time.monotonic()
    check_structure(path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM"])
def test_no_data_set(content, tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(DatasetUnreadable):
        check_structure(path)


def _many(count):
    """A sequence of so many empty items, in bytes of Explicit VR Little Endian."""
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    return struct.pack("<HH2sHL", 0x7FE1, 0x1010, b"SQ", 0, len(items)) + items


def _file(path, body, syntax):
    ds = film(ExplicitVRLittleEndian)
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, ds.file_meta)
    path.write_bytes(buffer.getvalue() + body)
    return path


@pytest.mark.parametrize("before", ["", "pixels"])
def test_what_comes_after_the_pixels_counts_too(before, tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 1000)
    head = struct.pack("<HH2sH4s", 0x0008, 0x0060, b"CS", 2, b"CR")[:10]
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 8) + bytes(8) if before else b""
    with pytest.raises(DatasetUnreadable, match="more than 1000 elements"):
        check_structure(_file(tmp_path / "x.dcm", head + pixels + _many(1001), ExplicitVRLittleEndian))


@pytest.mark.parametrize("named", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_encoding_that_is_not_the_one_named_is_looked_at_as_it_is(named, tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 1000)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1001
    implicit = struct.pack("<HHL2s", 0x0008, 0x0060, 2, b"CR") + struct.pack("<HHL", 0x0008, 0x1115, len(items)) + items
    explicit = struct.pack("<HH2sH2s", 0x0008, 0x0060, b"CS", 2, b"CR") + _many(1001)
    body = implicit if named == ExplicitVRLittleEndian else explicit
    with pytest.raises(DatasetUnreadable, match="more than 1000 elements"):
        check_structure(_file(tmp_path / "x.dcm", body, named))


def test_a_deflated_data_set_is_looked_at_as_far_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 1000)
    head = struct.pack("<HH2sH2s", 0x0008, 0x0060, b"CS", 2, b"CR")
    bulk = struct.pack("<HH2sHL", 0x0042, 0x0011, b"OB", 0, 9 << 20) + bytes(9 << 20)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(head + bulk + _many(1001)) + packer.flush()
    path = _file(tmp_path / "x.dcm", body, DeflatedExplicitVRLittleEndian)
    check_structure(path)
    with pytest.raises(DatasetUnreadable, match="more than 1000 elements"):
        reading.read(path)


def test_nested_sequences_after_the_pixels_are_a_reason_and_no_traceback(tmp_path):
    ds = film(ExplicitVRLittleEndian)
    ds.add_new(0x7FE10010, "LO", "MAKER")
    path = written(ds, tmp_path / "x.dcm")
    body, depth = b"", 3000
    for _ in range(depth):
        body += struct.pack("<HH2sHL", 0x7FE1, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
            "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
        )
    body += (struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) * depth
    path.write_bytes(path.read_bytes() + body)
    with pytest.raises(DatasetUnreadable, match="more than 64 sequences"):
        check_structure(path)
    with pytest.raises(DatasetUnreadable, match="the file cannot be read as DICOM"):
        reading.read(path)


def test_the_header_of_a_large_element_is_read_without_it(tmp_path):
    ds = film(ExplicitVRLittleEndian)
    ds.add_new(0x00190010, "LO", "MAKER")
    ds.add_new(0x00191001, "OB", b"\1" * (20 << 20))
    path = written(ds, tmp_path / "x.dcm")
    tracemalloc.start()
    try:
        header = reading.read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert header.PatientID == ds.PatientID
    assert len(header[0x00191001].value) == 20 << 20, "it is read where it is asked for"


def test_the_case_of_a_hundred_sequences_is_refused():
    with pytest.raises(DatasetUnreadable, match="more than 64 sequences inside each other"):
        check_structure(shared_case("04_report_without_patient/nested.dcm"))


def test_what_this_host_cannot_read_now_is_no_fault_of_the_file(tmp_path):
    path = tmp_path / "film.dcm"
    dcmwrite(path, synthetic(), enforce_file_format=True)
    looks = (
        reading.read, reading.read_header, reading.start_of_data_set, check_structure,
        lambda one: same_object(one, one), lambda one: reading.inflates_within(one, 1 << 20),
    )  # fmt: skip
    for look in looks:
        with forbidden(path), pytest.raises(OutOfResources, match="cannot be read now: Permission denied"):
            look(path)
        look(path)
    missing = tmp_path / "missing.dcm"
    with pytest.raises(DatasetUnreadable):
        reading.read(missing)
    with pytest.raises(DatasetUnreadable):
        reading.read_header(tmp_path)


def test_a_file_that_may_not_be_read_is_said_to_be_so_by_its_name(tmp_path):
    path = tmp_path / "film.dcm"
    dcmwrite(path, synthetic(), enforce_file_format=True)
    with forbidden(path), pytest.raises(DatasetUnreadable, match=r"film\.dcm: a file cannot be read now: Permission"):
        instance_of(path, "AE", utc_now())
