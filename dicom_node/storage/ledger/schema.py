"""Tables of the ledger, and the column types that keep them honest on SQLite and PostgreSQL alike."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC; a naive one is refused before it reaches the database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware datetime -> UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware datetimes only")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """What the driver returns (SQLite: naive, in UTC) -> aware UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UID = String(64)  # PS3.5 section 9.1: a UID has at most 64 characters
AE = String(16)  # PS3.5 table 6.2-1
KEY = String(64)
STATE = String(16)

metadata = MetaData()

SCHEMA = "0010"
"""Of these tables: the last of migrations/versions."""
FIRST = "0001"
"""Of a ledger made before there were migrations, which does not say so itself."""

ledger_version = Table("ledger_version", metadata, Column("version_num", String(32), primary_key=True))

associations = Table(
    "associations",
    metadata,
    Column("association_id", KEY, primary_key=True),
    Column("calling_ae_title", AE, nullable=False),
    Column("called_ae_title", AE, nullable=False),
    Column("peer_address", String(64), nullable=False),
    Column("opened_at", UTCDateTime, nullable=False),
    Column("closed_at", UTCDateTime, index=True),
    Column("listener", String(32)),
)

touches = Table(
    "association_studies",
    metadata,
    Column("association_id", KEY, primary_key=True),
    Column("study_instance_uid", UID, primary_key=True),
)

instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("study_instance_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("association_id", KEY, nullable=False),
    Column("calling_ae_title", AE, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("received_at", UTCDateTime, nullable=False),
    Column("revision", Integer),  # NULL until mark_ready puts the instance into a revision
    Column("removed_at", UTCDateTime),  # by retention; received again, the row begins anew
    Index("instances_by_study", "study_instance_uid", "revision"),
    Index("instances_by_revision", "revision"),
    Index("instances_by_age", "removed_at", "received_at"),
)

closing = Table(
    "closing",
    metadata,
    Column("study_instance_uid", UID, primary_key=True),
    Column("attempts", Integer, nullable=False),
)
"""Studies that the dispatcher has begun to look at for their next revision, and how often it has."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", Integer, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", UID, nullable=False),
    Column("study_instance_uid", UID, nullable=False),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined_at", UTCDateTime, nullable=False),
)

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", UID, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("state", STATE, nullable=False),
    Column("reason", Text),
    Column("ready_at", UTCDateTime, nullable=False),
    Column("finished_at", UTCDateTime),
    Index("studies_by_ready", "ready_at"),
    Index("studies_by_state", "state", "ready_at"),
    Index("studies_by_end", "finished_at"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", KEY, primary_key=True),
    Column("study_instance_uid", UID, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("route", Text, nullable=False),
    Column("destinations", Text, nullable=False, server_default="[]"),  # JSON list of names
    Column("results", Text, nullable=False, server_default="[]"),  # JSON list of names
    Column("passed_by", Text, nullable=False, server_default="[]"),  # JSON list of [SOP Instance UID, reason, code]
    Column("selected", Text, nullable=False),  # JSON list of SOP Instance UIDs
    Column("reason", Text),
    Column("state", STATE, nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("given_up", Text),  # set by the reconciler: report this instead of explaining
    Column("submitted_at", UTCDateTime),
    Column("owner", KEY),
    Column("lease_until", UTCDateTime),
    Column("leased_at", UTCDateTime),
    Column("done", Float),  # part of the analysis, 0 to 1, while it is leased
    Column("finished_at", UTCDateTime),
    Column("outcome", STATE),  # StudyState of this task alone
    Column("outcome_reason", Text),
    Column("emptied_at", UTCDateTime),  # by retention: its results are gone, but for its reports
    ForeignKeyConstraint(["study_instance_uid", "revision"], ["studies.study_instance_uid", "studies.revision"]),
    Index("tasks_by_study", "study_instance_uid", "revision"),
    Index("tasks_by_age", "emptied_at", "finished_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", KEY, primary_key=True),
    Column("task_id", KEY, nullable=False, index=True),
    Column("kind", KEY, nullable=False),
    Column("fallback", KEY),
    Column("reserve", Boolean, nullable=False),  # recorded on standby; it may have been called in since
    Column("stand_in", KEY),  # of a downgraded one: the kind that is sent instead
    Column("sop_instance_uid", UID, nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("path", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", STATE, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("next_attempt_at", UTCDateTime, nullable=False),
    Column("last_error", Text),
    Column("status", Integer),  # the C-STORE status that counted as delivered (0x0000 or a warning)
    Column("submitted_at", UTCDateTime),
    Column("owner", KEY),
    Column("lease_until", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("commitment", Boolean, nullable=False, server_default=false()),  # sent to one that is asked to commit to it
    Column("commitment_attempts", Integer, nullable=False, server_default="0"),  # requests since it was sent
    Column("commitment_at", UTCDateTime),  # when the next request is due
    Column("transaction_uid", UID, index=True),  # of the request that is open
    ForeignKeyConstraint(["task_id"], ["tasks.task_id"]),
    Index("deliveries_due", "state", "destination", "next_attempt_at", "delivery_id"),
    Index("deliveries_held", "lease_until"),
    Index("deliveries_by_end", "state", "finished_at"),
)

stores = Table(
    "stores",
    metadata,
    Column("name", KEY, primary_key=True),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("oldest", UTCDateTime),
    Column("measured_at", UTCDateTime, nullable=False),
)

commitments = Table(  # Storage Commitment that we ask for
    "commitments",
    metadata,
    Column("transaction_uid", UID, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("ae_title", AE, nullable=False),
    Column("state", STATE, nullable=False),
    Column("requested_at", UTCDateTime, nullable=False),
    Column("due_at", UTCDateTime, nullable=False),
    Column("finished_at", UTCDateTime),
    Index("commitments_due", "state", "due_at"),
)

commitment_references = Table(  # what each of these requests asks about
    "commitment_references",
    metadata,
    Column("transaction_uid", UID, primary_key=True),
    Column("delivery_id", KEY, primary_key=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False),
    ForeignKeyConstraint(["transaction_uid"], ["commitments.transaction_uid"], ondelete="CASCADE"),
)

commitment_reports = Table(  # Storage Commitment that peers ask us for
    "commitment_reports",
    metadata,
    Column("ae_title", AE, primary_key=True),
    Column("transaction_uid", UID, primary_key=True),
    Column("asked", Text, nullable=False),  # JSON list of [SOP Class UID, SOP Instance UID]
    Column("state", STATE, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("requested_at", UTCDateTime, nullable=False),
    Column("next_attempt_at", UTCDateTime, nullable=False),
    Column("owner", KEY),
    Column("lease_until", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("committed", Integer),
    Column("failed", Integer),
    Column("last_error", Text),
    Index("commitment_reports_due", "state", "next_attempt_at"),
)

unreachable = Table(
    "unreachable",
    metadata,
    Column("destination", String(64), primary_key=True),
    Column("attempts", Integer, nullable=False),  # in a row, without an answer
    Column("since", UTCDateTime, nullable=False),
    Column("next_attempt_at", UTCDateTime, nullable=False),
    Column("reason", Text, nullable=False),
)
"""Destinations that did not answer when last tried; one that answers has no row."""

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("role", STATE, primary_key=True),
    Column("host", String(64), primary_key=True),
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False, index=True),
    Column("detail", Text, nullable=False),  # JSON, by the role
)
"""Processes of the node, on all its hosts; one that ends in order has no row."""

alerts = Table(
    "alerts",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("level", STATE, nullable=False),
    Column("said", Text, nullable=False),
    Column("began_at", UTCDateTime, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Column("told_at", UTCDateTime),
)
"""What needs a person, since when, and when somebody was told; what is over has no row."""

looks = Table(
    "looks",
    metadata,
    Column("name", KEY, primary_key=True),
    Column("looked_at", UTCDateTime, nullable=False),
    Column("found", Text, nullable=False),  # JSON
)
"""The last look of each kind for something that takes long to look for."""
