"""Runs: starting, looking, watching, cancelling."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.context import Context
from agentmesh.core.model import ChatRequest
from agentmesh.core.policy import Principal
from agentmesh.core.run import Kind, RunState, StepState, fold
from agentmesh.core.store import RunFilter
from agentmesh.engine.runs import as_submitted
from agentmesh.errors import Conflict, InvalidInput, NotFound
from tests.engine.meshes import LOCAL, ended, finished, mesh, serving, workflow

pytestmark = pytest.mark.anyio

ECHO = workflow("echo", {"id": "say", "set": "${{ input.text }}"})
ASK = workflow("ask", {"id": "say", "llm": {"prompt": "${{ input.text }}"}})


async def test_a_run_ends_with_the_last_steps_output() -> None:
    """Without `output` a run yields what its last step yields."""
    async with serving(mesh(ECHO)) as engine:
        run = await finished(engine, "echo")
        assert (run.state, run.output, run.owner, run.workflow) == (RunState.COMPLETED, "hello", "local", "echo")


async def test_wrong_input_is_refused_before_anything_is_recorded() -> None:
    """InvalidInput names the path and what is expected, and there is no run."""
    async with serving(mesh(ECHO)) as engine:
        with pytest.raises(InvalidInput, match=r"input\.text: must be string, this is number"):
            await engine.runs.start(LOCAL, "echo", {"text": 3})
        with pytest.raises(InvalidInput, match="'text' is missing"):
            await engine.runs.start(LOCAL, "echo", {})
        with pytest.raises(InvalidInput, match="input: must be object, this is array"):
            await engine.runs.start(LOCAL, "echo", [])
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


async def test_an_unknown_workflow_gets_the_nearest_name() -> None:
    """A typo is answered with what was probably meant."""
    async with serving(mesh(ECHO)) as engine:
        with pytest.raises(NotFound, match="did you mean 'echo'"):
            await engine.runs.start(LOCAL, "ecoh", {"text": ""})


async def test_a_key_no_database_takes_is_the_callers_mistake() -> None:
    """A NUL in a key is InvalidInput itself, not a group of errors, and nothing is recorded."""
    async with serving(mesh(ECHO)) as engine:
        with pytest.raises(InvalidInput):
            await engine.runs.start(LOCAL, "echo", {"text": "x"}, key="a\0b")
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


async def test_a_key_starts_one_run() -> None:
    """The same key gives the same run; with another input it is a conflict."""
    async with serving(mesh(ECHO)) as engine:
        first = await engine.runs.start(LOCAL, "echo", {"text": "a"}, key="k")
        await engine.runs.wait(LOCAL, first.id)
        second = await engine.runs.start(LOCAL, "echo", {"text": "a"}, key="k")
        assert second.id == first.id
        with pytest.raises(Conflict, match="'k' was used for another run"):
            await engine.runs.start(LOCAL, "echo", {"text": "b"}, key="k")
        with pytest.raises(Conflict):
            await engine.runs.start(Principal("token:a"), "echo", {"text": "a"}, key="k")


async def test_watchers_see_every_entry_once_in_order() -> None:
    """Many watchers, early and late, see the same entries without gap or repetition, and then the end."""
    go = anyio.Event()

    async def slow() -> str:
        await go.wait()
        return "done"

    of = mesh(workflow("slow", {"id": "a", "set": 1}, {"id": "b", "python": "t:slow"}, {"id": "c", "set": 2}))
    async with serving(of, functions={"t:slow": slow}) as engine:
        run = await engine.runs.start(LOCAL, "slow", {"text": ""})
        seen: list[list[int]] = [[] for _ in range(5)]

        async def watch(number: int) -> None:
            async for event in engine.runs.watch(LOCAL, run.id):
                assert event.entry is not None
                seen[number].append(event.entry.seq)
                assert event.run.seq == event.entry.seq

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(watch, i)
            async for event in engine.runs.watch(LOCAL, run.id):
                if event.entry is not None and event.entry.path == "b":
                    break
            for i in range(3, 5):
                group.start_soon(watch, i)
            await anyio.wait_all_tasks_blocked()
            go.set()
        last = (await engine.runs.get(LOCAL, run.id)).seq
        assert seen == [list(range(1, last + 1))] * 5
        rest = [e.entry.seq async for e in engine.runs.watch(LOCAL, run.id, after=last - 2) if e.entry]
        assert rest == [last - 1, last]


async def test_a_run_is_the_fold_of_its_journal() -> None:
    """What `get` shows is what the entries say."""
    async with serving(mesh(ECHO)) as engine:
        run = await finished(engine, "echo")
        assert fold(as_submitted(run), await engine.runs.journal(LOCAL, run.id)) == run


async def test_notices_reach_watchers_and_are_not_recorded() -> None:
    """A model that is still loading, and a function's progress, are heard by whoever watches, parents' watchers too."""

    async def work(ctx: Context) -> None:
        ctx.progress("halfway")

    inner = workflow("inner", {"id": "work", "python": "t:work"}, {"id": "ask", "llm": {"prompt": "?"}})
    outer = workflow("outer", {"id": "call", "workflow": "inner", "with": {"text": ""}})
    model = ScriptedModel(["yes"], loading=["loading weights"])
    async with serving(mesh(inner, outer), functions={"t:work": work}, model=model) as engine:
        run = await engine.runs.start(LOCAL, "outer", {"text": ""})
        events = [event async for event in engine.runs.watch(LOCAL, run.id)]
        notices = [event.message for event in events if event.entry is None]
        assert notices == ["work: halfway", "ask: loading weights"]


async def test_runs_of_others_are_not_found() -> None:
    """Knowing an id grants nothing; `local` is the operator and sees all of its tenant."""
    anna, bert = Principal("token:anna"), Principal("token:bert")
    async with serving(mesh(ECHO)) as engine:
        run = await engine.runs.start(anna, "echo", {"text": ""})
        await engine.runs.wait(anna, run.id)
        for verb in (engine.runs.get, engine.runs.cancel, engine.runs.wait, engine.runs.journal):
            with pytest.raises(NotFound):
                await verb(bert, run.id)
        with pytest.raises(NotFound):
            async for _ in engine.runs.watch(Principal("local", "elsewhere"), run.id):
                pass
        assert [r.id for r in (await engine.runs.list(anna, RunFilter())).runs] == [run.id]
        assert (await engine.runs.list(bert, RunFilter(owner="token:anna"))).runs == ()
        assert (await engine.runs.get(LOCAL, run.id)).owner == "token:anna"


async def test_cancelling_stops_work_in_flight_at_once() -> None:
    """The model's answer is not waited for; the run is canceled, and cannot be canceled again."""
    asked, never = anyio.Event(), anyio.Event()

    async def answer(_: ChatRequest) -> str:
        asked.set()
        await never.wait()
        return ""

    async with serving(mesh(ASK), model=ScriptedModel(answer)) as engine:
        run = await engine.runs.start(LOCAL, "ask", {"text": ""})
        await asked.wait()
        await engine.runs.cancel(LOCAL, run.id)
        run = await ended(engine, run)
        assert run.state is RunState.CANCELED
        assert run.steps["say"].state is StepState.CANCELED
        with pytest.raises(Conflict, match="canceled"):
            await engine.runs.cancel(LOCAL, run.id)


