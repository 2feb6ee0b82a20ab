"""Scheduler: one run for each instant, whatever clocks and crashes do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.context import Context
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import Run
from agentmesh.core.schedule import five_fields, instants, newest
from agentmesh.core.store import RunFilter
from agentmesh.core.workflow import Schedule
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.cron import Entry, iso
from agentmesh.errors import InvalidInput, NotFound, PolicyDenied, StoreError
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


async def test_the_newest_instant_is_caught_up_behind_the_missed_ones() -> None:
    """With `catch_up: all` one that is hardly late is not skipped because those before it wait for their turn."""
    clock = Clock(at("2026-11-22T10:00:30"))
    store = MemoryStore(clock=clock)
    of = ticking(schedule="* * * * *", catch_up="all")
    await build(of, store, clock).scheduler.tick()
    clock.now = at("2026-11-22T10:03:10")
    async with serving(of, store=store, clock=clock, functions={"t:f": lambda: None}) as engine:
        for _ in range(3):
            await engine.scheduler.tick()
            for run in (await engine.runs.list(LOCAL, RunFilter())).runs:
                await engine.runs.wait(LOCAL, run.id)
        assert await started(engine) == [f"2026-11-22T10:0{minute}:00Z" for minute in (1, 2, 3)]


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
    ends: defaultdict[str | None, anyio.Event] = defaultdict(anyio.Event)

    async def f(ctx: Context) -> None:
        await ends[ctx.run_id].wait()

    clock = Clock(at("2026-11-22T10:05:00"))
    async with serving(ticking(overlap=overlap), functions={"t:f": f}, clock=clock) as engine:
        await engine.scheduler.tick()
        for time in ("10:10", "10:20", "10:30"):
            clock.now = at(f"2026-11-22T{time}:00")
            await engine.scheduler.tick()
            await anyio.wait_all_tasks_blocked()
        assert await started(engine) == [f"2026-11-22T{time}:00Z" for time in while_running]
        first = await find(engine, lambda run: str(run.key).endswith("10:10:00Z"))
        ends[first.id].set()
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


async def test_a_minute_cron_after_a_day_makes_one_run() -> None:
    """By default, also when the server comes back exactly on a minute."""
    for back in ("2026-11-22T10:00:00", "2026-11-22T10:00:30", "2026-11-22T10:00:59"):
        clock = Clock(at("2026-11-21T10:00:00"))
        store = MemoryStore(clock=clock)
        of = ticking(schedule="* * * * *", overlap="allow")
        await build(of, store, clock).scheduler.tick()
        clock.now = at(back)
        engine = build(of, store, clock)
        await engine.scheduler.tick()
        assert await started(engine) == ["2026-11-22T10:00:00Z"]


@pytest.mark.parametrize("off", [3600.0, -3600.0, 365 * 86400.0, -365 * 86400.0])
async def test_a_clock_that_was_wrong_for_a_while(off: float) -> None:
    """An hour or a year, either way: at most one run more for the jump, no instant twice, and the right ones afterwards."""
    clock = Clock(at("2026-11-22T10:05:00"))
    engine = build(ticking(overlap="allow"), MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()

    async def minutes(count: int) -> None:
        for _ in range(count):
            clock.now += 60
            await engine.scheduler.tick()

    await minutes(10)
    clock.now += off
    await minutes(25)
    clock.now -= off
    await minutes(25)
    keys = await started(engine)
    assert len(keys) == len(set(keys))
    now = datetime.fromtimestamp(clock.now, UTC)
    assert keys.count("2026-11-22T10:10:00Z") == 1
    again = datetime.fromtimestamp(at("2026-11-22T10:45:00"), UTC)
    assert {iso(i) for i in newest("*/10 * * * *", ZoneInfo("UTC"), again, now, 99)} <= set(keys)
    # Three in the right time before, two or three in the wrong, three after; one for each jump forward.
    assert len(keys) <= 9


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-10-25", 25), ("2026-03-29", 23)], ids=["clocks go back", "clocks go forward"]
)
async def test_a_day_with_a_clock_change_in_real_steps(day: str, hours: int) -> None:
    """A minute at a time through the whole day: an hourly line fires once each real hour, a daily one once."""
    begin = datetime.fromisoformat(day).replace(tzinfo=BERLIN).astimezone(UTC)
    clock = Clock(begin.timestamp())
    lines = {"hourly": "0 * * * *", "daily": "30 2 * * *"}
    entries = {n: {"schedule": line, "timezone": "Europe/Berlin", "overlap": "allow"} for n, line in lines.items()}
    steps = {"id": "f", "python": "t:f"}
    of = mesh(*(workflow(n, steps, on={"cron": [e]}, input={"type": "object"}) for n, e in entries.items()))
    engine = build(of, MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()
    for _ in range(hours * 60):
        clock.now += 60
        await engine.scheduler.tick()
    runs = (await engine.runs.list(LOCAL, RunFilter(limit=200))).runs
    assert sum(run.workflow == "daily" for run in runs) == 1
    assert sum(run.workflow == "hourly" for run in runs) == hours


def test_the_named_forms() -> None:
    """They are five fields by another name; what is none is refused in plain words."""
    assert [five_fields(form) for form in ("@hourly", "@daily", "@Midnight", "@weekly", "@monthly", "@annually")] == [
        "0 * * * *", "0 0 * * *", "0 0 * * *", "0 0 * * 0", "0 0 1 * *", "0 0 1 1 *",
    ]  # fmt: skip
    for wrong in ("@reboot", "0 * * * * *", "61 * * * *", "", "* * *"):
        with pytest.raises(ValueError, match=r"five fields|no form|minute"):
            five_fields(wrong)


async def test_a_named_form_fires() -> None:
    """At midnight of its own zone."""
    clock = Clock(at("2026-11-22T22:59:59"))
    engine = build(ticking(schedule="@daily", timezone="Europe/Berlin"), MemoryStore(clock=clock), clock)
    assert await engine.scheduler.tick() == 1.0
    clock.now += 1
    await engine.scheduler.tick()
    assert await started(engine) == ["2026-11-22T23:00:00Z"]


@pytest.mark.parametrize(
    "line", ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */5 * * *", "15 3 1,15 * *", "0 12 * * 1"]
)
def test_the_newest_instants_are_the_last_of_all(line: str) -> None:
    """Looking back in ever wider spans finds what counting all of them finds, over both clock changes."""
    for until in (
        "2026-03-29T01:10:00",
        "2026-03-30T05:00:00",
        "2026-10-25T00:40:00",
        "2026-10-25T01:40:00",
        "2026-11-01T00:00:00",
    ):
        end = datetime.fromtimestamp(at(until), UTC)
        begin = datetime.fromtimestamp(at("2026-03-20T10:00:00" if "-03-" in until else "2026-10-18T10:00:00"), UTC)
        every = []
        for instant in instants(line, BERLIN, begin):
            if instant > end:
                break
            every.append(instant)
        assert every == sorted(set(every))
        for most in (1, 5):
            assert newest(line, BERLIN, begin, end, most) == every[-most:]


async def test_jitter_is_the_same_for_everybody() -> None:
    """Each instant is put off by its own share of the jitter, which two servers agree on; none is lost."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    of = ticking(jitter="5m", overlap="allow")
    one, two = build(of, store, clock), build(of, store, clock)
    while clock.now < at("2026-11-22T12:05:00"):
        clock.now += min(await one.scheduler.tick(), await two.scheduler.tick())
    runs = (await one.runs.list(LOCAL, RunFilter(limit=100))).runs
    late = [run.created_at - at(str(run.key).removeprefix("cron:tick:0:").removesuffix("Z")) for run in runs]
    assert len(late) == 12
    assert all(0 <= seconds < 300 for seconds in late)
    assert len(set(late)) > 6


