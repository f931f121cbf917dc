"""A bundle that says what cannot be is refused with one line that names the file, whatever library read it first."""

import re
import shutil
from pathlib import Path

import pytest

import dicom_node
from explain_core.bundles.bundle import load
from explain_core.bundles.files import SUMS, write_sums
from explain_core.errors import BundleError

DEFAULT = Path(dicom_node.__file__).parent / "bundles" / "default"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threshold", "1.2", "threshold is a number from 0 to 1, got 1.2"),
        ("threshold", "nan", "threshold is a number from 0 to 1, got nan"),
        ("threshold", "true", "threshold is a number from 0 to 1, got True"),
        ("margin", "-0.1", "margin is a number from 0 to 1, got -0.1"),
        ("size", "224.5", "the size of the input is a whole number of pixels above 0, got 224.5"),
        ("size", "0", "the size of the input is a whole number of pixels above 0, got 0"),
        ("percentiles", "[99.5, 0.5]", "the percentiles of the input rise within 0 to 100, got 99.5 and 0.5"),
        ("percentiles", "[0.5]", "not enough values to unpack"),
    ],
)
def test_a_description_that_cannot_be_true_is_refused(folder, key, value, said):
    path = folder / "bundle.toml"
    text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    write_sums(folder)
    with pytest.raises(BundleError, match=re.escape(str(path)) + ".*" + re.escape(said)):
        load(folder)


@pytest.mark.parametrize("name", ["outlier.safetensors", "generators.safetensors", "classifier.safetensors"])
def test_a_damaged_file_that_its_checksum_agrees_with_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    write_sums(folder)
    with pytest.raises(BundleError, match=name):
        load(folder)


def test_checksums_with_a_byte_that_is_no_text_are_refused(folder):
    sums = folder / SUMS
    sums.write_bytes(b"\xff" + sums.read_bytes()[1:])
    with pytest.raises(BundleError, match="copy the whole bundle again"):
        load(folder)
