"""The STOW-RS user agent against a small real server, with the faults that real ones have."""

import dataclasses
import logging
import socket
import threading
import time
import tracemalloc

import pytest
from origin_server import SECRET, OriginServer, certificates, drip, reply, reset, stored
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from slow_line import SlowLine
from working import SC_STORAGE, STUDY, free_port

from dicom_node.deliver import scu, stow, web_client
from dicom_node.deliver.stow import Stow
from dicom_node.errors import DeliveryRefused, DeliveryUnreachable
from dicom_node.nouns import SOPInstanceUID, WebDestination

XML = '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">{}</NativeDicomModel>'
XML_STORED = XML.format(
    '<DicomAttribute tag="00081199" vr="SQ"><Item number="1">'
    '<DicomAttribute tag="00081155" vr="UI"><Value number="1">2.25.1</Value></DicomAttribute>'
    '<DicomAttribute tag="00081196" vr="US"><Value number="1">45062</Value></DicomAttribute></Item></DicomAttribute>'
    '<DicomAttribute tag="00081198" vr="SQ"><Item number="1">'
    '<DicomAttribute tag="00081155" vr="UI"><Value number="1">2.25.2</Value></DicomAttribute>'
    '<DicomAttribute tag="00081197" vr="US"><Value number="1">290</Value></DicomAttribute></Item></DicomAttribute>'
)


@pytest.fixture
def request_(tmp_path):
    def make(number: int, study: str = STUDY, size: int = 100) -> scu.StoreRequest:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = SC_STORAGE, f"2.25.{number}", study
        ds.PatientName = "Canary^Bird"
        ds.add_new(0x00420011, "OB", b"\1" * size)
        path = tmp_path / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        uid = SOPInstanceUID(f"2.25.{number}")
        return scu.StoreRequest(key=str(number), sop_instance_uid=uid, sop_class_uid=SC_STORAGE, path=path)

    return make


def to(server, **more) -> WebDestination:
    return WebDestination(name="pacs", url=server if isinstance(server, str) else server.url, **more)


def with_token(server, folder, **more) -> WebDestination:
    (folder / "secret").write_text(f"{SECRET}\n")
    file = folder / "secret"
    return to(server, token_url=server.token_url, client_id="me", client_secret_file=file, scope="store", **more)


def send(there, *requests, timeout=5, agent=None):
    return list((agent or Stow())(there, requests, calling_ae_title="EXPLAIN", timeout=timeout))


# ---- what is sent, and what the answer says of each instance


def test_objects_go_by_study_as_they_are_and_each_has_its_outcome(request_):
    with OriginServer() as server:
        requests = [request_(1), request_(2, f"{STUDY}.9"), request_(3)]
        outcomes = send(to(server), *requests)
    assert {(one.key, one.status, one.delivered) for one in outcomes} == {(n, 0, True) for n in "123"}
    assert [(one.path, one.uids) for one in server.requests] == [
        (f"/dicom-web/studies/{STUDY}", ["2.25.1", "2.25.3"]),
        (f"/dicom-web/studies/{STUDY}.9", ["2.25.2"]),
    ]
    assert server.objects == {one.sop_instance_uid: one.path.read_bytes() for one in requests}
    headers = server.requests[0].headers
    assert headers.get_content_type() == "multipart/related"
    assert (headers.get_param("type"), headers["Accept"]) == ("application/dicom", "application/dicom+json")
    assert headers["Authorization"] is None


def test_requests_are_of_bounded_size_and_number(request_, monkeypatch):
    monkeypatch.setattr(stow, "MOST_OBJECTS", 2)
    monkeypatch.setattr(stow, "MOST_BYTES", 10_000)
    with OriginServer() as server:
        sizes = (10, 10, 10, 9_000, 9_000, 20_000, 10)
        outcomes = send(to(server), *(request_(n, size=size) for n, size in enumerate(sizes)))
    assert all(one.delivered for one in outcomes)
    assert [len(one.parts) for one in server.requests] == [2, 2, 1, 1, 1]


