"""The TLS port: who gets in, what is said of who does not, and that a silent connection holds nobody up."""

import hashlib
import json
import socket
import ssl
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from certificates import Authority, client, put, tls_settings
from receiving import MB, radiograph, running, wait_until

from dicom_node.deliver import scu
from dicom_node.errors import ConfigError, DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination
from dicom_node.receive.listener import MOST_PENDING_PER_HOST
from dicom_node.watch import logs

SLOW = {"acse_timeout": 20, "network_timeout": 20, "association_deadline": 20}
"""So that nothing is right because a time-out came."""


@pytest.fixture
def logged():
    stream = StringIO()
    logs.configure("info", as_json=True, stream=stream)
    return lambda event: [one for line in stream.getvalue().splitlines() if (one := json.loads(line))["event"] == event]


@pytest.fixture
def node(tmp_path, mine):
    with running(tmp_path, tls=tls_settings(mine), **SLOW) as started:
        yield started


@contextmanager
def raw(port, source="127.0.0.1"):
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as connection:
        yield connection


def refused(node, context):
    """Whether a connection with this context comes to nothing; in TLS 1.3 the client hears of it when it reads."""
    with raw(node.listener.tls_port) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                secured.settimeout(5)
                return secured.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def answers(port):
    """Whether a port answers a C-ECHO without TLS."""
    there = Destination(name="node", ae_title=AETitle("EXPLAIN"), host="127.0.0.1", port=port)
    try:
        return scu.echo(there, calling_ae_title="MODALITY", timeout=5) == 0
    except DeliveryUnreachable:
        return False


def reason(logged):
    (line,) = wait_until(lambda: logged("no TLS connection"))
    assert line["level"] == "warning"
    assert line["peer"] == "127.0.0.1"
    return line["reason"]


# --- who gets in


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_object_over_tls_is_stored_and_the_log_says_how_it_came(node, theirs, logged, version):
    (answer,) = node.store(radiograph(1, size=MB), tls=client(theirs, version=version))
    assert answer.Status == 0x0000
    assert len(node.files("instances")) == 1
    (line,) = logged("association accepted")
    shown = ssl.PEM_cert_to_DER_cert(theirs.certificate.read_text())
    assert line["tls"] == version.name.replace("_", ".")
    assert hashlib.sha256(shown).hexdigest().startswith(line["certificate"])
    assert node.store(radiograph(2))[0].Status == 0x0000, "the plain port is open as well"
    assert "tls" not in logged("association accepted")[1]


def test_a_suite_of_the_list_and_no_session_to_resume(node, theirs):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client(theirs, version=version)
        with raw(node.listener.tls_port) as connection, context.wrap_socket(connection) as first:
            assert "GCM" in first.cipher()[0] or "CHACHA20" in first.cipher()[0]
            session = first.session
        with raw(node.listener.tls_port) as connection, context.wrap_socket(connection, session=session) as second:
            assert not second.session_reused
            assert session is None or not session.has_ticket


def test_a_peer_without_a_certificate_is_refused(node, theirs, logged):
    assert refused(node, client(theirs, shown=False))
    assert reason(logged) == "the peer shows no certificate: give it one that tls.authorities has signed"


def test_a_peer_without_a_certificate_may_be_taken(tmp_path, mine, theirs, authority, logged):
    table = tls_settings(mine, require_client_certificate="false")
    with running(tmp_path, tls=table, **SLOW) as node:
        assert node.store(radiograph(), tls=client(theirs, shown=False))[0].Status == 0x0000
        assert "certificate" not in logged("association accepted")[0]
        assert refused(node, client(authority.issue("old", ends=-0.5))), "but one that is shown must be good"


