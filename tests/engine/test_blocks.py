"""Blocks that hold steps, what stands in for a failed one, and the way back of a run that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import Kind, RunState
from agentmesh.core.store import RunFilter
from agentmesh.errors import Retry
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio


def fails() -> None:
    raise ValueError("no")


FAIL = {"id": "fail", "python": "m:fails"}


async def test_branches_run_at_once_and_yield_an_object() -> None:
    """Both have begun before either ends."""
    begun: list[str] = []
    both = anyio.Event()

    async def meet(name: str) -> str:
        begun.append(name)
        if len(begun) == 2:
            both.set()
        await both.wait()
        return name

    step = {
        "id": "p",
        "parallel": {n: [{"id": f"step_{n}", "python": "m:meet", "with": {"name": n}}] for n in ("a", "b")},
    }
    async with serving(mesh(workflow("w", step)), functions={"m:meet": meet}) as engine:
        assert (await finished(engine, "w")).output == {"a": "a", "b": "b"}


async def test_a_failed_branch_cuts_the_others_off() -> None:
    """The block fails with the inner step's path."""
    stopped: list[str] = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("forever")

    step = {"id": "p", "parallel": {"a": [{"id": "long", "python": "m:forever"}], "b": [FAIL]}}
    async with serving(mesh(workflow("w", step)), functions={"m:forever": forever, "m:fails": fails}) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert run.error["path"] == "p/b/fail"
        assert stopped == ["forever"]


@pytest.mark.parametrize(
    ("loop", "output"),
    [
        ({"max": 3}, 2),
        ({"max": 9, "until": "steps.round.output >= 4"}, 4),
        ({"max": 9, "while": "loop.index < 2"}, 1),
        ({"max": 9, "while": "false"}, None),
        ({"max": 2, "until": "false", "at_max": "stop"}, 1),
        ({"max": 3, "while": "loop.index < 3"}, 2),
    ],
)
async def test_a_loop_yields_its_last_round(loop: Mapping[str, Any], output: Any) -> None:
    """By `max`, `until` and `while`; no round yields null."""
    step = {"id": "l", "loop": loop, "steps": [{"id": "round", "set": "${{ loop.index }}"}]}
    async with serving(mesh(workflow("w", step))) as engine:
        run = await finished(engine, "w")
        assert (run.state, run.output) == (RunState.COMPLETED, output)


async def test_a_loop_sees_the_round_before() -> None:
    """`loop.last` is null at first."""
    grow = {"id": "grow", "set": "${{ loop.last == null ? 1 : int(loop.last) * 2 }}"}
    async with serving(mesh(workflow("w", {"id": "l", "loop": {"max": 4}, "steps": [grow]}))) as engine:
        assert (await finished(engine, "w")).output == 8


async def test_a_loop_that_never_ends_fails() -> None:
    """It says how many rounds it took and what it waited for."""
    step = {"id": "l", "loop": {"max": 2, "until": "false"}, "steps": [{"id": "x", "set": 1}]}
    async with serving(mesh(workflow("w", step))) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert "2 rounds (until: false)" in run.error["message"]


async def test_other_steps_stand_in_for_one_that_failed() -> None:
    """Their output is its output, and they see the error."""
    step = {**FAIL, "on_error": {"steps": [{"id": "plan_b", "set": {"was": "${{ error.message }}"}}]}}
    after = {"id": "after", "set": "${{ steps.fail.output.was }}"}
    async with serving(mesh(workflow("w", step, after)), functions={"m:fails": fails}) as engine:
        run = await finished(engine, "w")
        assert (run.state, run.output) == (RunState.COMPLETED, "ValueError: no")


def undoable(name: str, **more: Any) -> dict[str, Any]:
    undo = {"python": "m:undo", "with": {"name": name, "was": "${{ output }}"}, "retry": {"attempts": 3, "backoff": 1}}
    return {"id": name, "python": "m:do", "with": {"name": name}, "compensate": undo, **more}


