"""Stored values to luminance, and what is refused with which words."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from radiographs import ACCEPTED, PYDICOM_DATA, encode, phantom, real, reread, shared, synthetic

from dicom_node.dicom import pixels, reading
from dicom_node.errors import DatasetUnreadable, StudyUnsuitable
from dicom_node.results.notes import limits_of

REFUSED = {
    "nema_wg04/RG2_JPLY.dcm": "Body Part Examined is 'HIP': not the chest",
    "nema_wg04/RG3_J2KI.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_J2KR.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_JLSL.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_JLSN.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_JPLL.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_JPLY.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nema_wg04/RG3_RLE.dcm": "Body Part Examined is 'EXTREMITY': not the chest",
    "nih_google_udacity/test4.dcm": "Body Part Examined is 'RIBCAGE': not the chest",
    "nih_google_udacity/test5.dcm": "modality CT is not a plain radiograph",
    "highdicom/dx_image_dog.dcm": "its Acquisition Device Processing Description says LATERAL: not a frontal view",
    "nih_google_udacity/test6.dcm": "patient position XX is no defined term",
}


def shown(ds):
    return pixels.radiograph(ds).pixels


def close(image, expected, tolerance=1e-5):
    """Whether two images agree at every pixel."""
    return float(np.abs(image - expected).max()) <= tolerance


def levels(count=4096, rows=130):
    """Every value from 0 to count - 1: in each row, or, if these are few, one after the other."""
    return (
        np.arange(count).reshape(1, -1).repeat(rows, axis=0)
        if count > 128
        else (np.arange(rows * 160).reshape(rows, 160) % count)
    )


# --- real files ---


@pytest.mark.parametrize("name", [*ACCEPTED, *PYDICOM_DATA])
def test_real_chest_radiograph_is_read(name):
    ds = reading.read(real(name))
    image = pixels.radiograph(ds)
    assert image.pixels.shape == (ds.Rows, ds.Columns)
    assert image.pixels.dtype == np.float32
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1
    assert image.pixels.std() > 0.1
    assert image.source_id == ds.SOPInstanceUID


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_real_file_of_another_kind_is_refused(name, reason):
    with pytest.raises(StudyUnsuitable, match=reason):
        pixels.radiograph(reading.read(shared(name)))


def test_every_shared_file_is_in_one_of_the_lists():
    files = {str(path.relative_to(path.parents[1])) for path in shared("manifest.csv").parent.glob("*/*.dcm")}
    assert files == {*ACCEPTED, *REFUSED}


def test_transfer_syntaxes_of_one_image_agree():
    raw, reversible = (shown(reading.read(real(name))) for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm"))
    lossy, near = (shown(reading.read(real(name))) for name in ("RG1_UNCI.dcm", "RG1_J2KI.dcm"))
    assert np.array_equal(raw, reversible)
    assert np.array_equal(lossy, near)
    assert np.abs(raw - lossy).max() < 0.1


def test_monochrome1_is_shown_as_monochrome2():
    """Bone is bright: the mediastinum of the real MONOCHROME1 film is brighter than its lungs."""
    image = shown(reading.read(real("RG1_UNCR.dcm")))
    mediastinum, lung = image[900:1300, 820:1000].mean(), image[400:800, 350:550].mean()
    assert mediastinum > lung + 0.1


def test_photometric_interpretation_alone_inverts():
    one, other = (
        shown(reading.read(shared(f"siim_one/siim_{name}.dcm"))) for name in ("cr_jpegbaseline", "fake_mono1")
    )
    assert close(one + other, np.ones(one.shape), 1e-6)


def test_undecodable_12_bit_jpeg_says_so():
    ds = reading.read(shared("nema_wg04/RG3_JPLY.dcm"))
    ds.BodyPartExamined = "CHEST"
    with pytest.raises(DatasetUnreadable, match=r"JPEG Extended.*cannot be decoded"):
        pixels.radiograph(ds)


# --- stored bits ---


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 16), signed=st.booleans(), shift=st.integers(0, 15), garbage=st.integers(0, 65535))
def test_every_bit_depth_sign_and_position_gives_the_same_picture(bits, signed, shift, garbage):
    """The stored bits count, wherever High Bit puts them and whatever else is in the word."""
    shift = min(shift, 16 - bits)
    low = -(1 << (bits - 1)) if signed else 0
    stored = low + levels(1 << bits if bits < 8 else 256) * max(1, (1 << bits) // 256)
    full = (1 << bits) - 1
    ds = synthetic(
        stored,
        bits=bits,
        signed=signed,
        high_bit=bits - 1 + shift,
        garbage=garbage,
        WindowCenter=str(low + full / 2),
        WindowWidth=str(full),
        VOILUTFunction="LINEAR_EXACT",
    )
    assert close(shown(ds), (stored - low) / full, 1e-4)


def test_one_bit_allocated():
    bits = np.indices((128, 144)).sum(axis=0) % 2
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds = synthetic(bits=1, stored=bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds["PixelData"].value = data
    assert np.array_equal(shown(ds), bits)


@pytest.mark.parametrize("high_bit", [3, 16, 99])
def test_impossible_high_bit_is_taken_as_bits_stored_less_one(high_bit):
    good, odd = synthetic(), synthetic(HighBit=high_bit)
    assert np.array_equal(shown(good), shown(odd))


def _rle(ds):
    ds.compress(RLELossless)
    return reread(ds)


def _deflated(ds):
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return reread(ds)


def _big_endian(ds):
    swapped = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds["PixelData"].value = swapped
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return dcmread(io.BytesIO(buffer.getvalue()))


def _jpeg2000(ds):
    ds.compress(JPEG2000Lossless)
    return reread(ds)


@pytest.mark.parametrize("encoded", [_rle, _deflated, _big_endian, _jpeg2000])
@pytest.mark.parametrize("signed", [False, True])
def test_other_encodings_give_the_same_picture(encoded, signed):
    stored = np.rint(phantom() * 4095).astype(int) - (2048 if signed else 0)
    plain, other = (synthetic(stored, signed=signed) for _ in range(2))
    assert np.array_equal(shown(encoded(other)), shown(plain))


# --- modality and VOI ---


def naive(ds):
    """pydicom's own pipeline, scaled to 0..1, where it is right: positive slope, no tables."""
    with np.errstate(over="ignore"):  # of its sigmoid
        values = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    low = intercept - slope * (1 << (ds.BitsStored - 1)) * ds.PixelRepresentation
    return (values - low) / (slope * ((1 << ds.BitsStored) - 1))


