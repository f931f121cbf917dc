"""`python -m tests.faults`: attacks on a fresh node, each with what it did once and what it does now.

Prints a row for each: attack, promise, measured before, now, verdict; exits with 1 where one fails. Names choose rows.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node"), str(ROOT / "tests" / "node" / "deliver")]

import psutil  # noqa: E402
import receiving  # noqa: E402 - of the folders above
from PIL import Image  # noqa: E402
from pydicom import dcmread  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless  # noqa: E402
from radiographs import encode, synthetic  # noqa: E402
from receiving import MB, radiograph  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from rude_peers import associate_request, associated, raw  # noqa: E402
from slow_line import SlowLine  # noqa: E402
from soak.fleet import Fleet  # noqa: E402
from soak.modality import Modalities  # noqa: E402
from sqlalchemy import select  # noqa: E402
from test_slow_destinations import request_for, send  # noqa: E402
from working import Peer, short_folder, wait_for  # noqa: E402

from dicom_node.dicom import pixels, reading  # noqa: E402
from dicom_node.dicom.structure import check_structure  # noqa: E402
from dicom_node.errors import DatasetUnreadable, StudyUnsuitable  # noqa: E402
from dicom_node.storage.ledger.schema import tasks  # noqa: E402

STORE_SECONDS = 2.0
"""For a legitimate C-STORE, its association included, while others attack."""
RESTART_SECONDS = 30.0
START_SECONDS = 10.0
"""A process takes so long to start on a busy machine; it is no part of what is promised."""

_patience = 1.0
"""Times that each of these may take longer."""


def _within(seconds: float, limit: float) -> bool:
    return seconds < limit * _patience


@dataclass(frozen=True)
class Row:
    """One attack and what came of it."""

    attack: str
    promise: str
    before: str
    now: str
    good: bool


@dataclass(frozen=True)
class Attack:
    """What is tried: its row without the answer, and the trial, which gives the answer."""

    name: str
    attack: str
    promise: str
    before: str
    trial: Callable[[], tuple[str, bool]]


# --- receiving ---


def same_uid() -> tuple[str, bool]:
    """Two listeners get the same SOP Instance UID with other content at the same time."""
    wrong, rounds = 0, 25
    with _folder() as folder, receiving.running(folder) as one, receiving.running(folder) as other:
        for number in range(rounds):
            variants = [radiograph(number, PatientID=f"CANARY-{letter}") for letter in "AB"]
            told = _at_once(
                [
                    lambda node=node, ds=ds: node.store(ds)[0].Status
                    for node, ds in zip((one, other), variants, strict=True)
                ]
            )
            right = sorted(told) == [0x0000, 0x0111]
            if right:
                kept = one.ledger.find_instance(variants[0].SOPInstanceUID)
                right = dcmread(kept.path).PatientID == variants[told.index(0x0000)].PatientID
            wrong += not right
    return f"{wrong} of {rounds} rounds", wrong == 0


def come_and_go() -> tuple[str, bool]:
    with _listener() as (node, _), _again_and_again(0.2, lambda: raw(node, "127.0.0.2")):
        return _stores(node, 20)


def half_open() -> tuple[str, bool]:
    with _listener() as (node, _), contextlib.ExitStack() as held:
        for host in range(2, 6):
            for _ in range(8):
                connection = held.enter_context(raw(node, f"127.0.0.{host}"))
                with contextlib.suppress(OSError):  # it may be refused
                    connection.sendall(associate_request(node.entity())[:40])
        return _stores(node, 25)


def dripping() -> tuple[str, bool]:
    """One AE opens as many associations as it can, and lets a byte of a PDU fall into each now and then."""
    with _listener() as (node, _), contextlib.ExitStack() as held:
        open_ones = []
        for _ in range(25):
            with contextlib.suppress(AssertionError, OSError):
                open_ones.append(held.enter_context(associated(node, "127.0.0.2", "PACS")))

        @contextlib.contextmanager
        def drop() -> Iterator[None]:
            for one in open_ones:
                with contextlib.suppress(OSError):
                    one.sendall(b"\x04")
            yield

        with _again_and_again(1.0, drop):
            told, good = _stores(node, 8)
        return f"{told}; it got {len(open_ones)} associations", good


def _stores(node: receiving.Node, count: int) -> tuple[str, bool]:
    """Legitimate C-STOREs, one after the other, each over an association of its own."""
    failed, slowest = 0, 0.0
    for number in range(count):
        began = time.monotonic()
        try:
            failed += node.store(radiograph(number))[0].Status != 0
        except (AssertionError, AttributeError):
            failed += 1
        slowest = max(slowest, time.monotonic() - began)
    return f"{failed} of {count} stores failed, slowest {slowest:.1f} s", failed == 0 and _within(
        slowest, STORE_SECONDS
    )


def private_files() -> tuple[str, bool]:
    """What a listener writes that was started by a user whose files are for everybody."""
    before = os.umask(0o022)
    try:
        with _listener() as (node, folder):
            node.store(radiograph(1), radiograph(1, PatientID="ANOTHER"))
            paths = [path for path in (folder / "spool").rglob("*") if path.is_file()]
            seen = [path for path in paths if path.stat().st_mode & 0o077]
    finally:
        os.umask(before)
    return f"{len(seen)} of {len(paths)} files readable by others", not seen and len(paths) > 1


def large_element() -> tuple[str, bool]:
    """A private element of 400 MB, in a sparse file; the reading process is a child of its own."""
    with _folder() as folder:
        path = folder / "large.dcm"
        head = encode(synthetic(PixelData=None, Rows=None, Columns=None))
        with path.open("wb") as file:
            file.write(
                head + b"\x21\x00\x10\x00LO\x04\x00TEST\x21\x00\x01\x10OB\x00\x00" + (400 * MB).to_bytes(4, "little")
            )
            file.truncate(file.tell() + 400 * MB)
        before, refused = psutil.Process().memory_info().rss, False
        try:
            check_structure(path)
        except DatasetUnreadable:
            refused = True
        reading.read_header(path)
        grown = psutil.Process().memory_info().rss - before
    return f"{'refused' if refused else 'accepted'}, {grown >> 20} MB to read its header", refused and grown < 50 * MB


# --- decoding ---


def bombs() -> tuple[str, bool]:
    """A few kB that say they are 50,000 or 60,000 pixels a side, under a header that says so and one that does not."""
    worst, slowest, taken = 0, 0.0, 0
    for syntax in (JPEGBaseline8Bit, JPEGLSLossless):
        for side in (50_000, 60_000):
            for header in (side, 1000):
                before, began = _resident(), time.monotonic()
                try:
                    pixels.render(_bomb(syntax, side, header))
                    taken += 1
                except (DatasetUnreadable, StudyUnsuitable):
                    pass
                worst, slowest = max(worst, _resident() - before), max(slowest, time.monotonic() - began)
    told = f"{taken} of 8 decoded, {worst >> 20} MB more, slowest {slowest:.1f} s"
    return told, taken == 0 and worst < 200 * MB and _within(slowest, STORE_SECONDS)


def _bomb(syntax: str, side: int, header: int) -> object:
    ds = synthetic(bits=8)
    if syntax == JPEGBaseline8Bit:
        file = BytesIO()
        Image.new("L", (200, 240)).save(file, "JPEG")
        frame, start = bytearray(file.getvalue()), b"\xff\xc0"
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
        frame, start = bytearray(next(iter(generate_frames(ds.PixelData, number_of_frames=1)))), b"\xff\xf7"
    place = frame.index(start) + 5
    frame[place : place + 4] = side.to_bytes(2, "big") * 2
    ds["PixelData"].value = encapsulate([bytes(frame)])
    ds["PixelData"].VR = "OB"
    ds.Rows = ds.Columns = header
    return ds


def _resident() -> int:
    root = psutil.Process()
    return sum(one.memory_info().rss for one in (root, *root.children(recursive=True)))


# --- delivering and the queue ---


def slow_destination() -> tuple[str, bool]:
    """An object of 600 kB over 40 kB/s: three times as long as an answer may take."""
    peer = Peer().start()
    line = SlowLine(peer.port, rate=40_000)
    try:
        with _folder() as folder:
            outcome, seconds = send(line.port, request_for(folder, 600_000), timeout=5)
    finally:
        line.over.set()
        peer.stop()
    told = f"{len(peer.uids)} arrival in {seconds:.0f} s, {'delivered' if outcome.delivered else 'not delivered'}"
    return told, outcome.delivered and len(peer.uids) == 1


def flushed_queue() -> tuple[str, bool]:
    with _whole_node() as (fleet, modalities, _):
        go = fleet.folder / "go"
        go.unlink()
        for _ in range(4):
            modalities.send()
            time.sleep(1.5)
        wait_for(lambda: sum(fleet.ledger.counts()["tasks"].values()) == 4, 60, "the tasks")
        with fleet.redis.client() as client:
            client.flushall()
        began = time.monotonic()
        go.touch()
        wait_for(fleet.settled, 120, "the results")
        seconds = time.monotonic() - began
        with fleet.ledger._read() as connection:
            created = list(connection.execute(select(tasks.c.created_at).order_by(tasks.c.leased_at)).scalars())
    ordered = created == sorted(created)
    return f"4 studies in {seconds:.0f} s, {'in' if ordered else 'NOT in'} order of arrival", ordered and _within(
        seconds, 60
    )


def restarted_redis() -> tuple[str, bool]:
    """While a worker explains; the next study comes while there is no Redis."""
    with _whole_node() as (fleet, modalities, _):
        go = fleet.folder / "go"
        go.unlink()
        modalities.send()
        wait_for((fleet.folder / "explaining").exists, 60, "the worker to begin")
        fleet.redis.stop()
        go.touch()
        modalities.send()
        time.sleep(5)
        fleet.redis.start()
        seconds = _until(fleet.settled)
    return f"{seconds:.0f} s until the results", _within(seconds, RESTART_SECONDS)


def killed_sender() -> tuple[str, bool]:
    """In the midst of an object; the supervisor starts another one."""
    released = threading.Event()

    def answer(_uid: str, number: int) -> int:
        if number == 1:
            released.wait(20)
        return 0

    with _whole_node(answer) as (fleet, modalities, peer):
        modalities.send()
        wait_for(lambda: peer.received, 60, "an object on its way")
        fleet.kill("sender", 0, 0.5)
        began = time.monotonic()
        released.set()
        seconds = _until(fleet.settled, began)
    return f"{seconds:.0f} s until the results", _within(seconds, RESTART_SECONDS + START_SECONDS)


def _until(condition: Callable[[], bool], began: float | None = None) -> float:
    began = time.monotonic() if began is None else began
    wait_for(condition, 240, "the results")
    return time.monotonic() - began


# --- what they share ---


@contextlib.contextmanager
def _whole_node(answer: Callable[[str, int], int] | None = None) -> Iterator[tuple[Fleet, Modalities, Peer]]:
    """A node of one process of each role with the toy model, its modalities, and its destination."""
    peer = Peer(answer).start()
    counts = dict.fromkeys(("listener", "dispatcher", "worker", "sender"), 1)
    with short_folder() as folder:
        fleet = Fleet(folder, f"sqlite:///{folder}/ledger.sqlite", peer.port, counts)
        try:
            fleet.start()
            path = folder / "radiograph.dcm"
            path.write_bytes(encode(synthetic(bits=8)))
            modalities = Modalities(folder / "modality", fleet.ports, [path], seed=1)
            yield fleet, modalities, peer
            modalities.finish(10)
        finally:
            fleet.stop()
            peer.stop()


@contextlib.contextmanager
def _listener() -> Iterator[tuple[receiving.Node, Path]]:
    """A listener in a process of its own, with the usual limits, and its folder."""
    with short_folder() as folder:
        fleet = Fleet(folder, f"sqlite:///{folder}/ledger.sqlite", 104, {"listener": 1})
        try:
            fleet.start()
            yield receiving.Node(None, None, None, fleet.ports[0]), folder
        finally:
            fleet.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextlib.contextmanager
def _again_and_again(seconds: float, what: Callable[[], contextlib.AbstractContextManager]) -> Iterator[None]:
    """Enter and leave something every so many seconds, in a thread."""
    over = threading.Event()

    def attack() -> None:
        while not over.wait(seconds):
            with contextlib.suppress(OSError), what():
                pass

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _at_once(calls: Sequence[Callable[[], int]]) -> list[int]:
    answers: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda n=n, call=call: answers.update({n: call()})) for n, call in enumerate(calls)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return [answers[number] for number in range(len(calls))]


SERVED = "each legitimate store within 2 s"
ATTACKS = (
    Attack("same-uid", "two listeners, one UID, other content", "the acknowledged file is that of its sender",
           "20 of 25 rounds", same_uid),
    Attack("come-and-go", "connections that come and go, 5 a second", SERVED, "16 of 20 failed", come_and_go),
    Attack("half-open", "4 hosts x 8 half-open connections", SERVED, "25 of 25 failed", half_open),
    Attack("dripping", "25 dripping associations of one AE", SERVED, "8 of 8 failed", dripping),
    Attack("bombs", "JPEG and JPEG-LS of 50,000 and 60,000 pixels a side", "refused, in bounded memory",
           "9.8 and 13.9 GB, abort; ended after 56 s", bombs),
    Attack("large-element", "a private element of 400 MB", "refused; its header costs nothing",
           "dispatcher at 532 MB", large_element),
    Attack("private-files", "another user of the machine", "no file is readable by others", "all readable",
           private_files),
    Attack("slow-destination", "a destination at 40 kB/s", "one arrival, recorded as sent",
           "three arrivals, recorded as dead", slow_destination),
    Attack("flushed-queue", "FLUSHALL under waiting tasks", "within 60 s, in order of arrival", "695 to 729 s",
           flushed_queue),
    Attack("restarted-redis", "Redis restarts while a worker explains", "within 30 s", "156 s", restarted_redis),
    Attack("killed-sender", "a sender killed in an object", "within 30 s, and what a process takes to start", "97.6 s",
           killed_sender),
)  # fmt: skip


def tried(attack: Attack) -> Row:
    """The row of an attack; one that cannot be tried has failed, and says why."""
    try:
        now, good = attack.trial()
    except Exception as error:  # noqa: BLE001 - the next attacks are tried, too
        now, good = f"{type(error).__name__}: {error}"[:150], False
    return Row(attack.attack, attack.promise, attack.before, now, good)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Attacks on a fresh node.")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(one.name for one in ATTACKS))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--patience", type=float, default=1, help="times that all may take longer, on a busy machine")
    asked = parser.parse_args(arguments)
    global _patience  # noqa: PLW0603 - of this command alone
    _patience = asked.patience
    if unknown := sorted(set(asked.attacks) - {one.name for one in ATTACKS}):
        parser.error(f"no such attack: {unknown[0]}")
    _quiet()
    found = []
    for attack in ATTACKS:
        if not asked.attacks or attack.name in asked.attacks:
            found.append(tried(attack))
            print(f"{attack.name}: {found[-1].now}", flush=True)  # noqa: T201
    table = Table("attack", "promise", "measured before", "now", "verdict")
    for row in found:
        table.add_row(row.attack, row.promise, row.before, row.now, "held" if row.good else "FAILED")
    Console(width=200 if not sys.stdout.isatty() else None).print(table)
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(row) for row in found], indent=1))
    return 0 if all(row.good for row in found) else 1


def _quiet() -> None:
    """The node's log says what it refuses; here the table does."""
    from dicom_node.watch import logs

    logs.configure("error")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
