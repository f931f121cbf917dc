"""docs/configuration.md is what the settings and the comments of the shipped file say."""

import re

import configuration_page as made


def test_the_page_is_the_settings():
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: python tests/docs/configuration_page.py"


def test_every_key_has_a_meaning():
    rows = re.findall(r"(?m)^\| `(\w+)` \|.*\| (.*) \|$", made.page())
    assert len(rows) > 100
    assert [key for key, meaning in rows if not meaning.strip()] == [], "say it in deploy/dicom-node.toml"


def test_a_comment_belongs_to_its_key():
    text = '[a]  # whole\nb = "x # y"  # first\n# c = 2\n# [[d]]\n# b = [1, 2]  # other\n# b = 3 # again\n'
    assert made.comments_of(text) == {"a": "whole", "a.b": "first", "a.c": "", "d.b": "other; again"}
