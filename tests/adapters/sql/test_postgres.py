"""PostgreSQL: several servers share one database."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import Entry, Kind, Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.errors import LeaseLost
from tests.postgres import Postgres

pytestmark = pytest.mark.anyio
STARTER = """
import sys, anyio
from pathlib import Path
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.run import Entry, Kind, Run

async def main(url, who):
    async with open_store(url, Path()) as store, anyio.create_task_group() as group:
        print("ready", flush=True)
        sys.stdin.readline()
        new = []
        async def start(i):
            run, made = await store.start_run(Run(f"{who}-{i}", "w", "d", {}, key=f"key-{i}"), {"name": "w"})
            _, added = await store.post(run.id, Entry(Kind.RUN_SIGNALED, payload={"name": "go"}), key="once")
            new.append((made, added))
        async with anyio.create_task_group() as starters:
            for i in range(40):
                starters.start_soon(start, i)
        print(sum(made for made, _ in new), sum(added for _, added in new), flush=True)
anyio.run(main, *sys.argv[1:])
"""


def _run(run_id: str, **fields: object) -> Run:
    return Run(**{"id": run_id, "workflow": "w", "definition": "d", "input": {}, **fields})  # type: ignore[arg-type]


def _done(path: str) -> Entry:
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": None})


async def _two(stack: AsyncExitStack, url: str) -> tuple[SqlStore, SqlStore]:
    first = await stack.enter_async_context(open_store(url, Path()))
    return first, await stack.enter_async_context(open_store(url, Path()))


async def test_two_servers_share_the_runs(postgres_url: str) -> None:
    """Claiming at the same moments, they take all runs and none twice."""
    async with AsyncExitStack() as stack:
        stores = await _two(stack, postgres_url)
        for i in range(100):
            await stores[i % 2].start_run(_run(f"r{i}"))
        taken: list[tuple[str, int, str]] = []

        async def work(store: SqlStore, name: str) -> None:
            while claims := await store.claim(name, limit=7):
                taken.extend((claim.run.id, claim.epoch, name) for claim in claims)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for i in range(4):
                    group.start_soon(work, stores[i % 2], f"w{i % 2}")
        assert sorted(run_id for run_id, _, _ in taken) == sorted(f"r{i}" for i in range(100))
        assert {epoch for _, epoch, _ in taken} == {1}
        assert {name for _, _, name in taken} == {"w0", "w1"}


async def test_bound_of_a_workflow_is_one_for_all_servers(postgres_url: str) -> None:
    """Two servers that claim at the same moment together hold no more of a workflow than it allows."""
    async with AsyncExitStack() as stack:
        stores = await _two(stack, postgres_url)
        for i in range(30):
            await stores[0].start_run(_run(f"r{i}"))
        for most in (1, 4, 9):
            held: list[str] = []

            async def claim(store: SqlStore, most: int = most, held: list[str] = held) -> None:
                held.extend(claim.run.id for claim in await store.claim("w", limit=20, at_once={"w": most}))

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for i in range(6):
                        group.start_soon(claim, stores[i % 2])
            working = (await stores[0].list_runs(RunFilter(states=(RunState.WORKING,)))).total
            assert working == most
            assert len(held) == len(set(held))


async def test_a_key_is_one_run_for_all_servers(postgres_url: str) -> None:
    """Two processes start forty runs with the same keys, and post to each with the same key: each is once."""
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it starts in a moment, and the loop has nothing else to do
            [sys.executable, "-c", STARTER, postgres_url, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for who in "ab"
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [sum(int(each[i]) for each in said) for i in (0, 1)] == [40, 40]
    async with open_store(postgres_url, Path()) as store:
        assert (await store.list_runs(RunFilter())).total == 40


async def test_a_server_that_slept_past_its_lease_writes_nothing(postgres_url: str) -> None:
    """The other has claimed its run meanwhile, by the database's clock; rows and values are refused, and so is parking."""
    async with AsyncExitStack() as stack:
        sleeper, other = await _two(stack, postgres_url)
        await sleeper.start_run(_run("r"))
        (old,) = await sleeper.claim("w1", limit=1, lease=0.05)
        with anyio.fail_after(10):
            while not (taken := await other.claim("w2", limit=1)):  # noqa: ASYNC110 - the database's clock tells nobody
                await anyio.sleep(0.01)
        for attempt in (
            sleeper.append("r", old.epoch, [_done("late")], put={("s", "k"): 1}),
            sleeper.park("r", old.epoch, [_done("late")], wake_at=None, mail=0),
        ):
            with pytest.raises(LeaseLost):
                await attempt
        assert list(await sleeper.heartbeat("w1", {"r": old.epoch})) == ["r"]
        await other.append("r", taken[0].epoch, [_done("mine")])
        run = await sleeper.get_run("r")
        assert run is not None
        assert list(run.steps) == ["mine"]
        assert await sleeper.get("s", "k") is None


async def test_the_databases_clock_rules(postgres_url: str) -> None:
    """A server whose clock is an hour ahead neither steals leases nor wakes runs early; its own times keep their meaning."""
    ahead, right = 3_600.0, time.time
    async with (
        open_store(postgres_url, Path(), clock=lambda: right() + ahead) as fast,
        open_store(postgres_url, Path()) as store,
    ):
        await store.start_run(_run("leased"))
        (held,) = await store.claim("w1", limit=1)
        assert list(await fast.claim("w2", limit=1)) == []
        await fast.start_run(_run("parked"))
        (claim,) = await fast.claim("w2", limit=1)
        wake_at = right() + ahead + 100.0
        assert await fast.park("parked", claim.epoch, [], wake_at=wake_at, mail=0) is None
        theirs, ours = await fast.next_due(), await store.next_due()
        assert theirs is not None
        assert ours is not None
        assert abs(theirs - wake_at) < 2.0
        assert abs(ours - (wake_at - ahead)) < 2.0
        entries = await store.entries("parked")
        assert all(abs(entry.at - right()) < 60.0 for entry in entries)
        await store.append("leased", held.epoch, [_done("cut")])


async def test_changes_are_heard_by_other_servers(
    postgres: Postgres, postgres_url: str, postgres_database: str
) -> None:
    """What one commits the other hears soon; after its connections were killed it hears what it missed, and goes on."""
    async with AsyncExitStack() as stack:
        one, two = await _two(stack, postgres_url)
        heard, only_b = two.changes(), two.changes("b")
        with anyio.fail_after(30):
            while True:  # until the other listens
                await one.put("s", "k", 1)
                await one.start_run(_run(f"a{time.monotonic_ns()}"))
                with anyio.move_on_after(0.2):
                    assert (await anext(heard)).startswith("a")
                    break
            await one.start_run(_run("b"))
            assert await anext(only_b) == "b"
            assert postgres.kill_connections(postgres_database) >= 4
            await one.request_cancel("b", "ann")
            assert await anext(only_b) == "b"
            for i in range(500):
                await one.start_run(_run(f"run-with-a-rather-long-name-{i:04}"))
            seen: set[str] = set()
            async for run_id in heard:
                seen.add(run_id)
                if len({name for name in seen if name.startswith("run-")}) == 500:
                    break
