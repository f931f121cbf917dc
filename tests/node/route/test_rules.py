"""Routing: the default rules on real and invented headers, the laws of matching, and no loops."""

import re
import warnings

import pytest
import strategies
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from radiographs import header as chest

from dicom_node.errors import Reason
from dicom_node.nouns import PassedBy
from dicom_node.route import rules
from dicom_node.route.rules import Action, decide_instance, decide_study, values_of
from dicom_node.settings.loading import load_settings

DESTINATION = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
DEFAULTS = load_settings(
    None, {"DICOM_NODE_DESTINATIONS": '[{"name":"pacs","ae_title":"PACS","host":"127.0.0.1","port":104}]'}
).rules
CT = "1.2.840.10008.5.1.4.1.1.2"
LATERAL = "it is a lateral view: View Position is 'LL'"


def code(value):
    item = Dataset()
    item.CodeValue = value
    return [item]


def decide(header, calling="MODALITY"):
    return decide_instance(header, calling, DEFAULTS)


def custom(tmp_path, text):
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load_settings(file, {}).rules


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ViewPosition": "AP"},
        {"ViewPosition": "pa"},
        {"ViewPosition": None},
        {"ViewPosition": ""},
        {"ViewPosition": None, "ViewCodeSequence": code("399348003")},
        {"ViewPosition": None, "PatientOrientation": ["L", "F"]},
        {"Modality": "DX"},
        {"BodyPartExamined": "THORAX"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},  # Secondary Capture that says Modality CR
        {"NumberOfFrames": "1"},
    ],
)
def test_frontal_chest_radiographs_are_explained(changes):
    decision = decide(chest(**{"ViewPosition": "PA", **changes}))
    assert decision.action is Action.EXPLAIN
    assert decision.reason is None
    assert decision.route is not None
    assert decision.route.name == "chest-frontal"
    assert decision.route.destinations == ("pacs",)
    assert decision.route.results == (), "no restriction: what the destination wants"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ViewPosition": "LL"}, "it is a lateral view: View Position is 'LL'"),
        ({"ViewPosition": "LATERAL"}, "it is a lateral view: View Position is 'LATERAL'"),
        (
            {"ViewPosition": None, "SeriesDescription": "Doe^Jane, Thorax seitl."},
            "it is a lateral view: its Series Description says SEITL",
        ),
        ({"ViewPosition": "RLO"}, "it is neither a PA nor an AP view: View Position is 'RLO'"),
        (
            {"ViewPosition": None, "ViewCodeSequence": code("R-10236")},
            "it is a lateral view: View Code is R-10236",
        ),
        (
            {"ViewPosition": None, "ViewCodeSequence": code("399184004")},
            "it is neither a PA nor an AP view: View Code is 399184004",
        ),
        (
            {"ViewPosition": None, "PatientOrientation": ["P", "F"]},
            "it is a lateral view: its rows run front to back",
        ),
        ({"BodyPartExamined": "HAND"}, "it does not show the chest: Body Part Examined is 'HAND'"),
        ({"BodyPartExamined": None}, "nothing in its header says that it shows the chest"),
        ({"Modality": "CT", "SOPClassUID": CT}, "it is not a radiograph (CR, DX, DR or RG)"),
        ({"Modality": None}, "it is not a radiograph (CR, DX, DR or RG)"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "it is a raw image for processing, not for presentation"),
        ({"NumberOfFrames": "2"}, "it has several frames"),
        ({"NumberOfFrames": "10"}, "it has several frames"),
    ],
)
def test_everything_else_is_ignored_with_a_plain_reason(changes, reason):
    decision = decide(chest(**{"ViewPosition": "PA", **changes}))
    assert (decision.action, decision.route, decision.reason) == (Action.IGNORE, None, reason)


@pytest.mark.parametrize(
    ("file", "action"),
    [("RG1_UNCR.dcm", Action.EXPLAIN), ("RG3_UNCR.dcm", Action.IGNORE), ("CT_small.dcm", Action.IGNORE)],
)
def test_real_files(file, action):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dcmread(get_testdata_file(file), stop_before_pixels=True)
    assert decide(header).action is action


def test_results_of_this_node_are_passed_over():
    """The builders' own marker, not a copy of it: otherwise the node could answer its own answers."""
    from contexts import refused_study

    from dicom_node.results import ResultOptions
    from dicom_node.results.header import start

    answer = refused_study(chest(), options=ResultOptions(manufacturer="Any name"))
    result = start(answer, "secondary_capture", "1.2.840.10008.5.1.4.1.1.7")
    for keyword in ("Modality", "BodyPartExamined"):
        setattr(result, keyword, chest()[keyword].value)
    result.ViewPosition = "PA"
    decision = decide(result, calling="PACS")
    assert (decision.action, decision.reason) == (Action.PASS_OVER, rules.OWN_RESULT)
    del result.ContributingEquipmentSequence
    assert decide(result).action is Action.EXPLAIN  # the marker is what the decision hangs on


