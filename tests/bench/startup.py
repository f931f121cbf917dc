"""How long the node's processes take to start, and what they hold while idle: `python -m tests.bench.startup`.

Import: a fresh interpreter imports what a role imports before it does anything, beside one that imports the libraries
that no listener in Python could go without (pydicom, pynetdicom, SQLAlchemy, pydantic), each as its documentation says.
They take turns, and the ratio is made within a round.

Start: each role as `dicom-node serve` runs it, from the start of its process until it tells its keeper that it is ready
(READY=1, sd_notify), and its memory a moment later, with nothing to do.

Bytecode is written beforehand, as an installed package has it.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node")]

import psutil  # noqa: E402

from dicom_node.demo.servers import Redis, free_port  # noqa: E402

LIBRARIES = "libraries alone"
_LEAN = "from dicom_node.dicom.without_decoders import import_pydicom; import_pydicom(); "
IMPORTS = {
    LIBRARIES: "import pydicom, pynetdicom, sqlalchemy, pydantic",
    "listener": _LEAN + "import dicom_node.receive.listener",
    "dispatcher": _LEAN + "import dicom_node.route.dispatcher",
    "sender": _LEAN + "import dicom_node.deliver.sender",
    "web": _LEAN + "import dicom_node.web.server",
    "worker": "import dicom_node.explain.worker",
}
"""What is imported, by whom."""
ROLES = ("listener", "dispatcher", "sender", "retention", "web", "worker")
MB = 1_000_000
START_SECONDS = 120
SETTLE_SECONDS = 2.0

_PROGRAM = """
import json, time
began, used = time.perf_counter(), time.process_time()
{imports}
took = time.perf_counter() - began, time.process_time() - used
resident = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024
print(json.dumps([*took, resident]))
"""


def measure(*, rounds: int = 5, roles: Sequence[str] = ROLES) -> dict[str, Any]:
    """What it takes to start.

    Args:
        rounds: in which every import has its turn.
        roles: that are started, each once.

    Returns:
        "load" (before, after); "imports": of each, round by round, "seconds", CPU seconds ("cpu"), and the bytes that
        are resident then; "roles": of each the seconds until it was "ready", and the bytes that were "resident" and
        "own" (shared with nobody) when it was idle.
    """
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        env = _environment(Path(name))
        imports = _imports(rounds, env)
        with _redis(Path(name)) as url:
            started = {role: _started(role, Path(name), env | {"DICOM_NODE_BROKER__URL": url}) for role in roles}
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    return {"rounds": rounds, "load": load, "imports": imports, "roles": started}


def markdown(figures: Mapping[str, Any]) -> str:
    """What docs/performance.md says of it, below its heading."""
    lines = [
        f"A fresh interpreter imports what a process needs; medians of {figures['rounds']} rounds in which they take",
        "turns. The ratio is to the libraries alone that no listener in Python can go without (pydicom, pynetdicom,",
        "SQLAlchemy, pydantic), imported as they are, in the same round.",
        "",
        "| import of | s | CPU, s | ratio | RSS, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, run in figures["imports"].items():
        seconds, cpu, resident = (statistics.median(run[key]) for key in ("seconds", "cpu", "resident"))
        ratio = ratio_of(figures["imports"], name)
        lines.append(f"| {name} | {seconds:.2f} | {cpu:.2f} | {ratio:.2f} | {resident / MB:.0f} |")
    lines += [
        "",
        "Each role as `dicom-node serve` runs it, until it says that it is ready, and idle then. Own is what it shares",
        "with no other process.",
        "",
        "| role | ready after, s | RSS idle, MB | own, MB |",
        "|---|---:|---:|---:|",
    ]
    for role, run in figures["roles"].items():
        lines.append(f"| {role} | {run['ready']:.1f} | {run['resident'] / MB:.0f} | {run['own'] / MB:.0f} |")
    load = figures["load"]
    return "\n".join([*lines, "", f"Load average {load[0]:.1f} before and {load[1]:.1f} after.", ""])


def ratio_of(imports: Mapping[str, Any], name: str, base: str = LIBRARIES) -> float:
    """How many times as long as `base` an import takes, in CPU: the median of the rounds."""
    pairs = zip(imports[name]["cpu"], imports[base]["cpu"], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def _imports(rounds: int, env: Mapping[str, str]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu": [], "resident": []} for name in IMPORTS}
    for turn in range(rounds + 1):  # the first writes bytecode and brings the files into memory
        for name, what in IMPORTS.items():
            command = [sys.executable, "-c", _PROGRAM.format(imports=what)]
            done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
            for key, value in zip(found[name], json.loads(done.stdout), strict=True):
                if turn:
                    found[name][key].append(round(value, 4))
    return found


def _started(role: str, folder: Path, env: Mapping[str, str]) -> dict[str, float]:
    with _keeper(folder / "keeper") as keeper, (folder / f"{role}.log").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "serve", "--only", role]
        began = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=folder,
            env=env | {"NOTIFY_SOCKET": str(folder / "keeper")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                _wait_until_ready(keeper, role, folder / f"{role}.log")
                ready = time.monotonic() - began
                time.sleep(SETTLE_SECONDS)
                held = [one.memory_full_info() for one in _family(process.pid)]
            finally:
                process.terminate()
    resident, own = (sum(getattr(one, key) for one in held) for key in ("rss", "uss"))
    return {"ready": round(ready, 3), "resident": resident, "own": own}


def _wait_until_ready(keeper: socket.socket, role: str, log: Path) -> None:
    keeper.settimeout(START_SECONDS)
    try:
        while keeper.recv(100) != b"READY=1":
            pass
    except TimeoutError:
        raise RuntimeError(f"{role} is not ready after {START_SECONDS} s: {log.read_text()[-2000:]}") from None


@contextlib.contextmanager
def _keeper(path: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        yield made


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    made = Redis(folder)
    made.start()
    try:
        yield made.url
    finally:
        made.stop()


def _environment(folder: Path) -> dict[str, str]:
    """Of every process: a node of its own, and bytecode in the folder."""
    ours = {
        "DICOM_NODE_NODE__PORT": str(free_port()),
        "DICOM_NODE_NODE__SPOOL": str(folder / "spool"),
        "DICOM_NODE_NODE__DATABASE": f"sqlite:///{folder}/ledger.sqlite",
        "DICOM_NODE_WEB__PORT": str(free_port()),
        "DICOM_NODE_AUDIT__FOLDER": str(folder / "audit"),
        "DICOM_NODE_METRICS__FOLDER": str(folder / "metrics"),
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | ours


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup", description="Start and idle memory.")
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument("--rounds", type=int, default=5, help="of the imports")
    parser.add_argument("--json", action="store_true", help="figures instead of the tables")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.roles) - set(ROLES)):
        parser.error(f"no such role: {unknown[0]}")
    figures = measure(rounds=asked.rounds, roles=asked.roles or ROLES)
    print(json.dumps(figures, indent=1) if asked.json else markdown(figures))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
