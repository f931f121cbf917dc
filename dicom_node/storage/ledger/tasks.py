"""Ledger, working side: study revisions and their tasks, held by leases.

A task is worked on by whoever holds its lease; the lease is granted by one conditional UPDATE, so two
workers that got the same message cannot both have it. Losing a message costs time, never work.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, bindparam, delete, insert, or_, select, update

from dicom_node.errors import Reason
from dicom_node.nouns import Delivery, PassedBy, SOPInstanceUID, Study, StudyInstanceUID, StudyState, Task, TaskState
from dicom_node.storage.ledger.deliveries import insert_deliveries
from dicom_node.storage.ledger.receiving import as_instance
from dicom_node.storage.ledger.schema import closing, instances, studies, tasks
from dicom_node.storage.ledger.store import Store, insert_missing, noun_of, row_of

_UNFINISHED = (TaskState.PENDING, TaskState.LEASED)


class Tasks(Store):
    """What the dispatcher and the workers write."""

    def mark_ready(
        self,
        study: Study,
        tasks_: Sequence[Task],
        now: datetime,
        *,
        state: StudyState = StudyState.READY,
        reason: str | None = None,
    ) -> bool:
        """Close a revision: its row, its instances and its tasks, in one transaction.

        Instances that came in after `study` was read stay out of it and make the next revision.

        Args:
            study: the revision with exactly the instances that were looked at.
            tasks_: what is to be done; may be empty with state IGNORED.
            now: when the revision became ready.
            state: READY, or IGNORED when there is nothing to do.
            reason: why it is ignored.

        Returns:
            False when the revision exists already; then nothing changes.
        """
        with self._write() as connection:
            revision = {
                "study_instance_uid": study.study_instance_uid,
                "revision": study.revision,
                "state": state,
                "reason": reason,
                "ready_at": now,
                "finished_at": None if tasks_ else now,
            }
            if not insert_missing(connection, studies, revision):
                return False
            connection.execute(delete(closing).where(closing.c.study_instance_uid == study.study_instance_uid))
            connection.execute(
                update(instances)
                .where(instances.c.sop_instance_uid == bindparam("uid"), instances.c.revision.is_(None))
                .values(revision=study.revision),
                [{"uid": instance.sop_instance_uid} for instance in study.instances],
            )
            for task in tasks_:
                connection.execute(insert(tasks).values(_row(task)))
            return True

    def study(self, study_instance_uid: str, revision: int) -> Study:
        """The instances of one revision in order of arrival; of the coming one: those of no revision yet."""
        with self._read() as connection:
            known = connection.execute(
                select(studies.c.revision).where(_of(studies, study_instance_uid, revision))
            ).scalar_one_or_none()
            rows = connection.execute(
                select(instances)
                .where(
                    instances.c.study_instance_uid == study_instance_uid,
                    instances.c.revision.is_(None) if known is None else instances.c.revision == revision,
                )
                .order_by(instances.c.received_at, instances.c.sop_instance_uid)
            ).mappings()
            found = tuple(as_instance(row) for row in rows)
        return Study(study_instance_uid=StudyInstanceUID(study_instance_uid), revision=revision, instances=found)

    def task(self, task_id: str) -> Task | None:
        """One task as it is to be worked on, or None."""
        with self._read() as connection:
            return _find(connection, task_id)

    def tasks(self, study_instance_uid: str) -> list[Task]:
        """All tasks of a study, by revision and route."""
        with self._read() as connection:
            rows = connection.execute(
                select(tasks)
                .where(tasks.c.study_instance_uid == study_instance_uid)
                .order_by(tasks.c.revision, tasks.c.route)
            ).mappings()
            return [_task(row) for row in rows]

    def pending_tasks(self, now: datetime, older_than: timedelta | None, limit: int = 1000) -> list[Task]:
        """Pending tasks to submit, oldest first.

        Args:
            now: the time.
            older_than: those never submitted, and those submitted so long ago and still not leased; None:
                only those never submitted.
            limit: most tasks at a time.
        """
        never = tasks.c.submitted_at.is_(None)
        wanted = never if older_than is None else or_(never, tasks.c.submitted_at <= now - older_than)
        with self._read() as connection:
            rows = connection.execute(
                select(tasks)
                .where(tasks.c.state == TaskState.PENDING, wanted)
                .order_by(tasks.c.created_at, tasks.c.task_id)
                .limit(limit)
            ).mappings()
            return [_task(row) for row in rows]

    def task_submitted(self, task_id: str, now: datetime) -> None:
        """Record that the broker took a message for this task."""
        with self._write() as connection:
            connection.execute(update(tasks).where(tasks.c.task_id == task_id).values(submitted_at=now))

    def lease(self, task_id: str, owner: str, now: datetime, seconds: float) -> Task | None:
        """Take a pending task for `seconds`; counts one attempt.

        Returns:
            the task, or None when it is unknown, finished, or held by anybody (also by this owner).
        """
        with self._write() as connection:
            taken = connection.execute(
                update(tasks)
                .where(tasks.c.task_id == task_id, tasks.c.state == TaskState.PENDING)
                .values(
                    state=TaskState.LEASED,
                    owner=owner,
                    leased_at=now,
                    lease_until=now + timedelta(seconds=seconds),
                    done=0.0,
                    attempts=tasks.c.attempts + 1,
                )
            ).rowcount
            task = _find(connection, task_id) if taken else None
            if task is not None:
                connection.execute(
                    update(studies)
                    .where(_of(studies, task.study_instance_uid, task.revision))
                    .values(state=StudyState.EXPLAINING)
                )
            return task

    def renew_lease(self, task_id: str, owner: str, now: datetime, seconds: float, done: float | None = None) -> bool:
        """Extend a held lease; False when it is lost (the worker must then drop its work).

        Args:
            task_id: of the lease.
            owner: of the lease.
            now: the time.
            seconds: from now on.
            done: part of the analysis that is done, 0 to 1; None leaves what was said.
        """
        told = {} if done is None else {"done": done}
        return self._change_held(task_id, owner, lease_until=now + timedelta(seconds=seconds), **told)

    def expire_lease(self, task_id: str, owner: str, now: datetime) -> bool:
        """End one's own lease now without giving the attempt back: the reconciler decides what follows."""
        return self._change_held(task_id, owner, lease_until=now)

    def release(self, task_id: str, owner: str, now: datetime) -> bool:
        """Give a held task back untouched; the attempt does not count.

        For an orderly end and for want of resources: it is submitted again after the usual wait.
        """
        return self._change_held(
            task_id,
            owner,
            state=TaskState.PENDING,
            owner=None,
            lease_until=None,
            done=None,
            submitted_at=now,
            attempts=tasks.c.attempts - 1,
        )

    def _change_held(self, task_id: str, holder: str, /, **values: Any) -> bool:
        with self._write() as connection:
            changed = connection.execute(update(tasks).where(_held(task_id, holder)).values(**values))
            return changed.rowcount == 1

    def expired_leases(self, now: datetime) -> list[Task]:
        """Leased tasks whose lease has run out: the worker died or hangs."""
        with self._read() as connection:
            rows = connection.execute(
                select(tasks).where(tasks.c.state == TaskState.LEASED, tasks.c.lease_until <= now)
            ).mappings()
            return [_task(row) for row in rows]

    def reclaim(self, task_id: str, now: datetime, give_up: str | None = None) -> bool:
        """Return a task with an expired lease to pending.

        Args:
            task_id: the task.
            now: a lease renewed in the meantime wins over the caller's older look.
            give_up: when set, the next worker reports this reason instead of explaining; attempts begin
                anew for the report.
        """
        values: dict[str, Any] = {
            "state": TaskState.PENDING,
            "owner": None,
            "lease_until": None,
            "done": None,
            "submitted_at": None,
        }
        if give_up is not None:
            values |= {"given_up": give_up, "attempts": 0}
        with self._write() as connection:
            changed = connection.execute(
                update(tasks)
                .where(
                    tasks.c.task_id == task_id,
                    tasks.c.state == TaskState.LEASED,
                    tasks.c.lease_until <= now,
                )
                .values(values)
            )
            return changed.rowcount == 1

    def fail(self, task_id: str, reason: str, now: datetime) -> bool:
        """End an unfinished task as failed without any result: the last resort, visible and replayable."""
        with self._write() as connection:
            return (
                _finish(
                    connection,
                    and_(tasks.c.task_id == task_id, tasks.c.state.in_(_UNFINISHED)),
                    StudyState.FAILED,
                    reason,
                    now,
                )
                is not None
            )

    def complete(
        self,
        task_id: str,
        owner: str,
        *,
        deliveries: Sequence[Delivery],
        state: StudyState,
        reason: str | None,
        now: datetime,
    ) -> bool:
        """Finish a held task: outcome, deliveries and study state in one transaction.

        The files that the deliveries name must be durable already. `state` FAILED makes the task failed
        (replayable), everything else done. A study of several tasks is finished with its last one: failed
        when any failed, explained when any explained, else ignored.

        Returns:
            False when `owner` does not hold the task (finished, or leased by another): nothing changes.
        """
        with self._write() as connection:
            task = _finish(connection, _held(task_id, owner), state, reason, now)
            if task is None:
                return False
            insert_deliveries(connection, deliveries, now)
            return True


