"""Storage Commitment, both ways: requests of ours, what they ask about, and reports that we owe."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

UID, MOMENT = sa.String(64), sa.DateTime(timezone=True)


def upgrade() -> None:
    """Four columns, three tables; nobody was asked to commit to what was sent before."""
    for column in (
        sa.Column("commitment", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("commitment_attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("commitment_at", MOMENT, nullable=True),
        sa.Column("transaction_uid", UID, nullable=True),
    ):
        op.add_column("deliveries", column)
    op.create_index("ix_deliveries_transaction_uid", "deliveries", ["transaction_uid"])
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", UID, primary_key=True),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
    )
    op.create_index("commitments_due", "commitments", ["state", "due_at"])
    op.create_table(
        "commitment_references",
        sa.Column("transaction_uid", UID, primary_key=True),
        sa.Column("delivery_id", sa.String(64), primary_key=True),
        sa.Column("sop_class_uid", UID, nullable=False),
        sa.Column("sop_instance_uid", UID, nullable=False),
        sa.ForeignKeyConstraint(["transaction_uid"], ["commitments.transaction_uid"], ondelete="CASCADE"),
    )
    op.create_table(
        "commitment_reports",
        sa.Column("ae_title", sa.String(16), primary_key=True),
        sa.Column("transaction_uid", UID, primary_key=True),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("committed", sa.Integer()),
        sa.Column("failed", sa.Integer()),
        sa.Column("last_error", sa.Text()),
    )
    op.create_index("commitment_reports_due", "commitment_reports", ["state", "next_attempt_at"])
