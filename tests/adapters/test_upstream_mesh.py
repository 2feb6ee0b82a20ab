"""The whole way: a client of either era, this mesh, an upstream of either era."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client

from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_outside import ScriptedHttp
from agentmesh.adapters.sources import SourceSet
from agentmesh.core.question import Question, questions
from agentmesh.core.run import RunState
from agentmesh.core.source import Source
from agentmesh.engine import Engine
from agentmesh.settings import Secrets
from tests.adapters.upstreams import LOCAL, call, desk_at, until, upstream
from tests.engine.meshes import finished, mesh, serving, workflow
from tests.mcp.conftest import LEGACY, MODERN, mcp_server

pytestmark = pytest.mark.anyio
CHILD = str(Path(__file__).with_name("upstream_child.py"))
CLIENTS = pytest.mark.parametrize(
    "era", [pytest.param(MODERN, id="client-2026"), pytest.param(LEGACY, id="client-2025")]
)
UPSTREAMS = pytest.mark.parametrize(
    "modern", [pytest.param(True, id="upstream-2026"), pytest.param(False, id="upstream-2025")]
)


@asynccontextmanager
async def through(era: str, *sources: Source, **given: Any) -> AsyncIterator[tuple[Client, Engine]]:
    async with (
        serving(mesh(), sources=sources) as engine,
        mcp_server(engine) as url,
        Client(url, mode=era, **given) as client,
    ):
        yield client, engine


@CLIENTS
@UPSTREAMS
async def test_tools_resources_and_prompts_reach_any_client(era: str, modern: bool) -> None:
    """Listed and called, with structure and content."""
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url}) as source:
        await until(lambda: bool(source.prompts() and source.resources()))
        async with through(era, source) as (client, _engine):
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert {"desk.echo", "desk.picture"} <= listed
            result = await client.call_tool("desk.echo", {"text": "hello"})
            assert result.structured_content == {"text": "hello"}
            picture = await client.call_tool("desk.picture", {})
            assert [block.type for block in picture.content] == ["image", "resource_link"]
            assert (await client.call_tool("desk.fail", {})).is_error
            assert (await client.call_tool("desk.lie", {})).is_error
            assert "desk://today" in {str(r.uri) for r in (await client.list_resources()).resources}
            contents = (await client.read_resource("desk://today")).contents
            assert isinstance(contents[0], types.TextResourceContents)
            assert contents[0].text == "read desk://today"
            prompt = await client.get_prompt("desk.reply", {"tone": "kind"})
            assert isinstance(prompt.messages[0].content, types.TextContent)
            assert prompt.messages[0].content.text == "Be kind."


@CLIENTS
@UPSTREAMS
async def test_a_question_of_the_upstream_reaches_the_clients_user(era: str, modern: bool) -> None:
    """In all four combinations, and the upstream is called no more often than it has to be."""

    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert params.message == "Which colour?"
        return types.ElicitResult(action="accept", content={"colour": "red"})

    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        async with through(era, source, elicitation_callback=answer) as (client, _engine):
            result = await client.call_tool("desk.ask", {})
            assert isinstance(result.content[0], types.TextContent)
            assert result.content[0].text.endswith("accept {'colour': 'red'}")
        assert len(desk.calls) == (2 if modern else 1)


@CLIENTS
@UPSTREAMS
async def test_progress_reaches_the_client(era: str, modern: bool) -> None:
    """Step by step."""
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with (
        desk_at(modern=modern) as (_, url),
        upstream("desk", {"url": url}) as source,
        through(era, source) as (client, _engine),
    ):
        await client.call_tool("desk.progress", {}, progress_callback=hear)
        await until(lambda: heard == [1, 2, 3], f"heard {heard}")


async def test_a_step_calls_an_upstreams_tool_with_its_key() -> None:
    """The key is the run's and the step's, the same for each attempt; the result is the step's output."""
    step = {"id": "say", "tool": "desk.echo", "with": {"text": "${{ input.text }}"}}
    async with desk_at(modern=True) as (desk, url), upstream("desk", {"url": url}) as source:
        async with serving(mesh(workflow("w", step)), sources=[source]) as engine:
            run = await finished(engine, "w")
        assert run.steps["say"].output == {"text": "hello"}
        assert desk.metas[-1]["io.agentmesh/idempotency-key"] == f"{run.id}/say"


def write(folder: Path, **servers: str) -> None:
    (folder / "servers").mkdir(exist_ok=True)
    (folder / "agentmesh.yaml").write_text("name: test\n")
    for file in (folder / "servers").iterdir():
        file.unlink()
    for name, text in servers.items():
        (folder / "servers" / f"{name}.yaml").write_text(f"name: {name}\n{text}")


async def test_sources_are_opened_kept_and_replaced_with_the_files(tmp_path: Path) -> None:
    """Opening waits for nobody; an unchanged file keeps its source; a replaced one ends its calls first, a removed one its child."""
    child = f"upstream: {{command: [{sys.executable}, {CHILD}], timeout: 20}}\n"
    gone = "upstream: {url: 'http://127.0.0.1:9/mcp'}\n"
    write(tmp_path, child=child, gone=gone)
    async with SourceSet(tmp_path, MemoryStore(), ScriptedHttp({})) as sources:
        with anyio.fail_after(5):
            first = await sources.replace(load_mesh(tmp_path, Secrets()))
        assert [source.name for source in first] == ["child", "gone"]
        await until(lambda: bool(first[0].tools()))
        same = await sources.replace(load_mesh(tmp_path, Secrets()))
        assert [a is b for a, b in zip(first, same, strict=True)] == [True, True]
        write(tmp_path, child=child + "expose: [echo]\n")
        answered: list[str] = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                answered.append((await call(first[0], "child.echo", {"text": "still"})).text)  # type: ignore[arg-type]

            (new,) = await sources.replace(load_mesh(tmp_path, Secrets()))
            group.start_soon(ask)  # it had found the old source before it was replaced
        assert answered == ["still"]
        assert new is not first[0]
        await until(lambda: set(new.tools()) == {"child.echo"})


@UPSTREAMS
async def test_a_step_whose_upstream_asks_waits_for_a_person(modern: bool) -> None:
    """The question is one of the run, durable; its answer goes to the upstream, and the run ends."""
    flow = workflow("w", {"id": "ask", "tool": "desk.ask", "with": {}}, output={"said": "${{ steps.ask.output }}"})
    async with (
        desk_at(modern=modern) as (_, url),
        upstream("desk", {"url": url}) as source,
        serving(mesh(flow), sources=[source]) as engine,
    ):
        run = await engine.runs.start(LOCAL, "w", {"text": "x"})
        open_: list[Question] = []
        with anyio.fail_after(10):
            while not open_:
                await anyio.sleep(0.02)
                open_ = list(questions(await engine.runs.get(LOCAL, run.id)))
        assert open_[0].ask == "Which colour?"
        await engine.runs.answer(LOCAL, run.id, question=open_[0].id, value={"colour": "red"})
        await engine.runs.wait(LOCAL, run.id)
        done = await engine.runs.get(LOCAL, run.id)
        assert done.state is RunState.COMPLETED, done.error
        assert "accept {'colour': 'red'}" in str(done.output)
