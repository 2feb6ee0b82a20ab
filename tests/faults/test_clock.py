"""The clock is an hour or a year off, either way, or is changed under a running mesh; and twice a year the hour is.

The engine takes its clock as an argument, so a test moves it: on SQLite, where the server's clock rules, and on PostgreSQL, where the
database's does and the servers' may differ.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.policy import Principal
from agentmesh.core.run import Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine, build_engine
from tests.engine.meshes import mesh, workflow

pytestmark = pytest.mark.anyio
LOCAL = Principal()
HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
OFF = {"hour ahead": HOUR, "hour behind": -HOUR, "year ahead": YEAR, "year behind": -YEAR}
ANY = {"input": {"type": "object"}}


class Machine:
    """One server's clock: the real one, and how far it is off."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def __call__(self) -> float:
        return datetime.now(UTC).timestamp() + self.off


@asynccontextmanager
async def engine_on(
    store: str, folder: Path, of: Any, clock: Callable[[], float], *, schedules: bool = False, **functions: Any
) -> AsyncIterator[Engine]:
    """A server's engine with that clock, until the block ends as a crash would."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_store(store, folder, clock=clock))
        engine = build_engine(
            of, opened, ScriptedModel([]), clock=clock, random=random.Random(1), functions=functions.__getitem__,
            lease=1.5, heartbeat=0.5,
        )  # fmt: skip
        group = await stack.enter_async_context(anyio.create_task_group())
        await group.start(engine.worker.run)
        if schedules:
            await group.start(engine.scheduler.run)
        yield engine
        group.cancel_scope.cancel()


class Gate:
    """A step that waits until it is let through, and counts."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.open = anyio.Event()
        self.times = 0

    async def __call__(self) -> int:
        self.times += 1
        self.begun.set()
        await self.open.wait()
        return self.times


def _gated(gate: Gate) -> Any:
    return mesh(workflow("gated", {"id": "hold", "python": "gate"}, {"id": "then", "set": {"n": 1}}, **ANY))


async def _ended(engine: Engine, run: Run, within: float = 60.0) -> Run:
    with anyio.fail_after(within):
        return await engine.runs.wait(LOCAL, run.id)


@pytest.mark.parametrize("off", OFF.values(), ids=OFF.keys())
async def test_set_while_a_run_works(store: str, tmp_path: Path, off: float) -> None:
    """The run goes on, is not taken over from itself, and its step is done once."""
    clock, gate = Machine(), Gate()
    async with engine_on(store, tmp_path, _gated(gate), clock, gate=gate) as engine:
        run = await engine.runs.start(LOCAL, "gated", {})
        await gate.begun.wait()
        clock.off = off
        with anyio.move_on_after(2.5):  # past the lease: heartbeats must have kept it
            await engine.runs.wait(LOCAL, run.id)
        gate.open.set()
        assert (await _ended(engine, run)).state is RunState.COMPLETED
        later = await engine.runs.start(LOCAL, "gated", {})
        assert (await _ended(engine, later)).state is RunState.COMPLETED
    assert gate.times == 2


@pytest.mark.parametrize("off", OFF.values(), ids=OFF.keys())
async def test_a_restart_with_another_clock(store: str, tmp_path: Path, off: float) -> None:
    """What a server left behind ends within 60 s of a restart whose clock is off, and runs end on it."""
    gate = Gate()
    async with engine_on(store, tmp_path, _gated(gate), Machine(), gate=gate) as engine:
        run = await engine.runs.start(LOCAL, "gated", {})
        await gate.begun.wait()
    gate.open.set()
    async with engine_on(store, tmp_path, _gated(gate), Machine(off), gate=gate) as engine:
        assert (await _ended(engine, run)).state is RunState.COMPLETED
        assert (await _ended(engine, await engine.runs.start(LOCAL, "gated", {}))).state is RunState.COMPLETED
        entries = await engine.runs.journal(LOCAL, run.id)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


@pytest.mark.parametrize("off", OFF.values(), ids=OFF.keys())
async def test_two_servers_whose_clocks_differ(postgres_url: str, tmp_path: Path, off: float) -> None:
    """On PostgreSQL its clock rules: a server that is off takes no run away from one that works on it, and keeps its own."""
    right, wrong = Gate(), Gate()
    async with (
        engine_on(postgres_url, tmp_path, _gated(right), Machine(), gate=right) as one,
        engine_on(postgres_url, tmp_path, _gated(wrong), Machine(off), gate=wrong) as other,
    ):
        first = await one.runs.start(LOCAL, "gated", {})
        await right.begun.wait()
        second = await other.runs.start(LOCAL, "gated", {})
        await wrong.begun.wait()
        with anyio.move_on_after(2.5):
            await one.runs.wait(LOCAL, first.id)
        right.open.set()
        wrong.open.set()
        for engine, run in ((one, first), (other, second), (one, second), (other, first)):
            assert (await _ended(engine, run)).state is RunState.COMPLETED
        assert (right.times, wrong.times) == (1, 1)


