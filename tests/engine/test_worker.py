"""Worker: claiming, stopping, leases, and what runs are pinned to."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Kind, RunState, StepState
from agentmesh.core.store import RunFilter
from agentmesh.engine import build_engine
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

PAIR = workflow("pair", {"id": "a", "python": "t:a", "effect": "read"}, {"id": "b", "set": "${{ steps.a.output }}"})


async def test_no_more_runs_at_once_than_told() -> None:
    """The others wait in the store, and follow in the order they came."""
    working, most = 0, 0
    order: list[str] = []

    async def a(text: str) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        order.append(text)
        await anyio.wait_all_tasks_blocked()
        working -= 1

    w = workflow("w", {"id": "a", "python": "t:a", "with": {"text": "${{ input.text }}"}})
    clock = Clock()
    async with serving(mesh(w), functions={"t:a": a}, concurrency=3, clock=clock) as engine:
        await finished(engine, "w", {"text": "the function is found once, in a thread"})
        order.clear()
        runs = []
        for i in range(9):
            clock.now += 1
            runs.append(await engine.runs.start(LOCAL, "w", {"text": str(i)}))
        for run in runs:
            await engine.runs.wait(LOCAL, run.id)
    assert most == 3
    assert order == [str(i) for i in range(9)]


async def test_a_soft_stop_lets_a_step_finish_and_gives_the_run_back() -> None:
    """The next worker goes on after it, at once, without a resumed attempt."""
    begun, go = anyio.Event(), anyio.Event()
    calls = 0

    async def a() -> str:
        nonlocal calls
        calls += 1
        begun.set()
        await go.wait()
        return "once"

    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(mesh(PAIR), functions={"t:a": a}, store=store, clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "pair", {"text": ""})
        await begun.wait()
        engine.worker.stop()
        engine.worker.stop()
        go.set()
        while engine.worker.active:
            await anyio.lowlevel.checkpoint()
        assert (await engine.runs.get(LOCAL, run.id)).steps["a"].state is StepState.COMPLETED
        assert (await engine.runs.get(LOCAL, run.id)).state is RunState.WORKING
    async with serving(mesh(PAIR), functions={"t:a": a}, store=store, clock=clock) as engine:
        run = await engine.runs.wait(LOCAL, run.id)
        assert (run.output, calls) == ("once", 1)


async def test_a_step_cut_off_by_a_stop_loses_no_attempt() -> None:
    """It runs again at once as `resume`, which uses up neither retries nor repairs; the lease is not waited for."""
    asked = anyio.Event()

    async def answer(request: ChatRequest) -> str:
        if len(request.messages) == 3 and not asked.is_set():
            asked.set()
            await anyio.sleep_forever()
        return "good" if len(request.messages) == 3 else "bad"

    step = {
        "id": "q", "llm": {"prompt": "?"}, "validate": [{"ensure": "output == 'good'"}], "on_invalid": [{"repair": 1}]
    }  # fmt: skip
    of, clock = mesh(workflow("w", step)), Clock()
    store, model = MemoryStore(clock=clock), ScriptedModel(answer)
    async with serving(of, model=model, store=store, clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": ""})
        await asked.wait()
    async with serving(of, model=model, store=store, clock=clock) as engine:
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.output == "good"
        whys = [e.payload["why"] for e in await journal(engine, run, Kind.STEP_STARTED)]
        assert whys == ["first", "repair", "resume"]
        assert [e.attempt for e in await journal(engine, run, Kind.STEP_ATTEMPT)] == [1, 3]


async def test_a_worker_that_lost_its_lease_writes_nothing_more() -> None:
    """Its execution ends without a word; the other's result stands."""
    begun, go = anyio.Event(), anyio.Event()

    async def slow() -> str:
        begun.set()
        await go.wait()
        return "late"

    async def fast() -> str:
        return "in time"

    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(mesh(PAIR), functions={"t:a": slow}, store=store, clock=clock) as old:
        run = await old.runs.start(LOCAL, "pair", {"text": ""})
        await begun.wait()
        clock.now += 31
        async with serving(mesh(PAIR), functions={"t:a": fast}, store=store, clock=clock) as new:
            assert (await new.runs.wait(LOCAL, run.id)).output == "in time"
            before = await store.entries(run.id)
            go.set()
            while old.worker.active:
                await anyio.lowlevel.checkpoint()
            assert await store.entries(run.id) == before
            assert (await finished(old, "pair")).state is RunState.COMPLETED, "the worker itself goes on"


async def test_a_heartbeat_that_finds_the_lease_gone_stops_the_run() -> None:
    """Work in flight does not go on for nothing."""
    stopped = anyio.Event()

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(mesh(PAIR), functions={"t:a": slow}, store=store, clock=clock, heartbeat=0.01) as engine:
        run = await engine.runs.start(LOCAL, "pair", {"text": ""})
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.entry is not None and event.entry.path == "a":
                break
        engine.worker.stop()  # so that it does not claim the run back
        clock.now += 31
        (claim,) = await store.claim("thief", limit=1)
        await stopped.wait()
        assert (await store.entries(run.id))[-1].kind is Kind.RUN_WORKING
        assert claim.run.id == run.id