def test_every_instance_has_the_outcome_that_the_answer_gives_it(request_):
    failed = {"2.25.2": 0x0122, "2.25.3": 0xA700, "2.25.4": 0xC122, "2.25.5": 0x0110, "2.25.6": 0x0124}
    answer = reply(202, stored(["2.25.1"], failed, {"2.25.7": 0xB006}))
    with OriginServer(lambda *_: answer) as server:
        found = {int(one.key): one for one in send(to(server), *(request_(n) for n in range(1, 9)))}
    assert len(server.requests) == 1
    assert [found[n].delivered for n in range(1, 9)] == [True, *[False] * 5, True, False]
    assert [found[n].status for n in range(1, 9)] == [0, 0x0122, 0xA700, 0xC122, 0x0110, 0x0124, 0xB006, None]
    assert [n for n in found if found[n].class_refused] == [2, 4, 6]
    assert [n for n in found if found[n].retry] == [3, 5, 8]
    assert str(found[3].error) == "STOW-RS Failure Reason 0xA700 (Refused: Out of Resources)"
    assert str(found[8].error) == "the answer (202) does not name the object"


def test_a_conflict_is_what_its_sequence_says(request_):
    with OriginServer(lambda *_: reply(409, stored([], {"2.25.1": 0xA900}))) as server:
        (outcome,) = send(to(server), request_(1))
    assert (outcome.status, outcome.retry, type(outcome.error)) == (0xA900, True, DeliveryRefused)


def test_an_answer_in_xml_is_read_too(request_):
    with OriginServer(lambda *_: reply(202, XML_STORED.encode(), "application/dicom+xml; charset=utf-8")) as server:
        one, two = send(to(server), request_(1), request_(2))
    assert (one.delivered, one.status, two.class_refused, two.status) == (True, 0xB006, True, 0x0122)


@pytest.mark.parametrize(
    ("status", "kind", "tried", "class_refused", "says"),
    [
        (400, DeliveryRefused, None, False, "status 400"),
        (409, DeliveryRefused, None, False, "status 409"),
        (413, DeliveryRefused, None, False, "status 413: it is too large for the server"),
        (415, DeliveryRefused, None, True, "does not accept Secondary Capture Image Storage in its transfer syntax"),
        (401, DeliveryUnreachable, False, False, "status 401: the token is not taken"),
        (403, DeliveryUnreachable, False, False, "status 403: we may not store there"),
        (404, DeliveryUnreachable, False, False, "status 404: there is no DICOMweb service"),
        (429, DeliveryUnreachable, False, False, "status 429"),
        (500, DeliveryUnreachable, True, False, "status 500"),
        (502, DeliveryUnreachable, False, False, "status 502"),
        (503, DeliveryUnreachable, False, False, "status 503: the server is busy"),
        (299, DeliveryUnreachable, False, False, "status 299"),
    ],
)
def test_a_status_for_the_whole_request(request_, status, kind, tried, class_refused, says):
    with OriginServer(lambda *_: reply(status, b"Canary^Bird", "text/plain", Retry_After="7")) as server:
        (outcome,) = send(to(server), request_(1))
    assert (type(outcome.error), outcome.class_refused, outcome.retry) == (kind, class_refused, not class_refused)
    assert says in str(outcome.error)
    assert "Canary" not in repr(outcome)
    if kind is DeliveryUnreachable:
        assert outcome.error.tried is tried
        assert outcome.error.wait == 7


@pytest.mark.parametrize("how", [400, 413, 415, 500, "reset"])
def test_one_bad_object_does_not_keep_the_others_of_its_request(request_, how):
    def answer(request, _number):
        if "2.25.2" in request.uids:
            return reset if how == "reset" else reply(how)
        return None

    with OriginServer(answer) as server:
        outcomes = {one.key: one for one in send(to(server), *(request_(n) for n in (1, 2, 3)))}
    assert [outcomes[n].delivered for n in "123"] == [True, False, True]
    assert sorted(server.objects) == ["2.25.1", "2.25.3"]
    assert [len(one.parts) for one in server.requests] == [3, 1, 1, 1]


