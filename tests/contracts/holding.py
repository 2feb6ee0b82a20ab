"""Holding: claims, leases, and that whoever lost one writes nothing."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.core.run import Entry, Kind, RunState
from agentmesh.core.store import RunFilter, Store
from agentmesh.errors import LeaseLost
from tests.contracts.bench import Bench, claimed, done, seqs


async def claim_takes_oldest_first(bench: Bench) -> None:
    """Claims are of the oldest runs, WORKING under epoch 1, and nobody else gets them while the lease lasts."""
    runs = [bench.run(created_at=bench.now - age) for age in (1, 3, 2)]
    async with bench.open() as store:
        for run in runs:
            await store.start_run(run)
        first = await store.claim("w1", limit=2, lease=30)
        assert [claim.run.id for claim in first] == [runs[1].id, runs[2].id]
        assert {claim.epoch for claim in first} == {1}
        assert {claim.run.state for claim in first} == {RunState.WORKING}
        assert first[0].run == await store.get_run(runs[1].id)
        assert (await store.entries(runs[1].id))[-1].payload == {"worker": "w1"}
        assert [claim.run.id for claim in await store.claim("w2", limit=9)] == [runs[0].id]
        assert list(await store.claim("w2", limit=9)) == []


async def claim_can_name_runs(bench: Bench) -> None:
    """`only` takes those runs and no others, and not one that somebody holds."""
    a, b = bench.run(), bench.run()
    async with bench.open() as store:
        await store.start_run(a)
        await store.start_run(b)
        assert [claim.run.id for claim in await store.claim("w1", limit=9, only=[b.id, "nobody"])] == [b.id]
        assert list(await store.claim("w2", limit=9, only=[b.id])) == []
        assert list(await store.claim("w2", limit=9, only=[])) == []


async def stale_epoch_writes_nothing(bench: Bench) -> None:
    """A worker that slept through its lease gets LeaseLost, and neither its entries nor its values are there."""
    async with bench.open() as store:
        old = await claimed(store, bench.run())
        bench.now += 31
        (new,) = await store.claim("w2", limit=1)
        assert (new.run.id, new.epoch) == (old.run.id, 2)
        with pytest.raises(LeaseLost):
            await store.append(old.run.id, old.epoch, [done()], put={("s", "k"): 1})
        assert list(await store.heartbeat("w1", {old.run.id: old.epoch})) == [old.run.id]
        await store.release(old.run.id, old.epoch)
        await store.append(new.run.id, new.epoch, [done("mine")])
        run = await store.get_run(old.run.id)
        assert run is not None
        assert list(run.steps) == ["mine"]
        assert await store.get("s", "k") is None


async def one_stale_append_fails_alone(bench: Bench) -> None:
    """Among fifty appends at the same moment, those without a lease fail and all others are written."""
    lost: list[int] = []
    async with bench.open() as store:
        claims = [await claimed(store, bench.run()) for _ in range(10)]

        async def write(i: int) -> None:
            claim = claims[i % 10]
            try:
                await store.append(claim.run.id, claim.epoch + (i % 5 == 0), [done(f"s{i}")])
            except LeaseLost:
                lost.append(i)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for i in range(50):
                    group.start_soon(write, i)
        assert sorted(lost) == list(range(0, 50, 5))
        runs = [await store.get_run(claim.run.id) for claim in claims]
        written = sorted(path for run in runs if run is not None for path in run.steps)
        assert written == sorted(f"s{i}" for i in range(50) if i % 5)
        for claim in claims:
            entries = await store.entries(claim.run.id)
            assert seqs(entries) == list(range(1, len(entries) + 1))


async def heartbeat_extends_a_lease(bench: Bench) -> None:
    """A lease that is extended is not over; one that is not can be taken."""
    async with bench.open() as store:
        kept = await claimed(store, bench.run())
        left = await claimed(store, bench.run())
        bench.now += 20
        assert list(await store.heartbeat("w1", {kept.run.id: kept.epoch}, lease=30)) == []
        bench.now += 15
        assert [claim.run.id for claim in await store.claim("w2", limit=9)] == [left.run.id]
        assert list(await store.heartbeat("w2", {kept.run.id: kept.epoch})) == [kept.run.id]


async def released_run_is_claimed_at_once(bench: Bench) -> None:
    """A run given back goes to the next claim with its steps, and its former worker can write no more."""
    async with bench.open() as store:
        old = await claimed(store, bench.run())
        await store.append(old.run.id, old.epoch, [done("cut", 3)])
        await store.release(old.run.id, old.epoch)
        with pytest.raises(LeaseLost):
            await store.append(old.run.id, old.epoch, [done("late")])
        (new,) = await store.claim("w2", limit=1)
        assert new.epoch == old.epoch + 1
        assert new.run.steps["cut"].output == 3
        await store.append(new.run.id, new.epoch, [done("next")])


async def longest_due_is_claimed_first(bench: Bench) -> None:
    """Whether it was waiting, given back, lapsed or new: the order is that of the times at which they were due."""
    async with bench.open() as store:
        lapsed = await claimed(store, bench.run())  # due at 1030
        parked = await claimed(store, bench.run())
        await store.park(parked.run.id, parked.epoch, [], wake_at=1_020.0, mail=0)
        bench.now += 10
        given_back = await claimed(store, bench.run())
        await store.release(given_back.run.id, given_back.epoch)  # due at 1010
        bench.now += 15
        new, ahead = bench.run(), bench.run(created_at=5_000.0)
        await store.start_run(new)
        bench.now += 1
        await store.start_run(ahead)
        bench.now = 1_030.0
        order = [claim.run.id for claim in await store.claim("w2", limit=9)]
        assert order == [given_back.run.id, parked.run.id, new.id, ahead.id, lapsed.run.id]


async def workflow_is_held_at_once_so_often(bench: Bench) -> None:
    """`at_once` bounds what all workers hold of a workflow; others pass it by, and `only` is not bound."""
    async with bench.open() as store:
        for i in range(5):
            await store.start_run(bench.run(workflow="slow", created_at=900.0 + i))
        fast = [bench.run(workflow="fast", created_at=950.0 + i) for i in range(2)]
        for run in fast:
            await store.start_run(run)
        first = await store.claim("w1", limit=4, at_once={"slow": 2})
        assert [claim.run.workflow for claim in first] == ["slow", "slow", "fast", "fast"]
        assert list(await store.claim("w2", limit=9, at_once={"slow": 2, "fast": 9})) == []
        (named,) = await store.claim("w2", limit=1, only=[(await _of(store, "slow"))[-1]], at_once={"slow": 2})
        assert list(await store.claim("w2", limit=9, at_once={"slow": 3})) == []
        await store.append(first[0].run.id, 1, [Entry(Kind.RUN_COMPLETED)])
        await store.park(first[1].run.id, 1, [], wake_at=None, mail=0)
        assert len(await store.claim("w2", limit=9, at_once={"slow": 2})) == 1
        bench.now += 31  # every lease is over: nobody holds anything
        again = await store.claim("w2", limit=9, at_once={"slow": 1})
        assert sorted(claim.run.workflow for claim in again) == ["fast", "fast", "slow"]
        assert named.run.workflow == "slow"


async def _of(store: Store, workflow: str) -> list[str]:
    page = await store.list_runs(RunFilter(workflow=workflow, states=(RunState.SUBMITTED,)))
    return [run.id for run in page.runs]
