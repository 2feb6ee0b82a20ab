"""Artifacts that functions give while they work."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.core.context import Context
from agentmesh.core.run import Kind, RunState
from agentmesh.core.tool import ToolCall
from tests.engine.meshes import LOCAL, finished, mesh, serving, workflow

pytestmark = pytest.mark.anyio
DRAWS = workflow("draws", {"id": "a", "python": "t:f", "with": {"text": "${{ input.text }}"}})


async def test_a_function_gives_artifacts_before_it_ends() -> None:
    """A watcher sees the first while the function still works; pieces are put together, and the output stands beside them."""
    seen, go_on = anyio.Event(), anyio.Event()

    async def f(ctx: Context, text: str) -> str:
        ctx.artifact("log", {"text": "one, "}, name="Log")
        seen.set()
        await go_on.wait()
        ctx.artifact("log", {"text": "two"}, append=True)
        ctx.artifact("image", {"raw": "aGk=", "mediaType": "image/png"})
        return text

    async with serving(mesh(DRAWS), functions={"t:f": f}) as engine:
        run = await engine.runs.start(LOCAL, "draws", {"text": "done"})
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.entry is not None and event.entry.kind is Kind.STEP_ARTIFACT:
                assert event.run.state is RunState.WORKING
                go_on.set()
        run = await engine.runs.get(LOCAL, run.id)
        assert run.output == "done"
        assert [part["text"] for part in run.artifacts["log"]["parts"]] == ["one, ", "two"]
        assert list(run.artifacts) == ["log", "image"]


async def test_a_function_in_a_thread_gives_artifacts_too() -> None:
    """In the order in which it gave them, all before its step has ended."""

    def f(ctx: Context, text: str) -> str:
        for number in range(20):
            ctx.artifact("log", {"data": number}, append=True)
        return text

    async with serving(mesh(DRAWS), functions={"t:f": f}) as engine:
        run = await finished(engine, "draws")
        assert [part["data"] for part in run.artifacts["log"]["parts"]] == list(range(20))


async def test_what_is_no_json_is_refused_in_the_function() -> None:
    """It fails there, with what is wrong."""

    def f(ctx: Context, text: str) -> str:
        ctx.artifact("log", {"data": {1, 2}})
        return text

    async with serving(mesh(DRAWS), functions={"t:f": f}) as engine:
        run = await finished(engine, "draws")
        assert run.error is not None
        assert "is a set, which is not JSON" in str(run.error["message"])


async def test_a_tool_that_passes_through_has_no_artifacts() -> None:
    """Nobody could follow them."""

    async def f(ctx: Context, **given: Any) -> str:
        ctx.artifact("log", {"text": "x"})
        return "x"

    tools = {"draw": {"description": "Draws.", "python": "t:f"}}
    async with serving(mesh(tools=tools), functions={"t:f": f}) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.draw", {}))
        assert (result.is_error, "passes through" in result.text) == (True, True)
