"""The Celery task "dicom_node.explain": one leased task -> result files -> one transaction.

Order: lease, explain, write every result file durably, then task, deliveries and study state in one
transaction. A worker that dies anywhere before the last step leaves a lease that runs out; the next one makes
the same bytes under the same UIDs. A worker that lost its lease changes nothing.

Time limits. Celery's limits need its prefork pool, which CUDA forbids, so they are kept here:

- the lease is renewed every third of its length while the task runs; it runs out soon after the process dies;
- the soft limit interrupts Python code in the main thread (SIGALRM): the study is reported as not analysed;
- the hard limit ends the process at once (os._exit) from a thread, whatever the main thread hangs in. Before,
  the lease is ended, so that the reconciler offers the task again; the supervisor starts a fresh worker.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

import structlog
from celery import Celery
from pydicom import Dataset, dcmread

from dicom_node import broker, header, pipeline
from dicom_node.broker import utc_now
from dicom_node.errors import ConfigError, OutOfResources, StudyUnsuitable
from dicom_node.ledger import Ledger
from dicom_node.model import Delivery, DeliveryState, Instance, SOPInstanceUID, Study, StudyState, Task
from dicom_node.observe import place
from dicom_node.pipeline import StudyResult
from dicom_node.results import ResultOptions
from dicom_node.settings import BrokerSettings, Settings
from dicom_node.spool import Spool
from explain_core.explanation import Explainer

EXIT_HARD_LIMIT = 75  # EX_TEMPFAIL of sysexits.h: the supervisor starts a fresh process
GRACE_SECONDS = 5.0
NAMESPACE = uuid.UUID("3f0c2a52-4b0b-5b8e-9d43-6f6d1f9c7a10")
"""Never change: the identifiers of deliveries come from it."""

log = structlog.get_logger(__name__)


class SoftLimitExceeded(Exception):
    """The task ran longer than broker.soft_time_limit."""


class Worker:
    """Works on one task at a time, in the process that made it.

    Args:
        settings: limits, routes, destinations, results.
        ledger: where tasks are leased and finished.
        spool: instances in, results out.
        load: loads the model; called once, with the first task that needs it.
        clock: the time.
        end: ends the process at the hard limit; tests give another.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        load: Callable[[], Explainer],
        *,
        clock: Callable[[], datetime] = utc_now,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._load = load
        self._clock = clock
        self._end = end
        self._explainer: Explainer | None = None
        self._process = os.getpid()

    def run(self, task_id: str) -> bool:
        """Do one task, if there is anything to do.

        Returns:
            True when this call finished the task; False when it was finished, is held by another, or was put
            back.

        Raises:
            ConfigError: called in a forked process: neither CUDA nor the ledger's connections survive fork().
        """
        if os.getpid() != self._process:
            raise ConfigError("the worker runs in Celery's pool solo only; CUDA does not survive fork()")
        owner = f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex}"
        task = self._ledger.lease(task_id, owner, self._clock(), self._settings.broker.lease_seconds)
        if task is None:
            log.info("nothing to do", task=task_id)
            return False
        with structlog.contextvars.bound_contextvars(
            task=task_id, study=task.study_instance_uid, revision=task.revision, attempt=task.attempts
        ):
            try:
                with Limits(
                    self._ledger,
                    task_id,
                    owner,
                    limits=self._settings.broker,
                    clock=self._clock,
                    end=self._end,
                ):
                    return self._finish(task, owner)
            except OutOfResources as error:
                log.error("put back", reason=str(error))  # noqa: TRY400 - the class and text say it all
                with contextlib.suppress(OutOfResources):  # then the lease runs out by itself
                    self._ledger.release(task_id, owner, self._clock())
                return False

    def _finish(self, task: Task, owner: str) -> bool:
        study = self._ledger.study(task.study_instance_uid, task.revision)
        result = self._answer(task, study)
        if not self._ledger.renew_lease(task.task_id, owner, self._clock(), self._settings.broker.lease_seconds):
            log.warning("lease lost, nothing written")
            return False
        result, deliveries = self._write_or_report(task, study, result)
        done = self._ledger.complete(
            task.task_id,
            owner,
            deliveries=deliveries,
            state=result.state,
            reason=result.reason,
            now=self._clock(),
        )
        level = logging.WARNING if result.state is StudyState.FAILED or not done else logging.INFO
        log.log(level, "task finished", state=result.state.value, reason=result.reason, recorded=done)
        return done

    def _answer(self, task: Task, study: Study) -> StudyResult:
        """Results, or a report that says why there are none; nothing but a lack of resources is raised."""
        options = self._options(task)
        earlier = self._earlier(task)
        try:
            if task.reason is None:
                with soft_limit(self._settings.broker.soft_time_limit):
                    return pipeline.explain_study(task, study, self._read, self._model(), options, earlier=earlier)
            reason = task.reason
        except OutOfResources:
            raise
        except StudyUnsuitable as error:
            reason = str(error)
        except SoftLimitExceeded:
            reason = f"the analysis took longer than {self._settings.broker.soft_time_limit} s"
            log.error("soft time limit")  # noqa: TRY400 - where it stopped is chance
        except Exception as error:  # noqa: BLE001 - unknown: terminal, but reported and visible
            reason = f"the analysis failed ({type(error).__name__})"
            log.error("analysis failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
        return self._report(task, study, options, reason, earlier)

    def _report(
        self, task: Task, study: Study, options: ResultOptions, reason: str, earlier: Sequence[Dataset]
    ) -> StudyResult:
        model = self._explainer.identity if self._explainer else None
        try:
            return pipeline.report_not_analysed(task, study, self._read, options, reason, model=model, earlier=earlier)
        except OutOfResources:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: a failed study without any object
            log.error("report failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
            reason = f"{reason}; no report could be made ({type(error).__name__})"
            return StudyResult(datasets=(), state=StudyState.FAILED, reason=reason, explanations=())

    def _write_or_report(self, task: Task, study: Study, result: StudyResult) -> tuple[StudyResult, list[Delivery]]:
        """Results that cannot be encoded are reported like an analysis that failed."""
        try:
            return result, self._write(task, result)
        except OutOfResources:
            raise
        except Exception as error:  # noqa: BLE001 - unknown: terminal, but reported and visible
            log.error("writing failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
            reason = f"the results could not be written ({type(error).__name__})"
        report = self._report(task, study, self._options(task), reason, self._earlier(task))
        return report, self._write(task, report)

    def _write(self, task: Task, result: StudyResult) -> list[Delivery]:
        """Every result file durable in the outbox; then the rows that will name them.

        A result that an earlier run of the task made and recorded stays as it is.
        """
        recorded = {one.sop_instance_uid: one.path for one in self._recorded(task) if one.path.exists()}
        now = self._clock()
        made = []
        for dataset in result.datasets:
            sop_instance_uid = SOPInstanceUID(str(dataset.SOPInstanceUID))
            path = recorded.get(sop_instance_uid) or self._spool.write_outbox(task.task_id, dataset)
            for destination in self._destinations(task):
                name = f"{task.task_id}|{sop_instance_uid}|{destination}"
                made.append(
                    Delivery(
                        delivery_id=str(uuid.uuid5(NAMESPACE, name)),
                        task_id=task.task_id,
                        sop_instance_uid=sop_instance_uid,
                        sop_class_uid=str(dataset.SOPClassUID),
                        path=path,
                        destination=destination,
                        state=DeliveryState.PENDING,
                        attempts=0,
                        next_attempt_at=now,
                        last_error=None,
                    )
                )
        return made

    def _recorded(self, task: Task) -> list[Delivery]:
        return [one for one in self._ledger.deliveries(study=task.study_instance_uid) if one.task_id == task.task_id]

    def _earlier(self, task: Task) -> tuple[Dataset, ...]:
        """Headers of the results made for this study so far; one that cannot be read is left out."""
        paths: dict[Path, None] = dict.fromkeys(
            one.path for one in self._ledger.deliveries(study=task.study_instance_uid)
        )
        found = []
        for path in paths:
            with contextlib.suppress(Exception):
                found.append(dcmread(path, stop_before_pixels=True))
        return tuple(found)

    def _destinations(self, task: Task) -> tuple[str, ...]:
        """Those of the route; a study that no rule takes is answered everywhere."""
        route = self._settings.routes().get(task.route)
        if route is not None:
            return route.destinations
        return tuple(one.name for one in self._settings.destinations)

    def _options(self, task: Task) -> ResultOptions:
        return pipeline.result_options(self._settings, self._settings.routes().get(task.route))

    def _model(self) -> Explainer:
        if self._explainer is None:
            self._explainer = self._load()
        return self._explainer

    def _read(self, instance: Instance) -> Dataset:
        return header.read(instance.path)


class Limits:
    """Keeps a lease while a task runs, and ends the process when it runs too long.

    Args:
        ledger, task_id, owner: the lease.
        limits: lease_seconds and hard_time_limit.
        clock: the time, for the ledger; durations are measured with a monotonic clock.
        end: ends the process; it is given EXIT_HARD_LIMIT.
    """

    def __init__(
        self,
        ledger: Ledger,
        task_id: str,
        owner: str,
        *,
        limits: BrokerSettings,
        clock: Callable[[], datetime],
        end: Callable[[int], None],
    ) -> None:
        self._ledger = ledger
        self._lease = (task_id, owner)
        self._limits = limits
        self._clock = clock
        self._end = end
        self._over = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._guard = threading.Thread(target=self._watch, name="hard-limit", daemon=True)

    def __enter__(self) -> None:
        self._renewer.start()
        self._guard.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._renewer.join(GRACE_SECONDS)
        self._guard.join(GRACE_SECONDS)

    def _renew(self) -> None:
        seconds = self._limits.lease_seconds
        while not self._over.wait(seconds / 3):
            try:
                if not self._ledger.renew_lease(*self._lease, self._clock(), seconds):
                    if not self._over.is_set():
                        log.warning("lease lost", task=self._lease[0])
                    return
            except OutOfResources as error:
                log.warning("lease not renewed", task=self._lease[0], reason=str(error))

    def _watch(self) -> None:
        """A thread of its own: it must end the process also when the ledger hangs."""
        if self._over.wait(self._limits.hard_time_limit):
            return
        self._over.set()
        log.critical("hard time limit: the process ends", task=self._lease[0])
        ending = threading.Thread(target=self._end_lease, daemon=True)
        ending.start()
        ending.join(GRACE_SECONDS)
        self._end(EXIT_HARD_LIMIT)

    def _end_lease(self) -> None:
        with contextlib.suppress(OutOfResources):
            self._ledger.expire_lease(*self._lease, self._clock())


@contextlib.contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise SoftLimitExceeded in the block after `seconds`; in the main thread only, elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise SoftLimitExceeded

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def register_explain(app: Celery, worker: Worker) -> None:
    """Make `worker` answer the messages of "dicom_node.explain"."""
    broker.register(app, broker.EXPLAIN, worker.run)
