"""A run that is cut off at any write goes on from its last durable step, and ends as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Kind, RunState
from agentmesh.core.store import Store
from agentmesh.errors import StoreError
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow

pytestmark = pytest.mark.anyio

WRITES = ("start_run", "append", "park", "post", "claim", "request_cancel", "put")
LEASE = 30.0

FIX = workflow(
    "fix",
    {"id": "look", "python": "t:look", "with": {"text": "${{ input.text }}"}},
    {"id": "say", "set": {"fixed": "${{ steps.look.output }}"}},
    on={"a2a": {"skill": "fix"}},
)
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
WHOLE = workflow(
    "whole",
    {"id": "first", "set": {"x": "${{ input.text }}"}},
    {"id": "cut", "python": "t:cut", "with": {"text": "${{ steps.first.output.x }}"}},
    {
        "id": "choose",
        "llm": {"prompt": "Number of ${{ steps.cut.output }}?", "output": NUMBER},
        "validate": [{"ensure": "output.n == 3", "message": "must be three"}],
        "on_invalid": [{"repair": 2}, {"escalate": {"model": "large"}}, "fail"],
    },
    {"id": "never", "if": "steps.choose.output.n == 4", "python": "t:cut", "with": {"text": ""}},
    {
        "id": "each",
        "map": {"over": "${{ ['a', 'b', 'c'] }}", "as": "letter", "at_once": 2},
        "steps": [{"id": "up", "python": "t:up", "with": {"letter": "${{ letter }}"}, "effect": "read"}],
    },
    {
        "id": "where",
        "switch": [
            {
                "when": "steps.choose.output.n == 3",
                "steps": [{"id": "ask", "agent": {"skill": "fix", "message": "${{ input.text }}"}}],
            }
        ],
        "else": [{"id": "no", "set": "no"}],
    },
    {"id": "call", "tool": "desk.count", "with": {"text": "${{ input.text }}"}},
    output={
        "n": "${{ steps.choose.output.n }}",
        "each": "${{ steps.each.output }}",
        "where": "${{ steps.where.output }}",
        "c": "${{ steps.call.output }}",
    },
)
EXPECTED = {"n": 3, "each": ["A", "B", "C"], "where": {"fixed": "HELLO"}, "c": {"n": 5}}


class Mortal:
    """A store whose process dies at its `last` write: before it is made, or after it but before anybody hears of it."""

    def __init__(self, store: Store, last: int, *, made: bool) -> None:
        self._store = store
        self._left = last
        self._made = made
        self.dead = anyio.Event()

    async def __aenter__(self) -> Mortal:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "changes":
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead.is_set():
                raise StoreError("the process is gone")
            if name in WRITES:
                self._left -= 1
                if self._left < 0:
                    if self._made:
                        await method(*args, **kwargs)
                    self.dead.set()
                    raise StoreError("the process is gone")
            return await method(*args, **kwargs)

        return call


class World:
    """What lies outside the mesh: functions and models, and how often each was used under which key."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.functions: dict[str, Callable[..., Any]] = {
            "t:look": self.up,
            "t:cut": self.cut,
            "t:up": self.letter,
            "t:count": self.count,
        }

    async def up(self, ctx: Context, text: str) -> str:
        self.calls[ctx.key] += 1
        ctx.put("seen", text)
        return text.upper()

    async def cut(self, ctx: Context, text: str) -> str:
        self.calls[ctx.key] += 1
        return text[:3]

    async def letter(self, ctx: Context, letter: str) -> str:
        self.calls[ctx.key] += 1
        return letter.upper()

    async def count(self, ctx: Context, text: str) -> dict[str, int]:
        self.calls[ctx.key] += 1
        return {"n": len(text)}

    def model(self) -> ScriptedModel:
        def answer(request: ChatRequest) -> Any:
            self.calls[f"{request.model} {len(request.messages)}"] += 1
            # Wrong at first, wrong after one repair, wrong after two; the larger model knows.
            return (
                {"n": 3}
                if request.model == "large"
                else {"n": len(request.messages)}
                if len(request.messages) != 3
                else "?"
            )

        return ScriptedModel(answer)


def whole() -> Mesh:
    count = {"description": "Counts.", "python": "t:count", "output": {"type": "object"}}
    return mesh(WHOLE, FIX, tools={"count": count})


