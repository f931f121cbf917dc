"""Heartbeats of the processes, alerts and when they were told, looks for drift, and when the last result was sent."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Three tables, empty, and an index."""
    op.create_index("deliveries_by_end", "deliveries", ["state", "finished_at"])
    op.create_table(
        "heartbeats",
        sa.Column("role", sa.String(16), primary_key=True),
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("pid", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_index("ix_heartbeats_seen_at", "heartbeats", ["seen_at"])
    op.create_table(
        "alerts",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("began_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("told_at", _MOMENT),
    )
    op.create_table(
        "looks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("looked_at", _MOMENT, nullable=False),
        sa.Column("found", sa.Text(), nullable=False),
    )
