"""By what a study can be found: keyed hashes of its accession number and of its patient's identifier."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """One table, empty: studies received before are found by their UID alone."""
    op.create_table(
        "search_terms",
        sa.Column("term", sa.String(64), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    )
    op.create_index("search_terms_by_study", "search_terms", ["study_instance_uid"])
