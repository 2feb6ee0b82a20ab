"""A database that release 1 wrote, with runs in every state, is upgraded and goes on; on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine

from agentmesh.adapters.sql import database, tables
from agentmesh.adapters.sql.migrate import upgrade
from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import Entry, Kind, RunState
from agentmesh.core.store import RunFilter

pytestmark = pytest.mark.anyio

WRITTEN = Path(__file__).parent / "release_1.db"
"""Eight runs: 0 submitted with a key, 1 and 6 held by `host:1`, 2 completed with blobs, 3 failed, 4 canceled, 5 given back with a
cancellation asked for, 7 a completed child of 6."""
LATER = 1_700_000_100.0
LOG = {"log": "E   assert 1 == 2\n" * 3000}
TABLES = ("meta", "blobs", "definitions", "runs", "journal", "state")


def _id(n: int) -> str:
    return f"0190000{n}-0000-7000-8000-000000000000"


async def _goes_on(store: SqlStore) -> None:
    """Everything is there, what had ended stays so, and all others are claimed, the longest due first."""
    page = await store.list_runs(RunFilter())
    states = {int(run.id[7]): run.state for run in page.runs}
    assert page.total == 8
    assert states == {
        0: RunState.SUBMITTED, 1: RunState.WORKING, 2: RunState.COMPLETED, 3: RunState.FAILED, 4: RunState.CANCELED,
        5: RunState.WORKING, 6: RunState.WORKING, 7: RunState.COMPLETED,
    }  # fmt: skip
    done = await store.get_run(_id(2))
    assert done is not None
    assert (done.input, done.output, done.steps["ask"].output) == (LOG, LOG, LOG)
    assert (done.owner, done.context_id, done.usage.prompt_tokens) == ("ann", "c1", 10)
    assert await store.get("workflow:triage", "seen3") == 3
    assert await store.get_definition("d1") == {"name": "triage", "steps": []}
    claims = await store.claim("w2", limit=99)
    assert {int(claim.run.id[7]) for claim in claims} == {0, 1, 5, 6}
    by_number = {int(claim.run.id[7]): claim for claim in claims}
    assert by_number[0].run.key == "nightly/1"
    assert {claim.mail for claim in claims} == {0}
    assert [by_number[n].epoch for n in (0, 1, 5, 6)] == [1, 2, 2, 2]
    assert by_number[5].run.cancel_requested
    parent = by_number[6]
    assert await store.park(parent.run.id, parent.epoch, [], wake_at=None, mail=0) is None
    assert (await store.post(_id(6), Entry(Kind.RUN_SIGNALED, payload={"name": "go"})))[1]
    (again,) = await store.claim("w2", limit=9)
    assert (again.run.id, again.mail) == (_id(6), 1)


async def test_sqlite(tmp_path: Path) -> None:
    """The file itself."""
    shutil.copy(WRITTEN, tmp_path / "mesh.db")
    async with open_store("sqlite:///mesh.db", tmp_path, clock=lambda: LATER) as store:
        await _goes_on(store)
    with sqlite3.connect(tmp_path / "mesh.db") as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == (str(tables.SCHEMA),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """The same rows in the tables that release 1 made there."""
    url = database.resolve(postgres_url, tmp_path)
    engine = create_engine(url)
    upgrade(engine, target="0001")
    shutil.copy(WRITTEN, tmp_path / "copy.db")
    old = create_engine(f"sqlite:///{tmp_path}/copy.db")
    shape = MetaData()
    shape.reflect(old, only=TABLES)
    with old.connect() as reading, engine.begin() as writing:
        for name in TABLES[1:]:
            rows = [dict(row._mapping) for row in reading.execute(shape.tables[name].select())]
            writing.execute(shape.tables[name].insert(), rows)
    old.dispose()
    engine.dispose()
    async with open_store(postgres_url, tmp_path, clock=lambda: LATER, own_clock=True) as store:
        await _goes_on(store)