@pytest.mark.parametrize("sop_class", ["88.33", "88.59", "11.1", "66.4", "30"])
def test_answers_of_others_never_start_work(sop_class):
    header = chest(SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop_class}")
    study = decide_study([("1.2.3", header, "PACS")], DEFAULTS)
    assert study.silent
    assert study.passed_over == ("1.2.3",)
    assert study.reason == rules.ONLY_ANSWERS


def test_a_study_keeps_routes_and_reasons_apart():
    grey = {"PhotometricInterpretation": "MONOCHROME2"}
    frontal, lateral, report = chest(ViewPosition="PA"), chest(ViewPosition="LL", **grey), chest(SOPClassUID=CT)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    images = [("1.1", frontal, "A"), ("1.2", lateral, "A"), ("1.3", report, "A"), ("1.4", frontal, "A")]
    study = decide_study(images, DEFAULTS)
    assert {route.name: uids for route, uids in study.routes.items()} == {"chest-frontal": ("1.1", "1.4")}
    assert study.ignored == (PassedBy(sop_instance_uid="1.2", reason=LATERAL, code=Reason.VIEW),)
    assert study.passed_over == ("1.3",)
    assert not study.silent
    assert study.reason is None


def test_a_study_without_a_usable_image_says_why():
    lateral, hand = chest(ViewPosition="LL"), chest(BodyPartExamined="HAND")
    assert decide_study([("1.1", lateral, "A")], DEFAULTS).reason == LATERAL
    assert decide_study([("1.1", lateral, "A"), ("1.2", hand, "A"), ("1.3", lateral, "A")], DEFAULTS).reason == (
        f"{LATERAL} (2); it does not show the chest: Body Part Examined is 'HAND' (1)"
    )


def test_no_rules_ignore_everything():
    assert decide_instance(chest(), "A", ()).reason == rules.NO_RULE


def test_calling_ae_title_and_any_keyword(tmp_path):
    own = custom(
        tmp_path,
        """
        [[rules]]
        name = "mobile"
        action = "ignore"
        reason = "portable"
        when = [{ tag = "CallingAETitle", equals = "mobile1" }]
        [[rules]]
        name = "station"
        action = "explain"
        when = [{ tag = "KVP", equals = 90 }, { tag = "StationName", regex = "room [0-9]+" }]
        """,
    )
    header = chest(KVP="90", StationName="ROOM 12")
    assert decide_instance(header, "MOBILE1 ", own).reason == "portable"
    assert decide_instance(header, "OTHER", own).action is Action.EXPLAIN
    for other in ("AROOM 12", "ROOM 12A"):
        assert decide_instance(chest(KVP="90", StationName=other), "OTHER", own).reason == rules.NO_RULE


def test_the_trail_explains_and_withholds_values():
    canary = chest(
        PatientName="Canary^Bird",
        SeriesDescription="Canary lateral",
        PresentationIntentType="CANARY",
        ViewPosition=None,
    )
    decision = decide(canary)
    assert "CANARY" not in " ".join(step.text for step in decision.steps).upper()
    assert "CANARY" not in repr(decision).upper()
    assert decision.steps[0].text == "Modality in CR, DX, DR, RG: holds"
    assert any(step.found == ("CANARY",) for step in decision.steps)


def naive(header, calling, given_rules):
    """The module's docstring, written out slowly."""
    for rule in given_rules:
        outcomes = []
        for condition in rule.when:
            if condition.tag == "CallingAETitle":
                values = [calling]
            else:
                raw = header.get_item(condition.tag)
                text = raw.value if raw is not None else ""
                text = text.decode() if isinstance(text, bytes) else text
                values = text.split("\\") if isinstance(text, str) else list(text)
            values = [value.strip().lower() for value in values if value.strip()]
            if not values:
                outcomes.append(condition.missing == "match")
            elif condition.equals is not None:
                outcomes.append(condition.equals.lower() in values)
            elif condition.one_of is not None:
                outcomes.append(bool({text.lower() for text in condition.one_of} & set(values)))
            else:
                outcomes.append(any(re.match(f"(?i:{condition.regex})\\Z", value) for value in values))
        if all(outcomes):
            return rule
    return None


@given(strategies.headers(), st.sampled_from(["MOBILE", "OTHER"]), strategies.rule_lists)
def test_first_match_wins_as_in_the_slow_twin(header, calling, given_rules):
    expected = naive(header, calling, given_rules)
    assert decide_instance(header, calling, given_rules).rule is expected


SEQUENCE_AS_TAG = Dataset()
SEQUENCE_AS_TAG.add_new("ContributingEquipmentSequence", "AT", 0x0100)


@given(strategies.raw_headers(), strategies.rule_lists)
@example(SEQUENCE_AS_TAG, ())
def test_damaged_headers_are_decided_and_never_raise(header, given_rules):
    assert decide_instance(header, "ANY", (*given_rules, *DEFAULTS)).action in Action


def test_values_of_a_sequence_are_those_of_all_items():
    header = chest(ViewCodeSequence=[*code("1"), *code("2")])
    assert values_of(header, "", "ViewCodeSequence.CodeValue") == ("1", "2")
