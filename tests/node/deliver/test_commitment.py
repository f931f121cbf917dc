"""Destinations are asked to commit: real associations, over which a PACS answers at once, later, wrongly or never."""

import itertools
from datetime import timedelta
from pathlib import Path

import pytest
from committing import CommittingPacs
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from receiving import wait_until
from structlog.testing import capture_logs
from working import SC_STORAGE, STUDY, T0, Peer, at, delivery, due, free_port, instance, settings, study, task

from dicom_node.deliver.commitment import Committer
from dicom_node.deliver.sender import Sender
from dicom_node.errors import OutOfResources
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger import Ledger

SENT, COMMITTED, PENDING, DEAD = (
    DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.PENDING, DeliveryState.DEAD,
)  # fmt: skip


class Node:
    """A ledger, a sender and a committer with a clock that the test moves."""

    def __init__(self, folder: Path, port: int, **limits) -> None:
        self.folder, self.now = folder, at(100)
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
        self.ledger.create()
        self._tasks = itertools.count(1)
        self.start(port, **limits)

    def start(self, port: int, *, commitment: bool = True, **limits) -> None:
        """A sender and a committer as they begin: with these settings, knowing nothing but the ledger."""
        limits = {"timeout": 5, "commitment_wait": 5, "retry_seconds": 30} | limits
        chosen = settings(self.folder, ("pacs", "PACS", port, {"commitment": commitment}), delivery=limits)
        self.sender = Sender(settings=chosen, ledger=self.ledger, clock=self.clock)
        self.committer = Committer(settings=chosen, ledger=self.ledger, clock=self.clock)

    def clock(self):
        return self.now

    def answer(self, *numbers: int) -> None:
        """Explain a study with these results, and send them."""
        name = f"t{next(self._tasks)}"
        self.ledger.add_instance(instance(1, study=f"{STUDY}.{name[1:]}"))
        revision = study(instance(1, study=f"{STUDY}.{name[1:]}"))
        self.ledger.mark_ready(revision, [task(revision, name)], T0)
        self.ledger.lease(name, "w", T0, 60)
        owed = [delivery(name, number, path=self._write(number)) for number in numbers]
        self.ledger.complete(name, "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=T0)
        self.send()

    def send(self) -> None:
        while waiting := due(self.ledger, self.now):
            self.sender.deliver(waiting[0].delivery_id)

    def _write(self, number: int) -> Path:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = SC_STORAGE, f"2.25.{number}"
        ds.PatientName, ds.StudyInstanceUID = "Canary^Bird", STUDY
        ds.save_as(self.folder / f"{number}.dcm", enforce_file_format=True)
        return self.folder / f"{number}.dcm"

    @property
    def states(self):
        return {one.sop_instance_uid: one.state for one in self.ledger.deliveries()}

    @property
    def reasons(self):
        return {one.last_error for one in self.ledger.deliveries()}


@pytest.fixture
def started():
    peers = []

    def start(peer):
        peers.append(peer.start())
        return peer

    yield start
    for one in peers:
        one.released.set() if isinstance(one, CommittingPacs) else None
        one.stop()


@pytest.fixture
def node(tmp_path):
    made = []

    def make(port, **limits):
        made.append(Node(tmp_path, port, **limits))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_report_on_the_same_association_commits_and_the_pacs_has_its_answer(started, node, when):
    pacs = started(CommittingPacs(when))
    here = node(pacs.port, commitment_wait=600)
    here.answer(1, 2)
    assert set(here.states.values()) == {SENT}, "sent is not safe"
    assert here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED, "2.25.2": COMMITTED}
    wait_until(lambda: pacs.answers)
    assert pacs.answers == [0x0000]
    assert len(pacs.requests) == 1
    wait_until(lambda: pacs.releases == 2)  # of the objects, and of the request: not ended for want of anything to do
    assert not here.committer.ask("pacs")


def test_failed_references_are_sent_again_or_dead_each_by_its_reason(started, node):
    pacs = started(CommittingPacs(failures={"2.25.2": 0x0112, "2.25.3": 0x0119}))
    here = node(pacs.port)
    here.answer(1, 2, 3)
    here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED, "2.25.2": PENDING, "2.25.3": DEAD}
    pacs.failures = {}
    here.now += timedelta(seconds=30)
    here.send()
    assert pacs.uids == ["2.25.1", "2.25.2", "2.25.3", "2.25.2"]
    assert here.states["2.25.2"] is SENT
    here.committer.ask("pacs")
    assert here.states["2.25.2"] is COMMITTED
    assert [len(one.ReferencedSOPSequence) for one in pacs.requests] == [3, 1]


