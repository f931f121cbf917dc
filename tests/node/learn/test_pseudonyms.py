"""Pseudonyms and the few facts that stay of a header."""

import io

import pytest
from exporting import film
from pydicom import dcmread
from pydicom.errors import BytesLengthException
from radiographs import encode, real, synthetic

from dicom_node.dicom import reading
from dicom_node.learn import pseudonyms
from dicom_node.learn.pseudonyms import Pseudonyms

KEY = bytes(range(32))


def test_the_fingerprint_is_that_of_hmac_sha256():
    """Of "fingerprint", by openssl: it must stay the same for years, as the names."""
    assert pseudonyms.fingerprint(KEY) == "5ab8c392c2c54035"


def test_pseudonyms_depend_on_the_key_the_issuer_and_the_id_and_on_nothing_else():
    names, others = Pseudonyms(KEY), Pseudonyms(bytes(32))
    name, identified = names.patient(synthetic(PatientID="A1"), "1.2")
    assert identified
    assert (name, True) == names.patient(synthetic(PatientID=" A1 ", PatientName="Other^Name"), "1.3")
    different = [
        names.patient(synthetic(PatientID="A2"), "1.2")[0],
        names.patient(synthetic(PatientID="A1", IssuerOfPatientID="X"), "1.2")[0],
        names.patient(synthetic(PatientID="1", IssuerOfPatientID="A"), "1.2")[0],
        others.patient(synthetic(PatientID="A1"), "1.2")[0],
        names.patient(synthetic(PatientID=None), "1.2")[0],
        names.patient(synthetic(PatientID=""), "1.3")[0],
        names.study("A1"),
        names.image("A1"),
    ]
    assert len({name, *different}) == 9
    assert names.patient(synthetic(PatientID=None), "1.2") == (different[4], False)
    assert repr(names) == "Pseudonyms()"


def test_the_name_is_that_of_hmac_sha256():
    """Of '["study", "1.2.3"]', by openssl; a change of the scheme must not pass: names stay the same for years."""
    assert Pseudonyms(KEY).study("1.2.3") == "s683f78e087fca524090a"


def test_the_basic_profile_leaves_no_identity_and_keeps_sex_age_and_view():
    source = film(
        1,
        PatientName="Canary^Bird",
        OperatorsName="Zeisig^Otto",
        PatientAddress="Vogelsangweg 17",
        RequestAttributesSequence=[synthetic(ScheduledProcedureStepDescription="of Canary")],
    )
    source.add_new((0x0009, 0x0010), "LO", "MAKER")
    source.add_new((0x0009, 0x1001), "LO", "Canary")
    before = source.to_json()
    ds = pseudonyms.deidentified(source)
    assert source.to_json() == before
    text = str(ds)
    for canary in (
        "Canary",
        "CANARY",
        "Zeisig",
        "Vogelsang",
        "A1",
        "S1",
        "Doe",
        "Test Hospital",
        "20240506",
        "19500102",
    ):
        assert canary not in text, canary
    assert str(source.StudyInstanceUID) not in text
    assert (ds.PatientSex, ds.PatientAge, ds.ViewPosition) == ("F", "061Y", "PA")


def test_uids_of_patients_do_not_stay_in_the_librarys_memory():
    from dicomanonymizer import simpledicomanonymizer

    pseudonyms.facts(film(1))
    assert simpledicomanonymizer.dictionary == {}


def test_facts_of_a_real_header():
    facts = pseudonyms.facts(reading.read(real("RG1_UNCR.dcm")))
    assert (facts.sex, facts.age, facts.view, facts.modality, facts.photometric) == ("F", 64, "PA", "CR", "MONOCHROME1")


@pytest.mark.parametrize(
    ("stated", "age"),
    [
        ("061Y", 61),
        ("61", 61),
        ("090Y", 90),
        ("101Y", 90),
        ("018M", 1),
        ("011M", 0),
        ("100W", 1),
        ("400D", 1),
        ("old", 73),
    ],
)
def test_ages_in_whole_years_up_to_ninety(stated, age):
    assert pseudonyms.facts(synthetic(PatientAge=stated, PatientBirthDate="19500507")).age == age


def test_the_view_by_position_by_code_or_where_some_write_it():
    code = synthetic(CodeValue="R-10206")
    assert pseudonyms.facts(synthetic(ViewPosition="AP")).view == "AP"
    assert pseudonyms.facts(synthetic(ViewPosition=None, ViewCodeSequence=[code])).view == "AP"
    assert pseudonyms.facts(synthetic(ViewPosition=None, PatientPosition="PA")).view == "PA"
    assert pseudonyms.facts(synthetic(ViewPosition=None)).view == ""


def test_elements_that_are_no_value_of_their_vr_cost_no_image():
    source = synthetic()
    source.add_new((0x0018, 0x9306), "FL", 1.0)
    source = dcmread(io.BytesIO(encode(source).replace(b"\x18\x00\x06\x93FL", b"\x18\x00\x06\x93FD")))
    assert pseudonyms.facts(source).sex == "F"
    with pytest.raises(BytesLengthException, match="Expected total bytes"):
        source["SingleCollimationWidth"]
