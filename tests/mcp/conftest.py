"""A small engine with the engine's own signatures, and the MCP edge over it on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from mcp import Client

from agentmesh.core.mesh import Mesh, MeshFile
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import ServerFile
from agentmesh.core.tool import Tool, ToolCall, ToolResult
from agentmesh.engine.changes import Changes
from agentmesh.engine.meter import Meter
from agentmesh.engine.sources import Sources
from agentmesh.errors import (
    BudgetExceeded,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    PolicyDenied,
    StoreError,
)
from agentmesh.mcp.server import build_mcp
from agentmesh.settings import Settings

MODERN = "2026-07-28"
LEGACY = "legacy"
ERAS = [pytest.param(MODERN, id="2026"), pytest.param(LEGACY, id="2025")]

OBJECT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@dataclass
class FakeTools:
    """Tools.list and Tools.call as the engine has them; what a call does is its tool's name."""

    tools: dict[str, Tool]
    called: list[tuple[Principal, ToolCall]] = field(default_factory=list)
    started: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    go: anyio.Event = field(default_factory=anyio.Event)
    listed: int = 0

    def list(self, principal: Principal) -> list[Tool]:
        self.listed += 1
        return [t for t in self.tools.values() if not t.name.startswith("secret.") or principal.subject == "root"]

    def find(self, name: str) -> Tool | None:
        return self.tools.get(name)

    def may_ask(self, tool: Tool) -> bool:
        return False

    def is_run(self, tool: Tool) -> bool:
        return False

    async def call(
        self,
        principal: Principal,
        call: ToolCall,
        *,
        source: str = "mcp",
        on_progress: Callable[[Any], None] | None = None,
    ) -> ToolResult:
        self.called.append((principal, call))
        assert source == "mcp"
        if call.name not in self.tools:
            raise NotFound(f"There is no tool {call.name!r}; did you mean 'echo'?", name=call.name)
        if "text" in self.tools[call.name].input_schema.get("required", ()) and "text" not in call.arguments:
            raise InvalidInput(f"{call.name}: 'text' is required.", path="text")
        match call.name:
            case "echo":
                value = {"text": call.arguments["text"], "who": principal.subject}
                return ToolResult(structured=value, run_id="0190-run")
            case "gated.echo":
                await self.go.wait()
                return ToolResult(structured={"text": call.arguments["text"]})
            case "mirrored":
                return ToolResult(structured=dict(call.arguments))
            case "list":
                return ToolResult(structured=[1, 2, 3])
            case "steps":
                assert on_progress is not None
                for text in ("cut started", "cut completed", "waiting for model tiny: loading weights"):
                    on_progress(text)
                return ToolResult(structured={"done": True})
            case "steps.gated":
                if on_progress is not None:
                    on_progress("cut completed")
                self.started.set()
                await self.go.wait()
                return ToolResult(structured={"done": True})
            case "wait":
                self.started.set()
                if on_progress is not None:
                    on_progress("waiting")
                try:
                    await anyio.sleep_forever()
                finally:
                    self.cancelled.set()
            case "fails":
                return ToolResult(text="The disk is full.", is_error=True, run_id="0190-run")
            case "denied":
                raise PolicyDenied("local may not call tool:denied (policies/desk.yaml rules[0]).", rule="r0")
            case "budget":
                raise BudgetExceeded("The run's 100 tokens are spent.")
            case "model":
                raise ModelUnavailable("Model tiny is still loading; try again.")
            case "store":
                raise StoreError("The store cannot be written: disk full; free some space.")
            case "bug":
                raise ZeroDivisionError("secret insides")
            case "surrogate":
                return ToolResult(structured={"text": "half \ud800 pair"})
        raise AssertionError(call.name)


@dataclass
class FakeEngine:
    mesh: Mesh
    tools: FakeTools
    meter: Meter = field(default_factory=Meter)
    changes: Changes = field(default_factory=Changes)
    sources: Sources = field(default_factory=lambda: Sources((), Changes()))
    resources: Any = None
    """Of tests that ask for none."""
    prompts: Any = None
    clock: Callable[[], float] = time.time


def tool(name: str, **given: Any) -> Tool:
    return Tool(
        name=name, description=f"Does {name}.", input_schema=given.pop("input_schema", {"type": "object"}), **given
    )


TOOLS = [
    tool(
        "echo",
        input_schema=OBJECT,
        title="Echo",
        annotations={"readOnlyHint": True, "title": None},
        output_schema={
            "type": "object",
            "properties": {"text": {"type": "string"}, "who": {"enum": "${{ steps.cut.output }}"}},
            "required": ["text", "who"],
        },
    ),
    tool("list", output_schema={"type": "array", "items": {"type": "integer"}}),
    *(tool(name) for name in ("steps", "steps.gated", "wait", "fails", "denied", "budget", "model", "store", "bug")),
    tool("surrogate"),
    tool("gated.echo"),
    tool("secret.delete"),
    tool(
        "mirrored",
        input_schema={"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
    ),
]


def fake_engine(tools: list[Tool] | None = None) -> FakeEngine:
    by_name = {t.name: t for t in (TOOLS if tools is None else tools)}
    mesh = Mesh(
        folder=Path("/mesh"),
        file=MeshFile(name="acme", description="Tools of acme."),
        servers={"desk": ServerFile(name="desk", description="Support-desk tools.")},
        tools=by_name,
    )
    return FakeEngine(mesh, FakeTools(by_name))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> FakeEngine:
    return fake_engine()


def settings() -> Settings:
    return Settings(folder=Path("/mesh"))


def with_principal(app: Any) -> Any:
    """Stands where http/auth.py stands: who asks is the header `x-who`, else `local`."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        scope.setdefault("state", {})["principal"] = Principal(subject=headers.get(b"x-who", b"local").decode())
        await app(scope, receive, send)

    return guarded


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serves an ASGI app on a free port of the loopback; yields its base address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(
            [sock]
        )  # without uvicorn's main loop, whose ticks would cost each test a fifth of a second
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.force_exit = True
            await server.shutdown([sock])


@asynccontextmanager
async def mcp_server(engine: Any, **given: Any) -> AsyncIterator[str]:
    """The edge over an engine, served; yields the URL of /mcp."""
    edge = build_mcp(engine, settings(), **given)
    async with edge.run(), serving(with_principal(edge.app)) as base:
        yield f"{base}/mcp"


@pytest.fixture
async def url(engine: FakeEngine) -> AsyncIterator[str]:
    async with mcp_server(engine) as address:
        yield address


def client(url: str, era: str, **given: Any) -> Client:
    return Client(url, mode=era, **given)
