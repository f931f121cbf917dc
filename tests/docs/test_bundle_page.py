"""docs/bundle.md is what the reader of bundles reads: its files, its keys, and what it can do without."""

import re
import shutil
import tomllib
from dataclasses import fields

import pytest

from explain_core.bundles import bundle, files
from explain_core.errors import BundleError
from explain_core.explanation import HeatmapScale
from explain_core.generators.kinds import ON_FEATURES, ON_PIXELS
from explain_core.geometry import AffineRange, InputSpec
from explain_core.statistics import REFERENCE

SECOND = {"architecture": "resnet20", "threshold": 0.5, "size": 64}


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs" / "bundle.md").read_text(encoding="utf-8")


def rows(text, heading):
    """The first table under a heading, a list of cells each, without its head."""
    below = text.split(heading, 1)[1]
    table = re.search(r"(?m)(?:^\|.*\n)+", below)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def names(text, heading):
    return [row[0].strip("`") for row in rows(text, heading)]


class Read(dict):
    """A table that remembers which of its keys were asked for, by their path."""

    def __init__(self, table, asked, path=""):
        super().__init__({key: Read(one, asked, f"{path}{key}.") if isinstance(one, dict) else one
                          for key, one in table.items()})  # fmt: skip
        self._asked, self._path = asked, path

    def __getitem__(self, key):
        self._asked.add(f"{self._path}{key}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        self._asked.add(f"{self._path}{key}")
        return super().get(key, default)


def test_the_files_are_those_of_the_reader(text):
    known = {*files.REQUIRED, *files.CLASSIFIERS, files.SUMS, files.GENERATORS, files.SECOND, files.ATTRIBUTES}
    assert set(names(text, "## Files")) == known | {files.OUTLIER, REFERENCE}


def test_the_keys_are_those_that_the_reader_asks_for(text, root, monkeypatch):
    asked = set()
    description = tomllib.loads((root / "dicom_node" / "bundles" / "default" / "bundle.toml").read_text())
    watched = Read(description | {"second": SECOND}, asked)
    monkeypatch.setattr(bundle.tomllib, "loads", lambda _: watched)
    monkeypatch.setattr(bundle, "_fill", lambda *_: None)
    listed = bundle.listed
    monkeypatch.setattr(bundle, "listed", lambda sums: listed(sums) | {files.SECOND: ""})
    bundle.load(root / "dicom_node" / "bundles" / "default")
    tables = {"classifier", "input", "generators", "augmentation", "heatmap", "outlier", "second"}
    apart = {f"generators.{key}" for key in ON_FEATURES if key != "kind"}
    read = {path for path in asked - tables - apart if not path.startswith("heatmap.")}
    assert read == set(names(text, "## bundle.toml"))


def test_the_tables_are_those_of_their_types(text):
    assert names(text, 'Keys of `kind = "features"`:') == [key for key in ON_FEATURES if key != "kind"]
    assert sorted(names(text, "Keys of a kind on pixels:")) == sorted(key for key in ON_PIXELS if key != "kind")
    assert names(text, "### `[augmentation]`") == [field.name for field in fields(AffineRange)]
    assert set(names(text, "### `[heatmap.METHOD]`")) == {field.name for field in fields(HeatmapScale)} | {"blur"}
    assert {f"input.{field.name}" for field in fields(InputSpec)} <= set(names(text, "## bundle.toml"))


def test_what_the_page_calls_needed_is_needed_and_nothing_else(text, root, tmp_path):
    source = root / "dicom_node" / "bundles" / "default"
    folder = shutil.copytree(source, tmp_path / "bundle")
    needed = {row[0].strip("`"): row[2] for row in rows(text, "## bundle.toml")}
    for path in [path for path in needed if not path.startswith("second.")]:
        *table, key = path.split(".")
        without = tomllib.loads((source / "bundle.toml").read_text())
        (without[table[0]] if table else without).pop(key)
        (folder / "bundle.toml").write_text(files.toml_text(without))
        files.write_sums(folder)
        if needed[path].startswith("no"):
            bundle.load(folder)
        else:
            with pytest.raises(BundleError, match=f"'{key}'"):
                bundle.load(folder)