def test_after_a_status_that_has_nothing_to_do_with_objects_the_rest_is_not_tried(request_):
    with OriginServer(lambda *_: reply(503, Retry_After="120")) as server:
        outcomes = send(to(server), request_(1), request_(2, f"{STUDY}.9"))
    assert len(server.requests) == 1
    assert [(one.error.tried, one.error.wait) for one in outcomes] == [(False, 120)] * 2


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>please log in</html>"),
        ("application/dicom+json", b""),
        ("application/dicom+json", b"{"),
        ("application/dicom+json", b"[]"),
        ("application/dicom+json", b"null"),
        ("application/dicom+json", b'{"00081199": 3}'),
        ("application/dicom+json", b"[" * 100_000),
        ("application/dicom+json", b'{"00081190": {"vr": "UR", "Value": ["x"]}}'),
        ("application/dicom+xml", b"<a"),
        ("application/dicom+xml", XML_STORED.replace("<Nat", '<!DOCTYPE a [<!ENTITY b "c">]><Nat', 1).encode()),
        ("application/dicom+xml", b"\xff\xfe"),
    ],
)
def test_what_is_no_store_response_is_not_taken_for_success(request_, content_type, body):
    with OriginServer(lambda *_: reply(200, body, content_type)) as server:
        (outcome,) = send(to(server), request_(1))
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert "is no Store Instances Response" in str(outcome.error)
    assert not outcome.error.tried


@pytest.mark.parametrize(
    "body",
    [
        {"00081199": {"vr": "SQ", "Value": [None, 3, {}, {"00081155": {"vr": "UI", "Value": [5]}}]}},
        {"00081199": {"vr": "SQ"}},
        {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["2.25.99"]}}]}},
    ],
)
def test_an_instance_that_is_not_named_is_not_stored(request_, body):
    with OriginServer(lambda *_: reply(200, body)) as server:
        (outcome,) = send(to(server), request_(1))
    assert str(outcome.error) == "the answer (200) does not name the object"
    assert outcome.retry


def test_a_file_that_cannot_be_read_is_dead_and_the_others_arrive(request_):
    bad, gone = request_(2), request_(3)
    bad.path.write_bytes(b"no DICOM")
    gone.path.unlink()
    with OriginServer() as server:
        outcomes = {one.key: one for one in send(to(server), request_(1), bad, gone)}
    assert [outcomes[n].delivered for n in "123"] == [True, False, False]
    assert not outcomes["2"].retry
    assert "Canary" not in repr(outcomes)


# ---- time


def test_a_server_that_reads_slowly_gets_its_object(request_):
    with OriginServer() as server:
        line = SlowLine(server.port, rate=70_000)
        begun = time.monotonic()
        (outcome,) = send(to(f"http://127.0.0.1:{line.port}/dicom-web"), request_(1, size=200_000), timeout=1)
        line.over.set()
    assert outcome.delivered, outcome
    assert time.monotonic() - begun > 2, "the line was slow"


def test_a_line_on_which_nothing_moves_any_more_is_given_up(request_):
    with OriginServer() as server:
        line = SlowLine(server.port, rate=1e9, most=60_000)
        begun = time.monotonic()
        (outcome,) = send(to(f"http://127.0.0.1:{line.port}/dicom-web"), request_(1, size=4_000_000), timeout=1)
        line.over.set()
    assert str(outcome.error) == "the server has stopped answering"
    assert outcome.error.tried
    assert time.monotonic() - begun < 15


def test_a_server_that_never_answers_is_given_up(request_):
    over = threading.Event()
    with OriginServer(lambda *_: lambda _handler: over.wait(30)) as server:
        (outcome,) = send(to(server), request_(1), timeout=0.5)
        over.set()
    assert str(outcome.error) == "the server has stopped answering"


@pytest.mark.parametrize("how", ["body", "head", "interim"])
def test_an_answer_that_never_ends_is_given_up(request_, how, monkeypatch):
    monkeypatch.setattr(web_client, "ANSWER_TIMEOUTS", 2)
    first = {
        "body": b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n",
        "head": b"HTTP/1.1 200 OK\r\nX-Y:",
        "interim": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102",
    }[how]
    with OriginServer(lambda *_: drip(30, first)) as server:
        begun = time.monotonic()
        (outcome,) = send(to(server), request_(1), timeout=0.5)
    assert isinstance(outcome.error, DeliveryUnreachable)
    assert time.monotonic() - begun < 15


