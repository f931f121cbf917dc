import sys
from pathlib import Path

from contexts import context_of, film
from pydicom import dcmwrite

from dicom_node.offline.validation import Validity, validate
from explain_core import plugins


def written(path, ds):
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def test_an_object_of_ours_is_valid_and_one_that_lost_an_element_is_not(tmp_path):
    ds = plugins.load("dicom_node.results.objects", "secondary_capture").of(context_of(film()))
    assert validate(written(tmp_path / "good.dcm", ds)).validity is Validity.VALID
    del ds.ConversionType
    found = validate(written(tmp_path / "bad.dcm", ds))
    assert found.validity is Validity.WRONG
    assert any("ConversionType" in line for line in found.said)


def test_without_the_program_or_the_file_it_says_so(tmp_path, monkeypatch):
    assert validate(tmp_path / "gone.dcm").validity is Validity.UNKNOWN
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "one.dcm").touch()
    found = validate(Path(tmp_path / "one.dcm"))
    assert (found.validity, "dicom3tools" in found.said[0]) == (Validity.UNKNOWN, True)
