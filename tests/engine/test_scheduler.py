"""Scheduler: one run for each instant, whatever clocks and crashes do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import Run
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.scheduler import instants, iso
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow

pytestmark = pytest.mark.anyio

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def ticking(**entry: Any) -> Any:
    """A mesh whose workflow `tick` has one cron entry."""
    return mesh(
        workflow(
            "tick",
            {"id": "f", "python": "t:f"},
            on={"cron": [{"schedule": "*/10 * * * *"} | entry]},
            input={"type": "object"},
        )
    )


async def started(engine: Engine) -> list[str]:
    """The instants for which there are runs, oldest first."""
    page = await engine.runs.list(LOCAL, RunFilter(limit=500))
    return sorted(str(run.key).removeprefix("cron:tick:0:") for run in page.runs)


def build(of: Any, store: MemoryStore, clock: Clock) -> Engine:
    return build_engine(of, store, None, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


async def test_the_first_start_looks_forward_only() -> None:
    """Nothing before now is caught up; then each instant starts one run, with the cron's own principal."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    engine = build(ticking(input={"a": 1}), store, clock)
    assert await engine.scheduler.tick() == 60.0
    assert await started(engine) == []
    clock.now = at("2026-11-22T10:09:30")
    assert await engine.scheduler.tick() == 30.0
    clock.now += 30
    await engine.scheduler.tick()
    await engine.scheduler.tick()
    assert await started(engine) == ["2026-11-22T10:10:00Z"]
    (run,) = (await engine.runs.list(LOCAL, RunFilter())).runs
    assert (run.owner, run.source, run.input) == ("cron:tick", "cron", {"a": 1})
    (status,) = engine.scheduler.status()
    assert (status["last"], status["next"], status["run"]) == ("2026-11-22T10:10:00Z", "2026-11-22T10:20:00Z", run.id)


@pytest.mark.parametrize(
    ("catch_up", "window", "expected"),
    [
        ("none", "1d", []),
        ("last", "1d", ["10:40"]),
        ("all", "1d", ["10:10", "10:20", "10:30", "10:40"]),
        ("all", "20m", ["10:30", "10:40"]),
        ("last", "3m", []),
    ],
)
async def test_what_was_missed_is_caught_up_as_told(catch_up: str, window: str, expected: list[str]) -> None:
    """While the server was down for three quarters of an hour."""
    clock = Clock(at("2026-11-22T10:00:00"))
    store = MemoryStore(clock=clock)
    of = ticking(catch_up=catch_up, catch_up_window=window, overlap="allow")
    await build(of, store, clock).scheduler.tick()
    clock.now = at("2026-11-22T10:45:00")
    engine = build(of, store, clock)
    await engine.scheduler.tick()
    assert await started(engine) == [f"2026-11-22T{time}:00Z" for time in expected]
    await build(of, store, clock).scheduler.tick()
    assert len(await started(engine)) == len(expected), "a second start catches nothing up again"


