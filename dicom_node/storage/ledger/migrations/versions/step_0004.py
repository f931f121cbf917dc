"""Associations say which listener holds them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One column; the node is stopped, and an association that is still open has no listener."""
    op.add_column("associations", sa.Column("listener", sa.String(32), nullable=True))
