"""docs/methods.md says of every method what its file says: source and settings."""

import dataclasses
import re
from pathlib import Path

import pytest

from explain_core import plugins

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
NOT_SETTINGS = {"network", "rule"}


@pytest.mark.parametrize("name", plugins.available("explain_core.methods"))
def test_a_method_has_its_paragraph_its_source_and_its_settings(name):
    method = plugins.load("explain_core.methods", name)
    section = " ".join(SECTIONS[name].split())
    paragraph, source = section.split("- Source: ")
    assert len(paragraph) > 60
    assert source.startswith(method.reference)
    for field in dataclasses.fields(method):
        if field.name in NOT_SETTINGS:
            continue
        written = re.search(rf"`{field.name}` (\S+?)(?:,|$| )", source)
        assert written, f"docs/methods.md: {name} lacks {field.name}"
        value = written[1].split("/")
        stated = value[0] if len(value) == 1 else str(float(value[0]) / float(value[1]))
        assert stated == str(field.default), f"docs/methods.md: {name}.{field.name}"
