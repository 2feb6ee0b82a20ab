"""What every Store must do. `tests/contracts/test_store.py` runs each function here on every implementation.

A function takes a `Bench`: a way to open the same store again, on a clock the test moves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import anyio
import pytest

from agentmesh.core.model import Usage
from agentmesh.core.run import Entry, Kind, Run, RunState, StepState, fold, new_run_id
from agentmesh.core.store import Claim, RunFilter, Store
from agentmesh.errors import InvalidInput, LeaseLost, NotFound


@dataclass
class Bench:
    """`open()` gives the store of this test; entering it twice in a row gives what a restart would find."""

    open: Callable[[], Store]
    durable: bool
    now: float = 1_000.0
    seed: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, **fields: object) -> Run:
        run_id = new_run_id(self.now, self.seed.randbytes(10))
        given = {"id": run_id, "workflow": "triage", "definition": "d1", "input": {}}
        return Run(**{**given, **fields})  # type: ignore[arg-type]


async def _claimed(store: Store, run: Run, worker: str = "w1") -> Claim:
    await store.start_run(run)
    (claim,) = await store.claim(worker, limit=1, only=[run.id])
    return claim


def _done(path: str = "cut", output: object = None) -> Entry:
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": output})


def _seqs(entries: Sequence[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


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
            await store.append("nobody", 1, [_done()])
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


async def append_is_numbered_and_folded(bench: Bench) -> None:
    """Entries get the next seq and the clock's time, and the run read back is their fold."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        bench.now += 5
        await store.append(
            claim.run.id, claim.epoch, [Entry(Kind.STEP_STARTED, "ask", 1, {"verb": "llm", "why": "first"})]
        )
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 1, "seconds": 0.25}
        attempt = Entry(Kind.STEP_ATTEMPT, "ask", 1, {"model": "tiny", "usage": usage, "verdicts": []})
        await store.append(claim.run.id, claim.epoch, [attempt, _done("ask", {"cause": "import"})])
        entries = await store.entries(claim.run.id)
        assert _seqs(entries) == [1, 2, 3, 4, 5]
        assert [entry.at for entry in entries] == [1000.0, 1000.0, 1005.0, 1005.0, 1005.0]
        assert _seqs(await store.entries(claim.run.id, after=3)) == [4, 5]
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
            claim = await _claimed(store, bench.run())
            attempt = Entry(Kind.STEP_ATTEMPT, "ask", 1, {"usage": usage, "error": {"code": "x", "message": "y"}})
            await store.append(claim.run.id, claim.epoch, [attempt])
            await store.append(claim.run.id, claim.epoch, [_done("ask"), attempt])
            bench.now += 1
            await store.append(claim.run.id, claim.epoch, end)
            (head,) = [run for run in (await store.list_runs(RunFilter())).runs if run.id == claim.run.id]
            run = await store.get_run(claim.run.id)
            assert run is not None
            assert head == replace(run, steps={})
            assert (
                run.state == (RunState.WORKING, RunState.COMPLETED, RunState.FAILED, RunState.CANCELED)[ends.index(end)]
            )


async def stale_epoch_writes_nothing(bench: Bench) -> None:
    """A worker that slept through its lease gets LeaseLost, and neither its entries nor its values are there."""
    async with bench.open() as store:
        old = await _claimed(store, bench.run())
        bench.now += 31
        (new,) = await store.claim("w2", limit=1)
        assert (new.run.id, new.epoch) == (old.run.id, 2)
        with pytest.raises(LeaseLost):
            await store.append(old.run.id, old.epoch, [_done()], put={("s", "k"): 1})
        assert list(await store.heartbeat("w1", {old.run.id: old.epoch})) == [old.run.id]
        await store.release(old.run.id, old.epoch)
        await store.append(new.run.id, new.epoch, [_done("mine")])
        run = await store.get_run(old.run.id)
        assert run is not None
        assert list(run.steps) == ["mine"]
        assert await store.get("s", "k") is None