@settings(deadline=None, max_examples=60)
@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
    center=st.integers(100, 4000),
    width=st.integers(2, 8000),
    slope=st.sampled_from([None, 0.5, 2.5]),
    signed=st.booleans(),
)
def test_windows_agree_with_pydicom(function, center, width, slope, signed):
    offset = 2048 if signed else 0
    scale = {} if slope is None else {"RescaleSlope": str(slope), "RescaleIntercept": "-10"}
    ds = synthetic(
        levels() - offset,
        signed=signed,
        WindowCenter=str((center - offset) * (slope or 1)),
        WindowWidth=str(width * (slope or 1)),
        VOILUTFunction=function,
        **scale,
    )
    expected = naive(ds)
    if np.ptp(expected) > 0:
        assert close(shown(ds), expected, 2e-3)


@pytest.mark.parametrize(("center", "first_white"), [("100", 100), ("100.5", 101)])
def test_window_of_width_one_is_a_step(center, first_white):
    image = shown(synthetic(levels(), WindowCenter=center, WindowWidth="1"))
    assert image[0, :first_white].max() == 0
    assert image[0, first_white:].min() == 1


def test_negative_slope_turns_the_picture_round():
    straight = synthetic(WindowCenter="2048", WindowWidth="4096", VOILUTFunction="LINEAR_EXACT")
    turned = synthetic(
        WindowCenter="2047",
        WindowWidth="4096",
        VOILUTFunction="LINEAR_EXACT",
        RescaleSlope="-1",
        RescaleIntercept="4095",
    )
    assert close(shown(straight) + shown(turned), np.ones((240, 200)), 1e-5)


