"""What an agent elsewhere tells is recorded a moment later when nobody waits for each of its events, and at once when somebody does."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core.run import Kind, RunState
from tests.engine.meshes import LOCAL, journal
from tests.engine.test_relay import say, with_peers

pytestmark = pytest.mark.anyio


class Counted(MemoryStore):
    """Counts what is appended."""

    appends = 0

    async def append(self, *args: object, **given: object) -> None:
        self.appends += 1
        await super().append(*args, **given)  # type: ignore[arg-type]


async def three(task: MemoryTask) -> None:
    for number in range(3):
        await anyio.lowlevel.checkpoint()
        task.artifact(f"a{number}", {"text": str(number)})


async def test_a_short_task_that_is_only_waited_for_is_written_in_few_pieces() -> None:
    """The rows are all there at the end, in order; one piece at the beginning, one at the end."""
    store = Counted()
    async with with_peers(MemoryPeer("billing", three), store=store) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        with anyio.fail_after(5):
            run = await engine.runs.reached(run, ())
        assert run.state is RunState.COMPLETED
        assert list(run.artifacts) == ["a0", "a1", "a2"]
        assert run == await engine.runs.get(LOCAL, run.id)
        kinds = [entry.kind for entry in await journal(engine, run)]
        assert kinds.index(Kind.STEP_TASK) < kinds.index(Kind.STEP_ARTIFACT) < kinds.index(Kind.RUN_COMPLETED)
        assert store.appends <= 3


async def test_what_is_held_back_is_written_though_nothing_follows() -> None:
    """Whose task it is stands in the journal soon, while the agent says nothing more and nobody follows."""
    go = anyio.Event()

    async def act(task: MemoryTask) -> None:
        task.artifact("a", {"text": "1"})
        await go.wait()

    async with with_peers(MemoryPeer("billing", act)) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        with anyio.fail_after(5):
            changes = engine.store.changes(run.id)
            while not (await engine.runs.get(LOCAL, run.id)).artifacts:
                await anext(changes)
        assert (await engine.runs.get(LOCAL, run.id)).steps["task"].task is not None
        go.set()
        with anyio.fail_after(5):
            await engine.runs.reached(run, ())


async def test_a_follower_hears_of_each_event_before_the_next() -> None:
    """The agent goes on only when its event was heard."""
    heard = [anyio.Event() for _ in range(5)]

    async def act(task: MemoryTask) -> None:
        for number, event in enumerate(heard):
            task.artifact(f"a{number}", {"text": str(number)})
            await event.wait()

    async with with_peers(MemoryPeer("billing", act)) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        with anyio.fail_after(5):
            async with aclosing(engine.runs.follow(run, after=run.seq)) as events:
                async for event in events:
                    if event.entry is not None and event.entry.kind is Kind.STEP_ARTIFACT:
                        heard[int(str(event.entry.payload["artifact"]["artifactId"])[1:])].set()  # type: ignore[index,call-overload]
        assert all(event.is_set() for event in heard)
