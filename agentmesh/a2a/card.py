"""The agent card: this mesh as one A2A agent, each workflow with `on.a2a` a skill (A2A 1.0.1 section 4.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentmesh import __version__
from agentmesh.a2a.convert import ANSWER_EXTENSION, EXTENSION, SIGNAL_EXTENSION
from agentmesh.core.agent import JSON_TYPE, TEXT, Skill
from agentmesh.core.json_text import write_json
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.engine import Engine

PATH = "/.well-known/agent-card.json"
CACHE = "private, max-age=60"
"""What an agent offers changes when its files do; the ETag makes asking again cheap (A2A 1.0.1 section 8.6)."""
PROTOCOL = "1.0"
EXTENSIONS = {
    EXTENSION: f"metadata[{EXTENSION!r}], or metadata['skill'], names the skill a message is for.",
    ANSWER_EXTENSION: f"metadata[{ANSWER_EXTENSION!r}] of a message to a task: {{question, digest}} of what it answers.",
    SIGNAL_EXTENSION: f"metadata[{SIGNAL_EXTENSION!r}] of a message to a task: {{name, value, key}}, a signal to it.",
}
"""None is required."""


def build_card(mesh: Mesh, skills: Sequence[Skill], base_url: str) -> pb.AgentCard:
    """The card of a mesh. `base_url`: where clients reach it, without a slash at the end."""
    interfaces = [
        pb.AgentInterface(url=f"{base_url}/a2a", protocol_binding=binding, protocol_version=PROTOCOL)
        for binding in ("JSONRPC", "HTTP+JSON")
    ]
    extensions = [pb.AgentExtension(uri=uri, description=description) for uri, description in EXTENSIONS.items()]
    return pb.AgentCard(
        name=mesh.name,
        description=mesh.file.description or f"The {mesh.name} mesh of AgentMesh.",
        version=__version__,
        supported_interfaces=interfaces,
        capabilities=pb.AgentCapabilities(
            streaming=True, push_notifications=False, extended_agent_card=False, extensions=extensions
        ),
        default_input_modes=[TEXT, JSON_TYPE],
        default_output_modes=[TEXT, JSON_TYPE],
        skills=[
            pb.AgentSkill(
                id=skill.id,
                name=skill.name,
                description=skill.description or skill.name,
                tags=skill.tags or ("workflow",),
                examples=skill.examples,
            )
            for skill in skills
        ],
    )


def card_to_json(card: pb.AgentCard) -> dict[str, Any]:
    """The card as it goes out: required lists stand there even when they are empty."""
    return {"skills": [], **MessageToDict(card)}


def card_of(engine: Engine, principal: Principal, base_url: str) -> dict[str, Any]:
    """The card that one caller may see."""
    return card_to_json(build_card(engine.mesh, engine.agents.skills(principal), base_url))


def card_route(engine: Engine, base_url: str) -> Route:
    """The card at its well-known path: what the one who asks may see, with an ETag."""

    async def show_card(request: Request) -> Response:
        body = write_json(card_of(engine, request.state.principal, base_url))
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": CACHE}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {headers["ETag"], "*"}:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="application/json")

    return Route(PATH, show_card)