async def one_stale_append_fails_alone(bench: Bench) -> None:
    """Among fifty appends at the same moment, those without a lease fail and all others are written."""
    lost: list[int] = []
    async with bench.open() as store:
        claims = [await _claimed(store, bench.run()) for _ in range(10)]

        async def write(i: int) -> None:
            claim = claims[i % 10]
            try:
                await store.append(claim.run.id, claim.epoch + (i % 5 == 0), [_done(f"s{i}")])
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
            assert _seqs(entries) == list(range(1, len(entries) + 1))


async def heartbeat_extends_a_lease(bench: Bench) -> None:
    """A lease that is extended is not over; one that is not can be taken."""
    async with bench.open() as store:
        kept = await _claimed(store, bench.run())
        left = await _claimed(store, bench.run())
        bench.now += 20
        assert list(await store.heartbeat("w1", {kept.run.id: kept.epoch}, lease=30)) == []
        bench.now += 15
        assert [claim.run.id for claim in await store.claim("w2", limit=9)] == [left.run.id]
        assert list(await store.heartbeat("w2", {kept.run.id: kept.epoch})) == [kept.run.id]


async def released_run_is_claimed_at_once(bench: Bench) -> None:
    """A run given back goes to the next claim with its steps, and its former worker can write no more."""
    async with bench.open() as store:
        old = await _claimed(store, bench.run())
        await store.append(old.run.id, old.epoch, [_done("cut", 3)])
        await store.release(old.run.id, old.epoch)
        with pytest.raises(LeaseLost):
            await store.append(old.run.id, old.epoch, [_done("late")])
        (new,) = await store.claim("w2", limit=1)
        assert new.epoch == old.epoch + 1
        assert new.run.steps["cut"].output == 3
        await store.append(new.run.id, new.epoch, [_done("next")])


async def terminal_run_never_changes(bench: Bench) -> None:
    """A terminal entry ends the lease: no append, claim, cancel or heartbeat touches the run again."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        end = Entry(Kind.RUN_COMPLETED, payload={"output": 42})
        await store.append(claim.run.id, claim.epoch, [_done(), end], state=RunState.COMPLETED)
        before = await store.get_run(claim.run.id)
        assert before is not None
        assert (before.state, before.output) == (RunState.COMPLETED, 42)
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [_done("late")])
        bench.now += 100
        assert await store.request_cancel(claim.run.id, "ann") == before
        assert list(await store.claim("w2", limit=9)) == []
        assert list(await store.heartbeat("w1", {claim.run.id: claim.epoch})) == [claim.run.id]
        await store.release(claim.run.id, claim.epoch)
        assert await store.get_run(claim.run.id) == before


async def contradicting_state_is_refused(bench: Bench) -> None:
    """A stated state that the entries do not lead to, or an entry past the end, is the author's ValueError."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        with pytest.raises(ValueError, match="does not follow"):
            await store.append(claim.run.id, claim.epoch, [_done()], state=RunState.COMPLETED)
        with pytest.raises(ValueError, match="must be the last"):
            await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED), _done()])
        assert len(await store.entries(claim.run.id)) == 2
        await store.append(claim.run.id, claim.epoch, [_done()], state=RunState.WORKING)


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
        claim = await _claimed(store, bench.run())
        asked = await store.request_cancel(claim.run.id, "ann")
        assert (asked.state, asked.cancel_requested) == (RunState.WORKING, True)
        assert await store.request_cancel(claim.run.id, "ben") == asked
        await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_CANCELED, payload={"by": "ann"})])
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert (run.state, run.seq) == (RunState.CANCELED, 4)
        other = await _claimed(store, bench.run())
        await store.release(other.run.id, other.epoch)
        assert (await store.request_cancel(other.run.id, "ann")).state is RunState.WORKING
        (again,) = await store.claim("w1", limit=1)
        assert again.run.cancel_requested