async def test_two_schedulers_make_one_run_for_each_instant() -> None:
    """Whoever comes second finds the instant handled, and writes nothing: what is kept does not go back and forth."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = Counting(clock=clock)
    engines = [build(ticking(), store, clock) for _ in range(2)]
    for engine in engines:
        await engine.scheduler.tick()
    for time in ("10:10", "10:20", "10:30"):
        clock.now = at(f"2026-11-22T{time}:00")
        store.puts = 0
        for engine in engines:
            await engine.scheduler.tick()
        assert store.puts == 1
    assert await started(engines[0]) == ["2026-11-22T10:10:00Z"], "overlap skip: nobody works on the first"
    status = [engine.scheduler.status() for engine in engines]
    assert status[0] == status[1]


async def test_two_schedulers_at_the_very_same_time() -> None:
    """Both decide before either has written: still one run for each instant, and both know it."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    engines = [build(ticking(overlap="allow"), store, clock) for _ in range(2)]
    for engine in engines:
        await engine.scheduler.tick()
    for time in ("10:10", "10:20", "10:30"):
        clock.now = at(f"2026-11-22T{time}:00")
        async with anyio.create_task_group() as group:
            for engine in engines:
                group.start_soon(engine.scheduler.tick)
    assert await started(engines[0]) == [f"2026-11-22T{time}:00Z" for time in ("10:10", "10:20", "10:30")]
    (one,), (two,) = (engine.scheduler.status() for engine in engines)
    assert one == two


