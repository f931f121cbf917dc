"""What every result object promises: valid, faithful to the patient, repeatable; one parametrised over the folder.

What each object shows is tested in a file of its own. Golden summaries lie in tests/golden; after a wanted change
write them anew with UPDATE_GOLDEN=1 and read the diff.
"""

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from contexts import (
    built,
    context_of,
    errors_of,
    every,
    film,
    refused_study,
)
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from radiographs import ACCEPTED, REPOSITORY, encode, in_two_halves, real, reread
from radiographs import header as cr_header
from toy_explainer import TOY_MODEL, ToyExplainer

from dicom_node.dicom import reading
from dicom_node.results import ResultOptions
from dicom_node.results.context import device_uid
from dicom_node.results.header import TYPE_2, header_of, plain
from dicom_node.results.objects.overlay import PLUGIN as OVERLAY
from dicom_node.results.objects.secondary_capture import PLUGIN as SECONDARY_CAPTURE
from dicom_node.results.objects.structured_report import PLUGIN as REPORT
from explain_core import plugins
from explain_core.explanation import ModelIdentity

GOLDEN = REPOSITORY / "tests" / "golden"
KINDS = plugins.available("dicom_node.results.objects")
GEOMETRY = {
    "FrameOfReferenceUID": "1.2.3.4.77",
    "PositionReferenceIndicator": "",
    "ImagePositionPatient": [-20.0, 0.0, 24.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
}
"""What a source needs for a parametric map."""


def report(study):
    (ds,) = REPORT.build(study)
    return ds


# --- valid objects ---


@pytest.mark.slow
@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm", "RG1_J2KR.dcm"))
def test_every_object_of_a_real_image_is_valid(name, tmp_path):
    found = every(reading.read(real(name)))
    assert {"secondary_capture", "structured_report"} <= {kind for kind, _ in found}
    assert [(kind, error) for kind, ds in found for error in errors_of(ds, tmp_path)] == []


@pytest.mark.slow
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
    found = [*every(ds), ("refused", report(refused_study(ds)))]
    assert [(kind, error) for kind, one in found for error in errors_of(one, tmp_path)] == []


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
    assert errors_of(report(refused_study(reread(cr_header(**changes)))), tmp_path) == []


def test_report_without_any_header_is_valid(tmp_path):
    ds = report(refused_study(cr_header(), header=Dataset(), model=None))
    assert errors_of(ds, tmp_path) == []
    assert ds.StudyInstanceUID == "1.2.3.4.3"
    assert ds.PatientName in {None, ""}


def test_validator_finds_a_planted_fault(tmp_path):
    ds = built(SECONDARY_CAPTURE, context_of(film()))
    del ds.ConversionType
    assert any("ConversionType" in line.replace(" ", "") for line in errors_of(ds, tmp_path))


def test_private_tags_and_unreadable_elements_are_left_behind():
    source = film()
    source.add_new((0x0009, 0x0010), "LO", "ACME")
    source.add_new((0x0009, 0x1001), "LO", "Canary private")
    for _, ds in every(reread(source)):
        assert not [element for element in ds if element.tag.is_private]


# --- golden ---


def summary(ds, *, hide=()):
    """Every element of `ds` as text; pixels as their hash."""
    lines = []
    for element in ds:
        name = f"{element.tag} {element.VR} {element.keyword}"
        if element.VR == "SQ":
            lines += [f"{name} [{len(element.value)}]"]
            lines += [f"  {line}" for item in element.value for line in [*summary(item), "-"][:-1]]
        elif element.keyword in hide or element.VR in {"OB", "OF", "OW"}:
            lines.append(f"{name} {len(element.value)} bytes")
        else:
            lines.append(f"{name} {element.value}")
    return lines


def picture_hash(ds):
    """SHA-256 of the left half of the second quarter of the rows, where pictures have no lines of text."""
    if ds.get("BitsAllocated", 1) == 1:
        return hashlib.sha256(ds.PixelData).hexdigest()
    part = ds.pixel_array[ds.Rows // 4 : ds.Rows // 2, : ds.Columns // 2]
    return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()


@functools.cache
def everything_of(name):
    return dict(every(film(**GEOMETRY) if name == "synthetic" else reading.read(real(name))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["synthetic", "RG1_UNCR.dcm"])
def test_golden(name, kind):
    found = everything_of(name)
    if kind not in found:
        assert (name, kind) == ("RG1_UNCR.dcm", "parametric_map"), "the only object that a real film may not have"
        return
    ds = reread(found[kind])
    summarised = {"file_meta": summary(ds.file_meta), "elements": summary(ds)}
    if "PixelData" in ds:
        summarised["picture"] = picture_hash(ds)
    compare(summarised, f"{Path(name).stem.lower()}_{kind}.json")


def test_golden_not_analysed():
    compare({"elements": summary(reread(report(refused_study(film()))))}, "synthetic_not_analysed.json")


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


@pytest.mark.slow
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
    for _, made in (*every(source), ("refused", report(refused_study(source)))):
        result = dcmread(io.BytesIO(encode(made)))
        for keyword, text in encoded.items():
            assert result.get_item(keyword).value == text
        assert result.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_names_within_sequences_survive(syntax):
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = "王小东-7", "TEXT"
    source = film(SpecificCharacterSet="ISO_IR 192", OtherPatientIDsSequence=[other], Manufacturer="Société")
    source.file_meta.TransferSyntaxUID = syntax
    result = reread(built(REPORT, context_of(reread(source))))
    assert result.OtherPatientIDsSequence[0].PatientID == "王小东-7"
    assert result.ContributingEquipmentSequence[0].Manufacturer == "Société"


def test_source_read_before_and_changed_by_nobody():
    source = film(PatientName="Müller^Jérôme")
    before = encode(source)
    assert str(source.PatientName) == "Müller^Jérôme"
    every(source)
    report(refused_study(source))
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
    for _, made in every(source):
        ds = reread(made)
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
    result = reread(built(REPORT, context_of(source)))
    expected = value if expected is ... else expected
    found = result.get_item(keyword)
    assert (None if found is None else (found.value or b"").decode().rstrip()) == expected


def test_missing_type_2_is_present_and_empty():
    source = film(PatientID=None, AccessionNumber=None, ReferringPhysicianName=None, PatientSex=None)
    for _, made in every(source):
        ds = reread(made)
        for keyword in ("PatientID", "AccessionNumber", "ReferringPhysicianName", "PatientSex"):
            assert keyword in ds
            assert not ds[keyword].value


def test_who_made_it():
    digest = "ab" * 32
    model = ModelIdentity(name="opacity", version="1.2", digest=digest)
    options = ResultOptions(manufacturer="Us", station_ae_title="XAI1", software_version="9.8")
    for _, made in every(film(), explainer=ToyExplainer(identity=model), options=options):
        ds = reread(made)
        assert (ds.Manufacturer, ds.ManufacturerModelName, ds.StationName) == ("Us", "opacity", "XAI1")
        assert list(ds.SoftwareVersions) == ["9.8", "model 1.2"]
        assert "NOT FOR DIAGNOSIS" in ds.SeriesDescription
        assert ds.ContentQualification == "RESEARCH"
        acquisition, *_, processing = ds.ContributingEquipmentSequence
        assert acquisition.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert acquisition.Manufacturer == "Maker"
        purpose = "109100" if ds.get("SyntheticData") == "YES" else "109102"
        assert processing.PurposeOfReferenceCodeSequence[0].CodeValue == purpose
        assert processing.DeviceUID == ds.DeviceUID == device_uid(model)
        assert digest in processing.ContributionDescription
    assert device_uid(model) != device_uid(replace(model, digest="cd" * 32)), "retraining is another device"


def test_long_model_name_still_warns():
    model = ModelIdentity(
        name="a model with quite a long name, really more than anyone would want", version="1", digest="0"
    )
    ds = built(REPORT, context_of(film(), explainer=ToyExplainer(identity=model)))
    assert ds.SeriesDescription == "NOT FOR DIAGNOSIS - AI structured report"


def test_own_text_is_ascii():
    assert plain("Überprüfung\\ │ 漢字 \n end", 64) == "Uberprufung end"
    options = ResultOptions(manufacturer="Société Générale", institution="Universitätsklinik")
    ds = reread(built(REPORT, context_of(film(SpecificCharacterSet=None), options=options)))
    assert (ds.Manufacturer, ds.InstitutionName) == ("Societe Generale", "Universitatsklinik")


def test_dates_and_times_are_the_tasks():
    ds = reread(built(OVERLAY, context_of(film())))
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
    ds = built(REPORT, context_of(film(**changes), options=options))
    assert (ds.ContentDate, ds.ContentTime) == expected[:2]
    assert ds.ContributingEquipmentSequence[-1].ContributionDateTime.endswith(expected[2])


def test_a_site_with_a_time_zone_states_it_where_the_source_does_not():
    berlin = ResultOptions(timezone=ZoneInfo("Europe/Berlin"))
    stated = built(REPORT, context_of(film(), options=berlin))
    assert (stated.TimezoneOffsetFromUTC, stated.ContentTime) == ("+0200", "090809.123456")
    winter = built(REPORT, context_of(film(StudyDate="20240110", StudyTime="003000"), options=berlin))
    assert (winter.TimezoneOffsetFromUTC, winter.ContentTime) == ("+0100", "080809.123456"), "of the study's own time"
    for odd in ({"StudyDate": ""}, {"StudyDate": "20240510", "StudyTime": "soon"}, {"StudyDate": "99999999"}):
        assert built(REPORT, context_of(film(**odd), options=berlin)).TimezoneOffsetFromUTC == "+0200"
    source = built(REPORT, context_of(film(TimezoneOffsetFromUTC="-0800"), options=berlin))
    assert (source.TimezoneOffsetFromUTC, source.ContentTime) == ("-0800", "230809.123456")
    assert "TimezoneOffsetFromUTC" not in built(REPORT, context_of(film()))


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
    ds = built(SECONDARY_CAPTURE, context_of(film(**changes)))
    keywords = ("BodyPartExamined", "Laterality", "ImageLaterality")
    assert {keyword: ds[keyword].value or "" for keyword in keywords if keyword in ds} == expected


# --- identity ---


@pytest.mark.slow
def test_same_input_same_bytes():
    for name in ("synthetic", "RG1_UNCR.dcm"):
        first, second = (
            [
                (kind, encode(ds))
                for kind, ds in every(film(**GEOMETRY) if name == "synthetic" else reading.read(real(name)))
            ]
            for _ in range(2)
        )
        assert first == second
    assert encode(report(refused_study(film()))) == encode(report(refused_study(film())))


def test_uids_are_valid_and_differ_by_kind():
    found = every(film(**GEOMETRY))
    assert {kind for kind, _ in found} == set(KINDS), "each kind was made"
    assert len({ds.SOPInstanceUID for _, ds in found}) == len(found)
    for keyword in ("SeriesInstanceUID", "SeriesNumber"):
        assert len({(kind, ds[keyword].value) for kind, ds in found}) == len(KINDS), "one series of a kind"
        assert len({ds[keyword].value for _, ds in found}) == len(KINDS)
    for _, ds in found:
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
        "site": replace(context, options=replace(context.options, institution="Elsewhere")),
        "method": replace(
            context,
            explanation=replace(explanation, provenance=replace(explanation.provenance, method="another")),
        ),
        "order of methods": replace(
            context, options=replace(context.options, method_order=("another", "similar_adversarial"))
        ),
    }


SERIES = ("model", "site", "method", "order of methods")
"""What makes another series."""


@pytest.mark.parametrize("what", ["revision", "parameters", "label", "outcome", "source", *SERIES])
def test_what_changes_a_result_changes_its_uid(what):
    context = context_of(film())
    other = changed(context)[what]
    for kind in ("overlay", "structured_report"):
        assert context.sop_instance_uid(kind) != other.sop_instance_uid(kind)
        same_series = context.series_instance_uid(kind) == other.series_instance_uid(kind)
        assert same_series == (what not in SERIES), "a series has one manufacturer, number and description"


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
    first = built(REPORT, context)
    second = built(REPORT, replace(changed(context)["outcome"], earlier=(first,)))
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID == second.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in built(REPORT, replace(context, earlier=(first,))), "not of itself"
    elsewhere = replace(changed(context)["source"], earlier=(first, built(SECONDARY_CAPTURE, context)))
    assert "PredecessorDocumentsSequence" not in built(REPORT, elsewhere), "another image, another kind"


@pytest.mark.parametrize(
    ("change", "more"),
    [({"long_edge": 600}, set()), ({"compression": "rle"}, {"synthetic_images"}), ({"patient_in_image": False}, set())],
)
def test_a_choice_of_a_destination_changes_the_objects_that_it_concerns(change, more):
    before, after = (dict(every(film(), options=ResultOptions(**choice))) for choice in ({}, change))
    changed_kinds = {kind for kind, ds in before.items() if ds.SOPInstanceUID != after[kind].SOPInstanceUID}
    assert changed_kinds == {"secondary_capture", "report_page", "key_object"} | more


# --- plug-ins ---


def test_the_folder_is_the_registry():
    assert {"overlay", "secondary_capture", "structured_report"} <= set(KINDS)
    builders = {name: plugins.load("dicom_node.results.objects", name) for name in KINDS}
    assert len({builder.series for builder in builders.values()}) == len(builders)
    for name, ds in every(film(**GEOMETRY)):
        assert builders[name].name == name
        assert ds.SOPClassUID in builders[name].sop_class_uids
    for builder in builders.values():
        chain = [builder.name]
        while (following := builders[chain[-1]].fallback) is not None:
            assert following not in chain, "a fallback leads somewhere"
            chain.append(following)


def test_results_do_not_load_torch():
    script = (
        "import sys, dicom_node.explain.building; from explain_core import plugins;"
        "[plugins.load('dicom_node.results.objects', n) for n in plugins.available('dicom_node.results.objects')];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False).returncode == 0
