"""One mesh with both its edges on one socket: what is begun over one protocol is gone on with over the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from agentmesh.a2a.server import build_a2a
from agentmesh.core.mesh import Mesh
from agentmesh.engine import Engine
from agentmesh.http.auth import Guard
from agentmesh.http.problems import HANDLERS
from agentmesh.mcp.server import build_mcp
from agentmesh.settings import Settings
from tests.a2a.conftest import Late, by_header
from tests.engine.meshes import serving
from tests.http.serving import served
from tests.mcp.tasks import Client, client_of

ENDED = ("TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED")


@dataclass(frozen=True)
class Bridged:
    """A served mesh. `mcp`: a client that knows tasks."""

    url: str
    engine: Engine
    http: httpx.AsyncClient
    mcp: Client

    async def rpc(self, method: str, params: Mapping[str, Any], *, agent: str = "") -> dict[str, Any]:
        """The JSON-RPC response of an A2A 1.0 request."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
        path = f"/a2a/{agent}" if agent else "/a2a"
        answer: dict[str, Any] = (await self.http.post(path, json=body, headers={"A2A-Version": "1.0"})).json()
        return answer

    async def send(self, *parts: Mapping[str, Any], agent: str = "", wait: bool = False, **more: Any) -> dict[str, Any]:
        """The task that a message begins, or goes on with (`taskId`)."""
        message = {"messageId": f"m{anyio.current_time()}", "role": "ROLE_USER", "parts": list(parts), **more}
        params = {"message": message, "configuration": {"returnImmediately": not wait}}
        answer = await self.rpc("SendMessage", params, agent=agent)
        assert "result" in answer, answer
        task: dict[str, Any] = answer["result"]["task"]
        return task

    async def until(self, task: str, *states: str) -> dict[str, Any]:
        """The A2A task when it is in one of the states."""
        wanted = [f"TASK_STATE_{state}" for state in states]
        with anyio.fail_after(10):
            while True:
                found: dict[str, Any] = (await self.rpc("GetTask", {"id": task}))["result"]
                if found["status"]["state"] in wanted:
                    return found
                assert found["status"]["state"] not in ENDED, found


@asynccontextmanager
async def bridged(
    of: Mesh, *, sources: Sequence[Any] = (), given: Sequence[Any] = (), **more: Any
) -> AsyncIterator[Bridged]:
    """The mesh; `sources` are entered here, those `given` have been."""
    async with AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(source)
        engine = await stack.enter_async_context(serving(of, sources=[*sources, *given], **more))
        edge, settings = Late(), Settings(folder=Path("mesh"))
        url = await stack.enter_async_context(served(Guard(edge, identify=by_header)))
        mcp = build_mcp(engine, settings)
        await stack.enter_async_context(mcp.run())
        routes = [Route("/mcp", mcp.app), Route("/mcp/", mcp.app), *build_a2a(engine, settings, url)]
        edge.app = Starlette(routes=routes, exception_handlers=HANDLERS)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10, trust_env=False))
        client = await stack.enter_async_context(client_of(f"{url}/mcp", "local/local"))
        yield Bridged(url, engine, http, client)
