"""Compressed images: what they say of themselves, what the header leaves out, and decoders that go astray."""

import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from radiographs import phantom, real, synthetic

from dicom_node.dicom import decoding, pixels, reading
from dicom_node.dicom.codestream import JPEG, JPEG_2000, Codestream, described
from dicom_node.dicom.image_pixel import USUAL
from dicom_node.errors import DatasetUnreadable, StudyUnsuitable
from dicom_node.results.notes import limits_of

COMPRESSED = (JPEG2000Lossless, JPEGLSLossless, RLELossless)


def shown(ds):
    return pixels.radiograph(ds).pixels


def compressed(syntax, **how):
    ds = synthetic(**how)
    ds.compress(syntax, generate_instance_uid=False)
    return ds


def frame_of(ds):
    return next(iter(generate_frames(ds.PixelData, number_of_frames=1)))


def with_frame(ds, frame):
    ds["PixelData"].value = encapsulate([frame])
    return ds


def sized(ds, rows, columns):
    """Another size in the codestream and in the header: a small file that says it is a large image."""
    frame, syntax = bytearray(frame_of(ds)), ds.file_meta.TransferSyntaxUID
    if syntax == JPEG2000Lossless:
        place = frame.index(b"\xff\x4f\xff\x51") + 8
        frame[place : place + 24] = struct.pack(">6L", columns, rows, 0, 0, columns, rows)
    else:
        place = frame.index(b"\xff\xf7") + 5
        frame[place : place + 4] = struct.pack(">2H", rows, columns)
    return with_frame(ds, bytes(frame))


# --- what a codestream says ---


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@settings(deadline=None, max_examples=15)
@given(bits=st.integers(2, 16), signed=st.booleans(), rows=st.integers(64, 90), columns=st.integers(64, 90))
def test_a_codestream_describes_what_was_compressed(syntax, bits, signed, rows, columns):
    low = -(1 << (bits - 1)) if signed else 0
    stored = np.random.default_rng(rows * columns).integers(low, low + (1 << bits), (rows, columns))
    found = described(frame_of(compressed(syntax, stored=stored, bits=bits, signed=signed)), syntax)
    stated = signed if syntax == JPEG2000Lossless else None
    assert found == Codestream(rows=rows, columns=columns, bits=bits, components=1, signed=stated)


def test_rle_says_nothing():
    assert described(frame_of(compressed(RLELossless)), RLELossless) is None


@settings(deadline=None, max_examples=300)
@given(
    syntax=st.sampled_from([JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless]),
    frame=st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=60).map(lambda rest: b"\xff\xd8" + rest),
        st.binary(max_size=60).map(lambda rest: b"\xff\xd8\xff\xc0\x00" + rest),
        st.binary(max_size=60).map(lambda rest: b"\xff\x4f\xff\x51" + rest),
    ),
)
def test_any_bytes_say_something_or_nothing(syntax, frame):
    assert syntax in JPEG | JPEG_2000
    try:
        found = described(frame, syntax)
    except ValueError:
        return
    assert isinstance(found, Codestream)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_another_size_than_the_header_says_is_refused_before_it_is_decoded(syntax):
    ds = sized(compressed(syntax), 50_000, 50_000)
    with pytest.raises(DatasetUnreadable, match="its compressed image is of 50000 x 50000 pixels, not of Rows x Col"):
        shown(ds)


def test_colours_under_a_grey_header_are_refused():
    frame = bytearray(frame_of(compressed(JPEGLSLossless)))
    frame[frame.index(b"\xff\xf7") + 9] = 3
    with pytest.raises(DatasetUnreadable, match="has 3 samples per pixel, not 1"):
        shown(with_frame(compressed(JPEGLSLossless), bytes(frame)))