Opening = Callable[[Clock], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["memory", "sqlite"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    count = iter(range(10_000))

    @asynccontextmanager
    async def memory(clock: Clock) -> AsyncIterator[Store]:
        async with MemoryStore(clock=clock) as store:
            yield store

    @asynccontextmanager
    async def sqlite(clock: Clock) -> AsyncIterator[Store]:
        async with open_store(f"sqlite:///{next(count)}.db", tmp_path, clock=clock) as store:
            yield store

    return memory if request.param == "memory" else sqlite


async def crash_and_go_on(opening: Opening, last: int, *, made: bool) -> bool:
    """One crash at write `last`, and a second process; False when the run ended before."""
    clock, world, of = Clock(), World(), whole()
    async with opening(clock) as store:
        mortal = Mortal(store, last, made=made)
        run_id = None
        with anyio.fail_after(20):
            async with serving(of, store=mortal, model=world.model(), functions=world.functions, clock=clock) as engine:
                try:
                    run = await engine.runs.start(LOCAL, "whole", {"text": "hello"}, key="one")
                    run_id = run.id
                except StoreError:
                    pass
                async with anyio.create_task_group() as group:

                    async def until_dead() -> None:
                        await mortal.dead.wait()
                        group.cancel_scope.cancel()

                    group.start_soon(until_dead)
                    if run_id is not None:
                        try:
                            ended = await engine.runs.wait(LOCAL, run_id)
                        except StoreError:
                            pass
                        else:
                            assert ended.output == EXPECTED
                            group.cancel_scope.cancel()
        survived = not mortal.dead.is_set()
        before = await completed(store, run_id) if run_id else set()
        first = Counter(world.calls)
        clock.now += LEASE + 1
        with anyio.fail_after(20):
            async with serving(
                of, store=Mortal(store, 10_000, made=True), model=world.model(), functions=world.functions, clock=clock
            ) as engine:
                run = await engine.runs.start(LOCAL, "whole", {"text": "hello"}, key="one")
                run = await engine.runs.wait(LOCAL, run.id)
        assert run.state is RunState.COMPLETED, run.error
        assert run.output == EXPECTED
        again = world.calls - first
        assert not before & again.keys(), "a completed step ran again"
        asked = {key: n for key, n in world.calls.items() if " " in key}
        assert sum(asked.values()) <= 5, "a model was asked more often than it was cut off"
        assert max((world.calls - Counter(asked)).values()) <= 2, "a step ran more often than it was cut off"
        check_journal(await store.entries(run.id))
        assert (await store.scan("workflow:fix")) == {"seen": "hello"}
        return not survived


async def completed(store: Store, run_id: str) -> set[str]:
    """Keys of the steps that a run, or a child of it, has completed."""
    entries = await store.entries(run_id)
    keys = {f"{run_id}/{e.path}" for e in entries if e.kind is Kind.STEP_COMPLETED}
    for entry in entries:
        if entry.kind is Kind.STEP_CHILD:
            keys |= await completed(store, entry.payload["run"])
    return keys


def check_journal(entries: Any) -> None:
    """No step completes twice, nor does an attempt begin that was never asked for."""
    ends = Counter(e.path for e in entries if e.kind in (Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_SKIPPED))
    assert set(ends.values()) == {1}
    whys = [e.payload["why"] for e in entries if e.kind is Kind.STEP_STARTED and e.path == "choose"]
    ended = [e for e in entries if e.kind is Kind.STEP_ATTEMPT and e.path == "choose"]
    assert len(ended) == 4, "the repairs go on where they were"
    assert [w for w in whys if w != "resume"] == ["first", "repair", "repair", "escalate"]
    assert whys.count("resume") <= 1
    numbers = [e.attempt for e in entries if e.kind is Kind.STEP_STARTED and e.path == "choose"]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("made", [False, True], ids=["unmade", "unheard"])
async def test_a_crash_at_any_write_changes_nothing_in_the_end(opening: Opening, made: bool) -> None:
    """Completed steps never run again, a step in flight runs again under the same key, the output is the same."""
    last = 0
    while await crash_and_go_on(opening, last, made=made):
        last += 1
        assert last < 200
    assert last > 15
