"""What one node of each kind carries on this machine: `python -m tests.scale_bench`; names of parts choose parts.

Each part is measured alone, over loopback, with a ledger on PostgreSQL where there is one (else SQLite):

    store        the object store (moto's server, a stand-in): confirmed PUTs and verified GETs of this code
    listener     C-STORE over N associations at a time until it is acknowledged, into a folder
    dispatcher   studies that become tasks on the queue
    worker       images explained to result files, of one process with the default bundle and one thread
    sender       C-STOREs of small objects to a Storage SCP on loopback
    ledger       rows and bytes of a study with six results, and statements a second of one connection

Modalities, archive, PostgreSQL and Redis run on the same machine, and others may: what counts is the CPU that each item
takes, of the process that is measured, and what a core that does nothing else carries therefore. How often it was done
here and now, and the load, stand beside it. `--device cuda` measures the worker of a GPU.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node")]

import object_stores  # noqa: E402
import psutil  # noqa: E402
import receiving  # noqa: E402
import sqlalchemy  # noqa: E402
from bench import ledger as ledger_bench  # noqa: E402 - of the folders above
from databases import PostgreSQL, postgresql  # noqa: E402
from radiographs import synthetic  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from working import RedisServer, free_port, instance, short_folder, wait_for  # noqa: E402

from dicom_node.clock import utc_now  # noqa: E402
from dicom_node.deliver import scu  # noqa: E402
from dicom_node.deliver.scu import StoreRequest  # noqa: E402
from dicom_node.errors import DeliveryUnreachable  # noqa: E402
from dicom_node.nouns import AETitle, Destination  # noqa: E402
from dicom_node.queue import broker  # noqa: E402
from dicom_node.route.dispatcher import Dispatcher  # noqa: E402
from dicom_node.settings.sections import Settings  # noqa: E402
from dicom_node.storage.ledger import Ledger  # noqa: E402
from dicom_node.watch import logs  # noqa: E402

MB = 1 << 20
FILM = 16 * MB
"""Bytes of a chest film of 2,900 x 2,900 pixels, which is what detectors make; uncompressed."""

_SILENT = ("sh", "-c", 'exec "$0" "$@" >/dev/null')
"""Before a command whose log nobody reads; the process is the command's."""

Row = tuple[str, str, str, str, str]
"""Part, what was done, how often a second it was done, the CPU it took, and how often a core can do it therefore."""


