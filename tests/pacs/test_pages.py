"""What docs/pacs/ and docs/ihe-air.md say of results is what the objects have that are really built."""

import re

import pytest
from conformance import example
from contexts import items

from dicom_node.results import ResultOptions
from explain_core import plugins


def rows(page, columns):
    """The rows of the tables of a page that have so many columns and begin with a name in code."""
    lines = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines if len(cells) == columns}


@pytest.fixture(scope="module")
def built():
    return {name: one.whole for name, one in example.built().items()}


@pytest.mark.slow
def test_hanging_protocols_find_what_the_page_says(built, root):
    lines = (root / "docs" / "pacs" / "hanging.md").read_text().splitlines()
    table = [re.split(r" ?\| ?", line.strip("| ")) for line in lines if line.startswith("| `")]
    assert {cells[0].strip("`") for cells in table} == set(built)
    for name, modality, number, description, *image_type in table:
        ds = built[name.strip("`")]
        assert (ds.Modality, str(ds.SeriesNumber)) == (modality, number)
        assert ds.SeriesDescription.startswith(description)
        said = image_type[0].strip() if image_type else ""
        assert "\\".join(ds.get("ImageType", ())[:2]) == said


def test_what_a_pacs_must_accept_is_what_builders_make(root):
    page = root / "docs" / "pacs" / "any.md"
    for name, (_, uid, otherwise) in rows(page, 4).items():
        builder = plugins.load(example.RESULTS, name)
        assert builder.sop_class_uids == (uid,)
        named = {"report_page": "a page as Secondary Capture", None: "must be accepted"}
        assert named.get(builder.fallback, f"`{builder.fallback}`") in otherwise
    assert set(ResultOptions().objects) <= set(rows(page, 4))


def test_nothing_of_the_node_s_is_of_a_radiograph_s_modality(built):
    """By this alone a rule on CR and DX sends nothing back."""
    assert {ds.Modality for ds in built.values()}.isdisjoint({"CR", "DX", "DR", "RG"})
    assert {ds.Manufacturer for ds in built.values()} == {ResultOptions().manufacturer}


def test_every_measurement_group_is_tracked(built):
    groups = [one for one in items(built["structured_report"]) if _name(one) == "125007"]
    assert groups
    uids = set()
    for group in groups:
        found = {_name(one): one for one in group.ContentSequence}
        assert found["112039"].TextValue
        uids.add(found["112040"].UID)
    assert len(uids) == len(groups)


def test_every_line_of_the_integration_statement_names_a_test_that_exists(root):
    lines = [line for line in (root / "docs" / "ihe-air.md").read_text().splitlines() if "| tests/" in line]
    assert len(lines) > 10
    for line in lines:
        path, name = re.search(r"\| (tests/\S+\.py)::(test_\w+) \|$", line).groups()
        assert f"def {name}(" in (root / path).read_text(), line


def test_the_report_is_not_the_root_that_air_asks_for(built):
    """Should this change, docs/ihe-air.md may claim more."""
    assert built["structured_report"].SOPClassUID.name == "Comprehensive SR Storage"


def _name(item):
    return item.ConceptNameCodeSequence[0].get("CodeValue") if "ConceptNameCodeSequence" in item else None
