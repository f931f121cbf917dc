"""Ledger, for people: the story of one study. One question of `dicom-node status STUDY` and of the page of a study.

Every query is by a key or an index, but for the files in quarantine, of which `retention.quarantine_mb` lets few be.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, or_, select, union

from dicom_node.nouns import DeliveryState, StudyInstanceUID, StudyState, TaskState
from dicom_node.storage.ledger.commitments import why_not
from dicom_node.storage.ledger.observations import observations
from dicom_node.storage.ledger.reports import Reports, Timeline
from dicom_node.storage.ledger.schema import (
    associations,
    commitments,
    deliveries,
    instances,
    quarantine,
    studies,
    tasks,
    unreachable,
)
from dicom_node.storage.ledger.store import noun_of
from dicom_node.storage.ledger.story import (
    Decided,
    DeliveryStory,
    Fate,
    ImageStory,
    Quarantined,
    RevisionStory,
    Story,
    TaskStory,
)
from dicom_node.storage.ledger.verdicts import Verdicts


class Stories(Reports, Verdicts):
    """What `dicom-node status STUDY` and the page of a study read."""

    def find_studies(self, part: str, limit: int = 10) -> list[StudyInstanceUID]:
        """Studies whose UID is this, else begins or ends with it, in order of their UIDs; at most `limit`.

        A whole UID is looked up; for a part of one the index of UIDs is read from its begin to its end.
        """
        exact = _named(lambda column: column == part)
        partly = _named(
            lambda column: or_(column.startswith(part, autoescape=True), column.endswith(part, autoescape=True))
        )
        with self._read() as connection:
            for query in (exact, partly):
                chosen = query.subquery()
                found = connection.execute(select(chosen).order_by(chosen.c.uid).limit(limit)).scalars().all()
                if found:
                    return [StudyInstanceUID(uid) for uid in found]
        return []

    def recent_studies(self, limit: int) -> list[StudyInstanceUID]:
        """The UIDs of the studies that were complete last, the newest first; of several revisions one."""
        query = select(studies.c.study_instance_uid).order_by(studies.c.ready_at.desc()).limit(limit)
        with self._read() as connection:
            return [StudyInstanceUID(uid) for uid in dict.fromkeys(connection.execute(query).scalars())]

    def story(self, study_instance_uid: str) -> Story | None:
        """The whole story of one study, or None where nothing is known of it."""
        with self._read() as connection:
            revisions = _rows(connection, studies, study_instance_uid)
            images = _rows(connection, instances, study_instance_uid)
            aside = _rows(connection, quarantine, study_instance_uid)
            made = _rows(connection, tasks, study_instance_uid)
            sent = _deliveries(connection, [row["task_id"] for row in made])
            seen = _decisions(connection, [row["task_id"] for row in made])
            peers = _peers(connection, {row["association_id"] for row in images})
            missed = {row.destination: row.reason for row in connection.execute(select(unreachable))}
        if not (revisions or images or aside):
            return None
        numbers = {row["revision"] for row in revisions}
        told = [
            self._revision(row, images=images, made=made, sent=sent, seen=seen, peers=peers)
            for row in [*_coming(images, numbers), *sorted(map(dict, revisions), key=lambda one: -one["revision"])]
        ]
        waiting = {one["destination"] for one in sent if one["state"] == DeliveryState.PENDING}
        return Story(
            study_instance_uid=StudyInstanceUID(study_instance_uid),
            revisions=tuple(told),
            quarantined=tuple(
                noun_of(Quarantined, row) for row in sorted(aside, key=lambda one: one["quarantined_at"])
            ),
            verdicts=tuple(self.verdicts(study_instance_uid)),
            away={name: reason for name, reason in sorted(missed.items()) if name in waiting},
        )

    def _revision(
        self,
        row: Mapping[str, Any],
        *,
        images: Sequence[RowMapping],
        made: Sequence[RowMapping],
        sent: Sequence[RowMapping],
        seen: Sequence[RowMapping],
        peers: Mapping[str, str],
    ) -> RevisionStory:
        state, number = StudyState(row["state"]), row["revision"]
        receiving = state is StudyState.RECEIVING
        of_it = [one for one in images if one["revision"] == (None if receiving else number)]
        tasks_ = sorted((one for one in made if one["revision"] == number), key=lambda one: str(one["route"]))
        return RevisionStory(
            revision=number,
            state=state,
            reason=row["reason"],
            timeline=_arrivals(of_it) if receiving else self.timeline(row["study_instance_uid"], number),
            images=tuple(
                _image(one, state, tasks_, seen, peers)
                for one in sorted(of_it, key=lambda one: (one["received_at"], str(one["sop_instance_uid"])))
            ),
            tasks=tuple(_task(one, [other for other in sent if other["task_id"] == one["task_id"]]) for one in tasks_),
        )


def _named(condition: Any) -> Select[Any]:
    columns = [table.c.study_instance_uid for table in (studies, instances, quarantine)]
    return union(*(select(column.label("uid")).where(condition(column)) for column in columns))  # type: ignore[return-value]


def _rows(connection: Connection, table: Any, study_instance_uid: str) -> Sequence[RowMapping]:
    query = select(table).where(table.c.study_instance_uid == study_instance_uid)
    return connection.execute(query).mappings().all()


def _deliveries(connection: Connection, task_ids: Sequence[str]) -> Sequence[RowMapping]:
    query = (
        select(deliveries, commitments.c.requested_at.label("asked_at"))
        .outerjoin(commitments, commitments.c.transaction_uid == deliveries.c.transaction_uid)
        .where(deliveries.c.task_id.in_(task_ids))
        .order_by(deliveries.c.destination, deliveries.c.kind, deliveries.c.created_at, deliveries.c.delivery_id)
    )
    return connection.execute(query).mappings().all()


def _decisions(connection: Connection, task_ids: Sequence[str]) -> Sequence[RowMapping]:
    """Without the heatmaps, which nobody asks for here."""
    wanted = [observations.c[name] for name in ("sop_instance_uid", *Decided.__slots__)]
    query = select(*wanted).where(observations.c.task_id.in_(task_ids)).order_by(observations.c.observed_at)
    return connection.execute(query).mappings().all()


def _peers(connection: Connection, association_ids: set[str]) -> Mapping[str, str]:
    chosen = associations.c.association_id.in_(association_ids)
    rows = connection.execute(select(associations.c.association_id, associations.c.peer_address).where(chosen))
    return {row.association_id: row.peer_address for row in rows}


def _coming(images: Sequence[RowMapping], known: set[int]) -> list[dict[str, Any]]:
    """The revision that images of no revision yet will make, if there are any."""
    coming = [one for one in images if one["revision"] is None]
    if not coming:
        return []
    uid = coming[0]["study_instance_uid"]
    row = {"study_instance_uid": uid, "revision": max(known, default=0) + 1, "reason": None}
    return [row | {"state": StudyState.RECEIVING}]


def _arrivals(images: Sequence[RowMapping]) -> Timeline:
    times = [one["received_at"] for one in images]
    return Timeline(
        first_received=min(times), last_received=max(times),
        ready_at=None, leased_at=None, explained_at=None, delivered_at=None,
    )  # fmt: skip


def _image(
    row: RowMapping, state: StudyState, made: Sequence[RowMapping], seen: Sequence[RowMapping], peers: Mapping[str, str]
) -> ImageStory:
    uid, address = row["sop_instance_uid"], peers.get(row["association_id"])
    of_it = {one["task_id"] for one in made}
    said = [one for one in seen if one["sop_instance_uid"] == uid and one["task_id"] in of_it]
    fate, reason = _fate(uid, state, made, {one["task_id"] for one in said}, {one["task_id"] for one in seen})
    return noun_of(
        ImageStory,
        row,
        sender=row["calling_ae_title"] + (f"@{address}" if address else ""),
        removed=row["removed_at"] is not None,
        fate=fate,
        reason=reason,
        decisions=tuple(noun_of(Decided, one) for one in said),
    )


def _fate(  # noqa: PLR0911 - one line for each fate
    uid: str, state: StudyState, made: Sequence[RowMapping], said: set[str], recorded: set[str]
) -> tuple[Fate, str | None]:
    """What became of one image, by the tasks of its revision.

    What the model said is a by-product that may be missing; then the outcome of the task counts.
    """
    if state is StudyState.RECEIVING:
        return Fate.RECEIVED, None
    if said:
        return Fate.EXPLAINED, None
    taken = [one for one in made if uid in json.loads(one["selected"])]
    if not taken:
        passed = (other for one in made for other in json.loads(one["passed_by"]))
        reason = next((why for other, why, _ in passed if other == uid), None)
        return (Fate.NO_IMAGE, None) if reason is None else (Fate.PASSED_BY, reason)
    if any(one["state"] in (TaskState.PENDING, TaskState.LEASED) for one in taken):
        return Fate.WAITING, None
    if taken[0]["outcome"] != StudyState.EXPLAINED:
        return Fate.NOT_ANALYSED, taken[0]["outcome_reason"]
    if taken[0]["task_id"] not in recorded:
        return Fate.EXPLAINED, None
    return Fate.NOT_ANALYSED, "it could not be analysed: the report says why"


def _task(row: RowMapping, sent: Sequence[RowMapping]) -> TaskStory:
    return noun_of(
        TaskStory,
        row,
        images=len(json.loads(row["selected"])),
        destinations=tuple(json.loads(row["destinations"])),
        state=TaskState(row["state"]),
        reason=row["outcome_reason"] or row["given_up"] or row["reason"],
        outcome=None if row["outcome"] is None else StudyState(row["outcome"]),
        deliveries=tuple(_delivery(one) for one in sent),
    )


def _delivery(row: RowMapping) -> DeliveryStory:
    state = DeliveryState(row["state"])
    return noun_of(
        DeliveryStory,
        row,
        state=state,
        next_attempt_at=row["next_attempt_at"] if state is DeliveryState.PENDING else None,
        commitment=_commitment(row, state),
        commitment_asked_at=row["asked_at"],
    )


def _commitment(row: RowMapping, state: DeliveryState) -> str:
    if state is DeliveryState.COMMITTED:
        return "committed"
    if state is not DeliveryState.SENT or not row["commitment"]:
        return ""
    if row["transaction_uid"] is not None:
        return "asked"
    return "to be asked" if why_not(row["last_error"]) is None else "not committed"
