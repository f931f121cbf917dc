"""Files under their final names are complete, whatever happens while they are written."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
import receiving
import strategies
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dicom.reading import read_header
from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, NodeError, OutOfResources
from dicom_node.storage import folder
from dicom_node.storage.spool import PART_SUFFIX, Spool
from dicom_node.watch.logs import without_warnings

DIGEST = hashlib.sha256(b"bytes").hexdigest()


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", 0)


def part(spool, content=b"bytes"):
    path = spool.new_part()
    path.write_bytes(content)
    return path


def test_adopt_moves_the_file_to_its_final_name(spool):
    source = part(spool)
    target = spool.adopt(source, "1.2.3", "1.2.3.4", DIGEST)
    assert target == spool.instances / "1.2.3" / f"1.2.3.4-{DIGEST[:16]}.dcm"
    assert target.read_bytes() == b"bytes"
    assert not source.exists()


@given(strategies.uids, strategies.uids)
def test_paths_of_valid_uids_stay_inside(study, sop):
    root = Path("/does/not/matter")
    made = Spool.__new__(Spool)
    made.instances = root / "instances"
    assert made.instance_path(study, sop, DIGEST).resolve().is_relative_to(root / "instances")
    assert made.instance_path(study, sop, DIGEST).parent.name == study


@given(strategies.not_uids)
def test_what_is_no_uid_never_becomes_a_path(text):
    with pytest.raises(DatasetUnreadable) as caught:
        checked_uid(text)
    assert str(caught.value) == "not a valid UID"


def test_refused_names(spool):
    ds = receiving.radiograph()
    with pytest.raises(NodeError, match="task id"):
        spool.write_outbox("../up", [ds])
    with pytest.raises(DatasetUnreadable):
        spool.adopt(part(spool), "..", "1.2", DIGEST)
    assert spool.quarantine(part(spool), "../../etc/passwd\n").parent == spool.quarantined


def test_outbox_files_are_complete_and_repeatable(spool):
    ds = receiving.radiograph()
    (first,) = spool.write_outbox("task-1", [ds])
    content = first.read_bytes()
    assert dcmread(first).PatientName == receiving.CANARY
    assert spool.write_outbox("task-1", [ds]) == [first]
    assert first.read_bytes() == content
    assert not [path for path in spool.incoming.rglob("*") if path.is_file()]


def test_results_are_synced_before_they_have_names_and_their_folder_once_after(spool, monkeypatch):
    synced, sync = [], folder.sync

    def noted(path):
        synced.append((path, sorted(one.name for one in spool.outbox.rglob("*.dcm"))))
        sync(path)

    monkeypatch.setattr(folder, "sync", noted)
    paths = spool.write_outbox("task-1", [receiving.radiograph(number) for number in (1, 2, 3)])
    names = sorted(one.name for one in paths)
    assert [named for path, named in synced if path.suffix == PART_SUFFIX] == [[], [], []]
    assert [named for path, named in synced if path == paths[0].parent] == [names]
    assert len(names) == 3


def test_of_results_of_which_one_cannot_be_synced_none_has_a_name(spool, monkeypatch):
    sync, seen = folder.sync, []

    def full(path):
        seen.append(path)
        if path.suffix == PART_SUFFIX and len(seen) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(folder, "sync", full)
    with pytest.raises(OutOfResources, match="Disk full"):
        spool.write_outbox("task-1", [receiving.radiograph(number) for number in (1, 2, 3)])
    assert not list(spool.outbox.rglob("*.dcm"))
    assert not [path for path in spool.incoming.rglob("*") if path.is_file()]


def test_a_failed_outbox_write_leaves_nothing(spool):
    broken = receiving.radiograph()
    del broken.file_meta.TransferSyntaxUID
    with pytest.raises((AttributeError, ValueError)):
        spool.write_outbox("task-1", [receiving.radiograph(2), broken])
    assert not list(spool.outbox.rglob("*.dcm"))
    assert not [path for path in spool.incoming.rglob("*") if path.is_file()]


def test_quarantine_of_the_same_keeps_one_file(spool):
    names = {spool.quarantine(part(spool), "Conflict-1.2.3-abcd") for _ in range(3)}
    assert [path.name for path in names] == ["Conflict-1.2.3-abcd.dcm"]


OTHER = """
import sys
from pathlib import Path
from dicom_node.storage import folder
from dicom_node.storage.spool import PART_SUFFIX, Spool
spool = Spool(Path(sys.argv[1]), 0)
spool.new_part().write_bytes(b"bytes")
print(spool.owner, flush=True)
sys.stdin.read()
"""


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path / "spool")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        owner = other.stdout.readline().strip()
        now = Spool(tmp_path / "spool", 0)
        kept, fresh = now.adopt(part(now), "1.2", "1.2.3", DIGEST), part(now)
        assert now.alive(owner)
        assert now.alive(now.owner)
        assert now.sweep() == 0
        assert len(list((now.incoming / owner).iterdir())) == 1
        other.kill()
        other.wait()
        assert not now.alive(owner)
        assert now.sweep() == 1
    assert not (now.incoming / owner).exists()
    assert not (now.owners / owner).exists()
    assert fresh.exists()
    assert kept.exists()
    assert now.sweep() == 0


@pytest.mark.parametrize("name", ["", "nobody", "0" * 32])
def test_nobody_is_dead(spool, name):
    assert not spool.alive(name)


def test_many_owners_at_once_are_many(tmp_path):
    """One that sweeps finds files of owners between their making and their lock."""
    spools = [Spool(tmp_path / "spool", 0) for _ in range(8)]
    stop = threading.Event()

    def sweeps():
        while not stop.is_set():
            spools[0].sweep()

    sweeper = threading.Thread(target=sweeps)
    sweeper.start()
    try:
        for _ in range(40):
            fresh = [Spool(tmp_path / "spool", 0) for _ in range(4)]
            parts = [part(one) for one in fresh]
            assert all(one.alive(other.owner) for one in spools for other in fresh)
            assert all(path.exists() for path in parts)
    finally:
        stop.set()
        sweeper.join()


def test_other_content_of_the_same_uid_has_another_name(spool):
    one = spool.adopt(part(spool, b"one"), "1.2.3", "1.2.3.4", hashlib.sha256(b"one").hexdigest())
    other = spool.adopt(part(spool, b"other"), "1.2.3", "1.2.3.4", hashlib.sha256(b"other").hexdigest())
    assert (one.read_bytes(), other.read_bytes()) == (b"one", b"other")


@pytest.mark.parametrize("digest", ["", "..", "/" * 64, "G" * 64, "0" * 63])
def test_what_is_no_digest_never_becomes_a_path(spool, digest):
    with pytest.raises(NodeError, match="not a digest"):
        spool.instance_path("1.2", "1.2.3", digest)


def test_low_water_mark(tmp_path):
    Spool(tmp_path, 0).check_space()
    with pytest.raises(OutOfResources, match=r"Low disk space: .* MB free"):
        Spool(tmp_path, 1 << 60).check_space()


def test_a_full_disk_is_out_of_resources_and_loses_nothing(tmp_path):
    with receiving.small_disk(tmp_path / "disk", 2) as disk:
        spool = Spool(disk / "spool", 0)
        (kept,) = spool.write_outbox("kept", [receiving.radiograph(1, size=receiving.MB // 2)])
        digest = hashlib.sha256(kept.read_bytes()).digest()
        with pytest.raises(OutOfResources, match="Disk full"):
            spool.write_outbox("too-big", [receiving.radiograph(2, size=4 * receiving.MB)])
        assert hashlib.sha256(kept.read_bytes()).digest() == digest
        assert not [path for path in spool.incoming.rglob("*") if path.is_file()]
        assert not list(spool.outbox.rglob("*2.dcm"))
        spool.write_outbox("fits", [receiving.radiograph(3)])


def crash_at(step, action):
    """Run `action` in a child that dies without a word at its `step`-th line, wherever; True if it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(_frame, event, _argument):
            nonlocal count
            if event == "line":
                count += 1
                if count == step:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    step=st.integers(min_value=1, max_value=500),
    size=st.integers(min_value=0, max_value=300_000),
    known_folder=st.booleans(),
    replaces=st.booleans(),
)
def test_a_crash_at_any_point_leaves_nothing_or_everything(step, size, known_folder, replaces):
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool", 0)
        old, new = b"old" * 100, os.urandom(size)
        target = spool.instance_path("1.2.3", "1.2.3.4", DIGEST)
        if known_folder:
            spool.adopt(part(spool, b"sibling"), "1.2.3", "1.2.3.5", DIGEST)
        if replaces:
            spool.adopt(part(spool, old), "1.2.3", "1.2.3.4", DIGEST)
        source = part(spool, new)
        crashed = crash_at(step, lambda: spool.adopt(source, "1.2.3", "1.2.3.4", DIGEST))
        found = target.read_bytes() if target.exists() else None
        if crashed:
            assert found in ((old if replaces else None), new)
        else:
            assert found == new
        again = Spool(Path(folder) / "spool", 0)
        retried = again.adopt(part(again, new), "1.2.3", "1.2.3.4", DIGEST)
        assert retried.read_bytes() == new


