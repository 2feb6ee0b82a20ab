"""Agents under `/v1`: which there are and how they are, messages to them, and registering more of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentmesh.core.agent import Agent, Message, Part, Sending, Skill
from agentmesh.core.mesh import Peer
from agentmesh.core.run import new_run_id
from agentmesh.engine import Engine
from agentmesh.engine.peers import Known
from agentmesh.engine.routing import NoAgent
from agentmesh.errors import InvalidInput
from agentmesh.http import shapes
from agentmesh.http.asker import Asker, answer, ok
from agentmesh.http.shapes import NAME_LENGTH, Body, Kept

FILES = 100
URL_LENGTH = 2048
Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), Kept]
Url = Annotated[str, Field(min_length=1, max_length=URL_LENGTH)]


class SentFile(Body):
    """A file of a message: its bytes as base64, or where it is."""

    name: Annotated[str, Field(max_length=NAME_LENGTH), Kept] | None = None
    media_type: Annotated[str, Field(max_length=NAME_LENGTH), Kept] | None = None
    data: str | None = None
    url: Url | None = None


class SendMessage(Body):
    """A message to the mesh, to one agent, or to a skill. With none of these named, the mesh chooses who takes it.

    `data` is the input itself of an own skill, `text` fills its only required string property. `task_id`: it belongs to that task, and
    `question` is what it answers.
    """

    agent: Name | None = None
    skill: Name | None = None
    tags: Annotated[list[Name], Field(max_length=50)] = Field(default_factory=list)
    text: str | None = None
    data: dict[str, Any] | None = None
    files: Annotated[list[SentFile], Field(max_length=FILES)] = Field(default_factory=list)
    accepted: Annotated[list[Name], Field(max_length=50)] = Field(default_factory=list)
    context_id: Name | None = None
    task_id: Name | None = None
    question: Name | None = None


class RegisterAgent(Body):
    """An agent elsewhere: where its card is, a bearer token for it, the keys its card must be signed with, and what a message costs."""

    name: Name
    card: Url
    token: Annotated[str, Field(min_length=1, max_length=16 * 1024)] | None = Field(None, repr=False)
    jwks: Url | None = None
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class AgentSkillShape(BaseModel):
    """`workflow` is empty for a skill of an agent elsewhere; `tool` is the tool that such a skill is, too."""

    id: str
    name: str
    description: str
    workflow: str
    tool: str
    tags: list[str]
    examples: list[str]
    input_schema: dict[str, Any]
    input_modes: list[str]
    output_modes: list[str]


class AgentShape(BaseModel):
    """An agent and how it is. `where`: of this mesh, declared in agentmesh.yaml, or registered. `latency` is in seconds, 0 not known.

    `signed`: what is known of its card's signature.
    """

    name: str
    title: str
    description: str
    where: Literal["mesh", "declared", "registered"]
    state: Literal["up", "down", "unknown"]
    detail: str
    latency: float
    busy: int
    speaks: list[str]
    signed: str
    price: float | None
    version: str
    streaming: bool
    push: bool
    extensions: list[dict[str, Any]]
    skills: list[AgentSkillShape]


class AgentsShape(BaseModel):
    """`default`: the own skill of messages that name none; null when the mesh chooses."""

    agents: list[AgentShape]
    default: str | None = None


class RegisteredShape(BaseModel):
    """How it is, `GET /v1/agents/NAME` says as soon as its card was read."""

    name: str
    where: Literal["registered"]


class CandidateShape(BaseModel):
    """`agent` is null for a skill of the mesh itself, `skill` when it is left to the agent."""

    agent: str | None
    skill: str | None


class RoutedShape(CandidateShape):
    """Who would take a message, and why. Nobody, unless `fits`; `others` are then those that come nearest."""

    fits: bool
    reason: str
    score: float
    others: list[CandidateShape]


class AgentFactsShape(AgentShape):
    """`facts`: for operators, of an agent elsewhere: where its card is, its interfaces, and why it, or one of them, cannot be used."""

    facts: dict[str, Any] | None = None


def agent_routes(app: FastAPI, engine: Engine) -> None:
    peers = engine.peers

    @app.get("/agents", responses=ok(AgentsShape))
    async def list_agents(principal: Asker) -> Response:
        """The agents of this mesh, and those elsewhere that it knows."""
        found = [agent_to_json(known) for known in peers.list(principal)]
        return answer({"agents": found, "default": engine.mesh.file.a2a.default})

    @app.get("/agents/{name}", responses=ok(AgentFactsShape))
    async def show_agent(principal: Asker, name: str) -> Response:
        known = peers.get(principal, name)
        facts = peers.facts(principal, name)
        return answer({**agent_to_json(known), "facts": None if facts is None else dict(facts)})

    @app.post("/agents", status_code=201, responses=ok(RegisteredShape, 201))
    async def register_agent(principal: Asker, body: RegisterAgent) -> Response:
        """Registers an agent elsewhere: durable, and known to every server of this mesh within seconds. Needs admin.write."""
        await peers.register(principal, body.name, Peer(**body.model_dump(exclude={"name"})))
        return answer({"name": body.name, "where": "registered"}, 201, {"location": f"/v1/agents/{body.name}"})

    @app.delete("/agents/{name}", status_code=204)
    async def remove_agent(principal: Asker, name: str) -> Response:
        """Forgets a registered agent. 409 says where one is declared that is not registered. Needs admin.write."""
        await peers.remove(principal, name)
        return Response(status_code=204)

    @app.post("/agents/route", responses=ok(RoutedShape))
    async def route_message(principal: Asker, body: SendMessage) -> Response:
        """Says who would take a message, and why; nothing is sent."""
        parts = _parts(body)
        if not parts and body.skill is None and not body.tags:
            raise InvalidInput("the message is empty; give `text`, `data` or `files`")
        message = Message("", "user", parts, context_id=body.context_id)
        sending = Sending(message, body.agent, body.skill, tuple(body.tags), tuple(body.accepted))
        try:
            route = await engine.agents.route(principal, sending)
        except NoAgent as none:
            reason, others = none.message, none.data["nearest"]
            return answer(
                {"fits": False, "agent": None, "skill": None, "reason": reason, "score": 0.0, "others": others}
            )
        return answer({"fits": True, **route.to_json()})

    @app.post("/agents/send", status_code=201, responses=ok(shapes.RunShape, 201))
    async def send_message(principal: Asker, body: SendMessage) -> Response:
        """Sends a message; the run that it is, or belongs to, is durable when this answers. A run in state `rejected` says why."""
        parts = _parts(body)
        if not parts:
            raise InvalidInput("the message is empty; give `text`, `data` or `files`")
        ident = new_run_id(engine.clock(), engine.random.randbytes(10))
        message = Message(ident, "user", parts, context_id=body.context_id, task_id=body.task_id)
        if body.task_id is not None:
            run = await engine.agents.follow_up(
                principal, body.task_id, message, question=body.question, agent=body.agent
            )
        else:
            sending = Sending(message, body.agent, body.skill, tuple(body.tags), tuple(body.accepted))
            run = await engine.agents.send(principal, sending)
        return answer(shapes.run_to_json(run), 201, {"location": f"/v1/runs/{run.id}"})


def agent_to_json(known: Known) -> dict[str, Any]:
    """An agent as AgentShape has it."""
    agent = known.agent or Agent(known.name, known.name, "", peer=True, streaming=False, push=False)
    health = known.health
    return {
        "name": known.name, "title": agent.title, "description": agent.description, "where": known.where,
        "state": health.state, "detail": health.detail, "latency": round(health.latency, 6), "busy": health.busy,
        "speaks": list(agent.speaks), "signed": agent.signed, "price": agent.price, "version": agent.version,
        "streaming": agent.streaming, "push": agent.push,
        "extensions": [
            {"uri": one.uri, "description": one.description, "required": one.required} for one in agent.extensions
        ],
        "skills": [skill_to_json(skill) for skill in agent.skills],
    }  # fmt: skip


def skill_to_json(skill: Skill) -> Mapping[str, Any]:
    return {
        "id": skill.id, "name": skill.name, "description": skill.description, "workflow": skill.workflow, "tool": skill.tool,
        "tags": list(skill.tags), "examples": list(skill.examples), "input_schema": dict(skill.input_schema),
        "input_modes": list(skill.input_modes), "output_modes": list(skill.output_modes),
    }  # fmt: skip


def _parts(body: SendMessage) -> list[Part]:
    parts = [Part(text=body.text)] if body.text is not None else []
    if body.data is not None:
        parts.append(Part(data=body.data))
    for at, file in enumerate(body.files):
        if (file.data is None) == (file.url is None):
            raise InvalidInput(f"files[{at}] has to have its bytes as `data`, in base64, or a `url`; and not both")
        parts.append(Part(raw=file.data, url=file.url, media_type=file.media_type, filename=file.name))
    return parts
