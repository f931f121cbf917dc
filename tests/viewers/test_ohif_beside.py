"""OHIF as docs/pacs/ohif.md configures it: the explanation opens beside the radiograph, and nothing else changes."""

import pytest
import whole_node
from hospital import SOURCES
from pydicom.uid import generate_uid

from dicom_node.nouns import AETitle, Destination

pytestmark = [pytest.mark.external, pytest.mark.slow]


@pytest.fixture
def opened(browser, ohif_server, monkeypatch):
    from ohif import Ohif

    monkeypatch.setattr(ohif_server, "more", "")  # as it is shipped
    tabs = []

    def open_study(study, series):
        tabs.append(Ohif.opened(browser, ohif_server.url, study, series))
        return tabs[-1]

    yield open_study
    for one in tabs:
        one.page.close()
    assert [error for one in tabs for error in one.errors] == []


@pytest.mark.parametrize("radiograph", SOURCES[:1], indirect=True)
def test_the_explanation_opens_beside_the_radiograph(opened, radiograph, keep):
    here = opened(radiograph.study, 1 + len(radiograph.files))
    (picture,) = radiograph.objects("secondary_capture")
    here.wait_until(lambda: len(here.beside()) == 2 and all(here.beside()), "two viewports")
    left, right = here.beside()
    assert radiograph.source.SOPInstanceUID in left
    assert picture.SOPInstanceUID in right
    keep(here.screenshot(), "ohif-beside")
    here.double_click(radiograph.number("structured_report"))
    here.answer_no()
    here.wait_until(here.drawn_labels, "the report's contours are drawn as without this configuration")


def test_a_study_without_an_explanation_opens_as_it_always_did(opened, hospital, tmp_path):
    new = {name: generate_uid() for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    path = whole_node.changed(hospital.radiographs[SOURCES[0]].path, tmp_path / "plain.dcm", new)
    archive = Destination(name="pacs", ae_title=AETitle("ORTHANC"), host="127.0.0.1", port=hospital.pacs.port)
    whole_node.send(archive, [path])
    here = opened(new["StudyInstanceUID"], 1)
    here.wait_until(lambda: all(here.beside()), "an image")
    assert len(here.beside()) == 1
