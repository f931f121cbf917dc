"""Megabytes a second that a Storage SCP takes, beside its peers: `python -m tests.bench.ingest`.

Every server is a process of its own and gets the same radiograph, again and again under new SOP Instance UIDs, from
dcmtk's storescu over loopback. The servers take turns in every round, so that whatever else the machine does meets all
of them; a ratio is made within a round, and the median of the rounds is told. Whatever is kept is kept as the server
does it: this node's file, folder and row of the ledger are on the disk before it answers, dcmtk's storescp leaves that
to the system.

Debian's dcmtk and Orthanc answer with Nagle's algorithm on, which costs 40 ms an object; TCP_NODELAY=1 in their
environment turns it off. Without it they would look three times slower than they are.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node")]

import numpy as np  # noqa: E402 - of the folders above
import psutil  # noqa: E402
from pydicom import dcmread  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402
from radiographs import real  # noqa: E402

from dicom_node.demo.servers import Orthanc, free_port  # noqa: E402
from explain_core.files import sync  # noqa: E402

ROWS, COLUMNS = 2400, 2180
"""A radiograph of 10.5 MB: the real one of pydicom-data, which has 1955 x 1841 pixels, on a finer grid."""
START_SECONDS = 60
SAMPLE_SECONDS = 0.05
MB = 1_000_000
BASE = "storescp"
"""The peer that ratios are to: dcmtk's with TCP_NODELAY and the PDU length that it has by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running Storage SCP."""

    pid: int
    port: int
    called: str


Start = Callable[[Path], contextlib.AbstractContextManager[Server]]


def measure(
    *, associations: Sequence[int] = (1, 4), images: int = 24, rounds: int = 3, servers: Sequence[str] = ()
) -> dict[str, Any]:
    """What each server takes.

    Args:
        associations: at a time, one measurement each.
        images: sent in each of them, over all associations together; a multiple of each of their numbers.
        rounds: in which every server has its turn.
        servers: of `SERVERS`; empty is all that are installed.

    Returns:
        "size" (bytes of the file), "images", "rounds", "load" (before, after); under "alone" the seconds that each
        part of keeping one such file takes by itself; and under "runs" for each number of associations and server its
        "seconds" and CPU seconds ("cpu") round by round, and "resident" (bytes: "idle", "peak").
    """
    if any(images % count for count in associations):
        raise ValueError(f"{images} images cannot be shared out evenly over associations: {associations}")
    chosen = [name for name in servers or SERVERS if _missing(name) is None]
    found: dict[str, dict[str, Any]] = {str(count): {} for count in associations}
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        film = radiograph(Path(name) / "film.dcm")
        running = {one: stack.enter_context(SERVERS[one](_folder(Path(name), one))) for one in chosen}
        for one in running.values():
            _wait_for(one)
        idle = {one: _resident(server.pid) for one, server in running.items()}
        for server in running.values():  # files and code are in memory after that
            _send(film, server, 1, 1)
        for count in associations:
            for _ in range(rounds):
                for one, server in running.items():
                    _note(found[str(count)], one, _once(film, server, count, images), idle[one])
        size, alone = film.stat().st_size, _alone(film, Path(name))
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    return {"size": size, "images": images, "rounds": rounds, "load": load, "alone": alone, "runs": found}


