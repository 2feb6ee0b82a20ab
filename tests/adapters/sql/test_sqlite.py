"""SQLite: what the contract cannot ask of every store, and what goes wrong with files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import anyio
import pytest
from sqlalchemy import event

from agentmesh.adapters.sql import database
from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.errors import StoreError, StoreLocked, StoreTooNew

pytestmark = pytest.mark.anyio
URL = "sqlite:///mesh.db"


def _run(run_id: str, **fields: object) -> Run:
    return Run(**{"id": run_id, "workflow": "w", "definition": "d", "input": {}, **fields})  # type: ignore[arg-type]


def _done(path: str, output: object = None) -> Entry:
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": output})


def _rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "mesh.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _pragma(store: SqlStore, engine: int, name: str) -> object:
    with store._engines[engine].connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


async def test_commits_are_synced(tmp_path: Path) -> None:
    """The writing connection is in WAL mode and waits for the disk; the reading ones cannot write."""
    async with open_store(URL, tmp_path) as store:
        assert _pragma(store, 0, "journal_mode") == "wal"
        assert _pragma(store, 0, "synchronous") == 2
        assert _pragma(store, 0, "foreign_keys") == 1
        assert _pragma(store, 1, "query_only") == 1


async def test_many_callers_share_a_commit(tmp_path: Path) -> None:
    """Two hundred appends at once take a handful of commits."""
    async with open_store(URL, tmp_path) as store:
        await store.start_run(_run("r"))
        (claim,) = await store.claim("w", limit=1)
        commits: list[object] = []
        event.listen(store._engines[0], "commit", commits.append)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for i in range(200):
                    group.start_soon(store.append, "r", claim.epoch, [_done(f"s{i}")])
        assert 1 <= len(commits) <= 20
        assert len(await store.entries("r")) == 202


async def test_reads_do_not_wait_for_a_write(tmp_path: Path) -> None:
    """While another connection holds SQLite's write lock, runs are read."""
    async with open_store(URL, tmp_path) as store:
        await store.start_run(_run("r"))
        other = sqlite3.connect(tmp_path / "mesh.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with anyio.fail_after(5):
                assert (await store.get_run("r")) is not None
        finally:
            other.close()


async def test_restart_takes_over_at_once(tmp_path: Path) -> None:
    """A new process need not wait for the leases of a dead one: the database's lock proves it is gone."""
    async with open_store(URL, tmp_path, clock=lambda: 100.0) as store:
        await store.start_run(_run("r"))
        (old,) = await store.claim("w1", limit=1, lease=1e6)
    async with open_store(URL, tmp_path, clock=lambda: 100.0) as store:
        (new,) = await store.claim("w2", limit=1)
        assert (new.run.id, new.epoch) == ("r", old.epoch + 1)


async def test_second_process_is_refused(tmp_path: Path) -> None:
    """Two servers never share a SQLite file: the second is told which process has it."""
    async with open_store(URL, tmp_path):
        with pytest.raises(StoreLocked, match=rf"database {tmp_path}/mesh.db is in use by process {os.getpid()}"):
            await open_store(URL, tmp_path).__aenter__()
    async with open_store(URL, tmp_path):
        pass


async def test_long_values_are_stored_once(tmp_path: Path) -> None:
    """A value over 32 kB is one packed blob, however many runs and steps hold it; short ones stay in their rows."""
    log = {"log": "E   assert 1 == 2\n" * 5_000}
    async with open_store(URL, tmp_path) as store:
        for run_id in ("a", "b"):
            await store.start_run(_run(run_id, input=log))
            (claim,) = await store.claim("w", limit=1, only=[run_id])
            await store.append(run_id, claim.epoch, [_done("cut", log), _done("short", "x")])
    blobs = _rows(tmp_path, "SELECT size, packed, length(data) FROM blobs")
    assert len(blobs) == 2
    assert all(packed == 1 and int(str(size)) > 90_000 and int(str(length)) < 5_000 for size, packed, length in blobs)
    assert _rows(tmp_path, "SELECT count(*) FROM journal WHERE payload IS NULL") == [(2,)]
    assert _rows(tmp_path, "SELECT input, count(DISTINCT input_blob) FROM runs") == [(None, 1)]


async def test_an_append_does_not_rewrite_the_input(tmp_path: Path) -> None:
    """An input of some kilobytes stands beside the run's row, which every append writes anew; it is read back whole."""
    given = {"log": "x" * 4_000}
    async with open_store(URL, tmp_path) as store:
        await store.start_run(_run("r", input=given, message={"text": "hi"}))
        run = await store.get_run("r")
        assert run is not None
        assert (run.input, run.message) == (given, {"text": "hi"})
    assert _rows(tmp_path, "SELECT input, length(message) FROM runs") == [(None, 13)]
    assert _rows(tmp_path, "SELECT packed, length(data) FROM blobs") == [(0, 4_010)]


async def test_a_refused_row_fails_alone(tmp_path: Path) -> None:
    """Of runs started in one transaction, the one whose id is taken fails and the others are there."""
    failed: list[str] = []
    async with open_store(URL, tmp_path) as store:
        await store.start_run(_run("taken"))

        async def start(run_id: str) -> None:
            try:
                await store.start_run(_run(run_id))
            except StoreError:
                failed.append(run_id)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for run_id in ("a", "taken", "b"):
                    group.start_soon(start, run_id)
        assert failed == ["taken"]
        assert [await store.get_run(run_id) is not None for run_id in ("a", "b", "taken")] == [True] * 3


async def test_full_disk_is_a_sentence_and_leaves_no_hole(tmp_path: Path) -> None:
    """When the disk is full, writers are told; a run that lost an entry takes no later one until it is claimed anew."""
    async with open_store(URL, tmp_path, clock=lambda: 100.0) as store:
        await store.start_run(_run("r"))
        (claim,) = await store.claim("w", limit=1)
        pages = _pragma(store, 0, "page_count")
        _pragma(store, 0, f"max_page_count={pages}")
        noise = os.urandom(200_000).hex()
        await store.append("r", claim.epoch, [_done("lost", noise)], wait=False)
        with pytest.raises(StoreError, match="disk is full; free some space"):
            await store.append("r", claim.epoch, [_done("next")])
        _pragma(store, 0, "max_page_count=1000000")
        # Space alone does not fill the hole: the worker is told again, and with that the run is free for the next claim.
        assert list(await store.claim("w", limit=1)) == []
        with pytest.raises(StoreError, match="disk is full"):
            await store.append("r", claim.epoch, [_done("next")])
        (again,) = await store.claim("w", limit=1)
        await store.append("r", again.epoch, [_done("next")])
        assert [entry.seq for entry in await store.entries("r")] == [1, 2, 3, 4]
        assert list((await store.claim("w", limit=1)) or ()) == []


async def test_a_heartbeat_tells_of_a_hole(tmp_path: Path) -> None:
    """A worker that writes nothing more hears of a lost entry at its next heartbeat; the next claim goes on at once."""
    async with open_store(URL, tmp_path, clock=lambda: 100.0) as store:
        await store.start_run(_run("r"))
        (claim,) = await store.claim("w", limit=1)
        _pragma(store, 0, f"max_page_count={_pragma(store, 0, 'page_count')}")
        await store.append("r", claim.epoch, [_done("lost", os.urandom(200_000).hex())], wait=False)
        with pytest.raises(StoreError, match="disk is full"):
            await store.put("s", "k", os.urandom(200_000).hex())
        _pragma(store, 0, "max_page_count=1000000")
        assert list(await store.heartbeat("w", {"r": claim.epoch})) == ["r"]
        (again,) = await store.claim("w", limit=1)
        assert (again.epoch, list(again.run.steps)) == (claim.epoch + 1, [])


async def test_a_claim_that_fails_mends_nothing(tmp_path: Path) -> None:
    """A run with a hole under its epoch is claimed in a transaction that is rolled back: the old epoch still takes no more."""
    now = 100.0
    full = "CREATE TRIGGER {0} BEFORE INSERT ON journal WHEN new.{1} BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    async with open_store(URL, tmp_path, clock=lambda: now) as store:
        await store.start_run(_run("r"))
        (claim,) = await store.claim("w", limit=1)
        with sqlite3.connect(tmp_path / "mesh.db") as other:
            other.execute(full.format("lost", "path = 'lost'"))
            other.execute(full.format("working", "kind = 'run.working'"))
        other.close()
        await store.append("r", claim.epoch, [_done("lost")], wait=False)
        now += 31
        with pytest.raises(StoreError, match="disk is full"):
            await store.claim("w", limit=1)
        with pytest.raises(StoreError, match="disk is full"):
            await store.append("r", claim.epoch, [_done("next")])
        assert [entry.path for entry in await store.entries("r")] == ["", ""]


async def test_a_value_that_cannot_be_kept_fails_its_run_only(tmp_path: Path) -> None:
    """A number past 64 bits where the table has one: that append fails, others of the same moment do not, and the run lapses."""
    now = 100.0
    async with open_store(URL, tmp_path, clock=lambda: now) as store:
        for run_id in ("bad", "good"):
            await store.start_run(_run(run_id))
        epochs = {claim.run.id: claim.epoch for claim in await store.claim("w", limit=2)}
        said: dict[str, str] = {}

        async def append(run_id: str, attempt: int) -> None:
            try:
                await store.append(run_id, epochs[run_id], [Entry(Kind.STEP_STARTED, "s", attempt, {})])
            except StoreError as error:
                said[run_id] = error.message

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(append, "bad", 2**70)
                group.start_soon(append, "good", 1)
        assert list(said) == ["bad"]
        assert "cannot take what it was given" in said["bad"]
        assert list(await store.heartbeat("w", epochs)) == ["bad"]
        assert list(await store.claim("w", limit=1)) == []  # not at once: it would fail again as fast as it could
        now += 31
        assert "bad" in [claim.run.id for claim in await store.claim("w", limit=2)]


async def test_a_locked_file_is_a_sentence_and_then_forgotten(tmp_path: Path) -> None:
    """While another program holds the file writers fail after a while and readers go on; later writes work, without a hole."""
    async with SqlStore(database.resolve(URL, tmp_path), stalled=0.3) as store:
        await store.start_run(_run("r"))
        (claim,) = await store.claim("w", limit=1)
        other = sqlite3.connect(tmp_path / "mesh.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            with anyio.fail_after(10):
                await store.append("r", claim.epoch, [_done("lost")], wait=False)
                with pytest.raises(StoreError, match="another program holds it; close that program"):
                    await store.append("r", claim.epoch, [_done("next")])
                with pytest.raises(StoreError, match="another program holds it"):
                    await store.claim("w", limit=1)
                assert await store.get_run("r") is not None
        finally:
            other.close()
        with pytest.raises(StoreError, match="another program holds it"):
            await store.append("r", claim.epoch, [_done("late")])
        (again,) = await store.claim("w", limit=1)
        await store.append("r", again.epoch, [_done("next")])
        assert [entry.path for entry in await store.entries("r")] == ["", "", "", "next"]


async def test_closed_store_refuses_to_write(tmp_path: Path) -> None:
    """After the store is left, a write is an error and not a silence."""
    async with open_store(URL, tmp_path) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await store.put("s", "k", 1)


async def test_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a later release is left alone, and the sentence says what to do."""
    async with open_store(URL, tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "mesh.db")
    connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreTooNew, match=r"schema 99, newer than .* upgrade AgentMesh"):
        await open_store(URL, tmp_path).__aenter__()


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    """Tables are not added to a database that belongs to another program."""
    connection = sqlite3.connect(tmp_path / "mesh.db")
    connection.execute("CREATE TABLE customers (id)")
    connection.close()
    with pytest.raises(StoreError, match=r"belongs to something else .*customers"):
        await open_store(URL, tmp_path).__aenter__()


async def test_other_file_is_refused(tmp_path: Path) -> None:
    """A file that is no database is named as such and stays as it is; so is a damaged one."""
    (tmp_path / "mesh.db").write_text("these are my notes, long enough to be read as a header\n" * 20)
    with pytest.raises(StoreError, match="not a SQLite database"):
        await open_store(URL, tmp_path).__aenter__()
    assert (tmp_path / "mesh.db").read_text().startswith("these are my notes")


async def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A database in a place where nothing can be written is one sentence; the lock is not left behind."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        await open_store("sqlite:///file/mesh.db", tmp_path).__aenter__()
    (tmp_path / "mesh.db").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be opened"):
            await open_store(URL, tmp_path).__aenter__()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_read_only_file_is_refused(tmp_path: Path) -> None:
    """A database this user may not write is one sentence."""
    async with open_store(URL, tmp_path):
        pass
    (tmp_path / "mesh.db").chmod(0o400)
    with pytest.raises(StoreError, match="cannot be"):
        await open_store(URL, tmp_path).__aenter__()


@pytest.mark.parametrize("url", ["", "agentmesh.db", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "postgresql"])
def test_other_urls_are_refused(url: str, tmp_path: Path) -> None:
    """A store that is no database we know, or would not last, is refused with an example."""
    with pytest.raises(StoreError, match=r"sqlite:///agentmesh.db"):
        open_store(url, tmp_path)


def test_paths_count_from_the_folder(tmp_path: Path) -> None:
    """A relative SQLite path is in the mesh's folder; an absolute one is where it says."""
    assert database.resolve("sqlite:///x.db", tmp_path).database == str(tmp_path / "x.db")
    assert database.resolve("sqlite:////var/x.db", tmp_path).database == "/var/x.db"


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    """Messages name a PostgreSQL database without its password."""
    assert "secret" not in database.name(database.resolve("postgresql://u:secret@h/d", tmp_path))