async def test_a_run_given_back_is_canceled_by_its_next_worker() -> None:
    """Also when the cancel came while nobody worked on it, and its child with it."""
    begun = anyio.Event()

    async def a() -> None:
        begun.set()
        await anyio.sleep_forever()

    outer = workflow("outer", {"id": "c", "workflow": "pair", "with": {"text": ""}})
    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(mesh(PAIR, outer), functions={"t:a": a}, store=store, clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "outer", {"text": ""})
        await begun.wait()
    await store.request_cancel(run.id, "local")
    begun = anyio.Event()
    async with serving(mesh(PAIR, outer), functions={"t:a": a}, store=store, clock=clock) as engine:
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.state is RunState.CANCELED
        child = next(r for r in (await engine.runs.list(LOCAL, RunFilter())).runs if r.parent)
        assert (await engine.runs.wait(LOCAL, child.id)).state is RunState.CANCELED


async def test_a_run_ends_though_its_files_have_changed_or_gone() -> None:
    """It is pinned: the workflow, the child, the tool and the skill are those of the day it was started."""
    begun, go = anyio.Event(), anyio.Event()

    async def a() -> None:
        begun.set()
        await go.wait()

    inner = workflow("inner", {"id": "s", "set": "inner as it was"}, on={"a2a": {}})
    outer = workflow(
        "outer",
        {"id": "a", "python": "t:a"},
        {"id": "w", "workflow": "inner", "with": {"text": ""}},
        {"id": "t", "tool": "desk.ask", "with": {"q": "old"}},
        {"id": "g", "agent": {"skill": "inner", "message": "x"}},
        output=["${{ steps.w.output }}", "${{ steps.t.output }}", "${{ steps.g.output }}"],
    )
    ask = {"description": "a", "llm": {"prompt": "Old: ${{ input.q }}"}}
    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(
        mesh(inner, outer, tools={"ask": ask}), functions={"t:a": a}, store=store, clock=clock
    ) as engine:
        run = await engine.runs.start(LOCAL, "outer", {"text": ""})
        await begun.wait()
    go.set()
    model = ScriptedModel(["said"])
    async with serving(mesh(), functions={"t:a": a}, store=store, clock=clock, model=model) as engine:
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.output == ["inner as it was", "said", "inner as it was"], run.error
        assert model.requests[0].messages[0]["content"] == "Old: old"


async def test_the_definition_names_the_models_revisions() -> None:
    """Another revision is another definition; the same is the same."""
    w = workflow("w", {"id": "q", "llm": {"prompt": "?"}})
    digests = []
    for revision in ("r1", "r2", "r1"):
        async with serving(mesh(w), model=ScriptedModel(["x"], revision=revision)) as engine:
            run = await finished(engine, "w")
            digests.append(run.definition)
            document = await engine.store.get_definition(run.definition)
            assert document is not None
            assert document["revisions"] == {"tiny": revision}
    assert digests[0] == digests[2] != digests[1]


async def test_a_choice_once_made_stays_made() -> None:
    """A `switch` cut off inside a branch goes on in it, though its expression would now say something else."""
    begun = anyio.Event()
    blocked = True

    async def a() -> str:
        begun.set()
        if blocked:
            await anyio.sleep_forever()
        return "first branch"

    def w(threshold: int) -> object:
        return workflow(
            "w",
            {
                "id": "s",
                "switch": [{"when": f"input.text.size() > {threshold}", "steps": [{"id": "x", "python": "t:a"}]}],
                "else": [{"id": "y", "set": "else"}],
            },
        )

    clock = Clock()
    store = MemoryStore(clock=clock)
    async with serving(mesh(w(3)), functions={"t:a": a}, store=store, clock=clock) as engine:  # type: ignore[arg-type]
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        await begun.wait()
    blocked = False
    digest = run.definition
    changed = dict(store._definitions[digest])
    changed["workflows"] = {"w": w(30).model_dump(mode="json", by_alias=True, exclude_unset=True)}  # type: ignore[attr-defined]
    store._definitions[digest] = changed  # as if the evaluator answered otherwise
    async with serving(mesh(), functions={"t:a": a}, store=store, clock=clock) as engine:
        assert (await engine.runs.wait(LOCAL, run.id)).output == "first branch"


async def test_a_definition_of_a_later_release_fails_the_run() -> None:
    """With a sentence that says what to do."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    engine_mesh = mesh(PAIR)
    engine = build_engine(engine_mesh, store, ScriptedModel([]), clock=clock)
    run = await engine.runs.start(LOCAL, "pair", {"text": ""})
    store._definitions[run.definition] = {**store._definitions[run.definition], "format": 99}
    async with serving(engine_mesh, store=store, clock=clock) as engine:
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.error is not None
        assert "has format 99; this release reads 1" in run.error["message"]
