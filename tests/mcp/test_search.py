"""search_tools and call_tool: what is listed, found and called through them, in both eras and over the pipe."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from agentmesh.adapters.memory_source import MemorySource
from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import SourceCall
from agentmesh.core.tool import ToolResult
from agentmesh.engine import Engine
from tests.engine import meshes
from tests.mcp.conftest import ERAS, LEGACY, client, mcp_server
from tests.mcp.tasks import Gate, tasks_of
from tests.mcp.tasks import mesh as tasks_mesh
from tests.mcp.test_pipe import stdio

pytestmark = pytest.mark.anyio

TWO = ["call_tool", "search_tools"]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def server(name: str, *tools: str, **more: Any) -> ServerFile:
    """A server whose tools all echo their arguments."""
    specs = {t: {"description": f"{t} in {name}.", "input": TEXT, "python": "f:echo"} for t in tools}
    return ServerFile.model_validate({"name": name, "tools": {**specs, **more.pop("specs", {})}} | more)


def of(*servers: ServerFile, policies: tuple[PolicyFile, ...] = (), **mcp: Any) -> Mesh:
    file = MeshFile.model_validate({"name": "test", "mcp": mcp})
    workflow = meshes.workflow(
        "triage", {"id": "a", "set": {"said": "${{ input.text }}"}}, on={"mcp": {}}, description="Sorts a log."
    )
    return assemble(PurePath("mesh"), file, servers, [workflow], policies)


def echo(text: str) -> dict[str, str]:
    return {"echoed": text}


async def slowly(ctx: Context) -> str:
    ctx.progress("half way", done=1, total=2)
    return "done"


async def asks(ctx: Context) -> Any:
    return await ctx.elicit("who", "Who are you?", {"type": "object", "properties": {"name": {"type": "string"}}})


FUNCTIONS: dict[str, Callable[..., Any]] = {"f:echo": echo, "f:slowly": slowly, "f:asks": asks}


@asynccontextmanager
async def connected(era: str, mesh: Mesh, **more: Any) -> AsyncIterator[tuple[Engine, Client]]:
    given = {key: more.pop(key) for key in ("elicitation_callback",) if key in more}
    async with (
        meshes.serving(mesh, functions=FUNCTIONS, **more) as engine,
        mcp_server(engine) as url,
        client(url, era, **given) as c,
    ):
        yield engine, c


async def listed(c: Client) -> list[str]:
    return [tool.name for tool in (await c.list_tools()).tools]


async def search(c: Client, **arguments: Any) -> Mapping[str, Any]:
    answer = await c.call_tool("search_tools", arguments)
    assert not answer.is_error, answer.content
    structured = answer.structured_content
    assert isinstance(structured, dict)
    assert json.loads(answer.content[0].text) == structured  # type: ignore[union-attr]
    return structured


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_is_put_behind_the_two(era: str) -> None:
    """Its tools are not listed but for the pinned ones; others are; the description says how many of which servers are behind."""
    hub = server("hub", "create_issue", "list_issues", "merge", offer="search", pin=["list_*"])
    async with connected(era, of(hub, server("desk", "classify"))) as (_, c):
        tools = {tool.name: tool for tool in (await c.list_tools()).tools}
        assert sorted(tools) == [*TWO[:1], "desk.classify", "hub.list_issues", *TWO[1:], "triage"]
        assert "2 tools are not listed here" in (tools["search_tools"].description or "")
        assert "hub (2)" in (tools["search_tools"].description or "")
        assert tools["search_tools"].annotations is not None
        assert tools["search_tools"].annotations.read_only_hint


@pytest.mark.parametrize("era", ERAS)
async def test_a_whole_mesh_is_put_behind_the_two(era: str) -> None:
    """Workflows too; pinned names, and servers that say otherwise, stay in sight."""
    mesh = of(
        server("hub", "create_issue"), server("desk", "classify", offer="tools"), server("chat", "post"),
        offer="search", pin=["chat.*"],
    )  # fmt: skip
    async with connected(era, mesh) as (_, c):
        assert await listed(c) == ["call_tool", "chat.post", "desk.classify", "search_tools"]
        assert [m["name"] for m in (await search(c, query="sort a log"))["matches"]] == ["triage"]
        assert (await search(c, query="*", server="workflows"))["matched"] == 1


@pytest.mark.parametrize("era", ERAS)
async def test_without_a_word_of_search_nothing_changes(era: str) -> None:
    """The two are neither listed nor known."""
    async with connected(era, of(server("hub", "merge"))) as (_, c):
        assert await listed(c) == ["hub.merge", "triage"]
        for name in TWO:
            with pytest.raises(MCPError, match=name):
                await c.call_tool(name, {"query": "x", "name": "hub.merge"})


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_can_be_called_at_once(era: str) -> None:
    """A match has name, description and input schema; the counts say what was left out."""
    names = [f"issue_{n:02}" for n in range(30)]
    async with connected(era, of(server("hub", "merge", *names), offer="search")) as (_, c):
        answer = await search(c, query="merge")
        assert answer == {
            "matches": [{"name": "hub.merge", "description": "merge in hub.", "inputSchema": TEXT}],
            "matched": 1,
            "shown": 1,
        }
        answer = await search(c, query="issue", limit=3)
        assert (answer["matched"], answer["shown"], len(answer["matches"]), len(answer["also"])) == (30, 3, 3, 15)
        assert "12 more match" in answer["hint"]
        assert [m["name"] for m in (await search(c, query="hub.merge"))["matches"]] == ["hub.merge"]
        assert (await search(c, query="hub.issue_1*"))["matched"] == 10


@pytest.mark.parametrize("era", ERAS)
async def test_nothing_found_says_what_to_try(era: str) -> None:
    """It names the servers and how many tools each has."""
    async with connected(era, of(server("hub", "merge"), server("chat", "post", "read"), offer="search")) as (_, c):
        answer = await search(c, query="zebra")
        assert (answer["matches"], answer["matched"], answer["shown"]) == ([], 0, 0)
        assert "zebra" in answer["hint"]
        assert answer["servers"] == {"chat": 2, "hub": 1, "workflows": 1}


BAD = [
    {},
    {"query": ""},
    {"query": 7},
    {"query": "x", "limit": 0},
    {"query": "x", "limit": 51},
    {"query": "x", "server": "nobody"},
    {"query": "x", "more": 1},
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("arguments", BAD, ids=str)
async def test_a_search_that_makes_no_sense_is_told_so(era: str, arguments: dict[str, Any]) -> None:
    """Arguments that do not fit are the tool's error, which a model reads; an unknown server names those there are."""
    async with connected(era, of(server("hub", "merge"), offer="search")) as (_, c):
        answer = await c.call_tool("search_tools", arguments)
        assert answer.is_error
        said = answer.content[0].text  # type: ignore[union-attr]
        assert "hub (1)" in said if "server" in arguments else "arguments" in said


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_through_is_the_call_itself(era: str) -> None:
    """Same result and same errors as by the tool's own name, which works too."""
    async with connected(era, of(server("hub", "merge"), offer="search")) as (_, c):

        async def both(name: str, arguments: Any) -> tuple[Any, Any]:
            seen: list[Any] = []
            for call in ((name, arguments), ("call_tool", {"name": name, "arguments": arguments})):
                try:
                    answer = await c.call_tool(*call)
                    seen.append((answer.structured_content, answer.content, answer.is_error))
                except MCPError as error:
                    seen.append((error.error.code, error.error.message, error.error.data))
            return seen[0], seen[1]

        direct, through = await both("hub.merge", {"text": "hi"})
        assert direct == through
        assert direct[0] == {"echoed": "hi"}
        direct, through = await both("hub.merge", {"text": 7})
        assert direct == through
        assert direct[2] is True
        direct, through = await both("hub.nothing", {})
        assert direct == through
        assert direct[0] == -32602
        direct, through = await both("triage", {"text": "x"})
        assert direct[0] == through[0] == {"said": "x"}
        found = await c.call_tool("call_tool", {"name": "search_tools", "arguments": {"query": "merge"}})
        assert found.structured_content is not None
        assert found.structured_content["matched"] == 1


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"name": ""}, {"name": 7}, {"name": "hub.merge", "arguments": "{}"}, {"name": "call_tool"}, {"name": "x", "y": 1}],
    ids=str,
)  # fmt: skip
async def test_a_call_of_nothing_is_told_so(era: str, arguments: dict[str, Any]) -> None:
    """Arguments of call_tool that do not fit are its error."""
    async with connected(era, of(server("hub", "merge"), offer="search")) as (_, c):
        answer = await c.call_tool("call_tool", arguments)
        assert answer.is_error
        assert "arguments" in answer.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