def _held(task_id: str, owner: str) -> ColumnElement[bool]:
    return and_(tasks.c.task_id == task_id, tasks.c.state == TaskState.LEASED, tasks.c.owner == owner)


def _finish(
    connection: Connection,
    condition: ColumnElement[bool],
    outcome: StudyState,
    reason: str | None,
    now: datetime,
) -> Task | None:
    row = connection.execute(select(tasks).where(condition)).mappings().one_or_none()
    if row is None:
        return None
    # The study's row is locked first: two tasks of one study that finish together see each other.
    connection.execute(
        select(studies.c.state).where(_of(studies, row["study_instance_uid"], row["revision"])).with_for_update()
    )
    changed = connection.execute(
        update(tasks)
        .where(condition)
        .values(
            state=TaskState.FAILED if outcome is StudyState.FAILED else TaskState.DONE,
            outcome=outcome,
            outcome_reason=reason,
            owner=None,
            lease_until=None,
            done=None,
            finished_at=now,
        )
    )
    if changed.rowcount != 1:
        return None
    _settle_study(connection, row["study_instance_uid"], row["revision"], now)
    return _task(row)


def _settle_study(connection: Connection, study_instance_uid: str, revision: int, now: datetime) -> None:
    rows = connection.execute(
        select(tasks.c.state, tasks.c.outcome, tasks.c.outcome_reason)
        .where(_of(tasks, study_instance_uid, revision))
        .order_by(tasks.c.route)
    ).all()
    if any(row.state in _UNFINISHED for row in rows):
        return
    reasons = {row.outcome: row.outcome_reason for row in reversed(rows)}
    order = (StudyState.FAILED, StudyState.EXPLAINED, StudyState.IGNORED)
    state = next(state for state in order if state in reasons)
    connection.execute(
        update(studies)
        .where(_of(studies, study_instance_uid, revision))
        .values(state=state, reason=reasons[state], finished_at=now)
    )