async def values_are_kept_with_their_entries(bench: Bench) -> None:
    """`put` of an append is there with its entries; later writes win; scopes do not mix."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        values = {("workflow:inbox", "a.log"): {"hash": "1"}, ("workflow:inbox", "b.log"): None}
        await store.append(claim.run.id, claim.epoch, [_done()], put=values)
        await store.put("workflow:inbox", "a.log", {"hash": "2"})
        await store.put("cron", "a.log", 5.0)
        assert await store.get("workflow:inbox", "a.log") == {"hash": "2"}
        assert await store.scan("workflow:inbox") == {"a.log": {"hash": "2"}, "b.log": None}
        assert await store.get("cron", "a.log") == 5.0


async def unawaited_appends_keep_their_order(bench: Bench) -> None:
    """Appends that do not wait are all there, in order, once a later one that waits has returned."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        for i in range(300):
            await store.append(claim.run.id, claim.epoch, [_done(f"s{i}")], wait=False)
        await store.append(claim.run.id, claim.epoch, [_done("last")])
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert list(run.steps) == [*(f"s{i}" for i in range(300)), "last"]


async def unawaited_failure_surfaces_later(bench: Bench) -> None:
    """An append without a lease that did not wait is heard of at the next one that does."""
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())
        await store.release(claim.run.id, claim.epoch)
        await store.append(claim.run.id, claim.epoch, [_done("a")], wait=False)
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [_done("b")])
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
        claim = await _claimed(store, run)
        assert claim.run.input == run.input
        assert claim.run.message == run.message
        end = Entry(Kind.RUN_COMPLETED, payload={"output": output})
        await store.append(claim.run.id, claim.epoch, [_done("cut", output), end])
        found = await store.get_run(run.id)
        (head,) = (await store.list_runs(RunFilter())).runs
        assert found is not None
        assert found.steps["cut"].output == output
        assert found.output == head.output == output


async def what_was_written_cannot_be_changed(bench: Bench) -> None:
    """Changing a value after it was handed over does not change what is recorded."""
    given = {"list": [1]}
    async with bench.open() as store:
        claim = await _claimed(store, bench.run(input=given))
        await store.append(claim.run.id, claim.epoch, [_done("cut", given)])
        await store.put("s", "k", given)
        given["list"].append(2)
        run = await store.get_run(claim.run.id)
        assert run is not None
        assert run.input == run.steps["cut"].output == await store.get("s", "k") == {"list": [1]}


