"""From the schema before there were migrations to this one: nothing lost, a backup before, newer ones refused."""

import json
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner
from working import STUDY, at, instance, study

from dicom_node.cli import app
from dicom_node.errors import ConfigError
from dicom_node.nouns import StudyState, TaskState
from dicom_node.storage.ledger import Ledger, migration
from dicom_node.storage.ledger.schema import FIRST, SCHEMA, metadata

ROUTES = {"chest": (("pacs", "archive"), ()), "quick": (("pacs",), ("structured_report",))}


@pytest.fixture
def old(url, root):
    """A ledger of the first schema, with a study of four tasks and a delivery."""
    engine = sqlalchemy.create_engine(url)
    frozen = (root / "tests" / "golden" / f"ledger_0001_{engine.dialect.name}.sql").read_text()
    uid = instance(1).sop_instance_uid
    with engine.begin() as connection:
        for statement in frozen.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        tables = sqlalchemy.MetaData()
        tables.reflect(connection)
        now = at(3).replace(tzinfo=None) if engine.dialect.name == "sqlite" else at(3)
        one = {"study_instance_uid": STUDY, "revision": 1}
        connection.execute(tables.tables["studies"].insert(), one | {"state": "ready", "ready_at": now})
        for name, route, state in (
            ("t1", "chest", "pending"),
            ("t2", "quick", "done"),
            ("t3", "renamed since", "pending"),
            ("t4", "", "pending"),
        ):
            selected = json.dumps([uid] if route else [])
            row = {
                "task_id": name,
                "route": route,
                "selected": selected,
                "state": state,
                "attempts": 1,
                "created_at": now,
            }
            connection.execute(tables.tables["tasks"].insert(), one | row)
        delivery = {
            "delivery_id": "d", "task_id": "t2", "kind": "structured_report", "reserve": False,
            "sop_instance_uid": "2.25.1", "sop_class_uid": "1.2", "path": "/x",
            "destination": "pacs", "state": "pending", "attempts": 0,
            "created_at": now, "next_attempt_at": now,
        }  # fmt: skip
        connection.execute(tables.tables["deliveries"].insert(), delivery)
    engine.dispose()
    return url


def test_the_schema_of_the_code_is_the_last_step():
    config = Config()
    config.set_main_option("script_location", str(migration.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_an_older_ledger_is_refused_with_what_to_do_and_left_alone(old):
    ledger = Ledger(old)
    with pytest.raises(ConfigError, match=r"schema 0001, this software needs .*`dicom-node migrate`"):
        ledger.create()
    ledger.close()
    assert migration.schema(old) == FIRST


def test_a_migrated_ledger_is_like_a_new_one_and_has_lost_nothing(old):
    assert migration.migrate(old, ROUTES, ["pacs", "archive", "research"]) == (FIRST, SCHEMA)
    engine = sqlalchemy.create_engine(old)
    with engine.begin() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert [one for one in differences if "index" not in str(one[0])] == []
    ledger = Ledger(old)
    ledger.create()
    found = {one.task_id: one for one in ledger.tasks(STUDY)}
    assert {name: (one.destinations, one.results) for name, one in found.items()} == {
        "t1": (("pacs", "archive"), ()),
        "t2": (("pacs",), ("structured_report",)),
        "t3": (("pacs", "archive", "research"), ()),
        "t4": (("pacs", "archive", "research"), ()),
    }
    assert [found[name].state for name in ("t1", "t2")] == [TaskState.PENDING, TaskState.DONE]
    assert found["t1"].selected == (instance(1).sop_instance_uid,)
    assert all(one.passed_by == () for one in found.values())
    assert [one.delivery_id for one in ledger.deliveries()] == ["d"]
    assert ledger.lease("t1", "me", at(9), 60) is not None
    again = study(instance(2), revision=2)
    assert ledger.mark_ready(again, [], at(9), state=StudyState.IGNORED, reason="x")
    ledger.close()
    assert migration.migrate(old, ROUTES, []) == (SCHEMA, SCHEMA), "again changes nothing"


def test_a_step_that_fails_leaves_the_ledger_as_it_was(old):
    with pytest.raises(TypeError):
        migration.migrate(old, {"chest": (object(), ())}, [])  # type: ignore[dict-item]
    assert migration.schema(old) == FIRST
    engine = sqlalchemy.create_engine(old)
    assert "destinations" not in {one["name"] for one in sqlalchemy.inspect(engine).get_columns("tasks")}
    engine.dispose()


def test_a_newer_ledger_is_refused(url):
    ledger = Ledger(url)
    ledger.create()
    with ledger.in_one_transaction() as connection:
        connection.exec_driver_sql("UPDATE ledger_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="schema 9999 of a newer dicom-node"):
        ledger.create()
    ledger.close()
    with pytest.raises(ConfigError, match="newer"):
        migration.migrate(url, {}, [])


def test_the_command_makes_a_backup_first_and_then_migrates(old, tmp_path):
    if not old.startswith("sqlite"):
        pytest.skip("the settings of the test name SQLite")
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nspool = "{tmp_path}/spool"\ndatabase = "{old}"\n'
        '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 11113\n'
    )
    runner, arguments = CliRunner(), ["migrate", "--config", str(config), "--backup", str(tmp_path / "before.backup")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"the ledger has the schema {SCHEMA}, it had {FIRST}" in done.output
    with closing(sqlite3.connect(tmp_path / "before.backup")) as copy:
        assert copy.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
        assert not copy.execute("SELECT name FROM sqlite_master WHERE name = 'ledger_version'").fetchall()
    assert migration.schema(f"sqlite:///{tmp_path}/before.backup") == FIRST
    again = runner.invoke(app, [*arguments[:-1], str(tmp_path / "after.backup")])
    assert "nothing to do" in again.output
    with closing(sqlite3.connect(tmp_path / "after.backup")) as copy:
        assert copy.execute("SELECT count(*) FROM tasks").fetchone() == (4,), "asked for, it is made in any case"
    assert runner.invoke(app, [*arguments, "--no-backup"]).exit_code == 2


def test_a_backup_is_never_written_over(old, tmp_path):
    (tmp_path / "there").write_text("x")
    with pytest.raises(ConfigError, match="name another file with --backup"):
        migration.back_up(old, tmp_path / "there")


def test_a_backup_is_a_whole_database(ledger, url, tmp_path):
    ledger.add_quarantine("1.2", "1.3", tmp_path, "why", at(0))
    migration.back_up(url, tmp_path / "copy")
    if url.startswith("postgresql"):
        assert (tmp_path / "copy").read_bytes().startswith(b"PGDMP")
    else:
        assert migration.schema(f"sqlite:///{tmp_path}/copy") == SCHEMA
        with closing(sqlite3.connect(tmp_path / "copy")) as copy:
            assert copy.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
