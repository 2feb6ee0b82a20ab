"""A run that waits, asks, loops and undoes goes on after a crash at any write, and does nothing twice that was completed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.run import Kind, RunState
from agentmesh.core.store import Store
from agentmesh.engine import Engine
from agentmesh.errors import MeshError, StoreError
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow
from tests.engine.test_resume import Mortal, Opening, completed, opening

__all__ = ["opening"]

pytestmark = pytest.mark.anyio

LEASE = 100_000.0
"""Seconds: the clock runs ahead while a claim is on its way to a slow disk, and must not overtake its lease."""
CHILD = workflow("child", {"id": "nap", "wait": "1m"}, {"id": "did", "python": "t:act", "with": {"name": "child"}})


def act(name: str, **more: Any) -> dict[str, Any]:
    undo = {"python": "t:undo", "with": {"name": name}}
    return {"id": name, "python": "t:act", "with": {"name": name}, "compensate": undo, **more}


PATIENT = workflow(
    "patient",
    act("one"),
    {
        "id": "both",
        "parallel": {
            "a": [act("two"), {"id": "rest", "wait": "2m"}, act("three")],
            "b": [{"id": "go", "wait": {"signal": "go"}}, {"id": "sub", "workflow": "child", "with": {"text": ""}}],
        },
    },
    {"id": "review", "approve": {"ask": "Well?", "show": "${{ steps.both.output }}"}},
    {"id": "rounds", "loop": {"max": 3, "until": "loop.index == 1"}, "steps": [act("four")]},
    {"id": "last", "if": "input.text == 'fail'", "python": "t:fail"},
)


class World:
    """What was done and undone, by idempotency key."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.undone: Counter[str] = Counter()
        self.order: list[str] = []
        self.functions: dict[str, Callable[..., Any]] = {"t:act": self.act, "t:undo": self.undo, "t:fail": self.fail}

    async def act(self, ctx: Context, name: str) -> str:
        self.done[ctx.key.partition("/")[2]] += 1
        await anyio.lowlevel.checkpoint()
        return name

    async def undo(self, ctx: Context, name: str) -> None:
        self.undone[ctx.key.partition("/")[2]] += 1
        self.order.append(name)

    async def fail(self) -> None:
        raise ValueError("as planned")


async def drive(engine: Engine, clock: Clock, run_id: str) -> None:
    """Does from outside what the run waits for, again and again, as careful people do: with a key, and the question's digest."""
    while True:
        try:
            run = await engine.runs.get(LOCAL, run_id)
            if run.state.terminal:
                return
            await engine.runs.signal(LOCAL, run_id, "go", key="go")
            for question in await engine.runs.questions(LOCAL, run_id):
                await engine.runs.answer(LOCAL, run_id, question=question.id, digest=question.digest)
        except MeshError:
            pass  # the process is gone, or somebody was there before
        if engine.worker.active == 0:
            clock.now += 20
            engine.worker.nudge()
        await anyio.lowlevel.checkpoint()


async def crash_and_go_on(opening: Opening, text: str, last: int, *, made: bool) -> bool:
    """One crash at write `last`, and a second process; False when the run ended before."""
    clock, world = Clock(), World()
    of: Mesh = mesh(PATIENT, CHILD)
    async with opening(clock) as store:
        mortal = Mortal(store, last, made=made)
        with anyio.fail_after(20):
            async with serving(of, store=mortal, functions=world.functions, clock=clock, lease=LEASE) as engine:
                try:
                    run = await engine.runs.start(LOCAL, "patient", {"text": text}, key="one")
                    async with anyio.create_task_group() as group:

                        async def until_dead() -> None:
                            await mortal.dead.wait()
                            group.cancel_scope.cancel()

                        group.start_soon(until_dead)
                        await drive(engine, clock, run.id)
                        group.cancel_scope.cancel()
                except StoreError:
                    pass
        survived = not mortal.dead.is_set()
        before = await everything_completed(store)
        first = Counter(world.done)
        clock.now += LEASE + 1
        with anyio.fail_after(20):
            calm = Mortal(store, 100_000, made=True)
            async with serving(of, store=calm, functions=world.functions, clock=clock, lease=LEASE) as engine:
                run = await engine.runs.start(LOCAL, "patient", {"text": text}, key="one")
                await drive(engine, clock, run.id)
                run = await engine.runs.get(LOCAL, run.id)
        assert run.state is (RunState.FAILED if text == "fail" else RunState.COMPLETED), run.error
        assert not {key.partition("/")[2] for key in before} & (world.done - first).keys(), "a completed step ran again"
        assert max(world.done.values()) <= 2
        entries = await store.entries(run.id)
        assert [e.seq for e in entries] == list(range(1, len(entries) + 1))
        ends = Counter(e.path for e in entries if e.kind in (Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_SKIPPED))
        assert set(ends.values()) == {1}
        assert sum(e.kind is Kind.RUN_SIGNALED for e in entries) == 1
        assert sum(e.kind is Kind.RUN_ANSWERED for e in entries) == 1
        if text == "fail":
            assert set(world.undone) == {f"{path}/compensate" for path in world.done if not path.startswith("did")}
            assert next(iter(dict.fromkeys(world.order))) == "four"
            assert list(dict.fromkeys(world.order))[-1] == "one"
        else:
            assert not world.undone
        return not survived


async def everything_completed(store: Store) -> set[str]:
    from agentmesh.core.store import RunFilter

    keys: set[str] = set()
    for run in (await store.list_runs(RunFilter(roots=True))).runs:
        keys |= await completed(store, run.id)
    return keys


@pytest.mark.parametrize("made", [True, False], ids=["unheard", "unmade"])
@pytest.mark.parametrize("text", ["go", "fail"])
async def test_a_crash_at_any_write_changes_nothing_in_the_end(opening: Opening, text: str, made: bool) -> None:
    """Waits, questions, children, loops and the way back: each write is a place where the process may die."""
    last = 0
    while await crash_and_go_on(opening, text, last, made=made):
        last += 1
    assert last > 20
