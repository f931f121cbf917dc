"""The size of an image may be more than 2 GiB; SQLite's integers may be as they are."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """One column of PostgreSQL, wider."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("instances", "size", type_=sa.BigInteger())
