"""What each model version said of each image, and which studies the challenger still has to see.

The rows name studies and images by their UIDs and hold numbers; nothing here says who the patient is.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    RowMapping,
    String,
    Table,
    Text,
    and_,
    not_,
    or_,
    select,
    update,
)

from dicom_node.nouns import StudyState, TaskState
from dicom_node.storage.ledger.schema import KEY, STATE, UID, UTCDateTime, instances, metadata, tasks
from dicom_node.storage.ledger.store import Store, insert_missing, noun_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REASON: Final = 200
_HEAD: Final = struct.Struct("<BBf")
_LEVELS: Final = 255

observations = Table(
    "observations",
    metadata,
    Column("task_id", KEY, primary_key=True),
    Column("sop_instance_uid", UID, primary_key=True),
    Column("digest", KEY, primary_key=True),
    Column("study_instance_uid", UID, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("role", STATE, nullable=False),
    Column("probability", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("positive", Boolean, nullable=False),
    Column("near_threshold", Boolean, nullable=False),
    Column("distance", Float),
    Column("far", Boolean),
    Column("statistics", Text, nullable=False),  # JSON: name -> number
    Column("heatmap", LargeBinary),
    Column("seconds", Float, nullable=False),
    Column("observed_at", UTCDateTime, nullable=False),
    Index("observations_by_model", "digest", "observed_at"),
)

shadow_work = Table(
    "shadow_work",
    metadata,
    Column("task_id", KEY, primary_key=True),
    Column("digest", KEY, primary_key=True),
    Column("study_instance_uid", UID, nullable=False),
    Column("state", STATE, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", String(_REASON)),
    Column("changed_at", UTCDateTime, nullable=False),
)

Role = Literal["champion", "challenger"]
ShadowState = Literal["running", "done", "failed"]
_ENDED: Final = ("done", "failed")
_UNFINISHED: Final = (TaskState.PENDING, TaskState.LEASED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one model version said of one image.

    Attributes:
        task_id, study_instance_uid, sop_instance_uid: of which image, and in answer to what.
        digest, model_name, model_version: who said it.
        role: in which role the version first saw the image.
        probability, threshold, positive, near_threshold: the decision (`explanation.Prediction`).
        distance: how unlike the training images the image is, in the model's own measure; None where it cannot say.
        far: whether that is beyond the model's limit.
        statistics: of the image as the model saw it (`statistics.image_statistics`); may be empty.
        heatmap: coarse and packed (`pack`); None for an image without one.
        seconds: the task's time divided by its images.
        observed_at: when.
        calling_ae_title: who sent the image; filled in by the ledger, "" where it does not know.
    """

    task_id: str
    study_instance_uid: str
    sop_instance_uid: str
    digest: str
    model_name: str
    model_version: str
    role: Role
    probability: float
    threshold: float
    positive: bool
    near_threshold: bool
    distance: float | None
    far: bool | None
    statistics: Mapping[str, float]
    heatmap: bytes | None
    seconds: float
    observed_at: datetime
    calling_ae_title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowFailure:
    """A study of which the challenger has nothing to say, and why: types of errors and codes only."""

    task_id: str
    study_instance_uid: str
    reason: str
    at: datetime


