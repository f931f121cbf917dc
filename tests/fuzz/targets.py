"""What is fuzzed: each target takes any bytes and raises nothing but what it does not foresee.

reading     the structure of a data set, its header, the whole of it
rules       the routing rules and whose the image is, of any header
codestream  what a compressed frame says of itself
pixels      grey values of any data set; the decoders' own work is left out, they run apart
decoders    the same with the decoders, each in the process that decodes; slow, for a decoder that fails is killed
fragments   what of a P-DATA-TF is written at once, beside what pynetdicom reads in it
listener    a peer that sends any PDUs; now and then a sender of good ones is served
"""

import contextlib
import io
import os
import random
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import receiving
import structlog
from contexts import film
from oddities import NAMES, ODD, named
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.pdu import P_DATA_TF
from radiographs import encode, phantom, synthetic
from rude_peers import associate_request, p_data, store_command
from working import association

from dicom_node.dicom import decoding, pixels, reading
from dicom_node.dicom.codestream import described
from dicom_node.errors import DatasetUnreadable, SOPClassMismatch, StudyUnsuitable
from dicom_node.nouns import SOPInstanceUID
from dicom_node.receive.data_path import data_of
from dicom_node.receive.intake import Request, _identify
from dicom_node.receive.part_file import Received
from dicom_node.route import rules
from dicom_node.route.patients import patient_of
from dicom_node.settings.sections import Settings
from dicom_node.storage.spool import Spool

CASES = Path(__file__).parents[3] / "shared" / "cases"
LONGEST_SEED = 60_000
SMALL = (130, 128)
RULES = Settings().rules
ASKED = Request(
    sop_class_uid=receiving.CR,
    sop_instance_uid="1.2.3.4.1",
    abstract_syntax=receiving.CR,
    transfer_syntax=ExplicitVRLittleEndian,
    association=association(),
)
"""What the fuzzed objects are announced as."""
NOWHERE = Spool(Path(tempfile.gettempdir()) / "fuzz-spool", 0)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PYDICOM = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG-LL.dcm",
           "nested_priv_SQ.dcm", "priv_SQ.dcm", "reportsi.dcm", "rtplan.dcm", "DX_OVERLAY_TEST.dcm", "no_meta.dcm",
           "explicit_VR-UN.dcm", "meta_missing_tsyntax.dcm", "chrH31.dcm", "chrX1.dcm", "UN_sequence.dcm")  # fmt: skip

Run = Callable[[bytes], None]


# --- what they start from ---


def files() -> list[bytes]:
    """Real headers, odd ones of our own, and the recipes of public bug reports where they are."""
    found = [head for name in PYDICOM if (path := get_testdata_file(name)) and (head := _head(Path(path)))]
    grey = np.rint(phantom(*SMALL) * 4095).astype(np.int64)
    found += [encode(film(**{"stored": grey} | changes)) for changes in ODD.values() if "stored" not in changes]
    found += [encode(named(kind, syntax, stored=grey)[0]) for kind in NAMES for syntax in (ImplicitVRLittleEndian,)]
    found += [head for path in sorted(CASES.rglob("*.dcm")) if (head := _head(path))]
    deflated = film(grey)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return [*found, encode(deflated), *images()]


def images() -> list[bytes]:
    """Small radiographs in the compressed transfer syntaxes."""
    found = []
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        for bits in (8, 12):
            ds = synthetic(np.rint(phantom(*SMALL) * ((1 << bits) - 1)).astype(np.int64), bits=bits)
            ds.compress(syntax, generate_instance_uid=False)
            found.append(encode(ds))
    return found


