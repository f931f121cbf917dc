"""Files of TLS: what is wrong with one is a line that names the setting, the file and what to do."""

import os
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import receiving
from certificates import Authority, put, server

from dicom_node.dicom import tls, tls_failures
from dicom_node.errors import ConfigError


@pytest.fixture
def files(authority):
    return authority.issue("node")


def wrong(files):
    """The line; it is the same for both sides, whatever the authorities are called there."""
    with pytest.raises(ConfigError) as caught:
        tls.server_context(files, require_client_certificate=True)
    with pytest.raises(ConfigError):
        tls.client_context(files, check_name=True)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_key_of_another_certificate(files, authority):
    other = authority.issue("other").key
    assert wrong(replace(files, key=other)) == (
        f"tls.key: {other} is not the key of {files.certificate}; both must come from the same request"
    )


def test_an_encrypted_key_asks_nobody(authority):
    files = authority.issue("locked", password=b"secret")
    assert wrong(files) == (
        f"tls.key: {files.key} is encrypted; nobody is there to be asked: "
        f"openssl pkey -in {files.key} -out FILE, chmod 400 FILE"
    )


@pytest.mark.parametrize(
    "content", [b"", b"rubbish\n", b"-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_holds_something_else(files, tmp_path, content):
    path = tmp_path / "x.pem"
    path.write_bytes(content)
    assert wrong(replace(files, key=path)) == f"tls.key: {path} holds no private key in PEM form"
    assert wrong(replace(files, certificate=path)) == f"tls.certificate: {path} holds no certificate in PEM form"
    assert wrong(replace(files, authorities=path)) == f"tls.authorities: {path} holds nothing of the kind in PEM form"
    assert wrong(replace(files, revocations=path)) == f"tls.revocations: {path} holds nothing of the kind in PEM form"


@contextmanager
def as_somebody_else():
    """What root may read, nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_files():
    """Files in a folder that everybody may enter, and read but for their own bits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        copied = replace(Authority(folder).issue("node"), authorities=folder / "authority.pem")
        for path in folder.iterdir():
            path.chmod(0o644)
        yield copied


@pytest.mark.parametrize("name", ["certificate", "key", "authorities"])
def test_a_file_that_may_not_be_read(open_files, name):
    path = getattr(open_files, name)
    path.chmod(0)
    with as_somebody_else():
        said = wrong(open_files)
    assert said == f"tls.{name}: {path} cannot be read; give it to the user that the node runs as"


def test_nothing_leaves_without_tls_while_a_connection_is_ended(files):
    """The standard library's shutdown takes TLS away first: what another thread sends then would go in the clear."""
    near, far = socket.socketpair()
    context = tls.client_context(files, check_name=False)
    with near, far, ThreadPoolExecutor() as pool:
        theirs = pool.submit(server(files).wrap_socket, far, server_side=True)
        with context.wrap_socket(near) as connection, theirs.result() as peer:
            connection.shutdown(socket.SHUT_RD)
            connection.sendall(b"Canary^Gelb")
            assert b"Canary" not in socket.socket.recv(peer, 4096)


def test_a_key_that_is_too_short(files, tmp_path):
    receiving.needs("openssl")
    path = tmp_path / "weak.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:1024",
        "-nodes",
        "-subj",
        "/CN=weak",
        "-keyout",
        path,
        "-out",
        path,
    ]
    subprocess.run(command, check=True, capture_output=True)
    said = wrong(replace(files, certificate=path, key=path))
    assert (
        said == f"tls.certificate: {path} is too weak (ee key too small); RSA of 2048 bits or more, signed with SHA-256"
    )


def test_when_a_certificate_is_not_valid_it_is_said_since_or_until_when(authority):
    now = datetime.now(UTC)
    late, early = authority.issue("late", ends=-0.5), authority.issue("early", begins=1)
    with pytest.raises(
        ConfigError, match=rf"^tls.certificate: {late.certificate} expired on 2\d{{3}}-.* UTC, peers refuse"
    ):
        tls.validity(late).check(now)
    with pytest.raises(
        ConfigError, match=rf"^tls.certificate: {early.certificate} is valid from 2.* UTC on; check the cl"
    ):
        tls.validity(early).check(now)
    tls.validity(authority.issue("good")).check(now)


def test_the_first_of_a_chain_to_end_counts(authority, files):
    late = authority.issue("intermediate", ends=3)
    put(files.certificate, files.certificate.read_bytes() + late.certificate.read_bytes())
    assert tls.validity(files).ends == tls.validity(late).ends


def test_what_has_no_name_here_is_said_in_openssl_s_words():
    import ssl

    error = ssl.SSLError(1, "x")
    error.reason = "DATA_LENGTH_TOO_LONG"
    assert tls_failures.meaning(error) == "TLS failed (data length too long)"
    assert tls_failures.meaning(OSError()) == "TLS failed (OSError)"
