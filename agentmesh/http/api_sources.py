"""Who serves for this mesh, under `/v1`: how upstreams, APIs and peers are, and what of theirs waits for an operator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentmesh.engine import Engine
from agentmesh.engine.gateway import Gateway
from agentmesh.engine.guard import Guard
from agentmesh.http.asker import Asker, answer, ok
from agentmesh.http.shapes import NAME_LENGTH, Body, Kept

Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), Kept]


class SourceShape(BaseModel):
    """How one is. `open`: its circuit breaker lets nothing through for now."""

    name: str
    kind: Literal["upstream", "openapi", "peer"]
    state: Literal["connecting", "ready", "failed", "open"]
    detail: str
    tools: int
    held: int


class SourcesShape(BaseModel):
    sources: list[SourceShape]


class HeldShape(BaseModel):
    """A tool that waits. `approved` null: it is new. Both are as MCP has a tool. `digest`: of what is offered."""

    name: str
    approved: dict[str, Any] | None
    offered: dict[str, Any] | None
    digest: str


class HeldListShape(BaseModel):
    held: list[HeldShape]


class Approve(Body):
    """Which tools, by the names that the mesh gives them; None: all that wait."""

    names: Annotated[list[Name], Field(max_length=10_000)] | None = None
    digests: Annotated[dict[str, str], Field(max_length=10_000)] | None = None
    """By tool, of what was looked at: what is another by now is not approved (409)."""


class ApprovedShape(BaseModel):
    approved: list[str]


def source_routes(app: FastAPI, engine: Engine) -> None:
    gateway = Gateway(engine.sources, Guard(engine.mesh))

    @app.get("/sources", responses=ok(SourcesShape))
    async def list_sources(principal: Asker) -> Response:
        """The upstreams, APIs and peers of this mesh that the caller may look at (`admin.read`)."""
        return answer({"sources": [asdict(status) for status in gateway.statuses(principal)]})

    @app.get("/sources/{name}/held", responses=ok(HeldListShape))
    async def list_held(principal: Asker, name: str) -> Response:
        """Tools whose definition changed, or that are new, and wait for an operator."""
        return answer({"held": [{**asdict(held), "digest": held.digest} for held in gateway.held(principal, name)]})

    @app.post("/sources/{name}/approve", responses=ok(ApprovedShape))
    async def approve(principal: Asker, name: str, body: Approve) -> Response:
        """Takes what is offered now for approved. Needs admin.write."""
        return answer({"approved": list(await gateway.approve(principal, name, body.names, body.digests))})
