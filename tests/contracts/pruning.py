"""Pruning: what ended long ago goes, with all that only it needed; nothing else does."""

from __future__ import annotations

from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.store import RunFilter, Store
from tests.contracts.bench import Bench, claimed, done, reclaimed

LOG = {"log": "E   assert 1 == 2\n" * 5_000}


async def _ended(store: Store, run: Run, output: object = None) -> Run:
    claim = await claimed(store, run)
    end = Entry(Kind.RUN_COMPLETED, payload={"output": output})
    await store.append(run.id, claim.epoch, [done("cut", output), end])
    return run


async def _ids(store: Store, **fields: object) -> set[str]:
    return {run.id for run in (await store.list_runs(RunFilter(**fields))).runs}  # type: ignore[arg-type]


async def ended_runs_go_oldest_first(bench: Bench) -> None:
    """Of runs that ended before the time at most so many go, the oldest; journal, values of `get_run` and key with them."""
    async with bench.open() as store:
        runs = []
        for i in range(4):
            runs.append(await _ended(store, bench.run(key=f"k{i}")))
            bench.now += 10
        working = await claimed(store, bench.run())
        assert await store.prune(1_000.0) == 0
        assert await store.prune(1_025.0, limit=2) == 2
        assert await _ids(store) == {runs[2].id, runs[3].id, working.run.id}
        assert await store.get_run(runs[0].id) is None
        assert list(await store.entries(runs[0].id)) == []
        assert (await store.start_run(bench.run(key="k0")))[1]
        assert not (await store.start_run(bench.run(key="k3")))[1]
        assert await store.prune(bench.now + 1) == 2
        await store.append(working.run.id, working.epoch, [done()])


async def another_tenant_is_left_alone(bench: Bench) -> None:
    """`tenant` prunes that tenant's runs only; None prunes all."""
    async with bench.open() as store:
        for tenant in ("local", "acme", "acme"):
            await _ended(store, bench.run(tenant=tenant))
        assert await store.prune(bench.now + 1, tenant="acme") == 2
        assert len(await _ids(store)) == 1
        assert await store.prune(bench.now + 1) == 1


async def children_go_with_their_parent(bench: Bench) -> None:
    """A child stays while its parent does, and goes with it; a family with a run that has not ended stays whole."""
    async with bench.open() as store:
        parent = await claimed(store, bench.run())
        child = await _ended(store, bench.run(parent=parent.run.id))
        await _ended(store, bench.run(parent=child.id))
        bench.now += 10
        assert await store.prune(bench.now) == 0
        await store.append(parent.run.id, parent.epoch, [Entry(Kind.RUN_FAILED)])
        late = bench.run(parent=child.id)
        await store.start_run(late)
        bench.now += 10
        assert await store.prune(bench.now) == 0
        taken = await reclaimed(store, late.id)
        await store.append(late.id, taken.epoch, [Entry(Kind.RUN_COMPLETED)])
        assert await store.prune(bench.now) == 4
        assert await _ids(store) == set()


async def what_others_need_stays(bench: Bench) -> None:
    """A long value or a definition goes with the last run that has it, not before."""
    async with bench.open() as store:
        old = bench.run(input=LOG, definition="old", message=LOG)
        await store.start_run(old, {"name": "old"})
        claim = await reclaimed(store, old.id)
        end = Entry(Kind.RUN_COMPLETED, payload={"output": LOG})
        await store.append(old.id, claim.epoch, [done("cut", LOG), end])
        bench.now += 10
        shared = bench.run(input=LOG, definition="both")
        await store.start_run(shared, {"name": "both"})
        also = bench.run(input={"log": "y" * 50_000}, definition="both")
        await store.start_run(also)
        assert await store.prune(bench.now) == 1
        assert await store.get_definition("old") is None
        assert await store.get_definition("both") == {"name": "both"}
        found = await store.get_run(shared.id)
        assert found is not None
        assert found.input == LOG
        again = bench.run(definition="old")
        await store.start_run(again, {"name": "old"})
        assert await store.get_definition("old") == {"name": "old"}
