"""`python -m tests.soak`: load and faults against a whole node of several processes; a table of what became of it.

Modalities send studies of real radiographs; meanwhile processes are killed (SIGKILL), Redis is restarted and flushed,
the destination and PostgreSQL go away and come back, and images come when their study is about to be taken as
complete. Then everything may drain. Exits with 1 where an acknowledged image has no result, or anything has two.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node")]

import sqlalchemy  # noqa: E402
from databases import PostgreSQL, postgresql  # noqa: E402 - of the folders above
from pydicom.data import get_testdata_file  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from soak import chaos  # noqa: E402
from soak.fleet import Fleet  # noqa: E402
from soak.modality import Modalities  # noqa: E402
from soak.pacs import Pacs  # noqa: E402
from soak.verdict import Verdict, verdict  # noqa: E402
from working import short_folder  # noqa: E402

RSNA = ROOT.parent / "shared" / "data" / "rsna_dicom" / "dicom"
NAMES = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_UNCI.dcm")
"""Of pydicom-data, where the others are not beside the repository."""
DRAIN_SECONDS = 600
PATIENCE_SECONDS = 240
"""For what is still being sent when the load is over."""


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Load and faults against a whole node.")
    parser.add_argument("--minutes", type=float, default=2, help="of load; draining comes after")
    parser.add_argument("--rate", type=float, default=20, help="studies a minute")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    for role, count in (("listener", 1), ("worker", 1), ("sender", 1)):
        parser.add_argument(f"--{role}s", type=int, default=count, help="processes")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--every", type=float, default=8, help="seconds between two faults, on average")
    parser.add_argument("--seed", type=int, default=1, help="of the load and the faults")
    parser.add_argument("--bundle", type=Path, help="model bundle; default: a toy model, which costs next to nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--logs", type=Path, help="keep logs and ledger in this folder")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, PostgreSQL | None]]:
    """The URL of an empty database, and its server if it has one."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/ledger.sqlite", None
        return
    with postgresql() as server:
        yield server.url, server


class Run:
    """One soak."""

    def __init__(self, asked: argparse.Namespace, fleet: Fleet, pacs: Pacs, server: PostgreSQL | None) -> None:
        self._asked, self._fleet, self._pacs, self._server = asked, fleet, pacs, server
        radiographs = sorted(RSNA.glob("*.dcm")) or [Path(get_testdata_file(name)) for name in NAMES]
        self._modalities = Modalities(fleet.folder / "modality", fleet.ports, radiographs, asked.seed)
        self._over = threading.Event()
        self._began = 0.0
        self._failed: list[BaseException] = []

    def go(self) -> tuple[Verdict, dict[str, object]]:
        """Load and faults, then quiet; what became of it."""
        seconds = 60 * self._asked.minutes
        faults = (
            [] if self._asked.no_faults else chaos.schedule(self._asked.seed, seconds, self._asked.every, self._kinds)
        )
        self._began = time.monotonic()
        chaos_thread = threading.Thread(target=self._break, args=(faults,), name="chaos")
        chaos_thread.start()
        self._modalities.run(self._asked.rate, seconds)
        self._over.set()
        chaos_thread.join()
        if self._failed:
            raise self._failed[0]
        self._say("the load is over; draining")
        self._modalities.finish(PATIENCE_SECONDS)
        drained = self._drain()
        found = verdict(self._modalities.studies, self._pacs.arrivals, self._tasks())
        counts = self._fleet.ledger.counts()
        return found, {
            "faults": len(faults),
            "drained after": drained,
            "killed": dict(self._fleet.killed),
            "ended by themselves": dict(self._fleet.ended),
            "ledger": counts,
            "peak RSS": self._fleet.peaks(),
            "disk": self._disk(),
        }

    @property
    def _kinds(self) -> list[str]:
        return [kind for kind in chaos.FAULTS if kind != "restart database" or self._server is not None]

    def _break(self, faults: Sequence[chaos.Fault]) -> None:
        for fault in faults:
            if self._over.wait(max(0.0, self._began + fault.at - time.monotonic())):
                return
            self._say(fault.kind + (f", for {fault.seconds:.1f} s" if fault.kind in chaos.AWAY else ""))
            try:
                self._do(fault)
            except Exception as error:  # noqa: BLE001 - told by the main thread
                self._failed.append(error)
                return

    def _do(self, fault: chaos.Fault) -> None:
        if fault.kind.startswith("kill "):
            self._fleet.kill(fault.kind.removeprefix("kill "), fault.which, fault.seconds)
        elif fault.kind == "flush redis":
            with self._fleet.redis.client() as client:
                client.flushall()
        elif fault.kind == "fill the quiet time":
            self._modalities.send(gap=self._fleet.quiet)
        else:
            parts = {
                "restart redis": self._fleet.redis,
                "destination away": self._pacs,
                "restart database": self._server,
            }
            parts[fault.kind].stop()
            self._over.wait(fault.seconds)
            parts[fault.kind].start()

    def _drain(self) -> float | None:
        """Seconds until nothing was left to do; None when it has not ended in time."""
        began = time.monotonic()
        while time.monotonic() < began + DRAIN_SECONDS:
            if self._fleet.settled():
                return time.monotonic() - began
            time.sleep(0.5)
        return None

    def _tasks(self) -> dict[str, int]:
        ledger = self._fleet.ledger
        return {one.study: len(ledger.tasks(one.study)) for one in self._modalities.studies}

    def _disk(self) -> dict[str, int]:
        spool = self._fleet.folder / "spool"
        stores = {one.name: _size(one) for one in sorted(spool.iterdir()) if one.is_dir()}
        if self._server is None:
            stores["ledger"] = sum(one.stat().st_size for one in self._fleet.folder.glob("ledger.sqlite*"))
        else:
            engine = sqlalchemy.create_engine(self._server.url)
            with engine.begin() as connection:
                stores["ledger"] = connection.exec_driver_sql("SELECT pg_database_size('postgres')").scalar_one()
            engine.dispose()
        return stores | {"logs": sum(one.stat().st_size for one in self._fleet.folder.glob("*.log"))}

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)  # noqa: T201