async def test_cancelling_a_parent_cancels_its_children() -> None:
    """However deep: no run of the family goes on."""
    asked, never = anyio.Event(), anyio.Event()

    async def answer(_: ChatRequest) -> str:
        asked.set()
        await never.wait()
        return ""

    middle = workflow("middle", {"id": "call", "workflow": "ask", "with": {"text": ""}})
    top = workflow("top", {"id": "call", "workflow": "middle", "with": {"text": ""}})
    async with serving(mesh(ASK, middle, top), model=ScriptedModel(answer)) as engine:
        run = await engine.runs.start(LOCAL, "top", {"text": ""})
        await asked.wait()
        await engine.runs.cancel(LOCAL, run.id)
        await engine.runs.wait(LOCAL, run.id)
        family = (await engine.runs.list(LOCAL, RunFilter())).runs
        assert len(family) == 3
        for member in family:
            assert (await engine.runs.wait(LOCAL, member.id)).state is RunState.CANCELED
        assert engine.worker.active == 0


async def test_describing_entries_in_plain_words() -> None:
    """A live view needs no knowledge of entry kinds."""
    async with serving(mesh(ASK), model=ScriptedModel(["yes"])) as engine:
        run = await finished(engine, "ask")
        lines = [event.message async for event in engine.runs.watch(LOCAL, run.id)]
        assert lines == [
            "submitted", "working", "say started", "say attempt 1 answered", "say completed", "completed",
        ]  # fmt: skip
        assert [e.kind for e in await engine.runs.journal(LOCAL, run.id)][-1] is Kind.RUN_COMPLETED
