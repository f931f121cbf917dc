"""The Celery task "dicom_node.explain": one leased task -> result files -> one transaction.

Order: lease, explain once, build what each destination wants, write every result file durably, then task,
deliveries and study state in one transaction. A worker that dies anywhere before the last step leaves a lease
that runs out; the next one makes the same bytes under the same UIDs. A worker that lost its lease changes nothing.
"""

import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from celery import Celery
from pydicom import Dataset, dcmread

from dicom_node.clock import utc_now
from dicom_node.dicom import reading
from dicom_node.errors import BrokerUnreachable, ConfigError, OutOfResources, Reason, StudyUnsuitable
from dicom_node.explain import building, observed, pipeline, record
from dicom_node.explain.building import Result
from dicom_node.explain.leases import DeviceLost, Limits, SoftLimitExceeded, soft_limit
from dicom_node.explain.pipeline import Analysis
from dicom_node.nouns import REPORT, Delivery, DeliveryState, Instance, SOPInstanceUID, Study, StudyState, Task
from dicom_node.queue import broker
from dicom_node.results import ResultOptions, result_options
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch.logs import place
from dicom_node.watch.stages import stage
from explain_core import progress
from explain_core.explanation import Explainer, ModelIdentity

NAMESPACE = uuid.UUID("3f0c2a52-4b0b-5b8e-9d43-6f6d1f9c7a10")
"""Never change: the identifiers of deliveries come from it."""

