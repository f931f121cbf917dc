"""The database connection: one engine, a read and a write transaction, and how their failures are named.

SQLite is opened in WAL mode with synchronous=FULL (a commit is on the disk when it returns) and every
write transaction begins with BEGIN IMMEDIATE: two processes never both read, then both write. PostgreSQL
runs the same statements; conditional UPDATEs, unique keys and FOR UPDATE do there what IMMEDIATE does here.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dicom_node.errors import ConfigError, OutOfResources
from dicom_node.storage.ledger.schema import FIRST, SCHEMA, ledger_version, metadata

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Noun = TypeVar("Noun", bound="DataclassInstance")
BUSY_SECONDS = 30
CREATE_ATTEMPTS = 10
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Of PostgreSQL, in libpq's words (the last in milliseconds): a path that went silent, by a firewall that dropped an
idle connection or a host that lost its power, is noticed in half a minute. The system's own times are hours; what the
URL says wins."""
WRITE = "ledger_write"


class Store:
    """One database, opened lazily; safe to share between threads, not across fork().

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:///var/ledger.sqlite` or `postgresql+psycopg://host/node`.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(**{WRITE: True})
        same_moment = {} if self._engine.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._reader = self._engine.execution_options(**same_moment)

    def create(self) -> None:
        """Create the tables of an empty database; of any other make sure that it has this software's schema.

        Raises:
            ConfigError: it has another one; the message says what to do.
            OutOfResources: the database does not answer.
        """
        for attempt in range(CREATE_ATTEMPTS):
            try:
                with self._writer.begin() as connection:
                    found = schema_of(connection)
                    if found is None:
                        metadata.create_all(connection)
                        insert_missing(connection, ledger_version, {"version_num": SCHEMA})
                    elif found != SCHEMA:
                        raise ConfigError(_other_schema(found))
            except (IntegrityError, ProgrammingError) as error:
                # PostgreSQL: another process created a table between our look and our CREATE; look again.
                if attempt + 1 == CREATE_ATTEMPTS:
                    raise _unanswered(error) from error
            except DBAPIError as error:
                raise _unanswered(error) from error
            else:
                return

    @contextmanager
    def in_one_transaction(self) -> Iterator[Connection]:
        """A connection for everything that must happen together or not at all.

        Raises:
            OutOfResources: the database does not answer.
        """
        with self._write() as connection:
            yield connection

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """For questions whose answers are of one moment, however many there are."""
        with _named_failures(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with _named_failures(), self._writer.begin() as connection:
            yield connection


def schema_of(connection: Connection) -> str | None:
    """The schema of a ledger; None of a database that has none."""
    tables = set(inspect(connection).get_table_names())
    if ledger_version.name in tables:
        return connection.execute(select(ledger_version.c.version_num)).scalar_one_or_none()
    return FIRST if "tasks" in tables else None


def _other_schema(found: str) -> str:
    if found < SCHEMA:
        return (
            f"node.database: the ledger has the schema {found}, this software needs {SCHEMA}: stop the node, then run "
            "`dicom-node migrate`, which makes a backup first"
        )
    return (
        f"node.database: the ledger has the schema {found} of a newer dicom-node, this one knows {SCHEMA}: install the "
        "newer one again, or restore the backup that its migration made"
    )


def insert_missing(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert one row unless its primary key is taken; True when the row is new.

    The unique key decides in one statement, so it holds under concurrency. Another constraint that the row breaks is a
    fault of ours and is raised, never taken for a repetition.
    """
    row = _insert_of(connection)(table).values(values)
    unless_there = row.on_conflict_do_nothing(index_elements=[column.name for column in table.primary_key])
    return connection.execute(unless_there, execution_options={"preserve_rowcount": True}).rowcount == 1


def row_of(noun: Any, table: Table, **others: Any) -> dict[str, Any]:
    """What a noun has for the columns of a table, a path as text; `others` are the other columns."""
    values = {one.name: getattr(noun, one.name) for one in table.columns if hasattr(noun, one.name)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()} | others


def noun_of(kind: type[Noun], row: Mapping[Any, Any], **others: Any) -> Noun:
    """A row as the noun whose fields are its columns; `others` are the fields that are no column as it is."""
    names = [field.name for field in fields(kind) if field.name in row and field.name not in others]
    return kind(**{name: row[name] for name in names}, **others)


def _insert_of(connection: Connection) -> Any:
    """INSERT with ON CONFLICT, which each of the two databases has and SQL has not."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415 - only where it is the database

        return insert
    return sqlite_insert


@contextmanager
def _named_failures() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        raise _unanswered(error) from error


def _unanswered(error: Exception) -> OutOfResources:
    """Locked, full, read-only or gone: for the caller it is one thing, worth a retry."""
    cause = getattr(error, "orig", None) or error
    return OutOfResources(f"the ledger does not answer ({type(cause).__name__})")


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        patience = {name: value for name, value in _PATIENCE.items() if name not in parsed.query}
        return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=patience)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Take transaction control from the driver, which would begin too late and deferred."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch to WAL. For the switch alone SQLite does not wait for its lock, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
