"""What one node of each kind carries on this machine: `python -m tests.scale_bench`; names of parts choose parts.

Each part is measured alone, over loopback, with a ledger on PostgreSQL where there is one (else SQLite):

    store        the object store (moto's server, a stand-in): confirmed PUTs and verified GETs of this code
    listener     C-STORE over N associations at a time until it is acknowledged, into a folder
    dispatcher   studies that become tasks on the queue
    worker       images explained to result files, of one process with the default bundle and one thread
    sender       C-STOREs of small objects to a Storage SCP on loopback
    ledger       rows and bytes of a study with six results, and statements a second of one connection

The modality, the archive, PostgreSQL and Redis run on the same machine and take their share of it: a host that has
nothing else to do does more. The load before and after is printed. `--device cuda` measures a GPU's worker.
"""

import argparse
import contextlib
import json
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

import ledger_speed  # noqa: E402 - of the folders above
import object_stores  # noqa: E402
import psutil  # noqa: E402
import receiving  # noqa: E402
import sqlalchemy  # noqa: E402
from databases import PostgreSQL, postgresql  # noqa: E402
from radiographs import synthetic  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from working import Peer, RedisServer, delivery, short_folder  # noqa: E402

from dicom_node.clock import utc_now  # noqa: E402
from dicom_node.deliver import scu  # noqa: E402
from dicom_node.deliver.scu import StoreRequest  # noqa: E402
from dicom_node.nouns import AETitle, Destination  # noqa: E402
from dicom_node.queue import broker  # noqa: E402
from dicom_node.route.dispatcher import Dispatcher  # noqa: E402
from dicom_node.settings.sections import Settings  # noqa: E402
from dicom_node.storage.ledger import Ledger  # noqa: E402
from dicom_node.watch import logs  # noqa: E402

MB = 1 << 20
FILM = 16 * MB
"""Bytes of a chest film of 2,900 x 2,900 pixels, which is what detectors make; uncompressed."""

Row = tuple[str, str, str]
"""Part, what was done, how fast."""


def store(_: argparse.Namespace) -> Iterator[Row]:
    """Of this code and of a stand-in for a server; a real store is another, and limited by the network."""
    os.environ.update(object_stores.CREDENTIALS)
    server = object_stores.S3Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            hosts = object_stores.Hosts(server, Path(folder))
            hosts.table["endpoint"] = f"http://127.0.0.1:{server._port}"
            hosts.table["timeout"] = 60
            kept, source = hosts.store(), Path(folder) / "film"
            source.write_bytes(os.urandom(FILM))
            paths, seconds = (
                [],
                _seconds(lambda: paths.append(kept.put(source, Path("instances") / "1" / "film.dcm")), 8),
            )
            yield "store", "confirmed PUT of a film of 16 MB, one at a time", _rate(FILM, 1 / seconds)
            seconds = _seconds(lambda: (kept.fetch(paths[0]), _empty(Path(folder) / "a" / "spool" / "cache")), 8)
            yield "store", "GET of it, verified", _rate(FILM, 1 / seconds)
    finally:
        server.stop()


