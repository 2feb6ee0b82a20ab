"""A mesh whose tools take their time, fail and ask; and a client that knows tasks, by plain HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import anyio
import httpx2

from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile
from agentmesh.core.server_file import ServerFile
from agentmesh.engine import Engine
from agentmesh.errors import Fail
from tests.conformance import task_functions
from tests.engine import meshes
from tests.mcp.conftest import mcp_server
from tests.mcp.test_wire import BOTH, CAPABILITIES, VERSION, answer

EXTENSION = "io.modelcontextprotocol/tasks"
KNOWS = {"extensions": {EXTENSION: {}}, "elicitation": {}}
"""Capabilities of a client that knows tasks and can show a form."""
SURE = {"type": "object", "properties": {"why": {"type": "string"}}, "required": ["why"]}


class Gate:
    """Functions that wait until a test lets them go on."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.go = anyio.Event()

    async def slow(self, text: str = "") -> dict[str, Any]:
        self.started.set()
        await self.go.wait()
        return {"said": text}

    async def breaks(self) -> None:
        await self.slow()
        raise ZeroDivisionError("insides")

    async def fails(self) -> None:
        await self.slow()
        raise Fail("the disk is full")

    async def asks(self, ctx: Context) -> Any:
        answer = await ctx.elicit("who", "Who are you?", SURE)
        return answer

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "app:slow": self.slow, "app:breaks": self.breaks, "app:fails": self.fails, "app:asks": self.asks,
            "app:quick": lambda: {"quick": True}, "app:quick_break": lambda: 1 / 0,
            "app:two": task_functions.multi_input, "app:greet": task_functions.greet_by_form,
        }  # fmt: skip


NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOLS = {
    "slow": {"input": {"type": "object", "properties": {"text": {"type": "string"}}}},
    "quick": {}, "breaks": {}, "quick_break": {}, "fails": {}, "asks": {}, "two": {},
    "must": {"python": "app:quick", "execution": {"taskSupport": "required"}},
    "passing": {"python": "app:quick", "execution": {"taskSupport": "forbidden"}},
    "greet": {"elicit": {"user_name": {"message": "Your name?", "form": NAME}}},
}  # fmt: skip
ASK = {"ask": "Send it?", "show": {"text": "${{ input.text }}"}}
WORKFLOWS = (
    meshes.workflow("review", {"id": "ok", "approve": ASK}, {"id": "z", "set": {"sent": True}}, on={"mcp": {}}),
    meshes.workflow("fill", {"id": "ok", "approve": {**ASK, "form": SURE}}, on={"mcp": {}}),
    meshes.workflow("outer", {"id": "in", "workflow": "review", "with": {"text": "${{ input.text }}"}}, on={"mcp": {}}),
    meshes.workflow("hear", {"id": "w", "wait": {"signal": "go"}}, on={"mcp": {}}),
)


def mesh(policies: tuple[PolicyFile, ...] = (), **file: Any) -> Mesh:
    """The mesh of the tools above, whose names have no prefix."""
    common = {"description": "A tool.", "execution": {"taskSupport": "optional"}}
    tools = {name: {**common, "python": f"app:{name}", **given} for name, given in TOOLS.items()}
    server = ServerFile.model_validate({"name": "jobs", "prefix": False, "tools": tools})
    whole = MeshFile.model_validate({"name": "test", **file})
    return assemble(PurePath("mesh"), whole, [server], WORKFLOWS, policies)


class Client:
    """A client of 2026-07-28; who it is and what it can do may be said for each request."""

    def __init__(self, http: httpx2.AsyncClient, **capabilities: Any) -> None:
        self.http = http
        self.capabilities = capabilities

    async def send(
        self, method: str, params: Mapping[str, Any], *, can: Mapping[str, Any] | None = None, **headers: str
    ) -> dict[str, Any]:
        """The JSON-RPC response."""
        meta = {VERSION: "2026-07-28", CAPABILITIES: self.capabilities if can is None else can}
        meta |= params.get("_meta", {})
        named = params.get("name", params.get("taskId"))
        response = await self.http.post(
            "",
            json={"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}},
            headers={
                "mcp-protocol-version": "2026-07-28", "mcp-method": method,
                **({"mcp-name": named} if isinstance(named, str) else {}), **headers,
            },
        )  # fmt: skip
        return answer(response)

    async def result(self, method: str, params: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        found = await self.send(method, params, **more)
        assert "result" in found, found
        result: dict[str, Any] = found["result"]
        result.pop("_meta", None)
        return result

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return await self.result("tools/call", {"name": tool, "arguments": arguments or {}}, **more)

    async def task(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> str:
        """The id of the task that a call becomes."""
        made = await self.call(tool, arguments, **more)
        assert made["resultType"] == "task", made
        return str(made["taskId"])

    async def get(self, task: str, **more: Any) -> dict[str, Any]:
        return await self.result("tasks/get", {"taskId": task}, **more)

    async def until(self, task: str, *statuses: str, **more: Any) -> dict[str, Any]:
        """The task when it has one of the statuses; asked for again and again, as clients do."""
        with anyio.fail_after(10):
            while True:
                found = await self.get(task, **more)
                if found["status"] in statuses:
                    return found
                assert found["status"] in ("working", "input_required"), found

    async def update(self, task: str, responses: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return await self.result("tasks/update", {"taskId": task, "inputResponses": responses}, **more)

    async def error(self, method: str, params: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        found = await self.send(method, params, **more)
        assert "error" in found, found
        error: dict[str, Any] = found["error"]
        return error


def accept(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


@asynccontextmanager
async def client_of(url: str, who: str = "local", **capabilities: Any) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(base_url=url, headers={**BOTH, "x-who": who}, timeout=10) as http:
        yield Client(http, **(capabilities or KNOWS))


@asynccontextmanager
async def tasks_of(
    of: Mesh | None = None, *, gate: Gate | None = None, **more: Any
) -> AsyncIterator[tuple[Engine, Client, str]]:
    """An engine that serves the mesh, a client that knows tasks, and the address for others."""
    functions = (gate or Gate()).functions()
    async with (
        meshes.serving(of or mesh(), functions=functions, **more) as engine,
        mcp_server(engine) as url,
        client_of(url) as client,
    ):
        yield engine, client, url
