"""An agent, a repair, a check or a question that is cut off at any write goes on where it was."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel, use
from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Entry, Kind, RunState
from agentmesh.core.store import Store
from agentmesh.engine import Engine
from agentmesh.errors import CallerError, ModelUnavailable, StoreError
from tests.engine.meshes import LOCAL, TEXT, Clock, mesh, serving, workflow
from tests.engine.test_resume import LEASE, Mortal, Opening, opening  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
WHOLE = workflow(
    "whole",
    {
        "id": "agent",
        "llm": {"prompt": "AGENT", "tools": ["desk.*"], "output": NUMBER},
        "validate": [{"ensure": "output.n == 3", "message": "three"}, {"judge": {"model": "large", "rubric": "JUDGE"}}],
        "on_invalid": [{"repair": 1}],
        "retry": {"attempts": 3, "backoff": 0.1},
    },
    {
        "id": "approved",
        "llm": {"prompt": "REPLY"},
        "validate": [{"approve": {"ask": "Send ${{ output }}?"}}],
        "on_invalid": [{"repair": 1}, {"ask": {"question": "What, then?"}}],
    },
    {
        "id": "block",
        "set": {"n": 1},
        "validate": [{"judge": {"model": "large", "rubric": "JUDGE ${{ output.n }}"}}],
        "on_invalid": [{"ask": {"question": "Which number?"}}, {"fallback": {"n": 9}}],
    },
    output={
        "agent": "${{ steps.agent.output }}",
        "approved": "${{ steps.approved.output }}",
        "block": "${{ steps.block.output }}",
    },
)
EXPECTED = {"agent": {"n": 3}, "approved": "a person's", "block": {"n": 9}}
ANSWERS = {
    "Send first?": False,
    "Send second?": False,
    "What, then?": "a person's",
    "Send a person's?": True,
    "Which number?": {"n": 2},
}


class World:
    """What lies outside: how often each tool was called under which key, and each question put to a model."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.down = True

    async def send(self, ctx: Context, text: str) -> str:
        self.calls[ctx.key] += 1
        return f"sent {text}"

    def answer(self, request: ChatRequest) -> Any:
        said = [str(m["content"]) for m in request.messages]
        self.asked[f"{said[0]} {len(said)} {said[-1]}"] += 1
        if "data" in said[0]:  # a judge
            return {"score": 0 if "JUDGE 1" in said[1] or "JUDGE 2" in said[1] else 1, "reason": "no"}
        if said[0] == "ASK why":
            return "because"
        if said[0] == "REPLY":
            return "first" if len(said) == 1 else "second"
        if len(said) == 1:
            return [
                use("desk.send", text="a"),
                use("desk.ask", text="why"),
                use("desk.nothing"),
                use("desk.send", text="b"),
            ]
        if said[-1].startswith("Not accepted"):
            return use("desk.send", text="c")
        if self.down:
            self.down = False
            return ModelUnavailable("for a moment")
        return {"n": 3} if "sent c" in said[-1] else {"n": 1}

    def mesh(self) -> Mesh:
        ask = {"description": "Asks.", "input": TEXT, "llm": {"prompt": "ASK ${{ input.text }}"}}
        return mesh(WHOLE, tools={"send": {"description": "Sends.", "python": "t:send", "input": TEXT}, "ask": ask})


async def answer_all(engine: Engine, run_id: str) -> None:
    """Answers whatever the run asks, each question once, until the run has ended."""
    async for event in engine.runs.watch(LOCAL, run_id):
        entry = event.entry
        if entry is None or entry.kind is not Kind.STEP_WAITING or "ask" not in entry.payload:
            continue
        question = f"{entry.path}#{entry.attempt}"
        said = ANSWERS[entry.payload["ask"]]
        given = {"yes": said} if isinstance(said, bool) else {"value": said}
        try:
            await engine.runs.answer(LOCAL, run_id, question=question, **given)
        except CallerError:
            pass  # answered in an earlier life


async def live(store: Store, world: World, clock: Clock, dead: anyio.Event | None) -> bool:
    """One life of the process; whether the run ended in it."""
    ended = False
    functions = {"t:send": world.send}
    async with serving(
        world.mesh(), store=store, model=ScriptedModel(world.answer), functions=functions, clock=clock
    ) as engine:
        try:
            run = await engine.runs.start(LOCAL, "whole", {"text": "hello"}, key="one")
        except StoreError:
            return False
        async with anyio.create_task_group() as group:

            async def until_dead() -> None:
                if dead is not None:
                    await dead.wait()
                    group.cancel_scope.cancel()

            group.start_soon(until_dead)
            try:
                await answer_all(engine, run.id)
                ended = (await engine.runs.wait(LOCAL, run.id)).state.terminal
            except StoreError:
                pass
            group.cancel_scope.cancel()
    return ended