def listener(asked: argparse.Namespace) -> Iterator[Row]:
    """One listener process, several modalities in threads of this one."""
    for associations in asked.associations:
        for size, what in ((FILM, "films of 16 MB"), (MB // 2, "images of 0.5 MB")):
            with _database() as url, tempfile.TemporaryDirectory() as folder:
                per = max(1, (256 * MB // size) // (8 * associations)) if size == FILM else 160 // associations
                node = {"database": url, "max_associations_per_peer": 25}
                with receiving.child_listener(Path(folder), **node) as (process, port):
                    before = _cpu(process.pid)
                    seconds = _sent(port, associations, per, size)
                    used = (_cpu(process.pid) - before) / (associations * per)
                rate = associations * per / seconds
                said = f"{_rate(size, rate)}; {1000 * used:.0f} ms of CPU an image"
                yield "listener", f"{associations} association(s), {what}", said


def dispatcher(_: argparse.Namespace) -> Iterator[Row]:
    """From rows of received images to tasks on the queue; headers are read from files."""
    count = 200
    with short_folder() as folder, _database() as url:
        redis, ledger = RedisServer(folder), Ledger(url)
        redis.start()
        ledger.create()
        try:
            settings = Settings.model_validate({"broker": {"url": redis.url}})
            now = utc_now()
            for number in range(count):
                _receive(ledger, folder, number, now)
            loop = Dispatcher(settings, ledger, broker.make_celery(settings))
            began = time.monotonic()
            loop.step(now + timedelta(seconds=60))
            seconds = time.monotonic() - began
            made = sum(ledger.counts()["tasks"].values())
            yield "dispatcher", "studies of one image, complete to queued", f"{made / seconds:.0f} studies/s"
        finally:
            ledger.close()
            redis.stop()


def worker(asked: argparse.Namespace) -> Iterator[Row]:
    """A process of its own, for the number of its threads is set before torch is loaded."""
    command = [sys.executable, "-m", "tests.scale_bench", "--explain", str(asked.images), "--device", asked.device]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rate, said = 1 / found["seconds"], f"{3600 / found['seconds']:,.0f} an hour"
    cpu = f"{found['cpu']:.1f} s of CPU, {found['bytes'] / MB:.1f} MB of results an image"
    yield "worker", f"images explained ({asked.device}, one thread)", f"{rate:.2f} images/s, {said}; {cpu}"


def explain(images: int, device: str) -> None:
    """Explain a film of usual size again and again; prints what it took as JSON."""
    import torch
    from working import instance, study, task

    from dicom_node.app import load_explainer
    from dicom_node.dicom import reading
    from dicom_node.explain import pipeline
    from dicom_node.results import result_options

    torch.set_num_threads(1)
    settings = Settings.model_validate(
        {"model": {"device": device}, "destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 1}]}
    )
    model = load_explainer(settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        synthetic(bits=12, Rows=2048, Columns=2048, PixelData=os.urandom(2048 * 2048 * 2)).save_as(path)
        ds = reading.read(path)
        one = study(instance(1, path=path))
        options, methods, size = result_options(settings, "p", ()), settings.methods(), 0

        def once() -> None:
            nonlocal size
            analysis = pipeline.analyse(task(one), one, lambda _: reading.read(path), model, methods=methods)
            size = 0
            for result in pipeline.build(analysis, options):
                result.dataset.save_as(Path(folder) / "result.dcm", enforce_file_format=True)
                size += (Path(folder) / "result.dcm").stat().st_size

        assert "PixelData" in ds
        once()
        cpu = time.process_time()
        seconds = _seconds(once, images)
        used = (time.process_time() - cpu) / images
    print(json.dumps({"seconds": seconds, "cpu": used, "bytes": size}))  # noqa: T201


def sender(_: argparse.Namespace) -> Iterator[Row]:
    """One association to a destination that takes everything and keeps nothing on disk."""
    peer = Peer().start()
    there = Destination(name="pacs", ae_title=AETitle(peer.ae_title), host="127.0.0.1", port=peer.port)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for size, count in ((50_000, 200), (3 * MB, 30)):
                path = Path(folder) / f"{size}.dcm"
                receiving.radiograph(size=size // 2048 * 2048).save_as(path, enforce_file_format=True)
                uid = receiving.radiograph().SOPInstanceUID
                requests = [
                    StoreRequest(key=str(number), sop_instance_uid=uid, sop_class_uid=receiving.CR, path=path)
                    for number in range(count)
                ]
                began = time.monotonic()
                outcomes = list(scu.store(there, requests, calling_ae_title="EXPLAIN", timeout=30))
                seconds = time.monotonic() - began
                assert all(one.delivered for one in outcomes)
                yield "sender", f"objects of {size / 1e6:.2f} MB to one destination", _rate(size, count / seconds)
    finally:
        peer.stop()


def ledger(_: argparse.Namespace) -> Iterator[Row]:
    """Rows as `tests.ledger_speed` makes them: one image, one task, six deliveries."""
    count = 5000
    with _database() as url:
        made = Ledger(url)
        made.create()
        began = time.monotonic()
        ledger_speed.fill(made, count, 0)
        seconds = time.monotonic() - began
        rows = count * (3 + len(ledger_speed.KINDS))
        yield "ledger", "rows written in batches", f"{rows / seconds:,.0f} rows/s"
        size = _database_bytes(url)
        yield "ledger", "size of a study with six results, indexes included", f"{size / count / 1000:.1f} kB"
        one = delivery(of="t1", number=1)
        seconds = _seconds(lambda: made.find_instance(ledger_speed.uid(7) + ".1.1"), 300)
        yield "ledger", "row by its key, one connection", f"{1 / seconds:,.0f} a second"
        now = utc_now()
        seconds = _seconds(lambda: made.delivery_sent("d7-overlay", now, 0, None, commitment=False), 200)
        yield "ledger", "small transaction, one connection (fsync off)", f"{1 / seconds:,.0f} a second"
        assert one is not None
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
    import dataclasses

    from working import instance

    uid = f"1.2.826.0.1.3680043.9.7.{number}"
    ds = synthetic(bits=8, StudyInstanceUID=uid, SOPInstanceUID=f"{uid}.1.1")
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    made = dataclasses.replace(instance(1, study=uid), path=path, received_at=now)
    assert ledger.add_instance(made) == "added"


def _sent(port: int, associations: int, per: int, size: int) -> float:
    """Seconds until all images of all associations are acknowledged."""
    node = receiving.Node(None, None, None, port)
    film = receiving.radiograph(size=size)
    ready, failed = threading.Barrier(associations + 1), []

    def modality(number: int) -> None:
        import copy

        with node.associated() as association:
            images = []
            for position in range(per):
                ds = copy.copy(film)
                ds.file_meta = copy.copy(film.file_meta)
                ds.SOPInstanceUID = f"{receiving.STUDY}.{number + 1}.{position + 1}"
                images.append(ds)
            ready.wait()
            failed.extend(ds for ds in images if association.send_c_store(ds).Status != 0)
            ready.wait()

    threads = [threading.Thread(target=modality, args=(number,)) for number in range(associations)]
    for one in threads:
        one.start()
    ready.wait()
    began = time.monotonic()
    ready.wait()
    seconds = time.monotonic() - began
    for one in threads:
        one.join()
    assert not failed
    return seconds


@contextlib.contextmanager
def _database() -> Iterator[str]:
    if PostgreSQL.missing() is None:
        with postgresql() as server:
            yield server.url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/ledger.sqlite"


def _database_bytes(url: str) -> int:
    if url.startswith("sqlite"):
        return sum(one.stat().st_size for one in Path(url.removeprefix("sqlite:///")).parent.glob("ledger.sqlite*"))
    engine = sqlalchemy.create_engine(url)
    query = "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
    with engine.begin() as connection:
        size = int(connection.exec_driver_sql(query).scalar_one())
    engine.dispose()
    return size


def _seconds(what: Callable[[], object], times: int) -> float:
    """Of one call, on average."""
    began = time.monotonic()
    for _ in range(times):
        what()
    return (time.monotonic() - began) / times


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _rate(size: int, rate: float) -> str:
    return f"{rate:.1f} a second, {size * rate / 1e6:.0f} MB/s"


def _empty(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        path.unlink()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale_bench", description="What one node carries.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4], help="at a time, of the listener")
    parser.add_argument("--images", type=int, default=5, help="explained by the worker")
    parser.add_argument("--device", default="cpu", help="of the worker: cpu, cuda, cuda:0")
    parser.add_argument("--explain", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    logs.configure("error")
    if asked.explain is not None:
        explain(asked.explain, asked.device)
        return 0
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"no such part: {unknown[0]}")
    load = os.getloadavg()[0]
    table = Table("part", "what", "how fast")
    for name, part in PARTS.items():
        if not asked.parts or name in asked.parts:
            for row in part(asked):
                table.add_row(*row)
                print(": ".join(row), flush=True)  # noqa: T201
    table.caption = f"{os.cpu_count()} cores; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
