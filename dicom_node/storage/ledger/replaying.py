"""Ledger, trying again: what failed, what is to be done anew, and what no rule has taken."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, update

from dicom_node.errors import NotKept
from dicom_node.nouns import DeliveryState, StudyState, TaskState
from dicom_node.storage.ledger.schema import deliveries, instances, studies, tasks, unreachable
from dicom_node.storage.ledger.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How many tasks and deliveries are pending again, and how many studies the rules are asked about again."""

    tasks: int
    deliveries: int
    studies: int = 0

    def __str__(self) -> str:
        again = f"{self.tasks} task(s) and {self.deliveries} delivery(ies) will be tried again"
        return again + (f"; the rules are asked again about {self.studies} study(ies)" if self.studies else "")

    def __bool__(self) -> bool:
        return bool(self.tasks or self.deliveries or self.studies)


class Replaying(Store):
    """What `rerun` and the dashboard's buttons do."""

    def replay_failed(self, study_instance_uid: str | None, now: datetime) -> Replayed:
        """Dead deliveries and failed tasks, of one study or all, are pending again with fresh attempts.

        Downgraded deliveries are settled and stay so.
        """
        return self._replay(study_instance_uid, now, (TaskState.FAILED,), (DeliveryState.DEAD,))

    def rerun_study(self, study_instance_uid: str, now: datetime) -> Replayed:
        """Everything of a study that is finished is done again, and its results are sent again.

        That holds for downgraded ones too, for the destination may have learnt the SOP Class; what stood in for
        them is on standby again. Results that retention has removed are made anew. Of what no rule has taken the
        rules are asked again.

        Raises:
            NotKept: retention has removed the images.
        """
        last = self._open_again(study_instance_uid)
        replayed = self._replay(
            study_instance_uid,
            now,
            (TaskState.FAILED, TaskState.DONE),
            (DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.DOWNGRADED),
            anew=True,
            last=last,
        )
        return replace(replayed, studies=int(last is not None))

    def replay_ignored(self) -> Replayed:
        """Every study that no rule has taken, and whose images are there, waits to be routed again."""
        query = select(studies.c.study_instance_uid).distinct().where(studies.c.state == StudyState.IGNORED)
        with self._read() as connection:
            uids = connection.execute(query).scalars().all()
        return Replayed(tasks=0, deliveries=0, studies=sum(self._open_again(uid) is not None for uid in uids))

    def _open_again(self, study_instance_uid: str) -> int | None:
        """Have the images that no rule has taken since the last revision of which one did make the next revision.

        What was said of them stays said: a revision with a task keeps its row. One without goes.

        Returns:
            that last revision, 0 where there is none; None where no image is open again.
        """
        this = studies.c.study_instance_uid == study_instance_uid
        of_study = instances.c.study_instance_uid == study_instance_uid
        with self._write() as connection:
            rows = connection.execute(select(studies).where(this).with_for_update()).mappings().all()
            if connection.execute(select(_images_removed(study_instance_uid))).scalar_one():
                return None
            last = max((row["revision"] for row in rows if row["state"] != StudyState.IGNORED), default=0)
            passed_by = update(instances).where(of_study, instances.c.revision > last)
            if not connection.execute(passed_by.values(revision=None)).rowcount:
                return None
            told = select(func.max(tasks.c.revision)).where(tasks.c.study_instance_uid == study_instance_uid)
            answered = connection.execute(told).scalar_one() or 0
            connection.execute(delete(studies).where(this, studies.c.revision > max(last, answered)))
            return last

    def resend_study(self, study_instance_uid: str, now: datetime) -> Replayed:
        """The results of a study that are there are sent again as they are; nothing is explained again."""
        states = (DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.COMMITTED)
        return self._replay(study_instance_uid, now, (), states)

    def _replay(
        self,
        study_instance_uid: str | None,
        now: datetime,
        task_states: tuple[TaskState, ...],
        delivery_states: tuple[DeliveryState, ...],
        *,
        anew: bool = False,
        last: int | None = None,
    ) -> Replayed:
        chosen = [tasks.c.state.in_(task_states), ~_images_removed(tasks.c.study_instance_uid)]
        of_study: list[ColumnElement[bool]] = []
        locked: ColumnElement[bool] = exists().where(
            tasks.c.study_instance_uid == studies.c.study_instance_uid, chosen[0]
        )
        if study_instance_uid is not None:
            its_tasks = [tasks.c.study_instance_uid == study_instance_uid]
            if last is not None:
                its_tasks.append(tasks.c.revision <= last)
            chosen += its_tasks
            of_study.append(deliveries.c.task_id.in_(select(tasks.c.task_id).where(*its_tasks)))
            locked = studies.c.study_instance_uid == study_instance_uid
        with self._write() as connection:
            # Retention locks the same rows: one of the two sees what the other has done.
            connection.execute(select(studies.c.state).where(locked).with_for_update()).all()
            if anew and connection.execute(select(_images_removed(study_instance_uid))).scalar_one():
                raise NotKept("retention has removed the images of this study: send them again")
            rows = connection.execute(select(tasks).where(*chosen).with_for_update()).mappings().all()
            for uid, revision in {(row["study_instance_uid"], row["revision"]) for row in rows}:
                connection.execute(
                    update(studies)
                    .where(studies.c.study_instance_uid == uid, studies.c.revision == revision)
                    .values(state=StudyState.READY, reason=None, finished_at=None)
                )
            emptied = [row["task_id"] for row in rows if row["emptied_at"] is not None]
            connection.execute(delete(deliveries).where(deliveries.c.task_id.in_(emptied)))
            connection.execute(update(tasks).where(*chosen).values(_fresh_task()))
            if anew:
                connection.execute(
                    update(deliveries)
                    .where(*of_study, deliveries.c.reserve)
                    .values(_fresh_delivery(DeliveryState.STANDBY, now))
                )
            connection.execute(delete(unreachable))  # whoever asks for this has seen to the destinations
            gone = select(tasks.c.task_id).where(tasks.c.emptied_at.is_not(None))
            replayed_deliveries = connection.execute(
                update(deliveries)
                .where(*of_study, deliveries.c.state.in_(delivery_states), deliveries.c.task_id.not_in(gone))
                .values(_fresh_delivery(DeliveryState.PENDING, now))
            ).rowcount
        return Replayed(tasks=len(rows), deliveries=replayed_deliveries)


def _images_removed(study: Any) -> ColumnElement[bool]:
    """Whether retention has removed an image of a study."""
    return exists().where(instances.c.study_instance_uid == study, instances.c.removed_at.is_not(None))


def _fresh_task() -> dict[str, Any]:
    cleared = ("given_up", "submitted_at", "leased_at", "finished_at", "outcome", "outcome_reason", "emptied_at")
    return dict.fromkeys(cleared) | {"state": TaskState.PENDING, "attempts": 0}


def _fresh_delivery(state: DeliveryState, now: datetime) -> dict[str, Any]:
    cleared = ("submitted_at", "finished_at", "stand_in")
    return dict.fromkeys(cleared) | {"state": state, "attempts": 0, "next_attempt_at": now}