class Counting(MemoryStore):
    """Counts what the scheduler writes."""

    puts = 0

    async def put(self, scope: str, key: str, value: Any) -> None:
        self.puts += 1
        await super().put(scope, key, value)


async def test_pause_and_resume() -> None:
    """For every server, over restarts; what fell into the pause is not caught up."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    of = ticking(overlap="allow", catch_up="all")
    one, two = build(of, store, clock), build(of, store, clock)
    await one.scheduler.tick()
    await two.scheduler.tick()
    assert (await one.scheduler.pause(LOCAL, "tick", 0))["paused"] is True
    clock.now = at("2026-11-22T10:10:00")
    await two.scheduler.tick()
    await one.scheduler.tick()
    three = build(of, store, clock)
    clock.now = at("2026-11-22T10:20:00")
    await three.scheduler.tick()
    assert await started(one) == []
    assert three.scheduler.status()[0]["paused"] is True
    clock.now = at("2026-11-22T10:25:00")
    assert (await two.scheduler.resume(LOCAL, "tick", 0))["paused"] is False
    four = build(of, store, clock)
    clock.now = at("2026-11-22T10:30:00")
    for engine in (four, one, two, three):
        await engine.scheduler.tick()
        assert engine.scheduler.status()[0]["paused"] is False
    assert await started(one) == ["2026-11-22T10:30:00Z"]


async def test_a_pause_is_seen_within_a_second() -> None:
    """By a server whose next instant is far away."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = MemoryStore(clock=clock)
    of = ticking(schedule="0 0 1 1 *")
    naps: list[float] = []
    seen = anyio.Event()

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            await build(of, store, clock).scheduler.pause(LOCAL, "tick", 0)
        if len(naps) == 4:
            seen.set()
            await anyio.sleep_forever()
        await clock.sleep(seconds)

    engine = build_engine(of, store, None, clock=clock, sleep=sleep)  # type: ignore[arg-type]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(engine.scheduler.run)
            await seen.wait()
            group.cancel_scope.cancel()
    assert max(naps) <= 1.0
    assert engine.scheduler.status()[0]["paused"] is True


async def test_backfill() -> None:
    """One run for each instant of the span, oldest first, under the keys of the live ones; those that ran do not run again."""
    clock = Clock(at("2026-11-22T10:05:00"))
    engine = build(ticking(), MemoryStore(clock=clock), clock)
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:10:00")
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:15:00")
    since = at("2026-11-22T09:30:00")
    first = await engine.scheduler.backfill(LOCAL, "tick", 0, since=since, limit=3)
    assert [run["instant"][11:16] for run in first["runs"]] == ["09:30", "09:40", "09:50"]
    assert first["next"] == "2026-11-22T10:00:00Z"
    rest = await engine.scheduler.backfill(LOCAL, "tick", 0, since=at("2026-11-22T10:00:00"))
    assert [(run["instant"][11:16], run["new"]) for run in rest["runs"]] == [("10:00", True), ("10:10", False)]
    assert rest["next"] is None
    clock.now += 1
    again = await engine.scheduler.backfill(LOCAL, "tick", 0, since=since)
    assert not any(run["new"] for run in again["runs"])
    assert len(await started(engine)) == 5
    assert {run.owner for run in (await engine.runs.list(LOCAL, RunFilter())).runs} == {"cron:tick"}


