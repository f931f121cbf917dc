"""The spool's files as objects of an S3 server: whole or not there, known by their content, and read by any host."""

import os
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import receiving
from object_stores import PAGE
from pydicom import dcmread
from receiving import STUDY, radiograph
from working import association, at

from dicom_node.clock import utc_now
from dicom_node.errors import OutOfResources
from dicom_node.nouns import SOPInstanceUID
from dicom_node.settings.sections import Settings, StoreSettings
from dicom_node.storage import holdings, objects
from dicom_node.storage.holdings import CommitmentRequest, Reference
from dicom_node.storage.objects import Damaged, ObjectStore
from dicom_node.storage.retention import Retention

slow = pytest.mark.slow

PATH = Path("instances") / "1.2" / "1.2.3-abcd.dcm"


def part(folder, content=b"bytes"):
    path = folder / f"{time.monotonic_ns()}.part"
    path.write_bytes(content)
    return path


@slow
def test_what_one_host_keeps_another_reads(hosts, tmp_path):
    one, other = hosts.store("a"), hosts.store("b")
    source = part(tmp_path, os.urandom(300_000))
    kept = one.put(source, PATH)
    assert kept.parent == PATH.parent
    assert kept.name.startswith("1.2.3-abcd-")
    assert other.exists(kept)
    assert other.fetch(kept).read_bytes() == source.read_bytes()
    assert other.fetch(kept).is_relative_to(tmp_path / "b")
    assert one.put(source, PATH) == kept
    assert one.put(part(tmp_path, b"other"), PATH) != kept
    assert other.remove([kept, kept]) == 300_000
    assert not one.exists(kept)
    assert not other.fetch(kept).exists()


@slow
def test_an_object_that_is_damaged_is_named_and_never_read(hosts, tmp_path, capsys):
    store = hosts.store()
    kept = store.put(part(tmp_path, b"bytes"), PATH)
    hosts.spoil(kept)
    with pytest.raises(Damaged, match="stored object is damaged"):
        store.fetch(kept)
    assert kept.name in capsys.readouterr().out
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


@slow
def test_a_file_of_the_cache_that_a_power_cut_has_spoilt_is_read_again(hosts, tmp_path):
    store = hosts.store()
    kept = store.put(part(tmp_path, b"bytes"), PATH)
    store.fetch(kept).write_bytes(b"")
    assert store.fetch(kept).read_bytes() == b"bytes"


@slow
def test_what_arrives_otherwise_than_it_was_sent_is_not_kept(hosts, tmp_path, capsys):
    store, source = hosts.store(), part(tmp_path, bytes(200_000))
    hosts.server.line.spoil = 100_000
    with pytest.raises(OutOfResources, match="not kept what was written"):
        store.put(source, PATH)
    assert "has not kept what was written" in capsys.readouterr().out
    assert source.exists()


@slow
def test_a_store_that_is_away_is_out_of_resources_until_it_is_back(hosts, tmp_path):
    store, source = hosts.store(), part(tmp_path)
    kept = store.put(source, PATH)
    hosts.server.line.away = True
    tried = (lambda: store.put(source, PATH), lambda: store.fetch(kept), lambda: store.exists(kept), store.check)
    for one in (*tried, lambda: store.remove([kept]), lambda: [*store.seen(Path("instances"))]):
        with pytest.raises(OutOfResources, match="object store does not answer") as caught:
            one()
        assert caught.value.status == 0xA700
    hosts.server.restore()
    assert store.fetch(kept).read_bytes() == b"bytes"


@slow
def test_a_store_that_hangs_is_given_up_after_its_time(hosts, tmp_path):
    store, source = hosts.store(timeout=0.5), part(tmp_path, bytes(100_000))
    hosts.server.line.hold = 50_000
    with pytest.raises(OutOfResources, match="object store does not answer"):
        store.put(source, PATH)
    hosts.server.restore()
    assert hosts.objects("instances") == []


