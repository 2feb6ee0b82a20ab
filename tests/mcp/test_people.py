"""A person's part over MCP: questions, answers, signals and cancellation as tools, and a call that asks its caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind, Run
from agentmesh.engine import Engine
from tests.engine import meshes
from tests.http.test_waiting import FORM, Failing
from tests.mcp.conftest import ERAS, client, mcp_server

pytestmark = pytest.mark.anyio

NAMES = ["runs.answer", "runs.cancel", "runs.questions", "runs.signal"]
ASK = {"ask": "Send this answer?", "show": {"text": "${{ input.text }}"}}


def asking_mesh(**more: Any) -> Mesh:
    """Tools: review (yes or no), fill (a form), hear (a signal)."""
    steps: dict[str, list[dict[str, Any]]] = {
        "review": [{"id": "ok", "approve": ASK}, {"id": "z", "set": {"by": "${{ steps.ok.output.by }}"}}],
        "fill": [{"id": "ok", "approve": {**ASK, "form": FORM}}, {"id": "z", "set": "${{ steps.ok.output.values }}"}],
        "hear": [{"id": "w", "wait": {"signal": "go"}}, {"id": "z", "set": {"heard": True}}],
    }
    return meshes.mesh(*(meshes.workflow(name, *these, on={"mcp": {}}) for name, these in steps.items()), **more)


@asynccontextmanager
async def connected(era: str, of: Mesh | None = None, **more: Any) -> AsyncIterator[tuple[Engine, Client]]:
    async with meshes.serving(of or asking_mesh(), **more) as engine, mcp_server(engine) as url, client(url, era) as c:
        yield engine, c


async def asked(engine: Engine, name: str) -> str:
    """A run that stands at its question."""
    run = await engine.runs.start(meshes.LOCAL, name, {"text": "hi"})
    async for event in engine.runs.watch(meshes.LOCAL, run.id):
        if event.entry is not None and event.entry.kind is Kind.STEP_WAITING:
            break
    return run.id


@pytest.mark.parametrize("era", ERAS)
async def test_they_are_offered_where_something_can_wait(era: str) -> None:
    """Beside the mesh's own tools; a mesh in which nothing waits or asks does not have them."""
    async with connected(era) as (_, c):
        assert [tool.name for tool in (await c.list_tools()).tools] == ["fill", "hear", "review", *NAMES]
    quick = meshes.mesh(meshes.workflow("quick", {"id": "a", "set": 1}, on={"mcp": {}}))
    async with connected(era, quick) as (_, c):
        assert [tool.name for tool in (await c.list_tools()).tools] == ["quick"]
        with pytest.raises(MCPError):
            await c.call_tool("runs.cancel", {"run": "x"})


@pytest.mark.parametrize(
    "asking",
    [
        {"wait": "5m"},
        {"llm": {"prompt": "hi"}, "validate": [{"approve": {"ask": "Good?"}}]},
        {"llm": {"prompt": "hi"}, "on_invalid": [{"ask": {"question": "What then?"}}]},
        {"map": {"over": "${{ [1] }}"}, "steps": [{"id": "b", "approve": {"ask": "Sure?"}}]},
    ],
    ids=["wait", "validator", "on_invalid", "inside a block"],
)
async def test_whatever_can_wait_counts(asking: dict[str, Any]) -> None:
    """A timer, a validator or a remedy that is a person, a step inside a block."""
    async with connected("2026-07-28", meshes.mesh(meshes.workflow("w", {"id": "a", **asking}))) as (_, c):
        assert [tool.name for tool in (await c.list_tools()).tools] == NAMES