def frames() -> list[bytes]:
    """Compressed frames, each after a byte that says its transfer syntax."""
    found = []
    for data in images():
        ds = dcmread(io.BytesIO(data))
        syntax = SYNTAXES.index(ds.file_meta.TransferSyntaxUID)
        found.append(bytes([syntax]) + next(iter(generate_frames(ds.PixelData, number_of_frames=1))))
    jpeg = dcmread(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm")).PixelData
    return [*found, bytes([0]) + next(iter(generate_frames(jpeg, number_of_frames=1)))]


SYNTAXES = (JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless)


def _head(path: Path) -> bytes:
    data = path.read_bytes()
    return data[:LONGEST_SEED]


# --- what they do ---


@contextlib.contextmanager
def _file() -> Iterator[Path]:
    """A file that costs no disk."""
    memory = Path("/dev/shm")  # noqa: S108 - a file of this process alone
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "fuzzed.dcm"


def _read(path: Path, data: bytes):
    """As the node reads what it is sent: what it is, by its structure and a few elements; then the header, then all."""
    path.write_bytes(data)
    try:
        _identify(ASKED, Received(path=path, sha256="0" * 64, size=len(data)), NOWHERE, NOW)
    except SOPClassMismatch:
        pass  # not what ASKED says, but an object
    except DatasetUnreadable:
        return None, None
    try:
        header = reading.read_header(path)
    except DatasetUnreadable:
        return None, None
    try:
        return header, reading.read(path)
    except DatasetUnreadable:
        return header, None


@contextlib.contextmanager
def read() -> Iterator[Run]:
    with _file() as path:

        def run(data: bytes) -> None:
            _read(path, data)

        yield run


@contextlib.contextmanager
def route() -> Iterator[Run]:
    with _file() as path:

        def run(data: bytes) -> None:
            header, _ = _read(path, data)
            if header is not None:
                patient_of(header)
                rules.decide_study([(SOPInstanceUID("1.2"), header, "MODALITY")], RULES)

        yield run


@contextlib.contextmanager
def describe() -> Iterator[Run]:
    def run(data: bytes) -> None:
        if data:
            with contextlib.suppress(ValueError):
                described(data[1:], SYNTAXES[data[0] % len(SYNTAXES)])

    yield run


def _nothing(*_: object) -> None:
    raise decoding.CannotDecode("left out")


@contextlib.contextmanager
def render() -> Iterator[Run]:
    kept = decoding.decoded
    decoding.decoded = _nothing
    try:
        with decode() as run:
            yield run
    finally:
        decoding.decoded = kept


@contextlib.contextmanager
def decode() -> Iterator[Run]:
    with _file() as path:

        def run(data: bytes) -> None:
            _, ds = _read(path, data)
            if ds is not None:
                with contextlib.suppress(StudyUnsuitable, DatasetUnreadable):
                    pixels.render(ds)

        yield run


# --- the listener ---


def bodies() -> list[bytes]:
    """Bodies of P-DATA-TF of one item and of several, of data and of commands, in two contexts."""
    kinds = [(b"abc", 0x00, 1), (bytes(60), 0x00, 1), (b"", 0x00, 1), (b"abc", 0x02, 1), (b"abc", 0x03, 1), (b"", 0, 3)]
    items = [struct.pack(">LBB", len(data) + 2, context, header) + data for data, header, context in kinds]
    return [*items, b"".join(items[:3]), b"".join(items[:4]), b"".join(items)]


@contextlib.contextmanager
def take_apart() -> Iterator[Run]:
    def run(data: bytes) -> None:
        found = data_of(memoryview(data), 1)
        if found is not None:
            twin = P_DATA_TF()
            twin.decode(struct.pack(">BxL", 0x04, len(data)) + data)
            known = [one.presentation_data_value for one in twin.presentation_data_value_items]
            assert [bytes(one) for one in found] == [one[1:] for one in known]
            assert all(one[0] & 3 == 0 for one in known)
            assert {one.presentation_context_id for one in twin.presentation_data_value_items} == {1}

    yield run


SERVED_EVERY = 50
"""Fuzzed connections between two good C-STOREs."""
QUICK = {"acse_timeout": 2, "network_timeout": 2, "association_deadline": 2, "dimse_timeout": 2}
ANSWER_SECONDS = 0.02
"""For the node to answer a fuzzed peer, which then goes on; the next connection does not wait for the end of this."""


def conversations() -> list[bytes]:
    """What a peer sends: an A-ASSOCIATE-RQ, then P-DATA-TF of a C-STORE, a C-ECHO, a release; each with its length."""
    request = associate_request(receiving.Node(None, None, None, 0).entity())
    body = receiving.data_set_bytes(receiving.radiograph(50), ExplicitVRLittleEndian)
    store = p_data(store_command(), header=0x03)
    data = [p_data(body[at : at + 60], 0x02 if at + 60 >= len(body) else 0x00) for at in range(0, len(body), 60)]
    release, abort = struct.pack(">BxLL", 0x05, 4, 0), struct.pack(">BxLxxBB", 0x07, 4, 0, 0)
    items = b"".join(one[6:] for one in data)
    several = struct.pack(">BxL", 0x04, len(items)) + items
    talks = [[request, store, *data, release], [request, store, data[0]], [request, *data], [request, abort], [request]]
    talks += [[request, store, b"".join(data), release], [request, store + several, release]]
    return [b"".join(struct.pack(">L", len(one)) + one for one in talk) for talk in talks]


FAULTS = {"object not stored", "quarantine failed", "connection failed"}
"""What the listener logs with a traceback of a fault of its own."""


@contextlib.contextmanager
def _faults() -> Iterator[list[BaseException]]:
    """What a thread died of, or the log calls a fault of the node's; it is quiet otherwise."""
    found: list[BaseException] = []

    def looked_at(_logger: object, _method: str, event: dict) -> dict:
        if event["event"] in FAULTS and event.get("exc_info"):
            found.append(sys.exc_info()[1] or RuntimeError(event["event"]))
        raise structlog.DropEvent

    before, hook = structlog.get_config(), threading.excepthook
    structlog.configure(processors=[looked_at])
    threading.excepthook = lambda told: found.append(told.exc_value)
    try:
        yield found
    finally:
        structlog.configure(**before)
        threading.excepthook = hook


@contextlib.contextmanager
def listen() -> Iterator[Run]:
    with _faults() as faults, tempfile.TemporaryDirectory() as folder, receiving.running(Path(folder), **QUICK) as node:
        count = 0

        def run(data: bytes) -> None:
            nonlocal count
            _talk(node.port, data)
            count += 1
            if faults:
                raise faults.pop()
            if count % SERVED_EVERY == 0:
                answers = [one.Status for one in node.store(receiving.radiograph(77))]
                assert answers == [0x0000], f"a good C-STORE was answered {answers}"

        yield run
        assert [one.Status for one in node.store(receiving.radiograph(78))] == [0x0000]
        receiving.wait_until(lambda: not node.listener._receptions, 20)
        assert node.files("incoming") == [], "parts are left"


def _talk(port: int, data: bytes) -> None:
    """Send the messages of a conversation; whatever answers is read and dropped."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for number, message in enumerate(_messages(data)):
            connection.sendall(message)
            if number == 0:
                connection.settimeout(ANSWER_SECONDS * 10)
                with contextlib.suppress(TimeoutError):
                    connection.recv(4096)
        connection.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(TimeoutError):
            while connection.recv(4096):
                pass


def _messages(data: bytes) -> Iterator[bytes]:
    place = 0
    while place + 4 <= len(data):
        (length,) = struct.unpack_from(">L", data, place)
        length = min(length, 4096)
        yield data[place + 4 : place + 4 + length]
        place += 4 + length


TARGETS: dict[str, tuple[Callable[[], list[bytes]], Callable[[], contextlib.AbstractContextManager[Run]]]] = {
    "reading": (files, read),
    "rules": (files, route),
    "codestream": (frames, describe),
    "pixels": (files, render),
    "decoders": (images, decode),
    "fragments": (bodies, take_apart),
    "listener": (conversations, listen),
}
"""Of each target: its seeds, and what makes it ready to run."""


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def inputs(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """Edited seeds without end, the same for the same seed; the seeds themselves first."""
    from fuzz.mutations import mutated

    chance = random.Random(seed)  # noqa: S311
    yield from seeds
    while True:
        yield mutated(chance.choice(seeds), chance, chance.choice(seeds))
