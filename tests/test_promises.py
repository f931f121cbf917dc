"""docs/reliability.md names a test for each promise, docs/risk.md for each control of a risk."""

import re

import pytest


def rows(text):
    """Promise or control, file and name of the test of each row that names one."""
    return re.findall(r"(?m)^\| (.+) \| (tests/\S+\.py)::(test_\w+) \|$", text)


@pytest.mark.parametrize(("page", "least"), [("reliability.md", 20), ("risk.md", 100)])
def test_every_promise_names_a_test_that_exists(root, page, least):
    text = (root / "docs" / page).read_text()
    found = rows(text)
    assert len(found) > least
    assert len(found) == sum("tests/" in line for line in text.splitlines() if line.startswith("| "))
    for promise, path, name in found:
        assert f"def {name}(" in (root / path).read_text(), promise


def test_every_risk_has_controls_or_duties_a_residue_and_its_row(root):
    head, *risks = re.split(r"(?m)^## (?=\d)", (root / "docs" / "risk.md").read_text())
    assert len(risks) >= 20
    for risk in risks:
        title = risk.splitlines()[0]
        assert rows(risk), title
        assert "Residual: " in risk, title
        assert re.search(rf"(?m)^\| \[{re.escape(title)}\]\(\S+\) \| S[1-4] P[1-4] \| S[1-4] P[1-4] \| \S", head), title
        assert (
            re.findall(r"(?m)^\| (?!control |---)(?!.*\| tests/)(?!Site: .*\| none \|$).*", risk.split("## ")[0]) == []
        )


def test_what_is_accepted_follows_from_the_scales(root):
    limits = {"S1": 4, "S2": 3, "S3": 2, "S4": 1}
    table = re.findall(r"(?m)^\| \[.*\| (S\d) P(\d) \| (yes|\*\*no\*\*).*\|$", (root / "docs" / "risk.md").read_text())
    assert len(table) >= 20
    for severity, probability, accepted in table:
        assert (int(probability) <= limits[severity]) == (accepted == "yes"), (severity, probability)
