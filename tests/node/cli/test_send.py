"""`dicom-node send`: to an AE, to a destination, to the node's own listener; with dcmtk and Orthanc where they are."""

import contextlib
import json
import shutil
import signal
import subprocess

import pytest
from auditing import lines as audited
from certificates import Authority, tls_settings
from origin_server import OriginServer
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from receiving import data_set_bytes, needs, part10, radiograph, running, wait_until
from typer.testing import CliRunner
from working import Peer, free_port

from dicom_node.cli import app
from dicom_node.deliver import scu
from dicom_node.demo.servers import Orthanc
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import Destination


def run(*arguments, expect=0):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done


def image(folder, number, **changes):
    ds = radiograph(number, **changes)
    path = folder / f"{number}.dcm"
    path.write_bytes(part10(data_set_bytes(ds, ExplicitVRLittleEndian), ExplicitVRLittleEndian, ds.SOPInstanceUID))
    return path


@pytest.fixture
def images(tmp_path):
    """A folder with two images, and a text that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (1, 2):
        image(folder, number)
    (folder / "README.txt").write_text("no DICOM")
    return folder


def config(folder, text=""):
    (folder / "node.toml").write_text(
        f'[node]\nae_title = "EXPLAIN"\nspool = "{folder}/spool"\ndatabase = "sqlite:///{folder}/ledger.sqlite"\n'
        f'[audit]\nfolder = "{folder}/audit"\n[delivery]\ntimeout = 5\n{text}'
    )
    return folder / "node.toml"


@pytest.fixture
def pacs():
    started = Peer(lambda uid, _: 0xA700 if uid.endswith(".2") else 0x0000).start()
    yield started
    started.stop()


def test_each_object_is_sent_once_and_said_what_became_of_it(pacs, images, tmp_path):
    there = f"PACS@127.0.0.1:{pacs.port}"
    lines = run("send", images, "--to", there, "--config", config(tmp_path), expect=1).stdout.splitlines()
    assert lines[0] == f"{images}/1.dcm: stored"
    assert lines[1].startswith(f"{images}/2.dcm: FAILED: C-STORE status 0xA700")
    assert lines[2].startswith(f"1 of 2 stored at {there} as EXPLAIN, ")
    assert lines[2].endswith("1 other file(s) left out")
    assert len(pacs.received) == 2, "nothing is tried again"
    _, transferred = audited(tmp_path / "audit")
    event, (source, target) = transferred["EventIdentification"], transferred["ActiveParticipant"]
    assert (source["UserName"], target["UserID"]) == ("send", "PACS")
    assert event["EventOutcomeIndicator"] == "4"
    assert event["EventOutcomeDescription"].startswith("1 of 2 not transferred; the last: C-STORE status 0xA700")


def test_json_names_every_object_and_an_error_is_an_object_too(pacs, images, tmp_path):
    named = ("--to", f"PACS@127.0.0.1:{pacs.port}", "--config", config(tmp_path), "--json")
    told = json.loads(run("send", images / "1.dcm", images / "README.txt", *named, expect=1).stdout)
    assert (told["sent"], told["failed"], told["left_out"]) == (1, 1, [])
    assert [(one["sent"], one["status"], one["said"]) for one in told["objects"]] == [
        (False, None, "no DICOM object"),
        (True, 0, "stored"),
    ]
    wrong = run("send", tmp_path / "none", *named, expect=2)
    assert json.loads(wrong.stderr) == {"error": f"{tmp_path}/none: no such file or folder", "status": 2}
    assert wrong.stdout == ""


def test_what_cannot_be_reached_says_what_to_do(images, tmp_path):
    done = run("send", images, "--to", f"PACS@127.0.0.1:{free_port()}", "--config", config(tmp_path), expect=1)
    assert done.stdout.count("FAILED: no association") == 2
    assert "to do: see host and port" in done.stderr


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("PACS@host:0", "a port is a number from 1 to 65535"),
        ("PACS@host:70000", "a port is a number from 1 to 65535"),
        ("paks", "--to paks: neither AE@HOST:PORT, as PACS@192.0.2.7:104, nor a destination; there is"),
        ("PACS@host", "--to PACS@host: neither AE@HOST:PORT"),
        ("PACS:104", "--to PACS:104: neither AE@HOST:PORT"),
    ],
)
def test_a_place_that_is_none(to, said, images, tmp_path):
    assert said in run("send", images, "--to", to, "--config", config(tmp_path), expect=2).stderr


def test_without_a_place_it_is_this_nodes_own_listener(images, tmp_path):
    with running(tmp_path / "node") as node:
        more = f'[[destinations]]\nname = "pacs"\nae_title = "EXPLAIN"\nhost = "127.0.0.1"\nport = {node.port}\n'
        file = config(tmp_path, more)
        text = f'[node]\nport = {node.port}\ncalling_ae_titles = ["OTHER@192.0.2.7", "MODALITY"]\n'
        file.write_text(file.read_text().replace("[node]\n", text))
        assert "2 of 2 stored at EXPLAIN@127.0.0.1" in run("send", images, "--config", file).stdout
        assert len(node.files("instances")) == 2
        refused = run("send", images, "--config", file, "--calling", "STRANGER", expect=1)
        assert "Calling AE title not recognised" in refused.stdout
        assert "let the PACS know our AE title" in refused.stderr
        assert "2 of 2 stored" in run("send", images, "--config", file, "--to", "pacs", "--calling", "MODALITY").stdout


def test_tls_as_the_settings_say(images, tmp_path):
    files = Authority(tmp_path / "authority").issue("node")
    with running(tmp_path / "node", tls=tls_settings(files), plain="false") as node:
        table = (
            f'[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\nauthorities = "{files.authorities}"\n'
        )
        file = config(tmp_path, f"{table}port = {node.listener.tls_port}\n")
        file.write_text(file.read_text().replace("[node]\n", '[node]\nplain = false\ncalling_ae_titles = ["PACS"]\n'))
        assert "over TLS as PACS" in run("send", images, "--config", file).stdout
        there = ("--to", f"EXPLAIN@127.0.0.1:{node.listener.tls_port}", "--calling", "PACS")
        assert "2 of 2 stored" in run("send", images, "--config", file, *there, "--tls").stdout
        run("send", images, "--config", file, *there, expect=1)
    assert "set tls.authorities" in run("send", images, *there, "--tls", "--config", config(tmp_path), expect=2).stderr


def test_a_destination_over_dicomweb(images, tmp_path):
    with OriginServer() as web:
        file = config(tmp_path, f'[[destinations]]\nname = "archive"\nurl = "{web.url}"\n')
        assert f"2 of 2 stored at {web.url}" in run("send", images, "--config", file, "--to", "archive").stdout


@contextlib.contextmanager
def storescp(folder, port, *more):
    folder.mkdir()
    command = [needs("storescp"), "-aet", "STORE", "-od", str(folder), *more, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    there = Destination(name="x", ae_title="STORE", host="127.0.0.1", port=port)

    def up():
        with contextlib.suppress(DeliveryUnreachable):
            return scu.echo(there, calling_ae_title="EXPLAIN", timeout=5) == 0

    try:
        wait_until(up, 30)
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.mark.external
def test_dcmtk_gets_a_compressed_object_as_it_is(images, tmp_path, shared_data):
    compressed = shared_data / "dicom" / "nema_wg04" / "RG3_J2KR.dcm"
    shutil.copy(compressed, images / "j2k.dcm")
    port = free_port()
    with storescp(tmp_path / "there", port, "+xa") as there:
        done = run("send", images, "--to", f"STORE@127.0.0.1:{port}", "--config", config(tmp_path))
        assert "3 of 3 stored" in done.stdout
        syntaxes = {str(dcmread(path).file_meta.TransferSyntaxUID) for path in there.iterdir()}
    assert str(dcmread(compressed, stop_before_pixels=True).file_meta.TransferSyntaxUID) in syntaxes
    port = free_port()
    with storescp(tmp_path / "plain", port):
        done = run("send", images, "--to", f"STORE@127.0.0.1:{port}", "--config", config(tmp_path), expect=1)
    assert "2 of 3 stored" in done.stdout
    assert "j2k.dcm: FAILED: the destination does not accept" in done.stdout


@pytest.mark.external
def test_orthanc_gets_them(images, tmp_path):
    if Orthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")
    pacs = Orthanc(tmp_path / "orthanc", {"explain": "EXPLAIN"})
    pacs.start()
    try:
        there = f"{pacs.ae_title}@127.0.0.1:{pacs.port}"
        assert "2 of 2 stored" in run("send", images, "--to", there, "--config", config(tmp_path)).stdout
    finally:
        pacs.stop()