class Observations(Store):
    """What each model version said of each image: scores and image statistics, for shadow mode and drift."""

    def observe(self, seen: Sequence[Observation]) -> int:
        """Record what a model said; a row that is there already stays as it is.

        Returns:
            How many rows are new.
        """
        with self._write() as connection:
            return sum(insert_missing(connection, observations, _row(one)) for one in seen)

    def observed(
        self,
        digest: str,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        last: int | None = None,
    ) -> list[Observation]:
        """What one model version said, oldest first, each image once: as it was seen last.

        Args:
            digest: the version's bundle.
            since: not earlier than this.
            before: earlier than this.
            last: only that many images, the newest.
        """
        wanted = [observations.c.digest == digest]
        wanted += [observations.c.observed_at >= since] if since is not None else []
        wanted += [observations.c.observed_at < before] if before is not None else []
        query = (
            select(observations, instances.c.calling_ae_title)
            .outerjoin(instances, instances.c.sop_instance_uid == observations.c.sop_instance_uid)
            .where(*wanted)
            .order_by(*(observations.c[name].desc() for name in ("observed_at", "task_id", "sop_instance_uid")))
        )
        newest: dict[str, Observation] = {}
        with self._read() as connection:
            for row in connection.execute(query).mappings():
                if last is not None and len(newest) >= last:
                    break
                newest.setdefault(row["sop_instance_uid"], _observation(row))
        return list(newest.values())[::-1]

    def working_since(self, task_id: str) -> datetime | None:
        """When the last lease of a task began."""
        with self._read() as connection:
            return connection.execute(select(tasks.c.leased_at).where(tasks.c.task_id == task_id)).scalar_one_or_none()

    def clinical_work_waits(self) -> bool:
        """Whether any task of the node waits or is being worked on."""
        with self._read() as connection:
            waiting = select(tasks.c.task_id).where(tasks.c.state.in_(_UNFINISHED)).limit(1)
            return connection.execute(waiting).first() is not None

    def take_shadow(self, digest: str, since: datetime, now: datetime, again: timedelta) -> tuple[str, int] | None:
        """The oldest explained task that the challenger has not seen; counts one attempt.

        Args:
            digest: of the challenger.
            since: tasks that were finished before are not its work.
            now: the time.
            again: how long after an attempt that did not end the next one may begin.

        Returns:
            The task's id and the number of this attempt, or None.
        """
        rows = and_(shadow_work.c.task_id == tasks.c.task_id, shadow_work.c.digest == digest)
        resting = or_(shadow_work.c.state.in_(_ENDED), shadow_work.c.changed_at > now - again)
        seen = and_(observations.c.task_id == tasks.c.task_id, observations.c.digest == digest)
        oldest = (
            select(tasks.c.task_id, tasks.c.study_instance_uid)
            .where(
                tasks.c.outcome == StudyState.EXPLAINED,
                tasks.c.finished_at >= since,
                ~select(shadow_work.c.task_id).where(rows, resting).exists(),
                ~select(observations.c.task_id).where(seen).exists(),
            )
            .order_by(tasks.c.finished_at, tasks.c.task_id)
            .limit(1)
        )
        with self._read() as connection:
            found = connection.execute(oldest).first()
        if found is None:
            return None
        with self._write() as connection:
            row = {
                "task_id": found.task_id,
                "digest": digest,
                "study_instance_uid": found.study_instance_uid,
                "state": "running",
                "attempts": 1,
                "changed_at": now,
            }
            if insert_missing(connection, shadow_work, row):
                return found.task_id, 1
            key = and_(shadow_work.c.task_id == found.task_id, shadow_work.c.digest == digest)
            again_ = {"attempts": shadow_work.c.attempts + 1, "changed_at": now}
            if not connection.execute(update(shadow_work).where(key, not_(resting)).values(again_)).rowcount:
                return None  # another process was faster
            attempts: int = connection.execute(select(shadow_work.c.attempts).where(key)).scalar_one()
            return found.task_id, attempts

    def release_shadow(self, task_id: str, digest: str) -> None:
        """Give an attempt back that was no fault of the study."""
        with self._write() as connection:
            key = and_(shadow_work.c.task_id == task_id, shadow_work.c.digest == digest)
            connection.execute(update(shadow_work).where(key).values(attempts=shadow_work.c.attempts - 1))

    def end_shadow(
        self,
        task_id: str,
        digest: str,
        state: ShadowState,
        reason: str | None,
        now: datetime,
        seen: Sequence[Observation] = (),
    ) -> None:
        """Record how an attempt ended and what the challenger said, in one transaction; "running": try again."""
        with self._write() as connection:
            for one in seen:
                insert_missing(connection, observations, _row(one))
            connection.execute(
                update(shadow_work)
                .where(shadow_work.c.task_id == task_id, shadow_work.c.digest == digest)
                .values(state=state, reason=reason and reason[:_REASON], changed_at=now)
            )

    def shadow_failures(self, digest: str, since: datetime | None = None) -> list[ShadowFailure]:
        """Studies, or some of their images, of which a challenger said nothing; oldest first."""
        wanted = [shadow_work.c.digest == digest, shadow_work.c.state.in_(_ENDED), shadow_work.c.reason.is_not(None)]
        wanted += [shadow_work.c.changed_at >= since] if since is not None else []
        with self._read() as connection:
            rows = connection.execute(select(shadow_work).where(*wanted).order_by(shadow_work.c.changed_at))
            return [
                ShadowFailure(
                    task_id=row.task_id,
                    study_instance_uid=row.study_instance_uid,
                    reason=row.reason,
                    at=row.changed_at,
                )
                for row in rows
            ]


def pack(cells: "NDArray[np.float32]") -> bytes:
    """A coarse map in about half a kilobyte: its shape, its highest value, and 256 levels up to it, compressed."""
    import numpy as np  # noqa: PLC0415 - not in every process that has a ledger

    rows, columns = cells.shape
    top = float(cells.max())
    levels = np.rint(cells * (_LEVELS / top)) if top > 0 else np.zeros_like(cells)
    return zlib.compress(_HEAD.pack(rows, columns, top) + levels.astype(np.uint8).tobytes(), 9)


def unpack(packed: bytes) -> "NDArray[np.float32]":
    """What `pack` packed, to half a level."""
    import numpy as np  # noqa: PLC0415 - as above

    content = zlib.decompress(packed)
    rows, columns, top = _HEAD.unpack_from(content)
    levels = np.frombuffer(content, np.uint8, offset=_HEAD.size).reshape(rows, columns)
    return (levels * np.float32(top / _LEVELS)).astype(np.float32)


def _row(one: Observation) -> dict[str, Any]:
    names = [column.name for column in observations.columns]
    row = {name: getattr(one, name) for name in names}
    return row | {"statistics": json.dumps(dict(one.statistics), sort_keys=True)}


def _observation(row: RowMapping) -> Observation:
    sender = row["calling_ae_title"] or ""
    return noun_of(Observation, row, statistics=json.loads(row["statistics"]), calling_ae_title=sender)