@pytest.mark.parametrize("off", OFF.values(), ids=OFF.keys())
async def test_a_short_wait_where_the_clock_is_off(store: str, tmp_path: Path, off: float) -> None:
    """A timer and a signal's patience are measured on the server's own clock, wherever it stands; nobody writes rows without an end."""
    steps = (
        {"id": "nap", "wait": 0.3},
        {"id": "long", "wait": 5.5},
        {"id": "go", "wait": {"signal": "go", "expires": "1h"}},
    )
    async with engine_on(store, tmp_path, mesh(workflow("naps", *steps, **ANY)), Machine(off)) as engine:
        run = await engine.runs.start(LOCAL, "naps", {})
        await engine.runs.signal(LOCAL, run.id, "go", {}, key="go")
        assert (await _ended(engine, run)).state is RunState.COMPLETED
        assert len(await engine.runs.journal(LOCAL, run.id)) < 40


@pytest.mark.parametrize("off", [HOUR, YEAR], ids=["hour", "year"])
async def test_set_forward_over_a_timer(store: str, tmp_path: Path, off: float) -> None:
    """What came due by it is done within seconds, though it was parked."""
    if store.startswith("postgresql"):
        pytest.skip("on PostgreSQL the database's clock rules, which no test here moves")
    clock = Machine()
    of = mesh(workflow("naps", {"id": "nap", "wait": "30m"}, **ANY))
    async with engine_on(store, tmp_path, of, clock) as engine:
        run = await engine.runs.start(LOCAL, "naps", {})
        with anyio.fail_after(20):
            while not (await engine.runs.get(LOCAL, run.id)).steps:  # noqa: ASYNC110 - watching is not what is tested
                await anyio.sleep(0.05)
        clock.off = off
        assert (await _ended(engine, run)).state is RunState.COMPLETED


def _ticking(schedule: str, **more: Any) -> Any:
    cron = [{"schedule": schedule, **more}]
    return mesh(workflow("tick", {"id": "a", "set": {"n": 1}}, on={"cron": cron}, **ANY))


async def _instants(engine: Engine) -> list[str]:
    page = await engine.runs.list(LOCAL, RunFilter(limit=500))
    return sorted(str(run.key).removeprefix("cron:tick:0:") for run in page.runs)


@pytest.mark.parametrize("off", OFF.values(), ids=OFF.keys())
async def test_schedules_when_the_clock_is_set(store: str, tmp_path: Path, off: float) -> None:
    """A minute's schedule fires at most once for what was leapt over, never twice for one instant, and goes on by the new clock."""
    start = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC).timestamp()
    now = [start]
    async with engine_on(store, tmp_path, _ticking("* * * * *"), lambda: now[0]) as engine:
        await engine.scheduler.tick()
        for moment in (60.0, 120.0, 120.0 + off, 180.0 + off, 240.0 + off):
            now[0] = start + moment
            await engine.scheduler.tick()
        instants = await _instants(engine)
    assert len(instants) == len(set(instants))
    assert 4 <= len(instants) <= 5, instants
    ahead = datetime.fromtimestamp(start + 240 + off, UTC).replace(second=0)
    assert f"{ahead:%Y-%m-%dT%H:%M:%SZ}" in instants


@pytest.mark.parametrize(
    ("change", "schedule", "expected"),
    [
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "30 2 * * *", 2),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "30 2 * * *", 2),
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "0 0 * * *", 2),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "0 0 * * *", 2),
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "0 * * * *", 48),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "0 * * * *", 48),
    ],
    ids=["gap, in it", "fold, in it", "gap, daily", "fold, daily", "gap, hourly", "fold, hourly"],
)
async def test_both_clock_changes(store: str, tmp_path: Path, change: datetime, schedule: str, expected: int) -> None:
    """Over two days around a change in Berlin a daily job runs twice, though its hour is missing or comes twice; an hourly one hourly."""
    now = [change.timestamp()]
    of = _ticking(schedule, timezone="Europe/Berlin", overlap="allow", catch_up="all")
    async with engine_on(store, tmp_path, of, lambda: now[0]) as engine:
        await engine.scheduler.tick()
        end = change + timedelta(days=2)
        while now[0] < end.timestamp():
            now[0] += 900
            await engine.scheduler.tick()
        instants = await _instants(engine)
    assert len(instants) == len(set(instants)) == expected, instants
