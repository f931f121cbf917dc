"""What retention has removed, how much each store holds, and how often the dispatcher began with a study."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Two columns, two tables and indexes; of what is there nothing was removed and nothing was measured."""
    op.add_column("instances", sa.Column("removed_at", _MOMENT, nullable=True))
    op.add_column("tasks", sa.Column("emptied_at", _MOMENT, nullable=True))
    op.create_index("instances_by_age", "instances", ["removed_at", "received_at"])
    op.create_index("tasks_by_age", "tasks", ["emptied_at", "finished_at"])
    op.drop_index("ix_studies_state", "studies")
    op.create_index("studies_by_ready", "studies", ["ready_at"])
    op.create_index("studies_by_state", "studies", ["state", "ready_at"])
    op.create_index("studies_by_end", "studies", ["finished_at"])
    op.drop_index("deliveries_due", "deliveries")
    op.create_index("deliveries_due", "deliveries", ["state", "destination", "next_attempt_at", "delivery_id"])
    op.create_index("deliveries_held", "deliveries", ["lease_until"])
    op.create_table(
        "closing",
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
    )
    op.create_table(
        "stores",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("oldest", _MOMENT, nullable=True),
        sa.Column("measured_at", _MOMENT, nullable=False),
    )
