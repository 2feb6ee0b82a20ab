"""The mesh of the conformance suite, served in process: tools that ask, log and change; resources and prompts."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.mesh_files import FolderFiles
from agentmesh.engine import Engine
from agentmesh.settings import Secrets
from tests.conformance import fixtures, task_functions
from tests.engine import meshes
from tests.mcp.conftest import mcp_server
from tests.mcp.test_wire import BOTH, CAPABILITIES, VERSION, answer

FOLDER = Path(__file__).parent.parent / "conformance"
ANSWERS = {"elicitation": {}, "sampling": {}, "roots": {}}
"""Capabilities of a client that can be asked anything."""


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{module.__name__}:{name}": found
    for module in (fixtures, task_functions)
    for name, found in vars(module).items()
    if inspect.isfunction(found)
}


@asynccontextmanager
async def everything(**edge: Any) -> AsyncIterator[tuple[Engine, str]]:
    """The engine, and the URL of /mcp."""
    mesh = load_mesh(FOLDER, Secrets())
    async with (
        meshes.serving(mesh, functions=FUNCTIONS, files=FolderFiles(FOLDER)) as engine,
        mcp_server(engine, **edge) as url,
    ):
        yield engine, url


class Modern:
    """A client of 2026-07-28 by plain HTTP."""

    def __init__(self, http: httpx2.AsyncClient, who: str = "local") -> None:
        self.http = http
        self.who = who
        self.ident = 0

    def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        capabilities: dict[str, Any] | None = None,
        **meta: Any,
    ) -> dict[str, Any]:
        self.ident += 1
        named = (params or {}).get("name") or (params or {}).get("uri")
        body = {
            "jsonrpc": "2.0", "id": self.ident, "method": method,
            "params": {**(params or {}), "_meta": {VERSION: "2026-07-28", CAPABILITIES: capabilities or {}, **meta}},
        }  # fmt: skip
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "x-who": self.who}
        return {"json": body, "headers": headers | ({"mcp-name": named} if named else {})}

    async def post(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The JSON-RPC answer."""
        return answer(await self.http.post("", **self.request(method, params, **more)))

    async def messages(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
        """All that came on the stream, the answer last."""
        response = await self.http.post("", **self.request(method, params, **more))
        if response.headers["content-type"].startswith("application/json"):
            return [response.json()]
        return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]

    @asynccontextmanager
    async def listening(
        self, notifications: dict[str, Any], **more: Any
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """A listen stream: its messages as they come."""
        request = self.request("subscriptions/listen", {"notifications": notifications}, **more)
        async with self.http.stream("POST", "", **request) as response:
            yield _events(response)


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    if response.headers["content-type"].startswith("application/json"):
        yield json.loads(await response.aread())
        return
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield json.loads(line[5:])


@asynccontextmanager
async def modern_client(url: str, who: str = "local") -> AsyncIterator[Modern]:
    async with httpx2.AsyncClient(base_url=url, headers=BOTH, timeout=10) as http:
        with anyio.fail_after(20):
            yield Modern(http, who)
