"""docs/reliability.md names a test for each promise."""

import re


def test_every_promise_names_a_test_that_exists(root):
    rows = [line for line in (root / "docs" / "reliability.md").read_text().splitlines() if "| tests/" in line]
    assert len(rows) > 20
    for row in rows:
        path, name = re.search(r"\| (tests/\S+\.py)::(test_\w+) \|$", row).groups()
        assert f"def {name}(" in (root / path).read_text(), row
