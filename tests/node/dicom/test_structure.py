"""Data sets that are too much to read are refused by their structure; all others pass, however they are encoded."""

import io
import struct
import time
import tracemalloc

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

from dicom_node.dicom import reading, structure
from dicom_node.dicom.structure import check_structure
from dicom_node.errors import DatasetUnreadable

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
    with reading.data_set_of(path, 1 << 20) as (data, syntax):
        return bytes(data), syntax


def test_a_million_elements_cost_neither_memory_nor_minutes(tmp_path):
    """Eleven megabytes of empty items: refused, and nothing was made of any of them."""
    ds = film(ExplicitVRLittleEndian)
    del ds.PixelData
    buffer = io.BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, ds.file_meta)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * (structure.MOST_ELEMENTS + 1)
    buffer.write(struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, len(items)) + items)
    path = tmp_path / "x.dcm"
    path.write_bytes(buffer.getvalue())
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