@pytest.mark.parametrize(
    ("how", "because"),
    [
        ("expired", "(certificate has expired): it must be renewed"),
        ("early", "(certificate is not yet valid): it is not valid yet, check both clocks"),
        ("stranger", "(unable to get local issuer certificate): it must be signed by one of the authorities"),
    ],
)
def test_a_certificate_that_is_not_good_is_refused(node, authority, tmp_path, logged, how, because):
    if how == "stranger":
        shown = Authority(tmp_path / "other", "stranger").issue("modality")
        context = client(authority.issue("carrier"))
        context.load_cert_chain(shown.certificate, shown.key)
    else:
        ends, begins = (-0.5, -1) if how == "expired" else (9, 1)
        context = client(authority.issue(how, begins=begins, ends=ends))
    assert refused(node, context)
    assert f"the peer's certificate is not accepted {because}" in reason(logged)


def test_single_certificates_may_stand_where_authorities_do(tmp_path, mine, theirs, authority):
    files = replace(mine, authorities=theirs.certificate)
    with running(tmp_path, tls=tls_settings(files), **SLOW) as node:
        assert node.store(radiograph(), tls=client(theirs))[0].Status == 0x0000
        assert refused(node, client(authority.issue("neighbour"))), "of the same authority, which is not believed"


def test_a_certificate_that_was_revoked_is_refused_from_the_next_connection_on(tmp_path, mine, authority, logged):
    lost, kept = authority.issue("lost"), authority.issue("kept")
    files = replace(mine, revocations=authority.revoke())
    with running(tmp_path, tls=tls_settings(files), **SLOW) as node:
        assert node.store(radiograph(), tls=client(lost))[0].Status == 0x0000
        authority.revoke(lost)
        assert refused(node, client(lost))
        assert reason(logged).endswith("(certificate revoked): its authority has revoked it")
        assert node.store(radiograph(), tls=client(kept))[0].Status == 0x0000


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_tls_1_1_is_refused(node, theirs, logged):
    assert refused(node, client(theirs, version=ssl.TLSVersion.TLSv1_1))
    assert reason(logged).startswith("the peer offers nothing newer than TLS 1.1: it must be set or updated")


