"""The loop: what the ledger knows + clock -> assembly -> rules -> task rows -> broker; and the reconciler.

Every step looks at the ledger alone and may be repeated, by this process or another:

    the clock            set back: leases and waits are brought back to now, so that none lasts as much longer
    complete studies     closed as a revision with its tasks, in one transaction
    leases run out       the task is pending again; after max_attempts its study is reported as not analysed,
                         and when that fails too, the task is failed: visible, replayable
    pending tasks        submitted; again after `resubmit` when nobody has leased them, and all of them at once, in
                         order of arrival, when the broker has lost its memory
    due deliveries       one message for each destination, likewise

The broker is a hint, not a store: flushing or restarting Redis costs one step of the loop, and while it
is away the listener and this loop go on; that it is away is said once, that it is back too.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from celery import Celery
from pydicom import Dataset

from dicom_node.clock import utc_now
from dicom_node.dicom import reading
from dicom_node.errors import DatasetUnreadable, NodeError, Reason
from dicom_node.nouns import (
    Delivery,
    Instance,
    PassedBy,
    Study,
    StudyActivity,
    Task,
)
from dicom_node.queue import broker
from dicom_node.queue.broker import DELIVER, EXPLAIN
from dicom_node.route import rules
from dicom_node.route.assembly import Ready, ready
from dicom_node.route.patients import NOBODY, Patient, patient_of
from dicom_node.route.planning import plan, refused
from dicom_node.route.rules import StudyDecision
from dicom_node.settings.sections import Settings
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.search_terms import terms
from dicom_node.watch import pulse, traces
from dicom_node.watch.logs import place, without_warnings

RESUBMIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(days=1)
"""More than any between two attempts of a delivery: what waits longer at the start was written by another clock."""
SET_BACK = timedelta(seconds=5)
"""A smaller step back is a correction that no lease notices."""
MOST_AT_ONCE = 100_000
"""Tasks that are submitted again after a flush."""
PATIENCE = 20
"""While other messages wait in the queue, a submission may take this many times longer to be leased."""

UNREADABLE = "the data set cannot be read"

log = structlog.get_logger(__name__)


class Dispatcher:
    """Moves studies, tasks and deliveries on.

    Args:
        settings: times, rules, attempts.
        ledger: what there is.
        app: the broker.
        fetch: gives a local file of what a row names (`FileStore.fetch`).
        clock: the time, for run().
        resubmit: how long a message may be on its way before another is sent.
        search_key: with which accession numbers and Patient IDs are hashed, so that a study is found by them; None:
            studies are found by their UID alone.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        app: Celery,
        *,
        fetch: Fetch = Path,
        clock: Callable[[], datetime] = utc_now,
        resubmit: timedelta = RESUBMIT,
        search_key: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._app = app
        self._fetch = fetch
        self._clock = clock
        self._resubmit = resubmit
        self._search_key = search_key
        self._troubles: set[str] = set()
        self._begun: dict[tuple[str, int], int] = {}
        """How often a dispatcher has begun to close a study that this one has not closed yet."""
        self._latest: datetime | None = None
        self._until: datetime | None = None

    def run(self, stop: threading.Event, poll_seconds: float = 0.5) -> None:
        """Step until told to stop; no failure of a step ends the loop."""
        pulse.ready()
        while not stop.is_set():
            self.step(self._clock())
            pulse.beat()
            stop.wait(self._pause(poll_seconds))

    def _pause(self, poll_seconds: float) -> float:
        """Seconds until the next look: sooner where the quiet time of a study is over before."""
        if self._until is None:
            return poll_seconds
        return min(poll_seconds, max(0.0, (self._until - self._clock()).total_seconds()))

    def step(self, now: datetime) -> None:
        """Look once and do what is due. The parts fail apart from each other; a trouble is logged once."""
        for name, part in (
            ("clock", self._watch_the_clock),
            ("assembly", self._assemble),
            ("leases", self._reclaim),
            ("tasks", self._submit_tasks),
            ("deliveries", self._submit_deliveries),
        ):
            with self._apart(name):
                part(now)

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """What fails in the block is logged once, and nothing else fails with it; the next look may succeed."""
        try:
            yield
        except NodeError as error:
            self._trouble(name, str(error))
        except Exception as error:  # noqa: BLE001 - the loop must live
            self._trouble(name, type(error).__name__, place=place(error))
        else:
            self._fine(name)

    def _watch_the_clock(self, now: datetime) -> None:
        """At the start, and when the clock was set back, bring back what was written of times to come."""
        if self._latest is None or now < self._latest - SET_BACK:
            lease = timedelta(seconds=self._settings.broker.lease_seconds)
            wait = LONGEST_WAIT if self._latest is None else timedelta(0)
            changed = self._ledger.bring_back(now, task_lease=lease, longest_wait=wait)
            if self._latest is not None:
                log.warning("the clock was set back", seconds=(self._latest - now).total_seconds(), rows=changed)
        self._latest = now

    def _assemble(self, now: datetime) -> None:
        """Close what is complete; a study that cannot be closed now waits, and no other with it."""
        self._until = None
        for activity in self._ledger.assembly_snapshot():
            limits = self._settings.study
            decided = ready(activity, now, limits.quiet, limits.open_quiet, limits.cap)
            if isinstance(decided, Ready):
                with self._apart(f"assembly of {activity.study_instance_uid}"):
                    self._close(activity, decided, now)
            elif self._until is None or decided.until < self._until:
                self._until = decided.until

    def _close(self, activity: StudyActivity, decided: Ready, now: datetime) -> None:
        pulse.beat()
        uid = activity.study_instance_uid
        study = self._ledger.study(uid, activity.revision)
        earlier = [task for task in self._ledger.tasks(uid) if task.revision < activity.revision]
        everywhere = tuple(one.name for one in self._settings.destinations)
        study = self._brought(study)
        if (uid, study.revision) not in self._begun:  # this process has not ended over it, whatever it met
            self._begun[uid, study.revision] = self._ledger.begin_closing(uid)
        begun = self._begun[uid, study.revision]
        if begun > self._settings.broker.max_attempts:
            log.error("study not looked at: the dispatcher ended over it", study=uid, times=begun - 1)
            decision = refused(study, f"the dispatcher ended {begun - 1} times while it read the study")
        else:
            decision = self._decide(study)
        made = plan(study, decision, earlier, now, everywhere)
        if strangers := [one for task in made.tasks for one in task.passed_by if one.code is Reason.PATIENT]:
            log.warning("two patients in one study", study=uid, revision=study.revision, images=len(strangers))
        marked = self._ledger.mark_ready(study, made.tasks, now, state=made.state, reason=made.reason)
        del self._begun[uid, study.revision]
        if marked:
            log.info(
                "study ready",
                study=uid,
                revision=study.revision,
                because=decided.because.value,
                instances=len(study.instances),
                tasks=len(made.tasks),
                reason=made.reason or next((task.reason for task in made.tasks), None),
            )
            first = min((one.received_at for one in study.instances), default=now)
            traces.received(uid, study.revision, first, now, instances=len(study.instances))

    def _brought(self, study: Study) -> Study:
        """A study whose files are on this host; before its reading begins, for a store that is away ends no process.

        Raises:
            OutOfResources: the store does not answer.
        """
        here = []
        for one in study.instances:
            with suppress(DatasetUnreadable):  # then nothing can be read where it lies
                one = dataclasses.replace(one, path=self._fetch(one.path))  # noqa: PLW2901
            here.append(one)
        return dataclasses.replace(study, instances=tuple(here))

    def _decide(self, study: Study) -> StudyDecision:
        headers = {one.sop_instance_uid: read_header(one) for one in study.instances}
        images = [
            (one.sop_instance_uid, header, one.calling_ae_title)
            for one in study.instances
            if (header := headers[one.sop_instance_uid]) is not None
        ]
        if self._search_key is not None:
            self._ledger.add_terms(study.study_instance_uid, terms(self._search_key, filter(None, headers.values())))
        unreadable = tuple(
            PassedBy(sop_instance_uid=uid, reason=UNREADABLE, code=Reason.UNREADABLE)
            for uid, header in headers.items()
            if header is None
        )
        patient = self._patient(study)
        try:
            decision = rules.decide_study(images, self._settings.rules, patient)
        except Exception as error:  # noqa: BLE001 - a study must be answered even when a rule fails on it
            log.error(  # noqa: TRY400 - the message may quote a data set
                "rules failed", study=study.study_instance_uid, error=type(error).__name__, place=place(error)
            )
            return refused(study, f"the routing rules failed ({type(error).__name__})")
        return dataclasses.replace(decision, ignored=decision.ignored + unreadable)

    def _patient(self, study: Study) -> Patient:
        """Whose the earlier revisions of a study are, by all that their images state.

        Raises:
            OutOfResources: they cannot be read now, which is no fault of the rules.
        """
        patient = NOBODY
        for revision in range(1, study.revision):
            for one in self._brought(self._ledger.study(study.study_instance_uid, revision)).instances:
                header = read_header(one)
                if header is not None and (found := patient_of(header)).may_be(patient):
                    patient = patient.completed_by(found)
        return patient

    def _reclaim(self, now: datetime) -> None:
        most = self._settings.broker.max_attempts
        for task in self._ledger.expired_leases(now):
            entry = log.bind(task=task.task_id, study=task.study_instance_uid, attempts=task.attempts)
            if task.attempts < most:
                if self._ledger.reclaim(task.task_id, now):
                    entry.warning("lease ran out, task is pending again")
            elif task.reason is None:
                reason = f"the analysis ended {task.attempts} times without a result"
                if self._ledger.reclaim(task.task_id, now, give_up=reason):
                    entry.error("task given up, will be reported as not analysed")
            elif self._ledger.reclaim(task.task_id, now):
                self._ledger.fail(task.task_id, f"{task.reason}; no report could be made", now)
                entry.error("task failed, not even a report could be made")

    def _submit_what_is_forgotten(self, now: datetime) -> None:
        """Submit everything again, in order of arrival, where the broker has lost its memory; the mark comes last."""
        if broker.remembers(self._app):
            return
        again = self._ledger.pending_tasks(now, timedelta(0), limit=MOST_AT_ONCE)
        for task in again:
            self._submit_task(task, now)
        for delivery in self._ledger.deliveries_to_submit(now, timedelta(0)):
            self._submit_delivery(delivery, now)
        broker.remember(self._app)
        if again:
            log.warning("the broker had forgotten everything", tasks=len(again))

    def _submit_tasks(self, now: datetime) -> None:
        self._submit_what_is_forgotten(now)
        for task in self._ledger.pending_tasks(now, None):
            self._submit_task(task, now)
        if self._ledger.pending_tasks(now, self._resubmit, limit=1):
            for task in self._ledger.pending_tasks(now, self._wait(EXPLAIN)):
                self._submit_task(task, now)
                log.warning("task not taken in time, submitted again", task=task.task_id, study=task.study_instance_uid)

    def _submit_task(self, task: Task, now: datetime) -> None:
        pulse.beat()
        broker.submit(self._app, EXPLAIN, task.task_id)
        self._ledger.task_submitted(task.task_id, now)
        log.info("task submitted", task=task.task_id, study=task.study_instance_uid, revision=task.revision)

    def _submit_deliveries(self, now: datetime) -> None:
        if not self._ledger.deliveries_to_submit(now, self._resubmit):
            return
        for delivery in self._ledger.deliveries_to_submit(now, self._wait(DELIVER)):
            self._submit_delivery(delivery, now)

    def _submit_delivery(self, delivery: Delivery, now: datetime) -> None:
        pulse.beat()
        broker.submit(self._app, DELIVER, delivery.delivery_id)
        self._ledger.delivery_submitted(delivery.delivery_id, now)

    def _wait(self, name: str) -> timedelta:
        """An empty queue has lost what was submitted; in a full one the message is waiting its turn."""
        return self._resubmit if broker.depth(self._app, name) == 0 else PATIENCE * self._resubmit

    def _trouble(self, name: str, reason: str, **more: object) -> None:
        if name not in self._troubles:
            self._troubles.add(name)
            log.error("dispatch trouble, will go on trying", part=name, reason=reason, **more)

    def _fine(self, name: str) -> None:
        if name in self._troubles:
            self._troubles.remove(name)
            log.info("dispatch recovered", part=name)


def read_header(instance: Instance) -> Dataset | None:
    """The data set without pixels, or None when it cannot be read."""
    with without_warnings():
        try:
            found = reading.read_header(instance.path)
        except DatasetUnreadable:
            return None
    return found if len(found) else None
