"""Ledger, for retention: what nobody waits for any more, and the rows that go with it.

Images and reports go with their study, other results with their task, rows last of all. Whether something may go is
asked in the transaction that takes it away: a study that is replayed, sent again or added to meanwhile stays whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from dicom_node.nouns import DeliveryState, StoreSize, TaskState
from dicom_node.storage.ledger.commitments import settled_for_good
from dicom_node.storage.ledger.finding import search_terms
from dicom_node.storage.ledger.observations import observations, shadow_work
from dicom_node.storage.ledger.schema import (
    associations,
    deliveries,
    instances,
    quarantine,
    stores,
    studies,
    tasks,
    touches,
)
from dicom_node.storage.ledger.store import Store
from dicom_node.storage.ledger.verdicts import verdicts

_BATCH = 100
Aged = tuple[str, datetime]
"""Who, and since when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutoff:
    """What was over by then may go.

    Attributes:
        settled: of what was answered in full.
        failed: of dead deliveries, and of tasks that failed without any report; None keeps them until they are
            replayed.
    """

    settled: datetime
    failed: datetime | None


class Keeping(Store):
    """What retention reads and writes."""

    def tasks_to_empty(self, cutoff: Cutoff, limit: int, after: datetime | None = None) -> list[Aged]:
        """Tasks whose results nobody waits for, and when each was finished, the oldest first.

        Args:
            cutoff: what was over by then.
            limit: most of them.
            after: only tasks that were finished later.
        """
        query = select(tasks.c.task_id, tasks.c.finished_at).where(_task_is_over(cutoff))
        if after is not None:
            query = query.where(tasks.c.finished_at > after)
        with self._read() as connection:
            return [(row[0], row[1]) for row in connection.execute(query.order_by(tasks.c.finished_at).limit(limit))]

    @contextmanager
    def emptying(self, task_id: str, cutoff: Cutoff, now: datetime, kept: Sequence[str]) -> Iterator[list[Path] | None]:
        """Record that a task's results are removed, while the caller removes them.

        Args:
            task_id: of `tasks_to_empty`.
            cutoff: as there.
            now: the time.
            kept: kinds of result that stay.

        Yields:
            the files to remove; None where they may no longer be removed.
        """
        with self._write() as connection:
            taken = connection.execute(
                update(tasks).where(tasks.c.task_id == task_id, _task_is_over(cutoff)).values(emptied_at=now)
            )
            if taken.rowcount != 1:
                yield None
                return
            paths = select(deliveries.c.path).where(deliveries.c.task_id == task_id, deliveries.c.kind.not_in(kept))
            yield sorted({Path(path) for path in connection.execute(paths).scalars()})

    def studies_to_remove(self, cutoff: Cutoff, limit: int, after: datetime | None = None) -> list[Aged]:
        """Studies whose images nobody needs, and when the last image of each came, the oldest first.

        Args:
            cutoff: what was over by then.
            limit: most of them.
            after: only studies whose last image came later.
        """
        last = func.max(instances.c.received_at).label("last")
        query = (
            select(instances.c.study_instance_uid, last)
            .where(
                instances.c.removed_at.is_(None),
                instances.c.received_at <= cutoff.settled,  # the index; _study_is_over asks for all of them
                _study_is_over(instances.c.study_instance_uid, cutoff),
            )
            .group_by(instances.c.study_instance_uid)
            .order_by(last)
            .limit(limit)
        )
        if after is not None:
            query = query.having(last > after)
        with self._read() as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

    @contextmanager
    def removing(self, study: str, cutoff: Cutoff, now: datetime) -> Iterator[tuple[list[Path], list[str]] | None]:
        """Record that the images and all results of a study are removed, while the caller removes them.

        Yields:
            the files of its images and results, and the identifiers of its tasks; None where they may no longer be
            removed.
        """
        of_study = instances.c.study_instance_uid == study
        with self._write() as connection:
            # A replay locks these rows, too: one of the two sees what the other has done.
            connection.execute(select(studies).where(studies.c.study_instance_uid == study).with_for_update()).all()
            kept = and_(of_study, instances.c.removed_at.is_(None))
            paths = connection.execute(select(instances.c.path).where(kept, _study_is_over(study, cutoff)))
            found = [Path(path) for path in paths.scalars()]
            if not found:
                yield None
                return
            connection.execute(update(instances).where(kept).values(removed_at=now))
            made = tasks.c.study_instance_uid == study
            connection.execute(update(tasks).where(made, tasks.c.emptied_at.is_(None)).values(emptied_at=now))
            names = list(connection.execute(select(tasks.c.task_id).where(made)).scalars())
            results = select(deliveries.c.path).distinct().where(deliveries.c.task_id.in_(names))
            yield found + [Path(path) for path in connection.execute(results).scalars()], names

    def forget(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete the rows of studies whose files are gone, and of associations, that were over before a time.

        Returns:
            how many studies.
        """
        gone = 0
        over = and_(studies.c.finished_at <= before, ~_has(_kept_of(studies.c.study_instance_uid)))
        newer = studies.alias()
        of_same = newer.c.study_instance_uid == studies.c.study_instance_uid
        all_over = ~_has(and_(of_same, or_(newer.c.finished_at.is_(None), newer.c.finished_at > before)))
        query = select(studies.c.study_instance_uid).where(over, all_over)
        if dry_run:
            with self._read() as connection:
                return len(set(connection.execute(query).scalars()))
        while True:
            with self._write() as connection:
                uids = sorted(set(connection.execute(query.limit(_BATCH)).scalars()))
                _delete_studies(connection, uids)
            gone += len(uids)
            if not uids:
                break
        ended = associations.c.closed_at <= before
        with self._write() as connection:
            of_ended = touches.c.association_id.in_(select(associations.c.association_id).where(ended))
            connection.execute(delete(touches).where(of_ended))
            connection.execute(delete(associations).where(ended))
        return gone

    def named_files(self, study: str) -> Mapping[str, bool]:
        """The names of the files of a study that rows name, and whether retention has removed them.

        Names, not paths: a spool that was moved has other paths than its rows say, and the same names.
        """
        of_study = instances.c.study_instance_uid == study
        with self._read() as connection:
            rows = connection.execute(select(instances.c.path, instances.c.removed_at).where(of_study))
            return {Path(row[0]).name: row[1] is not None for row in rows}

    def known_tasks(self, task_ids: Sequence[str]) -> set[str]:
        """Those of these identifiers that are tasks."""
        query = select(tasks.c.task_id).where(tasks.c.task_id.in_(task_ids))
        with self._read() as connection:
            return set(connection.execute(query).scalars())

    def unquarantine(self, path: Path) -> None:
        """Delete the row of a file in quarantine."""
        with self._write() as connection:
            connection.execute(delete(quarantine).where(quarantine.c.path == str(path)))

    def keep_sizes(self, sizes: Sequence[StoreSize]) -> None:
        """Record what the stores hold, in place of what they held."""
        with self._write() as connection:
            connection.execute(delete(stores))
            for one in sizes:
                row = {"name": one.name, "files": one.files, "bytes": one.bytes, "oldest": one.oldest}
                connection.execute(stores.insert().values(row | {"measured_at": one.measured_at}))

    def sizes(self) -> list[StoreSize]:
        """What the stores held when retention measured them last; empty before."""
        with self._read() as connection:
            return [StoreSize(**row) for row in connection.execute(select(stores)).mappings()]


def _has(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(condition)


def _kept_of(study: Any) -> ColumnElement[bool]:
    others = instances.alias()
    return and_(others.c.study_instance_uid == study, others.c.removed_at.is_(None))


def _holds_task(table: Any, cutoff: Cutoff) -> ColumnElement[bool]:
    """A task that is not finished, or just so; or that failed, and not even a report was made."""
    unfinished = table.c.state.in_((TaskState.PENDING, TaskState.LEASED))
    told = deliveries.alias()
    silent = and_(table.c.state == TaskState.FAILED, ~_has(told.c.task_id == table.c.task_id))
    failed = _holds_failed(silent, table.c.finished_at, cutoff)
    return or_(unfinished, failed, table.c.finished_at > cutoff.settled)


def _holds_delivery(cutoff: Cutoff) -> ColumnElement[bool]:
    """A delivery that is not settled for good, or just so; or that is dead, for it can be replayed."""
    is_dead = deliveries.c.state == DeliveryState.DEAD
    dead = _holds_failed(is_dead, deliveries.c.finished_at, cutoff)
    return or_(and_(~settled_for_good(), ~is_dead), dead, deliveries.c.finished_at > cutoff.settled)


def _holds_failed(failed: ColumnElement[bool], finished_at: Any, cutoff: Cutoff) -> ColumnElement[bool]:
    return failed if cutoff.failed is None else and_(failed, finished_at > cutoff.failed)


def _task_is_over(cutoff: Cutoff) -> ColumnElement[bool]:
    return and_(
        tasks.c.emptied_at.is_(None),
        tasks.c.finished_at <= cutoff.settled,
        ~_holds_task(tasks, cutoff),
        ~_has(and_(deliveries.c.task_id == tasks.c.task_id, _holds_delivery(cutoff))),
    )


def _study_is_over(study: Any, cutoff: Cutoff) -> ColumnElement[bool]:
    one, revision, task = instances.alias(), studies.alias(), tasks.alias()
    new = and_(
        one.c.study_instance_uid == study,
        one.c.removed_at.is_(None),
        or_(one.c.revision.is_(None), one.c.received_at > cutoff.settled),
    )
    open_ = and_(
        revision.c.study_instance_uid == study,
        or_(revision.c.finished_at.is_(None), revision.c.finished_at > cutoff.settled),
    )
    worked_on = and_(task.c.study_instance_uid == study, _holds_task(task, cutoff))
    of_study = and_(task.c.study_instance_uid == study, deliveries.c.task_id == task.c.task_id)
    owed = and_(of_study, _holds_delivery(cutoff))
    return and_(*(~_has(condition) for condition in (new, open_, worked_on, owed)))


def _delete_studies(connection: Connection, uids: Sequence[str]) -> None:
    made = select(tasks.c.task_id).where(tasks.c.study_instance_uid.in_(uids))
    connection.execute(delete(deliveries).where(deliveries.c.task_id.in_(made)))
    for table in (tasks, studies, verdicts, observations, shadow_work, search_terms):
        connection.execute(delete(table).where(table.c.study_instance_uid.in_(uids)))
    of_studies = instances.c.study_instance_uid.in_(uids)
    connection.execute(delete(instances).where(of_studies, instances.c.removed_at.is_not(None)))  # one may just come