async def test_progress_comes_through(era: str) -> None:
    """What the tool tells on its way reaches the client that called it through call_tool."""
    told: list[Any] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    slow = {"slowly": {"description": "Takes long.", "python": "f:slowly"}}
    async with connected(era, of(server("hub", specs=slow), offer="search")) as (_, c):
        answer = await c.call_tool("call_tool", {"name": "hub.slowly"}, progress_callback=hear)
    assert answer.content[0].text == "done"  # type: ignore[union-attr]
    assert told[0][2] == "half way"


@pytest.mark.parametrize("era", ERAS)
async def test_questions_come_through(era: str) -> None:
    """A tool that asks its caller's user does so through call_tool, in rounds or on the line as the era has it."""
    from mcp_types import ElicitResult

    async def answer(context: Any, params: Any) -> ElicitResult:
        assert "Who" in params.message
        return ElicitResult(action="accept", content={"name": "Ada"})

    asking = {"asks": {"description": "Asks who it is.", "python": "f:asks"}}
    mesh = of(server("hub", specs=asking), offer="search")
    async with connected(era, mesh, elicitation_callback=answer) as (_, c):
        result = await c.call_tool("call_tool", {"name": "hub.asks"})
    assert result.structured_content == {"action": "accept", "content": {"name": "Ada"}}


