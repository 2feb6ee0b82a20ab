"""MCP over the real engine, its worker and the memory store, with a scripted model."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import RunState
from agentmesh.core.store import RunFilter
from tests.engine import meshes
from tests.mcp.conftest import ERAS, client, mcp_server
from tests.requirements import covers

pytestmark = pytest.mark.anyio

QUEUE = {"type": "object", "properties": {"queue": {"enum": ["billing", "bug"]}}, "required": ["queue"]}
TOOLS = {
    "classify": {
        "description": "Sort a message.",
        "input": meshes.TEXT,
        "llm": {"prompt": "Sort: ${{ input.text }}", "output": QUEUE},
    },
    "size": {
        "description": "Count letters.",
        "input": meshes.TEXT,
        "python": "app:size",
        "output": {"type": "object", "properties": {"letters": {"type": "integer"}}, "required": ["letters"]},
    },
}
FUNCTIONS = {"app:size": lambda text: {"letters": len(text)}}
SORT = meshes.workflow(
    "sort",
    {"id": "cut", "set": {"text": "${{ input.text }}"}},
    {"id": "ask", "llm": {"prompt": "Sort: ${{ steps.cut.output.text }}", "output": QUEUE}},
    on={"mcp": {}},
    description="Sort a message in two steps.",
    output={"queue": "${{ steps.ask.output.queue }}"},
    output_schema=QUEUE,
)


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/patterns/progress")
async def test_a_workflow_is_a_tool_whose_steps_are_progress(era: str) -> None:
    """The answer is the run's output; each step and the model's loading are told; the run is found by the id given."""
    seen: list[str] = []
    loading = anyio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")
        if message and "loading weights of tiny" in message:
            loading.set()

    async def answer(request: Any) -> Any:
        await loading.wait()
        return {"queue": "bug"}

    model = ScriptedModel(answer, loading=["loading weights of tiny"])
    async with meshes.serving(meshes.mesh(SORT), model=model) as engine, mcp_server(engine) as url:
        async with client(url, era) as c:
            tool = (await c.list_tools()).tools[0]
            assert (tool.name, tool.output_schema) == ("sort", QUEUE)
            result = await c.call_tool("sort", {"text": "it crashes"}, progress_callback=on_progress)
            with anyio.fail_after(5):
                while not {"cut completed", "ask completed"} <= set(seen):
                    await anyio.lowlevel.checkpoint()
        assert result.structured_content == {"queue": "bug"}
        assert result.meta is not None
        run = await engine.runs.get(meshes.LOCAL, result.meta["io.agentmesh/run"])
    assert (run.state, run.source, run.output) == (RunState.COMPLETED, "mcp", {"queue": "bug"})


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_on_a_model_and_one_without(era: str) -> None:
    """A model-backed tool is a run of one step; one that passes through is none."""
    model = ScriptedModel([{"queue": "billing"}])
    of = meshes.mesh(tools=TOOLS)
    async with meshes.serving(of, model=model, functions=FUNCTIONS) as engine, mcp_server(engine) as url:
        async with client(url, era) as c:
            sized = await c.call_tool("desk.size", {"text": "four"})
            assert (await engine.runs.list(meshes.LOCAL, RunFilter())).total == 0
            classified = await c.call_tool("desk.classify", {"text": "my invoice"})
        assert (await engine.runs.list(meshes.LOCAL, RunFilter())).total == 1
    assert sized.structured_content == {"letters": 4}
    assert classified.structured_content == {"queue": "billing"}


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#input-validation")
async def test_wrong_arguments_stop_before_a_model_is_asked(era: str) -> None:
    """The sentence names the argument; nothing was recorded, and nobody asked."""
    model = ScriptedModel([])
    async with meshes.serving(meshes.mesh(SORT), model=model) as engine, mcp_server(engine) as url:
        async with client(url, era) as c:
            result = await c.call_tool("sort", {"txt": "x"})
        assert (await engine.runs.list(meshes.LOCAL, RunFilter())).total == 0
    assert result.is_error is True
    assert "text" in result.content[0].text  # type: ignore[union-attr]
    assert model.requests == []


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_that_fails_is_a_tool_error(era: str) -> None:
    """What the model could not answer is the tool's error, with the run to look at."""
    model = ScriptedModel(["no JSON at all", "none again", "and again"])
    async with meshes.serving(meshes.mesh(SORT), model=model) as engine, mcp_server(engine) as url:
        async with client(url, era) as c:
            result = await c.call_tool("sort", {"text": "x"})
        assert result.meta is not None
        run = await engine.runs.get(meshes.LOCAL, result.meta["io.agentmesh/run"])
    assert result.is_error is True
    assert run.state is RunState.FAILED


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/transports/streamable-http#cancellation")
async def test_a_client_that_goes_cancels_the_run_behind(era: str) -> None:
    """The run is canceled, not only the waiting for it."""
    asked = anyio.Event()

    async def never(request: Any) -> str:
        asked.set()
        await anyio.sleep_forever()
        return ""

    async with meshes.serving(meshes.mesh(SORT), model=ScriptedModel(never)) as engine, mcp_server(engine) as url:
        async with client(url, era) as c:
            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(c.call_tool, "sort", {"text": "x"})
                    await asked.wait()
                    group.cancel_scope.cancel()
        (run,) = (await engine.runs.list(meshes.LOCAL, RunFilter())).runs
        with anyio.fail_after(5):
            run = await engine.runs.wait(meshes.LOCAL, run.id)
    assert run.state is RunState.CANCELED


@pytest.mark.parametrize("era", ERAS)
async def test_policy_decides_what_is_listed_and_called(era: str) -> None:
    """A denied tool is not listed, and calling it is refused by name of the rule."""
    policy = PolicyFile.model_validate(
        {"name": "desk", "rules": [{"allow": "*"}, {"deny": "*", "on": ["tool:desk.size"]}]}
    )
    of = meshes.mesh(SORT, tools=TOOLS, policies=(policy,))
    async with meshes.serving(of, functions=FUNCTIONS) as engine, mcp_server(engine) as url, client(url, era) as c:
        assert [t.name for t in (await c.list_tools()).tools] == ["desk.classify", "sort"]
        with pytest.raises(MCPError) as caught:
            await c.call_tool("desk.size", {"text": "x"})
    assert caught.value.code == -32003
    assert "desk.size" in caught.value.message


@pytest.mark.parametrize("era", ERAS)
async def test_a_long_log_goes_through(era: str) -> None:
    """An argument of a megabyte arrives whole."""
    text = "é" * 1_000_000
    of = meshes.mesh(tools=TOOLS)
    async with meshes.serving(of, functions=FUNCTIONS) as engine, mcp_server(engine) as url, client(url, era) as c:
        result = await c.call_tool("desk.size", {"text": text})
    assert result.structured_content == {"letters": 1_000_000}