_OFFERED = frozenset({DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.DEAD})
"""What a destination has or is to have; not what it does not take, nor what is kept for that case."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Destinations that get the same.

    Attributes:
        destinations: their names.
        options: what they want.
        earlier: the reports that they were given for the study so far, which new ones name as predecessors.
    """

    destinations: tuple[str, ...]
    options: ResultOptions
    earlier: tuple[Dataset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What becomes of a task: the study's state and why, what each audience gets, and what the model said."""

    state: StudyState
    reason: str | None
    results: tuple[tuple[Audience, tuple[Result, ...]], ...]
    analysis: Analysis | None = None


class Worker:
    """Works on one task at a time, in the process that made it.

    Args:
        settings: limits, routes, destinations, results.
        ledger: where tasks are leased and finished.
        spool: instances in, results out.
        model: gives the model; called once for each task that needs it, which ends with the model it began with.
        wake: is given the name of one delivery for each destination as soon as something is owed there; without it
            the dispatcher finds what is owed at its next look.
        clock: the time.
        end: ends the process at the hard limit; tests give another.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        model: Callable[[], Explainer],
        *,
        wake: Callable[[str], None] = lambda _: None,
        clock: Callable[[], datetime] = utc_now,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._model = model
        self._wake = wake
        self._clock = clock
        self._end = end
        self._identity: ModelIdentity | None = None
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
            known = self._ledger.task(task_id)
            log.info("nothing to do", task=task_id, study=None if known is None else known.study_instance_uid)
            return False
        with structlog.contextvars.bound_contextvars(
            task=task_id, study=task.study_instance_uid, revision=task.revision, attempt=task.attempts
        ):
            log.info("task taken")
            try:
                with (
                    observed.watched(task, self._clock) as run,
                    Limits(
                        self._ledger, task_id, owner, limits=self._settings.broker, clock=self._clock, end=self._end
                    ) as limits,
                    progress.listening(limits.tell),
                ):
                    try:
                        return self._finish(task, owner, run)
                    except DeviceLost as error:
                        limits.end_process(str(error))
                        return False
            except OutOfResources as error:
                log.error("put back", reason=str(error))  # noqa: TRY400 - the class and text say it all
                with contextlib.suppress(OutOfResources):  # then the lease runs out by itself
                    self._ledger.release(task_id, owner, self._clock())
                return False

    def _finish(self, task: Task, owner: str, run: observed.Run) -> bool:
        study = self._ledger.study(task.study_instance_uid, task.revision)
        audiences = self._audiences(task)
        answer = self._answer(task, study, audiences)
        if not self._ledger.renew_lease(task.task_id, owner, self._clock(), self._settings.broker.lease_seconds, 1.0):
            log.warning("lease lost, nothing written")
            return False
        answer, deliveries = self._write_or_report(task, study, audiences, answer)
        done = self._ledger.complete(
            task.task_id,
            owner,
            deliveries=deliveries,
            state=answer.state,
            reason=answer.reason,
            now=self._clock(),
        )
        if done:
            self._wake_senders(deliveries)
        run.end(answer.state.value, self._identity if answer.analysis is None else answer.analysis.model, recorded=done)
        level = logging.WARNING if answer.state is StudyState.FAILED or not done else logging.INFO
        log.log(level, "task finished", state=answer.state.value, reason=answer.reason, recorded=done)
        if done and answer.analysis is not None:
            record.record(self._ledger, task, answer.analysis, role="champion", now=self._clock())
            self._show(task, answer.analysis)
        return done

    def _wake_senders(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is recorded of it: where the broker is away or a sender busy, the dispatcher will see to it."""
        owed = {one.destination: one.delivery_id for one in deliveries if one.state is DeliveryState.PENDING}
        try:
            for delivery_id in owed.values():
                self._wake(delivery_id)
        except BrokerUnreachable as error:
            log.warning("senders not woken", reason=str(error))

    def _answer(self, task: Task, study: Study, audiences: Sequence[Audience]) -> Answer:
        """Results, or a report that says why there are none; nothing but a lack of resources is raised."""
        code = Reason.FAILED
        try:
            if task.reason is None:
                with soft_limit(self._settings.broker.soft_time_limit):
                    return _built(self._analyse(task, study, audiences), audiences)
            reason, code = task.reason, Reason.FAILED if task.selected else Reason.RULES
        except OutOfResources:
            raise
        except StudyUnsuitable as error:
            reason, code = str(error), error.reason
        except SoftLimitExceeded:
            reason = f"the analysis took longer than {self._settings.broker.soft_time_limit} s"
            log.error("soft time limit")  # noqa: TRY400 - where it stopped is chance
        except Exception as error:
            if DeviceLost.said_by(error):
                raise DeviceLost(f"the device is lost ({type(error).__name__})") from error
            reason = f"the analysis failed ({type(error).__name__})"
            log.error("analysis failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
        return self._report(task, study, audiences, reason, code)

    def _analyse(self, task: Task, study: Study, audiences: Sequence[Audience]) -> Analysis:
        """What the model says, by each method that any destination wants, and of negatives if any wants to know why."""
        negatives = any(audience.options.explain == "always" for audience in audiences)
        model = self._model()  # not kept here: after a swap nothing must hold the old one in memory
        self._identity = model.identity
        wanted = {name for audience in audiences for name in audience.options.methods}
        methods = [name for name in self._settings.methods() if name in wanted]
        return pipeline.analyse(task, study, self._read, model, methods=methods, negatives=negatives)

    def _report(self, task: Task, study: Study, audiences: Sequence[Audience], reason: str, code: Reason) -> Answer:
        try:
            analysis = pipeline.not_analysed(task, study, self._read, reason, code, model=self._identity)
            return _built(analysis, audiences)
        except OutOfResources:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: a failed study without any object
            log.error("report failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
            reason = f"{reason}; no report could be made ({type(error).__name__})"
            return Answer(state=StudyState.FAILED, reason=reason, results=())

    def _write_or_report(
        self, task: Task, study: Study, audiences: Sequence[Audience], answer: Answer
    ) -> tuple[Answer, list[Delivery]]:
        """Results that cannot be encoded are reported like an analysis that failed."""
        try:
            with stage("write"):
                return answer, self._write(task, answer)
        except OutOfResources:
            raise
        except Exception as error:  # noqa: BLE001 - unknown: terminal, but reported and visible
            log.error("writing failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
            reason = f"the results could not be written ({type(error).__name__})"
        report = self._report(task, study, audiences, reason, Reason.FAILED)
        return report, self._write(task, report)

    def _write(self, task: Task, answer: Answer) -> list[Delivery]:
        """Every result file durable in the outbox; then the rows that will name them.

        A result that an earlier run of the task made and recorded stays as it is, and what several destinations
        get is one file.
        """
        rows = self._ledger.deliveries(study=task.study_instance_uid)
        mine = {one.sop_instance_uid: one.path for one in rows if one.task_id == task.task_id}
        paths = {uid: path for uid, path in mine.items() if self._spool.store.exists(path)}
        now, every = self._clock(), [result for _, results in answer.results for result in results]
        new = {uid: one.dataset for one in reversed(every) if (uid := _uid(one)) not in paths}
        paths |= zip(new, self._spool.write_outbox(task.task_id, new.values()), strict=True)
        return [
            _delivery(task, one, paths[_uid(one)], destination, now)
            for audience, results in answer.results
            for one in results
            for destination in audience.destinations
        ]

    def _show(self, task: Task, analysis: Analysis) -> None:
        """Write what the dashboard shows; nobody waits for it, and without room the results are out all the same."""
        if not self._settings.web.pictures:
            return
        try:
            for name, content in building.views(analysis, result_options(self._settings)):
                self._spool.write_view(task.task_id, name, content)
        except (OutOfResources, OSError) as error:
            log.warning("no views", error=type(error).__name__)

    def _audiences(self, task: Task) -> tuple[Audience, ...]:
        """The destinations of a task, those together that get the same.

        Where two get a report that differs only in its predecessors, the one that names more is made first and
        is the one that is kept: one UID is one file.
        """
        every = self._ledger.deliveries(study=task.study_instance_uid)
        rows = [row for row in every if row.kind == REPORT and row.state in _OFFERED]
        found: dict[tuple[ResultOptions, tuple[Path, ...]], list[str]] = {}
        for name in task.destinations:
            options = result_options(self._settings, name, task.results)
            paths = tuple(sorted({row.path for row in rows if row.destination == name}))
            found.setdefault((options, paths), []).append(name)
        headers = self._headers({path for _, paths in found for path in paths})
        audiences = [
            Audience(
                destinations=tuple(names),
                options=options,
                earlier=tuple(headers[path] for path in paths if path in headers),
            )
            for (options, paths), names in found.items()
        ]
        return tuple(sorted(audiences, key=lambda audience: -len(audience.earlier)))

    def _read(self, instance: Instance) -> Dataset:
        return reading.read(self._spool.fetch(instance.path))

    def _headers(self, paths: Iterable[Path]) -> dict[Path, Dataset]:
        """The data sets without pixels; one that cannot be read is left out."""
        found: dict[Path, Dataset] = {}
        for path in paths:
            try:
                found[path] = dcmread(self._spool.fetch(path), stop_before_pixels=True)
            except OutOfResources:
                raise
            except Exception as error:  # noqa: BLE001 - a report that names no predecessor is better than none
                log.warning("no predecessor", file=path.name, error=type(error).__name__, place=place(error))
        return found


def _built(analysis: Analysis, audiences: Sequence[Audience]) -> Answer:
    with stage("build"):
        results = tuple((one, building.build(analysis, one.options, earlier=one.earlier)) for one in audiences)
    return Answer(state=analysis.state, reason=analysis.reason, results=results, analysis=analysis)


def _uid(result: Result) -> SOPInstanceUID:
    return SOPInstanceUID(str(result.dataset.SOPInstanceUID))


def _delivery(task: Task, result: Result, path: Path, destination: str, now: datetime) -> Delivery:
    sop_instance_uid = _uid(result)
    return Delivery(
        delivery_id=str(uuid.uuid5(NAMESPACE, f"{task.task_id}|{sop_instance_uid}|{destination}")),
        task_id=task.task_id,
        kind=result.kind,
        fallback=result.fallback,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=str(result.dataset.SOPClassUID),
        path=path,
        destination=destination,
        state=DeliveryState.STANDBY if result.standby else DeliveryState.PENDING,
        attempts=0,
        next_attempt_at=now,
        last_error=None,
    )


def register_explain(app: Celery, worker: Worker) -> None:
    """Make `worker` answer the messages of "dicom_node.explain"."""
    observed.know()
    broker.register(app, broker.EXPLAIN, worker.run)
