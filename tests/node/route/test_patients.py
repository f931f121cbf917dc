"""Two patients under one Study Instance UID are told apart, whatever else their headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from radiographs import header as chest

from dicom_node.errors import Reason
from dicom_node.nouns import SOPInstanceUID
from dicom_node.route.patients import OTHER_PATIENT, Patient, patient_of
from dicom_node.route.rules import decide_study
from dicom_node.settings.loading import load_settings

RULES = load_settings(
    None, {"DICOM_NODE_DESTINATIONS": '[{"name":"pacs","ae_title":"PACS","host":"127.0.0.1","port":104}]'}
).rules
WORDS = st.sampled_from(["", "A", "B"])
PATIENTS = st.builds(Patient, identifier=WORDS, issuer=WORDS, family=WORDS, birth_date=WORDS)


def of(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return patient_of(ds)


@pytest.mark.parametrize(
    ("one", "other", "may_be"),
    [
        ({"PatientID": "A"}, {"PatientID": "A"}, True),
        ({"PatientID": "A"}, {"PatientID": " A\0"}, True),
        ({"PatientID": "A"}, {"PatientID": "B"}, False),
        ({"PatientID": "a"}, {"PatientID": "A"}, False),
        ({"PatientID": "A", "IssuerOfPatientID": "X"}, {"PatientID": "A", "IssuerOfPatientID": "Y"}, False),
        ({"PatientID": "A", "IssuerOfPatientID": "X"}, {"PatientID": "A"}, True),
        ({"PatientID": "A", "PatientName": "Miller^Ann"}, {"PatientID": "A", "PatientName": "Smith^Ann"}, True),
        ({"PatientID": "A", "PatientName": "Miller"}, {"PatientID": "", "PatientName": "MILLER^ANN"}, True),
        ({"PatientID": "A", "PatientName": "Miller"}, {"PatientName": "Smith"}, False),
        ({"PatientName": "Miller", "PatientBirthDate": "19600101"},
         {"PatientName": "Miller", "PatientBirthDate": "19700101"}, False),
        ({"PatientID": "A"}, {}, True),
        ({}, {}, True),
    ],
)  # fmt: skip
def test_identifiers_decide_and_names_where_one_is_missing(one, other, may_be):
    assert of(**one).may_be(of(**other)) is may_be
    assert of(**other).may_be(of(**one)) is may_be


@given(PATIENTS, PATIENTS)
def test_it_is_symmetric_and_everybody_may_be_himself(one, other):
    assert one.may_be(one)
    assert one.may_be(other) is other.may_be(one)
    assert one.may_be(Patient())


def test_a_damaged_header_states_nothing_and_raises_nothing():
    ds = Dataset()
    for keyword, vr in (("PatientID", "LO"), ("PatientName", "PN"), ("PatientBirthDate", "DA")):
        tag = Tag(keyword)
        ds[tag] = RawDataElement(tag, vr, 4, b"\xff\xfe\x1b$", 0, True, True)
    ds.SpecificCharacterSet = "NOTHING"
    assert isinstance(patient_of(ds), Patient)


def images(*patients):
    """Chest radiographs of these identifiers, in order of arrival."""
    return [(SOPInstanceUID(f"1.{n}"), chest(PatientID=one), "MODALITY") for n, one in enumerate(patients)]


@pytest.mark.parametrize(
    ("patients", "explained"),
    [
        (["A", "A", "A"], ["1.0", "1.1", "1.2"]),
        (["A", "B", "A", "C"], ["1.0", "1.2"]),
        (["", "A", "B"], ["1.0", "1.1"]),
        (["B", "A"], ["1.0"]),
    ],
)
def test_the_patient_who_came_first_is_answered_and_the_others_are_named(patients, explained):
    for number, (_, header, _) in enumerate(found := images(*patients)):
        if not patients[number]:
            header.PatientName = None
    decision = decide_study(found, RULES)
    assert [uid for uids in decision.routes.values() for uid in uids] == explained
    strangers = [one for one in decision.ignored if one.code is Reason.PATIENT]
    assert [one.sop_instance_uid for one in strangers] == [uid for uid, _, _ in found if uid not in explained]
    assert {one.reason for one in strangers} <= {OTHER_PATIENT}
    assert not any(one in OTHER_PATIENT for one in ("PAT", "FAKE")), "the reason names nobody"


@pytest.mark.parametrize(
    ("stated", "explained"),
    [
        ([("", "MUELLER", ""), ("4711", "MUELLER", "19400101"), ("0815", "MUELLER", "19900101")], [0, 1]),
        ([("4711", "", ""), ("", "SMITH", "19400101"), ("", "JONES", "19900101")], [0, 1]),
        ([("", "MUELLER", ""), ("0815", "MUELLER", "19900101"), ("", "MUELLER", "19400101")], [0, 1]),
        ([("", "", ""), ("", "SMITH", ""), ("4711", "SMITH", ""), ("4711", "JONES", "")], [0, 1, 2, 3]),
    ],
)
def test_what_the_first_image_does_not_state_the_next_one_does(stated, explained):
    """Emergency patients: two of one name are not taken together because a first image names neither."""
    found = [
        (SOPInstanceUID(f"1.{n}"), chest(PatientID=who, PatientName=f"{name}^A", PatientBirthDate=born), "MODALITY")
        for n, (who, name, born) in enumerate(stated)
    ]
    decision = decide_study(found, RULES)
    assert [uid for uids in decision.routes.values() for uid in uids] == [f"1.{n}" for n in explained]


def test_whose_the_earlier_revisions_are_decides():
    decision = decide_study(images("B", "A"), RULES, Patient(identifier="A"))
    assert [uid for uids in decision.routes.values() for uid in uids] == ["1.1"]
    nobody = decide_study(images("B"), RULES, Patient(identifier="A"))
    assert (nobody.routes, nobody.reason) == ({}, OTHER_PATIENT)


def test_a_report_of_another_patient_decides_nothing():
    """The PACS may hold reports and presentation states under the study, merged or moved since."""
    report = (SOPInstanceUID("1.9"), chest(PatientID="B", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"), "PACS")
    decision = decide_study([report, *images("A")], RULES)
    assert [uid for uids in decision.routes.values() for uid in uids] == ["1.0"]
    assert decision.passed_over == ("1.9",)
