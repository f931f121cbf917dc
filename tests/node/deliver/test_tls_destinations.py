"""Destinations over TLS: what they must show, what we show, and one line that says why not."""

import contextlib
import socket
import ssl
import threading
from dataclasses import replace

import pytest
from certificates import Authority, server
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from working import SC_STORAGE, STUDY, Peer, free_port

from dicom_node.deliver import scu, silence
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination, SOPInstanceUID


@pytest.fixture
def peers():
    started = []

    def make(context=None, **options):
        started.append(Peer(tls=context, **options).start())
        return started[-1].port

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def request_(tmp_path):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = SC_STORAGE, "2.25.1", STUDY
    ds.add_new(0x00420011, "OB", b"\1" * 1_000_000)
    path = tmp_path / "1.dcm"
    ds.save_as(path, enforce_file_format=True)
    return scu.StoreRequest(key="1", sop_instance_uid=SOPInstanceUID("2.25.1"), sop_class_uid=SC_STORAGE, path=path)


def there(port, tls, name="127.0.0.1", host="127.0.0.1"):
    return Destination(name="pacs", ae_title=AETitle("PACS"), host=host, port=port, tls=tls, tls_name=name)


def send(destination, *requests, timeout=5):
    return list(scu.store(destination, requests, calling_ae_title="EXPLAIN", timeout=timeout))


