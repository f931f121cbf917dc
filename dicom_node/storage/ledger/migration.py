"""The schema of the ledger: which one a database has, and how it is brought up to this software's, after a backup.

Processes of the node refuse to start on another schema than their own. Nothing is changed behind anybody's back: an
administrator stops the node and runs `dicom-node migrate`.
"""

import os
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import URL, make_url

from dicom_node.errors import ConfigError
from dicom_node.storage.ledger.schema import FIRST, SCHEMA
from dicom_node.storage.ledger.store import Store, schema_of

FOLDER = Path(__file__).with_name("migrations")
Routes = Mapping[str, tuple[Sequence[str], Sequence[str]]]


def schema(url: str) -> str | None:
    """The schema of a ledger; None of a database that has none.

    Raises:
        OutOfResources: the database does not answer.
    """
    store = Store(url)
    try:
        with store.in_one_transaction() as connection:
            return schema_of(connection)
    finally:
        store.close()


def back_up(url: str, target: Path) -> None:
    """A copy of the whole database: of SQLite a database file, of PostgreSQL what pg_dump writes in its custom format.

    Raises:
        ConfigError: the target is there already, or the copy could not be made; the message says what to do.
    """
    parsed = make_url(url)
    if target.exists():
        raise ConfigError(f"{target} is there already; name another file with --backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        return
    _dump(parsed, target)


def _dump(url: URL, target: Path) -> None:
    """pg_dump, with the password in its environment: a command line can be read by everybody."""
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    call = ["pg_dump", "--format=custom", f"--file={target}", f"--dbname={plain}"]
    try:
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise ConfigError(
            "pg_dump is not installed: install PostgreSQL's client, or make a backup yourself and say --no-backup"
        ) from None
    if done.returncode:
        target.unlink(missing_ok=True)
        raise ConfigError(f"pg_dump failed: {done.stderr.strip()[-200:] or done.returncode}")


def migrate(url: str, routes: Routes, everywhere: Sequence[str]) -> tuple[str, str]:
    """Bring a ledger up to this software's schema, in one transaction: all of it or nothing.

    Args:
        url: of the ledger.
        routes: by the name of each rule that explains: its destinations and its results.
        everywhere: all destinations.

    Returns:
        the schema before and after.

    Raises:
        ConfigError: the ledger has the schema of a newer software.
        OutOfResources: the database does not answer.
    """
    store = Store(url)
    try:
        with store.in_one_transaction() as connection:
            before = schema_of(connection)
            if before is not None and before < SCHEMA:
                config = Config()
                config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
                config.attributes |= {"connection": connection, "routes": dict(routes), "everywhere": list(everywhere)}
                if before == FIRST:
                    command.stamp(config, FIRST)
                command.upgrade(config, SCHEMA)
        store.create()
    finally:
        store.close()
    return before or SCHEMA, SCHEMA