async def test_an_instant_is_on_time_for_a_minute() -> None:
    """Also with `catch_up: none`, a server that was busy for a moment does not lose it."""
    clock = Clock(at("2026-11-22T10:00:00"))
    engine = build(ticking(catch_up="none"), MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:10:59")
    await engine.scheduler.tick()
    assert await started(engine) == ["2026-11-22T10:10:00Z"]


async def test_a_crash_between_start_and_note_starts_nothing_twice() -> None:
    """The key finds the run that is there."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    engine = build(ticking(), store, clock)
    await engine.scheduler.tick()
    noted = await store.get("schedule", "tick:0")
    clock.now = at("2026-11-22T10:10:01")
    await engine.scheduler.tick()
    await store.put("schedule", "tick:0", noted)
    await build(ticking(), store, clock).scheduler.tick()
    assert await started(engine) == ["2026-11-22T10:10:00Z"]


async def test_a_clock_set_back_repeats_nothing_and_does_not_stop() -> None:
    """The same instants come round again, and find their runs; then new ones are started."""
    clock = Clock(at("2026-11-22T10:05:00"))
    engine = build(ticking(overlap="allow"), MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()
    for time in ("10:10", "10:20", "10:08", "10:10", "10:20", "10:30"):
        clock.now = at(f"2026-11-22T{time}:00")
        await engine.scheduler.tick()
    assert await started(engine) == [f"2026-11-22T10:{m}:00Z" for m in (10, 20, 30)]
    clock.now = at("2031-01-01T00:00:00")
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:40:00")
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:50:00")
    await engine.scheduler.tick()
    assert (await started(engine))[-2:] == ["2026-11-22T10:50:00Z", "2031-01-01T00:00:00Z"]


async def test_another_line_begins_anew() -> None:
    """An edited schedule catches nothing up."""
    clock = Clock(at("2026-11-22T10:00:00"))
    store = MemoryStore(clock=clock)
    await build(ticking(), store, clock).scheduler.tick()
    clock.now = at("2026-11-22T10:45:00")
    engine = build(ticking(schedule="*/15 * * * *"), store, clock)
    await engine.scheduler.tick()
    assert await started(engine) == []


@pytest.mark.parametrize(
    ("overlap", "while_running", "after"),
    [
        ("skip", ["10:10"], ["10:10"]),
        ("queue", ["10:10"], ["10:10", "10:20"]),
        ("allow", ["10:10", "10:20", "10:30"], ["10:10", "10:20", "10:30"]),
    ],
)
async def test_overlap(overlap: str, while_running: list[str], after: list[str]) -> None:
    """What becomes of instants that fall due while the run before goes on."""
    ends = [anyio.Event() for _ in range(3)]
    begun = iter(ends)

    async def f() -> None:
        await next(begun).wait()

    clock = Clock(at("2026-11-22T10:05:00"))
    async with serving(ticking(overlap=overlap), functions={"t:f": f}, clock=clock) as engine:
        await engine.scheduler.tick()
        for time in ("10:10", "10:20", "10:30"):
            clock.now = at(f"2026-11-22T{time}:00")
            await engine.scheduler.tick()
            await anyio.wait_all_tasks_blocked()
        assert await started(engine) == [f"2026-11-22T{time}:00Z" for time in while_running]
        ends[0].set()
        first = await find(engine, lambda run: str(run.key).endswith("10:10:00Z"))
        await engine.runs.wait(LOCAL, first.id)
        await engine.scheduler.tick()
        assert await started(engine) == [f"2026-11-22T{time}:00Z" for time in after]


async def find(engine: Engine, which: Callable[[Run], bool]) -> Run:
    return next(run for run in (await engine.runs.list(LOCAL, RunFilter())).runs if which(run))


async def test_the_loop_wakes_exactly() -> None:
    """Driven by a clock that moves only when the scheduler sleeps: every run is made at its instant."""
    clock = Clock(at("2026-11-22T10:05:17"))
    done = anyio.Event()

    async def sleep(seconds: float) -> None:
        if clock.now >= at("2026-11-22T10:50:00"):
            done.set()
            await anyio.sleep_forever()
        await clock.sleep(seconds)

    async with MemoryStore(clock=clock) as store:
        engine = build_engine(ticking(overlap="allow"), store, None, clock=clock, sleep=sleep)  # type: ignore[arg-type]
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                await group.start(engine.scheduler.run)
                await done.wait()
                group.cancel_scope.cancel()
        made = sorted(run.created_at for run in (await engine.runs.list(LOCAL, RunFilter())).runs)
    assert made == [at(f"2026-11-22T10:{m}:00") for m in (10, 20, 30, 40, 50)]


async def test_a_queued_instant_starts_when_the_run_before_ends() -> None:
    """Without waiting for the next instant."""
    clock = Clock(at("2026-11-22T10:05:00"))
    first, second = anyio.Event(), anyio.Event()
    calls = 0

    async def f() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await first.wait()
        else:
            second.set()

    async def sleep(seconds: float) -> None:
        if clock.now < at("2026-11-22T10:20:00"):
            await clock.sleep(seconds)
        else:
            first.set()
            await anyio.sleep_forever()

    async with MemoryStore(clock=clock) as store:
        engine = build_engine(
            ticking(overlap="queue"), store, None, clock=clock, sleep=sleep, functions={"t:f": f}.__getitem__  # type: ignore[arg-type]
        )  # fmt: skip
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                await group.start(engine.worker.run)
                await group.start(engine.scheduler.run)
                await second.wait()
                group.cancel_scope.cancel()
        assert len(await started(engine)) == 2


async def test_a_start_that_is_refused_is_told() -> None:
    """Its sentence stands in the status; the next instant is tried again."""
    refused = mesh(workflow("tick", {"id": "a", "set": 1}, on={"cron": [{"schedule": "*/10 * * * *"}]}))
    clock = Clock(at("2026-11-22T10:05:00"))
    engine = build(refused, MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:10:00")
    await engine.scheduler.tick()
    (status,) = engine.scheduler.status()
    assert status["error"] == "input: 'text' is missing"
    assert status["last"] == "2026-11-22T10:10:00Z"


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        # Clocks go back on 2026-10-25 at 03:00: 02:30 is there twice, the job runs once.
        ("30 2 * * *", "2026-10-24T12:00:00", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        # Clocks go forward on 2026-03-29 at 02:00: 02:30 is not there, the job runs once all the same.
        ("30 2 * * *", "2026-03-28T12:00:00", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        # Every half hour goes on through both.
        ("*/30 * * * *", "2026-10-25T00:20:00", [f"2026-10-25T{t}:00Z" for t in ("00:30", "01:00", "01:30", "02:00")]),
        ("*/30 * * * *", "2026-03-29T00:20:00", [f"2026-03-29T{t}:00Z" for t in ("00:30", "01:00", "01:30", "02:00")]),
    ],
)
def test_summer_time(schedule: str, after: str, expected: list[str]) -> None:
    """A daily job runs once on the day that has 25 hours and on the one that has 23."""
    begin = datetime.fromtimestamp(at(after), UTC)
    assert [iso(i) for i in islice(instants(schedule, BERLIN, begin), len(expected))] == expected


async def test_summer_time_through_the_scheduler() -> None:
    """A month of hours around the change, one run a day."""
    clock = Clock(at("2026-10-20T00:00:00"))
    engine = build(
        ticking(schedule="30 2 * * *", timezone="Europe/Berlin", overlap="allow"), MemoryStore(clock=clock), clock
    )
    while clock.now < at("2026-10-30T00:00:00"):
        clock.now += await engine.scheduler.tick()
    days = await started(engine)
    assert len(days) == 10
    assert [day[11:16] for day in days] == ["00:30"] * 6 + ["01:30"] * 4
