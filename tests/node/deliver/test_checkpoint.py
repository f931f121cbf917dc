"""An answer is never taken for a message of the peer's own, however late the reactor's thread gets its turn."""

import threading
import time

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from sending import write
from working import SC_STORAGE, Peer, wait_for

from dicom_node.deliver import scu
from dicom_node.deliver.checkpoint import Checkpoint
from dicom_node.nouns import AETitle, Destination, SOPInstanceUID

LATE = 0.2
"""Seconds: longer than a peer on loopback takes to answer."""


@pytest.fixture
def busy(monkeypatch):
    """A busy machine: the reactor, let go on, goes on late, and who asked looks for the answer later still."""
    wait, get = threading.Event.wait, DIMSEServiceProvider.get_msg

    def late(self, timeout=None):
        found = wait(self, timeout)
        if isinstance(threading.current_thread(), Association):
            time.sleep(LATE)
        return found

    def later(self, *args, **named):
        if any(args) or any(named.values()):
            time.sleep(2 * LATE)
        return get(self, *args, **named)

    monkeypatch.setattr(threading.Event, "wait", late)
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", later)


def test_a_reactor_that_waits_says_so_whatever_another_thread_says():
    association = Association(AE("EXPLAIN"), "requestor")
    checkpoint = Checkpoint(association)
    checkpoint.clear()
    reactor = threading.Thread(target=checkpoint.wait, daemon=True)
    reactor.start()
    association._is_paused = False  # as after a report of the peer's, served by a thread of its own
    wait_for(lambda: association._is_paused, 10, "the reactor to say that it waits")
    assert reactor.is_alive()
    checkpoint.set()
    reactor.join(10)
    assert not reactor.is_alive()
    assert not association._is_paused


@pytest.mark.usefixtures("busy")
def test_every_answer_of_a_series_reaches_who_asked(tmp_path):
    peer = Peer().start()
    uids = [f"2.25.{number}" for number in range(1, 5)]
    requests = [
        scu.StoreRequest(
            key=uid,
            sop_instance_uid=SOPInstanceUID(uid),
            sop_class_uid=SC_STORAGE,
            path=write(tmp_path, uid, SC_STORAGE),
        )
        for uid in uids
    ]
    there = Destination(name="pacs", ae_title=AETitle("PACS"), host="127.0.0.1", port=peer.port)
    try:
        outcomes = list(scu.store(there, requests, calling_ae_title="EXPLAIN", timeout=5))
    finally:
        peer.stop()
    assert [one.status for one in outcomes] == [0] * len(uids)
    assert (peer.uids, peer.associations) == (uids, 1)