def test_a_pacs_that_keeps_silent_is_asked_again_under_another_uid_and_then_given_up(started, node):
    pacs = started(CommittingPacs("never"))
    here = node(pacs.port, commitment_wait=0, commitment_timeout=600, max_attempts=3)
    here.answer(1)
    for _ in range(3):
        assert here.committer.ask("pacs")
        here.now += timedelta(seconds=599)
        here.committer.close_overdue()
        assert not here.committer.ask("pacs")
        here.now += timedelta(seconds=1)
        here.committer.close_overdue()
        here.now += timedelta(seconds=240)
    assert len({one.TransactionUID for one in pacs.requests}) == 3
    assert here.states == {"2.25.1": DEAD}
    assert here.reasons == {"not committed: the destination did not answer in time (3 requests)"}
    here.ledger.replay_failed(None, here.now)
    here.send()
    assert here.committer.ask("pacs")


def test_a_pacs_that_does_not_take_the_class_leaves_results_sent_and_visible_and_is_named_once(started, node):
    pacs = started(Peer())
    here = node(pacs.port)
    here.answer(1)
    with capture_logs() as logged:
        for _ in range(3):
            assert here.committer.ask("pacs")
            assert not here.committer.ask("pacs")
            here.now += timedelta(hours=1)
    (said,) = [one for one in logged if one["log_level"] == "error"]
    assert "does not take Storage Commitment" in said["reason"]
    assert here.states == {"2.25.1": SENT}
    (waiting,) = here.ledger.uncommitted()
    assert "presentation context rejected" in waiting.reason
    here.start(started(CommittingPacs()).port)
    here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED}


@pytest.mark.parametrize("how", ["nobody there", "refuses", "never answers"])
def test_a_request_that_fails_comes_again_later(started, node, how):
    pacs = CommittingPacs(status={"refuses": 0x0213, "never answers": None}.get(how, 0))
    started(pacs)
    here = node(pacs.port)
    here.answer(1)
    here.start(free_port() if how == "nobody there" else pacs.port, timeout=1)
    with capture_logs() as logged:
        assert here.committer.ask("pacs")
    assert [one["event"] for one in logged] == ["commitment not asked for"]
    assert "canary" not in repr(logged).lower()
    assert here.states == {"2.25.1": SENT}
    assert not here.committer.ask("pacs")
    here.now += timedelta(seconds=30)
    pacs.status = 0x0000
    pacs.released.set()
    here.start(pacs.port)
    assert here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED}


def test_a_sender_that_is_killed_after_its_request_loses_nothing(started, node):
    """Of the killed one nothing is left but its row; the report comes to another process, or the request again."""
    pacs = started(CommittingPacs("never"))
    here = node(pacs.port, commitment_wait=0)
    here.answer(1)

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    kept, here.ledger.commitment_asked = here.ledger.commitment_asked, die
    with pytest.raises(Killed):
        here.committer.ask("pacs")
    here.ledger.commitment_asked = kept
    assert len(pacs.requests) == 1
    here.now += timedelta(seconds=60)
    here.start(pacs.port)
    here.committer.close_overdue()
    here.now += timedelta(seconds=30)
    pacs.when = "after"
    assert here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED}
    assert len({one.TransactionUID for one in pacs.requests}) == 2


def test_nothing_is_lost_with_a_ledger_that_is_away_when_the_report_comes(started, node):
    pacs = started(CommittingPacs())
    here = node(pacs.port)
    here.answer(1)

    def away(*_):
        raise OutOfResources("the ledger does not answer")

    kept, here.ledger.report_commitment = here.ledger.report_commitment, away
    here.committer.ask("pacs")
    assert pacs.answers == [0x0110]
    here.ledger.report_commitment = kept
    assert here.states == {"2.25.1": SENT}
    here.now += timedelta(seconds=3600)
    here.committer.close_overdue()
    here.now += timedelta(seconds=30)
    here.committer.ask("pacs")
    assert here.states == {"2.25.1": COMMITTED}


def test_the_loop_asks_by_itself_and_forgets_what_is_long_done_with(started, node):
    pacs = started(CommittingPacs())
    here = node(pacs.port)
    here.answer(1)
    here.committer.step()
    wait_until(lambda: here.states == {"2.25.1": COMMITTED})
    here.now += timedelta(days=91)
    here.committer.step()
    assert here.ledger.commitment_counts() == {}


def test_a_destination_that_is_not_to_commit_any_more_is_not_waited_for(started, node):
    pacs = started(CommittingPacs("never"))
    here = node(pacs.port, commitment_wait=0)
    here.answer(1)
    here.committer.ask("pacs")
    here.start(pacs.port, commitment=False)
    here.committer.step()
    assert here.states == {"2.25.1": SENT}
    assert here.ledger.uncommitted() == []
