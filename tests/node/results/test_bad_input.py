"""Files that cannot be explained, and files that say too little: each ends in the structured report with a reason.

Every file goes through `explain_files`, once by the node's own rules and once by a rule that chooses everything, so
that neither the rules nor the checks behind them rely on each other.
"""

import numpy as np
import pytest
from contexts import errors_of, every, items, said
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedXAImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
)
from radiographs import ACCEPTED, encode, phantom, synthetic
from toy_explainer import ToyExplainer

from dicom_node.offline.files import explain_files
from dicom_node.results import codes
from dicom_node.settings.sections import Settings

EVERYTHING = Settings.model_validate({"rules": [{"name": "everything", "action": "explain"}]})
OWN_RULES = Settings()


def film(**changes):
    return synthetic(**{"WindowCenter": "2048", "WindowWidth": "4096"} | changes)


def with_pixels(change, **changes):
    ds = film(**changes)
    ds["PixelData"].value = change(ds.PixelData)
    return ds


def frames(count, **changes):
    return with_pixels(lambda data: data * count, NumberOfFrames=str(count), **changes)


def private_syntax():
    ds = film()
    ds.file_meta.TransferSyntaxUID = "1.2.840.113619.5.2"
    return ds


def not_what_it_says():
    ds = with_pixels(lambda data: encapsulate([data]))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def narrow():
    """12 bits of values, of which the header says that 8 are stored."""
    ds = film()
    ds.BitsStored, ds.HighBit = 8, 7
    return ds


def colour():
    ds = film(bits=8, WindowCenter=None, WindowWidth=None)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds["PixelData"].value = np.repeat(np.frombuffer(ds.PixelData, np.uint8), 3).tobytes()
    return ds


def ours(kind):
    return next(ds for made, ds in every(film()) if made == kind)


CASES = {
    "private transfer syntax": (private_syntax, {"syntax"}, "its transfer syntax is unknown"),
    "syntax that is not the data's": (not_what_it_says, {"pixels"}, "the end marker is missing"),
    "zero-length pixel data": (lambda: with_pixels(lambda _: b""), {"pixels"}, "empty or cut off"),
    "no pixel data": (lambda: film(PixelData=None), {"pixels"}, "no pixel data"),
    "more Rows than pixels": (lambda: film(Rows=241), {"pixels"}, "truncated"),
    "more Columns than pixels": (lambda: film(Columns=201), {"pixels"}, "truncated"),
    "fewer Rows than pixels": (lambda: film(Rows=200), {"pixels"}, "200 rows of 200 pixels take"),
    "fewer Columns than pixels": (lambda: film(Columns=160), {"pixels"}, "240 rows of 160 pixels take"),
    "zero Rows": (lambda: film(Rows=0), {"pixels"}, "missing or zero"),
    "no Columns": (lambda: film(Columns=None), {"pixels"}, "missing or zero"),
    "too few Bits Stored": (narrow, {"pixels"}, "do not fit into the 8 bits"),
    "more Bits Stored than Allocated": (lambda: film(BitsStored=17), {"pixels"}, "contradict each other"),
    "zero Bits Stored": (lambda: film(BitsStored=0), {"pixels"}, "contradict each other"),
    "16 frames of XA": (
        lambda: frames(16, Modality="XA", SOPClassUID=XRayAngiographicImageStorage),
        {"rules", "modality"},
        "",
    ),
    "enhanced XA": (
        lambda: frames(4, Modality="XA", SOPClassUID=EnhancedXAImageStorage),
        {"rules", "modality"},
        "",
    ),
    "several frames of DX": (lambda: frames(3, Modality="DX"), {"rules", "frames"}, "frames"),
    "RGB": (colour, {"rules", "colour"}, "colour image"),
    "made from another image": (
        lambda: film(ImageType=["DERIVED", "SECONDARY"]),
        {"derived"},
        "made from another image",
    ),
    "synthetic": (lambda: film(SyntheticData="YES"), {"derived"}, "synthetic"),
    "our secondary capture": (lambda: ours("secondary_capture"), {"rules", "modality", "derived", "colour"}, ""),
    "our overlay": (lambda: ours("overlay"), {"rules", "modality", "derived"}, ""),
    "our synthetic image": (lambda: ours("synthetic_images"), {"rules", "modality", "derived", "colour"}, ""),
    "our result under another modality": (
        lambda: relabelled(ours("overlay")),
        {"rules", "derived"},
        "",
    ),
    "blank": (lambda: film(stored=np.full((240, 200), 7)), {"blank"}, "every pixel has the same value"),
}


