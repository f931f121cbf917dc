"""What Alembic runs: the steps, on the connection and in the transaction of `migration.migrate`."""

from alembic import context

from dicom_node.storage.ledger.schema import ledger_version

context.configure(connection=context.config.attributes["connection"], version_table=ledger_version.name)
context.run_migrations()