async def pages_meet_without_gaps(bench: Bench) -> None:
    """Pages by cursor give each run once, newest first, with runs that start meanwhile left to the first page."""
    runs = [bench.run(created_at=900.0 + i // 3) for i in range(11)]
    async with bench.open() as store:
        for run in runs:
            await store.start_run(run)
        seen: list[str] = []
        cursor = None
        for _ in range(9):
            page = await store.list_runs(RunFilter(limit=4, cursor=cursor))
            seen += [run.id for run in page.runs]
            if page.next is None:
                break
            cursor = page.next
            await store.start_run(bench.run())
        assert seen == [run.id for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)]
        for cursor in ("", "x", "nan_x", "12", "_a"):
            with pytest.raises(InvalidInput):
                await store.list_runs(RunFilter(cursor=cursor))


async def filters_select(bench: Bench) -> None:
    """Each field of a filter selects by itself; `total` counts what matches, not what the page holds."""
    async with bench.open() as store:
        root = await _claimed(store, bench.run(owner="ann", context_id="c1"))
        await store.start_run(bench.run(workflow="inbox", parent=root.run.id))
        await store.start_run(bench.run(tenant="acme"))
        bench.now += 10
        await store.append(root.run.id, root.epoch, [_done()])

        async def total(**fields: object) -> int:
            page = await store.list_runs(RunFilter(**{"limit": 1, **fields}))  # type: ignore[arg-type]
            assert len(page.runs) == min(page.total, 1)
            return page.total

        assert await total() == 2
        assert await total(tenant="acme") == 1
        assert await total(owner="ann") == 1
        assert await total(workflow="inbox") == 1
        assert await total(states=(RunState.WORKING,)) == 1
        assert await total(states=(RunState.WORKING, RunState.SUBMITTED)) == 2
        assert await total(context_id="c1") == 1
        assert await total(parent=root.run.id) == 1
        assert await total(roots=True) == 1
        assert await total(updated_after=bench.now - 1) == 1
        assert await total(updated_after=bench.now) == 0


async def changes_are_heard(bench: Bench) -> None:
    """A subscription hears what is committed after it was made, of its own run or of all, however late it listens."""
    a, b = bench.run(), bench.run()
    async with bench.open() as store:
        everything, only_b = store.changes(), store.changes(b.id)
        with anyio.fail_after(5):
            await store.start_run(a)
            await store.start_run(b)
            assert {await anext(everything), await anext(everything)} == {a.id, b.id}
            assert await anext(only_b) == b.id
            (claim,) = await store.claim("w1", limit=1, only=[b.id])
            assert await anext(only_b) == b.id
            heard: list[str] = []
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    heard.append(await anext(only_b))

                group.start_soon(listen)
                await anyio.lowlevel.checkpoint()
                await store.append(b.id, claim.epoch, [_done()])
            assert heard == [b.id]
            assert (await store.entries(b.id))[-1].path == "cut"
            await store.request_cancel(b.id, "ann")
            assert await anext(only_b) == b.id


async def changes_are_told_once(bench: Bench) -> None:
    """A run that changed many times before anybody listened is told once: a slow listener costs one entry per run."""
    async with bench.open() as store:
        changes = store.changes()
        claim = await _claimed(store, bench.run())
        for i in range(20):
            await store.append(claim.run.id, claim.epoch, [_done(f"s{i}")])
        with anyio.fail_after(5):
            assert await anext(changes) == claim.run.id
        with anyio.move_on_after(0.05):
            pytest.fail(f"told again: {await anext(changes)}")


async def restart_finds_everything(bench: Bench) -> None:
    """After a restart everything is as it was, and unfinished runs are claimed once their leases are over."""
    async with bench.open() as store:
        await store.start_run(bench.run(key="waiting"), {"name": "triage"})
        claim = await _claimed(store, bench.run())
        await store.append(claim.run.id, claim.epoch, [_done("cut", 1)], put={("s", "k"): "v"})
        await store.append(claim.run.id, claim.epoch, [_done("late", 2)], wait=False)
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
            await store.append(claim.run.id, claim.epoch, [_done("ghost")])


async def a_crowd_gets_everything_in(bench: Bench) -> None:
    """A hundred tasks that write at once lose nothing and leave no gap."""
    async with bench.open() as store:
        claims = [await _claimed(store, bench.run()) for _ in range(20)]

        async def work(i: int) -> None:
            claim = claims[i % 20]
            for k in range(6):
                await store.append(claim.run.id, claim.epoch, [_done(f"{i}.{k}")])

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for i in range(100):
                    group.start_soon(work, i)
        for claim in claims:
            entries = await store.entries(claim.run.id)
            assert _seqs(entries) == list(range(1, 33))


async def names_are_text(bench: Bench) -> None:
    """A name that no database can hold is its caller's error, and nobody else's."""
    results: list[str] = []
    async with bench.open() as store:
        claim = await _claimed(store, bench.run())

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
                await store.append(claim.run.id, claim.epoch, [_done()], put={("s", name): 1})
            with pytest.raises(InvalidInput):
                await store.put("s", name, 1)
        assert len(await store.entries(claim.run.id)) == 2


CONTRACT = [
    names_are_text,
    started_run_is_found,
    unknown_ids_are_absent,
    key_starts_one_run,
    claim_takes_oldest_first,
    claim_can_name_runs,
    append_is_numbered_and_folded,
    head_equals_fold,
    stale_epoch_writes_nothing,
    one_stale_append_fails_alone,
    heartbeat_extends_a_lease,
    released_run_is_claimed_at_once,
    terminal_run_never_changes,
    contradicting_state_is_refused,
    cancel_of_an_unclaimed_run_ends_it,
    cancel_of_a_claimed_run_is_asked_for,
    values_are_kept_with_their_entries,
    unawaited_appends_keep_their_order,
    unawaited_failure_surfaces_later,
    long_values_come_back_whole,
    what_was_written_cannot_be_changed,
    pages_meet_without_gaps,
    filters_select,
    changes_are_heard,
    changes_are_told_once,
    restart_finds_everything,
    a_crowd_gets_everything_in,
]
