"""One trace over every hop: what a request says of its trace, everybody hears whom the work of it reaches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.files import load_mesh
from agentmesh.app import open_app
from agentmesh.settings import Secrets, Settings
from tests.adapters.upstreams import Desk, listening
from tests.http.serving import served

pytestmark = pytest.mark.anyio
TRACE, OTHER = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319c"
TRACED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "vendor=1"}
MODERN, OLDER = "2026-07-28", "2025-06-18"
CALL = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
TOUR = """
name: tour
on: {a2a: {}, mcp: {}}
input: {type: object, properties: {text: {type: string}}, required: [text]}
steps:
  - {id: note, tool: up.echo, with: {text: "${{ input.text }}"}}
  - {id: think, llm: {prompt: "${{ input.text }}"}}
  - {id: ask, agent: {peer: far, message: "${{ input.text }}"}}
  - {id: send, http: {url: "WORLD/notes"}}
output: done
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A model, an HTTP service, an agent and (`desk`) an MCP server, which remember whose trace they were asked in."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        """(who, traceparent, tracestate) of each request; empty for none."""
        self.reached, self.go = anyio.Event(), anyio.Event()
        self.url = ""
        self.desk: Desk
        self.mcp = ""

    def hear(self, who: str, headers: Mapping[str, str]) -> None:
        self.heard.append((who, headers.get("traceparent", ""), headers.get("tracestate", "")))

    def of(self, who: str) -> list[str]:
        """The ids of the traces, in order."""
        return [parent[3:35] for name, parent, _ in self.heard if name == who]

    async def notes(self, request: Request) -> JSONResponse:
        self.hear("http", request.headers)
        self.reached.set()
        await self.go.wait()
        return JSONResponse({})

    async def model(self, request: Request) -> JSONResponse:
        self.hear("model", request.headers)
        message = {"role": "assistant", "content": "so be it"}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}]})

    async def card(self, request: Request) -> JSONResponse:
        interface = {"url": f"{self.url}/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        return JSONResponse({
            "name": "far", "description": "Far away.", "version": "1", "capabilities": {}, "supportedInterfaces": [interface],
            "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"],
            "skills": [{"id": "do", "name": "Do", "description": "Does it.", "tags": []}],
        })  # fmt: skip

    async def agent(self, request: Request) -> JSONResponse:
        self.hear("agent", request.headers)
        asked = await request.json()
        part = {"parts": [{"text": "done"}]}
        task = {
            "id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_COMPLETED"},
            "artifacts": [{"artifactId": "a", **part}],
        }  # fmt: skip
        result = {"task": task} if asked["method"] == "SendMessage" else task
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    def app(self) -> ASGIApp:
        return Starlette(
            routes=[
                Route("/notes", self.notes),
                Route("/v1/chat/completions", self.model, methods=["POST"]),
                Route("/card", self.card),
                Route("/a2a", self.agent, methods=["POST"]),
            ]
        )

    def watched(self, app: ASGIApp) -> ASGIApp:
        """The MCP server's, with its headers heard where they belong to a call of a tool."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            headers = {name.decode(): value.decode() for name, value in scope.get("headers", ())}
            if headers.get("mcp-method") == "tools/call":
                self.hear("mcp", headers)
            await app(scope, receive, send)

        return serve


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    one = World()
    one.desk = Desk(modern=True)
    async with served(one.app()) as one.url, listening(one.watched(one.desk.app())) as one.mcp:
        yield one


def write_mesh(folder: Path, of: World) -> Path:
    (folder / "servers").mkdir()
    (folder / "workflows").mkdir()
    file = {
        "name": "test", "default_model": "m", "models": {"m": {"url": f"{of.url}/v1", "model": "m"}},
        "agents": {"far": {"card": f"{of.url}/card"}},
    }  # fmt: skip
    (folder / "agentmesh.yaml").write_text(json.dumps(file))
    (folder / "servers/up.yaml").write_text(json.dumps({"name": "up", "upstream": {"url": of.mcp}}))
    (folder / "workflows/tour.yaml").write_text(TOUR.replace("WORLD", of.url))
    return folder