@slow
def test_a_bucket_that_is_not_there_is_no_missing_file(hosts, tmp_path):
    store = hosts.store(url="s3://no-such-bucket-anywhere")
    with pytest.raises(OutOfResources):
        store.put(part(tmp_path), PATH)
    with pytest.raises(OutOfResources):
        store.fetch(PATH.with_name(f"1.2.3-{'0' * 64}.dcm"))


class Refusing(BaseHTTPRequestHandler):
    """A store that believes nobody."""

    def do_GET(self):
        said = b'<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code><Message>who?</Message></Error>'
        self.send_response(403)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.mark.usefixtures("s3")
@slow
def test_refused_credentials_are_called_what_they_are(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        store = ObjectStore(StoreSettings(url="s3://bucket", endpoint=endpoint, region="x"), tmp_path / "cache")
        with pytest.raises(OutOfResources, match="check credentials and policy"):
            store.fetch(PATH.with_name(f"1.2.3-{'0' * 64}.dcm"))
        server.shutdown()


@slow
def test_listings_go_over_many_pages_and_group_by_folder(hosts, tmp_path):
    store = hosts.store()
    source, names = part(tmp_path), [f"1.2.{number}" for number in range(PAGE + 2)]
    for name in names:
        store.put(source, Path("instances") / "1.2" / f"{name}.dcm")
    store.put(source, Path("instances") / "1.2.3" / "1.2.9.dcm")
    store.put(source, Path("outbox") / "t1" / "1.dcm")
    grouped = {str(folder): len(files) for folder, files in store.groups(Path("instances"))}
    assert grouped == {"instances/1.2": PAGE + 2, "instances/1.2.3": 1}
    assert {one.size for one in store.seen(Path("instances"))} == {5}


@slow
def test_the_cache_is_bounded_and_keeps_what_was_just_used(hosts, tmp_path):
    store = hosts.store(cache_mb=1)
    old, just = (store.put(part(tmp_path, os.urandom(700_000)), PATH) for _ in range(2))
    store.fetch(just)
    long_ago = time.time() - 2 * objects.KEPT_SECONDS
    os.utime(store.fetch(old), (long_ago, long_ago))
    third = store.put(part(tmp_path, os.urandom(700_000)), PATH)
    store.fetch(third)
    cached = {path.name for path in (tmp_path / "a" / "spool" / "cache").rglob("*.dcm")}
    assert cached == {just.name, third.name}
    assert store.fetch(old).stat().st_size == 700_000


@pytest.mark.slow
def test_a_listener_acknowledges_what_is_in_the_store(hosts, tmp_path):
    with receiving.running(tmp_path, spool=hosts.spool()) as node:
        first = radiograph(1)
        assert [one.Status for one in node.store(first, first, radiograph(2))] == [0, 0, 0]
        changed = radiograph(1, Rows=first.Rows - 1, PixelData=first.PixelData[: -2 * first.Columns])
        assert node.store(changed)[0].Status == 0x0111
        known = node.ledger.find_instance(first.SOPInstanceUID)
        assert len(hosts.objects(f"instances/{STUDY}")) == 2
        assert str(known.path) in hosts.objects("instances")
        assert len(hosts.objects("quarantine")) == 1
        assert dcmread(hosts.spool("b").fetch(known.path)).PatientName == receiving.CANARY
        assert not node.files("incoming")
        hosts.server.line.away = True
        (answer,) = node.store(radiograph(3))
        assert (answer.Status, answer.ErrorComment[:16]) == (0xA700, "the object store")
        assert not node.files("incoming")
        hosts.server.restore()
        assert node.ledger.find_instance(radiograph(3).SOPInstanceUID) is None
        assert node.store(radiograph(3))[0].Status == 0


@slow
def test_of_two_listeners_with_other_content_the_loser_takes_its_object_back(hosts, tmp_path):
    """The second one's row comes between the first one's look and its own row."""
    with receiving.running(tmp_path, spool=hosts.spool()) as node:
        find, found = node.ledger.find_instance, []

        def quicker(uid):
            known = find(uid)
            if known is None and not found:
                found.append(uid)
                with receiving.running(tmp_path / "b", spool=hosts.spool("b"), ledger=node.ledger) as other:
                    assert other.store(radiograph(1, PatientID="OTHER"))[0].Status == 0
            return known

        (tmp_path / "b").mkdir(exist_ok=True)
        node.ledger.find_instance = quicker
        assert node.store(radiograph(1))[0].Status == 0x0111
        node.ledger.find_instance = find
        assert [str(find(radiograph(1).SOPInstanceUID).path)] == hosts.objects("instances")
        assert len(hosts.objects("quarantine")) == 1


@slow
def test_a_commitment_is_refused_for_a_damaged_object(hosts, tmp_path):
    with receiving.running(tmp_path, spool=hosts.spool()) as node:
        node.store(radiograph(1), radiograph(2))
        known = node.ledger.find_instance(radiograph(2).SOPInstanceUID)
        hosts.spoil(known.path)
        asked = tuple(Reference(receiving.CR, SOPInstanceUID(radiograph(number).SOPInstanceUID)) for number in (1, 2))
        report = holdings.check(
            node.ledger, CommitmentRequest(transaction_uid="1.2", references=asked), hosts.spool("b").fetch
        )
    assert report.committed == asked[:1]
    assert set(report.failed) == set(asked[1:])


@slow
def test_retention_removes_objects_and_sets_aside_what_no_row_names(hosts, tmp_path, ledger):
    spool, now = hosts.spool(), utc_now()
    settings = Settings.model_validate({"node": {"spool": str(spool.root), "database": "sqlite:///:none:"}})
    later = now + timedelta(days=3)
    keeper = Retention(settings=settings, ledger=ledger, spool=spool, clock=lambda: later)
    with receiving.running(tmp_path, spool=spool, ledger=ledger) as node:
        node.store(radiograph(1))
        spool.adopt(part(tmp_path), "1.2", "1.2.9", "a" * 64)
        spool.store.put(part(tmp_path), spool.outbox / "nobody" / "1.dcm")
        measured = {one.name: one.files for one in keeper.measure()}
        assert (measured["images"], measured["results"], measured["quarantine"]) == (2, 1, 0)
        assert [(one.store, one.items) for one in keeper.clean()] == [("images", 1), ("results", 1)]
        assert [name.split("/")[1] for name in hosts.objects("instances")] == [STUDY]
        (aside,) = hosts.objects("quarantine")
        assert aside.startswith("quarantine/NotInLedger-1.2.9-aaaaaaaaaaaaaaaa-")
        assert hosts.objects("outbox") == []
        with ledger.removing(STUDY, _over(later), later) as found:
            assert found is None  # it is in no revision yet
        study = ledger.study(STUDY, 1)
        ledger.mark_ready(study, (), now, state=_ignored(), reason="of the test")
        far = now + timedelta(days=40)
        keeper.clock = lambda: far
        assert ("images", 1) in [(one.store, one.items) for one in keeper.clean(orphans=False)]
        assert hosts.objects("instances") == []
        assert node.store(radiograph(1))[0].Status == 0


def _over(when):
    from dicom_node.storage.ledger import Cutoff

    return Cutoff(settled=when, failed=None)


def _ignored():
    from dicom_node.nouns import StudyState

    return StudyState.IGNORED


@slow
def test_hosts_do_not_take_each_other_for_dead(hosts, ledger):
    one, other = hosts.spool("a"), hosts.spool("b")
    assert len(one.owner) <= 32
    assert other.alive(one.owner)
    assert hosts.spool("a").alive(one.owner)
    assert not one.alive(f"{one.owner[:9]}dead")
    import dataclasses

    for name, owner in (("a1", one.owner), ("a2", f"{other.owner[:9]}dead")):
        ledger.open_association(dataclasses.replace(association(name), listener=owner))
    assert ledger.close_stale_associations(at(10), other.alive) == 1
    assert ledger.close_stale_associations(at(25 * 3600), other.alive) == 1