@pytest.mark.parametrize(
    ("center", "width"), [("2048", "0"), ("2048", "-5"), ("2048", "0.5"), ("9999999", "10"), ("", "")]
)
def test_unusable_window_is_passed_over(center, width):
    assert np.array_equal(shown(synthetic(WindowCenter=center, WindowWidth=width)), shown(synthetic()))


def test_first_usable_of_several_windows():
    several = synthetic(WindowCenter=["5", "2500", "2048"], WindowWidth=["0", "500", "4096"])
    assert np.array_equal(shown(several), shown(synthetic(WindowCenter="2500", WindowWidth="500")))


def table(first, entries, bits, *, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    packed = np.asarray(entries, "<u2").tobytes() if vr == "OW" else [int(entry) for entry in entries]
    item.add_new("LUTData", vr, packed)
    return [item]


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_voi_lut_of_any_depth_is_applied_to_12_bit_values(bits, vr):
    top = (1 << bits) - 1
    curve = np.rint((np.arange(4096) / 4095) ** 2 * top).astype(int)
    ds = synthetic(levels(), VOILUTSequence=table(0, curve, bits, vr=vr), WindowCenter="1", WindowWidth="2")
    assert close(shown(ds)[0], curve / top, 1e-6), "the table wins over the window"


def test_8_bit_voi_lut_as_bytes():
    item = table(0, [0], 8)[0]
    item.LUTDescriptor = [4096, 0, 8]
    item.add_new("LUTData", "OW", bytes((np.arange(4096) // 16).astype(np.uint8)))
    assert close(shown(synthetic(levels(), VOILUTSequence=[item]))[0], np.arange(4096) // 16 / 255)


def test_voi_lut_ends_hold_beyond_its_range():
    image = shown(synthetic(levels(), VOILUTSequence=table(1000, range(0, 4096, 4), 12)))
    assert np.ptp(image[0, :1001]) == 0
    assert image[0, 1001] > image[0, 1000]
    assert np.ptp(image[0, 2023:]) == 0


def test_voi_lut_with_65536_entries_and_wrong_depth():
    entries = np.minimum(np.arange(65536), 4095)
    image = shown(synthetic(levels(), VOILUTSequence=table(0, entries, 16, vr="OW")))
    assert close(image[0], np.arange(4096) / 4095), "full scale is what the entries reach"


def test_voi_lut_with_a_negative_first_value():
    ds = synthetic(levels() - 2048, signed=True, VOILUTSequence=table(-2048, range(4096), 12))
    assert close(shown(ds)[0], np.arange(4096) / 4095)


def test_modality_lut_of_12_bits_then_window():
    ds = synthetic(
        levels(),
        ModalityLUTSequence=table(0, range(4095, -1, -1), 12),
        WindowCenter="2048",
        WindowWidth="4096",
    )
    assert close(shown(ds)[0], 1 - np.arange(4096) / 4095, 1e-6)


def test_short_table_is_damaged():
    item = table(0, range(100), 12)[0]
    item.LUTDescriptor = [4096, 0, 12]
    with pytest.raises(DatasetUnreadable, match="VOILUTSequence holds 100 of 4096 entries"):
        shown(synthetic(VOILUTSequence=[item]))


def test_presentation_lut_shape_and_monochrome1_invert_once():
    straight = shown(synthetic())
    for changes in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ):
        assert close(shown(synthetic(**changes)), 1 - straight, 1e-6)
    assert np.array_equal(shown(synthetic(PresentationLUTShape="IDENTITY")), straight)


# --- no window, padding ---


def test_without_window_a_marker_does_not_decide_the_contrast():
    plain = np.rint(1000 + 500 * phantom()).astype(int)
    marked = plain.copy()
    marked[:5, :5] = 4095
    assert np.abs(shown(synthetic(marked)) - shown(synthetic(plain)))[10:].max() < 0.02
    assert shown(synthetic(plain)).max() == 1


def test_without_window_eight_bits_are_shown_as_they_are():
    stored = 40 + np.rint(100 * phantom()).astype(int)
    assert close(shown(synthetic(stored, bits=8)), stored / 255, 1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_has_no_part_in_the_contrast(photometric):
    stored = np.rint(1000 + 500 * phantom()).astype(int)
    padded = stored.copy()
    padded[:, :60] = 0
    image = shown(synthetic(padded, PixelPaddingValue=0, PhotometricInterpretation=photometric))
    assert image[:, :60].max() == 0
    whole = shown(synthetic(stored, PhotometricInterpretation=photometric))
    assert close(image[:, 60:], whole[:, 60:], 0.02)


def test_padding_range():
    stored = np.rint(1000 + 500 * phantom()).astype(int)
    stored[:, :60] = np.arange(60)
    image = shown(synthetic(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=59))
    assert image[:, :60].max() == 0
    assert np.ptp(image[:, 60:]) == 1


def test_signed_padding_written_as_unsigned():
    stored = np.rint(500 * phantom()).astype(int)
    stored[:, :60] = -2000
    ds = synthetic(stored, signed=True)
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert shown(reread(ds))[:, 60:].min() < 0.05
    assert np.ptp(shown(ds)[:, 60:]) == 1


@pytest.mark.parametrize("changes", [{}, {"PixelPaddingValue": 7}])
def test_blank_image_is_refused(changes):
    with pytest.raises(StudyUnsuitable, match="it is blank"):
        shown(synthetic(np.full((200, 200), 7), **changes))


# --- geometry of the pixel grid ---


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({"PixelSpacing": ["0.1", "0.2"], "ImagerPixelSpacing": ["0.3", "0.3"]}, (0.1, 0.2)),
        ({"PixelSpacing": ["0.000", "0.000"], "ImagerPixelSpacing": ["0.3", "0.4"]}, (0.3, 0.4)),
        ({"PixelSpacing": None, "NominalScannedPixelSpacing": ["0.5", "0.5"]}, (0.5, 0.5)),
        ({"PixelSpacing": ["-1", "-1"]}, None),
        ({"PixelSpacing": "0.2"}, None),
        ({"PixelSpacing": None}, None),
    ],
)
def test_spacing(changes, spacing):
    assert pixels.radiograph(synthetic(**changes)).spacing == spacing


@pytest.mark.parametrize(("value", "expected"), [(["L", "F"], ("L", "F")), ("", None), ("L", None), (None, None)])
def test_orientation(value, expected):
    assert pixels.radiograph(synthetic(PatientOrientation=value)).orientation == expected


# --- what is refused ---


def _item(value):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
    return [item]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "CT", "SOPClassUID": CTImageStorage}, "modality CT is not a plain radiograph"),
        ({"Modality": None}, "modality unknown is not a plain radiograph"),
        ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, "raw detector image"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector image"),
        ({"NumberOfFrames": "4"}, "it has 4 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, r"colour image \(RGB\)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
        ({"BodyPartExamined": "HAND"}, "Body Part Examined is 'HAND': not the chest"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": _item("85562004")},
            "Anatomic Region is 85562004: not the chest",
        ),
        ({"ViewPosition": "LL"}, "View Position is 'LL': not a frontal view"),
        ({"ViewPosition": None, "ViewCodeSequence": _item("399067008")}, "not a frontal view"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "its rows run front to back: not a frontal view"),
        ({"ViewPosition": "", "PatientPosition": "XX"}, "patient position XX is no defined term"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits per pixel"),
    ],
)
def test_unsuitable(changes, reason):
    with pytest.raises(StudyUnsuitable, match=reason):
        shown(synthetic(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"BodyPartExamined": "Thorax"},
        {"BodyPartExamined": None},
        {"BodyPartExamined": None, "AnatomicRegionSequence": _item("816094009")},
        {"ViewPosition": "ap "},
        {"ViewPosition": None},
        {"ViewPosition": None, "ViewCodeSequence": _item("272479007")},
        {"ViewPosition": None, "PatientPosition": "PA"},
        {"Modality": "DX"},
        {"NumberOfFrames": "1"},
    ],
)
def test_suitable(changes):
    assert shown(synthetic(**changes)).shape == (240, 200)