def markdown(figures: Mapping[str, Any]) -> str:
    """What docs/performance.md says of it, below its heading."""
    lines = [
        f"A radiograph of {figures['size'] / MB:.1f} MB, {figures['images']} times in each of {figures['rounds']}",
        "rounds in which the servers take turns; dcmtk's storescu sends it over loopback. The ratio is to dcmtk's",
        "storescp with TCP_NODELAY=1 in the same round: above 1 is faster. This node answers when file, folder and",
        "ledger row are on the disk; storescp leaves that to the system. CPU is of the server.",
        "",
        "| associations | server | MB/s | ratio | CPU, s per GB | RSS idle, MB | RSS peak, MB |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    volume = figures["size"] * figures["images"]
    for count, servers in figures["runs"].items():
        for name, run in servers.items():
            ratio = ratio_of(servers, name)
            cells = [
                count,
                name,
                f"{volume / MB / statistics.median(run['seconds']):.0f}",
                "" if ratio is None else f"{ratio:.2f}",
                f"{statistics.median(run['cpu']) / volume * 1e9:.2f}",
                *(f"{run['resident'][when] / MB:.0f}" for when in ("idle", "peak")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    load, alone = figures["load"], {what: f"{1000 * taken:.1f}" for what, taken in figures["alone"].items()}
    lines += [
        "",
        f"By itself and in one thread, of one such file here: SHA-256 {alone['hash']} ms, writing {alone['write']} ms,",
        f"fsync of file and folder {alone['sync']} ms. Of these storescp does the second.",
    ]
    return "\n".join([*lines, "", f"Load average {load[0]:.1f} before and {load[1]:.1f} after.", ""])


def ratio_of(servers: Mapping[str, Any], name: str, base: str = BASE) -> float | None:
    """How many times faster a server was than `base`, the median of the rounds; None without `base`."""
    if base not in servers:
        return None
    pairs = zip(servers[base]["seconds"], servers[name]["seconds"], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def radiograph(path: Path) -> Path:
    """The real radiograph of pydicom-data on a grid that makes a usual size, uncompressed."""
    ds = dcmread(real("RG1_UNCR.dcm"))
    pixels = ds.pixel_array
    lines, across = (np.arange(new) * old // new for new, old in zip((ROWS, COLUMNS), pixels.shape, strict=True))
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.PixelData = pixels[np.ix_(lines, across)].tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


@contextlib.contextmanager
def node(folder: Path) -> Iterator[Server]:
    """This node's listener, as `dicom-node serve` runs it."""
    port = free_port()
    env = {
        "DICOM_NODE_NODE__PORT": str(port),
        "DICOM_NODE_NODE__SPOOL": str(folder / "spool"),
        "DICOM_NODE_NODE__DATABASE": f"sqlite:///{folder}/ledger.sqlite",
        "DICOM_NODE_NODE__ACCEPT_ANY_CALLING_AE": "true",
        "DICOM_NODE_AUDIT__FOLDER": str(folder / "audit"),
        "DICOM_NODE_METRICS__FOLDER": str(folder / "metrics"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "dicom_node", "serve", "--only", "listener"]
    with _process(command, folder, env) as pid:
        yield Server(pid=pid, port=port, called="EXPLAIN")


@contextlib.contextmanager
def storescp(folder: Path, *more: str) -> Iterator[Server]:
    """dcmtk's, which keeps data sets as they come, in a process for each association."""
    port = free_port()
    command = ["storescp", "--fork", "--bit-preserving", "-aet", "STORE", "-od", str(folder), *more, str(port)]
    with _process(command, folder, {"TCP_NODELAY": "1"}) as pid:
        yield Server(pid=pid, port=port, called="STORE")


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Orthanc as the demo starts it, with TCP_NODELAY."""
    made = Orthanc(folder, {"modality": "MODALITY"})
    made.start()
    try:
        pids = [one.pid for one in psutil.Process().children() if "Orthanc" in one.name()]
        yield Server(pid=pids[0], port=made.port, called=made.ae_title)
    finally:
        made.stop()


SERVERS: dict[str, Start] = {
    "dicom-node": node,
    BASE: storescp,
    "storescp, PDU of 131072": lambda folder: storescp(folder, "-pdu", "131072"),
    "Orthanc": orthanc,
}


def _missing(name: str) -> str | None:
    """Which program a server needs that is not here; storescu is needed for all."""
    needed = ["storescu"] + ["storescp"] * name.startswith("storescp")
    absent = [program for program in needed if shutil.which(program) is None]
    if name == "Orthanc" and Orthanc.executable() is None:
        absent.append("Orthanc")
    return absent[0] if absent else None


def _folder(root: Path, name: str) -> Path:
    made = root / "".join(letter for letter in name if letter.isalnum())
    made.mkdir()
    return made


@contextlib.contextmanager
def _process(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[int]:
    log = folder / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield process.pid
        finally:
            process.terminate()


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    command = ["echoscu", "-aet", "MODALITY", "-aec", server.called, "127.0.0.1", str(server.port)]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.called} does not answer on port {server.port} after {START_SECONDS} s")
        time.sleep(0.2)


def _once(film: Path, server: Server, associations: int, images: int) -> dict[str, float]:
    """Wall and CPU seconds of one run, and the most memory that was seen during it."""
    peak, done = [_resident(server.pid)], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak.append(_resident(server.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    began, used = time.monotonic(), _used(server.pid)
    try:
        _send(film, server, associations, images)
        return {
            "seconds": time.monotonic() - began,
            "cpu": _used(server.pid) - used,
            "peak": max(peak),
        }
    finally:
        done.set()
        watching.join()


def _send(film: Path, server: Server, associations: int, images: int) -> None:
    """Store so many images, shared out over associations at a time; returns when all are acknowledged."""
    command = ["storescu", "-aet", "MODALITY", "-aec", server.called, "--invent-instance", "--required"]
    command += ["--repeat", str(images // associations), "127.0.0.1", str(server.port), str(film)]
    env = os.environ | {"TCP_NODELAY": "1"}
    sending = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(associations)
    ]
    said = [one.communicate()[0] for one in sending]
    assert not any(one.returncode for one in sending), said


def _alone(film: Path, folder: Path, times: int = 7) -> dict[str, float]:
    """Medians of what it takes to hash, to write and to sync a file, in seconds."""
    data, found = film.read_bytes(), {"hash": list[float](), "write": list[float](), "sync": list[float]()}
    for number in range(times):
        moments = [time.perf_counter()]
        hashlib.sha256(data).digest()
        moments.append(time.perf_counter())
        with (folder / f"alone-{number}").open("wb", buffering=0) as file:
            file.write(data)
            moments.append(time.perf_counter())
            os.fsync(file.fileno())
        sync(folder)
        moments.append(time.perf_counter())
        for what, (began, ended) in zip(found, itertools.pairwise(moments), strict=True):
            found[what].append(ended - began)
    return {what: round(statistics.median(taken), 5) for what, taken in found.items()}


def _note(runs: dict[str, Any], name: str, once: Mapping[str, float], idle: int) -> None:
    run = runs.setdefault(name, {"seconds": [], "cpu": [], "resident": {"idle": idle, "peak": idle}})
    run["seconds"].append(round(once["seconds"], 4))
    run["cpu"].append(round(once["cpu"], 3))
    run["resident"]["peak"] = max(run["resident"]["peak"], int(once["peak"]))


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _resident(pid: int) -> int:
    """Bytes of memory of a server and its children; what they share is counted for each."""
    total = 0
    for one in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


def _used(pid: int) -> float:
    """CPU seconds of a server, with the children that it has waited for."""
    total, (root, *children) = 0.0, _family(pid)
    for one in (*children, root):  # of a child that has ended meanwhile the parent has the time
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ingest", description="MB/s of Storage SCPs.")
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4], help="at a time")
    parser.add_argument("--images", type=int, default=24, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[], help="default: all that are installed")
    parser.add_argument("--json", action="store_true", help="figures instead of the table")
    asked = parser.parse_args(arguments)
    figures = measure(associations=asked.associations, images=asked.images, rounds=asked.rounds, servers=asked.servers)
    print(json.dumps(figures, indent=1) if asked.json else markdown(figures))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
