"""One request to an ASGI app without a socket, and a mesh to send it to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from agentmesh.core.content import Content, text
from agentmesh.core.context import Context
from agentmesh.core.policy import PolicyFile, Principal, Rule
from agentmesh.engine import Engine
from agentmesh.errors import Fail
from agentmesh.mcp.server import McpEdge, build_mcp
from tests.engine import meshes
from tests.mcp.conftest import settings

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "host": "127.0.0.1:80",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "desk.echo",
}


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The JSON-RPC message of a JSON body, or the last one of a stream; None when there is no body."""
        if not self.body.strip():
            return None
        if self.body.startswith(b"{"):
            return json.loads(self.body)
        return json.loads([line for line in self.body.splitlines() if line.startswith(b"data:")][-1][5:])


def call(name: str = "desk.echo", arguments: Any = None, ident: Any = 1, **meta: Any) -> dict[str, Any]:
    """The body of a plain call."""
    params = {
        "name": name,
        "arguments": {"text": "hello"} if arguments is None else arguments,
        "_meta": {**META, **meta},
    }
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}


async def ask(
    app: Any,
    body: Any,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = HEADERS,
    *,
    method: str = "POST",
    principal: Principal | None = None,
    chunks: int = 1,
    leaves: anyio.Event | None = None,
) -> Answer:
    """What the app answers. `body`: bytes, or what is written as JSON. `leaves`: when the client goes; never else."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = max(1, -(-len(data) // chunks))
    parts = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    messages = iter([{"type": "http.request", "body": p, "more_body": i < len(parts) - 1} for i, p in enumerate(parts)])
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    answered = Answer()
    over = anyio.Event()

    async def receive() -> Any:
        message = next(messages, None)
        if message is not None:
            return message
        await (over if leaves is None else leaves).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.status, answered.headers = message["status"], message["headers"]
        else:
            answered.body += message.get("body", b"")
            if not message.get("more_body", False):
                over.set()

    scope = {
        "type": "http", "method": method, "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "asgi": {"version": "3.0"}, "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in pairs],
        "state": {"principal": principal or Principal()},
    }  # fmt: skip
    await app(scope, receive, send)
    return answered


async def _echo(text: str) -> dict[str, Any]:
    return {"text": text}


async def _blocks(text: str) -> Content:
    return Content([{"type": "text", "text": text}], structured={"text": text})


async def _wrong_block() -> Content:
    return Content([{"type": "text"}])


async def _bad() -> Content:
    return Content([text("no such disk")], is_error=True)


async def _fails() -> None:
    raise Fail("the disk is full")


async def _breaks() -> None:
    raise ZeroDivisionError("insides")


async def _asks(ctx: Context) -> Any:
    return await ctx.elicit("who", "Who are you?", {"type": "object", "properties": {"name": {"type": "string"}}})


async def _logs(ctx: Context) -> dict[str, Any]:
    ctx.log("info", "done")
    ctx.progress("half", done=1, total=2)
    return {"done": True}


class Waiting:
    """A tool that waits until it is cancelled, or let go."""

    def __init__(self) -> None:
        self.started, self.cancelled, self.go = anyio.Event(), anyio.Event(), anyio.Event()

    async def __call__(self) -> dict[str, Any]:
        self.started.set()
        try:
            await self.go.wait()
        except BaseException:
            self.cancelled.set()
            raise
        return {"waited": True}


MIRRORED = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}


@asynccontextmanager
async def edge(waiting: Waiting | None = None) -> AsyncIterator[tuple[McpEdge, Engine]]:
    """The MCP edge over an engine with tools of every kind, open."""
    anything = {"description": "Does it.", "input": {"type": "object"}}
    echo = {"description": "Echo.", "input": meshes.TEXT}
    mesh = meshes.mesh(
        meshes.workflow("run", {"id": "a", "set": {"said": "${{ input.text }}"}}, on={"mcp": {}}),
        tools={
            "echo": {**echo, "python": "app:echo"},
            "blocks": {**echo, "python": "app:blocks"},
            "number": {**anything, "python": "app:number"},
            "checked": {**echo, "python": "app:echo", "output": {"type": "array"}},
            "secret": {**echo, "python": "app:echo"},
            "elicits": {
                **anything, "python": "app:number",
                "elicit": {"sure": {"message": "Sure?", "form": {"type": "object", "properties": {}}}},
            },
            "mirrored": {"description": "Mirrors.", "input": MIRRORED, "python": "app:region"},
            **{
                name: {**anything, "python": f"app:{name}"}
                for name in ("wrong_block", "bad", "fails", "breaks", "asks", "logs", "waits", "nothing")
            },
        },
        policies=(
            PolicyFile(name="test", rules=[Rule(allow="*"), Rule(deny="tools.call", on=["tool:desk.secret"])]),
        ),
    )  # fmt: skip

    async def number() -> float:
        return 1.5

    async def nothing() -> None:
        return None

    async def region(region: str = "") -> dict[str, Any]:
        return {"region": region}

    functions = {
        "app:echo": _echo, "app:blocks": _blocks, "app:number": number, "app:region": region, "app:nothing": nothing,
        "app:wrong_block": _wrong_block, "app:bad": _bad, "app:fails": _fails, "app:breaks": _breaks,
        "app:asks": _asks, "app:logs": _logs, "app:waits": waiting or Waiting(),
    }  # fmt: skip
    async with meshes.serving(mesh, functions=functions) as engine:
        built = build_mcp(engine, settings())
        async with built.run():
            yield built, engine
