"""What radiologists said of results, and what was received: the two sources of a training set."""

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Integer, RowMapping, Table, Text, insert, select

from dicom_node.nouns import Instance, Note, Opinion, SOPInstanceUID, StudyInstanceUID
from dicom_node.storage.ledger.receiving import as_instance
from dicom_node.storage.ledger.schema import KEY, STATE, UID, UTCDateTime, instances, metadata
from dicom_node.storage.ledger.store import Store, noun_of, row_of

verdicts = Table(
    "verdicts",
    metadata,
    Column("verdict_id", Integer, primary_key=True, autoincrement=True),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("decisions", Text, nullable=False),  # JSON: SOP Instance UID of an image -> whether it was called positive
    Column("model", Text, nullable=False),
    Column("opinion", STATE, nullable=False),
    Column("reader", KEY, nullable=False),
    Column("note", STATE),
    Column("given_at", UTCDateTime, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderVerdict:
    """One opinion of one reader on the result of one study.

    Attributes:
        decisions: the images that it is about, and whether the judged result had called each positive.
        model: name and version of the model that was judged.
        reader: who said so, a short sign; "" when nobody is named.
    """

    study_instance_uid: StudyInstanceUID
    decisions: dict[SOPInstanceUID, bool]
    model: str
    opinion: Opinion
    reader: str
    note: Note | None
    given_at: datetime


class Verdicts(Store):
    """What `dicom-node verdict` writes, and what `dicom-node export` reads."""

    def add_verdict(self, verdict: ReaderVerdict) -> None:
        """Keep a verdict; earlier ones of the same reader stay too."""
        with self._write() as connection:
            row = row_of(verdict, verdicts, decisions=json.dumps(verdict.decisions))
            connection.execute(insert(verdicts).values(row))

    def verdicts(self, study_instance_uid: str | None = None) -> list[ReaderVerdict]:
        """The verdicts on one study, or all, in the order in which they were given."""
        query = select(verdicts).order_by(verdicts.c.verdict_id)
        if study_instance_uid is not None:
            query = query.where(verdicts.c.study_instance_uid == study_instance_uid)
        with self._read() as connection:
            return [_verdict(row) for row in connection.execute(query).mappings()]

    def received_studies(self, since: datetime | None = None) -> list[StudyInstanceUID]:
        """Every study that an instance is kept of, by UID; with `since`, received not earlier than that."""
        query = select(instances.c.study_instance_uid).distinct().order_by(instances.c.study_instance_uid)
        query = query.where(instances.c.removed_at.is_(None))
        if since is not None:
            query = query.where(instances.c.received_at >= since)
        with self._read() as connection:
            return [StudyInstanceUID(uid) for uid in connection.execute(query).scalars()]

    def received_instances(self, study_instance_uid: str) -> list[Instance]:
        """The instances of a study that are kept, of every revision and of none yet, by UID."""
        of_study = instances.c.study_instance_uid == study_instance_uid
        query = select(instances).where(of_study, instances.c.removed_at.is_(None))
        with self._read() as connection:
            rows = connection.execute(query.order_by(instances.c.sop_instance_uid)).mappings()
            return [as_instance(row) for row in rows]


def _verdict(row: RowMapping) -> ReaderVerdict:
    return noun_of(
        ReaderVerdict,
        row,
        decisions={SOPInstanceUID(uid): positive for uid, positive in json.loads(row["decisions"]).items()},
        opinion=Opinion(row["opinion"]),
        note=None if row["note"] is None else Note(row["note"]),
    )
