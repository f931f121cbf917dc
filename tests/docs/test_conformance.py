"""docs/conformance.md is what the code makes of itself, and what it says of objects is true of those that are built."""

from copy import deepcopy
from itertools import pairwise

import conformance_page
import pytest
from conformance import example, objects, result_sop_classes, terms
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.dicom.negotiation import TRANSFER_SYNTAXES
from dicom_node.dicom.tls import CIPHER_SUITES
from dicom_node.results import codes
from dicom_node.settings.sections import DeliverySettings, NodeSettings, TLSSettings
from dicom_node.status import COMMITMENT_MEANING, FAILURES, REJECTIONS, STATUS_MEANING
from explain_core import plugins


@pytest.fixture(scope="module")
def statement():
    return conformance_page.render()


@pytest.fixture(scope="module")
def contents():
    return objects.contents(example.built())


def test_the_page_is_the_one_made_from_the_code_and_the_command_prints_it(statement):
    assert conformance_page.PAGE.read_text() == statement, "run: python tests/docs/conformance_page.py"
    done = CliRunner().invoke(app, ["conformance"], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, statement)


def test_it_has_every_line_of_the_code_s_tables(statement):
    lines = set(statement.splitlines())
    assert {f"| {one.name} | {one} |" for one in TRANSFER_SYNTAXES} <= lines
    for status, (name, meaning) in (*STATUS_MEANING.items(), *COMMITMENT_MEANING.items()):
        assert f"| 0x{status:04X} | {name} | {meaning} |" in lines
    for one in REJECTIONS:
        assert f"| {one.result} | {one.source} | {one.diagnostic} | {one.meaning} |" in lines
    for reason, failure in FAILURES.items():
        assert f"| 0x{reason:04X} | {failure.meaning} |" in "\n".join(lines)
    for suite in CIPHER_SUITES:
        assert suite in statement
    for section, of in (("node", NodeSettings), ("tls", TLSSettings), ("delivery", DeliverySettings)):
        for key in of.model_fields:
            assert f"| `{section}.{key}` |" in statement
    for name in plugins.available(example.RESULTS):
        assert f"#### {name}: " in statement
        assert all(uid in statement for uid in result_sop_classes()[name])
    for value in {one.value for one in codes.REASONS.values()}:
        assert f"| {value} |" in statement


def test_its_sections_follow_the_template(statement):
    """PS3.2, Annex A: the numbers that headings begin with only grow."""
    found = [line.lstrip("# ").split()[0] for line in statement.splitlines() if line.startswith("#")]
    numbers = [tuple(int(part) for part in one.split(".")) for one in found if one.replace(".", "").isdigit()]
    assert all(before < after for before, after in pairwise(numbers)), numbers
    assert {(1,), (3,), (4,), (4, 1), (4, 2), (4, 3), (4, 4), (5,), (6,), (7,), (8,)} <= set(numbers)
    assert {(8, 1), (8, 2), (8, 3), (8, 4), (8, 5), (8, 6)} <= set(numbers)


def row(contents, kind, name):
    return next(
        one for blocks in contents[kind].modules.values() for block in blocks for one in block if one.name == name
    )


@pytest.mark.parametrize(
    ("name", "presence", "source"),
    [
        ("Patient's Name", "VNAP", "COPY"),
        ("Patient's Age", "ANAP", "COPY"),
        ("Study Instance UID", "ALWAYS", "COPY"),
        ("Institution Name", "ANAP", "CONFIG, else COPY"),
        ("Manufacturer", "ALWAYS", "CONFIG"),
        ("Series Number", "ALWAYS", "CONFIG"),
        ("Content Qualification", "ALWAYS", "CONFIG"),
        ("Device UID", "ALWAYS", "AUTO"),
        ("SOP Instance UID", "ALWAYS", "AUTO"),
    ],
)
def test_where_attributes_come_from_is_seen_by_what_changes_them(contents, name, presence, source):
    for kind in contents:
        found = row(contents, kind, name)
        assert (found.presence, found.source) == (presence, source), kind


def test_fixed_values_are_stated_and_those_of_the_example_are_not(contents):
    assert row(contents, "secondary_capture", "Conversion Type").value == "WSD"
    assert row(contents, "structured_report", "Verification Flag").value == "UNVERIFIED"
    for name in ("Rows", "Series Description", "Instance Number", "SOP Instance UID"):
        assert row(contents, "secondary_capture", name).value == ""
    report = row(contents, "structured_report", "Referenced Performed Procedure Step Sequence")
    assert report.presence == "EMPTY"


def test_an_attribute_that_a_builder_drops_or_adds_changes_the_statement():
    built = example.built()
    before = objects.contents(built)
    changed = {kind: example.Variants._make(deepcopy(ds) for ds in one) for kind, one in built.items()}
    del changed["secondary_capture"].poor["ConversionType"]
    changed["overlay"].whole.GantryDetectorTilt = "1"
    after = objects.contents(changed)
    assert row(before, "secondary_capture", "Conversion Type").presence == "ALWAYS"
    assert row(after, "secondary_capture", "Conversion Type").presence == "ANAP"
    more = set(objects.extended(changed)) - set(objects.extended(built))
    assert more == {("Secondary Capture Image Storage", "Gantry/Detector Tilt", "(0018,1120)")}


def test_codes_are_in_the_context_groups_that_it_names():
    """What is in none extends its group; a new one has to be looked at."""
    every = [one.whole for one in example.built().values()] + [example.refused()]
    found = {one for ds in every for one in terms.used(ds)}
    assert terms.context_group(terms.Used("Laterality", "7771000", "SCT", "Left")) == "CID 244"
    extending = {(one.where, one.value) for one in found if "extended" in terms.context_group(one)}
    assert extending == {
        ("Derivation Code Sequence", "130401"),
        ("Derivation Code Sequence", "adversarial"),
        ("Finding", "130401"),
        ("Procedure reported", "399208008"),
    }


def test_nothing_of_what_it_does_not_claim_is_in_the_objects():
    for one in example.built().values():
        for ds in one.made:
            assert not [element for element in ds if element.tag.is_private]
