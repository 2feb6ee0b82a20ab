"""Posting: what comes from outside is kept, once per key, whoever holds the run."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.core.run import Entry, Kind, Run, RunState
from agentmesh.errors import Conflict, InvalidInput, NotFound
from tests.contracts.bench import Bench, claimed, done, seqs


def _signal(value: object = None) -> Entry:
    return Entry(Kind.RUN_SIGNALED, payload={"name": "go", "value": value, "by": "ann"})


async def post_is_a_row_whoever_holds_the_run(bench: Bench) -> None:
    """Before the first claim, while it is held and after it was given back: numbered, dated, and the holder goes on."""
    async with bench.open() as store:
        run = bench.run()
        await store.start_run(run)
        posted, added = await store.post(run.id, _signal(1))
        assert added
        assert (posted.seq, posted.state) == (2, RunState.SUBMITTED)
        (claim,) = await store.claim("w1", limit=1)
        assert claim.mail == 1
        bench.now += 1
        await store.post(run.id, _signal({"log": "é" * 40_000}))
        await store.append(run.id, claim.epoch, [done()])
        await store.release(run.id, claim.epoch)
        await store.post(run.id, _signal(3))
        entries = await store.entries(run.id)
        assert seqs(entries) == [1, 2, 3, 4, 5, 6]
        signals = [entry for entry in entries if entry.kind is Kind.RUN_SIGNALED]
        assert [entry.at for entry in signals] == [1000.0, 1001.0, 1001.0]
        assert signals[1].payload["value"] == {"log": "é" * 40_000}


async def twenty_posts_with_one_key_are_one_row(bench: Bench) -> None:
    """At the same moment or later: one is added, and each caller gets the run; another key, and none, add more."""
    said: list[tuple[Run, bool]] = []
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        other = await claimed(store, bench.run())

        async def post() -> None:
            said.append(await store.post(claim.run.id, _signal(), key="once"))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(post)
        assert [added for _, added in said].count(True) == 1
        assert {run.id for run, _ in said} == {claim.run.id}
        assert not (await store.post(claim.run.id, _signal(), key="once"))[1]
        assert len(await store.entries(claim.run.id)) == 3
        assert (await store.post(claim.run.id, _signal(), key="twice"))[1]
        assert (await store.post(other.run.id, _signal(), key="once"))[1]
        assert [(await store.post(other.run.id, _signal()))[1] for _ in range(2)] == [True, True]


async def post_to_an_ended_run_is_a_conflict(bench: Bench) -> None:
    """What arrives too late is refused; what had arrived before is still known by its key; nobody is NotFound."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.post(claim.run.id, _signal(), key="early")
        await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED)])
        with pytest.raises(Conflict, match="ended"):
            await store.post(claim.run.id, _signal())
        with pytest.raises(Conflict, match="ended"):
            await store.post(claim.run.id, _signal(), key="late")
        assert not (await store.post(claim.run.id, _signal(), key="early"))[1]
        with pytest.raises(NotFound):
            await store.post("nobody", _signal())
        with pytest.raises(InvalidInput):
            await store.post(claim.run.id, _signal(), key="nul \x00")
        assert len(await store.entries(claim.run.id)) == 4