def _of(table: Any, study_instance_uid: str, revision: int) -> ColumnElement[bool]:
    return and_(table.c.study_instance_uid == study_instance_uid, table.c.revision == revision)


def _find(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute(select(tasks).where(tasks.c.task_id == task_id)).mappings().one_or_none()
    return None if row is None else _task(row)


def _row(task: Task) -> dict[str, Any]:
    passed_by = json.dumps([[one.sop_instance_uid, one.reason, one.code] for one in task.passed_by])
    lists = {name: json.dumps(list(getattr(task, name))) for name in ("destinations", "results", "selected")}
    return row_of(task, tasks, passed_by=passed_by, **lists)


def _task(row: RowMapping) -> Task:
    """One row as the noun. A task that was given up keeps its images and has the reason to report."""
    return noun_of(
        Task,
        row,
        destinations=tuple(json.loads(row["destinations"])),
        results=tuple(json.loads(row["results"])),
        passed_by=tuple(
            PassedBy(sop_instance_uid=SOPInstanceUID(uid), reason=reason, code=Reason(code))
            for uid, reason, code in json.loads(row["passed_by"])
        ),
        selected=tuple(SOPInstanceUID(uid) for uid in json.loads(row["selected"])),
        reason=row["given_up"] or row["reason"],
        state=TaskState(row["state"]),
    )
