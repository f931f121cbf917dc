"""A ledger on SQLite, and on PostgreSQL when it is there."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import sqlalchemy

from dicom_node.storage.ledger import Ledger

POSTGRES_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server of our own, on a unix socket in a temporary folder."""
    if not POSTGRES_FOLDERS:
        pytest.skip("no PostgreSQL server binaries in /usr/lib/postgresql/*/bin")
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    tools, folder = POSTGRES_FOLDERS[-1], Path(tempfile.mkdtemp(prefix="pg-"))
    name = pwd.getpwuid(os.getuid()).pw_name
    prefix = []
    if os.getuid() == 0:
        name = "postgres" if "postgres" in {user.pw_name for user in pwd.getpwall()} else "nobody"
        prefix = ["runuser", "-u", name, "--"]
        shutil.chown(folder, name)

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, capture_output=True, cwd=folder)

    data = str(folder / "data")
    run(str(tools / "initdb"), "-D", data, "-U", "node", "--auth=trust", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run(str(tools / "pg_ctl"), "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://node@/postgres?host={folder}"
    finally:
        run(str(tools / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    server = request.getfixturevalue("postgres_url")
    engine = sqlalchemy.create_engine(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server


@pytest.fixture
def ledger(url):
    made = Ledger(url)
    made.create()
    yield made
    made.close()