class World:
    """Remembers what was done and undone."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failures = 0

    def functions(self) -> dict[str, Callable[..., Any]]:
        return {"m:do": self.do, "m:undo": self.undo, "m:fails": fails}

    def do(self, name: str) -> str:
        self.done.append(f"+{name}")
        return f"made {name}"

    def undo(self, name: str, was: str) -> None:
        if self.failures:
            self.failures -= 1
            raise Retry("not yet")
        assert was == f"made {name}"
        self.done.append(f"-{name}")


async def test_a_failed_run_is_undone_newest_first() -> None:
    """Steps of blocks too; what never completed is not undone, and an undoing step is itself retried."""
    world = World()
    world.failures = 2
    each = {"id": "each", "map": {"over": "['x']"}, "steps": [undoable("inner")]}
    skipped = undoable("skipped", **{"if": "false"})
    flow = workflow("w", undoable("first"), skipped, each, undoable("second"), FAIL)
    async with serving(mesh(flow), functions=world.functions()) as engine:
        run = await finished(engine, "w")
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["path"] == "fail"
        assert world.done == ["+first", "+inner", "+second", "-second", "-inner", "-first"]
        assert len(await journal(engine, run, Kind.RUN_UNDOING)) == 1


async def test_what_cannot_be_undone_is_said() -> None:
    """The others are undone all the same."""
    world = World()
    world.failures = 3
    async with serving(
        mesh(workflow("w", undoable("first"), undoable("second"), FAIL)), functions=world.functions()
    ) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert run.error["not_undone"] == ["second"]
        assert world.done[-1] == "-first"


async def test_a_canceled_run_is_undone_too() -> None:
    """And stays canceled."""
    world = World()
    flow = workflow("w", undoable("first"), {"id": "go", "wait": {"signal": "go"}})
    async with serving(mesh(flow), functions=world.functions()) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "x"})
        while "go" not in (await engine.runs.get(LOCAL, run.id)).steps:
            await anyio.lowlevel.checkpoint()
        await engine.runs.cancel(LOCAL, run.id)
        assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.CANCELED
        assert world.done == ["+first", "-first"]


async def test_a_child_undoes_before_its_parent() -> None:
    """The way back of a canceled parent begins when its canceled child has gone its own."""
    world = World()
    waiting = anyio.Event()

    async def undo(name: str, was: str) -> None:
        if name == "inner":
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
        world.undo(name, was)

    async def stay() -> None:
        waiting.set()
        await anyio.sleep_forever()

    child = workflow("child", undoable("inner"), {"id": "stay", "python": "m:stay"})
    parent = workflow("parent", undoable("outer"), {"id": "sub", "workflow": "child", "with": {"text": ""}})
    async with serving(mesh(child, parent), functions=world.functions() | {"m:undo": undo, "m:stay": stay}) as engine:
        run = await engine.runs.start(LOCAL, "parent", {"text": "x"})
        await waiting.wait()
        await engine.runs.cancel(LOCAL, run.id)
        assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.CANCELED
        assert world.done == ["+outer", "+inner", "-inner", "-outer"]


async def test_a_crash_on_the_way_back_goes_on_from_there() -> None:
    """What was undone is not undone again, and the error is the first one."""
    world = World()
    clock = Clock()
    store = MemoryStore(clock=clock)
    stuck = anyio.Event()

    async def undo_second(name: str, was: str) -> None:
        if name == "first" and not stuck.is_set():
            stuck.set()
            await anyio.sleep_forever()
        world.undo(name, was)

    flow = mesh(workflow("w", undoable("first"), undoable("second"), FAIL))
    functions = world.functions() | {"m:undo": undo_second}
    async with serving(flow, functions=functions, store=store, clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "x"})
        await stuck.wait()
    clock.now += 60
    async with serving(flow, functions=functions, store=store, clock=clock) as engine:
        ended = await engine.runs.wait(LOCAL, run.id)
        assert ended.error is not None
        assert ended.error["path"] == "fail"
        assert world.done == ["+first", "+second", "-second", "-first"]


async def test_on_failure_starts_another_workflow_once() -> None:
    """With what failed and why; not for a run that completed."""
    schema = {"type": "object", "properties": {n: {} for n in ("run", "workflow", "error", "input")}}
    care = workflow("care", {"id": "seen", "set": "${{ input.error.code }}"}, input=schema)
    flow = workflow("w", {**FAIL, "if": "input.text == 'bad'"}, on_failure="care")
    async with serving(mesh(flow, care), functions={"m:fails": fails}) as engine:
        await finished(engine, "w")
        run = await finished(engine, "w", {"text": "bad"})
        (started,) = (await engine.runs.list(LOCAL, RunFilter(workflow="care"))).runs
        assert started.input["run"] == run.id
        assert started.input["input"] == {"text": "bad"}
        assert (await engine.runs.wait(LOCAL, started.id)).output == "failed"
