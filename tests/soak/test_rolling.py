"""A rolling upgrade: while modalities send, every process is told to end, one after the other, and replaced."""

import threading

import pytest
from databases import PostgreSQL, postgresql
from radiographs import encode, synthetic
from soak.fleet import Fleet
from soak.modality import Modalities
from soak.pacs import Pacs
from soak.verdict import verdict
from working import short_folder, wait_for

COUNTS = {"listener": 2, "dispatcher": 1, "worker": 2, "sender": 2}


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.timeout(1500)
def test_every_process_of_every_role_is_replaced_and_each_acknowledged_image_has_one_answer():
    if why := PostgreSQL.missing():
        pytest.skip(why)
    pacs = Pacs()
    with short_folder() as folder, postgresql() as server:
        fleet = Fleet(folder, server.url, pacs.port, COUNTS)
        try:
            pacs.start()
            fleet.start()
            radiograph = folder / "radiograph.dcm"
            radiograph.write_bytes(encode(synthetic(bits=8)))
            modalities = Modalities(folder / "modality", fleet.ports, [radiograph], seed=17)
            sending = threading.Thread(target=modalities.run, args=(30, 1200))
            sending.start()
            wait_for(lambda: pacs.arrivals, 120, "the first result")
            for role, count in COUNTS.items():
                for number in range(count):
                    assert fleet.renew(role, number) in {0, -15}, f"{role}{number} did not end when told to"
                    before = len(modalities.studies)
                    wait_for(lambda: _answered(modalities.studies[before:], pacs), 240, f"results after {role}{number}")  # noqa: B023
            modalities.finish(60)
            sending.join(30)
            wait_for(fleet.settled, 600, "everything to be delivered")
            found = verdict(modalities.studies, pacs.arrivals, _tasks(fleet, modalities))
            assert (found.lost, found.doubled) == ((), ()), fleet.ledger.counts()
            assert found.acknowledged > sum(COUNTS.values())
            assert not fleet.killed, "nobody was killed"
            assert not fleet.ended, "nobody ended unasked"
        finally:
            fleet.stop()
            pacs.stop()


def _answered(studies, pacs):
    return {one.study for one in studies} & {one.study for one in pacs.arrivals}


def _tasks(fleet, modalities):
    return {one.study: len(fleet.ledger.tasks(one.study)) for one in modalities.studies}
