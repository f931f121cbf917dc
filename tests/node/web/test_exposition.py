"""The tables of metrics in docs/monitoring.md are those of the code."""

import re

import pytest

from dicom_node.watch.metrics import MEASURES, PREFIX
from dicom_node.web.exposition import GAUGES

GAUGE_ROWS = [(name, labels, text) for name, (text, labels) in GAUGES.items()]
MEASURE_ROWS = [(one.name, one.labels, f"{one.kind.__name__.lower()}. {one.text}") for one in MEASURES]


def table(rows):
    lines = ["| metric | labels | what |", "|---|---|---|"]
    for name, labels, text in rows:
        lines.append(f"| `{PREFIX}{name}` | {', '.join(labels)} | {text} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("kind", "rows"), [("gauges", GAUGE_ROWS), ("measures", MEASURE_ROWS)])
def test_the_document_has_the_table_of_the_code(root, kind, rows):
    page = (root / "docs" / "monitoring.md").read_text()
    (shown,) = re.findall(rf"<!-- {kind}: [^>]*-->\n\n((?:\|.*\n)+)", page)
    assert shown.strip() == table(rows)


def test_no_name_is_used_twice():
    names = [*GAUGES, *(one.name for one in MEASURES)]
    assert len(set(names)) == len(names)
