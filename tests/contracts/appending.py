"""Appending: rows are numbered, ordered and folded; the head says what the fold says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest

from agentmesh.core.model import Usage
from agentmesh.core.run import Entry, Kind, RunState, StepState, fold
from agentmesh.core.store import RunFilter
from agentmesh.errors import LeaseLost
from tests.contracts.bench import Bench, claimed, done, seqs


async def append_is_numbered_and_folded(bench: Bench) -> None:
    """Entries get the next seq and the clock's time, and the run read back is their fold."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        bench.now += 5
        await store.append(
            claim.run.id, claim.epoch, [Entry(Kind.STEP_STARTED, "ask", 1, {"verb": "llm", "why": "first"})]
        )
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 1, "seconds": 0.25}
        attempt = Entry(Kind.STEP_ATTEMPT, "ask", 1, {"model": "tiny", "usage": usage, "verdicts": []})
        await store.append(claim.run.id, claim.epoch, [attempt, done("ask", {"cause": "import"})])
        entries = await store.entries(claim.run.id)
        assert seqs(entries) == [1, 2, 3, 4, 5]
        assert [entry.at for entry in entries] == [1000.0, 1000.0, 1005.0, 1005.0, 1005.0]
        assert seqs(await store.entries(claim.run.id, after=3)) == [4, 5]
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert run == fold(claim.run, entries[2:])
        assert run.usage == Usage(7, 3, 1, 0.25)
        assert run.steps["ask"].output == {"cause": "import"}
        assert run.steps["ask"].state is StepState.COMPLETED


async def head_equals_fold(bench: Bench) -> None:
    """Whatever happened to a run, the list shows what the fold of its journal says."""
    ends: list[Sequence[Entry]] = [
        [],
        [Entry(Kind.RUN_COMPLETED, payload={"output": {"cause": "type"}})],
        [Entry(Kind.RUN_FAILED, payload={"error": {"code": "timeout", "message": "too slow", "path": "ask"}})],
        [Entry(Kind.RUN_CANCELED, payload={"by": "ann"})],
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    async with bench.open() as store:
        for end in ends:
            claim = await claimed(store, bench.run())
            attempt = Entry(Kind.STEP_ATTEMPT, "ask", 1, {"usage": usage, "error": {"code": "x", "message": "y"}})
            await store.append(claim.run.id, claim.epoch, [attempt])
            await store.append(claim.run.id, claim.epoch, [done("ask"), attempt])
            bench.now += 1
            await store.append(claim.run.id, claim.epoch, end)
            (head,) = [run for run in (await store.list_runs(RunFilter())).runs if run.id == claim.run.id]
            run = await store.get_run(claim.run.id)
            assert run is not None
            assert head == replace(run, steps={})
            assert (
                run.state == (RunState.WORKING, RunState.COMPLETED, RunState.FAILED, RunState.CANCELED)[ends.index(end)]
            )


async def terminal_run_never_changes(bench: Bench) -> None:
    """A terminal entry ends the lease: no append, claim, cancel or heartbeat touches the run again."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        end = Entry(Kind.RUN_COMPLETED, payload={"output": 42})
        await store.append(claim.run.id, claim.epoch, [done(), end], state=RunState.COMPLETED)
        before = await store.get_run(claim.run.id)
        assert before is not None
        assert (before.state, before.output) == (RunState.COMPLETED, 42)
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [done("late")])
        bench.now += 100
        assert await store.request_cancel(claim.run.id, "ann") == before
        assert list(await store.claim("w2", limit=9)) == []
        assert list(await store.heartbeat("w1", {claim.run.id: claim.epoch})) == [claim.run.id]
        await store.release(claim.run.id, claim.epoch)
        assert await store.get_run(claim.run.id) == before


async def contradicting_state_is_refused(bench: Bench) -> None:
    """A stated state that the entries do not lead to, or an entry past the end, is the author's ValueError."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        with pytest.raises(ValueError, match="does not follow"):
            await store.append(claim.run.id, claim.epoch, [done()], state=RunState.COMPLETED)
        with pytest.raises(ValueError, match="must be the last"):
            await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED), done()])
        assert len(await store.entries(claim.run.id)) == 2
        await store.append(claim.run.id, claim.epoch, [done()], state=RunState.WORKING)


async def values_are_kept_with_their_entries(bench: Bench) -> None:
    """`put` of an append is there with its entries; later writes win; scopes do not mix."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        values = {("workflow:inbox", "a.log"): {"hash": "1"}, ("workflow:inbox", "b.log"): None}
        await store.append(claim.run.id, claim.epoch, [done()], put=values)
        await store.put("workflow:inbox", "a.log", {"hash": "2"})
        await store.put("cron", "a.log", 5.0)
        assert await store.get("workflow:inbox", "a.log") == {"hash": "2"}
        assert await store.scan("workflow:inbox") == {"a.log": {"hash": "2"}, "b.log": None}
        assert await store.get("cron", "a.log") == 5.0


async def unawaited_appends_keep_their_order(bench: Bench) -> None:
    """Appends that do not wait are all there, in order, once a later one that waits has returned."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        for i in range(300):
            await store.append(claim.run.id, claim.epoch, [done(f"s{i}")], wait=False)
        await store.append(claim.run.id, claim.epoch, [done("last")])
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert list(run.steps) == [*(f"s{i}" for i in range(300)), "last"]


async def unawaited_failure_surfaces_later(bench: Bench) -> None:
    """An append without a lease that did not wait is heard of at the next one that does."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.release(claim.run.id, claim.epoch)
        await store.append(claim.run.id, claim.epoch, [done("a")], wait=False)
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [done("b")])
        assert len(await store.entries(claim.run.id)) == 2


async def a_crowd_gets_everything_in(bench: Bench) -> None:
    """A hundred tasks that write at once lose nothing and leave no gap."""
    async with bench.open() as store:
        claims = [await claimed(store, bench.run()) for _ in range(20)]

        async def work(i: int) -> None:
            claim = claims[i % 20]
            for k in range(6):
                await store.append(claim.run.id, claim.epoch, [done(f"{i}.{k}")])

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for i in range(100):
                    group.start_soon(work, i)
        for claim in claims:
            entries = await store.entries(claim.run.id)
            assert seqs(entries) == list(range(1, 33))
