"""The listener on real sockets: what is accepted, refused and why, and that success means durable."""

import hashlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import receiving
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from pynetdicom.sop_class import Verification
from receiving import CR, MB, STUDY, radiograph, running, wait_until

from dicom_node import errors, status
from dicom_node.dicom import negotiation
from dicom_node.errors import ConfigError, OutOfResources
from dicom_node.nouns import StudyState
from dicom_node.receive.intake import Conflict
from dicom_node.receive.part_file import InvalidInstanceUID, PartFile
from dicom_node.status import Status
from dicom_node.storage.ledger import Cutoff, Ledger
from dicom_node.watch import logs

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def node(tmp_path):
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def logged():
    """What the process logs, line by line."""
    stream = StringIO()
    logs.configure("debug", as_json=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def answer(status):
    return Status(status.Status), status.get("ErrorComment")


def instance_path(node, ds):
    """Where an object of that content lies."""
    body = receiving.data_set_bytes(ds, ds.file_meta.TransferSyntaxUID)
    return node.spool.instance_path(STUDY, ds.SOPInstanceUID, hashlib.sha256(body).hexdigest())


def stored_bytes(path, transfer_syntax):
    """The data set in a file, behind the file meta information."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM"
    start = 144 + int.from_bytes(content[140:144], "little")
    assert dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == transfer_syntax
    return content[start:]


# --- what is accepted


def test_echo(node):
    with node.associated(contexts=[(Verification, [ImplicitVRLittleEndian])]) as association:
        assert association.send_c_echo().Status == 0x0000
        assert association.acceptor.maximum_length == 131072


def test_a_stored_object_is_a_file_and_a_row(node):
    ds = radiograph()
    assert [answer(status) for status in node.store(ds)] == [(Status.SUCCESS, None)]
    (path,) = node.files("instances")
    assert path == instance_path(node, ds)
    body = receiving.data_set_bytes(ds, ExplicitVRLittleEndian)
    assert stored_bytes(path, ExplicitVRLittleEndian) == body
    row = node.ledger.find_instance(ds.SOPInstanceUID)
    assert (row.path, row.sha256, row.size) == (path, hashlib.sha256(body).hexdigest(), len(body))
    assert (row.sop_class_uid, row.study_instance_uid, row.series_instance_uid) == (CR, STUDY, f"{STUDY}.1")
    assert (row.transfer_syntax_uid, row.calling_ae_title) == (ExplicitVRLittleEndian, "MODALITY")
    assert row.received_at.tzinfo is not None
    assert node.files("incoming") == []


def test_every_storage_class_in_every_transfer_syntax_is_accepted(node):
    every = negotiation.storage_sop_classes()
    assert len(every) > 150
    assert len(negotiation.TRANSFER_SYNTAXES) == 16
    for start in range(0, len(every), 128):
        some = every[start : start + 128]
        with node.associated(contexts=[(uid, [*negotiation.TRANSFER_SYNTAXES]) for uid in some]) as association:
            assert {context.abstract_syntax for context in association.accepted_contexts} == {*some}
    for syntax in negotiation.TRANSFER_SYNTAXES:
        with node.associated(contexts=[(CR, [syntax])]) as association:
            assert [context.transfer_syntax for context in association.accepted_contexts] == [[syntax]]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_native_transfer_syntaxes_are_stored_as_sent(node, syntax):
    ds = radiograph(transfer_syntax=syntax)
    if syntax == ExplicitVRBigEndian:
        ds["PixelData"].VR = "OW"
    ds.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    with node.associated(contexts=[(CR, [syntax])]) as association:
        assert answer(association.send_c_store(ds)) == (Status.SUCCESS, None)
    (path,) = node.files("instances")
    assert stored_bytes(path, syntax) == receiving.data_set_bytes(ds, syntax)


@pytest.mark.parametrize("syntax", [uid for uid in negotiation.TRANSFER_SYNTAXES if uid.is_encapsulated])
def test_compressed_objects_are_stored_as_sent_also_when_nothing_decodes_them(node, syntax):
    ds = radiograph(transfer_syntax=syntax)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0junk"
    with node.associated(contexts=[(CR, [syntax])]) as association:
        assert answer(association.send_c_store(ds)) == (Status.SUCCESS, None)
    (path,) = node.files("instances")
    assert dcmread(path).PixelData == ds.PixelData


def test_a_truncated_image_and_a_non_image_are_accepted(node):
    truncated = radiograph(1)
    truncated["PixelData"]._value = b"\0\0"
    report = radiograph(2, PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    sop_class = report.SOPClassUID
    with node.associated(
        contexts=[(CR, [ExplicitVRLittleEndian]), (sop_class, [ExplicitVRLittleEndian])]
    ) as association:
        assert answer(association.send_c_store(truncated)) == (Status.SUCCESS, None)
        assert answer(association.send_c_store(report)) == (Status.SUCCESS, None)
    assert len(node.files("instances")) == 2


def test_a_data_set_cut_off_in_its_pixels_is_accepted(node):
    with node.associated() as association:
        body = receiving.data_set_bytes(radiograph(size=4096), ExplicitVRLittleEndian)[:-1000]
        assert store_bytes(association, body) == (Status.SUCCESS, None)


# --- duplicates


def test_a_duplicate_is_acknowledged_and_changes_nothing(node):
    ds = radiograph()
    node.store(ds)
    (path,) = node.files("instances")
    before, row = path.stat(), node.ledger.find_instance(ds.SOPInstanceUID)
    wait_until(lambda: node.ledger.assembly_snapshot()[0].open_associations == 0)
    snapshot = node.ledger.assembly_snapshot()
    assert [answer(status) for status in node.store(ds, ds, title="PACS")] == [(Status.SUCCESS, None)] * 2
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert node.ledger.find_instance(ds.SOPInstanceUID) == row
    assert node.ledger.assembly_snapshot() == snapshot
    assert node.files("quarantine") == node.files("incoming") == []


def test_a_duplicate_whose_file_is_gone_is_stored_again(node):
    ds = radiograph()
    node.store(ds)
    (path,) = node.files("instances")
    path.unlink()
    assert [answer(status) for status in node.store(ds)] == [(Status.SUCCESS, None)]
    assert path.exists()


@pytest.mark.parametrize("changes", [{}, {"PatientComments": "second"}])
def test_what_retention_has_removed_is_received_anew_as_whatever_it_is_now(node, changes):
    node.store(radiograph())
    (old,) = node.files("instances")
    now, every = datetime.now(UTC), timedelta(days=1)
    study = node.ledger.study(STUDY, 1)
    node.ledger.mark_ready(study, [], now, state=StudyState.IGNORED, reason="x")
    with node.ledger.removing(STUDY, Cutoff(settled=now + every, failed=None), now) as found:
        assert found is not None
    ds = radiograph(**changes)
    assert [answer(status) for status in node.store(ds)] == [(Status.SUCCESS, None)]
    row = node.ledger.find_instance(ds.SOPInstanceUID)
    assert {*node.files("instances")} == {old, row.path}
    assert not row.removed
    old.unlink()  # a removal that comes late takes the old one
    assert dcmread(row.path).get("PatientComments", "") == changes.get("PatientComments", "")
    assert node.ledger.assembly_snapshot()[0].revision == 2


def test_the_same_uid_with_other_bytes_is_quarantined_and_the_first_kept(node, logged):
    first, other = radiograph(), radiograph(PatientID="CANARY-2")
    node.store(first)
    (path,) = node.files("instances")
    content = path.read_bytes()
    expected = (Status.DUPLICATE_SOP_INSTANCE, "SOP Instance UID is already stored with other content")
    assert [answer(status) for status in node.store(other, other)] == [expected] * 2
    assert path.read_bytes() == content
    (kept,) = node.files("quarantine")
    assert dcmread(kept).PatientID == "CANARY-2"
    rows = rows_of(node, "quarantine")
    assert [(row["sop_instance_uid"], row["study_instance_uid"], row["path"]) for row in rows] == [
        (first.SOPInstanceUID, STUDY, str(kept))
    ]
    reported = [line for line in logged() if line["event"] == "object refused"]
    assert [(line["sop"], line["status"], line["calling"]) for line in reported] == [
        (first.SOPInstanceUID, "0x0111", "MODALITY")
    ] * 2


def test_the_same_object_in_another_transfer_syntax_is_a_duplicate_and_the_first_file_stays(node, logged):
    first, again, other = radiograph(size=MB), radiograph(size=MB), radiograph(size=MB)
    again.PixelData = first.PixelData
    for ds in (again, other):
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert [answer(status) for status in node.store(first)] == [(Status.SUCCESS, None)]
    (path,) = node.files("instances")
    content = path.read_bytes()
    with node.associated(contexts=[(CR, [JPEG2000Lossless])]) as association:
        assert answer(association.send_c_store(again)) == (Status.SUCCESS, None)
        assert association.send_c_store(other).Status == Status.DUPLICATE_SOP_INSTANCE
    assert path.read_bytes() == content
    assert len(node.files("quarantine")) == 1
    assert [line["sop"] for line in logged() if line["event"] == "duplicate acknowledged"] == [first.SOPInstanceUID]


class SlowLedger(Ledger):
    """Leaves time between looking an instance up and adding it."""

    def find_instance(self, sop_instance_uid):
        found = super().find_instance(sop_instance_uid)
        time.sleep(0.2)
        return found


@pytest.mark.slow
def test_two_listeners_of_one_ledger_store_a_uid_once(tmp_path):
    """The file that was acknowledged is that of the sender who was told so, whichever of them that is."""
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        ledgers = [SlowLedger(f"sqlite:///{folder}/ledger.sqlite") for _ in range(2)]
        variants = [radiograph(PatientID=f"CANARY-{letter}") for letter in "AB"]
        with running(folder, ledger=ledgers[0]) as one, running(folder, ledger=ledgers[1]) as other:
            told = in_threads(
                [
                    lambda node=node, ds=ds: node.store(ds)[0].Status
                    for node, ds in zip((one, other), variants, strict=True)
                ]
            )
            assert sorted(told) == [0x0000, 0x0111]
            (path,) = one.files("instances")
            winner = variants[told.index(0x0000)]
            assert dcmread(path).PatientID == winner.PatientID
            row = one.ledger.find_instance(winner.SOPInstanceUID)
            assert (row.path, hashlib.sha256(stored_bytes(path, ExplicitVRLittleEndian)).hexdigest()) == (
                path,
                row.sha256,
            )
            (kept,) = one.files("quarantine")
            assert dcmread(kept).PatientID != winner.PatientID


def test_a_second_listener_leaves_the_first_one_s_associations_and_parts_alone(tmp_path):
    with running(tmp_path) as first, first.associated() as peer:
        assert peer.send_c_store(radiograph(1)).Status == 0x0000
        send_command_only(peer)
        wait_until(lambda: first.files("incoming"))
        with running(tmp_path) as second:
            (activity,) = second.ledger.assembly_snapshot()
            assert activity.open_associations == 1
            assert len(first.files("incoming")) == 1
        peer.abort()
    with running(tmp_path) as third:
        (activity,) = third.ledger.assembly_snapshot()
        assert activity.open_associations == 0


def test_the_same_uid_sent_at_the_same_time_is_stored_once(tmp_path):
    variants = [radiograph(PatientID=f"CANARY-{number}") for number in range(4)]
    with running(tmp_path, ledger=SlowLedger(f"sqlite:///{tmp_path}/ledger.sqlite")) as node:
        statuses = in_threads([lambda ds=ds: node.store(ds)[0].Status for ds in variants])
        assert sorted(statuses) == [0x0000, 0x0111, 0x0111, 0x0111]
        (path,) = node.files("instances")
        row = node.ledger.find_instance(variants[0].SOPInstanceUID)
        assert hashlib.sha256(stored_bytes(path, ExplicitVRLittleEndian)).hexdigest() == row.sha256
        assert len(node.files("quarantine")) == 3


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "status", "comment"),
    [
        ({"StudyInstanceUID": None}, Status.CANNOT_UNDERSTAND, "StudyInstanceUID is missing"),
        ({"StudyInstanceUID": ""}, Status.CANNOT_UNDERSTAND, "StudyInstanceUID is missing"),
        ({"SeriesInstanceUID": None}, Status.CANNOT_UNDERSTAND, "SeriesInstanceUID is missing"),
        ({"SOPInstanceUID": None}, Status.CANNOT_UNDERSTAND, "SOPInstanceUID is missing"),
        ({"SOPClassUID": None}, Status.CANNOT_UNDERSTAND, "SOPClassUID is missing"),
        ({"SOPInstanceUID": "1.2.9"}, Status.DATASET_MISMATCH, "SOP Instance UID differs from the request"),
        ({"SOPClassUID": CT}, Status.DATASET_MISMATCH, "SOP Class UID differs from the request"),
    ],
)
def test_a_data_set_that_does_not_name_itself_is_refused(node, changes, status, comment):
    with node.associated() as association:
        body = receiving.data_set_bytes(radiograph(**changes), ExplicitVRLittleEndian)
        assert store_bytes(association, body) == (status, comment)
        assert answer(association.send_c_store(radiograph(2))) == (Status.SUCCESS, None)
    assert len(node.files("instances")) == 1
    assert len(node.files("quarantine")) == len(rows_of(node, "quarantine")) == 1


def test_an_invalid_study_uid_is_refused_and_builds_no_path(node):
    body = receiving.data_set_bytes(radiograph(), ExplicitVRLittleEndian)
    evil = body.replace(STUDY.encode().ljust(26, b"\0")[:26], b"../../../../../../tmp/evil", 1)
    assert evil != body
    with node.associated() as association:
        status, comment = store_bytes(association, evil)
    assert status is Status.CANNOT_UNDERSTAND
    assert comment.endswith("is not a valid UID")
    assert node.files("instances") == []


@pytest.mark.parametrize("body", [b"\0", b"GET / HTTP/1.1\r\n\r\n" * 50, bytes(range(256)) * 20])
def test_junk_is_refused_and_quarantined(node, body):
    with node.associated() as association:
        status, _ = store_bytes(association, body)
        assert status is Status.CANNOT_UNDERSTAND
        assert association.is_established
    assert node.files("instances") == node.files("incoming") == []


def test_a_class_that_was_not_negotiated_for_the_context_is_refused(node):
    ds = radiograph(SOPClassUID=CT)
    with node.associated() as association:
        body = receiving.data_set_bytes(ds, ExplicitVRLittleEndian)
        assert store_bytes(association, body, sop_class=CT) == (
            Status.DATASET_MISMATCH,
            "SOP Class UID differs from the presentation context",
        )


def test_a_request_without_a_data_set_is_refused(node):
    with node.associated() as association:
        assert store_bytes(association, None) == (Status.CANNOT_UNDERSTAND, "Request without a data set")
        assert answer(association.send_c_store(radiograph())) == (Status.SUCCESS, None)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../etc/x", "1.2.03", "1..2", "x"])
def test_an_invalid_instance_uid_is_refused_and_the_association_goes_on(node, uid):
    with node.associated() as association:
        body = receiving.data_set_bytes(radiograph(), ExplicitVRLittleEndian)
        assert store_bytes(association, body, sop_instance=uid) == (
            Status.INVALID_SOP_INSTANCE,
            "UID in the request is not valid",
        )
        assert answer(association.send_c_store(radiograph(2))) == (Status.SUCCESS, None)
    assert node.files("") == [instance_path(node, radiograph(2))]


def test_low_disk_space_is_refused_with_a_comment(tmp_path):
    with running(tmp_path, low_water_mb=1 << 30) as node:
        ((status, comment),) = (answer(status) for status in node.store(radiograph()))
    assert status is Status.OUT_OF_RESOURCES
    assert comment.startswith("Low disk space: ")
    assert len(comment) <= 64
    assert node.files("") == []
    assert node.ledger.find_instance(f"{STUDY}.1.1") is None


def test_nothing_is_written_while_disk_space_is_low(tmp_path):
    spool = receiving.Spool(tmp_path, 1 << 60)
    part = PartFile(spool, CR, "1.2.3", ExplicitVRLittleEndian)
    part.write(bytes(MB))
    assert [path for path in spool.incoming.rglob("*") if path.is_file()] == []
    with pytest.raises(OutOfResources, match="Low disk space"):
        part.finish()


def test_one_endless_object_stops_at_the_low_water_mark(tmp_path):
    with receiving.small_disk(tmp_path / "disk", 48) as disk:
        spool = receiving.Spool(disk, 20 * MB)
        part = PartFile(spool, CR, "1.2.3", ExplicitVRLittleEndian)
        for _ in range(64):
            part.write(bytes(MB))
        with pytest.raises(OutOfResources, match="Low disk space"):
            part.finish()
        assert [path for path in spool.incoming.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_refused_with_a_comment_and_loses_nothing(tmp_path):
    with receiving.small_disk(tmp_path / "disk", 3) as disk:
        spool = receiving.Spool(disk / "spool", 0)
        with running(tmp_path, spool=spool) as node:
            kept, big, small = radiograph(1, size=MB), radiograph(2, size=4 * MB), radiograph(3)
            statuses = node.store(kept, big, small)
            assert [answer(status) for status in statuses] == [
                (Status.SUCCESS, None),
                (Status.OUT_OF_RESOURCES, "Spool cannot be written: No space left on device"),
                (Status.SUCCESS, None),
            ]
            first = instance_path(node, kept)
            body = receiving.data_set_bytes(kept, ExplicitVRLittleEndian)
            assert stored_bytes(first, ExplicitVRLittleEndian) == body
            assert len(node.files("instances")) == 2
            assert node.files("incoming") == []


def test_a_ledger_that_does_not_answer_refuses_and_recovers(node):
    database = sqlite3.connect(node.ledger._engine.url.database)
    for table in ("instances", "associations"):
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        (refused,) = node.store(radiograph())
        assert refused.Status == Status.OUT_OF_RESOURCES
        assert 0 < len(refused.ErrorComment) <= 64
        database.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
        database.commit()
        assert node.files("incoming") == []
    assert [answer(status) for status in node.store(radiograph())] == [(Status.SUCCESS, None)]
    database.close()


def test_a_fault_of_ours_is_a_processing_failure_and_is_logged(node, logged):
    node.spool.adopt = None  # the plainest bug there is
    (refused,) = node.store(radiograph())
    assert answer(refused) == (Status.PROCESSING_FAILURE, "Internal error, see the log of the node")
    assert node.files("") == []
    (line,) = [line for line in logged() if line["event"] == "object not stored"]
    assert line["error"] == "TypeError"
    assert any("intake.py" in place for place in line["place"])


# --- who may associate


@pytest.mark.parametrize(
    ("calling", "called", "reason", "meaning"),
    [
        ("STRANGER", "EXPLAIN", (1, 1, 3), "calling AE title not recognised"),
        ("MODALITY", "OTHER", (1, 1, 7), "called AE title not recognised"),
        ("modality", "EXPLAIN", (1, 1, 3), "calling AE title not recognised"),
    ],
)
def test_strangers_are_rejected_with_the_reason_and_logged(node, logged, calling, called, reason, meaning):
    association = node.entity(calling).associate("127.0.0.1", node.port, ae_title=called)
    assert association.is_rejected
    primitive = association.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == reason
    (line,) = wait_until(lambda: [line for line in logged() if line["event"] == "association rejected"])
    assert (line["calling"], line["called"], line["reason"]) == (calling, called, meaning)


def test_an_empty_list_accepts_nobody_unless_said_so(tmp_path):
    with running(tmp_path, calling_ae_titles="") as node:
        assert node.entity().associate("127.0.0.1", node.port, ae_title="EXPLAIN").is_rejected
    with running(tmp_path, calling_ae_titles="", accept_any_calling_ae="true") as node, node.associated("ANY"):
        pass


def rejected(node, title, called="EXPLAIN", source="127.0.0.1"):
    association = node.entity(title).associate("127.0.0.1", node.port, ae_title=called, bind_address=(source, 0))
    answer = association.acceptor.primitive
    return (
        (answer.result, answer.result_source, answer.diagnostic) if association.is_rejected else association.release()
    )


def test_a_caller_at_another_address_is_told_what_a_stranger_is_told(tmp_path, logged):
    """No oracle: whoever guesses an AE title learns nothing from the answer. The log says which it was."""
    titles = "PACS@127.0.0.2,MODALITY@127.0.0.0/29,ANY"
    with running(tmp_path, calling_ae_titles=titles) as node:
        assert rejected(node, "PACS", source="127.0.0.3") == rejected(node, "STRANGER") == (1, 1, 3)
        elsewhere, stranger = wait_until(lambda: [one for one in logged() if one["event"] == "association rejected"])
        assert elsewhere["reason"] == stranger["reason"] == "calling AE title not recognised"
        assert elsewhere["because"] == "node.calling_ae_titles has this AE title from other addresses only"
        assert elsewhere["peer"] == "127.0.0.3"
        assert stranger["because"] == "the AE title is not in node.calling_ae_titles"
        assert rejected(node, "PACS", "OTHER", "127.0.0.3") == rejected(node, "STRANGER", "OTHER") == (1, 1, 7)
        for title, source in (("PACS", "127.0.0.2"), ("MODALITY", "127.0.0.7"), ("ANY", "127.0.0.9")):
            assert rejected(node, title, source=source) is None
        assert rejected(node, "MODALITY", source="127.0.0.8") == (1, 1, 3)


def test_a_stranger_learns_nothing_of_a_full_node_and_takes_no_slot(tmp_path):
    with running(tmp_path, max_associations=1) as node, node.associated():
        assert rejected(node, "STRANGER") == (1, 1, 3)
        assert rejected(node, "PACS") == (2, 3, 2)


def test_an_ipv4_address_is_recognised_on_a_socket_of_ipv6(tmp_path):
    with running(tmp_path, host="::", calling_ae_titles="PACS@127.0.0.2,MODALITY@::1") as node:
        assert rejected(node, "PACS", source="127.0.0.2") is None
        assert rejected(node, "PACS", source="127.0.0.3") == (1, 1, 3)
        association = node.entity().associate("::1", node.port, ae_title="EXPLAIN")
        assert association.is_established
        association.release()


def test_more_associations_than_allowed_are_rejected_for_now(tmp_path):
    with running(tmp_path, max_associations=2) as node:
        with node.associated(), node.associated():
            third = node.entity().associate("127.0.0.1", node.port, ae_title="EXPLAIN")
            primitive = third.acceptor.primitive
            assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)
        wait_until(lambda: not node.listener._receptions)
        with node.associated():
            pass


def test_a_port_in_use_is_a_configuration_error(node, tmp_path):
    with (
        pytest.raises(ConfigError, match=f"node.port: cannot listen on 127.0.0.1:{node.port}"),
        running(tmp_path, port=node.port),
    ):
        pass


# --- associations in the ledger


def test_the_ledger_knows_which_associations_are_open(node):
    with node.associated() as association:
        association.send_c_store(radiograph())
        (activity,) = node.ledger.assembly_snapshot()
        assert (activity.study_instance_uid, activity.open_associations) == (STUDY, 1)
        (row,) = rows_of(node, "associations")
        assert (row["calling_ae_title"], row["called_ae_title"], row["peer_address"]) == (
            "MODALITY",
            "EXPLAIN",
            "127.0.0.1",
        )
    wait_until(lambda: node.ledger.assembly_snapshot()[0].open_associations == 0)


def test_an_aborted_association_is_closed_in_the_ledger(node):
    with node.associated() as association:
        association.send_c_store(radiograph())
        association.abort()
    wait_until(lambda: node.ledger.assembly_snapshot()[0].open_associations == 0)


def test_an_end_that_the_ledger_did_not_take_is_recorded_later(node):
    database = sqlite3.connect(node.ledger._engine.url.database)
    with node.associated() as association:
        association.send_c_store(radiograph())
        database.execute("ALTER TABLE associations RENAME TO away")
    wait_until(lambda: not node.listener._receptions)
    database.execute("ALTER TABLE away RENAME TO associations")
    database.close()
    wait_until(lambda: node.ledger.assembly_snapshot()[0].open_associations == 0)
    wait_until(lambda: not node.listener._to_close)


def test_an_echo_leaves_no_row(node):
    with node.associated(contexts=[(Verification, [ImplicitVRLittleEndian])]) as association:
        association.send_c_echo()
    assert rows_of(node, "associations") == []


# --- crashes and order


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    acknowledged = []
    with receiving.child_listener(tmp_path) as (process, port):
        association = receiving.Node(None, None, None, port)
        with association.associated() as peer:
            for number in range(1, 4):
                acknowledged.append(radiograph(number, size=MB))
                assert peer.send_c_store(acknowledged[-1]).Status == 0x0000
            send_command_only(peer)
            process.send_signal(signal.SIGKILL)
            process.wait()
            peer.abort()
    assert len(list((tmp_path / "spool" / "incoming").glob("*/*.part"))) == 1
    with running(tmp_path) as node:
        (activity,) = node.ledger.assembly_snapshot()
        assert (activity.new_instances, activity.open_associations) == (3, 0)
        assert node.files("incoming") == []
        for ds in acknowledged:
            path = instance_path(node, ds)
            body = receiving.data_set_bytes(ds, ExplicitVRLittleEndian)
            assert stored_bytes(path, ExplicitVRLittleEndian) == body


@pytest.mark.external
def test_success_leaves_after_file_folder_and_ledger_are_synced(tmp_path):
    strace = receiving.needs("strace")
    trace = tmp_path / "trace"
    prefix = [strace, "-f", "-y", "-s", "400", "-x", "-e", "trace=fsync,fdatasync,rename,sendto", "-o", str(trace)]
    with (
        receiving.child_listener(tmp_path, prefix) as (_, port),
        receiving.Node(None, None, None, port).associated() as peer,
    ):
        assert peer.send_c_store(radiograph()).Status == 0x0000
    lines = trace.read_text().splitlines()

    def all_of(pattern):
        return [number for number, line in enumerate(lines) if re.search(pattern, line)]

    def last(pattern):
        return all_of(pattern)[-1]

    # The C-STORE-RSP is the last P-DATA-TF: its command set has Command Field (0000,0100) = 0x8001.
    answered = last(r"sendto\(.*\\x04\\x00.*\\x00\\x00\\x00\\x01\\x02\\x00\\x00\\x00\\x01\\x80")
    synced_file = last(r"fsync\(\d+<[^>]*/incoming/[0-9a-f]+/[0-9a-f]+\.part>")
    renamed = last(r"rename\(")
    synced_folder = last(rf"fsync\(\d+<[^>]*/instances/{re.escape(STUDY)}>")
    commits = all_of(r"(fsync|fdatasync)\(\d+<[^>]*ledger\.sqlite-wal>")
    assert synced_file < renamed < synced_folder < answered
    assert any(synced_folder < commit < answered for commit in commits)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_objects(tmp_path):
    with (
        receiving.child_listener(tmp_path) as (process, port),
        receiving.Node(None, None, None, port).associated() as peer,
    ):
        assert peer.send_c_store(radiograph(1)).Status == 0x0000
        before = peak_memory(process.pid)
        assert peer.send_c_store(radiograph(2, size=80 * MB)).Status == 0x0000
        assert peak_memory(process.pid) - before < 24 * MB


# --- promises


def test_every_error_has_a_status_of_the_table():
    tree = [errors.NodeError, Conflict, InvalidInstanceUID]
    while tree:
        error = tree.pop()
        assert error.status in {*status.STATUS_MEANING, *status.COMMITMENT_MEANING}
        tree += error.__subclasses__()


def test_error_comments_fit():
    assert status.error_comment("é\\" + "x" * 100) == "  " + "x" * 62


def test_the_listener_never_loads_torch_or_celery():
    heavy = ("torch", "celery", "highdicom")
    program = f"import sys, dicom_node.receive.listener; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_patient_data_in_logs(node, logged):
    body = receiving.data_set_bytes(radiograph(9, StudyInstanceUID=None), ExplicitVRLittleEndian)
    node.store(radiograph(), radiograph(), radiograph(PatientID="CANARY-3"))
    with node.associated() as association:
        store_bytes(association, body)
        store_bytes(association, b"CANARY" * 99)
        store_bytes(association, receiving.data_set_bytes(radiograph(), ExplicitVRLittleEndian)[:150])
    node.spool.adopt = lambda *_: int("CANARY")
    node.store(radiograph(7))
    wait_until(lambda: not node.listener._receptions)
    text = json.dumps(logged())
    assert "object refused" in text
    assert "ValueError" in text
    assert "CANARY" not in text.upper()
    assert "19010203" not in text


# --- helpers


def rows_of(node, table):
    database = sqlite3.connect(node.ledger._engine.url.database)
    database.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]  # noqa: S608
    finally:
        database.close()


def in_threads(calls):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def request(sop_class=CR, sop_instance=f"{STUDY}.1.1"):
    from pynetdicom.dimse_primitives import C_STORE

    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 1, 2
    primitive._affected_sop_class_uid = UID(sop_class)
    primitive._affected_sop_instance_uid = UID(sop_instance)
    return primitive


def store_bytes(association, body, **names):
    """Send any bytes, or nothing, as the data set of a C-STORE request; the answer."""
    from io import BytesIO

    primitive = request(**names)
    primitive.DataSet = BytesIO(body) if body is not None else None
    context = association.accepted_contexts[0]
    association._reactor_checkpoint.clear()
    wait_until(lambda: association._is_paused)
    association.dimse.send_msg(primitive, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert response is not None, "no answer"
    return Status(response.Status), response.ErrorComment


def send_command_only(association):
    """Begin a C-STORE and send no data set."""
    from pynetdicom.dimse_messages import C_STORE_RQ

    message = C_STORE_RQ()
    from io import BytesIO

    primitive = request(sop_instance=f"{STUDY}.1.99")
    primitive.DataSet = BytesIO(b"x" * 10)
    message.primitive_to_message(primitive)
    command = next(iter(message.encode_msg(association.accepted_contexts[0].context_id, 16382)))
    association.dul.send_pdu(command)
    time.sleep(0.5)


def peak_memory(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