async def crash_and_go_on(opening: Opening, last: int, *, made: bool) -> bool:  # noqa: F811
    """One crash at write `last`, and a second life; False when the run ended before."""
    clock, world = Clock(), World()
    async with opening(clock) as store:
        mortal = Mortal(store, last, made=made)
        with anyio.fail_after(20):
            survived = await live(mortal, world, clock, mortal.dead)  # type: ignore[arg-type]
        before = await done(store)
        calls, asked = Counter(world.calls), Counter(world.asked)
        clock.now += LEASE + 1
        with anyio.fail_after(20):
            assert await live(Mortal(store, 10_000, made=True), world, clock, None)  # type: ignore[arg-type]
        (run,) = [run for run in await all_runs(store) if run.parent is None]
        found = await store.get_run(run.id)
        assert found is not None
        assert (found.state, found.output) == (RunState.COMPLETED, EXPECTED), found.error
        entries = await store.entries(run.id)
        sent = {f"{run.id}/agent/{path}" for path in ("turn[0]/call[0]", "turn[0]/call[3]", "try[2]/turn[0]/call[0]")}
        assert set(world.calls) == sent, "the same keys in every life"
        assert not before & (world.calls - calls).keys(), "a completed call was made again"
        assert max(world.calls.values()) <= 2
        if not survived:
            again = world.asked - asked
            assert sum((world.asked - _nominal(world)).values()) <= 3, again
        said = [e.payload["question"] for e in entries if e.kind is Kind.RUN_ANSWERED]
        assert len(said) == len(set(said)) == len(ANSWERS), "a person was asked again what had been answered"
        check_journal(entries)
        children = [e.payload["run"] for e in entries if e.kind is Kind.STEP_CHILD]
        assert len(set(children)) == 1, "the tool that is a run has one run"
        assert found.usage.completion_tokens >= 10
        return not survived


def _nominal(world: World) -> Counter[str]:
    return Counter(dict.fromkeys(world.asked, 1))


async def all_runs(store: Store) -> list[Any]:
    from agentmesh.core.store import RunFilter

    return list((await store.list_runs(RunFilter())).runs)


async def done(store: Store) -> set[str]:
    """Keys of the calls that have completed."""
    keys: set[str] = set()
    for run in await all_runs(store):
        keys |= {f"{run.id}/{e.path}" for e in await store.entries(run.id) if e.kind is Kind.STEP_COMPLETED}
    return keys


def check_journal(entries: Any) -> None:
    """Every attempt that ended is there once, in the plan's order, however often the process died."""
    ended = Counter(e.path for e in entries if e.kind in (Kind.STEP_COMPLETED, Kind.STEP_SKIPPED))
    assert set(ended.values()) == {1}
    # An outage whose row was lost with the process is not counted: nobody knows of it.
    assert whys(entries, "agent") in (["first", "retry", "repair"], ["first", "repair"])
    assert whys(entries, "approved") == ["first", "repair", "ask"]
    assert [w for w in whys(entries, "block") if w != "first"] == ["ask", "fallback"]
    questions = {(e.path, e.attempt): e.payload["ask"] for e in entries if e.kind is Kind.STEP_WAITING}
    assert list(questions.values()) == list(ANSWERS), "each has a number of its own, so that no answer is taken for two"
    assert len([e for e in entries if e.kind is Kind.STEP_WAITING]) == len(questions), "and is journaled once"
    turns = [e.path for e in entries if e.kind is Kind.STEP_COMPLETED and e.path.rpartition("/")[2].startswith("turn")]
    assert turns == ["agent/turn[0]", "agent/turn[1]", "agent/try[2]/turn[0]", "agent/try[2]/turn[1]"]


def whys(entries: list[Entry], path: str) -> list[str]:
    return [
        e.payload["why"] for e in entries
        if e.kind is Kind.STEP_STARTED and e.path == path and e.payload["why"] != "resume"
    ]  # fmt: skip


@pytest.mark.parametrize("made", [False, True], ids=["unmade", "unheard"])
async def test_a_crash_at_any_write_changes_nothing_in_the_end(opening: Opening, made: bool) -> None:  # noqa: F811
    """Completed turns and calls are not repeated, questions not asked twice, repairs not counted twice."""
    last = 0
    while await crash_and_go_on(opening, last, made=made):
        last += 1
        assert last < 300
    assert last > 30
