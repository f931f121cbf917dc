"""docs/security.md, run: its certificates, and dcmtk and Orthanc as it sets them up, in both directions."""

import contextlib
import http.client
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from certificates import tls_settings
from pydicom import dcmread
from receiving import STUDY, needs, part10, radiograph, running, wait_until
from receiving import data_set_bytes as encoded
from working import free_port

from dicom_node.deliver import scu
from dicom_node.demo.servers import Orthanc
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination, SOPInstanceUID, TLSFiles

DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder in which the first commands of the page were run."""
    needs("openssl")
    folder = tmp_path_factory.mktemp("site")
    (recipe,) = [block for block in SHELL if "-x509" in block]
    subprocess.run(["bash", "-euc", recipe], cwd=folder, check=True, capture_output=True)
    return folder


def files(site, station):
    return TLSFiles(
        certificate=site / f"{station}.pem", key=site / f"{station}.key", authorities=site / "authority.pem"
    )


def command(program, site, **places):
    """A command of the page, with its certificates in `site` and its places replaced."""
    (line,) = [line for block in SHELL for line in block.splitlines() if line.startswith(f"{program} ")]
    words = [needs(program), *shlex.split(line)[1:]]
    return [
        str(site / word)
        if word.endswith((".pem", ".key"))
        else str(places.get(word.rpartition(".")[2], places.get(word, word)))
        for word in words
    ]


@pytest.fixture
def image(tmp_path):
    ds = radiograph(1)
    path = tmp_path / "image.dcm"
    path.write_bytes(part10(encoded(ds, ds.file_meta.TransferSyntaxUID), ds.file_meta.TransferSyntaxUID))
    return path


def storescu(site, port, image, *more):
    places = {"example": "127.0.0.1", "2762": port, "dcm": image, "MODALITY1": "MODALITY"}
    words = command("storescu", site, **places)
    return subprocess.run([*words, *more], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def node(tmp_path, site):
    with running(tmp_path / "node", tls=tls_settings(files(site, "explain")), plain="false") as started:
        yield started


def request(image):
    uid = SOPInstanceUID(f"{STUDY}.1.1")
    return scu.StoreRequest(key="1", sop_instance_uid=uid, sop_class_uid="1.2.840.10008.5.1.4.1.1.1", path=image)


def pacs(site, port, title="PACS"):
    tls = files(site, "explain")
    name = "pacs.hospital.example"
    return Destination(name="pacs", ae_title=AETitle(title), host="127.0.0.1", port=port, tls=tls, tls_name=name)


def up(there):
    with contextlib.suppress(DeliveryUnreachable):
        return scu.echo(there, calling_ae_title="EXPLAIN", timeout=5) == 0


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_storescu_sends_to_the_node_as_the_page_says(node, site, image, profile):
    sent = storescu(site, node.port, image, profile)
    assert sent.returncode == 0, sent.stderr
    assert len(node.files("instances")) == 1


def test_storescu_without_a_certificate_is_refused(node, site, image):
    words = command("storescu", site, example="127.0.0.1", dcm=image, MODALITY1="MODALITY", **{"2762": node.port})
    at = words.index("+tls")
    sent = subprocess.run([*words[:at], "+tla", *words[at + 3 :]], capture_output=True, timeout=60, check=False)
    assert sent.returncode != 0
    assert node.files("instances") == []


def test_a_station_that_the_page_revokes_is_let_in_no_more(tmp_path, site, image):
    (recipe,) = [block for block in SHELL if "-revoke" in block]
    subprocess.run(["bash", "-euc", recipe], cwd=site, check=True, capture_output=True)
    table = tls_settings(files(site, "explain"), revocations=site / "revocations.pem")
    with running(tmp_path / "node", tls=table, plain="false") as node:
        assert storescu(site, node.port, image).returncode != 0
        assert node.files("instances") == []


def test_storescp_gets_objects_of_the_node_as_the_page_says(site, image, tmp_path):
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    words = [*command("storescp", site, **{"2762": port}), "--output-directory", str(folder)]
    archive = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: up(pacs(site, port)), 30)
        (outcome,) = scu.store(pacs(site, port), [request(image)], calling_ae_title="EXPLAIN", timeout=20)
    finally:
        archive.kill()
        archive.wait()
    assert outcome.delivered
    (stored,) = folder.iterdir()
    assert dcmread(stored).SOPInstanceUID == f"{STUDY}.1.1"


class SecureOrthanc(Orthanc):
    """Orthanc with what the page says of it."""

    def __init__(self, folder, site, node_port):
        super().__init__(folder, {})
        self._site, self._node_port = site, node_port

    def _configuration(self):
        (block,) = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)
        block = re.sub(r'"(\w+\.(?:pem|key))"', lambda found: json.dumps(str(self._site / found[1])), block)
        said = json.loads(block)
        said["DicomModalities"]["explain"] |= {"Host": "127.0.0.1", "Port": self._node_port}
        return super()._configuration() | said

    def post(self, path, body):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)) as connection:
            connection.request("POST", path, body)
            return json.loads(connection.getresponse().read())


def test_orthanc_sends_to_the_node_and_gets_objects_of_it_as_the_page_says(tmp_path, site, image):
    if Orthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")
    table = tls_settings(files(site, "explain"))
    with running(tmp_path / "node", tls=table, plain="false", calling_ae_titles="ORTHANC@127.0.0.1") as node:
        orthanc = SecureOrthanc(tmp_path / "orthanc", site, node.port)
        orthanc.start()
        try:
            there = pacs(site, orthanc.port, "ORTHANC")
            (outcome,) = scu.store(there, [request(image)], calling_ae_title="EXPLAIN", timeout=20)
            assert outcome.delivered, outcome.error
            (kept,) = json.loads(orthanc.get("/instances"))
            said = orthanc.post("/modalities/explain/store", kept.encode())
        finally:
            orthanc.stop()
        assert said["FailedInstancesCount"] == 0
        assert len(node.files("instances")) == 1
