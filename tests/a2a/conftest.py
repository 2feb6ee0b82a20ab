"""A mesh with a few skills, behind its A2A and HTTP edges on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from agentmesh.a2a.cards import Cards
from agentmesh.a2a.server import build_a2a
from agentmesh.adapters.memory_peer import MemoryPeer
from agentmesh.core.card_key import CardKeys
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.store import Store
from agentmesh.engine import Engine
from agentmesh.engine.push import PushPorts
from agentmesh.errors import Fail
from agentmesh.http.api import build_api
from agentmesh.http.auth import Guard
from agentmesh.http.health import health_routes
from agentmesh.http.problems import HANDLERS
from agentmesh.settings import Settings
from tests.engine.meshes import mesh, serving, workflow
from tests.http.serving import served

ORDER = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["item", "count"],
    "additionalProperties": False,
}


@dataclass
class Gate:
    """What the steps of skill `gate` wait at."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    go: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)
    calls: int = 0

    async def wait(self, text: str) -> dict[str, Any]:
        self.calls += 1
        self.reached.set()
        try:
            await self.go.wait()
        finally:
            self.left.set()
        return {"said": text}


def shout(text: str) -> dict[str, Any]:
    return {"said": text.upper(), "length": len(text)}


def broken(text: str) -> None:
    raise Fail("the printer is on fire")


def skills_mesh(default: str | None = "shout", **more: Any) -> Mesh:
    """Skills: shout, gate (waits), broken (fails), order (needs two values); and one workflow that is no skill."""

    def step(function: str) -> dict[str, Any]:
        return {"id": "work", "python": f"x:{function}", "with": {"text": "${{ input.text }}"}, "effect": "read"}

    offered = {"a2a": {}, "mcp": {}}
    order = {"id": "keep", "set": {"item": "${{ input.item }}", "count": "${{ input.count }}"}}
    return mesh(
        workflow("shout", step("shout"), on={"a2a": {"tags": ["text"]}}, description="Says it louder."),
        workflow("gate", step("wait"), on=offered, description="Waits for the test."),
        workflow("broken", step("broken"), on=offered, description="Fails."),
        workflow("order", order, input=ORDER, on=offered, description="Keeps an order."),
        workflow("inner", step("shout")),
        default_skill=default,
        **more,
    )


@dataclass(frozen=True)
class Serving:
    """A served mesh."""

    url: str
    engine: Engine
    gate: Gate
    http: httpx.AsyncClient


def by_header(scope: Mapping[str, Any]) -> Principal:
    """Who asks, as the test says: `X-Who: TENANT/SUBJECT`."""
    said = dict(scope["headers"]).get(b"x-who", b"local/local").decode()
    tenant, _, subject = said.partition("/")
    return Principal(subject, tenant)


@asynccontextmanager
async def serving_mesh(
    of: Mesh | None = None, *, peers: Sequence[MemoryPeer] = (), functions: Mapping[str, Any] | None = None,
    push: PushPorts | None = None, store: Store | None = None, **more: Any,
) -> AsyncIterator[Serving]:  # fmt: skip
    """The mesh of `skills_mesh`, served with every edge but MCP; callers are who their header says."""
    gate = Gate()
    known = {"x:shout": shout, "x:wait": gate.wait, "x:broken": broken, **(functions or {})}
    async with AsyncExitStack() as stack:
        for peer in peers:
            await stack.enter_async_context(peer)
        engine = await stack.enter_async_context(
            serving(of or skills_mesh(), functions=known, sources=peers, push=push, store=store)
        )
        edge = Late()
        url = await stack.enter_async_context(served(Guard(edge, identify=by_header)))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        edge.app = build(engine, url, **more)
        yield Serving(url, engine, gate, client)


class Late:
    """The application, which is built when the port is known."""

    app: Any = None

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def build(engine: Engine, url: str, *, grpc: str = "", card_keys: CardKeys | None = None, **more: Any) -> Starlette:
    settings = Settings(folder=Path("mesh"))
    cards = Cards(engine, url, grpc, card_keys)
    routes = [
        *health_routes(settings, lambda: engine),
        Mount("/v1", build_api(engine, settings, base_url=url, **more)),
        *build_a2a(engine, settings, url, cards=cards),
    ]
    return Starlette(routes=routes, exception_handlers=HANDLERS)


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh() as serving:
        yield serving