# --- its sign and depth against those of the header ---


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("header_says", [False, True])
def test_a_codestream_of_another_sign_makes_no_wrapped_picture(bits, signed, header_says):
    """Whichever of the two is wrong, the picture is that of the values that were compressed."""
    half = 1 << (bits - 1)
    stored = np.rint(phantom() * (2 * half - 1)).astype(np.int64) - (half if signed else 0)
    right = compressed(JPEG2000Lossless, stored=stored, bits=bits, signed=signed)
    wrong = compressed(JPEG2000Lossless, stored=stored, bits=bits, signed=signed)
    wrong.PixelRepresentation = int(header_says)
    assert np.corrcoef(shown(right).ravel(), shown(wrong).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_values_in_twos_complement_that_a_codestream_calls_unsigned(bits):
    """As some equipment writes them: here the header is right."""
    half = 1 << (bits - 1)
    stored = np.rint(phantom() * (2 * half - 1)).astype(np.int64) - half
    expected = shown(synthetic(stored, bits=bits, signed=True))
    cells = compressed(JPEG2000Lossless, stored=stored & (2 * half - 1), bits=bits)
    cells.PixelRepresentation = 1
    assert np.abs(shown(cells) - expected).max() <= 1e-6


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_values_beyond_the_bits_that_the_header_says_are_stored_are_refused(syntax):
    ds = compressed(syntax, bits=14)
    ds.BitsStored, ds.HighBit = 12, 11
    with pytest.raises(DatasetUnreadable, match="do not fit into the 12 bits"):
        shown(ds)


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_deeper_codestream_whose_values_fit_is_shown(syntax):
    stored = np.rint(phantom() * 4095).astype(np.int64)
    ds = compressed(syntax, stored=stored, bits=16)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(shown(ds), shown(synthetic(stored, bits=12)))


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_is_decoded(syntax):
    """The codestream of a phantom, made by OpenJPH."""
    stored = np.rint(phantom(160, 144) * 4095).astype(np.int64)
    ds = synthetic(stored, bits=12)
    expected = shown(ds)
    ds.file_meta.TransferSyntaxUID = syntax
    with_frame(ds, Path(__file__).with_name("phantom_htj2k.j2c").read_bytes())
    assert np.array_equal(shown(ds), expected)


# --- what the header leaves out ---


@pytest.mark.parametrize("missing", USUAL)
@pytest.mark.parametrize("syntax", [None, *COMPRESSED])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_missing_element_is_taken_as_usual(missing, syntax, bits):
    ds = synthetic(bits=bits) if syntax is None else compressed(syntax, bits=bits)
    expected = shown(ds)
    del ds[missing]
    if syntax == RLELossless and missing == "BitsAllocated":
        with pytest.raises(DatasetUnreadable, match="Bits Allocated is missing, and its pixel data do not tell it"):
            shown(ds)
        return
    assert np.array_equal(shown(ds), expected)
    assert sum(f": {USUAL[missing]}" in one for one in limits_of(ds)) == 1


def test_nothing_is_said_of_what_is_stated():
    assert not any("the usual was taken" in one for one in limits_of(synthetic()))


def test_all_of_them_missing_is_one_sentence():
    ds = synthetic(bits=16)
    expected = shown(ds)
    for keyword in USUAL:
        del ds[keyword]
    assert np.array_equal(shown(ds), expected)
    assert sum("the usual was taken" in one for one in limits_of(ds)) == 1


def test_a_length_that_allows_two_readings_names_the_element():
    ds = synthetic(bits=8)
    del ds.BitsAllocated
    ds["PixelData"].value = ds.PixelData + b"\0" * 1000
    with pytest.raises(DatasetUnreadable, match="Bits Allocated is missing, and its pixel data do not tell it"):
        shown(ds)
    ds = synthetic(bits=8)
    del ds.SamplesPerPixel
    ds["PixelData"].value = ds.PixelData * 3
    with pytest.raises(DatasetUnreadable, match="Samples per Pixel is missing, and its pixel data are too long for 1"):
        shown(ds)


def test_rows_of_two_values_are_their_first():
    ds = synthetic()
    expected = shown(ds)
    ds.Rows = [ds.Rows, ds.Rows]
    assert np.array_equal(shown(ds), expected)


# --- decoders that go astray ---


def child():
    """The process that decodes for this one; it is started by the first compressed image."""
    shown(compressed(RLELossless))
    (found,) = [one for one in psutil.Process().children() if "dicom_node.dicom.decoding" in " ".join(one.cmdline())]
    return found


def test_one_child_decodes_one_image_after_the_other():
    assert child().pid == child().pid


def test_a_child_that_was_killed_between_two_images_costs_none_of_them():
    before = child()
    before.kill()
    before.wait(10)
    assert child().pid != before.pid


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_small_file_of_a_large_image_is_decoded_within_its_memory_or_refused(syntax, monkeypatch):
    """Of 81 megapixels, in 5 kB; the worker's own process takes none of what the decoder takes."""
    monkeypatch.setattr(decoding, "BYTES_PER_PIXEL", 1)
    monkeypatch.setattr(decoding, "BYTES_BESIDE", 0)
    before = psutil.Process().memory_info().rss
    ds = sized(compressed(syntax), 9000, 9000)
    ds.Rows = ds.Columns = 9000
    with pytest.raises(DatasetUnreadable, match=r"decoded: (it takes more memory|the decoder gave up|damaged)"):
        shown(ds)
    assert psutil.Process().memory_info().rss - before < 100 << 20
    monkeypatch.undo()
    assert shown(compressed(syntax)).shape == (240, 200), "the next image is decoded"


def test_a_decoder_that_takes_too_long_is_killed(monkeypatch):
    before = child()
    monkeypatch.setattr(decoding, "SECONDS", 0.3)
    os.kill(before.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(DatasetUnreadable, match="cannot be decoded: it takes too long"):
        shown(compressed(RLELossless))
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(before.pid)


def test_the_child_ends_with_its_parent():
    program = (
        "from pydicom import dcmread; import os, sys; from dicom_node.dicom import pixels, decoding\n"
        "pixels.radiograph(dcmread(sys.argv[1]));\n"
        "print(decoding._kept[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [os.sys.executable, "-c", program, str(real("RG1_J2KR.dcm"))], capture_output=True, text=True, check=False
    )
    left = int(done.stdout)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_enormous_image_is_still_refused_by_its_header():
    with pytest.raises(StudyUnsuitable, match="more than any radiograph has"):
        shown(synthetic(Rows=60_000, Columns=60_000))


def test_words_of_implicit_files_are_read():
    ds = synthetic()
    expected = shown(ds)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert np.array_equal(shown(ds), expected)
    assert reading.read(real("RG1_UNCR.dcm")).Rows > 0
