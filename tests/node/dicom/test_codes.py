"""Body part and view: the words of equipment, their relatives, and the tables of PS3.16 as pydicom has them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes as tables
from radiographs import shared_case

from dicom_node.dicom import codes, suitability
from dicom_node.dicom.codes import BodyPart, View
from dicom_node.dicom.reading import read
from dicom_node.errors import StudyUnsuitable

CHEST = ("CHEST", "Thorax", "TORAX", "TÓRAX", "Torace", "LUNG", "poumons", "Lunge")
BESIDE = (
    "PORT",
    "PORTABLE",
    "1V",
    "2 views",
    "XR",
    "X-RAY",
    "erect",
    "SUPINE",
    "UPRIGHT",
    "de",
    "adult",
    "single view",
)
PA = ("PA", "p.a.", "P-A", "P/A", "POSTERO_ANTERIOR", "postero-anterior", "POSTEROANTERIOR", "posterior anterior")
AP = ("AP", "a.p.", "A-P", "ANTERO_POSTERIOR", "anteroposterior")
FRONTAL = ("FRONTAL", "face", "FRENTE", "frontale")
LATERAL = ("LATERAL", "lat", "LL", "RL", "profil", "Perfil", "seitlich", "latero-laterale", "LATERALE", "LLAT")
OTHER = ("RAO", "LPO", "lordotic", "LLD", "oblique", "decubitus")
SEPARATORS = st.sampled_from([" ", "  ", ", ", " - ", "_", " / ", "^"])


def said(find, **elements):
    ds = Dataset()
    for keyword, value in elements.items():
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    found = find(ds)
    return None if found is None else found.what


@st.composite
def phrases(draw, *words, beside=BESIDE):
    """One of each list of words and some that change nothing, in any order and with any separators."""
    chosen = [draw(st.sampled_from(one)) for one in words] + draw(st.lists(st.sampled_from(beside), max_size=3))
    separator = draw(SEPARATORS)
    text = separator.join(draw(st.permutations(chosen)))
    return draw(st.sampled_from([text, text.upper(), text.lower(), f" {text} "]))


@given(phrases(CHEST))
def test_the_chest_by_any_of_its_words(text):
    assert said(codes.body_part, BodyPartExamined=text) is BodyPart.CHEST


@given(phrases(CHEST, ("ABDOMEN", "SPINE", "RIBS", "PELVIS", "WALL", "HAND")))
def test_with_another_part_beside_it_is_not_the_chest(text):
    assert said(codes.body_part, BodyPartExamined=text) is BodyPart.OTHER


@given(st.text("ABCDEFGHIKMNOPQRSTUVWYZ0123456789_ ", max_size=16))
def test_any_other_word_is_not_the_chest(text):
    known = {"CHEST", "CXR", "LONG"}
    if text.strip() and not any(word in text for word in known):
        found = said(codes.body_part, BodyPartExamined=text)
        assert found is BodyPart.OTHER or {*re.findall("[A-Z]+", text)} & codes._CHEST_WORDS


@pytest.mark.parametrize(
    ("words", "expected"),
    [(PA, View.PA), (AP, View.AP), (FRONTAL, View.FRONTAL), (LATERAL, View.LATERAL), (OTHER, View.OTHER)],
)
@given(data=st.data())
def test_a_view_by_any_of_its_words_wherever_they_stand(words, expected, data):
    assert said(codes.view, ViewPosition=data.draw(phrases(words))) is expected
    text = data.draw(phrases(words, CHEST))
    for keyword in ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription"):
        assert said(codes.view, **{keyword: text}) is expected
    assert said(codes.view, ViewPosition=None, BodyPartExamined=text) is expected


@given(phrases(PA, AP))
def test_two_frontal_views_are_frontal(text):
    assert said(codes.view, SeriesDescription=text) is View.FRONTAL


@given(phrases(PA + AP + FRONTAL, LATERAL))
def test_words_for_several_images_state_no_view(text):
    assert said(codes.view, StudyDescription=text) is None
    assert said(codes.view, SeriesDescription=text) is None
    assert said(codes.view, ViewPosition="PA", StudyDescription=text) is View.PA


@pytest.mark.parametrize("text", ["chest pa and oblique", "Thorax p.a., decubitus"])
def test_an_odd_view_counts_for_the_image_and_not_for_the_study(text):
    assert said(codes.view, SeriesDescription=text) is View.OTHER
    assert said(codes.view, StudyDescription=text) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("L", View.LATERAL), ("R", View.LATERAL), ("PA L", View.PA), ("XYZ", View.OTHER)]
)
def test_letters_for_sides_and_unknown_words(text, expected):
    assert said(codes.view, ViewPosition=text) is expected
    if text in {"L", "R"}:
        assert said(codes.view, SeriesDescription=f"CHEST {text}") is None


@pytest.mark.parametrize("text", ["PORTABLE", "ERECT", "", " ", ["", ""]])
def test_a_position_without_a_view_states_none(text):
    assert said(codes.view, ViewPosition=text) is None
    assert said(codes.view, ViewPosition=text, SeriesDescription="Chest lateral") is View.LATERAL
    assert said(codes.body_part, BodyPartExamined=" ", AnatomicRegionSequence=item("T-D3000")) is BodyPart.CHEST


def test_letters_that_nobody_here_reads_are_something_else():
    assert said(codes.body_part, BodyPartExamined="\u0420\u0423\u041a\u0410") is BodyPart.OTHER
    assert said(codes.view, ViewPosition="\u0411\u041e\u041a") is View.OTHER


def test_what_is_made_for_it_comes_before_words():
    assert said(codes.view, ViewPosition="AP", SeriesDescription="Chest lateral") is View.AP
    assert said(codes.view, PatientOrientation=["P", "F"], SeriesDescription="Chest PA") is View.LATERAL
    assert said(codes.view, PatientPosition="PA", PatientOrientation=["P", "F"]) is View.PA


def item(value):
    ds = Dataset()
    ds.CodeValue = value
    return [ds]


def test_codes_are_those_of_the_tables():
    views = tables.cid4010
    expected = {
        View.PA: [views.PosteroAnterior],
        View.AP: [views.AnteroPosterior],
        View.FRONTAL: [views.Frontal],
        View.LATERAL: [
            views.LateralProjection,
            views.LeftLateral,
            views.RightLateral,
            views.LateralMedial,
            views.MedioLateralProjection,
            views.Sagittal,
        ],
        View.OTHER: [views.LeftOblique, views.AnteroPosteriorOblique, views.ObliqueAxial],
    }
    for view, concepts in expected.items():
        for concept in concepts:
            for value in (concept.value, mapping["SCT"].get(concept.value, concept.value)):
                assert said(codes.view, ViewCodeSequence=item(value)) is view, concept
    for concept in (tables.cid4031.Chest, tables.cid4.Lung, tables.cid4.Thorax):
        assert said(codes.body_part, AnatomicRegionSequence=item(concept.value)) is BodyPart.CHEST
    for concept in (tables.cid4031.ThoracicSpine, tables.cid4031.ChestAndAbdomen, tables.cid4031.Hand):
        assert said(codes.body_part, AnatomicRegionSequence=item(concept.value)) is BodyPart.OTHER


def test_an_empty_body_part_leaves_the_region_to_say_it():
    assert said(codes.body_part, BodyPartExamined="", AnatomicRegionSequence=item("T-D3000")) is BodyPart.CHEST
    assert said(codes.body_part, BodyPartExamined="HAND", AnatomicRegionSequence=item("T-D3000")) is BodyPart.OTHER
    assert said(codes.body_part) is None


@pytest.mark.parametrize("name", ["06_dx_anatomic_region_only", "07_words_of_equipment"])
def test_equipment_of_public_reports_is_understood(name):
    files = sorted(shared_case(name).glob("*.dcm"))
    assert files
    for path in files:
        suitability.check(read(path))


def test_a_lateral_view_is_known_by_its_description():
    (path,) = shared_case("17_lateral_by_description").glob("*.dcm")
    with pytest.raises(StudyUnsuitable, match="its Series Description says LATERAL: not a frontal view"):
        suitability.check(read(path))
