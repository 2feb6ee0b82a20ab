"""Parking: a run that waits is nobody's, until its time or until something arrives; nothing falls between."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.core.run import Entry, Kind, RunState
from agentmesh.core.store import Claim, RunFilter, Store
from agentmesh.errors import LeaseLost
from tests.contracts.bench import Bench, claimed, done, reclaimed, seqs

SIGNAL = Entry(Kind.RUN_SIGNALED, payload={"name": "go", "value": 1, "by": "ann"})
WAITING = Entry(Kind.STEP_WAITING, "rest", 1, {"verb": "wait", "for": "timer", "until": 1_100.0})
ASKING = Entry(Kind.RUN_INPUT_REQUIRED)


async def _due(store: Store) -> list[str]:
    return [claim.run.id for claim in await store.claim("w2", limit=9)]


async def parked_run_is_claimed_at_its_time(bench: Bench) -> None:
    """Its entries are there, its lease is over, and no claim before the time finds it; `next_due` knows the time."""
    async with bench.open() as store:
        assert await store.next_due() is None
        claim = await claimed(store, bench.run())
        assert await store.next_due() is None
        parked = await store.park(claim.run.id, claim.epoch, [WAITING], wake_at=bench.now + 100, mail=claim.mail)
        assert parked is None
        assert await store.next_due() == bench.now + 100
        assert (await store.entries(claim.run.id))[-1].kind is Kind.STEP_WAITING
        assert list(await store.heartbeat("w1", {claim.run.id: claim.epoch})) == [claim.run.id]
        bench.now += 99
        assert await _due(store) == []
        bench.now += 1
        again = await reclaimed(store, claim.run.id, "w2")
        assert (again.epoch, again.run.state) == (claim.epoch + 1, RunState.WORKING)


async def parked_worker_writes_no_more(bench: Bench) -> None:
    """Whoever parked a run has given it up: neither appending nor parking again, under that epoch, writes anything."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.park(claim.run.id, claim.epoch, [], wake_at=None, mail=0)
        for wake_at in (None, bench.now):
            with pytest.raises(LeaseLost):
                await store.park(claim.run.id, claim.epoch, [done()], wake_at=wake_at, mail=0)
        with pytest.raises(LeaseLost):
            await store.append(claim.run.id, claim.epoch, [done()])
        with pytest.raises(LeaseLost):
            await store.park("nobody", 1, [], wake_at=None, mail=0)
        assert len(await store.entries(claim.run.id)) == 2


async def run_that_waits_for_a_person_sleeps(bench: Bench) -> None:
    """In state input_required it is not due, whatever the time, until an answer comes; then it is claimed."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.park(claim.run.id, claim.epoch, [ASKING], wake_at=None, mail=0)
        head = await store.get_head(claim.run.id)
        assert head is not None
        assert head.state is RunState.INPUT_REQUIRED
        bench.now += 1e9
        assert await store.next_due() is None
        assert await _due(store) == []
        answer = Entry(Kind.RUN_ANSWERED, payload={"question": "review#1", "yes": True, "by": "ann"})
        run, added = await store.post(claim.run.id, answer)
        assert added
        assert run.state is RunState.INPUT_REQUIRED
        assert await store.next_due() == bench.now
        again = await reclaimed(store, run.id)
        assert (again.run.state, again.mail) == (RunState.WORKING, 1)


async def what_arrives_before_parking_is_not_missed(bench: Bench) -> None:
    """A signal between the claim and the parking refuses it with the newer count, and writes nothing; then it parks."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.post(claim.run.id, SIGNAL)
        await store.request_cancel(claim.run.id, "ann")
        newer = await store.park(claim.run.id, claim.epoch, [WAITING], wake_at=None, mail=claim.mail)
        assert newer == claim.mail + 2
        kinds = [entry.kind for entry in await store.entries(claim.run.id)]
        assert kinds[2:] == [Kind.RUN_SIGNALED, Kind.RUN_CANCEL_REQUESTED]
        await store.append(claim.run.id, claim.epoch, [done()])  # still held
        assert await store.park(claim.run.id, claim.epoch, [WAITING], wake_at=None, mail=newer) is None
        assert await _due(store) == []


async def what_arrives_while_parked_wakes(bench: Bench) -> None:
    """A post and a cancellation each make a parked run due at once, however long it was to sleep."""
    async with bench.open() as store:
        for cancels in (False, True):
            claim = await claimed(store, bench.run())
            await store.park(claim.run.id, claim.epoch, [], wake_at=bench.now + 1e6, mail=claim.mail)
            assert await _due(store) == []
            if cancels:
                assert (await store.request_cancel(claim.run.id, "ann")).state is RunState.WORKING
            else:
                await store.post(claim.run.id, SIGNAL)
            assert await _due(store) == [claim.run.id]


