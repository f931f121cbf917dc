"""The result objects: valid, faithful to the patient, repeatable, and honest to look at.

Golden summaries lie in tests/golden; after a wanted change write them anew with UPDATE_GOLDEN=1 and read the diff.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from radiographs import (
    ACCEPTED,
    REPOSITORY,
    encode,
    phantom,
    real,
    reread,
    shared,
    study_of,
    synthetic,
    task_for,
)
from radiographs import (
    header as cr_header,
)

from dicom_node import header, pixels
from dicom_node.results import NotAnalysed, ResultContext, ResultOptions, SourceReference
from dicom_node.results import _codes as codes
from dicom_node.results._context import device_uid
from dicom_node.results._header import DISCLAIMER, TYPE_2, header_of, plain
from dicom_node.results._text import font, wrap
from dicom_node.results.overlay import PLUGIN as OVERLAY
from dicom_node.results.secondary_capture import PLUGIN as SECONDARY_CAPTURE
from dicom_node.results.secondary_capture import layout, render, sentences
from dicom_node.results.structured_report import PLUGIN as REPORT
from explain_core import display, plugins
from explain_core.explanation import ModelIdentity
from explain_core.testing import TOY_MODEL, ToyExplainer

BUILDERS = (SECONDARY_CAPTURE, OVERLAY, REPORT)
GOLDEN = REPOSITORY / "tests" / "golden"
DCIODVFY = Path(sys.executable).parent / "dciodvfy"


def film(stored=None, *, bits=12, **changes):
    """A radiograph shown over its whole range: ToyExplainer is positive, and its adversarial image is not."""
    window = {"WindowCenter": str(1 << (bits - 1)), "WindowWidth": str(1 << bits)}
    return synthetic(stored, bits=bits, **window | changes)


def context_of(ds, *, explainer=None, options=None, **changes):
    study, _ = study_of(ds)
    explainer = explainer or ToyExplainer()
    image = pixels.radiograph(ds)
    source = SourceReference(
        study_instance_uid=str(ds.StudyInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
    )
    values = {
        "task": task_for(study),
        "header": header_of(ds),
        "sources": (source,),
        "model": explainer.identity,
        "options": options or ResultOptions(),
        "number": 1,
        "radiograph": image,
        "explanation": explainer.explain(image),
    }
    return ResultContext(**values | changes)


def refusal_of(ds, reason="it is a lateral view", **changes):
    study, _ = study_of(ds)
    source = SourceReference(
        study_instance_uid=str(ds.StudyInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
    )
    values = {
        "task": task_for(study),
        "header": header_of(ds),
        "sources": (source,),
        "model": TOY_MODEL,
        "options": ResultOptions(),
        "number": 1,
        "reason": reason,
    }
    return NotAnalysed(**values | changes)


def errors_of(ds, folder):
    """What dciodvfy calls an error."""
    assert DCIODVFY.is_file(), "dciodvfy is missing: pip install '.[dev]'"
    path = folder / "object.dcm"
    path.write_bytes(encode(ds))
    found = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False, errors="replace")
    lines = (found.stdout + found.stderr).splitlines()
    assert lines, "dciodvfy names at least the IOD"
    return [line for line in lines if line.startswith("Error")]


def items(ds):
    """Every content item of an SR, depth first."""
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from items(item)


def said(ds, code):
    """Values of the content items named `code`."""
    values = []
    for item in items(ds):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].get("CodeValue") == code.value:
            if item.ValueType == "CODE":
                values.append(item.ConceptCodeSequence[0].CodeValue)
            elif item.ValueType == "NUM":
                values.append(float(item.MeasuredValueSequence[0].NumericValue))
            elif item.ValueType == "TEXT":
                values.append(item.TextValue)
    return values


# --- valid objects ---


@pytest.mark.parametrize("name", [*ACCEPTED, "RG1_UNCR.dcm", "RG1_J2KR.dcm"])
def test_every_object_of_a_real_image_is_valid(name, tmp_path):
    context = context_of(header.read(real(name)))
    assert {builder.name: errors_of(builder.build(context), tmp_path) for builder in BUILDERS} == {
        builder.name: [] for builder in BUILDERS
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"BodyPartExamined": None},
        {"PatientOrientation": None, "PixelSpacing": None},
        {"PatientOrientation": ["LH", "PF"], "ImageLaterality": "L"},
        {"Laterality": "R"},
        {"SpecificCharacterSet": None, "Manufacturer": None, "InstitutionName": None},
        {"PixelSpacingCalibrationType": "GEOMETRY", "PixelSpacingCalibrationDescription": "x"},
        {"TimezoneOffsetFromUTC": "+0900"},
        dict.fromkeys(TYPE_2),
        {"PatientAge": "58", "StudyDate": "2024.05.06", "StudyTime": "06:50:00", "PatientSex": "male"},
        {"PatientBirthDate": "unknown", "PregnancyStatus": 4},
        {"BodyPartExamined": "LUNG", "Laterality": "R"},
    ],
)
def test_every_object_of_an_odd_header_is_valid(changes, tmp_path):
    ds = film(**changes)
    built = [builder.build(context_of(ds)) for builder in BUILDERS] + [REPORT.report(refusal_of(ds))]
    assert [errors_of(one, tmp_path) for one in built] == [[], [], [], []]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SOPClassUID": CTImageStorage, "Modality": "CT"},
        {"SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC"},
        {"PatientID": None, "StudyDate": None},
    ],
)
def test_report_on_a_source_without_pixels_is_valid(changes, tmp_path):
    assert errors_of(REPORT.report(refusal_of(reread(cr_header(**changes)))), tmp_path) == []


def test_report_without_any_header_is_valid(tmp_path):
    ds = REPORT.report(refusal_of(cr_header(), header=Dataset(), model=None))
    assert errors_of(ds, tmp_path) == []
    assert ds.StudyInstanceUID == "1.2.3.4.3"
    assert ds.PatientName in {None, ""}


def test_validator_finds_a_planted_fault(tmp_path):
    ds = SECONDARY_CAPTURE.build(context_of(film()))
    del ds.ConversionType
    assert any("ConversionType" in line.replace(" ", "") for line in errors_of(ds, tmp_path))


def test_private_tags_and_unreadable_elements_are_left_behind():
    source = film()
    source.add_new((0x0009, 0x0010), "LO", "ACME")
    source.add_new((0x0009, 0x1001), "LO", "Canary private")
    for builder in BUILDERS:
        assert not [element for element in builder.build(context_of(reread(source))) if element.tag.is_private]


# --- golden ---


def summary(ds, *, hide=()):
    """Every element of `ds` as text; pixels as their hash."""
    lines = []
    for element in ds:
        name = f"{element.tag} {element.VR} {element.keyword}"
        if element.VR == "SQ":
            lines += [f"{name} [{len(element.value)}]"]
            lines += [f"  {line}" for item in element.value for line in [*summary(item), "-"][:-1]]
        elif element.keyword in hide or element.VR in {"OB", "OW"}:
            lines.append(f"{name} {len(element.value)} bytes")
        else:
            lines.append(f"{name} {element.value}")
    return lines


def picture_hash(ds, context):
    """SHA-256 of the part of the pixels that no text is drawn in."""
    if ds.SamplesPerPixel == 3:
        place = layout(context.radiograph.pixels.shape, sentences(context.explanation), context.options.long_edge)
        rows, columns = place.picture
    else:
        rows, columns = ds.Rows * 9 // 10, ds.Columns
    return hashlib.sha256(np.ascontiguousarray(ds.pixel_array[:rows, :columns]).tobytes()).hexdigest()


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.name)
@pytest.mark.parametrize("name", ["synthetic", "RG1_UNCR.dcm"])
def test_golden(name, builder):
    context = context_of(film() if name == "synthetic" else header.read(real(name)))
    ds = reread(builder.build(context))
    found = {"file_meta": summary(ds.file_meta), "elements": summary(ds)}
    if "PixelData" in ds:
        found["picture"] = picture_hash(ds, context)
    compare(found, f"{Path(name).stem.lower()}_{builder.name}.json")


def test_golden_not_analysed():
    compare({"elements": summary(reread(REPORT.report(refusal_of(film()))))}, "synthetic_not_analysed.json")


def compare(found, name):
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(path.read_text())


# --- patient, study, equipment ---

NAMES = {
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "iso2022_jp"),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг^Анна", "iso8859_5"),  # noqa: RUF001 - Cyrillic is meant
    "latin-1": ("ISO_IR 100", "Müller^Jérôme", "latin_1"),
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东", "utf_8"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东", "gb18030"),
    "undeclared": (None, "Müller^Jérôme", "latin_1"),
    "wrongly declared": ("ISO_IR 192", "Müller^Jérôme", "latin_1"),
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("kind", NAMES)
def test_names_survive_byte_for_byte(kind, syntax):
    charset, name, codec = NAMES[kind]
    encoded = {
        keyword: name.replace("^", between).encode(codec)
        for keyword, between in (("PatientName", "^"), ("StudyDescription", " "), ("InstitutionName", "-"))
    }
    encoded = {keyword: text + b" " * (len(text) % 2) for keyword, text in encoded.items()}
    marks = {keyword: mark * len(text) for (keyword, text), mark in zip(encoded.items(), "PSI", strict=True)}
    ds = film(SpecificCharacterSet=charset, **marks)
    ds.file_meta.TransferSyntaxUID = syntax
    data = encode(ds)
    for keyword, text in encoded.items():
        data = data.replace(marks[keyword].encode(), text)
    source = dcmread(io.BytesIO(data))
    refusal = REPORT.report(refusal_of(source))
    for built in (*(builder.build(context_of(source)) for builder in BUILDERS), refusal):
        result = dcmread(io.BytesIO(encode(built)))
        for keyword, text in encoded.items():
            assert result.get_item(keyword).value == text
        assert result.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_names_within_sequences_survive(syntax):
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = "王小东-7", "TEXT"
    source = film(SpecificCharacterSet="ISO_IR 192", OtherPatientIDsSequence=[other], Manufacturer="Société")
    source.file_meta.TransferSyntaxUID = syntax
    result = reread(REPORT.build(context_of(reread(source))))
    assert result.OtherPatientIDsSequence[0].PatientID == "王小东-7"
    assert result.ContributingEquipmentSequence[0].Manufacturer == "Société"


def test_source_read_before_and_changed_by_nobody():
    source = film(PatientName="Müller^Jérôme")
    before = encode(source)
    assert str(source.PatientName) == "Müller^Jérôme"
    context = context_of(source)
    for builder in BUILDERS:
        builder.build(context)
    REPORT.report(refusal_of(source))
    assert encode(source) == before


def test_header_is_a_copy_without_pixels_and_overlays():
    source = film()
    source.add_new((0x6000, 0x3000), "OW", b"\0\0")
    header_copy = header_of(source)
    assert "PixelData" not in header_copy
    assert (0x6000, 0x3000) not in header_copy
    header_copy.PatientID = "other"
    header_copy.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert source.PatientID == "CANARY7"
    assert source.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_patient_and_study_are_the_sources():
    source = film(IssuerOfPatientID="Clinic", PatientAge="074Y", PatientComments="c", StudyDescription="Thorax pa")
    for builder in BUILDERS:
        ds = reread(builder.build(context_of(source)))
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "IssuerOfPatientID",
            "PatientAge",
        ):
            assert ds[keyword].value == source[keyword].value
        for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription"):
            assert ds[keyword].value == source[keyword].value
        assert ds.SeriesInstanceUID != source.SeriesInstanceUID
        assert ds.SOPInstanceUID != source.SOPInstanceUID
        assert ds.InstitutionName == "Test Hospital"


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyDate", "2024.05.06", "20240506"),
        ("StudyTime", "06:50:00", "065000"),
        ("StudyTime", "065000.123", "065000.123"),
        ("PatientBirthDate", "unknown", ""),
        ("PatientSex", "male", ""),
        ("PatientAge", "58", None),
        ("PatientAge", "058Y", "058Y"),
        ("PatientWeight", "heavy", None),
        ("PatientWeight", "70.5", "70.5"),
        ("PatientID", "any thing/longer than what is good for it, but who it is", ...),
    ],
)
def test_values_that_break_the_standard_are_not_passed_on(keyword, value, expected):
    mark = "Q" * (len(value) + len(value) % 2)
    ds = film(PatientComments=mark)
    ds.add_new(keyword, "LO", mark)  # a length that fits; the bytes follow
    data = encode(ds)
    source = dcmread(io.BytesIO(data))
    raw = source.get_item(keyword)
    source[keyword] = raw._replace(VR=dictionary_VR(keyword), value=value.encode().ljust(len(mark)))
    result = reread(REPORT.build(context_of(source)))
    expected = value if expected is ... else expected
    found = result.get_item(keyword)
    assert (None if found is None else (found.value or b"").decode().rstrip()) == expected


def test_missing_type_2_is_present_and_empty():
    source = film(PatientID=None, AccessionNumber=None, ReferringPhysicianName=None, PatientSex=None)
    for builder in BUILDERS:
        ds = reread(builder.build(context_of(source)))
        for keyword in ("PatientID", "AccessionNumber", "ReferringPhysicianName", "PatientSex"):
            assert keyword in ds
            assert not ds[keyword].value


def test_who_made_it():
    digest = "ab" * 32
    model = ModelIdentity(name="opacity", version="1.2", digest=digest)
    options = ResultOptions(manufacturer="Us", station_ae_title="XAI1", software_version="9.8")
    for builder in BUILDERS:
        ds = reread(builder.build(context_of(film(), explainer=ToyExplainer(identity=model), options=options)))
        assert (ds.Manufacturer, ds.ManufacturerModelName, ds.StationName) == ("Us", "opacity", "XAI1")
        assert list(ds.SoftwareVersions) == ["9.8", "model 1.2"]
        assert ds.SeriesDescription == "opacity 1.2 - NOT FOR DIAGNOSIS"
        assert ds.ContentQualification == "RESEARCH"
        acquisition, processing = ds.ContributingEquipmentSequence
        assert acquisition.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert acquisition.Manufacturer == "Maker"
        assert processing.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert processing.DeviceUID == ds.DeviceUID == device_uid(model)
        assert digest in processing.ContributionDescription
    assert device_uid(model) != device_uid(replace(model, digest="cd" * 32)), "retraining is another device"


def test_long_model_name_still_warns():
    model = ModelIdentity(
        name="a model with quite a long name, really more than anyone would want", version="1", digest="0"
    )
    ds = REPORT.build(context_of(film(), explainer=ToyExplainer(identity=model)))
    assert len(ds.SeriesDescription) <= 64
    assert ds.SeriesDescription.endswith(" - NOT FOR DIAGNOSIS")


def test_own_text_is_ascii():
    assert plain("Überprüfung\\ │ 漢字 \n end", 64) == "Uberprufung end"
    options = ResultOptions(manufacturer="Société Générale", institution="Universitätsklinik")
    ds = reread(REPORT.build(context_of(film(SpecificCharacterSet=None), options=options)))
    assert (ds.Manufacturer, ds.InstitutionName) == ("Societe Generale", "Universitatsklinik")


def test_dates_and_times_are_the_tasks():
    ds = reread(OVERLAY.build(context_of(film())))
    for keyword in ("ContentDate", "InstanceCreationDate", "DateOfSecondaryCapture"):
        assert ds[keyword].value == "20240506"
    for keyword in ("ContentTime", "InstanceCreationTime", "TimeOfSecondaryCapture"):
        assert ds[keyword].value == "070809.123456"


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"TimezoneOffsetFromUTC": "-0800"}, ResultOptions(), ("20240505", "230809.123456", "-0800")),
        ({}, ResultOptions(timezone=timezone(timedelta(hours=9))), ("20240506", "160809.123456", "+0900")),
        ({"TimezoneOffsetFromUTC": "9999"}, ResultOptions(), ("20240506", "070809.123456", "+0000")),
    ],
)
def test_local_time(changes, options, expected):
    ds = REPORT.build(context_of(film(**changes), options=options))
    assert (ds.ContentDate, ds.ContentTime) == expected[:2]
    assert ds.ContributingEquipmentSequence[-1].ContributionDateTime.endswith(expected[2])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ImageLaterality": "L"}, {"ImageLaterality": "L", "BodyPartExamined": "CHEST"}),
        ({"Laterality": "R"}, {"BodyPartExamined": "CHEST"}),
        ({"Laterality": "R", "BodyPartExamined": "LUNG"}, {"Laterality": "R", "BodyPartExamined": "LUNG"}),
        ({"Laterality": ""}, {"BodyPartExamined": "CHEST"}),
        ({"BodyPartExamined": None}, {"Laterality": ""}),
        ({"ImageLaterality": "L", "Laterality": "L"}, {"ImageLaterality": "L", "BodyPartExamined": "CHEST"}),
    ],
)
def test_laterality(changes, expected):
    ds = SECONDARY_CAPTURE.build(context_of(film(**changes)))
    keywords = ("BodyPartExamined", "Laterality", "ImageLaterality")
    assert {keyword: ds[keyword].value or "" for keyword in keywords if keyword in ds} == expected


# --- identity ---


def test_same_input_same_bytes():
    for name in ("synthetic", "RG1_UNCR.dcm"):
        first, second = (
            [
                encode(builder.build(context_of(film() if name == "synthetic" else header.read(real(name)))))
                for builder in BUILDERS
            ]
            for _ in range(2)
        )
        assert first == second
    assert encode(REPORT.report(refusal_of(film()))) == encode(REPORT.report(refusal_of(film())))


def test_uids_are_valid_and_differ_by_kind():
    context = context_of(film())
    built = [builder.build(context) for builder in BUILDERS]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber"):
        assert len({ds[keyword].value for ds in built}) == 3
    for ds in built:
        assert ds.SOPInstanceUID.startswith("2.25.")
        assert len(ds.SOPInstanceUID) <= 64
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert 9900 < ds.SeriesNumber < 10000


def changed(context):
    """The context with one thing changed that must make another object."""
    explanation = context.explanation
    prediction = explanation.prediction
    return {
        "revision": replace(context, task=replace(context.task, revision=2)),
        "model": replace(context, model=replace(TOY_MODEL, digest="f" * 64)),
        "parameters": replace(
            context,
            explanation=replace(explanation, provenance=replace(explanation.provenance, parameters={"seed": 1})),
        ),
        "label": replace(context, explanation=replace(explanation, prediction=replace(prediction, label="Nodule"))),
        "outcome": replace(
            context, explanation=replace(explanation, prediction=replace(prediction, probability=0.123))
        ),
        "source": replace(context, sources=(replace(context.sources[0], sop_instance_uid="1.2.9"),)),
        "size": replace(context, options=replace(context.options, long_edge=600)),
    }


@pytest.mark.parametrize("what", ["revision", "model", "parameters", "label", "outcome", "source", "size"])
def test_what_changes_a_result_changes_its_uid(what):
    context = context_of(film())
    other = changed(context)[what]
    for kind in ("overlay", "structured_report"):
        assert context.sop_instance_uid(kind) != other.sop_instance_uid(kind)
        same_series = context.series_instance_uid(kind) == other.series_instance_uid(kind)
        assert same_series == (what != "model")


def test_noise_in_the_last_bits_is_the_same_object():
    context = context_of(film())
    explanation = context.explanation
    noisy = replace(
        explanation,
        prediction=replace(explanation.prediction, probability=explanation.prediction.probability + 1e-7),
        attribution=replace(explanation.attribution, values=explanation.attribution.values + np.float32(1e-7)),
    )
    assert replace(context, explanation=noisy).sop_instance_uid("overlay") == context.sop_instance_uid("overlay")


def test_changed_outcome_names_its_predecessor():
    context = context_of(film())
    first = REPORT.build(context)
    second = REPORT.build(replace(changed(context)["outcome"], earlier=(first,)))
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID == second.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in REPORT.build(replace(context, earlier=(first,))), "not of itself"
    elsewhere = replace(changed(context)["source"], earlier=(first, SECONDARY_CAPTURE.build(context)))
    assert "PredecessorDocumentsSequence" not in REPORT.build(elsewhere), "another image, another kind"


# --- secondary capture ---


@pytest.mark.parametrize("shape", [(240, 200), (1300, 1000), (900, 1200), (2000, 640), (169, 211)])
def test_secondary_capture_keeps_the_aspect_ratio(shape):
    context = context_of(film(np.rint(phantom(*shape) * 4095)), options=ResultOptions(long_edge=1000))
    ds = SECONDARY_CAPTURE.build(context)
    place = layout(shape, sentences(context.explanation), 1000)
    for rows, columns in ((ds.Rows, ds.Columns), place.picture):
        assert columns / rows == pytest.approx(shape[1] / shape[0], rel=0.01)
    assert max(ds.Rows, ds.Columns) == min(1000, max(512, *shape))
    assert (ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated) == ("RGB", 3, 8)
    assert ds.BurnedInAnnotation == "YES"
    assert len(ds.PixelData) == ds.Rows * ds.Columns * 3 + ds.Rows * ds.Columns % 2


def test_picture_is_undistorted_and_uncovered():
    """A smooth image has no heat: the picture is the image, scaled, to its last row and column."""
    smooth = np.linspace(0.1, 0.6, 600)[:, np.newaxis].repeat(500, axis=1)
    context = context_of(film(np.rint(smooth * 4095), WindowCenter="2048", WindowWidth="4096"))
    place = layout((600, 500), sentences(context.explanation), 1600)
    image = render(context.radiograph, context.explanation, place)
    picture = image[: place.picture[0], : place.picture[1]].astype(int)
    assert np.ptp(picture, axis=2).max() == 0, "no evidence, no colour"
    expected = display.resize(context.radiograph.pixels, place.picture) * 255
    assert np.abs(picture[..., 0] - expected).max() <= 1


def test_legend_says_what_it_must():
    said_there = " / ".join(sentences(context_of(film()).explanation))
    for part in (DISCLAIMER, "Lung opacity: ", "called present (threshold 50.0%)", "Model toy 0.0.1", "toy_excess"):
        assert part in said_there
    assert "|x_s - x_a|, fraction of full luminance" in said_there
    negative = context_of(film(), explainer=ToyExplainer(threshold=0.9)).explanation
    assert "not called (threshold 90.0%)" in " / ".join(sentences(negative))


@pytest.mark.parametrize(
    ("threshold", "words"), [(0.5, "crosses the threshold"), (0.2, "does NOT cross the threshold")]
)
def test_legend_says_whether_the_adversarial_image_crosses(threshold, words):
    explanation = context_of(film(), explainer=ToyExplainer(threshold=threshold)).explanation
    assert explanation.decision_changed == (threshold == 0.5)
    assert words in " ".join(sentences(explanation))
    assert "Adversarial" not in " ".join(sentences(replace(explanation, adversarial=None)))


def test_legend_says_what_was_not_examined():
    explanation = context_of(film()).explanation
    covered = explanation.attribution.covered.copy()
    covered[:60] = False
    partly = replace(explanation, attribution=replace(explanation.attribution, covered=covered))
    assert "25% of the image was not examined" in sentences(partly)


@pytest.mark.parametrize("height", [8, 13, 16, 32, 50, 100])
def test_text_is_as_high_as_asked(height):
    _, top, _, bottom = font(height).getbbox("Ag")
    assert height <= bottom - top <= height * 1.3 + 2


@pytest.mark.parametrize("shape", [(1955, 1841), (1024, 1024), (900, 1200)])
def test_text_is_readable_and_inside(shape):
    place = layout(shape, sentences(context_of(film()).explanation), 1600)
    assert place.text >= place.rows / 32
    assert place.lines[0].startswith("RESEARCH USE ONLY")
    assert max(font(place.text).getlength(line) for line in place.lines) <= place.columns
    assert place.picture[0] >= 0.6 * place.rows


def test_disclaimer_is_really_drawn():
    context = context_of(film(np.rint(phantom(1000, 900) * 4095)))
    place = layout((1000, 900), sentences(context.explanation), 1600)
    band = render(context.radiograph, context.explanation, place)[place.picture[0] :].astype(int)
    amber = (band[..., 0] > 200) & (band[..., 2] < 120)
    assert amber[: 2 * place.text].sum() > 500
    assert amber[2 * place.text :].sum() == 0


def test_wrap_loses_nothing():
    text = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS and averyveryverylongwordwithoutanyspace end"
    lines = wrap(text, font(20), 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font(20).getlength(line) <= 150 for line in lines)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"PixelSpacing": ["0.2", "0.2"]}, True), ({"PixelSpacing": ["0", "0"]}, False),
     ({"PixelSpacing": None, "ImagerPixelSpacing": ["0.2", "0.2"]}, False)],
)  # fmt: skip
def test_pixel_spacing_is_that_of_the_picture(changes, expected):
    context = context_of(film(np.rint(phantom(1000, 800) * 4095), **changes))
    fused, grey = SECONDARY_CAPTURE.build(context), OVERLAY.build(context)
    assert ("PixelSpacing" in fused, "PixelSpacing" in grey) == (expected, expected)
    if expected:
        place = layout((1000, 800), sentences(context.explanation), 1600)
        assert float(fused.PixelSpacing[0]) * place.picture[0] == pytest.approx(200, rel=1e-3), "millimetres"
        assert [float(value) for value in grey.PixelSpacing] == [0.2, 0.2]


def test_derivation_and_source_reference():
    source = film()
    for builder, preserved in ((SECONDARY_CAPTURE, "NO"), (OVERLAY, "YES")):
        ds = reread(builder.build(context_of(source)))
        assert list(ds.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert DISCLAIMER in ds.DerivationDescription
        assert ds.DerivationCodeSequence[0].CodeValue == "130401"
        (reference,) = ds.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert reference.SpatialLocationsPreserved == preserved


def test_once_lossy_always_lossy():
    assert "LossyImageCompression" not in OVERLAY.build(context_of(film()))
    assert OVERLAY.build(context_of(film(LossyImageCompression="01"))).LossyImageCompression == "01"
    jpeg = header.read(shared("siim_one/siim_cr_jpegbaseline.dcm"))
    jpeg.pop("LossyImageCompression", None)
    assert jpeg.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert OVERLAY.build(context_of(jpeg)).LossyImageCompression == "01"


# --- overlay ---


@pytest.mark.parametrize("bits", [8, 12])
def test_overlay_is_on_the_sources_grid(bits):
    ds = reread(OVERLAY.build(context_of(film(bits=bits))))
    assert (ds.Rows, ds.Columns) == (240, 200) == (ds[0x60000010].value, ds[0x60000011].value)
    assert (ds.PhotometricInterpretation, ds.BitsStored) == ("MONOCHROME2", bits)
    assert ds[0x60000040].value == "G"
    assert list(ds[0x60000050].value) == [1, 1]
    assert (ds[0x60000100].value, ds[0x60000102].value) == (1, 0)
    assert (0x6000, 0x0015) not in ds
    assert (0x6000, 0x0051) not in ds
    assert ds[0x60001500].value == "Salient region"
    assert "0.08" in ds[0x60000022].value


def test_overlay_outlines_the_salient_region():
    context = context_of(film(np.rint(phantom(600, 500) * 4095)))
    bits = reread(OVERLAY.build(context)).overlay_array(0x6000) > 0
    region = display.salient(context.explanation.attribution)
    assert region.any()
    rows, columns = np.nonzero(region)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    near_border = np.zeros_like(region)
    for shift in range(-4, 5):
        near_border |= np.roll(region, shift, 0) != region
        near_border |= np.roll(region, shift, 1) != region
    drawn = bits[box]
    assert drawn.any()
    assert near_border[box][drawn].mean() > 0.9
    assert bits[: rows.min() - 5].any(), "the finding's name stands above it"


def test_overlay_without_region_says_so_in_the_plane():
    smooth = np.linspace(0.1, 0.6, 600)[:, np.newaxis].repeat(500, axis=1)
    ds = reread(OVERLAY.build(context_of(film(np.rint(smooth * 4095)))))
    bits = ds.overlay_array(0x6000)
    assert 50 < bits.sum() < 0.02 * bits.size


def test_overlay_shows_the_windowed_image_and_the_disclaimer():
    source = film(np.rint(phantom(600, 500) * 4095), PhotometricInterpretation="MONOCHROME1")
    context = context_of(source)
    ds = reread(OVERLAY.build(context))
    shown = ds.pixel_array / 4095
    assert np.abs(shown[:500] - context.radiograph.pixels[:500]).max() < 0.001, "inverted once, for MONOCHROME2"
    strip = shown[-30:, 100:400]
    assert (strip > 0.9).mean() > 0.05
    assert (strip < 0.1).mean() > 0.3
    assert ds.BurnedInAnnotation == "YES"
    assert (float(ds.WindowCenter), float(ds.WindowWidth)) == (2048, 4096)


# --- structured report ---


def test_report_of_a_positive_image():
    context = context_of(film())
    ds = reread(REPORT.build(context))
    explanation = context.explanation
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.Modality) == ("COMPLETE", "UNVERIFIED", "SR")
    assert said(ds, codes.OUTCOME) == ["111242"]
    assert said(ds, codes.DECISION) == [codes.PRESENT.value]
    assert said(ds, codes.DECISION_CHANGED) == [codes.YES.value]
    assert said(ds, codes.PROBABILITY) == [round(100 * explanation.prediction.probability, 2)]
    assert said(ds, codes.THRESHOLD) == [50]
    assert said(ds, codes.ADVERSARIAL_PROBABILITY) == [round(100 * explanation.adversarial.probability, 2)]
    assert said(ds, codes.SIMILAR_PROBABILITY) == [round(100 * explanation.similar.probability, 2)]
    assert said(ds, codes.METHOD) == ["toy_excess"]
    assert said(ds, codes.METHOD_CITATION) == [explanation.provenance.reference]
    assert "fraction of full luminance" in said(ds, codes.HEATMAP_SCALE)[0]
    assert DISCLAIMER in said(ds, codes.COMMENT)[0]
    parameters = [item.TextValue for item in items(ds) if item.get("TextValue", "").startswith("bundle SHA-256=")]
    assert set(parameters) == {f"bundle SHA-256={TOY_MODEL.digest}"}
    assert TOY_MODEL.digest in parameters[0]


def test_report_of_a_negative_image():
    ds = REPORT.build(context_of(film(), explainer=ToyExplainer(threshold=0.9)))
    assert said(ds, codes.OUTCOME) == ["111241"]
    assert said(ds, codes.DECISION) == [codes.ABSENT.value]
    assert said(ds, codes.DECISION_CHANGED) == [codes.NO.value]


def test_report_without_generators_claims_nothing_about_them():
    context = context_of(film())
    ds = REPORT.build(replace(context, explanation=replace(context.explanation, similar=None, adversarial=None)))
    for code in (codes.DECISION_CHANGED, codes.SIMILAR_PROBABILITY, codes.ADVERSARIAL_PROBABILITY):
        assert said(ds, code) == []


def groups(ds):
    (measurements,) = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return measurements.ContentSequence


def scoord(group):
    (found,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    return found


@pytest.mark.parametrize("smooth", [False, True])
def test_every_measurement_group_has_coordinates_on_the_source(smooth):
    image = np.linspace(0.1, 0.6, 240)[:, np.newaxis].repeat(200, axis=1) if smooth else phantom()
    source = film(np.rint(image * 4095))
    context = context_of(source)
    whole, *regions = groups(reread(REPORT.build(context)))
    assert list(scoord(whole).GraphicData) == [0, 0, 200, 0, 200, 240, 0, 240, 0, 0]
    expected = display.outlines(display.salient(context.explanation.attribution), most=5)
    assert len(regions) == len(expected) == (0 if smooth else len(expected))
    assert bool(regions) is not smooth
    for group in (whole, *regions):
        coordinates = scoord(group)
        assert coordinates.GraphicType == "POLYLINE"
        image_item = coordinates.ContentSequence[0].ReferencedSOPSequence[0]
        assert image_item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    for group, outline in zip(regions, expected, strict=True):
        assert np.allclose(np.reshape(scoord(group).GraphicData, (-1, 2)), outline, atol=1e-3)


def test_report_lists_its_evidence():
    source = film()
    ds = REPORT.build(context_of(source))
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    found = (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
    assert found == (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)


@pytest.mark.parametrize("label", ["Lung opacity", "Pneumothorax", "A finding with a rather long name", "Erguß"])
def test_finding_of_any_label(label, tmp_path):
    context = context_of(film())
    prediction = replace(context.explanation.prediction, label=label)
    ds = REPORT.build(replace(context, explanation=replace(context.explanation, prediction=prediction)))
    assert errors_of(ds, tmp_path) == []
    finding = groups(ds)[0].ContentSequence[2].ConceptCodeSequence[0]
    coded = (finding.get("CodeValue"), finding.CodingSchemeDesignator)
    assert (coded == ("112001", "DCM")) == (label == "Lung opacity")


def test_report_on_what_was_not_analysed():
    ds = reread(REPORT.report(refusal_of(film(), reason="view position LL is not a frontal view (PA or AP)")))
    assert said(ds, codes.OUTCOME) == ["111245"]
    assert "Not analysed because view position LL is not a frontal view (PA or AP)." in said(ds, codes.COMMENT)
    assert not [item for item in items(ds) if item.ValueType in {"NUM", "SCOORD"}]
    assert ds.PatientName == "Canary^Bird"
    (reference,) = [item for item in items(ds) if item.ValueType == "IMAGE"]
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.1"


def test_report_on_a_document_refers_to_it_as_a_composite():
    ds = REPORT.report(refusal_of(cr_header(SOPClassUID=EncapsulatedPDFStorage)))
    assert [item.ValueType for item in items(ds) if "ReferencedSOPSequence" in item] == ["COMPOSITE"]


def test_another_reason_is_another_report():
    assert (
        REPORT.report(refusal_of(film())).SOPInstanceUID
        != REPORT.report(refusal_of(film(), reason="it is blank")).SOPInstanceUID
    )


# --- plug-ins ---


def test_the_folder_is_the_registry():
    assert plugins.available("dicom_node.results") == ("overlay", "secondary_capture", "structured_report")
    for name in plugins.available("dicom_node.results"):
        builder = plugins.load("dicom_node.results", name)
        assert builder.name == name
        assert builder.build(context_of(film())).SOPClassUID in builder.sop_class_uids


def test_results_do_not_load_torch():
    script = (
        "import sys, dicom_node.pipeline; from explain_core import plugins;"
        "[plugins.load('dicom_node.results', n) for n in plugins.available('dicom_node.results')];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False).returncode == 0
