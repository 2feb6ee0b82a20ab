"""Canceling: at once when nobody ever had the run, else asked for."""

from __future__ import annotations

from agentmesh.core.run import Entry, Kind, RunState
from tests.contracts.bench import Bench, claimed


async def cancel_of_an_unclaimed_run_ends_it(bench: Bench) -> None:
    """A run nobody has claimed is canceled in the same moment, and never claimed."""
    async with bench.open() as store:
        run, _ = await store.start_run(bench.run())
        canceled = await store.request_cancel(run.id, "ann")
        assert (canceled.state, canceled.cancel_requested, canceled.seq) == (RunState.CANCELED, True, 3)
        assert list(await store.claim("w1", limit=1)) == []
        assert await store.request_cancel(run.id, "ben") == canceled


async def cancel_of_a_claimed_run_is_asked_for(bench: Bench) -> None:
    """A run that a worker has, or had, is only asked to end, once; the worker's own writes go on."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        asked = await store.request_cancel(claim.run.id, "ann")
        assert (asked.state, asked.cancel_requested) == (RunState.WORKING, True)
        assert await store.request_cancel(claim.run.id, "ben") == asked
        await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_CANCELED, payload={"by": "ann"})])
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert (run.state, run.seq) == (RunState.CANCELED, 4)
        other = await claimed(store, bench.run())
        await store.release(other.run.id, other.epoch)
        assert (await store.request_cancel(other.run.id, "ann")).state is RunState.WORKING
        (again,) = await store.claim("w1", limit=1)
        assert again.run.cancel_requested
