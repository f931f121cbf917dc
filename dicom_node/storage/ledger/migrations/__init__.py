"""From one schema of the ledger to the next (Alembic); `migration.py` runs them."""