def test_tiny_image():
    with pytest.raises(StudyUnsuitable, match="64 x 64 pixels are too few"):
        shown(synthetic(np.arange(4096).reshape(64, 64)))


def test_enormous_image_is_refused_before_it_is_decoded():
    with pytest.raises(StudyUnsuitable, match="more than any radiograph has"):
        shown(synthetic(Rows=60000, Columns=60000))
    with pytest.raises(StudyUnsuitable, match="65535 x 128 pixels are more than any radiograph has"):
        shown(synthetic(Rows=128, Columns=65535))


def test_no_pixel_data():
    ds = synthetic()
    del ds.PixelData
    with pytest.raises(StudyUnsuitable, match=r"no pixel data \(Computed Radiography Image Storage\)"):
        shown(ds)
    ds.FloatPixelData = b"\0\0\0\0"
    with pytest.raises(StudyUnsuitable, match="floating-point"):
        shown(ds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 0}, "Rows or Columns is missing or zero"),
        ({"Columns": None}, "Rows or Columns is missing or zero"),
        ({"BitsStored": 17}, "17 bits stored of 16 allocated"),
        ({"BitsStored": 0}, "0 bits stored"),
        ({"BitsAllocated": 0}, "0 allocated"),
    ],
)
def test_contradictory_header(changes, reason):
    with pytest.raises(DatasetUnreadable, match=reason):
        shown(synthetic(**changes))


