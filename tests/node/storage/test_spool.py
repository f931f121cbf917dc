"""Files under their final names are complete, whatever happens while they are written."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
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
from dicom_node.storage.spool import Spool
from dicom_node.watch.logs import without_warnings


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", 0)


def part(spool, content=b"bytes", name="a.part"):
    path = spool.incoming / name
    path.write_bytes(content)
    return path


def test_adopt_moves_the_file_to_its_final_name(spool):
    source = part(spool)
    target = spool.adopt(source, "1.2.3", "1.2.3.4")
    assert target == spool.instances / "1.2.3" / "1.2.3.4.dcm"
    assert target.read_bytes() == b"bytes"
    assert not source.exists()


@given(strategies.uids, strategies.uids)
def test_paths_of_valid_uids_stay_inside(study, sop):
    root = Path("/does/not/matter")
    made = Spool.__new__(Spool)
    made.instances = root / "instances"
    assert made.instance_path(study, sop).resolve().is_relative_to(root / "instances")
    assert made.instance_path(study, sop).parent.name == study


@given(strategies.not_uids)
def test_what_is_no_uid_never_becomes_a_path(text):
    with pytest.raises(DatasetUnreadable) as caught:
        checked_uid(text)
    assert str(caught.value) == "not a valid UID"


def test_refused_names(spool):
    ds = receiving.radiograph()
    with pytest.raises(NodeError, match="task id"):
        spool.write_outbox("../up", ds)
    with pytest.raises(DatasetUnreadable):
        spool.adopt(part(spool), "..", "1.2")
    assert spool.quarantine(part(spool), "../../etc/passwd\n").parent == spool.quarantined


def test_outbox_files_are_complete_and_repeatable(spool):
    ds = receiving.radiograph()
    first = spool.write_outbox("task-1", ds)
    content = first.read_bytes()
    assert dcmread(first).PatientName == receiving.CANARY
    assert spool.write_outbox("task-1", ds) == first
    assert first.read_bytes() == content
    assert not list(spool.incoming.iterdir())


def test_a_failed_outbox_write_leaves_nothing(spool):
    broken = receiving.radiograph()
    del broken.file_meta.TransferSyntaxUID
    with pytest.raises((AttributeError, ValueError)):
        spool.write_outbox("task-1", broken)
    assert not list(spool.incoming.iterdir())


def test_quarantine_of_the_same_keeps_one_file(spool):
    names = {spool.quarantine(part(spool), "Conflict-1.2.3-abcd") for _ in range(3)}
    assert [path.name for path in names] == ["Conflict-1.2.3-abcd.dcm"]


def test_sweep_removes_what_an_earlier_process_left_and_nothing_else(tmp_path):
    before = Spool(tmp_path / "spool", 0)
    old, kept = part(before, name="old.part"), before.adopt(part(before), "1.2", "1.2.3")
    ago = time.time() - 60
    os.utime(old, (ago, ago))
    os.utime(kept, (ago, ago))
    now = Spool(tmp_path / "spool", 0)
    fresh = part(now, name="fresh.part")
    assert now.sweep() == 1
    assert not old.exists()
    assert fresh.exists()
    assert kept.exists()


def test_low_water_mark(tmp_path):
    Spool(tmp_path, 0).check_space()
    with pytest.raises(OutOfResources, match=r"Low disk space: .* MB free"):
        Spool(tmp_path, 1 << 60).check_space()


def test_a_full_disk_is_out_of_resources_and_loses_nothing(tmp_path):
    with receiving.small_disk(tmp_path / "disk", 2) as disk:
        spool = Spool(disk / "spool", 0)
        kept = spool.write_outbox("kept", receiving.radiograph(1, size=receiving.MB // 2))
        digest = hashlib.sha256(kept.read_bytes()).digest()
        with pytest.raises(OutOfResources, match="Disk full"):
            spool.write_outbox("too-big", receiving.radiograph(2, size=4 * receiving.MB))
        assert hashlib.sha256(kept.read_bytes()).digest() == digest
        assert not list(spool.incoming.iterdir())
        assert not list(spool.outbox.rglob("*2.dcm"))
        spool.write_outbox("fits", receiving.radiograph(3))


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
        target = spool.instance_path("1.2.3", "1.2.3.4")
        if known_folder:
            spool.adopt(part(spool, b"sibling"), "1.2.3", "1.2.3.5")
        if replaces:
            spool.adopt(part(spool, old), "1.2.3", "1.2.3.4")
        source = part(spool, new)
        crashed = crash_at(step, lambda: spool.adopt(source, "1.2.3", "1.2.3.4"))
        found = target.read_bytes() if target.exists() else None
        if crashed:
            assert found in ((old if replaces else None), new)
        else:
            assert found == new
        again = Spool(Path(folder) / "spool", 0)
        retried = again.adopt(part(again, new, "retry.part"), "1.2.3", "1.2.3.4")
        assert retried.read_bytes() == new


def test_the_crash_test_does_crash(tmp_path):
    """Otherwise the law above would hold for the wrong reason."""
    spool = Spool(tmp_path / "spool", 0)
    source = part(spool)
    outcomes = [crash_at(step, lambda: spool.adopt(source, "1.2.3", "1.2.3.4")) for step in (1, 5, 10, 1000)]
    assert outcomes == [True, True, True, False]


ADOPT = """
import sys
from pathlib import Path
from dicom_node.storage.spool import Spool
spool = Spool(Path(sys.argv[1]), 0)
part = spool.incoming / "x.part"
part.write_bytes(b"bytes")
spool.adopt(part, "1.2.3", "1.2.3.4")
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

    renamed = first(r"rename.*x\.part.*1\.2\.3\.4\.dcm")
    assert first(rf"fsync\(\d+<{root}/incoming/x\.part>") < renamed
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