POLICY = PolicyFile.model_validate(
    {
        "roles": {"all": {"subjects": ["*"]}},
        "rules": [
            {"allow": ["tools.list", "tools.call"], "on": ["tool:hub.read_*"], "to": ["all"]},
            {"allow": ["tools.list"], "on": ["tool:hub.look"], "to": ["all"]},
        ],
    }
)


@pytest.mark.parametrize("era", ERAS)
async def test_policies_speak_of_the_tools_behind(era: str) -> None:
    """What one may not list is neither found nor counted nor named; what one may not call is refused as by its own name."""
    hub = server("hub", "read_issue", "read_page", "delete_issue", "look")
    secret = server("vault", "read_key")
    async with connected(era, of(hub, secret, policies=(POLICY,), offer="search")) as (_, c):
        tools = {tool.name: tool.description or "" for tool in (await c.list_tools()).tools}
        assert sorted(tools) == TWO
        assert "3 tools are" in tools["search_tools"]
        assert "vault" not in tools["search_tools"]
        assert (await search(c, query="issue"))["matched"] == 1
        assert (await search(c, query="*"))["matched"] == 3
        assert (await search(c, query="key"))["servers"] == {"hub": 3}
        unknown = await c.call_tool("search_tools", {"query": "x", "server": "vault"})
        nobody = await c.call_tool("search_tools", {"query": "x", "server": "other"})
        told = [str(one.content[0].text).replace(n, "") for one, n in ((unknown, "vault"), (nobody, "other"))]  # type: ignore[union-attr]
        assert told[0] == told[1]
        for name in ("hub.look", "hub.delete_issue", "vault.read_key"):
            seen: list[Any] = []
            for call in ((name, {"text": "x"}), ("call_tool", {"name": name, "arguments": {"text": "x"}})):
                with pytest.raises(MCPError) as refused:
                    await c.call_tool(*call)
                seen.append((refused.value.error.code, refused.value.error.message))
            assert seen[0] == seen[1]


