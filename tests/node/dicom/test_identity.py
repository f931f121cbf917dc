"""The same object in another encoding is the same object; another object is another."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from radiographs import phantom, synthetic

from dicom_node.dicom import identity
from dicom_node.dicom.identity import same_object


def film(**changes):
    """A radiograph with a sequence, private elements, an unknown one, numbers of every VR, and a name."""
    ds = synthetic(bits=12, SpecificCharacterSet="ISO_IR 100", PatientName="Muñoz^Jörg", **changes)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "816094009", "SCT", "Chest"
    ds.AnatomicRegionSequence = [item]
    ds.ExposureTime, ds.WindowCenter, ds.WindowWidth, ds.RecommendedDisplayFrameRate = "12", "1000", "2000", None
    ds.add_new(0x00089459, "FL", 1.5)
    ds.add_new(0x00189073, "FD", 2.25)
    ds.add_new(0x00186020, "SL", -7)
    block = ds.private_block(0x0019, "MAKER", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "DS", "1.50")
    ds.add_new(0x00080000, "UL", 1000)
    ds.add_new(0x00280120, "US", 8192)
    inner = Dataset()
    inner.PatientComments = "of a private sequence"
    ds.add_new(0x00191003, "SQ", [inner])
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.add_new(0x7FE00010, "OB", b"\1\2\3\4")
    ds.IconImageSequence = [icon]
    return ds


def _as(syntax):
    def change(ds):
        ds.file_meta.TransferSyntaxUID = syntax

    return change


def _compressed(syntax):
    return lambda ds: ds.compress(syntax, generate_instance_uid=False)


def _big_endian(ds):
    ds["PixelData"].value = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def _in_fragments(ds):
    """One frame in several items, as some senders cut them, without an offset table."""
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = next(iter(generate_frames(ds.PixelData, number_of_frames=1)))
    ds["PixelData"].value = encapsulate([frame], fragments_per_frame=4, has_bot=False)


def _in_unicode(ds):
    name = str(ds.PatientName)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = name


def _without_group_length(ds):
    del ds[0x00080000]


def _with_trailing_padding(ds):
    ds.add_new(0xFFFCFFFC, "OB", b"\0" * 64)


ENCODINGS = {
    "as it is": _as(ExplicitVRLittleEndian),
    "implicit": _as(ImplicitVRLittleEndian),
    "deflated": _as(DeflatedExplicitVRLittleEndian),
    "big endian": _big_endian,
    "JPEG 2000": _compressed(JPEG2000Lossless),
    "JPEG-LS": _compressed(JPEGLSLossless),
    "RLE": _compressed(RLELossless),
    "in fragments": _in_fragments,
    "in Unicode": _in_unicode,
    "without group length": _without_group_length,
    "with trailing padding": _with_trailing_padding,
}


def _lossy(ds):
    buffer = io.BytesIO()
    Image.fromarray((ds.pixel_array >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=60)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds["PixelData"].value, ds["PixelData"].VR = encapsulate([buffer.getvalue()]), "OB"


def _near_lossless(ds):
    ds.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)


def _one_pixel(ds):
    ds["PixelData"].value = ds.PixelData[:-2] + b"\1\1"


def _one_pixel_compressed(ds):
    _one_pixel(ds)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)


def _in_the_sequence(ds):
    ds.AnatomicRegionSequence[0].CodeMeaning = "Thorax"


def _other_character_set(ds):
    """The same bytes, which now mean another name."""
    raw = str(ds.PatientName).encode("latin-1")
    ds.SpecificCharacterSet = "ISO_IR 101"
    ds["PatientName"].value = raw.decode("iso8859-2")


def _padding_value(ds):
    """Numbers whose bytes end in what pads text: 0, 32 and 8192 are not the same."""
    ds.add_new(0x00280120, "US", 32)


OTHERS = {
    "another padding value": _padding_value,
    "another patient": lambda ds: setattr(ds, "PatientID", "ELSE"),
    "another icon": lambda ds: setattr(ds.IconImageSequence[0], "PixelData", b"\4\3\2\1"),
    "another value in a private sequence": lambda ds: setattr(ds[0x00191003][0], "PatientComments", "else"),
    "another private value": lambda ds: setattr(ds[0x00191001], "value", "other"),
    "one element less": lambda ds: ds.__delitem__("AccessionNumber"),
    "one element more": lambda ds: setattr(ds, "StationName", "S"),
    "one item more": lambda ds: ds.AnatomicRegionSequence.append(Dataset()),
    "another value in an item": _in_the_sequence,
    "another number": lambda ds: setattr(ds[0x00189073], "value", 2.5),
    "the bytes of a name in another character set": _other_character_set,
    "one pixel": _one_pixel,
    "one pixel, compressed": _one_pixel_compressed,
    "lossy": _lossy,
    "near lossless": _near_lossless,
    "without pixels": lambda ds: ds.__delitem__("PixelData"),
}


def written(ds, path):
    dcmwrite(path, ds, enforce_file_format=True)
    return path


@pytest.fixture
def first(tmp_path):
    return written(film(), tmp_path / "first.dcm")


@pytest.mark.parametrize("how", ENCODINGS)
def test_another_encoding_is_the_same_object(how, first, tmp_path):
    ds = film()
    ENCODINGS[how](ds)
    other = written(ds, tmp_path / "other.dcm")
    assert same_object(first, other)
    assert same_object(other, first)


@pytest.mark.parametrize("one", ["implicit", "big endian", "JPEG-LS", "in Unicode"])
@pytest.mark.parametrize("how", OTHERS)
def test_another_content_is_another_object(one, how, tmp_path):
    ds, changed = film(), film()
    ENCODINGS[one](ds)
    OTHERS[how](changed)
    paths = written(ds, tmp_path / "one.dcm"), written(changed, tmp_path / "other.dcm")
    assert not same_object(*paths)
    assert not same_object(*reversed(paths))


def test_an_odd_image_is_the_same_with_and_without_its_padding(tmp_path):
    stored = np.rint(phantom(141, 133) * 255).astype(np.int64)
    one, other = (synthetic(stored, bits=8) for _ in range(2))
    other.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    other["PixelData"].value = other.PixelData[:-1] + b"\xff"
    assert same_object(written(one, tmp_path / "1.dcm"), written(other, tmp_path / "2.dcm"))


def test_what_is_too_large_or_cannot_be_read_is_not_compared(first, tmp_path, monkeypatch):
    other = written(film(), tmp_path / "other.dcm")
    assert same_object(first, other)
    assert not same_object(first, tmp_path / "none.dcm")
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"not DICOM")
    assert not same_object(first, broken)
    assert dcmread(other).PatientID
    monkeypatch.setattr(identity, "MOST_BYTES", 1000)
    assert not same_object(first, other)


def test_what_is_too_many_pixels_to_decode_beside_others_is_not_compared(tmp_path, monkeypatch):
    one, other = film(), film()
    other.compress(JPEG2000Lossless, generate_instance_uid=False)
    paths = written(one, tmp_path / "1.dcm"), written(other, tmp_path / "2.dcm")
    assert same_object(*paths)
    monkeypatch.setattr(identity, "MOST_PIXELS", 1000)
    assert not same_object(*paths)
