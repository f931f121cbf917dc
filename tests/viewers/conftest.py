"""Real radiographs, explained by the whole node and delivered to an Orthanc with DICOMweb: once for all tests here."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import whole_node
from browsing import browser
from hospital import OBJECTS, SOURCES, Explained, Hospital, add_morphs, sort, sources
from screen import save_small
from viewer_pacs import DICOMWEB_PLUGIN, DicomWebOrthanc
from viewer_server import OhifServer

from dicom_node.demo.servers import free_port
from dicom_node.nouns import AETitle, Destination

__all__ = ["browser"]


@pytest.fixture(scope="session")
def pages(root) -> Path:
    """OHIF's prebuilt pages."""
    folder = root / ".venv" / "ohif" / "dist"
    if not (folder / "index.html").is_file():
        pytest.skip("OHIF is not installed; make ohif installs it (npm is needed)")
    return folder


@pytest.fixture(scope="session")
def hospital(root, tmp_path_factory) -> Iterator[Hospital]:
    if DicomWebOrthanc.executable() is None or not DICOMWEB_PLUGIN.is_file():
        pytest.skip("Orthanc with DICOMweb is not installed; deploy/install-debian-packages.sh installs it")
    folder, port = tmp_path_factory.mktemp("hospital"), free_port()
    pacs = DicomWebOrthanc(
        folder / "pacs", {"node": whole_node.AE_TITLE, "modality": whole_node.MODALITY_AE_TITLE}, port
    )
    pacs.start()
    try:
        radiographs = {name: Explained(name, path) for name, path in sources(root, folder).items()}
        archive = Destination(name="pacs", ae_title=AETitle(pacs.ae_title), host="127.0.0.1", port=pacs.port)
        paths = [one.path for one in radiographs.values()]
        whole_node.send(archive, paths)
        (folder / "node").mkdir()
        with whole_node.running(folder / "node", pacs, OBJECTS) as node:
            node.explain(paths)
            sort(radiographs, node.written())
            add_morphs(radiographs[SOURCES[0]], folder / "morphs.dcm")
            whole_node.send(archive, radiographs[SOURCES[0]].files["morphs"])
            yield Hospital(pacs, port, radiographs)
    finally:
        pacs.stop()


@pytest.fixture(params=SOURCES)
def radiograph(request, hospital) -> Explained:
    """Each radiograph in turn."""
    if request.param not in hospital.radiographs:
        pytest.skip("real data (../shared/data) are not beside the repository")
    return hospital.radiographs[request.param]


@pytest.fixture(scope="session")
def ohif_server(hospital, pages) -> Iterator[OhifServer]:
    server = OhifServer(pages, hospital.port)
    server.pacs_port = hospital.pacs.http_port
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ohif_url(ohif_server) -> str:
    return ohif_server.url


DOCUMENTED = frozenset(
    f"ohif-{one}"
    for one in (
        *("secondary-capture", "structured-report", "segmentation", "overlay"),
        *("synthetic-images-3", "parametric-map", "beside"),
    )
)


@pytest.fixture
def keep(request, root, tmp_path):
    """Writes a screenshot to the test's own folder; with UPDATE_SCREENSHOTS set, some of the sample's to docs."""
    update = os.environ.get("UPDATE_SCREENSHOTS") and request.node.callspec.params["radiograph"] != "jpeg"

    def write(screen: np.ndarray, name: str) -> None:
        folder = root / "docs" / "viewers" if update and name in DOCUMENTED else tmp_path
        save_small(screen, folder / f"{name}.png")

    return write