async def race_of_park_and_post_loses_nothing(bench: Bench) -> None:
    """Forty runs are parked and signaled at the same moment: each is either refused the parking, or due afterwards."""
    refused: list[str] = []
    async with bench.open() as store:
        claims = [await claimed(store, bench.run()) for _ in range(40)]

        async def park(claim: Claim) -> None:
            if await store.park(claim.run.id, claim.epoch, [WAITING], wake_at=None, mail=claim.mail) is not None:
                refused.append(claim.run.id)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for i, claim in enumerate(claims):
                    first, second = (park, store.post) if i % 2 else (store.post, park)
                    for act in (first, second):
                        group.start_soon(act, *((claim,) if act is park else (claim.run.id, SIGNAL)))  # type: ignore[arg-type]
        due = {taken.run.id for taken in await store.claim("w2", limit=99)}
        assert due | set(refused) == {claim.run.id for claim in claims}
        assert not due & set(refused)
        for claim in claims:
            assert seqs(await store.entries(claim.run.id))[-1] in (3, 4, 5)


async def end_of_a_child_wakes_its_parent(bench: Bench) -> None:
    """Completed, failed or canceled before anybody claimed it: the parked parent is due at once, and has mail."""
    async with bench.open() as store:
        parent = await claimed(store, bench.run())
        mail = parent.mail
        for end in (Kind.RUN_COMPLETED, Kind.RUN_FAILED, None):
            child = bench.run(parent=parent.run.id, parent_path="each[0]/x")
            await store.start_run(child)
            taken = None if end is None else await reclaimed(store, child.id)
            assert await store.park(parent.run.id, parent.epoch, [], wake_at=None, mail=mail) is None
            if end is None or taken is None:
                await store.request_cancel(child.id, "ann")
            else:
                await store.append(child.id, taken.epoch, [Entry(end)])
            (parent,) = await store.claim("w1", limit=9)
            mail += 1
            assert parent.mail == mail


async def child_that_ends_first_refuses_the_parking(bench: Bench) -> None:
    """A child that ended between its parent's look and its parking is not slept through."""
    async with bench.open() as store:
        parent = await claimed(store, bench.run())
        child = await claimed(store, bench.run(parent=parent.run.id))
        await store.append(child.run.id, child.epoch, [Entry(Kind.RUN_COMPLETED)])
        assert await store.park(parent.run.id, parent.epoch, [WAITING], wake_at=None, mail=parent.mail) == 1
        orphan = await claimed(store, bench.run(parent="gone"))
        await store.append(orphan.run.id, orphan.epoch, [Entry(Kind.RUN_COMPLETED)])
        await store.append(parent.run.id, parent.epoch, [Entry(Kind.RUN_COMPLETED)])
        late = await claimed(store, bench.run(parent=parent.run.id))
        await store.append(late.run.id, late.epoch, [Entry(Kind.RUN_COMPLETED)])
        assert await _due(store) == []


async def deferred_run_waits_for_its_time(bench: Bench) -> None:
    """A run started for later is not claimed earlier, not even by a signal; a cancellation ends it at once."""
    async with bench.open() as store:
        later, never = bench.run(), bench.run()
        for run in (later, never):
            await store.start_run(run, due_at=bench.now + 60)
        await store.post(later.id, SIGNAL)
        assert await _due(store) == []
        assert await store.next_due() == bench.now + 60
        assert (await store.request_cancel(never.id, "ann")).state is RunState.CANCELED
        bench.now += 60
        (claim,) = await store.claim("w1", limit=9)
        assert (claim.run.id, claim.mail) == (later.id, 1)


async def parked_with_the_end_is_ended(bench: Bench) -> None:
    """A terminal entry given with the parking ends the run, which is then never due."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        end = Entry(Kind.RUN_COMPLETED, payload={"output": 3})
        assert await store.park(claim.run.id, claim.epoch, [end], wake_at=bench.now, mail=0) is None
        (head,) = (await store.list_runs(RunFilter())).runs
        assert (head.state, head.output) == (RunState.COMPLETED, 3)
        assert await _due(store) == []


async def clock_that_is_set_back_hides_nothing(bench: Bench) -> None:
    """What was due before the clock was set back is due after it: new, given back or woken. A timer keeps its time."""
    async with bench.open() as store:
        (given_back, woken, timer) = [await claimed(store, bench.run()) for _ in range(3)]
        new = bench.run()
        await store.start_run(new)
        later = bench.run()
        await store.start_run(later, due_at=bench.now + 50)
        bench.now += 20
        await store.append(given_back.run.id, given_back.epoch, [done()])
        bench.now += 5
        await store.release(given_back.run.id, given_back.epoch)
        await store.park(woken.run.id, woken.epoch, [], wake_at=None, mail=0)
        await store.park(timer.run.id, timer.epoch, [WAITING], wake_at=bench.now + 100, mail=0)
        await store.post(woken.run.id, SIGNAL)
        bench.now -= 500
        assert sorted(await _due(store)) == sorted([given_back.run.id, woken.run.id, new.id])
        bench.now += 625
        assert {timer.run.id, later.id} <= set(await _due(store))


async def clock_that_was_set_back_before_a_restart_hides_nothing(bench: Bench) -> None:
    """The same where the store was closed meanwhile."""
    async with bench.open() as store:
        claim = await claimed(store, bench.run())
        await store.append(claim.run.id, claim.epoch, [done()])
        await store.release(claim.run.id, claim.epoch)
        new = bench.run()
        await store.start_run(new)
    bench.now -= 500
    async with bench.open() as store:
        assert sorted(await _due(store)) == sorted([claim.run.id, new.id])