class Meter:
    """Wall clock and CPU of processes, those they have started included; of this one where none is named."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids or (os.getpid(),)
        self._began, self._cpu = time.monotonic(), self._used()

    def _used(self) -> float:
        return sum(sum(one.cpu_times()[:4]) for pid in self._pids for one in _family(pid))

    def row(self, part: str, what: str, count: int, size: int = 0) -> Row:
        """A line of the table: `count` items of `size` bytes since the meter was made."""
        seconds, cpu = time.monotonic() - self._began, max(self._used() - self._cpu, 1e-6)
        rates = [count / seconds, count / cpu]
        told = [f"{_few(rate)}/s" + (f", {rate * size / 1e6:.0f} MB/s" if size else "") for rate in rates]
        return part, what, told[0], f"{1000 * cpu / count:.3g} ms", told[1]


def _few(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def store(_: argparse.Namespace) -> Iterator[Row]:
    """Our side of it; the server is a stand-in, and a real one is limited by the network."""
    os.environ.update(object_stores.CREDENTIALS)
    server = object_stores.S3Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            hosts = object_stores.Hosts(server, Path(folder))
            hosts.table |= {"endpoint": f"http://127.0.0.1:{server._port}", "timeout": 120}
            kept, source, target = hosts.store(), Path(folder) / "film", Path("instances") / "1" / "film.dcm"
            source.write_bytes(os.urandom(FILM))
            path = kept.put(source, target)
            began, cpu = time.monotonic(), time.process_time()
            for _again in range(8):
                kept.put(source, target)
            yield _alone("store", "PUT of a film of 16 MB, confirmed", 8, FILM, began, cpu)
            began, cpu = time.monotonic(), time.process_time()
            for _again in range(8):
                kept.fetch(path)
                (Path(folder) / "a" / "spool" / "cache" / path).unlink()
            yield _alone("store", "GET of it, verified", 8, FILM, began, cpu)
    finally:
        server.stop()


def listener(asked: argparse.Namespace) -> Iterator[Row]:
    """One listener process, several modalities in threads of this one."""
    for associations in asked.associations:
        for size, what in ((FILM, "films of 16 MB"), (MB // 2, "images of 0.5 MB")):
            per = max(1, (24 if size == FILM else 120) // associations)
            with _database() as (url, _), tempfile.TemporaryDirectory() as folder:
                node = {"database": url, "max_associations_per_peer": 25}
                with receiving.child_listener(Path(folder), _SILENT, **node) as (process, port):
                    meter = Meter(process.pid)
                    _send(port, associations, per, size)
                    yield meter.row("listener", f"{what}, {associations} at a time", associations * per, size)


def dispatcher(_: argparse.Namespace) -> Iterator[Row]:
    """From rows of received images to tasks on the queue; headers are read from files."""
    count = 100
    with short_folder() as folder, _database() as (url, pids):
        redis, ledger = RedisServer(folder), Ledger(url)
        redis.start()
        ledger.create()
        try:
            settings = Settings.model_validate({"broker": {"url": redis.url}})
            now = utc_now()
            for number in range(count):
                _receive(ledger, folder, number, now)
            loop = Dispatcher(settings, ledger, broker.make_celery(settings))
            meters = [Meter(os.getpid()), Meter(*pids)]
            loop.step(now + timedelta(seconds=60))
            assert sum(ledger.counts()["tasks"].values()) == count
            yield meters[0].row("dispatcher", "studies of one image, from complete to queued", count)
            if pids:
                yield meters[1].row("dispatcher", "... what the database does for it", count)
        finally:
            ledger.close()
            redis.stop()


def worker(asked: argparse.Namespace) -> Iterator[Row]:
    """A process of its own, for the number of its threads is set before torch is loaded."""
    command = [sys.executable, "-m", "tests.scale_bench", "--explain", str(asked.images), "--device", asked.device]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    sizes = f"{found['bytes'] / 1e6:.1f} MB of results each, {found['sent'] / 1e6:.1f} of them sent"
    what = f"films explained on {asked.device}, {sizes}"
    seconds, cpu = found["seconds"], found["cpu"]
    yield "worker", what, f"{1 / seconds:.3g}/s", f"{1000 * cpu:,.0f} ms", f"{1 / cpu:.3g}/s, {3600 / cpu:,.0f} an hour"


def explain(images: int, device: str) -> None:
    """Explain a film of usual size again and again; prints what it took as JSON."""
    import torch
    from working import instance, study, task

    from dicom_node.app import load_explainer
    from dicom_node.dicom import reading
    from dicom_node.explain import building, pipeline
    from dicom_node.results import result_options

    torch.set_num_threads(1)
    settings = Settings.model_validate(
        {"model": {"device": device}, "destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 1}]}
    )
    model = load_explainer(settings)
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / "film.dcm", Path(folder) / "result.dcm"
        side = 2880
        pixels = os.urandom(side) * (2 * side)
        synthetic(bits=12, Rows=side, Columns=side, PixelData=pixels).save_as(path, enforce_file_format=True)
        one = study(instance(1, path=path))
        options, methods, size, sent = result_options(settings, "p", ()), settings.methods(), 0, 0

        def once() -> None:
            nonlocal size, sent
            analysis = pipeline.analyse(task(one), one, lambda _: reading.read(path), model, methods=methods)
            assert analysis.explained, analysis.reason
            size = sent = 0
            for made in building.build(analysis, options):
                made.dataset.save_as(result, enforce_file_format=True)
                size += result.stat().st_size
                sent += 0 if made.standby else result.stat().st_size

        once()
        began, cpu = time.monotonic(), time.process_time()
        for _ in range(images):
            once()
        seconds, used = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds / images, "cpu": used / images, "bytes": size, "sent": sent}))  # noqa: T201


def sender(_: argparse.Namespace) -> Iterator[Row]:
    """One association to dcmtk's storescp, which keeps nothing."""
    port = free_port()
    with subprocess.Popen(["storescp", "--ignore", "-aet", "PACS", str(port)]) as archive:
        there = Destination(name="pacs", ae_title=AETitle("PACS"), host="127.0.0.1", port=port)
        try:
            wait_for(lambda: _answers(there), 60, "storescp")
            with tempfile.TemporaryDirectory() as folder:
                for size, count in ((50_000, 200), (3_000_000, 30)):
                    path = Path(folder) / f"{size}.dcm"
                    receiving.radiograph(size=size // 2048 * 2048).save_as(path, enforce_file_format=True)
                    uid = receiving.radiograph().SOPInstanceUID
                    requests = [
                        StoreRequest(key=str(number), sop_instance_uid=uid, sop_class_uid=receiving.CR, path=path)
                        for number in range(count)
                    ]
                    began, cpu = time.monotonic(), time.process_time()
                    outcomes = list(scu.store(there, requests, calling_ae_title="EXPLAIN", timeout=60))
                    assert all(one.delivered for one in outcomes), outcomes[0]
                    yield _alone("sender", f"objects of {size / 1e6:.2g} MB", count, size, began, cpu)
        finally:
            archive.terminate()


def ledger(_: argparse.Namespace) -> Iterator[Row]:
    """Rows as `tests.bench.ledger` makes them: one image, one task, six deliveries."""
    count = 2000
    with _database() as (url, pids):
        made = Ledger(url)
        made.create()
        ledger_bench.fill(made, count, 0)
        each = _database_bytes(url) / count
        yield "ledger", f"a study with six results takes {each / 1000:.1f} kB, indexes included", "", "", ""
        now, calls = utc_now(), 200
        made.find_instance("1.2.3")
        for what, act in (
            ("row by its key", lambda: made.find_instance(ledger_bench.uid(7) + ".1.1")),
            ("transaction that changes a row", lambda: made.delivery_sent("d7-overlay", now, 0, None)),
        ):
            meters = [Meter(os.getpid()), Meter(*pids)]
            for _again in range(calls):
                act()
            yield meters[0].row("ledger", f"{what}, on our side", calls)
            if pids:
                yield meters[1].row("ledger", f"{what}, the database's side", calls)
        made.close()


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "ledger": ledger,
    "dispatcher": dispatcher,
    "listener": listener,
    "sender": sender,
    "store": store,
    "worker": worker,
}