def test_truncated_native_pixel_data():
    ds = synthetic()
    ds["PixelData"].value = ds.PixelData[:50_000]
    with pytest.raises(DatasetUnreadable, match="truncated: 50000 of 96000 bytes"):
        shown(ds)


def test_file_cut_in_native_pixel_data(tmp_path):
    path = tmp_path / "cut.dcm"
    path.write_bytes(encode(synthetic())[:-40_000])
    with pytest.raises(DatasetUnreadable, match="truncated"):
        shown(reading.read(path))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_file_cut_in_encapsulated_pixel_data_keeps_its_header(tmp_path, syntax):
    ds = synthetic()
    ds.compress(syntax)
    path = tmp_path / "cut.dcm"
    path.write_bytes(encode(ds)[:-2_000])
    found = reading.read(path)
    assert found.PatientID == "CANARY7"
    with pytest.raises(DatasetUnreadable, match="empty or cut off"):
        shown(found)


@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "siim_one/siim_cr_jpegbaseline.dcm", "nema_wg04/RG1_JLSN.dcm"])
def test_codestream_without_its_end_is_truncated(name):
    ds = reading.read(real(name))
    frame = next(iter(generate_frames(ds.PixelData, number_of_frames=1)))
    ds["PixelData"].value = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(DatasetUnreadable, match="truncated: the end marker is missing"):
        shown(ds)


def test_rle_cut_short():
    ds = synthetic()
    ds.compress(RLELossless)
    frame = next(iter(generate_frames(ds.PixelData, number_of_frames=1)))
    ds["PixelData"].value = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(DatasetUnreadable, match=r"RLE Lossless.*cannot be decoded"):
        shown(ds)


