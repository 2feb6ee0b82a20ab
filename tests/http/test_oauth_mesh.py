"""A login at an upstream as its user lives it: a whole mesh, an authorization server, a browser, an MCP client, and a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.files import load_mesh
from agentmesh.app import open_app
from agentmesh.settings import Secrets, Settings
from tests.adapters.authorization import Authorization
from tests.adapters.upstreams import Desk, listening

pytestmark = pytest.mark.anyio
PORT = 8080
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


@asynccontextmanager
async def guarded_desk() -> AsyncIterator[Authorization]:
    """An MCP server that lets through whoever has a token of the authorization server beside it."""
    server = Authorization()
    pages, desk = server.app(), Desk(modern=True).app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        token = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        through = scope["type"] == "lifespan" or (scope["path"] == "/mcp" and token in server.tokens)
        await (desk if through else pages)(scope, receive, send)

    async with listening(app) as url:
        server.url = url.removesuffix("/mcp")
        yield server


@dataclass
class Client:
    """An MCP client of 2026-07-28, and the browser of its user."""

    http: httpx.AsyncClient

    async def request(self, method: str, elicitation: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        abilities = {"elicitation": elicitation} if elicitation else {}
        meta = {**META, "io.modelcontextprotocol/clientCapabilities": abilities}
        headers = {
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "accept": "application/json, text/event-stream",
        }
        if "name" in params:
            headers["mcp-name"] = params["name"]
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        answer = await self.http.post("/mcp", json=body, headers=headers)
        text = answer.text
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = next(
                line.removeprefix("data: ") for line in reversed(text.splitlines()) if line.startswith("data: {")
            )
        found: dict[str, Any] = httpx.Response(200, text=text).json()
        return found

    async def echo(self, **more: Any) -> dict[str, Any]:
        found = await self.request("tools/call", name="desk.echo", arguments={"text": "hello"}, **more)
        result: dict[str, Any] = found["result"]
        return result

    async def tools(self) -> set[str]:
        return {tool["name"] for tool in (await self.request("tools/list"))["result"]["tools"]}

    async def until_listed(self) -> None:
        with anyio.fail_after(20):
            while "desk.echo" not in await self.tools():  # noqa: ASYNC110 - a client only hears of it on a stream
                await anyio.sleep(0.05)

    async def log_in(self) -> httpx.Response:
        out = await self.http.get("/v1/oauth/start/desk")
        assert out.status_code == 303, out.text
        async with httpx.AsyncClient() as outside:
            back = await outside.get(out.headers["location"])
        return await self.http.get(back.headers["location"])


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Client]:
    settings = Settings(folder, port=PORT, models=False)
    async with open_app(settings, load_mesh(folder, Secrets())) as app:
        asgi: ASGIApp = app
        transport = httpx.ASGITransport(asgi, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as http:
            yield Client(http)


async def test_a_users_way_in(tmp_path: Path) -> None:
    """From nothing to a call that goes through; over a restart; out again when the login is revoked; and no token lies in the open."""
    async with guarded_desk() as server:
        (tmp_path / "servers").mkdir()
        (tmp_path / "agentmesh.yaml").write_text("name: test\n")
        (tmp_path / "servers/desk.yaml").write_text(
            f"name: desk\nupstream:\n  url: {server.url}/mcp\n  oauth:\n    flow: authorization_code\n"
        )
        async with served(tmp_path) as client:
            assert "desk.echo" not in await client.tools()
            page = await client.log_in()
            assert (page.status_code, "You are logged in" in page.text) == (200, True)
            await client.until_listed()
            assert (await client.echo())["structuredContent"] == {"text": "hello"}
        async with served(tmp_path) as client:
            assert "desk.echo" in await client.tools()
            assert (await client.echo())["structuredContent"] == {"text": "hello"}
            server.revoke()
            refused = await client.echo()
            assert refused["isError"]
            assert f"http://127.0.0.1:{PORT}/v1/oauth/start/desk" in refused["content"][0]["text"]
            asked = await client.echo(elicitation={"url": {}})
            assert asked["resultType"] == "input_required"
            ((key, question),) = asked["inputRequests"].items()
            assert question["params"]["mode"] == "url"
            assert question["params"]["url"] == f"http://127.0.0.1:{PORT}/v1/oauth/start/desk"
            await client.log_in()
            answered = await client.echo(
                elicitation={"url": {}}, inputResponses={key: {"action": "accept"}}, requestState=asked["requestState"]
            )
            assert answered["structuredContent"] == {"text": "hello"}
            kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "db" in file.name)
            for token in (*server.tokens, *server.refreshes, "of the client"):
                assert token.encode() not in kept
            assert b"vault:desk" in kept
