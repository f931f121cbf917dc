"""Tasks carry what the rules decided: destinations, results, and why images were passed by.

Tasks that are there get what a worker would have read from the settings for them: the destinations and results of the
rule of their route, or every destination where there is no such rule. Why images were passed by is not known of them.
"""

import json

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Three columns, filled by the routes that `migrate` was given."""
    for name in ("destinations", "results", "passed_by"):
        op.add_column("tasks", sa.Column(name, sa.Text(), nullable=False, server_default="[]"))
    tasks = sa.table("tasks", *(sa.column(name, sa.Text()) for name in ("route", "destinations", "results")))
    routes, everywhere = (context.config.attributes[name] for name in ("routes", "everywhere"))
    connection = op.get_bind()
    for route in connection.execute(sa.select(tasks.c.route).distinct()).scalars().all():
        destinations, results = routes.get(route, (everywhere, ()))
        values = {"destinations": json.dumps(list(destinations)), "results": json.dumps(list(results))}
        connection.execute(sa.update(tasks).where(tasks.c.route == route).values(values))
