"""Three destinations of one node, as processes over Redis: one is away, one drips, one is fine; 200 objects each."""

import shutil
import time
from pathlib import Path

import pytest
from sending import write
from slow_line import SlowLine
from working import (
    T0,
    Peer,
    RedisServer,
    delivery,
    free_port,
    instance,
    python,
    settings,
    short_folder,
    study,
    task,
    wait_for,
)

from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger import Ledger

PROCESSES = str(Path(__file__).parents[1] / "processes.py")
EACH = 200


def seconds_for_the_fine_one(folder: Path, destinations, fine: Peer) -> tuple[float, list]:
    """From the start of dispatcher and sender until the fine one has all that it is owed; and every delivery."""
    redis = RedisServer(folder)
    redis.start()
    made = settings(
        folder,
        *((name, "PACS", port) for name, port in destinations),
        broker={"url": redis.url},
        delivery={"timeout": 3, "retry_seconds": 1},
    )
    (folder / "settings.json").write_text(made.model_dump_json(by_alias=True))
    ledger = Ledger(made.node.database)
    ledger.create()
    ledger.add_instance(instance(1))
    revision = study(instance(1))
    ledger.mark_ready(revision, [task(revision, "t1")], T0)
    ledger.lease("t1", "w", T0, 60)
    files = {number: write(folder, f"2.25.{number}") for number in range(1, EACH + 1)}
    owed = [delivery("t1", n, name, path=path) for n, path in files.items() for name, _ in destinations]
    assert ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=T0)
    running = []
    begun = time.monotonic()
    try:
        for role in ("dispatcher", "sender"):
            with (folder / f"{role}.log").open("wb") as log:
                running.append(python(PROCESSES, role, str(folder), stdout=log, stderr=log))
        wait_for(lambda: len(fine.uids) >= EACH, 240, "the fine one")
        took = time.monotonic() - begun
        wait_for(
            lambda: {one.state for one in ledger.deliveries() if one.destination == "fine"} == {DeliveryState.SENT}
        )
        return took, ledger.deliveries()
    finally:
        for one in running:
            one.kill()
            one.wait()
        redis.stop()
        ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize("others", [False, True])
def test_the_fine_one_has_everything_while_the_others_keep_theirs(others, capsys):
    fine, slow = Peer().start(), Peer().start()
    line = SlowLine(slow.port, rate=600)
    with short_folder() as folder:
        destinations = [("fine", fine.port)]
        if others:
            destinations += [("dripping", line.port), ("away", free_port())]
        try:
            took, rows = seconds_for_the_fine_one(folder, destinations, fine)
        finally:
            line.over.set()
            fine.stop()
            slow.stop()
            shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        print(f"\n{EACH} objects in {took:.1f} s, {'with' if others else 'without'} the others")  # noqa: T201
    assert sorted(set(fine.uids)) == sorted({f"2.25.{n}" for n in range(1, EACH + 1)})
    assert len(fine.uids) == EACH, "and each once"
    waiting = [one for one in rows if one.destination == "away"]
    assert {(one.state, one.attempts) for one in waiting} <= {(DeliveryState.PENDING, 0), (DeliveryState.PENDING, 1)}
    assert len(waiting) == (EACH if others else 0)
    dripping = [one.state for one in rows if one.destination == "dripping"]
    assert DeliveryState.DEAD not in dripping
    assert not others or DeliveryState.PENDING in dripping