def _receive(ledger: Ledger, folder: Path, number: int, now) -> None:
    uid = f"1.2.826.0.1.3680043.9.7.{number}"
    ds = synthetic(bits=8, StudyInstanceUID=uid, SOPInstanceUID=f"{uid}.1.1")
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    made = dataclasses.replace(instance(1, study=uid), path=path, received_at=now)
    assert ledger.add_instance(made) == "added"


def _send(port: int, associations: int, per: int, size: int) -> None:
    """Store so many images over each association; returns when all are acknowledged."""
    node = receiving.Node(None, None, None, port)
    film, failed = receiving.radiograph(size=size), []

    def modality(number: int) -> None:
        with node.associated() as association:
            for position in range(per):
                ds = copy.copy(film)
                ds.file_meta = copy.copy(film.file_meta)
                ds.SOPInstanceUID = f"{receiving.STUDY}.{number + 1}.{position + 1}"
                answer = association.send_c_store(ds)
                if answer.Status != 0:
                    failed.append(f"0x{answer.Status:04X} {answer.get('ErrorComment', '')}")

    threads = [threading.Thread(target=modality, args=(number,)) for number in range(associations)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed, f"not acknowledged: {sorted(set(failed))}"


@contextlib.contextmanager
def _database() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The URL of an empty database, and the process id of its server if it has one."""
    if PostgreSQL.missing() is None:
        with postgresql() as server:
            pid = (server.folder / "data" / "postmaster.pid").read_text().split()[0]
            yield server.url, (int(pid),)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/ledger.sqlite", ()


def _database_bytes(url: str) -> int:
    if url.startswith("sqlite"):
        return sum(one.stat().st_size for one in Path(url.removeprefix("sqlite:///")).parent.glob("ledger.sqlite*"))
    engine = sqlalchemy.create_engine(url)
    query = "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
    with engine.begin() as connection:
        size = int(connection.exec_driver_sql(query).scalar_one())
    engine.dispose()
    return size


def _alone(part: str, what: str, count: int, size: int, began: float, cpu: float) -> Row:
    """A line for this process without those that it has started."""
    seconds, used = time.monotonic() - began, time.process_time() - cpu
    told = [f"{_few(count / spent)}/s, {count * size / spent / 1e6:.0f} MB/s" for spent in (seconds, used)]
    return part, what, told[0], f"{1000 * used / count:.3g} ms", told[1]


def _answers(there: Destination) -> bool:
    try:
        return scu.echo(there, calling_ae_title="EXPLAIN", timeout=5) == 0
    except DeliveryUnreachable:
        return False


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale_bench", description="What one node carries.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4], help="at a time, of the listener")
    parser.add_argument("--images", type=int, default=5, help="explained by the worker")
    parser.add_argument("--device", default="cpu", help="of the worker: cpu, cuda, cuda:0")
    parser.add_argument("--explain", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    logs.configure("error")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    if asked.explain is not None:
        explain(asked.explain, asked.device)
        return 0
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"no such part: {unknown[0]}")
    load = os.getloadavg()[0]
    table = Table("part", "what", "here and now", "CPU each", "what a core carries")
    for name, part in PARTS.items():
        if not asked.parts or name in asked.parts:
            for row in part(asked):
                table.add_row(*row)
                print("; ".join(row), flush=True)  # noqa: T201
    table.caption = f"{os.cpu_count()} cores; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