def test_a_cipher_suite_that_is_not_on_the_list_is_refused(node, theirs, logged):
    context = client(theirs, version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    assert refused(node, context)
    assert reason(logged).startswith("no cipher suite in common")


def test_a_plaintext_peer_is_told_apart(node, logged):
    assert not answers(node.listener.tls_port)
    assert reason(logged) == "the peer does not speak TLS: switch it on there, or use the port without"
    wait_until(lambda: not node.listener._receptions)


def test_the_checks_of_a_load_balancer_are_nothing_to_speak_of(node, theirs, logged):
    for _ in range(5):
        with raw(node.listener.tls_port):
            pass
    node.store(radiograph(), tls=client(theirs))  # whoever came before has been accepted by now
    wait_until(lambda: not node.listener._receptions)
    assert logged("no TLS connection") == []


def test_the_plain_port_can_be_closed(tmp_path, mine, theirs):
    with running(tmp_path, tls=tls_settings(mine), plain="false", **SLOW) as node:
        assert node.port == node.listener.tls_port
        assert len(node.listener._servers) == 1
        assert not answers(node.port)
        assert node.store(radiograph(), tls=client(theirs))[0].Status == 0x0000


def test_the_tls_port_can_stay_closed(tmp_path, mine):
    with running(tmp_path, tls=tls_settings(mine, listen="false")) as node:
        assert node.listener.tls_port is None
        assert len(node.listener._servers) == 1


# --- nobody is held up


def hello(context):
    """The first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("begun", [0, 1, 100])
def test_a_silent_connection_holds_nobody_up(node, theirs, begun):
    """Neither one that says nothing nor one that stops in the middle of its handshake."""
    with ExitStack() as stack:
        for number in range(4):
            for _ in range(3):
                silent = stack.enter_context(raw(node.listener.tls_port, f"127.0.0.{2 + number}"))
                silent.sendall(hello(client(theirs))[:begun])
        start = time.monotonic()
        assert node.store(radiograph(1), tls=client(theirs))[0].Status == 0x0000
        assert node.store(radiograph(2))[0].Status == 0x0000
        assert time.monotonic() - start < 10, "before any time-out"


@pytest.mark.parametrize("begun", [0, 1, 100])
def test_a_handshake_has_the_time_of_the_first_message_and_no_more(tmp_path, mine, theirs, logged, begun):
    with running(tmp_path, tls=tls_settings(mine), **{**SLOW, "acse_timeout": 1}) as node:
        with raw(node.listener.tls_port) as connection:
            connection.sendall(hello(client(theirs))[:begun])
            connection.settimeout(10)
            start = time.monotonic()
            with suppress(ConnectionError):
                while connection.recv(4096):
                    pass
            assert time.monotonic() - start < 6
        wait_until(lambda: not node.listener._receptions)
        if begun:
            assert reason(logged).startswith("the handshake took too long")


def test_a_handshake_that_trickles_meets_the_same_end(tmp_path, mine, theirs):
    with running(tmp_path, tls=tls_settings(mine), **{**SLOW, "acse_timeout": 1}) as node:
        begun = time.monotonic()
        with raw(node.listener.tls_port) as connection, pytest.raises(OSError):  # noqa: PT011, PT012 - at any byte
            for byte in hello(client(theirs)):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - begun < 6


def test_connections_without_an_association_are_counted_over_both_ports(node, theirs):
    with ExitStack() as stack:
        for number in range(2 * MOST_PENDING_PER_HOST):
            port = node.port if number % 2 else node.listener.tls_port
            stack.enter_context(raw(port, "127.0.0.2"))
        wait_until(lambda: len(node.listener._receptions) >= MOST_PENDING_PER_HOST)
        assert node.store(radiograph(), tls=client(theirs))[0].Status == 0x0000
        assert len(node.listener._receptions) <= MOST_PENDING_PER_HOST + 1


def test_associations_are_counted_over_both_ports(tmp_path, mine, theirs):
    with running(tmp_path, tls=tls_settings(mine), max_associations=2, **SLOW) as node:
        context = client(theirs)
        with node.associated(), node.associated(tls=context):
            for port, how in ((node.port, {}), (node.listener.tls_port, {"tls_args": (context, None)})):
                third = node.entity().associate("127.0.0.1", port, ae_title="EXPLAIN", **how)
                answer = third.acceptor.primitive
                assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        wait_until(lambda: not node.listener._receptions)
        node.store(radiograph(), tls=context)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_transfer_over_tls_that_breaks_off_leaves_nothing_behind(node, theirs, end):
    import struct

    with node.associated(tls=client(theirs)) as association:
        connection = association.dul.socket.socket
        wait_until(lambda: node.listener._receptions)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(struct.pack(">BxL", 0x04, 60_000) + b"x" * 1000)
        connection.close()
        wait_until(lambda: not node.listener._receptions)
        association.kill()
    assert node.store(radiograph(), tls=client(theirs))[0].Status == 0x0000


# --- certificates that are renewed, and those that end


def shown(node, context):
    with raw(node.listener.tls_port) as connection, context.wrap_socket(connection) as secured:
        return secured.getpeercert(binary_form=True)


def test_a_renewed_certificate_is_shown_to_new_connections_and_open_ones_go_on(tmp_path, authority, theirs, logged):
    files = authority.issue("renewed", ends=50)
    context = client(theirs)
    with running(tmp_path, tls=tls_settings(files), **SLOW) as node, node.associated(tls=context) as association:
        before = shown(node, context)
        authority.issue("renewed", ends=60)
        after = shown(node, context)
        assert after == ssl.PEM_cert_to_DER_cert(files.certificate.read_text()) != before
        assert association.send_c_store(radiograph()).Status == 0x0000
        wait_until(lambda: logged("TLS files taken up"))


def test_an_authority_that_is_replaced_counts_from_the_next_connection_on(tmp_path, mine, theirs):
    believed = tmp_path / "believed.pem"
    put(believed, mine.authorities.read_bytes())
    with running(tmp_path, tls=tls_settings(replace(mine, authorities=believed)), **SLOW) as node:
        assert node.store(radiograph(), tls=client(theirs))[0].Status == 0x0000
        put(believed, Authority(tmp_path / "next", "next").path.read_bytes())
        assert refused(node, client(theirs))


@pytest.mark.parametrize("how", ["rubbish", "half", "gone", "other key", "expired"])
def test_files_that_cannot_be_used_leave_the_former_ones_in_use(tmp_path, authority, theirs, logged, how):
    files = authority.issue("broken")
    context = client(theirs)
    with running(tmp_path, tls=tls_settings(files), **SLOW) as node:
        before = shown(node, context)
        kept = {path: path.read_bytes() for path in (files.certificate, files.key)}
        if how == "rubbish":
            put(files.certificate, b"rubbish")
        elif how == "half":
            put(files.key, kept[files.key][:60])
        elif how == "gone":
            files.certificate.unlink()
        elif how == "other key":
            put(files.key, authority.issue("somebody").key.read_bytes())
        else:
            authority.issue("broken", ends=-0.5)
        assert shown(node, context) == before
        (line,) = wait_until(lambda: logged("TLS files not taken up, the former ones stay in use"))
        assert line["level"] == "error"
        assert str(files.key if how in {"half", "other key"} else files.certificate) in line["reason"]
        for _ in range(3):
            assert shown(node, context) == before
        assert len(logged("TLS files not taken up, the former ones stay in use")) == 1, "once"
        for path, content in kept.items():
            put(path, content)
        wait_until(lambda: logged("TLS files taken up"))


def test_a_certificate_that_has_expired_is_said_at_the_start_and_serves_who_does_not_mind(tmp_path, authority, logged):
    files = authority.issue("late", ends=-0.5)
    with running(tmp_path, tls=tls_settings(files), **SLOW) as node:
        (line,) = logged("TLS certificate is not valid")
        assert line["level"] == "error"
        assert f"{files.certificate} expired on " in line["reason"]
        assert "put a renewed one there" in line["reason"]
        assert node.store(radiograph())[0].Status == 0x0000


def test_the_end_of_a_certificate_is_said_once_a_day(authority, mine, logged):
    from dicom_node.receive.secure import ServerTLS
    from dicom_node.settings.sections import TLSSettings

    day = [datetime.now(UTC)]
    files = authority.issue("soon", ends=29)
    table = TLSSettings(certificate=files.certificate, key=files.key, authorities=mine.authorities)
    tls = ServerTLS(table, lambda: day[0])
    for said in (1, 1, 2, 2, 3):
        tls.look()
        assert len(logged("TLS certificate expires soon")) == said
        day[0] += timedelta(hours=12)
    day[0] += timedelta(days=30)
    tls.look()
    assert len(logged("TLS certificate is not valid")) == 1


@pytest.mark.parametrize("setting", ["certificate", "key", "authorities", "revocations"])
def test_a_file_that_is_missing_ends_the_start_in_one_line(tmp_path, mine, setting):
    absent = tmp_path / "absent.pem"
    with (
        pytest.raises(ConfigError, match=rf"^tls.{setting}: {absent} cannot be read: No such file or directory$"),
        running(tmp_path, tls=tls_settings(replace(mine, **{setting: absent}))),
    ):
        pass


def test_a_port_of_tls_that_is_taken_is_named(tmp_path, mine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"^tls.port: cannot listen on 127.0.0.1:{port}: Address already in use"),
            running(tmp_path, tls=tls_settings(mine, port=port)),
        ):
            pass


def test_a_key_that_everybody_may_read_is_said(tmp_path, authority, logged):
    files = authority.issue("open")
    files.key.chmod(0o644)
    with running(tmp_path, tls=tls_settings(files)):
        (line,) = wait_until(lambda: logged("TLS key is exposed"))
        assert f"everybody on this machine may read {files.key}; chmod o= {files.key}" in line["reason"]
