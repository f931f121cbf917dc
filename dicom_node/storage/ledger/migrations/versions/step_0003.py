"""Tasks say how far their analysis is."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """One column; of tasks that are there nothing is known."""
    op.add_column("tasks", sa.Column("done", sa.Float(), nullable=True))
