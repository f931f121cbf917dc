"""The STOW-RS user agent and Orthanc's DICOMweb plugin."""

from pathlib import Path

import pytest
from sending import Node
from viewer_pacs import DICOMWEB_PLUGIN, DicomWebOrthanc, data_set
from working import STUDY

from dicom_node.deliver.scu import StoreRequest
from dicom_node.deliver.stow import Stow
from dicom_node.demo.run import sample
from dicom_node.nouns import DeliveryState, SOPInstanceUID, WebDestination

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    if DicomWebOrthanc.executable() is None or not DICOMWEB_PLUGIN.is_file():
        pytest.skip("Orthanc with DICOMweb is not installed; deploy/install-debian-packages.sh installs it")
    server = DicomWebOrthanc(tmp_path_factory.mktemp("stow") / "pacs", {}, 1)
    server.start()
    yield server
    server.stop()


def url(pacs) -> str:
    return f"http://127.0.0.1:{pacs.http_port}/dicom-web"


def test_what_is_owed_arrives_byte_for_byte_and_again_without_harm(pacs, tmp_path):
    here = Node(tmp_path, {"name": "pacs", "url": url(pacs)})
    here.owe(*(here.result(number) for number in range(1, 31)))
    here.deliver_all()
    assert set(here.states().values()) == {DeliveryState.SENT}
    stored = pacs.qido(f"/studies/{STUDY}/instances")
    assert {one["00080018"]["Value"][0] for one in stored} == {f"2.25.{number}" for number in range(1, 31)}
    series = stored[0].get("0020000E", {}).get("Value", [""])[0]
    for number in (1, 30):
        (back,) = pacs.wado(f"/studies/{STUDY}/series/{series}/instances/2.25.{number}")
        assert data_set(back) == data_set((tmp_path / f"2.25.{number}.dcm").read_bytes())
    here.ledger.rerun_study(f"{STUDY}.1", here.now)
    here.deliver_all()
    assert set(here.states().values()) == {DeliveryState.SENT}
    assert len(pacs.qido(f"/studies/{STUDY}/instances")) == 30
    here.ledger.close()


def test_a_real_radiograph_and_an_echo(pacs):
    from pydicom import dcmread

    there, source = WebDestination(name="pacs", url=url(pacs)), dcmread(sample(), stop_before_pixels=True)
    request = StoreRequest(
        key="1", sop_instance_uid=SOPInstanceUID(source.SOPInstanceUID), sop_class_uid=source.SOPClassUID, path=sample()
    )
    (outcome,) = Stow()(there, [request], calling_ae_title="EXPLAIN", timeout=10)
    assert outcome.delivered
    assert pacs.qido("/studies", StudyInstanceUID=str(source.StudyInstanceUID))
    assert Stow().echo(there, timeout=10) == "answers searches"


def test_what_it_does_not_take_is_told(pacs, tmp_path):
    path = tmp_path / "cut.dcm"
    path.write_bytes(Path(sample()).read_bytes()[:100_000])
    request = StoreRequest(key="1", sop_instance_uid=SOPInstanceUID("2.25.77"), sop_class_uid="x", path=path)
    (outcome,) = Stow()(WebDestination(name="pacs", url=url(pacs)), [request], calling_ae_title="EXPLAIN", timeout=10)
    assert not outcome.delivered
    assert "Canary" not in repr(outcome)