def reason(destination, request):
    outcomes = send(destination, request, request)
    assert [one.retry for one in outcomes] == [True, True]
    assert all(isinstance(one.error, DeliveryUnreachable) for one in outcomes)
    assert str(outcomes[0].error) == str(outcomes[1].error)
    with pytest.raises(DeliveryUnreachable) as caught:
        scu.echo(destination, calling_ae_title="EXPLAIN", timeout=5)
    assert str(caught.value) == str(outcomes[0].error)
    return str(caught.value).removeprefix("no TLS connection: ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_objects_arrive_over_tls_and_an_echo_too(peers, mine, theirs, request_, version):
    port = peers(server(theirs, version=version))
    outcomes = send(there(port, mine), request_, request_)
    assert [one.delivered for one in outcomes] == [True, True]
    assert scu.echo(there(port, mine), calling_ae_title="EXPLAIN", timeout=5) == 0


@pytest.mark.parametrize(
    ("name", "fits"), [("127.0.0.1", True), ("pacs.example", True), (None, True), ("other.example", False)]
)
def test_a_destination_must_carry_its_name(peers, mine, theirs, request_, name, fits):
    port = peers(server(theirs))
    if fits:
        assert send(there(port, mine, name), request_)[0].delivered
    else:
        assert reason(there(port, mine, name), request_) == (
            "the peer's certificate is not accepted (Hostname mismatch, certificate is not valid for "
            "'other.example'): set tls_name to the name that it carries"
        )


def test_a_destination_of_another_authority_is_not_believed(peers, mine, tmp_path, request_):
    stranger = Authority(tmp_path / "other", "stranger")
    port = peers(server(replace(stranger.issue("pacs"), authorities=mine.authorities)))
    assert reason(there(port, mine), request_).startswith("the peer's certificate is not accepted (unable to get local")
    own = replace(mine, authorities=stranger.path)
    assert send(there(port, own), request_)[0].delivered, "but by authorities of its own it is"


def test_an_expired_certificate_of_a_destination_is_not_accepted(peers, mine, authority, request_):
    port = peers(server(authority.issue("late", ends=-0.5)))
    assert reason(there(port, mine), request_) == (
        "the peer's certificate is not accepted (certificate has expired): it must be renewed"
    )


def test_a_revoked_certificate_of_a_destination_is_not_accepted(peers, mine, authority, request_):
    lost = authority.issue("lost")
    port = peers(server(lost))
    files = replace(mine, revocations=authority.revoke(lost))
    assert reason(there(port, files), request_).endswith("(certificate revoked): its authority has revoked it")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_destination_that_wants_a_certificate_that_we_have_not(peers, mine, theirs, request_, version):
    port = peers(server(theirs, version=version))
    said = reason(there(port, replace(mine, certificate=None, key=None)), request_)
    assert said in {
        "the peer wants a certificate of this node: set tls.certificate and tls.key",
        "no cipher suite in common, or the peer misses a certificate: docs/conformance.md lists the cipher suites",
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_destination_that_does_not_accept_our_certificate(peers, theirs, tmp_path, request_, version):
    stranger = Authority(tmp_path / "other", "stranger").issue("node")
    port = peers(server(theirs, version=version))
    said = reason(there(port, replace(stranger, authorities=theirs.authorities)), request_)
    assert said == (
        "the peer does not accept this node's certificate (unknown authority): its side must know the authority"
    )


def test_a_destination_without_tls_is_told_apart(peers, mine, request_):
    assert reason(there(peers(), mine), request_) in {
        "the peer does not speak TLS: switch it on there, or use the port without",
        "the peer closed the connection: its log says why, it may not accept this node's certificate",
    }


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_a_destination_of_tls_1_1_is_refused(peers, mine, theirs, request_):
    port = peers(server(theirs, version=ssl.TLSVersion.TLSv1_1))
    assert reason(there(port, mine), request_).startswith("the peer offers nothing newer than TLS 1.1")


def test_a_destination_that_is_not_there_is_said_as_without_tls(mine, request_):
    assert reason(there(free_port(), mine), request_) == "no association: the destination does not answer"


def test_a_host_without_an_address_is_unreachable(mine, request_):
    assert reason(there(104, mine, host="pacs.invalid"), request_) == (
        "no association: the host pacs.invalid has no address"
    )


def test_a_file_of_ours_that_is_missing_makes_no_delivery_fail_for_good(mine, request_, tmp_path):
    absent = tmp_path / "absent.key"
    said = reason(there(104, replace(mine, key=absent)), request_)
    assert said == f"tls.key: {absent} cannot be read: No such file or directory"


def test_a_destination_that_says_nothing_is_given_up(mine, request_):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (outcome,) = send(there(silent.getsockname()[1], mine), request_, timeout=1)
    assert str(outcome.error).startswith("no TLS connection: the handshake took too long")


def test_a_destination_that_never_answers_is_given_up(theirs, mine, peers, request_, monkeypatch):
    monkeypatch.setattr(silence, "SLOWEST_READER", 10_000_000)
    released = threading.Event()
    port = peers(server(theirs), answer=lambda _uid, _number: released.wait(30) and 0)
    (outcome,) = send(there(port, mine), request_, timeout=5)
    released.set()
    assert str(outcome.error) == "no answer to C-STORE"


def test_renewed_files_are_used_for_the_next_association(peers, authority, theirs, request_, tmp_path):
    files = authority.issue("renewed")
    port = peers(server(theirs))
    assert send(there(port, files), request_)[0].delivered
    files.certificate.write_bytes(Authority(tmp_path / "x").issue("renewed").certificate.read_bytes())
    assert reason(there(port, files), request_).startswith(
        f"tls.key: {files.key} is not the key of {files.certificate}"
    )
    authority.issue("renewed")
    assert send(there(port, files), request_)[0].delivered


def test_the_certificate_is_checked_before_anything_is_sent(mine, tmp_path, request_):
    """A listening stranger gets nothing of the object, nor of the association request."""
    stranger = Authority(tmp_path / "other", "stranger").issue("pacs")
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen():
            connection, _ = listening.accept()
            context = server(stranger, wanted=False)
            with (
                contextlib.suppress(OSError),
                connection,
                context.wrap_socket(connection, server_side=True) as secured,
            ):
                heard.append(secured.recv(1))

        thread = threading.Thread(target=listen)
        thread.start()
        assert not send(there(listening.getsockname()[1], mine), request_)[0].delivered
        thread.join()
    assert heard == []


def test_what_we_connect_with_offers_the_suites_of_the_list_alone(mine):
    from dicom_node.dicom.tls import CIPHER_SUITES, client_context

    context = client_context(mine, check_name=True)
    offered = {one["name"] for one in context.get_ciphers()}
    assert len([name for name in offered if not name.startswith("TLS_")]) == len(CIPHER_SUITES)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