@asynccontextmanager
async def mesh(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The whole mesh on a socket, all its upstreams known."""
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(30))
        app = await stack.enter_async_context(open_app(Settings(folder, models=False), load_mesh(folder, Secrets())))
        url = await stack.enter_async_context(served(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=30))
        while not {"up.echo", "far.do"} <= {tool["name"] for tool in (await http.get("/v1/tools")).json()["tools"]}:  # noqa: ASYNC110
            await anyio.sleep(0.02)  # nobody tells when the last of them is known
        yield http


async def send(http: httpx.AsyncClient, *twice: tuple[str, str], **headers: str) -> str:
    """The id of the task that a message begins."""
    message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "hello"}], "metadata": {"skill": "tour"}}
    params = {"message": message, "configuration": {"returnImmediately": True}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
    sent = [("A2A-Version", "1.0"), *headers.items(), *twice]
    answer = (await http.post("/a2a", json=body, headers=sent)).json()
    assert "result" in answer, answer
    return str(answer["result"]["task"]["id"])


async def run_of(http: httpx.AsyncClient, task: str) -> dict[str, Any]:
    """The run when it has ended."""
    while (run := (await http.get(f"/v1/runs/{task}")).json())["state"] not in ("completed", "failed"):  # noqa: ASYNC110
        await anyio.sleep(0.02)
    assert run["state"] == "completed", run
    found: dict[str, Any] = run
    return found


async def call(http: httpx.AsyncClient, tool: str, meta: Mapping[str, Any], **headers: str) -> dict[str, Any]:
    """The result of a tools/call of 2026-07-28."""
    params = {"name": tool, "arguments": {"text": "hello"}, "_meta": {**CALL, **meta}}
    sent = {
        "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": tool,
        "accept": "application/json, text/event-stream", **headers,
    }  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await http.post("/mcp", json=body, headers=sent)
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")][-1]
    result: dict[str, Any] = json.loads(text)["result"]
    return result


async def test_a_message_and_all_that_comes_of_it_are_one_trace(tmp_path: Path) -> None:
    """An MCP server, a model, an agent and an HTTP service hear it, and hear it again when the run is taken up after a restart."""
    async with world() as outside:
        write_mesh(tmp_path, outside)
        async with mesh(tmp_path) as http:
            task = await send(http, **TRACED)
            await outside.reached.wait()
        assert [outside.of(who) for who in ("mcp", "model", "agent", "http")] == [[TRACE]] * 4
        assert {state for _, _, state in outside.heard} == {"vendor=1"}
        assert outside.desk.metas[-1]["traceparent"] == TRACED["traceparent"]
        outside.go.set()
        async with mesh(tmp_path) as http:
            await run_of(http, task)
        assert outside.of("http") == [TRACE, TRACE]
        assert {parent for _, parent, _ in outside.heard} == {TRACED["traceparent"]}


async def test_without_a_trace_nothing_is_sent(tmp_path: Path) -> None:
    """Nor with one that is none, or two of them; no trace of another request's is taken."""
    async with world() as outside:
        outside.go.set()
        write_mesh(tmp_path, outside)
        async with mesh(tmp_path) as http:
            await run_of(http, await send(http, **TRACED))
            outside.heard.clear()
            await run_of(http, await send(http))
            await run_of(http, await send(http, traceparent="00-0-0-00"))
            await run_of(http, await send(http, ("traceparent", TRACED["traceparent"]), **TRACED))
            await call(http, "up.echo", {})
        assert len(outside.heard) == 13
        assert {parent for _, parent, _ in outside.heard} == {""}
        assert "traceparent" not in outside.desk.metas[-1]


@pytest.mark.parametrize("more", [{}, {"progressToken": 1}])
async def test_what_an_mcp_client_says_in_meta_goes_before_its_headers(tmp_path: Path, more: dict[str, Any]) -> None:
    """On both paths of the edge; the headers alone will do, and a workflow's run carries it on."""
    meta = {"traceparent": f"00-{OTHER}-b7ad6b7169203331-01"}
    async with world() as outside:
        outside.go.set()
        write_mesh(tmp_path, outside)
        async with mesh(tmp_path) as http:
            await call(http, "up.echo", {**meta, **more}, **TRACED)
            await call(http, "up.echo", more, **TRACED)
            await call(http, "tour", {**meta, **more})
        assert outside.of("mcp") == [OTHER, TRACE, OTHER]
        assert outside.of("model") == outside.of("agent") == outside.of("http") == [OTHER]


async def test_each_request_of_a_session_has_its_own_trace(tmp_path: Path) -> None:
    """Not the one of the request that opened the session."""
    async with world() as outside:
        write_mesh(tmp_path, outside)
        async with mesh(tmp_path) as http:
            given = {"accept": "application/json, text/event-stream", "mcp-protocol-version": OLDER}

            async def post(
                method: str, params: Mapping[str, Any], *, note: bool = False, **headers: str
            ) -> httpx.Response:
                body = {"jsonrpc": "2.0", "method": method, "params": params, **({} if note else {"id": 1})}
                answer = await http.post("/mcp", json=body, headers={**given, **headers})
                assert answer.status_code in (200, 202), answer.text
                return answer

            hello = {"protocolVersion": OLDER, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            opened = await post("initialize", hello, traceparent=f"00-{OTHER}-b7ad6b7169203331-01")
            given["mcp-session-id"] = opened.headers["mcp-session-id"]
            await post("notifications/initialized", {}, note=True)
            echo = {"name": "up.echo", "arguments": {"text": "hello"}}
            await post("tools/call", echo, **TRACED)
            await post("tools/call", echo)
            await post("tools/call", {**echo, "_meta": {"traceparent": f"00-{OTHER}-b7ad6b7169203331-01"}}, **TRACED)
        assert outside.of("mcp") == [TRACE, "", OTHER]