def test_not_encapsulated():
    ds = synthetic()
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    with pytest.raises(DatasetUnreadable, match=r"JPEG 2000"):
        shown(ds)


@pytest.mark.parametrize("syntax", ["1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.1", ""])
def test_unknown_transfer_syntax(syntax):
    ds = synthetic()
    ds.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(DatasetUnreadable, match="transfer syntax is unknown"):
        shown(ds)


def test_no_file_meta():
    ds = synthetic()
    del ds.file_meta
    with pytest.raises(DatasetUnreadable, match="transfer syntax is unknown"):
        shown(ds)


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 40, None])
def test_no_dicom_file(tmp_path, content):
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetUnreadable, match="the file"):
        reading.read(path)


def test_malformed_elements_are_as_good_as_absent():
    ds = synthetic()
    data = encode(ds).replace(b"0.2\\0.2 ", b"x.y\\!!! ")
    assert pixels.radiograph(dcmread(io.BytesIO(data))).spacing is None


def test_source_is_left_as_it_was():
    ds, again = (
        synthetic(WindowCenter="1000", WindowWidth="2000"),
        synthetic(WindowCenter="1000", WindowWidth="2000"),
    )
    shown(ds)
    assert encode(ds) == encode(again)
    assert ds == again
    assert ds._pixel_array is None, "no decoded copy stays behind"


def test_reasons_quote_nothing_of_the_patient(caplog):
    reasons = []
    for changes in ({"BodyPartExamined": "HAND"}, {"BitsStored": 17}, {"ViewPosition": "LL"}):
        with pytest.raises((StudyUnsuitable, DatasetUnreadable)) as caught:
            shown(synthetic(**changes))
        reasons.append(str(caught.value))
    for secret in ("Canary", "CANARY7", "19500102"):
        assert secret not in " ".join(reasons) + caplog.text


def test_transfer_syntax_fixture_is_what_it_says():
    assert synthetic().file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


EMPTY = Dataset()


def _window(center, width):
    return {"WindowCenter": center, "WindowWidth": width}


@pytest.mark.parametrize(
    ("changes", "passed_over", "shown_by"),
    [
        ({}, (), "the range of its values"),
        (_window("2000", "1000"), (), "window 1"),
        (_window(["-9000", "2000"], ["10", "1000"]), ("window 1",), "window 2"),
        (_window(["2000", "2000"], ["0", "1000"]), ("window 1",), "window 2"),
        (_window("9000", "10"), ("window 1",), "the range of its values"),
        ({"VOILUTSequence": [EMPTY]} | _window("2000", "1000"), ("VOI LUT 1",), "window 1"),
        ({"VOILUTSequence": [EMPTY]}, ("VOI LUT 1",), "the range of its values"),
        (
            {"VOILUTSequence": [EMPTY], "ModalityLUTSequence": [EMPTY]},
            ("its Modality LUT", "VOI LUT 1"),
            "the range of its values",
        ),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, ("its Rescale Slope",), "the range of its values"),
        ({"RescaleSlope": "NaN", "RescaleIntercept": "5"}, ("its Rescale Slope",), "the range of its values"),
        ({"RescaleSlope": "inf", "RescaleIntercept": "5"}, ("its Rescale Slope",), "the range of its values"),
        ({"RescaleSlope": "2", "RescaleIntercept": "5"}, (), "the range of its values"),
    ],
)
def test_what_cannot_be_used_is_passed_over_and_named(changes, passed_over, shown_by):
    ds = synthetic(**changes)
    greys = pixels.render(ds).greys
    assert (greys.passed_over, greys.shown_by) == (passed_over, shown_by)
    assert shown(ds).std() > 0.1
    told = [one for one in limits_of(ds, greys) if one.startswith("The source was shown by")]
    assert [all(name in one for name in passed_over) for one in told] == [True] * bool(passed_over)
