"""A folder of files as people have them: what cannot be read is a line, and the others are explained."""

import zlib

import pytest
from contexts import film
from pydicom.uid import DeflatedExplicitVRLittleEndian
from radiographs import encode
from receiving import data_set_bytes, part10
from toy_explainer import ToyExplainer

from dicom_node.nouns import StudyState
from dicom_node.offline.files import explain_files
from dicom_node.settings.sections import Settings


@pytest.mark.parametrize(
    ("spoil", "lines", "states"),
    [
        (lambda data: data[: len(data) * 2 // 3], 0, [StudyState.FAILED]),
        (lambda data: data[:20], 1, []),
        (zlib.compress, 1, []),
        (lambda _: b"", 1, []),
        (lambda data: data[:200] + b"\xff" * 50 + data[250:], None, None),
    ],
    ids=["cut off in its pixels", "cut off in its header", "with a zlib header", "empty", "damaged"],
)
def test_a_bad_deflated_file_is_a_line_or_a_report_and_its_neighbour_is_explained(tmp_path, spoil, lines, states):
    bad = film(SOPInstanceUID="1.2.3.5", StudyInstanceUID="1.2.3.4")
    good = film(SOPInstanceUID="1.2.3.6", StudyInstanceUID="1.2.3")
    folder = tmp_path / "in"
    folder.mkdir()
    body = data_set_bytes(bad, DeflatedExplicitVRLittleEndian)
    (folder / "bad.dcm").write_bytes(part10(spoil(body), DeflatedExplicitVRLittleEndian, bad.SOPInstanceUID))
    (folder / "good.dcm").write_bytes(encode(good))
    found, unreadable = explain_files([folder], tmp_path / "out", Settings(), ToyExplainer())
    explained = [one for one in found if one.study_instance_uid == good.StudyInstanceUID]
    assert [one.analysis.state for one in explained] == [StudyState.EXPLAINED]
    assert all(path.is_file() for one in explained for path in one.objects)
    others = [one.analysis.state for one in found if one not in explained]
    assert len(unreadable) + len(others) == 1
    if lines is not None:
        assert (len(unreadable), others) == (lines, states)
        assert all("bad.dcm" in line for line in unreadable)
