"""Migrations: the tables a new database gets are those an old one is brought to."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from agentmesh.adapters.sql import database, tables
from agentmesh.adapters.sql.migrate import upgrade
from agentmesh.core.push import Delivery
from agentmesh.core.run import Run

NEXT = """
import sqlalchemy as sa
from alembic import op
revision = "0004"
down_revision = "0003"
def upgrade():
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("colour", sa.Text))
    op.execute("UPDATE meta SET value = '4' WHERE name = 'schema'")
"""


def _shape(file: Path) -> dict[str, str]:
    """Tables and indexes by name, as SQLite describes them; without Alembic's own."""
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT name, type, tbl_name FROM sqlite_master WHERE tbl_name != 'alembic_version'")
    shape = {name: f"{kind} of {table}" for name, kind, table in rows.fetchall()}
    for name, kind in list(shape.items()):
        pragma = "table_info" if kind.startswith("table") else "index_info"
        shape[name] += str(connection.execute(f"PRAGMA {pragma}('{name}')").fetchall())
        if kind.startswith("table"):
            shape[name] += str(sorted(connection.execute(f"PRAGMA foreign_key_list('{name}')").fetchall()))
    connection.close()
    return shape


def test_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    """A database made by the migrations has the tables, columns, keys and indexes that a new one has."""
    fresh = database.connect(database.resolve("sqlite:///fresh.db", tmp_path))
    database.prepare(fresh)
    walked = database.connect(database.resolve("sqlite:///walked.db", tmp_path))
    upgrade(walked)
    assert _shape(tmp_path / "walked.db") == _shape(tmp_path / "fresh.db")
    for engine in (fresh, walked):
        with engine.begin() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, tables.metadata) == []
            assert context.get_current_revision() == tables.REVISION
            assert database.version(connection) == tables.SCHEMA
        database.prepare(engine)
        engine.dispose()


def test_the_last_migration_is_the_one_the_code_knows() -> None:
    """REVISION names the head, so that a new database is stamped with it."""
    scripts = ScriptDirectory(str(database.MIGRATIONS))
    assert scripts.get_current_head() == tables.REVISION
    assert len(list(scripts.walk_revisions())) == tables.SCHEMA


def test_an_older_database_is_upgraded(tmp_path: Path) -> None:
    """What the next release will do works: its migration runs on a database of this one, and the rows stay."""
    later = tmp_path / "later"
    shutil.copytree(database.MIGRATIONS, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "versions" / "0004_colour.py").write_text(NEXT)
    engine = database.connect(database.resolve("sqlite:///mesh.db", tmp_path))
    database.prepare(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO definitions VALUES ('d', '{}')")
    database.prepare(engine, schema=4, migrations=later)
    with engine.begin() as connection:
        assert database.version(connection) == 4
        assert "colour" in {column["name"] for column in inspect(connection).get_columns("runs")}
        assert connection.exec_driver_sql("SELECT count(*) FROM definitions").scalar() == 1
    with pytest.raises(database.StoreTooNew):
        database.prepare(engine)
    engine.dispose()


def test_a_database_of_schema_2_is_upgraded(tmp_path: Path) -> None:
    """What it holds stays, and a run of it can be given a webhook."""
    engine = database.connect(database.resolve("sqlite:///mesh.db", tmp_path))
    upgrade(engine, target="0002")
    with engine.begin() as connection:
        assert database.version(connection) == 2
        connection.exec_driver_sql(
            "INSERT INTO runs (id, tenant, owner, workflow, definition, source, state, seq, created_at, updated_at, prompt_tokens,"
            " completion_tokens, cached_tokens, model_seconds, cancel_requested, epoch)"
            " VALUES ('r1', 't', 'o', 'w', 'd', 'a2a', 'completed', 3, 1, 1, 0, 0, 0, 0, 0, 1)"
        )
    database.prepare(engine)
    with engine.begin() as connection:
        assert database.version(connection) == tables.SCHEMA
        assert connection.exec_driver_sql("SELECT seq FROM runs").scalar() == 3
        new = Delivery("r1", "c1", "t", "o", "hooks.example", "sealed")
        connection.execute(tables.deliveries.insert(), {name: getattr(new, name) for name in Delivery.__slots__})
    engine.dispose()


def test_a_start_does_not_import_alembic(tmp_path: Path) -> None:
    """A new database, and one of this release, are opened without the half second that Alembic costs."""
    code = (
        "import sys; from pathlib import Path; from agentmesh.adapters.sql import database as d;"
        "e = d.connect(d.resolve('sqlite:///x.db', Path(sys.argv[1]))); d.prepare(e); d.prepare(e);"
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False).returncode == 0


def test_every_field_of_a_run_has_a_column() -> None:
    """A field added to Run without a place to keep it is noticed here."""
    elsewhere = {"steps", "usage"}
    elsewhere |= {"route", "trace", "artifacts", "messages", "said", "replied"}  # the journal alone has them
    assert set(Run.__dataclass_fields__) - elsewhere <= set(tables.runs.c.keys())
