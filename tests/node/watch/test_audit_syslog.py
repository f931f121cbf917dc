"""The trail at an audit repository: a TLS server of our own, and rsyslog."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from auditing import everything, grammar, lines, said
from lxml import etree
from working import free_port, python, wait_for

from dicom_node.errors import ConfigError
from dicom_node.watch import audit_syslog
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_message import to_xml
from dicom_node.watch.audit_syslog import Forwarder, Server
from dicom_node.watch.audit_trail import Trail, files

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
WRITER = str(Path(__file__).with_name("audit_writer.py"))


def certificates(folder, *, name="localhost"):
    """An authority, a server's certificate of that name, and the node's, by openssl."""
    folder.mkdir()

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", *NEW_KEY, "-nodes", "-days", "2", "-subj", "/CN=Test CA",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    for one, subject in (("server", name), ("node", "node")):
        (folder / "extension").write_text(f"subjectAltName=DNS:{subject}\nauthorityKeyIdentifier=keyid\n")
        request = f"{one}.csr"
        openssl("req", *NEW_KEY, "-nodes", "-subj", f"/CN={subject}", "-keyout", f"{one}.key",
                "-out", request)  # fmt: skip
        openssl("x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
                "-extfile", "extension", "-out", f"{one}.pem")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("pki") / "keys")


class Repository:
    """A syslog server over TLS that asks for the node's certificate, and takes frames of counted octets."""

    def __init__(self, keys, port=0):
        self.messages = []
        self.peers = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys / "server.pem", keys / "server.key")
        context.load_verify_locations(keys / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self._connections = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            try:
                connection = self._context.wrap_socket(plain, server_side=True)
            except (ssl.SSLError, OSError):
                plain.close()
                continue
            self._connections.append(connection)
            self.peers.append(dict(part[0] for part in connection.getpeercert()["subject"])["commonName"])
            with contextlib.suppress(OSError), connection:
                self._read(connection)

    def _read(self, connection):
        buffer = b""
        while data := connection.recv(65536):
            buffer += data
            while found := re.match(rb"(\d+) ", buffer):
                end = found.end() + int(found[1])
                if len(buffer) < end:
                    break
                self.messages.append(buffer[found.end() : end])
                buffer = buffer[end:]

    def stop(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(10)


@pytest.fixture
def repository(keys):
    made = Repository(keys)
    yield made
    made.stop()


def server(keys, port, **changes):
    how = {"authorities": keys / "ca.pem", "certificate": keys / "node.pem", "key": keys / "node.key"}
    return Server(host="localhost", port=port, **how | changes)


@pytest.fixture
def forwarder(tmp_path, keys, repository):
    made = Forwarder(tmp_path / "audit", server(keys, repository.port))
    yield made
    made.close()


@pytest.fixture
def trail(tmp_path):
    return Trail(tmp_path / "audit", longest=10_000)


def users(messages):
    found = [re.search(rb'UserID="(user\d+)"', one) for one in messages]
    return [one[1].decode() for one in found if one]


def login(trail, start, stop):
    audit = Audit("listener", "EXPLAIN", trail.append)
    for number in range(start, stop):
        audit.login(f"user{number}", "127.0.0.1")


def expected(start, stop):
    return [f"user{number}" for number in range(start, stop)]


def arrive(repository, count):
    wait_for(lambda: len(repository.messages) >= count, 20, f"{count} messages, not {len(repository.messages)}")


def test_every_message_arrives_in_the_xml_of_the_standard(trail, forwarder, repository):
    everything(trail.append)
    count = len(lines(trail.folder))
    assert forwarder.step() == count
    arrive(repository, count)
    allowed = grammar()
    for line, message in zip(lines(trail.folder), repository.messages, strict=True):
        head, _, text = message.partition(b"\xef\xbb\xbf")
        assert re.fullmatch(rb"<8[45]>1 \S+Z \S+ dicom-node \d+ DICOM\+RFC3881 - ", head)
        assert allowed.validate(etree.fromstring(text)), allowed.error_log
        assert text == to_xml({key: line[key] for key in line if key[0].isupper()}), said(line)
    assert repository.peers == ["node"]


def test_what_was_sent_is_not_sent_again_by_the_next_process(trail, keys, repository):
    for start in (0, 20):
        login(trail, start, start + 20)
        process = Forwarder(trail.folder, server(keys, repository.port))
        assert process.step() == 20
        assert process.step() == 0
        process.close()
    arrive(repository, 40)
    assert users(repository.messages) == expected(0, 40)
    assert len(files(trail.folder)) > 1


def test_a_server_that_is_away_gets_everything_in_order_when_it_is_back(trail, keys, monkeypatch):
    monkeypatch.setattr(audit_syslog, "LONGEST_WAIT", 0.01)
    port = free_port()
    process = Forwarder(trail.folder, server(keys, port))
    login(trail, 0, 20)
    assert process.step() == 0
    login(trail, 20, 30)
    first = Repository(keys, port)
    wait_for(process.step, 20)
    arrive(first, 30)
    first.stop()
    login(trail, 30, 40)  # into a connection that the server has closed
    process.step()
    second = Repository(keys, port)
    wait_for(lambda: process.step() or len(second.messages) >= 10, 20)
    arrive(second, 10)
    assert users(first.messages) == expected(0, 30)
    assert users(second.messages) == expected(30, 40)
    process.close()
    second.stop()


def test_what_a_server_takes_that_has_said_goodbye_is_not_sent(trail, forwarder, repository):
    login(trail, 0, 3)
    assert forwarder.step() == 3
    arrive(repository, 3)
    before = (trail.folder / audit_syslog.POSITION).read_text()
    repository._connections[0].shutdown(socket.SHUT_WR)  # its TCP still acknowledges what comes
    login(trail, 3, 5)
    assert forwarder.step() == 0
    assert (trail.folder / audit_syslog.POSITION).read_text() == before


def test_one_process_sends_at_a_time_and_another_goes_on_when_it_ends(trail, keys, repository):
    login(trail, 0, 3)
    one, other = (Forwarder(trail.folder, server(keys, repository.port)) for _ in range(2))
    assert (one.step(), other.step()) == (3, 0)
    login(trail, 3, 5)
    assert other.step() == 0
    one.close()
    assert other.step() == 2
    other.close()
    arrive(repository, 5)
    assert users(repository.messages) == expected(0, 5)


def test_it_sends_while_others_write(trail, forwarder, repository):
    writers = [python(WRITER, str(trail.folder), f"user{number}", "40") for number in range(2)]
    while any(one.poll() is None for one in writers):
        forwarder.step()
    forwarder.step()
    arrive(repository, 80)
    assert len(repository.messages) == len(set(repository.messages)) == 80


@pytest.mark.usefixtures("repository")
def test_a_torn_line_is_passed_over_and_removed_files_are_said(trail, forwarder, capsys):
    from dicom_node.watch import logs

    logs.configure("info")
    login(trail, 0, 2)
    with files(trail.folder)[-1].open("ab") as file:
        file.write(b'{"number":3,"previ')
    assert forwarder.step() == 2
    login(trail, 2, 4)
    assert forwarder.step() == 2
    assert "a torn audit line is not sent" in capsys.readouterr().err
    login(trail, 4, 60)
    removed = files(trail.folder)[:3]
    there = {one["number"] for one in lines(trail.folder)}
    for path in removed:
        path.unlink()
    lost = len(there - {one["number"] for one in lines(trail.folder)} - {1, 2, 3, 4})
    assert lost
    assert forwarder.step() == 56 - lost
    assert re.search(
        rf"audit messages never sent: their files have been removed.*count={lost}\b", capsys.readouterr().err
    )


def test_a_server_that_cannot_be_believed_gets_nothing(tmp_path, trail, keys, repository, capsys):
    from dicom_node.watch import logs

    logs.configure("info")
    login(trail, 0, 3)
    others = certificates(tmp_path / "others", name="other.example")
    elsewhere = Forwarder(trail.folder, server(keys, repository.port, authorities=others / "ca.pem"))
    assert elsewhere.step() == 0
    elsewhere.close()
    assert "the server's certificate is not believed" in capsys.readouterr().err
    misnamed = Repository(others)
    wrong_name = Forwarder(trail.folder, server(others, misnamed.port))
    assert wrong_name.step() == 0
    wrong_name.close()
    misnamed.stop()
    assert "mismatch" in capsys.readouterr().err
    stranger = Forwarder(trail.folder, server(keys, repository.port, certificate=None, key=None))
    for _ in range(2):  # TLS 1.3: the server refuses after the client believes that all is well
        stranger.step()
    stranger.close()
    assert not repository.messages
    assert not misnamed.messages
    assert not (trail.folder / audit_syslog.POSITION).exists()


def test_files_that_cannot_be_used_are_named_by_their_setting(tmp_path, keys):
    with pytest.raises(ConfigError, match=r"audit\.syslog_ca: .*nowhere\.pem cannot be used: No such file"):
        server(keys, 1, authorities=tmp_path / "nowhere.pem").context()
    with pytest.raises(ConfigError, match=r"audit\.syslog_certificate: .*node\.pem cannot be used with its key"):
        server(keys, 1, key=keys / "server.key").context()


RSYSLOG = """
global(
  workDirectory="{folder}"
  maxMessageSize="64k"
  defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{keys}/ca.pem"
  defaultNetstreamDriverCertFile="{keys}/server.pem"
  defaultNetstreamDriverKeyFile="{keys}/server.key"
  parser.escapeControlCharactersOnReceive="off"
)
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/name"
       permittedPeer=["node"])
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="lines" type="list") {{
  property(name="pri") constant(value="|") property(name="app-name") constant(value="|")
  property(name="msgid") constant(value="|") property(name="msg") constant(value="\\n")
}}
action(type="omfile" file="{folder}/received" template="lines")
"""


@pytest.mark.external
def test_rsyslog_takes_every_message(tmp_path, trail, keys):
    program = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if program is None or not any(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so")):
        pytest.skip("needs rsyslog and rsyslog-openssl")
    port = free_port()
    (tmp_path / "rsyslog.conf").write_text(RSYSLOG.format(folder=tmp_path, keys=keys, port=port))
    command = [program, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")]
    everything(trail.append)
    count, received = len(lines(trail.folder)), tmp_path / "received"
    with (tmp_path / "rsyslog.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"LC_ALL": "C.UTF-8"})
    forwarder = Forwarder(trail.folder, server(keys, port))
    try:
        wait_for(lambda: forwarder.step() or process.poll() is not None, 30)
        wait_for(lambda: received.exists() and len(received.read_bytes().splitlines()) >= count, 20)
    except AssertionError:
        raise AssertionError((tmp_path / "rsyslog.log").read_text()) from None
    finally:
        forwarder.close()
        process.terminate()
        process.wait(20)
    allowed = grammar()
    for line, row in zip(lines(trail.folder), received.read_bytes().splitlines(), strict=True):
        priority, name, kind, text = row.split(b"|", 3)
        assert (priority in {b"84", b"85"}, name, kind) == (True, b"dicom-node", b"DICOM+RFC3881")
        document = etree.fromstring(text.strip().removeprefix(b"\xef\xbb\xbf"))
        assert allowed.validate(document)
        assert document.find("EventIdentification/EventID").get("originalText") in said(line)
    assert json.loads((trail.folder / audit_syslog.POSITION).read_text())["number"] == count
