"""Ledger, receiving side: associations, instances, quarantine, and what assembly needs to know."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, and_, func, insert, or_, select, update

from dicom_node.nouns import (
    Association,
    Instance,
    StudyActivity,
    StudyInstanceUID,
)
from dicom_node.storage.ledger.schema import associations, closing, instances, quarantine, studies, touches
from dicom_node.storage.ledger.store import Store, insert_missing, noun_of, row_of

Added = Literal["added", "duplicate", "conflict"]
LONGEST = timedelta(days=1)
"""An association that was opened longer ago has ended: its listener may have died with its host."""
_AT_ONCE = 500
"""UIDs in one query."""


class Receiving(Store):
    """What the listener writes."""

    def open_association(self, association: Association) -> None:
        """Record an accepted association; a second call with the same id changes nothing."""
        with self._write() as connection:
            insert_missing(connection, associations, row_of(association, associations))

    def close_association(self, association_id: str, now: datetime) -> None:
        """Record the end of an association, however it ended; the first end counts."""
        with self._write() as connection:
            connection.execute(
                update(associations)
                .where(associations.c.association_id == association_id, associations.c.closed_at.is_(None))
                .values(closed_at=now)
            )

    def close_stale_associations(self, now: datetime, alive: Callable[[str], bool]) -> int:
        """End the open associations of listeners that have died. Call it before listening.

        Args:
            now: the time, aware.
            alive: whether a listener of that name lives, or may live on another host.

        Returns:
            how many there were.
        """
        still_open, listener = associations.c.closed_at.is_(None), associations.c.listener
        with self._write() as connection:
            names = connection.execute(select(listener).where(still_open).distinct()).scalars().all()
            dead = [name for name in names if name and not alive(name)]
            of_nobody = or_(
                listener.is_(None), listener == "", listener.in_(dead), associations.c.opened_at <= now - LONGEST
            )
            return connection.execute(update(associations).where(still_open, of_nobody).values(closed_at=now)).rowcount

    def add_instance(self, instance: Instance) -> Added:
        """Record a stored instance whose file is already durable.

        One that retention has removed is received anew: it belongs to no revision yet.

        Returns:
            "added"; "duplicate" when the same SOP Instance UID with the same sha256 is there already;
            "conflict" when it is there with other bytes (nothing changes: the first is kept).

        Raises:
            OutOfResources: nothing is recorded; the peer must not be told success.
        """
        with self._write() as connection:
            insert_missing(connection, touches, row_of(instance, touches))
            row = row_of(instance, instances)
            if insert_missing(connection, instances, row) or _take_the_place(connection, row):
                return "added"
            known = connection.execute(
                select(instances.c.sha256).where(instances.c.sop_instance_uid == instance.sop_instance_uid)
            ).scalar_one()
            return "duplicate" if known == instance.sha256 else "conflict"

    def find_instance(self, sop_instance_uid: str) -> Instance | None:
        """The stored instance, or None."""
        with self._read() as connection:
            row = (
                connection.execute(select(instances).where(instances.c.sop_instance_uid == sop_instance_uid))
                .mappings()
                .one_or_none()
            )
        return None if row is None else as_instance(row)

    def find_instances(self, sop_instance_uids: Sequence[str]) -> dict[str, Instance]:
        """Those of them that are stored, by their UID."""
        found: dict[str, Instance] = {}
        with self._read() as connection:
            for start in range(0, len(sop_instance_uids), _AT_ONCE):
                chosen = instances.c.sop_instance_uid.in_(sop_instance_uids[start : start + _AT_ONCE])
                rows = connection.execute(select(instances).where(chosen)).mappings()
                found |= {row["sop_instance_uid"]: as_instance(row) for row in rows}
        return found

    def add_quarantine(
        self, sop_instance_uid: str, study_instance_uid: str, path: Path, reason: str, now: datetime
    ) -> None:
        """Record a file that was set aside, once: same UID, other bytes, or not readable."""
        row = {
            "sop_instance_uid": sop_instance_uid,
            "study_instance_uid": study_instance_uid,
            "path": str(path),
            "reason": reason,
            "quarantined_at": now,
        }
        with self._write() as connection:
            known = connection.execute(select(quarantine.c.path).where(quarantine.c.path == str(path)).limit(1))
            if known.first() is None:
                connection.execute(insert(quarantine).values(row))

    def assembly_snapshot(self) -> list[StudyActivity]:
        """Every study that holds instances of no revision yet, oldest first."""
        waiting = instances.c.revision.is_(None)
        with self._read() as connection:
            rows = connection.execute(
                select(
                    instances.c.study_instance_uid,
                    func.min(instances.c.received_at).label("first"),
                    func.max(instances.c.received_at).label("last"),
                    func.count().label("images"),
                )
                .where(waiting)
                .group_by(instances.c.study_instance_uid)
                .order_by(func.min(instances.c.received_at))
            ).all()
            uids = select(instances.c.study_instance_uid).where(waiting)
            open_now = _open_associations(connection, uids)
            latest = _latest_revisions(connection, uids)
        return [
            StudyActivity(
                study_instance_uid=StudyInstanceUID(row.study_instance_uid),
                revision=latest.get(row.study_instance_uid, 0) + 1,
                first_received=row.first,
                last_received=row.last,
                open_associations=open_now.get(row.study_instance_uid, 0),
                new_instances=row.images,
            )
            for row in rows
        ]

    def begin_closing(self, study_instance_uid: str) -> int:
        """Record that the dispatcher begins to read a study's headers, which may be the end of it.

        Returns:
            how often it has begun since the study's last revision, this time included.
        """
        of_study = closing.c.study_instance_uid == study_instance_uid
        with self._write() as connection:
            insert_missing(connection, closing, {"study_instance_uid": study_instance_uid, "attempts": 0})
            connection.execute(update(closing).where(of_study).values(attempts=closing.c.attempts + 1))
            return int(connection.execute(select(closing.c.attempts).where(of_study)).scalar_one())


def _open_associations(connection: Connection, uids: Any) -> Mapping[str, int]:
    rows = connection.execute(
        select(touches.c.study_instance_uid, func.count())
        .join(associations, associations.c.association_id == touches.c.association_id)
        .where(associations.c.closed_at.is_(None), touches.c.study_instance_uid.in_(uids))
        .group_by(touches.c.study_instance_uid)
    )
    return {row[0]: row[1] for row in rows}


def _latest_revisions(connection: Connection, uids: Any) -> Mapping[str, int]:
    rows = connection.execute(
        select(studies.c.study_instance_uid, func.max(studies.c.revision))
        .where(studies.c.study_instance_uid.in_(uids))
        .group_by(studies.c.study_instance_uid)
    )
    return {row[0]: row[1] for row in rows}


def _take_the_place(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Begin the row of an instance anew that retention has removed; False where it has not."""
    removed = and_(instances.c.sop_instance_uid == row["sop_instance_uid"], instances.c.removed_at.is_not(None))
    anew = update(instances).where(removed).values({**row, "revision": None, "removed_at": None})
    return connection.execute(anew).rowcount == 1


def as_instance(row: RowMapping) -> Instance:
    """One row of `instances` as the noun."""
    return noun_of(Instance, row, path=Path(row["path"]), removed=row["removed_at"] is not None)
