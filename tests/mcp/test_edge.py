"""/mcp as the application mounts it: behind the guard of all HTTP, with sessions that are bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from agentmesh.http.auth import Guard
from agentmesh.mcp.server import build_mcp
from tests.mcp.conftest import ERAS, FakeEngine, client, mcp_server, serving, settings
from tests.mcp.test_wire import BOTH, legacy, modern, opened
from tests.requirements import covers

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def guarded(engine: FakeEngine) -> AsyncIterator[str]:
    edge = build_mcp(engine, settings())  # type: ignore[arg-type]
    app = Guard(Starlette(routes=[Route("/mcp", edge.app)]))
    async with edge.run(), serving(app) as base:
        yield f"{base}/mcp"


@pytest.mark.parametrize("era", ERAS)
async def test_calls_pass_the_guard(engine: FakeEngine, era: str) -> None:
    """Whoever the guard found is the principal of the call; one that goes away is still noticed."""
    async with guarded(engine) as url, client(url, era) as c:
        assert (await c.call_tool("echo", {"text": "x"})).structured_content == {"text": "x", "who": "local"}
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(c.call_tool, "wait")
                await engine.tools.started.wait()
                group.cancel_scope.cancel()
            await engine.tools.cancelled.wait()


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "evil.example"}, {"origin": "http://127.0.0.1.evil.example"}],
)
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", None])
@covers("MCP-2026-07-28 basic/transports/streamable-http#security-endpoint")
async def test_a_foreign_page_is_refused(engine: FakeEngine, version: str | None, headers: dict[str, str]) -> None:
    """DNS rebinding ends at the guard, in every era."""
    if version is not None:
        headers = headers | {"mcp-protocol-version": version}
    async with guarded(engine) as url, httpx2.AsyncClient(headers=BOTH) as http:
        response = await http.post(url, json=legacy("ping"), headers=headers)
    assert 400 <= response.status_code < 500
    assert engine.tools.listed == 0
    if "origin" in headers:
        assert response.status_code == 403


async def test_one_session_too_many_is_told_to_come_back(engine: FakeEngine) -> None:
    """503 in plain words; sessions that are open go on, and the stateless era needs none."""
    async with mcp_server(engine, max_sessions=1) as url, httpx2.AsyncClient(base_url=url, headers=BOTH) as http:
        session = await opened(http)
        params: dict[str, Any] = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "b", "version": "1"},
        }
        response = await http.post("", json=legacy("initialize", params))
        assert response.status_code == 503
        assert response.json()["error"]["code"] == -32004
        assert (await http.post("", json=legacy("tools/list"), headers=session)).status_code == 200
        assert (await http.post("", **modern("tools/list"))).status_code == 200
        await http.delete("", headers=session)
        await opened(http)


@covers("MCP-2025-11-25 basic/transports#disconnect")
async def test_a_session_that_is_not_used_ends(engine: FakeEngine) -> None:
    """A broken connection alone cancels nothing in the older era; the end of the idle session does, and it is 404."""
    async with (
        mcp_server(engine, session_idle_seconds=0.2) as url,
        httpx2.AsyncClient(base_url=url, headers=BOTH) as http,
    ):
        session = await opened(http)
        call = legacy("tools/call", {"name": "wait"})
        with anyio.fail_after(5):
            async with http.stream("POST", "", json=call, headers=session):
                await engine.tools.started.wait()
            assert not engine.tools.cancelled.is_set()
            await engine.tools.cancelled.wait()
        assert (await http.post("", json=legacy("tools/list"), headers=session)).status_code == 404
