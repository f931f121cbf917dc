"""A ledger on SQLite, and on PostgreSQL when it is there."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from dicom_node.storage.ledger import Ledger

POSTGRES_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class PostgreSQL:
    """A PostgreSQL server of our own, on a unix socket in a temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.url = f"postgresql+psycopg://node@/postgres?host={self.folder}"
        self._data = str(self.folder / "data")
        self._prefix: list[str] = []
        if os.getuid() == 0:
            name = "postgres" if "postgres" in {user.pw_name for user in pwd.getpwall()} else "nobody"
            self._prefix = ["runuser", "-u", name, "--"]
            shutil.chown(self.folder, name)

    @staticmethod
    def missing() -> str | None:
        """Why there can be no such server here, or None."""
        if not POSTGRES_FOLDERS:
            return "no PostgreSQL server binaries in /usr/lib/postgresql/*/bin"
        if importlib.util.find_spec("psycopg") is None:
            return "the extra [postgres] is not installed"
        if os.getuid() == 0 and shutil.which("runuser") is None:
            return "PostgreSQL does not run as root, and there is no runuser"
        return None

    def create(self) -> None:
        self._run("initdb", "-D", self._data, "-U", "node", "--auth=trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """At once, without a checkpoint; what was committed is recovered at the next start."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")

    def _run(self, tool: str, *arguments: str) -> None:
        command = [*self._prefix, str(POSTGRES_FOLDERS[-1] / tool), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running server; nothing of it after."""
    server = PostgreSQL()
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def emptied(url: str) -> str:
    """The database without any table."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def postgres_url():
    if why := PostgreSQL.missing():
        pytest.skip(why)
    with postgresql() as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    return emptied(request.getfixturevalue("postgres_url"))


@pytest.fixture
def ledger(url):
    made = Ledger(url)
    made.create()
    yield made
    made.close()