def relabelled(ds):
    ds.Modality, ds.ImageType, ds.ViewPosition = "DX", ["ORIGINAL", "PRIMARY"], "PA"
    return ds


def report_on(ds, folder, settings):
    path = folder / "film.dcm"
    path.write_bytes(encode(ds))
    (study,), unreadable = explain_files([path], folder / "out", settings, ToyExplainer())
    assert unreadable == []
    found = [dcmread(one) for one in study.objects]
    return study.analysis, found


@pytest.mark.slow
@pytest.mark.parametrize("settings", [OWN_RULES, EVERYTHING], ids=["own rules", "everything chosen"])
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_explained_is_reported_with_its_reason(case, settings, tmp_path):
    make, wanted, words = CASES[case]
    ds = make()
    analysis, found = report_on(ds, tmp_path, settings)
    assert (analysis.explained, analysis.assessed) == ((), ())
    (report,) = found
    assert said(report, codes.OUTCOME) == ["111245"]
    (code,) = said(report, codes.NOT_ANALYSED)
    assert code in wanted
    (sentence,) = [text for text in said(report, codes.COMMENT) if text.startswith("Not analysed because ")]
    assert words in sentence or code == "rules"
    (refused,) = [item for item in items(report) if item.ConceptNameCodeSequence[0].get("CodeValue") == "not-analysed"]
    reference = refused.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.slow
@pytest.mark.parametrize("settings", [OWN_RULES, EVERYTHING], ids=["own rules", "everything chosen"])
def test_every_object_of_every_real_file_is_valid(settings, tmp_path, shared_data):
    """The ones that are explained have tests of their own; here are the reports on all the others too."""
    files = sorted(
        path for path in (shared_data / "dicom").rglob("*.dcm") if f"{path.parent.name}/{path.name}" not in ACCEPTED
    )
    assert len(files) > 9
    for number, path in enumerate(files):
        (study,), unreadable = explain_files([path], tmp_path / str(number), settings, ToyExplainer())
        assert unreadable == []
        assert [errors_of(dcmread(one), tmp_path) for one in study.objects] == [[]] * len(study.objects)
        assert [dcmread(one).Modality for one in study.objects] == ["SR"], f"{path.name} is not to be explained"


def test_the_bits_above_high_bit_may_hold_what_is_no_part_of_the_values():
    """Old overlay planes, and what equipment leaves there: the image is explained all the same."""
    text = np.zeros((240, 200), np.int64)
    text[20:30:2, 20:80] = 1
    for garbage in (0, 0xF000, 0x3000):
        (kind, _), *_ = every(film(stored=np.rint(phantom() * 4095), garbage=garbage), kinds=["secondary_capture"])
        assert kind == "secondary_capture"
    stored = np.rint(phantom() * 4095).astype(np.int64) | text << 12
    ds = film(stored=stored, bits=16, WindowCenter="2048", WindowWidth="4096")
    ds.BitsStored, ds.HighBit = 12, 11
    assert dict(every(ds, kinds=["secondary_capture"]))


def test_uncompressed_film_may_have_padding_after_its_pixels():
    ds = with_pixels(lambda data: data + b"\0\0")
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "secondary_capture" in dict(every(ds, kinds=["secondary_capture"]))


def test_secondary_capture_of_a_film_is_a_film():
    """Digitised and exported films come as Secondary Captures; they are explained unless they say what they are."""
    ds = film(SOPClassUID=SecondaryCaptureImageStorage, ConversionType="DF")
    assert "secondary_capture" in dict(every(ds, kinds=["secondary_capture"]))
