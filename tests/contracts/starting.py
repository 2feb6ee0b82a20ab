"""Starting: a run is recorded as it was given, once."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from agentmesh.core.model import Usage
from agentmesh.core.run import Entry, Kind, Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.errors import InvalidInput, LeaseLost, NotFound
from tests.contracts.bench import Bench, claimed, done, seqs

LONG = {"log": "E   assert 1 == 2\n" * 3_000}


async def started_run_is_found(bench: Bench) -> None:
    """A run that was started is read back as it was given, with its RUN_SUBMITTED entry dated by the clock."""
    run = bench.run(
        input={"log": "é\u0000\n", "n": [1, 2.5, None, True]}, owner="ann", tenant="acme", source="a2a", key="k",
        parent="p", parent_path="each[0]/x", context_id="c", message={"role": "user", "parts": [{"text": "hi"}]},
    )  # fmt: skip
    async with bench.open() as store:
        recorded, new = await store.start_run(run, {"steps": []})
        assert new
        assert recorded == replace(run, created_at=bench.now, updated_at=bench.now, seq=1)
        assert await store.get_run(run.id) == recorded
        assert list(await store.entries(run.id)) == [Entry(Kind.RUN_SUBMITTED, seq=1, at=bench.now)]
        assert await store.get_definition("d1") == {"steps": []}


async def unknown_ids_are_absent(bench: Bench) -> None:
    """What is not there is None or empty, and cannot be cancelled or written to."""
    async with bench.open() as store:
        assert await store.get_run("nobody") is None
        assert list(await store.entries("nobody")) == []
        assert await store.get_definition("nothing") is None
        assert await store.get("scope", "key") is None
        assert await store.scan("scope") == {}
        with pytest.raises(NotFound):
            await store.request_cancel("nobody", "ann")
        with pytest.raises(LeaseLost):
            await store.append("nobody", 1, [done()])
        assert list(await store.heartbeat("w1", {"nobody": 1})) == ["nobody"]


async def key_starts_one_run(bench: Bench) -> None:
    """Twenty starts with one key at the same time make one run; another tenant's same key makes another."""
    made: list[tuple[Run, bool]] = []
    async with bench.open() as store:

        async def start() -> None:
            made.append(await store.start_run(bench.run(key="once")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(start)
        assert len({run.id for run, _ in made}) == 1
        assert [new for _, new in made].count(True) == 1
        assert (await store.list_runs(RunFilter())).total == 1
        assert (await store.start_run(bench.run(key="once", tenant="other")))[1]
        assert [(await store.start_run(bench.run()))[1] for _ in range(2)] == [True, True]


async def names_are_text(bench: Bench) -> None:
    """A name that no database can hold is its caller's error, and nobody else's."""
    results: list[str] = []
    async with bench.open() as store:
        claim = await claimed(store, bench.run())

        async def start(key: str) -> None:
            try:
                await store.start_run(bench.run(key=key))
                results.append("new")
            except InvalidInput as error:
                results.append(error.code)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for key in ("good", "half \udc00", "nul \x00", "good too"):
                    group.start_soon(start, key)
        assert sorted(results) == ["invalid_input", "invalid_input", "new", "new"]
        for name in ("\ud800", "\x00"):
            with pytest.raises(InvalidInput):
                await store.append(claim.run.id, claim.epoch, [done()], put={("s", name): 1})
            with pytest.raises(InvalidInput):
                await store.put("s", name, 1)
        assert len(await store.entries(claim.run.id)) == 2


async def long_values_come_back_whole(bench: Bench) -> None:
    """Megabytes, odd characters, deep nesting and big numbers are read back as they were written, everywhere."""
    deep: object = "end"
    for _ in range(400):
        deep = [deep]
    log = "E   assert 1 == 2\n" * 60_000
    noise = bench.seed.randbytes(60_000).hex()
    run = bench.run(input={"log": log, "noise": noise}, message={"parts": [{"text": log}]})
    output = {"deep": deep, "half": "\ud800", "zero": "\x00", "big": 2**70, "small": 1e-300, "log": log}
    async with bench.open() as store:
        claim = await claimed(store, run)
        assert claim.run.input == run.input
        assert claim.run.message == run.message
        end = Entry(Kind.RUN_COMPLETED, payload={"output": output})
        await store.append(claim.run.id, claim.epoch, [done("cut", output), end])
        found = await store.get_run(run.id)
        (head,) = (await store.list_runs(RunFilter())).runs
        assert found is not None
        assert found.steps["cut"].output == output
        assert found.output == head.output == output


async def what_was_written_cannot_be_changed(bench: Bench) -> None:
    """Changing a value after it was handed over does not change what is recorded."""
    given = {"list": [1]}
    async with bench.open() as store:
        claim = await claimed(store, bench.run(input=given))
        await store.append(claim.run.id, claim.epoch, [done("cut", given)])
        await store.put("s", "k", given)
        given["list"].append(2)
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert run.input == run.steps["cut"].output == await store.get("s", "k") == {"list": [1]}


async def restart_finds_everything(bench: Bench) -> None:
    """After a restart everything is as it was, and unfinished runs are claimed once their leases are over."""
    async with bench.open() as store:
        await store.start_run(bench.run(key="waiting"), {"name": "triage"})
        claim = await claimed(store, bench.run())
        await store.append(claim.run.id, claim.epoch, [done("cut", 1)], put={("s", "k"): "v"})
        await store.append(claim.run.id, claim.epoch, [done("late", 2)], wait=False)
        page = await store.list_runs(RunFilter())
    bench.now += 31
    async with bench.open() as store:
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert list(run.steps) == ["cut", "late"]
        assert {found.id for found in (await store.list_runs(RunFilter())).runs} == {found.id for found in page.runs}
        assert await store.get("s", "k") == "v"
        assert await store.get_definition("d1") == {"name": "triage"}
        assert not (await store.start_run(bench.run(key="waiting")))[1]
        again = {taken.run.id: taken.epoch for taken in await store.claim("w2", limit=9)}
        assert claim.run.id in again
        assert again[claim.run.id] == claim.epoch + 1
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [done("ghost")])


async def run_begins_with_entries(bench: Bench) -> None:
    """A fork begins with rows of another run, in one transaction: numbered after the first, folded, not yet claimed."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    rows = [Entry(Kind.STEP_ATTEMPT, "ask", 1, {"model": "tiny", "usage": usage}), done("ask", LONG), done("cut", 1)]
    async with bench.open() as store:
        origin = await claimed(store, bench.run())
        fork = bench.run(forked_from=origin.run.id)
        made, new = await store.start_run(fork, {"name": "triage"}, entries=rows)
        assert new
        assert (made.state, made.seq, made.forked_from) == (RunState.SUBMITTED, 4, origin.run.id)
        assert made.steps["ask"].output == LONG
        assert made.usage == Usage(7, 3)
        assert made == await store.get_run(fork.id)
        assert await store.get_head(fork.id) == replace(made, steps={})
        assert seqs(await store.entries(fork.id)) == [1, 2, 3, 4]
        (claim,) = await store.claim("w1", limit=9)
        assert (claim.run.id, claim.epoch) == (fork.id, 1)
        await store.append(fork.id, 1, [done("next")])


async def whole_journal_is_taken_over(bench: Bench) -> None:
    """An import keeps the times of its rows; one that has ended is never due, and its head says how it ended."""
    rows = [
        Entry(Kind.RUN_WORKING, payload={"worker": "far"}, at=400.0), replace(done("cut", 1), at=401.0),
        Entry(Kind.RUN_COMPLETED, payload={"output": LONG}, at=402.5),
    ]  # fmt: skip
    async with bench.open() as store:
        made, new = await store.start_run(bench.run(created_at=399.0, key="k"), entries=rows)
        assert new
        assert (made.state, made.output, made.updated_at) == (RunState.COMPLETED, LONG, 402.5)
        assert [entry.at for entry in await store.entries(made.id)] == [399.0, 400.0, 401.0, 402.5]
        (head,) = (await store.list_runs(RunFilter())).runs
        assert head == replace(made, steps={})
        assert list(await store.claim("w1", limit=9)) == []
        assert await store.next_due() is None
        assert await store.start_run(bench.run(key="k"), entries=[done()]) == (made, False)
        failed = [Entry(Kind.RUN_FAILED, payload={"error": {"code": "timeout", "message": "slow"}}, at=1.0)]
        ended, _ = await store.start_run(bench.run(), entries=failed)
        assert (ended.state, ended.error) == (RunState.FAILED, {"code": "timeout", "message": "slow"})
        with pytest.raises(ValueError, match="must be the last"):
            await store.start_run(bench.run(), entries=[*failed, done()])
        assert (await store.list_runs(RunFilter())).total == 2


async def long_journal_is_taken_over(bench: Bench) -> None:
    """Thousands of rows in one transaction."""
    async with bench.open() as store:
        rows = [done(f"each[{i}]", i) for i in range(3_001)]
        made, _ = await store.start_run(bench.run(), entries=rows)
        assert [step.output for step in made.steps.values()] == list(range(3_001))


async def head_is_the_run_without_steps(bench: Bench) -> None:
    """`get_head` is what `get_run` says, but for the steps."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run(input=LONG, owner="ann"))
        await store.append(claim.run.id, claim.epoch, [done(), Entry(Kind.RUN_COMPLETED, payload={"output": LONG})])
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert await store.get_head(run.id) == replace(run, steps={})
        assert await store.get_head("nobody") is None
