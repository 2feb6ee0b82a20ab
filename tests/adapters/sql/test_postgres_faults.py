"""PostgreSQL in trouble: nothing acknowledged is lost, nothing is there twice, and the same process goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from agentmesh.adapters.sql.database import resolve
from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.errors import StoreError
from tests.adapters.sql.proxy import proxied
from tests.postgres import Postgres

pytestmark = pytest.mark.anyio
FAILS_TWICE = """
CREATE SEQUENCE tries;
CREATE FUNCTION fail_twice() RETURNS trigger AS $$ BEGIN
    IF new.path = 'cut' AND nextval('tries') <= 2 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '{code}'; END IF;
    RETURN new;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER fail_twice BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION fail_twice();
"""
DIES_IN_COMMIT = """
CREATE SEQUENCE tries;
CREATE FUNCTION die() RETURNS trigger AS $$ BEGIN
    IF new.path = 'cut' AND nextval('tries') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON journal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
"""


def _done(path: str) -> Entry:
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": None})


async def _held(store: SqlStore, run_id: str = "r") -> int:
    await store.start_run(Run(run_id, "w", "d", {}))
    (claim,) = await store.claim("w", limit=1, only=[run_id])
    return claim.epoch


async def _paths(store: SqlStore, run_id: str = "r") -> list[str]:
    entries = await store.entries(run_id)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.path for entry in entries if entry.path]


@pytest.mark.parametrize("code", ["40P01", "40001", "55P03"])
async def test_rolled_back_for_certain_is_written_again(
    code: str, postgres: Postgres, postgres_url: str, postgres_database: str
) -> None:
    """After a deadlock, a serialization failure or a lock that took too long, the batch is written all the same, once."""
    async with open_store(postgres_url, Path()) as store:
        epoch = await _held(store)
        postgres.execute(FAILS_TWICE.format(code=code), database=postgres_database)
        with anyio.fail_after(20):
            await store.append("r", epoch, [_done("cut")], put={("s", "k"): 1})
        assert await _paths(store) == ["cut"]
        assert await store.get("s", "k") == 1


async def test_a_commit_that_died_is_found_out(postgres: Postgres, postgres_url: str, postgres_database: str) -> None:
    """The connection is lost in the commit, which the server had rolled back: it is asked, and the rows are written once."""
    async with open_store(postgres_url, Path()) as store:
        epoch = await _held(store)
        postgres.execute(DIES_IN_COMMIT, database=postgres_database)
        with anyio.fail_after(20):
            await store.append("r", epoch, [_done("cut")])
        assert await _paths(store) == ["cut"]


async def test_a_commit_whose_answer_is_lost_is_not_repeated(postgres: Postgres, postgres_url: str) -> None:
    """The server had committed and the answer never came: it is asked, the caller hears of success, and the rows are there once."""
    async with proxied(postgres.port) as proxy:
        url = postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/") + "?gssencmode=disable&sslmode=disable"
        async with open_store(url, Path()) as store:
            epoch = await _held(store)
            for path in ("cut", "next"):
                proxy.cut = True
                with anyio.fail_after(20):
                    await store.append("r", epoch, [_done(path)])
            assert proxy.cuts == 2
            assert await _paths(store) == ["cut", "next"]


async def test_killed_connections_are_not_noticed(
    postgres: Postgres, postgres_url: str, postgres_database: str
) -> None:
    """Every connection is killed, again and again, while rows are written: no caller fails and no row is lost or doubled."""
    async with open_store(postgres_url, Path()) as store:
        epochs = {f"r{i}": await _held(store, f"r{i}") for i in range(8)}
        ended = anyio.Event()
        written = dict.fromkeys(epochs, 0)

        async def write(run_id: str) -> None:
            while not ended.is_set():
                await store.append(
                    run_id, epochs[run_id], [_done(f"s{written[run_id]}")], wait=written[run_id] % 3 == 0
                )
                written[run_id] += 1
                await anyio.lowlevel.checkpoint()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for run_id in epochs:
                    group.start_soon(write, run_id)
                for _ in range(6):
                    before = sum(written.values())
                    await run_sync(postgres.kill_connections, postgres_database)
                    while sum(written.values()) < before + 50:  # noqa: ASYNC110 - what happens here is another thread's
                        await anyio.sleep(0.01)
                ended.set()
        for run_id, epoch in epochs.items():
            await store.append(run_id, epoch, [])
            assert await _paths(store, run_id) == [f"s{i}" for i in range(written[run_id])]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_is_survived(how: signal.Signals, postgres: Postgres, postgres_url: str) -> None:
    """While it is down callers get a sentence at once; what was acknowledged is there, and the same process goes on."""
    async with open_store(postgres_url, Path()) as store:
        epoch = await _held(store)
        await store.append("r", epoch, [_done("before")])
        await run_sync(postgres.stop, how)
        try:
            with anyio.fail_after(20):
                with pytest.raises(StoreError, match="no server answers there"):
                    await store.append("r", epoch, [_done("lost")])
                with pytest.raises(StoreError, match="no server answers there"):
                    await store.get_run("r")
                with pytest.raises(StoreError):
                    await store.put("s", "k", 1)
        finally:
            postgres.start()  # here, since it would die with a thread
        with anyio.fail_after(20):
            await store.put("s", "k", 2)
            # The run's next append would leave a hole under this epoch; its worker is told, and the next claim goes on at once.
            with pytest.raises(StoreError, match="no server answers there"):
                await store.append("r", epoch, [_done("next")])
            (again,) = await store.claim("w", limit=1)
            assert (again.run.id, again.epoch) == ("r", epoch + 1)
            await store.append("r", again.epoch, [_done("after")])
        assert await _paths(store) == ["before", "after"]


async def test_a_short_restart_is_not_noticed(postgres: Postgres, postgres_url: str) -> None:
    """A server that is back within a moment costs no caller an error."""
    async with open_store(postgres_url, Path()) as store:
        epoch = await _held(store)
        await run_sync(postgres.stop)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(store.append, "r", epoch, [_done("cut")])
                await anyio.lowlevel.checkpoint()
                postgres.start()  # here, since it would die with a thread
        assert await _paths(store) == ["cut"]


async def test_a_stalled_server_is_given_up(postgres: Postgres, postgres_url: str) -> None:
    """Nothing answers and nothing hangs up: readers and writers get a StoreError, and later writes work."""
    async with SqlStore(resolve(postgres_url, Path()), stalled=1.0) as store:
        epoch = await _held(store)
        with postgres.stalled(), anyio.fail_after(40):
            with pytest.raises(StoreError):
                await store.get_run("r")
            with pytest.raises(StoreError):
                await store.append("r", epoch, [_done("lost")])
        with anyio.fail_after(20):
            while True:
                try:
                    await store.put("s", "k", 1)
                    break
                except StoreError:
                    await anyio.sleep(0.1)
            assert await _paths(store) == []


async def test_a_row_held_for_ever_is_given_up(postgres: Postgres, postgres_url: str) -> None:
    """Another program that keeps a lock makes the writer fail with a sentence after some seconds; then it goes on."""
    import psycopg

    async with open_store(postgres_url, Path()) as store:
        epoch = await _held(store)
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM runs FOR UPDATE")
            with anyio.fail_after(40):
                with pytest.raises(StoreError, match="held a row for too long"):
                    await store.append("r", epoch, [_done("lost")])
            other.rollback()
        await store.put("s", "k", 1)
        assert list(await store.heartbeat("w", {"r": epoch})) == ["r"]
        (again,) = await store.claim("w", limit=1)
        await store.append("r", again.epoch, [_done("next")])
        assert await _paths(store) == ["next"]
