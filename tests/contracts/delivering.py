"""Push deliveries: due when the journal has grown past them, one worker's at a time, kept until everything was delivered."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from agentmesh.core.push import Delivery
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.store import Store
from agentmesh.errors import Conflict, NotFound
from tests.contracts.bench import Bench, claimed, done


def _to(run: Run, name: str = "c1", **fields: object) -> Delivery:
    given = {"tenant": run.tenant, "owner": run.owner, "host": "hooks.example", "box": "sealed"}
    return Delivery(run.id, name, **{**given, **fields})  # type: ignore[arg-type]


async def _due(store: Store, worker: str = "w1", **more: object) -> list[str]:
    given = {"limit": 100, "per_host": 100, **more}
    return [one.id for one in await store.claim_deliveries(worker, **given)]  # type: ignore[arg-type]


async def a_delivery_is_due_while_its_run_has_news(bench: Bench) -> None:
    """At once when the journal is past its cursor, again when it has grown, and not in between."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.add_delivery(_to(claim.run, cursor=1), most=5)
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        assert (one.run_id, one.id, one.cursor, one.box, one.epoch) == (claim.run.id, "c1", 1, "sealed", 1)
        assert await store.keep_delivery(one.delivered(2), after=0)
        assert await _due(store) == []
        await store.append(claim.run.id, claim.epoch, [done()])
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10, only=[claim.run.id])
        assert (one.cursor, one.epoch) == (2, 2)
        await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED)])
        assert await store.keep_delivery(one.delivered(4), after=None)
        assert await _due(store) == []
        (one,) = await store.deliveries(claim.run.id)
        assert (one.ended, one.cursor) == (True, 4)


async def a_delivery_is_one_workers_at_a_time(bench: Bench) -> None:
    """Until it is given back or its lease is over; then whoever had it can write nothing more."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.add_delivery(_to(claim.run), most=5)
        (mine,) = await store.claim_deliveries("w1", limit=10, per_host=10, lease=60)
        assert await _due(store, "w2") == []
        mine = mine.delivered(1)
        assert await store.keep_delivery(mine, after=60, held=True)
        bench.now += 59
        assert await _due(store, "w2") == []
        bench.now += 2
        (theirs,) = await store.claim_deliveries("w2", limit=10, per_host=10)
        assert (theirs.cursor, theirs.epoch) == (1, mine.epoch + 1)
        assert not await store.keep_delivery(mine.delivered(2), after=0)
        assert await store.keep_delivery(theirs.delivered(2), after=0)
        assert not await store.keep_delivery(theirs.delivered(2), after=0)
        assert [one.cursor for one in await store.deliveries(claim.run.id)] == [2]


async def two_workers_never_take_the_same_delivery(bench: Bench) -> None:
    """However many ask at the same moment, each delivery is taken once."""
    async with bench.open() as store:
        for _ in range(10):
            claim = await claimed(store, bench.run())
            await store.add_delivery(_to(claim.run), most=5)
        taken: list[str] = []

        async def take(worker: str) -> None:
            found = await store.claim_deliveries(worker, limit=6, per_host=100)
            taken.extend(one.run_id for one in found)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(take, f"w{number}")
        taken.extend(one.run_id for one in await store.claim_deliveries("w9", limit=10, per_host=100))
        assert len(taken) == len(set(taken)) == 10


async def one_host_takes_no_more_than_its_places(bench: Bench) -> None:
    """Those of other hosts are taken past it, however many of it are due."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        for number in range(8):
            await store.add_delivery(_to(claim.run, f"slow{number}", host="slow.example"), most=20)
        bench.now += 1
        await store.add_delivery(_to(claim.run, "quick"), most=20)
        bench.now += 1
        assert await _due(store, per_host=2) == ["slow0", "slow1", "quick"]
        assert await _due(store, per_host=2, busy={"slow.example": 2, "hooks.example": 1}) == []
        assert await _due(store, per_host=3, busy={"slow.example": 2}) == ["slow2"]
        assert await _due(store, limit=1) == ["slow3"]


async def a_failed_delivery_waits_and_is_shown(bench: Bench) -> None:
    """Until its time has come; one that was given up for ever, unless somebody revives it."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run(tenant="acme"))
        await store.add_delivery(_to(claim.run), most=5)
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        one = one.failed("503", bench.now, refused=False)
        assert await store.keep_delivery(one, after=8)
        bench.now += 7
        assert await _due(store) == []
        (seen,) = await store.find_deliveries()
        assert (seen.error, seen.attempts, seen.failing_since, seen.dead_at) == ("503", 1, bench.now - 7, None)
        bench.now += 1
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        assert one.attempts == 1
        one = one.failed("410", bench.now, refused=True)
        assert await store.keep_delivery(one, after=None)
        bench.now += 100_000
        assert await _due(store) == []
        assert await store.find_deliveries() == []
        assert [d.id for d in await store.find_deliveries(dead=True, tenant="acme")] == ["c1"]
        assert await store.find_deliveries(dead=True, tenant="other") == []
        assert not await store.revive_delivery(claim.run.id, "other")
        assert await store.revive_delivery(claim.run.id, "c1")
        assert await store.find_deliveries(dead=True) == []
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        assert (one.attempts, one.dead_at, one.cursor) == (0, None, 0)


async def a_run_has_so_many_deliveries_and_no_more(bench: Bench) -> None:
    """One of the same id is replaced, and has what was not delivered before."""
    async with bench.open() as store:
        with pytest.raises(NotFound):
            await store.add_delivery(_to(bench.run()), most=2)
        claim = await claimed(store, bench.run())
        await store.add_delivery(_to(claim.run, "a", cursor=1), most=2)
        bench.now += 1
        await store.add_delivery(_to(claim.run, "b", cursor=2), most=2)
        with pytest.raises(Conflict):
            await store.add_delivery(_to(claim.run, "c"), most=2)
        (held,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        await store.add_delivery(_to(claim.run, "a", cursor=2, box="another"), most=2)
        assert not await store.keep_delivery(replace(held, cursor=2), after=0)
        assert [(d.id, d.box, d.cursor) for d in await store.deliveries(claim.run.id)] == [
            ("a", "another", 1),
            ("b", "sealed", 2),
        ]
        await store.remove_delivery(claim.run.id, "a")
        await store.remove_delivery(claim.run.id, "a")
        assert [d.id for d in await store.deliveries(claim.run.id)] == ["b"]
        assert await store.deliveries(bench.run().id) == []


async def deliveries_go_with_their_run(bench: Bench) -> None:
    """Those that were given up, too."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.add_delivery(_to(claim.run), most=5)
        (one,) = await store.claim_deliveries("w1", limit=10, per_host=10)
        await store.keep_delivery(one.failed("no", bench.now, refused=True), after=None)
        await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED)])
        bench.now += 10
        assert await store.prune(bench.now) == 1
        assert await store.find_deliveries(dead=True) == []
        assert await store.deliveries(claim.run.id) == []


async def a_poke_is_heard_and_nothing_is_written(bench: Bench) -> None:
    """By whoever listens for pokes, and nobody who listens for changes."""
    async with bench.open() as store:
        run = bench.run()
        await store.start_run(run)
        pokes, changes = store.pokes(), store.changes(run.id)
        await store.poke(run.id)
        with anyio.fail_after(5):
            assert await anext(pokes) == run.id
        with anyio.move_on_after(0.01) as waited:
            await anext(changes)
        assert waited.cancelled_caught
        assert len(await store.entries(run.id)) == 1