async def test_bad_backfills_are_the_callers() -> None:
    """In one sentence each."""
    clock = Clock(at("2026-11-22T10:05:00"))
    engine = build(ticking(), MemoryStore(clock=clock), clock)
    for error, given in [
        (InvalidInput, {"since": clock.now - 60, "until": clock.now + 1}),
        (InvalidInput, {"since": clock.now}),
        (InvalidInput, {"since": clock.now - 60, "limit": 0}),
        (InvalidInput, {"since": clock.now - 60, "limit": 100_000}),
        (InvalidInput, {"since": -1e300}),
    ]:
        with pytest.raises(error):
            await engine.scheduler.backfill(LOCAL, "tick", 0, **given)  # type: ignore[arg-type]
    for workflow_, index in (("tick", 1), ("tick", -1), ("tok", 0)):
        with pytest.raises(NotFound):
            await engine.scheduler.pause(LOCAL, workflow_, index)
    assert await started(engine) == []


async def test_policies_say_who_pauses_and_who_backfills() -> None:
    """`admin.write` on the workflow, and `runs.start`."""
    policy = PolicyFile.model_validate({"rules": [{"allow": "runs.start", "on": ["workflow:tick"]}]})
    clock = Clock(at("2026-11-22T10:05:00"))
    of = ticking()
    engine = build(replace(of, policies=(policy,)), MemoryStore(clock=clock), clock)
    who = Principal("token:x")
    with pytest.raises(PolicyDenied):
        await engine.scheduler.pause(who, "tick", 0)
    with pytest.raises(PolicyDenied):
        await engine.scheduler.resume(who, "tick", 0)
    assert len((await engine.scheduler.backfill(who, "tick", 0, since=clock.now - 600))["runs"]) == 1
    assert engine.scheduler.status(who) == []
    assert len(engine.scheduler.status()) == 1


async def test_a_store_in_trouble_loses_no_instant() -> None:
    """What could not be recorded is recorded when the store answers again."""
    clock = Clock(at("2026-11-22T10:05:00"))
    store = Broken(clock=clock)
    engine = build(ticking(overlap="allow"), store, clock)
    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:10:00")
    for broken in ("start_run", "put", "get"):
        store.broken = broken
        with pytest.raises(StoreError):
            await engine.scheduler.tick()
    store.broken = ""
    clock.now += 20
    await engine.scheduler.tick()
    assert await started(engine) == ["2026-11-22T10:10:00Z"]
    assert engine.scheduler.status()[0]["last"] == "2026-11-22T10:10:00Z"


class Broken(MemoryStore):
    """Fails at one operation."""

    broken = ""

    async def put(self, scope: str, key: str, value: Any) -> None:
        self._check("put")
        await super().put(scope, key, value)

    async def get(self, scope: str, key: str) -> Any:
        self._check("get")
        return await super().get(scope, key)

    async def start_run(self, *given: Any, **more: Any) -> Any:
        self._check("start_run")
        return await super().start_run(*given, **more)

    def _check(self, what: str) -> None:
        if self.broken == what:
            raise StoreError("the disk is full")


async def test_many_entries_on_one_minute_leave_the_loop_to_others() -> None:
    """Ten thousand: each starts its run, and what else waits on the loop gets its turn all the while."""
    clock = Clock(at("2026-11-22T10:00:30"))
    of = mesh(
        *(
            workflow(f"w{n}", {"id": "a", "set": 1}, on={"cron": [{"schedule": "* * * * *"}] * 100}, input={"type": "object"})
            for n in range(100)
        )
    )  # fmt: skip
    engine = build(of, MemoryStore(clock=clock), clock)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    await engine.scheduler.tick()
    clock.now = at("2026-11-22T10:01:00")
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await engine.scheduler.tick()
        group.cancel_scope.cancel()
    assert (await engine.runs.list(LOCAL, RunFilter(limit=1))).total == 10_000
    assert turns > 100


def test_an_entry_puts_what_it_takes_in_order() -> None:
    """With a jitter longer than the period nothing is lost, and nothing overtakes."""
    schedule = Schedule(schedule="* * * * *", jitter=600, catch_up="all")
    begin = datetime.fromtimestamp(at("2026-11-22T10:00:00"), UTC)
    entry = Entry("w", 0, schedule, ZoneInfo("UTC"), last=begin)
    taken = []
    for minute in range(180):
        taken += [
            instant for instant, _ in entry.take(datetime.fromtimestamp(at("2026-11-22T10:00:00") + 60 * minute, UTC))
        ]
    assert taken == sorted(set(taken))
    assert len(taken) >= 165
    assert [int((b - a).total_seconds()) for a, b in pairwise(taken)] == [60] * (len(taken) - 1)