def _size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def table(found: Verdict, more: dict[str, object]) -> Table:
    made = Table("", "", show_header=False)
    waited = more["drained after"]
    rows = {
        "sent": f"{found.sent} images, in {found.tries} C-STORE requests",
        "acknowledged": found.acknowledged,
        "explained": found.explained,
        "not analysed, with a report": found.reported,
        "lost": len(found.lost),
        "doubled": len(found.doubled),
        "delivered": f"{found.arrivals} objects, {found.repeated} of them once more",
        "acknowledged to result": _seconds(found.seconds),
        "C-STORE": _seconds(found.store_seconds),
        "faults": more["faults"],
        "killed": _listed(more["killed"]),
        "ended by themselves": _listed(more["ended by themselves"]),
        "drained after": "NOT" if waited is None else f"{waited:.0f} s",
        "peak RSS": _listed({name: f"{size >> 20} MB" for name, size in more["peak RSS"].items()}),
        "disk": _listed({name: f"{size / (1 << 20):.1f} MB" for name, size in more["disk"].items()}),
    }
    for name, value in rows.items():
        made.add_row(name, str(value))
    for line in (*found.lost, *found.doubled):
        made.add_row("WRONG", line)
    return made


def _seconds(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in values.items())


def _listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def main(arguments: Sequence[str]) -> int:
    asked = parsed(arguments)
    if asked.database == "postgresql" and (why := PostgreSQL.missing()):
        print(why, file=sys.stderr)  # noqa: T201
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives a soak that is stopped
    counts = {"listener": asked.listeners, "dispatcher": 1, "worker": asked.workers, "sender": asked.senders}
    pacs = Pacs()
    with short_folder() as folder, database(asked.database, folder) as (url, server):
        fleet = Fleet(folder, url, pacs.port, counts, asked.bundle)
        try:
            pacs.start()
            fleet.start()
            found, more = Run(asked, fleet, pacs, server).go()
            good = found.good and more["drained after"] is not None
            if asked.logs is not None:
                _keep(fleet, asked.logs)
        finally:
            fleet.stop()
            pacs.stop()
    title = f"{asked.database}, {', '.join(f'{count} {role}' for role, count in counts.items())}, seed {asked.seed}, "
    title += f"{asked.minutes:g} minutes of {asked.rate:g} studies"
    made = table(found, more)
    made.title = title
    Console(width=160).print(made)
    if asked.json is not None:
        figures = {"run": {key: str(value) for key, value in vars(asked).items()}, "machine": platform.platform()}
        asked.json.write_text(json.dumps(figures | dataclasses.asdict(found) | more, indent=1, default=str))
    return 0 if good else 1


def _keep(fleet: Fleet, folder: Path) -> None:
    """What a person needs who looks for a reason: ledger and logs, without any image."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in (*fleet.folder.glob("*.log"), *fleet.folder.glob("ledger.sqlite*")):
        shutil.copy(one, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