def test_an_endless_answer_takes_no_memory(request_):
    def pour(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n")
        for _ in range(1000):
            handler.wfile.write(b" " * 65536)

    with OriginServer(lambda *_: pour) as server:
        (outcome,) = send(to(server), request_(1))
    assert str(outcome.error) == "the server gave an answer of more than 1 MiB"


def test_memory_does_not_follow_the_object(request_):
    size = 64 << 20
    large = request_(1, size=size)
    with OriginServer(lambda *_: reply(200, stored(["2.25.1"])), keep=False) as server:
        tracemalloc.start()
        (outcome,) = send(to(server), large, timeout=30)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert outcome.delivered
    assert server.bytes_read > size
    assert peak < 8 << 20


# ---- where it is, and who we are


def test_nobody_there_is_unreachable(request_):
    (outcome,) = send(to(f"http://127.0.0.1:{free_port()}/x"), request_(1))
    assert str(outcome.error) == "the server refuses the connection: nobody listens there"
    assert not outcome.error.tried


def test_a_redirect_is_not_followed(request_):
    with OriginServer() as other:
        location = f"{other.url}/studies/{STUDY}?token=secret"
        with OriginServer(lambda *_: reply(307, Location=location)) as server:
            (outcome,) = send(to(server), request_(1))
    assert other.requests == []
    assert "a redirect, which is not followed" in str(outcome.error)
    assert "secret" not in str(outcome.error)


def test_a_token_is_fetched_once_and_kept_and_replaced_when_it_is_not_taken_any_more(request_, tmp_path):
    with OriginServer(tokens=True) as server:
        there, agent = with_token(server, tmp_path), Stow()
        assert all(send(there, request_(n), agent=agent)[0].delivered for n in (1, 2, 3))
        assert len(server.tokens_given) == 1
        (asked,) = [one for one in server.requests if one.path == "/token"]
        assert asked.body == b"grant_type=client_credentials&scope=store"
        assert asked.headers["Authorization"] == "Basic bWU6czNjcjN0JTJGb2YlM0R0aGUrbm9kZQ==", "quoted, then in base64"
        server.revoked.add(server.tokens_given[0])
        assert send(there, request_(4), request_(5), agent=agent)[0].delivered
        assert len(server.tokens_given) == 2
        assert sorted(server.objects) == [f"2.25.{n}" for n in (1, 2, 3, 4, 5)]


def test_a_token_that_is_refused_even_when_fresh_is_trouble_of_the_destination(request_, tmp_path):
    with OriginServer(lambda *_: reply(401), tokens=True) as server:
        (outcome,) = send(with_token(server, tmp_path), request_(1))
    assert "status 401: the token is not taken: see client_id" in str(outcome.error)
    assert not outcome.error.tried
    assert len(server.stores) == 2, "not more than once again"


@pytest.mark.parametrize("expires_in", [1, 0, -5, None, "20", "soon"])
def test_a_token_at_its_end_is_not_used_again(request_, tmp_path, expires_in):
    with OriginServer(tokens=True, expires_in=expires_in) as server:
        there, agent = with_token(server, tmp_path), Stow()
        assert all(send(there, request_(n), agent=agent)[0].delivered for n in (1, 2))
        assert len(server.tokens_given) == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (reply(401, {"error": "invalid_client"}), "the token endpoint gives no token (status 401, invalid_client)"),
        (reply(400, {"error": f"no {SECRET}"}), "the token endpoint gives no token (status 400)"),
        (reply(503, b"", Retry_After="9"), "the token endpoint gives no token (status 503)"),
        (reply(200, b"<html>"), "the token endpoint gives no token (status 200)"),
        (reply(200, {"access_token": 3}), "the token endpoint gives no token (status 200)"),
        (reply(200, {"access_token": "two\r\nlines"}), "the token endpoint gives no token (status 200)"),
        (reply(302, b"", Location="https://x"), "the token endpoint gives no token (status 302)"),
    ],
)
def test_without_a_token_nothing_is_sent(request_, tmp_path, said, reason):
    with OriginServer(tokens=True) as server:
        server.token_reply = said
        (outcome,) = send(with_token(server, tmp_path), request_(1))
    assert str(outcome.error) == reason
    assert not outcome.error.tried
    assert outcome.error.wait == (9 if said[0] == 503 else 0)
    assert server.stores == []


def test_a_token_endpoint_that_is_away_is_named(request_, tmp_path):
    with OriginServer() as server:
        there = with_token(server, tmp_path)
        there = dataclasses.replace(there, token_url=f"http://127.0.0.1:{free_port()}/token")
        (outcome,) = send(there, request_(1))
    assert str(outcome.error) == "the token endpoint refuses the connection: nobody listens there"