async def test_a_tool_of_the_mesh_keeps_its_name() -> None:
    """Ours of that name is not offered, and is not called."""
    own = meshes.workflow("own", {"id": "a", "set": {"mine": True}}, on={"mcp": {"name": "runs.answer"}})
    wait = meshes.workflow("w", {"id": "a", "wait": "5m"})
    async with connected("2026-07-28", meshes.mesh(own, wait)) as (_, c):
        assert [tool.name for tool in (await c.list_tools()).tools] == NAMES
        assert (await c.call_tool("runs.answer", {"text": "x"})).structured_content == {"mine": True}


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_asks_stays_open_until_it_is_answered(era: str) -> None:
    """Its progress says what is asked and how to answer; the answer of another call ends it with the output."""
    told: list[str] = []
    heard = anyio.Event()
    results: list[Any] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        if "asks" in (message or ""):
            told.append(message or "")
            heard.set()

    async with connected(era) as (_, c), anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await c.call_tool("review", {"text": "hi"}, progress_callback=on_progress))

        group.start_soon(call)
        with anyio.fail_after(5):
            await heard.wait()
        questions = (await c.call_tool("runs.questions", {})).structured_content
        assert questions is not None
        (question,) = questions["questions"]
        assert told[0].startswith("ok asks: Send this answer? (answer with the tool runs.answer: run ")
        assert question["run"] in told[0]
        assert (question["id"], question["show"], question["workflow"]) == ("ok#1", {"text": "hi"}, "review")
        given = {"run": question["run"], "question": "ok#1", "yes": True, "digest": question["digest"]}
        answered = (await c.call_tool("runs.answer", given)).structured_content
        assert answered is not None
        assert answered["answered"] is True
    assert results[0].structured_content == {"by": "local"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_is_looked_at_signaled_and_cancelled(era: str) -> None:
    """`runs.questions` with a run says how it stands; twenty signals of one key are one."""
    async with connected(era) as (engine, c):
        run = await asked(engine, "hear")
        shown = (await c.call_tool("runs.questions", {"run": run})).structured_content
        assert shown is not None
        assert (shown["state"], shown["questions"], shown["output"]) == ("working", [], None)

        async def signal() -> None:
            await c.call_tool("runs.signal", {"run": run, "name": "go", "key": "k"})

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(signal)
        ended = await engine.runs.wait(meshes.LOCAL, run)
        assert len(await meshes.journal(engine, ended, Kind.RUN_SIGNALED)) == 1
        shown = (await c.call_tool("runs.questions", {"run": run})).structured_content
        assert shown is not None
        assert (shown["state"], shown["output"]) == ("completed", {"heard": True})
        other = await asked(engine, "review")
        await c.call_tool("runs.cancel", {"run": other})
        canceled: Run = await engine.runs.wait(meshes.LOCAL, other)
        assert canceled.state.value == "canceled"


async def test_twenty_answers_at_once() -> None:
    """One wins; the others get an error that says who was quicker."""
    codes: Counter[int] = Counter()
    async with connected("2026-07-28") as (engine, c):
        run = await asked(engine, "fill")

        async def say(n: int) -> None:
            try:
                await c.call_tool("runs.answer", {"run": run, "value": {"amount": n}})
                codes[0] += 1
            except MCPError as error:
                codes[error.code if "answered" in error.message else 1] += 1

        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(say, n)
        ended = await engine.runs.wait(meshes.LOCAL, run)
        (entry,) = await meshes.journal(engine, ended, Kind.RUN_ANSWERED)
    assert codes == {0: 1, -32602: 19}
    assert ended.output == entry.payload["value"]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("runs.answer", {}, "run"),
        ("runs.answer", {"run": "RUN"}, "`yes`"),
        ("runs.answer", {"run": "RUN", "yes": "yes"}, "yes"),
        ("runs.answer", {"run": "RUN", "yes": True}, "amount"),
        ("runs.answer", {"run": "RUN", "value": {"amount": "1"}}, "amount"),
        ("runs.answer", {"run": "RUN", "value": {"amount": 1, "more": 2}}, "more"),
        ("runs.answer", {"run": "RUN", "value": {"amount": 1}, "more": 2}, "more"),
        ("runs.answer", {"run": 3, "yes": True}, "run"),
        ("runs.signal", {"run": "RUN"}, "name"),
        ("runs.signal", {"run": "RUN", "name": "go"}, "no signal"),
        ("runs.signal", {"run": "RUN", "name": ""}, "name"),
        ("runs.cancel", {}, "run"),
        ("runs.questions", {"run": ""}, "run"),
        ("runs.questions", {"rnu": "x"}, "rnu"),
    ],
)
async def test_bad_arguments_are_the_callers(name: str, arguments: dict[str, Any], words: str) -> None:
    """A result that a model can read says which; the question stays open."""
    async with connected("2026-07-28") as (engine, c):
        run = await asked(engine, "fill")
        given = {k: run if v == "RUN" else v for k, v in arguments.items()}
        result = await c.call_tool(name, given)
        assert result.is_error is True
        assert words in result.content[0].text  # type: ignore[union-attr]
        assert len(await engine.runs.questions(meshes.LOCAL, run)) == 1


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("runs.answer", {"yes": True}, "no run"),
        ("runs.signal", {"name": "go"}, "no run"),
        ("runs.cancel", {}, "no run"),
        ("runs.questions", {}, "no run"),
    ],
)
async def test_runs_that_never_were(name: str, more: dict[str, Any], words: str) -> None:
    """Invalid parameters, as for a tool that there is not."""
    async with connected("2026-07-28") as (_, c):
        with pytest.raises(MCPError, match=words) as caught:
            await c.call_tool(name, {"run": "00000000-0000-7000-8000-000000000000", **more})
        assert caught.value.code == -32602


async def test_policies_decide_who_sees_and_who_answers() -> None:
    """The tool may be hidden; and the run has its own say."""
    hidden = PolicyFile.model_validate({"rules": [{"allow": "*"}, {"deny": "tools.*", "on": ["tool:runs.*"]}]})
    async with connected("2026-07-28", asking_mesh(policies=(hidden,))) as (_, c):
        assert [tool.name for tool in (await c.list_tools()).tools] == ["fill", "hear", "review"]
        with pytest.raises(MCPError) as caught:
            await c.call_tool("runs.questions", {})
        assert caught.value.code == -32003
    silent = PolicyFile.model_validate({"rules": [{"allow": "*"}, {"deny": "runs.answer"}]})
    async with connected("2026-07-28", asking_mesh(policies=(silent,))) as (engine, c):
        run = await asked(engine, "review")
        with pytest.raises(MCPError) as caught:
            await c.call_tool("runs.answer", {"run": run, "yes": True})
        assert caught.value.code == -32003


async def test_a_store_in_trouble_is_unavailable() -> None:
    """-32004 with its sentence; well again when the store is."""
    store = Failing(clock=meshes.Clock())
    async with connected("2026-07-28", store=store) as (engine, c):
        run = await asked(engine, "review")
        store.failing = True
        calls: list[tuple[str, dict[str, Any]]] = [
            ("review", {"text": "x"}), ("runs.questions", {}), ("runs.answer", {"run": run, "yes": True}),
        ]  # fmt: skip
        for name, given in calls:
            with pytest.raises(MCPError, match="disk is full") as caught:
                await c.call_tool(name, given)
            assert caught.value.code == -32004
        store.failing = False
        answered = await c.call_tool("runs.answer", {"run": run, "yes": True})
        assert answered.is_error is False
