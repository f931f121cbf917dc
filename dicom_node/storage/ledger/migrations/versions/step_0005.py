"""What retention has removed, and how much each store holds."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Two columns, a table and two indexes; of what is there nothing was removed and nothing was measured."""
    op.add_column("instances", sa.Column("removed_at", _MOMENT, nullable=True))
    op.add_column("tasks", sa.Column("emptied_at", _MOMENT, nullable=True))
    op.create_index("instances_by_age", "instances", ["removed_at", "received_at"])
    op.create_index("tasks_by_age", "tasks", ["emptied_at", "finished_at"])
    op.create_table(
        "stores",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("oldest", _MOMENT, nullable=True),
        sa.Column("measured_at", _MOMENT, nullable=False),
    )
