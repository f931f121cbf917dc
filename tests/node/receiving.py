"""Shared by the tests of the receiving side: small objects, a running listener, disks that are full."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
import strategies  # noqa: F401 - its Hypothesis profile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode

from dicom_node.receive.listener import Listener
from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool

CR = "1.2.840.10008.5.1.4.1.1.1"
STUDY = "1.2.826.0.1.3680043.9.7.1"
CANARY = "Canary^Gelb"
MB = 1 << 20


def radiograph(number=1, *, size=64, transfer_syntax=ExplicitVRLittleEndian, **changes):
    """A CR data set with `size` bytes of pixels; `changes` replace elements, None removes them."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CR, f"{STUDY}.1.{number}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = CANARY, "CANARY-ID", "19010203"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.Columns = 32 if size == 64 else 1024
    ds.Rows, ds.BitsAllocated, ds.BitsStored, ds.HighBit = size // 2 // ds.Columns, 16, 12, 11
    ds.PixelRepresentation, ds.SamplesPerPixel, ds.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    ds.add_new("PixelData", "OW", os.urandom(size) if size > 64 else bytes(range(size)))
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CR)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", f"{STUDY}.1.{number}")
    return ds


def data_set_bytes(ds, transfer_syntax):
    """The data set as it is sent in a transfer syntax."""
    uid = transfer_syntax
    return encode(ds, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated)


def part10(body, transfer_syntax, sop_instance=f"{STUDY}.1.1"):
    """A file around the bytes of a data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CR, sop_instance
    meta.TransferSyntaxUID, meta.ImplementationClassUID = transfer_syntax, "1.2.3"
    file = BytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, meta, enforce_standard=True)
    return file.getvalue() + body


def deflate_bomb(size):
    """A deflated data set: the usual header, and pixels that unpack to `size` zeros."""
    head = data_set_bytes(radiograph(PixelData=None), ExplicitVRLittleEndian)
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(head + pixels)
    for _ in range(size // MB):
        packed += packer.compress(bytes(MB))
    return packed + packer.flush()


@dataclass
class Node:
    """A listener of this process, and what it writes to."""

    listener: Listener
    ledger: Ledger
    spool: Spool
    port: int

    def entity(self, title="MODALITY", contexts=((CR, [ExplicitVRLittleEndian]),)):
        ae = AE(title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        for abstract, syntaxes in contexts:
            ae.add_requested_context(abstract, syntaxes)
        return ae

    @contextlib.contextmanager
    def associated(
        self, title="MODALITY", called="EXPLAIN", contexts=((CR, [ExplicitVRLittleEndian]),), tls=None, **how
    ):
        """An association; `tls`: the context to connect with, to the TLS port."""
        port = self.port if tls is None else self.listener.tls_port
        how |= {} if tls is None else {"tls_args": (tls, None)}
        association = self.entity(title, contexts).associate("127.0.0.1", port, ae_title=called, **how)
        assert association.is_established
        connection = association.dul.socket.socket
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            else:
                association.kill()
            if connection is not None:  # it may be gone already
                connection.close()  # pynetdicom forgets to when the peer is gone

    def store(self, *datasets, title="MODALITY", tls=None):
        """The answers to C-STORE requests over one association."""
        with self.associated(title, tls=tls) as association:
            return [association.send_c_store(ds) for ds in datasets]

    def files(self, folder):
        return sorted(
            path
            for path in (self.spool.root / folder).rglob("*")
            if path.is_file() and path.parent != self.spool.owners
        )


def settings(folder, tls=None, **node):
    env = {
        "DICOM_NODE_NODE__PORT": "0",
        "DICOM_NODE_NODE__SPOOL": str(folder / "spool"),
        "DICOM_NODE_NODE__DATABASE": f"sqlite:///{folder}/ledger.sqlite",
        "DICOM_NODE_NODE__CALLING_AE_TITLES": "MODALITY,PACS",
        "DICOM_NODE_NODE__LOW_WATER_MB": "0",
    }
    env |= {f"DICOM_NODE_NODE__{key.upper()}": str(value) for key, value in node.items()} | (tls or {})
    return load_settings(None, env)


@contextlib.contextmanager
def running(folder, *, spool=None, ledger=None, audit=None, tls=None, **node):
    """A node that listens on a free port of loopback; `tls` is its [tls] table (certificates.tls_settings)."""
    chosen = settings(folder, tls, **node)
    ledger = ledger or Ledger(chosen.node.database)
    ledger.create()
    spool = spool or Spool(chosen.node.spool, chosen.node.low_water_mb * MB)
    listener = Listener(chosen, ledger, spool, audit=audit)
    port = listener.start()
    try:
        yield Node(listener, ledger, spool, port)
    finally:
        listener.stop(grace=1)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of a few megabytes; skips where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"needs mount: {error}")
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def needs(program):
    """The path of a program; skips without it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    return found


LISTENER_PROGRAM = """
import sys, threading
from pathlib import Path
sys.path[:0] = {tests!r}
import receiving
folder = Path({folder!r})
with receiving.running(folder, **{node!r}) as node:
    (folder / "port.new").write_text(str(node.port))
    (folder / "port.new").rename(folder / "port")
    while not (folder / "stop").exists():
        threading.Event().wait(0.05)
"""


@contextlib.contextmanager
def child_listener(folder, prefix=(), **node):
    """A listener in a process of its own, to be killed or traced; yields the process and its port."""
    program = LISTENER_PROGRAM.format(
        tests=[str(each) for each in Path(__file__).parents[:2]], folder=str(folder), node=node
    )
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    process = subprocess.Popen([*prefix, sys.executable, "-c", program])
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 60)
        yield process, int(port_file.read_text())
    finally:
        (folder / "stop").touch()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