def test_the_crash_test_does_crash(tmp_path):
    """Otherwise the law above would hold for the wrong reason."""
    spool = Spool(tmp_path / "spool", 0)
    source = part(spool)
    outcomes = [crash_at(step, lambda: spool.adopt(source, "1.2.3", "1.2.3.4", DIGEST)) for step in (1, 5, 10, 1000)]
    assert outcomes == [True, True, True, False]


ADOPT = """
import sys
from pathlib import Path
from dicom_node.storage import folder
from dicom_node.storage.spool import PART_SUFFIX, Spool
spool = Spool(Path(sys.argv[1]), 0)
part = spool.new_part()
part.write_bytes(b"bytes")
spool.adopt(part, "1.2.3", "1.2.3.4", "0" * 64)
"""


@pytest.mark.external
def test_bytes_are_synced_before_the_rename_and_names_after_it(tmp_path):
    """A kill cannot show a missing fsync, because the page cache outlives the process; the order of calls does."""
    strace = receiving.needs("strace")
    trace, root = tmp_path / "trace", tmp_path / "spool"
    calls = "trace=openat,fsync,rename,renameat,renameat2,mkdir"
    command = [strace, "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", ADOPT, str(root)]
    subprocess.run(command, check=True, timeout=60)
    lines = trace.read_text().splitlines()

    def first(pattern, start=0):
        return next(number for number, line in enumerate(lines) if number >= start and re.search(pattern, line))

    renamed = first(r"rename.*\.part.*1\.2\.3\.4-0+\.dcm")
    assert first(rf"fsync\(\d+<{root}/incoming/[0-9a-f]+/[0-9a-f]+\.part>") < renamed
    assert first(rf"fsync\(\d+<{root}/instances/1\.2\.3>", renamed) > renamed
    made = first(rf'mkdir\("{root}/instances/1\.2\.3"')
    assert first(rf"fsync\(\d+<{root}/instances>", made) < renamed