def test_a_secret_that_is_not_there_is_said(request_, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    with OriginServer(tokens=True) as server:
        there = with_token(server, tmp_path)
        (tmp_path / "secret").unlink()
        (outcome,) = send(there, request_(1))
        assert str(outcome.error) == "client_secret_file: cannot be read (No such file or directory)"
        there = dataclasses.replace(there, client_secret_file=None, client_secret_variable="NO_SUCH_SECRET")  # noqa: S106
        (outcome,) = send(there, request_(1))
        assert "there is no client secret" in str(outcome.error)
        monkeypatch.setenv("NO_SUCH_SECRET", SECRET)
        assert send(there, request_(1))[0].delivered


def test_no_secret_is_in_a_log_an_error_or_a_repr(request_, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with OriginServer(tokens=True) as server:
        there, agent = with_token(server, tmp_path), Stow()
        shown = [*send(there, request_(1), agent=agent)]
        server.revoked.add(server.tokens_given[0])
        server.token_reply = reply(400, {"error": "x" + SECRET, "error_description": SECRET})
        shown += send(there, request_(2), agent=agent)
    text = repr((shown, there, agent, agent._tokens)) + "".join(map(str, shown)) + caplog.text
    assert [one.delivered for one in shown] == [True, False]
    for secret in (SECRET, "token-0-of", "bWU6", "s3cr3t"):
        assert secret not in text
    assert "Canary" not in text


def test_the_server_must_be_the_one_that_the_authorities_vouch_for(request_, tmp_path):
    made = certificates(tmp_path, "server")
    (tmp_path / "others").mkdir()
    others = certificates(tmp_path / "others")
    with OriginServer(tls=(made["server"], made["server.key"])) as server:
        assert send(to(server, authorities=made["authority"]), request_(1))[0].delivered
        for authorities in (None, others["authority"]):
            (outcome,) = send(to(server, authorities=authorities), request_(1))
            assert "has a certificate that is not trusted" in str(outcome.error)
            assert not outcome.error.tried
        (outcome,) = send(to(server, authorities=made["server.key"]), request_(1))
        assert str(outcome.error).startswith("authorities: cannot be used (")
    assert len(server.requests) == 1


def test_mutual_tls(request_, tmp_path):
    made = certificates(tmp_path, "server", "node")
    with OriginServer(tls=(made["server"], made["server.key"], made["authority"])) as server:
        there = to(server, authorities=made["authority"], certificate=made["node"], key=made["node.key"])
        assert send(there, request_(1))[0].delivered
        (outcome,) = send(to(server, authorities=made["authority"]), request_(1))
        assert "does not agree on TLS" in str(outcome.error)
        assert not outcome.error.tried
        (outcome,) = send(dataclasses.replace(there, key=made["server.key"]), request_(1))
        assert "key and certificate do not belong together" in str(outcome.error)
    assert len(server.requests) == 1


def test_a_server_that_never_begins_tls_is_given_up(request_, tmp_path):
    made = certificates(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/x"
        (outcome,) = send(to(url, authorities=made["authority"]), request_(1), timeout=0.5)
    assert str(outcome.error) == "the server does not answer: no connection"


def test_a_proxy_is_one_that_the_settings_name(request_, monkeypatch):
    with OriginServer() as server, OriginServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert send(to(server), request_(1))[0].delivered
        assert proxy.requests == []
        assert send(to(server, proxy=f"http://127.0.0.1:{proxy.port}"), request_(2))[0].delivered
        assert send(to(server, proxy="environment"), request_(3))[0].delivered
        assert [one.path for one in proxy.requests] == [f"{server.url}/studies/{STUDY}"] * 2
    assert len(server.requests) == 1


# ---- the echo


def test_an_echo_searches_and_reads_no_answer(tmp_path):
    with OriginServer(tokens=True) as server:
        assert Stow().echo(with_token(server, tmp_path), timeout=5) == "answers searches"
        assert server.requests[-1].path == "/dicom-web/studies?limit=1"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (reply(204), "answers searches"),
        (reply(405), "lets us in; answers no searches (status 405)"),
        (reply(404), "status 404: there is no DICOMweb service: see url"),
        (reply(200, b"log in", "text/html"), "the answer is no DICOMweb (text/html): see url"),
        (reply(301, b"", Location="x"), "status 301: a redirect"),
    ],
)
def test_an_echo_says_what_is_the_matter(said, outcome):
    with OriginServer(lambda *_: said) as server:
        try:
            found = Stow().echo(to(server), timeout=5)
        except DeliveryUnreachable as error:
            found = str(error)
    assert found.startswith(outcome)