@pytest.mark.parametrize("era", ERAS)
async def test_who_may_list_nothing_behind_is_not_shown_the_two(era: str) -> None:
    """Then there is nothing to search."""
    mesh = of(server("vault", "read_key"), policies=(POLICY,), offer="search")
    async with connected(era, mesh) as (_, c):
        assert await listed(c) == []


@pytest.mark.parametrize("era", ERAS)
async def test_what_upstreams_gain_and_lose_is_found_and_not(era: str) -> None:
    """The index follows a source; the description counts anew."""

    async def answering(call: SourceCall) -> ToolResult:
        return ToolResult(structured={"by": call.tool.name})

    source = MemorySource("far")
    source.offer("teleport", answering)
    async with connected(era, of(offer="search"), sources=[source]) as (_, c):
        assert [m["name"] for m in (await search(c, query="teleport"))["matches"]] == ["far.teleport"]
        answer = await c.call_tool("call_tool", {"name": "far.teleport"})
        assert answer.structured_content == {"by": "far.teleport"}
        source.offer("levitate", answering)
        source.withdraw("teleport")
        assert (await search(c, query="teleport"))["matched"] == 0
        assert [m["name"] for m in (await search(c, query="levitate"))["matches"]] == ["far.levitate"]


async def test_the_mesh_may_begin_to_search() -> None:
    """Files that change are followed at once, and a mesh's own tool of the name keeps it: then all are listed."""
    async with connected("2026-07-28", of(server("hub", "merge"))) as (engine, c):
        engine.mesh.adopt(of(server("hub", "merge"), offer="search"))
        answer = await c.call_tool("search_tools", {"query": "merge"})
        assert answer.structured_content is not None
        own = server("tools", "search_tools", prefix=False)
        engine.mesh.adopt(of(server("hub", "merge"), own, offer="search"))
        answer = await c.call_tool("search_tools", {"text": "mine"})
        assert answer.structured_content == {"echoed": "mine"}
        with pytest.raises(MCPError):
            await c.call_tool("call_tool", {"name": "hub.merge"})


async def test_many_search_at_once() -> None:
    """Forty searches and calls at once over a thousand tools each get their own answer."""
    names = [f"job_{n}" for n in range(1000)]
    done: dict[int, Any] = {}
    async with connected("2026-07-28", of(server("hub", *names), offer="search")) as (_, c):

        async def one(n: int) -> None:
            found = await search(c, query=f"hub.job_{n}", limit=1)
            name = found["matches"][0]["name"]
            done[n] = (name, (await c.call_tool("call_tool", {"name": name, "arguments": {"text": str(n)}})))

        with anyio.fail_after(25):
            async with anyio.create_task_group() as group:
                for n in range(40):
                    group.start_soon(one, n)
    assert {n: (name, answer.structured_content) for n, (name, answer) in done.items()} == {
        n: (f"hub.job_{n}", {"echoed": str(n)}) for n in range(40)
    }


async def test_a_call_through_may_become_a_task() -> None:
    """A client that knows tasks gets one for a run that outlasts a moment, also when it called through call_tool."""
    gate = Gate()
    async with tasks_of(tasks_mesh(mcp={"offer": "search"}), gate=gate) as (_, c, _url):
        made = await c.call("call_tool", {"name": "slow", "arguments": {"text": "hi"}})
        assert (made["resultType"], made["status"]) == ("task", "working")
        gate.go.set()
        ended = await c.until(made["taskId"], "completed")
        assert ended["result"]["structuredContent"] == {"said": "hi"}


@pytest.mark.parametrize("era", ["auto", LEGACY], ids=["2026", "2025"])
async def test_the_pipe_has_them_too(era: str) -> None:
    """Over stdio the two are the same as over HTTP."""
    mesh = of(server("hub", "merge"), offer="search")
    async with meshes.serving(mesh, functions=FUNCTIONS) as engine, mcp_server(engine) as url, stdio(url, era) as c:
        assert await listed(c) == TWO
        assert [m["name"] for m in (await search(c, query="merge"))["matches"]] == ["hub.merge"]
        answer = await c.call_tool("call_tool", {"name": "hub.merge", "arguments": {"text": "hi"}})
        assert answer.structured_content == {"echoed": "hi"}