@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("keywords", [None, ("SOPInstanceUID", "StudyInstanceUID")])
def test_headers_are_read_without_pixels(tmp_path, transfer_syntax, keywords):
    ds = receiving.radiograph()
    file = tmp_path / "x.dcm"
    file.write_bytes(receiving.part10(receiving.data_set_bytes(ds, transfer_syntax), transfer_syntax))
    header = read_header(file, keywords)
    assert header.StudyInstanceUID == ds.StudyInstanceUID
    assert "PixelData" not in header
    assert ("Modality" in header) == (keywords is None)


def test_a_deflate_bomb_is_not_inflated(tmp_path):
    file = tmp_path / "bomb.dcm"
    file.write_bytes(receiving.part10(receiving.deflate_bomb(400 * receiving.MB), DeflatedExplicitVRLittleEndian))
    assert file.stat().st_size < receiving.MB
    tracemalloc.start()
    try:
        assert read_header(file).StudyInstanceUID == receiving.STUDY
        assert tracemalloc.get_traced_memory()[1] < 40 * receiving.MB
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=400), st.integers(min_value=0, max_value=600), st.booleans())
def test_damaged_files_are_read_or_refused_without_quoting(junk, position, whole):
    good = receiving.part10(
        receiving.data_set_bytes(receiving.radiograph(), ExplicitVRLittleEndian), ExplicitVRLittleEndian
    )
    assume(whole or position < len(good))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.dcm"
        file.write_bytes(junk if whole else good[:position] + junk)
        said = "Data set cannot be read"
        try:
            with without_warnings():
                read_header(file, ("StudyInstanceUID",))
        except DatasetUnreadable as error:
            said = str(error)
        assert said == "Data set cannot be read"


def test_a_deflate_bomb_is_measured_without_being_unpacked(tmp_path):
    import zlib

    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian

    from dicom_node.dicom.reading import inflates_within

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    path = tmp_path / "bomb.dcm"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(file, meta, enforce_standard=True)
        for _ in range(64):
            file.write(packer.compress(b"\0" * (1 << 20)))
        file.write(packer.flush())
    assert path.stat().st_size < 100_000
    assert inflates_within(path, 64 << 20)
    assert not inflates_within(path, (64 << 20) - 1)
