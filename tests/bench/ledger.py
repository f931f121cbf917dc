"""How long the ledger's work takes as it grows: `python -m tests.bench.ledger --studies 10000 100000`.

A ledger is filled with studies of one image and six results each, of which so many wait for delivery, on SQLite in a
temporary folder or on the database that `--url` names (its tables must be empty; one size then). Printed are the
medians of so many calls, in milliseconds; beside them, as a yardstick of the machine, the primary key of one row. What
is asked comes first, then what is written on a study's way, each transaction as durable as in the node.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("", "node")]

from sqlalchemy import insert  # noqa: E402 - of the folders above
from working import delivery, instance, study, task  # noqa: E402

from dicom_node.nouns import DeliveryState, StudyState, TaskState  # noqa: E402
from dicom_node.storage.ledger import Cutoff, Ledger  # noqa: E402
from dicom_node.storage.ledger.schema import deliveries, instances, studies, tasks  # noqa: E402

KINDS = ("secondary_capture", "structured_report", "presentation_state", "overlay", "segmentation", "key_object")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BATCH = 5000
SIZES, WAITING = (10_000, 100_000, 1_000_000), 10_000


def uid(number: int) -> str:
    """Of a study."""
    return f"1.2.826.0.1.3680043.9.{number}"


def rows(count: int, waiting: int) -> Iterator[dict[Any, list[dict[str, Any]]]]:
    """The rows of each study; the last ones wait for delivery."""
    for number in range(count):
        at = NOW - (count - number) * MINUTE
        study = {"study_instance_uid": uid(number), "revision": 1}
        done = {"state": StudyState.EXPLAINED, "ready_at": at, "finished_at": at + MINUTE}
        task = {"task_id": f"t{number}", "route": "chest", "selected": "[]", "attempts": 1, "created_at": at}
        image = {
            "sop_instance_uid": f"{uid(number)}.1.1", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
            "series_instance_uid": f"{uid(number)}.1", "study_instance_uid": uid(number),
            "transfer_syntax_uid": "1.2.840.10008.1.2.1", "association_id": f"a{number // 10}",
            "calling_ae_title": "PACS", "path": f"/spool/instances/{uid(number)}/1.dcm", "sha256": f"{number:064x}",
            "size": 8_000_000, "received_at": at, "revision": 1,
        }  # fmt: skip
        owed = number >= count - -(-waiting // len(KINDS))
        sent = [
            {
                "delivery_id": f"d{number}-{kind}", "task_id": f"t{number}", "kind": kind, "reserve": False,
                "sop_instance_uid": f"2.25.{number}.{index}", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
                "path": f"/spool/outbox/t{number}/{index}.dcm", "destination": "pacs", "attempts": 1,
                "created_at": at, "next_attempt_at": at,
                "state": DeliveryState.PENDING if owed else DeliveryState.SENT,
                "finished_at": None if owed else at + MINUTE,
            }
            for index, kind in enumerate(KINDS)
        ]  # fmt: skip
        yield {
            studies: [study | done],
            instances: [image],
            tasks: [task | study | {"state": TaskState.DONE, "outcome": "explained", "finished_at": at + MINUTE}],
            deliveries: sent,
        }


def fill(ledger: Ledger, count: int, waiting: int) -> None:
    """Write them."""
    made = rows(count, waiting)
    while batch := [*islice(made, BATCH)]:
        with ledger.in_one_transaction() as connection:
            for table in (studies, instances, tasks, deliveries):
                connection.execute(insert(table), [row for one in batch for row in one[table]])


def questions(ledger: Ledger, count: int) -> dict[str, Callable[[], object]]:
    """What the node and its people ask again and again."""
    old = Cutoff(settled=NOW - (count - 10) * MINUTE, failed=None)
    wait = timedelta(seconds=30)
    return {
        "(one row by its key)": lambda: ledger.find_instance(f"{uid(1)}.1.1"),
        "status: studies(20)": lambda: ledger.studies(20),
        "status: studies(20, failed)": lambda: ledger.studies(20, StudyState.FAILED),
        "status: counts": ledger.counts,
        "status: downgrades": ledger.downgrades,
        "status: sizes": ledger.sizes,
        "status: timeline": lambda: ledger.timeline(uid(1)),
        "status: story": lambda: ledger.story(uid(1)),
        "status: recent_studies": lambda: ledger.recent_studies(200),
        "status: find_studies": lambda: ledger.find_studies(uid(1)),
        "health, metrics: work": lambda: ledger.work(NOW),
        "health, metrics: queues": lambda: ledger.queues(["pacs"], 3),
        "health, metrics: heartbeats": ledger.heartbeats,
        "dispatcher: assembly_snapshot": ledger.assembly_snapshot,
        "dispatcher: pending_tasks": lambda: ledger.pending_tasks(NOW, wait),
        "dispatcher: expired_leases": lambda: ledger.expired_leases(NOW),
        "dispatcher: deliveries_to_submit": lambda: ledger.deliveries_to_submit(NOW, wait),
        "sender: lease_deliveries": lambda: ledger.lease_deliveries(f"d{count - 1}-overlay", "s", NOW, 0.0),
        "retention: tasks_to_empty": lambda: ledger.tasks_to_empty(old, 100),
        "retention: studies_to_remove": lambda: ledger.studies_to_remove(old, 100),
        "retention: forget": lambda: ledger.forget(old.settled, dry_run=True),
    }


def transactions(ledger: Ledger, number: int) -> dict[str, Callable[[], object]]:
    """What is written on one study's way, in this order."""
    name, lease = f"new{number}", 60.0
    image = instance(1, study=f"1.2.826.0.1.3680043.10.{number}", received_at=NOW)
    revision = study(image)
    owed = [
        delivery(
            name, index, f"archive{number}", kind=kind, sop_instance_uid=f"2.25.9{number}{index}", next_attempt_at=NOW
        )
        for index, kind in enumerate(KINDS)
    ]

    def leased() -> None:
        ledger.task_submitted(name, NOW)
        assert ledger.lease(name, "w", NOW, lease)

    def finished() -> None:
        assert ledger.complete(name, "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=NOW)

    def taken() -> None:
        assert ledger.lease_deliveries(owed[0].delivery_id, "s", NOW, lease)

    def sent() -> None:
        for one in owed:
            ledger.delivery_sent(one.delivery_id, NOW, 0, None)

    return {
        "listener: image received": lambda: ledger.add_instance(image),
        "dispatcher: study ready": lambda: ledger.mark_ready(revision, [task(revision, name)], NOW),
        "dispatcher, worker: task submitted and leased": leased,
        "worker: task finished, six deliveries owed": finished,
        "sender: these leased": taken,
        "sender: six sent": sent,
    }


def measure(
    sizes: Sequence[int] = SIZES, *, waiting: int = WAITING, calls: int = 7, url: str | None = None
) -> dict[str, Any]:
    """Milliseconds of each question and transaction at each number of studies, and seconds that filling took."""
    found: dict[str, Any] = {"sizes": list(sizes), "waiting": waiting, "filled": [], "questions": {}}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger(url or f"sqlite:///{Path(folder)}/ledger.sqlite")
            ledger.create()
            begun = time.perf_counter()
            fill(ledger, size, waiting)
            found["filled"].append(time.perf_counter() - begun)
            took: dict[str, list[float]] = {}
            asked = questions(ledger, size)
            for work in [asked] * calls + [transactions(ledger, number) for number in range(calls)]:
                for name, call in work.items():
                    begun = time.perf_counter()
                    call()
                    took.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
            for name, each in took.items():
                found["questions"].setdefault(name, []).append(statistics.median(each))
            ledger.close()
    return found


def markdown(figures: Mapping[str, Any]) -> str:
    """A section for docs/performance.md."""
    sizes = figures["sizes"]
    heads = [f"{size:,} studies, ms" for size in sizes]
    lines = [
        (
            f"One image and six results a study, {figures['waiting']:,} deliveries waiting, SQLite; medians. The last "
            f"column is the time at the largest over that at the smallest, with {sizes[-1] // sizes[0]} times fewer "
            "studies."
        ),
        "",
        "| " + " | ".join(["question or transaction", *heads, "growth"]) + " |",
        "|" + "---|" * (len(sizes) + 2),
    ]
    for name, took in figures["questions"].items():
        cells = [f"{one:.1f}" for one in took]
        lines.append("| " + " | ".join([name, *cells, f"{took[-1] / max(took[0], 1e-3):.1f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--waiting", type=int, default=WAITING, help="deliveries")
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--url", help="of an empty database; default: SQLite in a temporary folder")
    asked = parser.parse_args()
    if asked.url and len(asked.studies) > 1:
        parser.error("--url: a database that is given is filled once; name one number of --studies")
    found = measure(asked.studies, waiting=asked.waiting, calls=asked.calls, url=asked.url)
    sys.stdout.write(markdown(found) + "\n")


if __name__ == "__main__":
    main()
