"""Mesh: everything the files of one mesh folder say, after they were checked together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.agent import MODES, Skill
from agentmesh.core.model import Model
from agentmesh.core.policy import PolicyFile
from agentmesh.core.server_file import PromptSpec, ResourceSpec, ServerFile
from agentmesh.core.tool import Tool, ToolSpec
from agentmesh.core.workflow import NAME, Duration, LlmSpec, Workflow

CALL_OF: Final = "tool:"
"""What `Run.workflow` begins with when the run is one tool's call."""
HOST: Final = r"^([0-9A-Za-z_.-]+|[0-9.]+/[0-9]{1,2}|\[?[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]?(/[0-9]{1,3})?)$"
"""A host name, an address or a network: with a scheme, a port or a path it would never be found."""


class Peer(BaseModel):
    """An entry of `agents:`: an A2A agent elsewhere, whose skills are offered as tools, `NAME.SKILL`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    card: str
    """Where its agent card is: http(s)."""
    token: str | None = Field(None, repr=False)
    """A bearer token for it: `${{ secrets.NAME }}`."""
    jwks: str | None = None
    """Where the keys are that its card must be signed with (JWKS): http(s). None: no signature is asked for, and one whose keys are at the
    card's own origin is checked."""
    price: float | None = Field(None, ge=0)
    """What a message to it costs, in a unit of your own; of agents that fit equally well the cheaper one is asked."""


class A2aSettings(BaseModel):
    """How the mesh is as an A2A agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    default: str | None = None
    """The skill for a message that names none; None: it goes to the agent that fits its words best."""
    tools: list[str] = []
    """Tools of `servers/`, and workflows with `on.mcp`, that are skills of the mesh too, each under the tool's name."""
    embed: str | None = None
    """A model that makes embeddings, by which messages that name no skill are compared with skills; None: by their words alone."""
    webhooks: list[Annotated[str, Field(pattern=HOST)]] = []
    """Hosts inside (`127.0.0.1`, `10.1.0.0/16`, `hooks.internal`) that push notifications may go to; others have to be on the internet."""
    push: bool = True
    """Whether push notifications are sent."""
    versions: list[Literal["1.0", "0.3"]] = Field(["1.0", "0.3"], min_length=1)
    """Versions of A2A that are spoken; 1.0 is one of them."""
    required_extensions: list[str] = []
    """URIs of extensions that clients have to declare, of those that this agent knows."""
    grpc: str | None = Field(None, pattern=r"^[^\s/@]+:[0-9]{1,5}$")
    """Where clients reach A2A over gRPC, `HOST:PORT`, when `url` is another host than the server's own; None: cards do not name it."""


class McpSettings(BaseModel):
    """How the mesh is as an MCP server."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    offer: Literal["tools", "search"] = "tools"
    """`search`: tools that no `pin` names are found by `search_tools` and called by `call_tool`, where a server does not say otherwise."""
    pin: list[str] = []
    """Tools that are listed all the same, by globs over the names that callers see."""
    task_ttl: Duration | None = None
    """How long a task can be asked for after its run has ended; None: as long as the run is kept."""


class MeshFile(BaseModel):
    """agentmesh.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=NAME)
    description: str = ""
    store: str = "sqlite:///agentmesh.db"
    url: str | None = None
    models: dict[str, Model] = {}
    default_model: str | None = None
    agents: dict[str, Peer] = {}
    a2a: A2aSettings = A2aSettings()
    mcp: McpSettings = McpSettings()
    databases: dict[str, str] = {}
    retention: Duration | None = None
    """How long runs are kept after their end; None: until somebody prunes them."""


@dataclass(slots=True)
class Mesh:
    """A checked mesh. Built by `adapters.files.load_mesh`; changed by nothing but `adopt`, while the server runs.

    Whoever works something out from it keeps that with the `revision` it was worked out from.
    """

    folder: PurePath
    file: MeshFile
    servers: Mapping[str, ServerFile] = field(default_factory=dict)
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    policies: tuple[PolicyFile, ...] = ()
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By offered name: server tools, and workflows with `on.mcp`."""
    specs: Mapping[str, ToolSpec] = field(default_factory=dict)
    """By offered name, for the tools that a server file declares."""
    skills: Mapping[str, Skill] = field(default_factory=dict)
    resources: Mapping[str, tuple[str, str, ResourceSpec]] = field(default_factory=dict)
    """By `uri` as the file has it, templates too: the server's name, the resource's, and what is declared."""
    prompts: Mapping[str, tuple[str, PromptSpec]] = field(default_factory=dict)
    """By offered name: the server's name, and what it declares."""
    revision: int = field(default=0, compare=False)
    """Grows with each `adopt`."""

    @property
    def name(self) -> str:
        return self.file.name

    def adopt(self, new: Mesh) -> None:
        """Takes over everything that another mesh says, in one go: between two awaits nobody sees half of it."""
        for one in fields(self):
            if one.name != "revision":
                setattr(self, one.name, getattr(new, one.name))
        self.revision += 1


def assemble(
    folder: PurePath,
    file: MeshFile,
    servers: Iterable[ServerFile] = (),
    workflows: Iterable[Workflow] = (),
    policies: Iterable[PolicyFile] = (),
) -> Mesh:
    """The mesh of these files, with what they offer. Of two that claim one name the first has it (see `core.check`)."""
    by_name: dict[str, Workflow] = {}
    for workflow in workflows:
        by_name.setdefault(workflow.name, workflow)
    server_files: dict[str, ServerFile] = {}
    tools: dict[str, Tool] = {}
    specs: dict[str, ToolSpec] = {}
    resources: dict[str, tuple[str, str, ResourceSpec]] = {}
    prompts: dict[str, tuple[str, PromptSpec]] = {}
    for server in servers:
        server_files.setdefault(server.name, server)
        for name, resource in server.resources.items():
            resources.setdefault(resource.uri, (server.name, name, resource))
        for name, prompt in server.prompts.items():
            prompts.setdefault(offered_name(server, name), (server.name, prompt))
        for name, spec in server.tools.items():
            offered = offered_name(server, name)
            if offered not in tools:
                tools[offered] = _server_tool(server, offered, spec, by_name)
                specs[offered] = spec
    skills: dict[str, Skill] = {}
    for workflow in by_name.values():
        if workflow.on.mcp is not None:
            tools.setdefault(workflow.on.mcp.name or workflow.name, _workflow_tool(workflow))
        if workflow.on.a2a is not None:
            skill = _skill(workflow)
            skills.setdefault(skill.id, skill)
    for offered in file.a2a.tools:
        if offered in tools:
            skills.setdefault(offered, _skill_of_tool(tools[offered], specs.get(offered)))
    return Mesh(folder, file, server_files, by_name, tuple(policies), tools, specs, skills, resources, prompts)


def offered_name(server: ServerFile, tool: str) -> str:
    """What callers know a server file's tool, or prompt, by."""
    return f"{server.name}.{tool}" if server.prefix else tool


def llm_output(llm: LlmSpec) -> dict[str, Any] | None:
    """The output schema of a model's answer as callers may see it; None for free text.

    An `enum` that is an expression is known only when the step runs, so callers see the schema without it.
    """
    return None if llm.output is None else _without_expressions(llm.output)


def _without_expressions(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {k: _without_expressions(v) for k, v in schema.items() if not (k == "enum" and isinstance(v, str))}
    if isinstance(schema, list):
        return [_without_expressions(v) for v in schema]
    return schema


def _server_tool(server: ServerFile, offered: str, spec: ToolSpec, workflows: Mapping[str, Workflow]) -> Tool:
    input_schema, output_schema = spec.input, spec.output
    if spec.llm is not None:
        output_schema = llm_output(spec.llm)
    elif spec.workflow is not None and (workflow := workflows.get(spec.workflow)) is not None:
        output_schema = workflow.output_schema
        if "input" not in spec.model_fields_set:
            input_schema = workflow.input
    return Tool(
        name=offered,
        description=spec.description,
        input_schema=input_schema,
        output_schema=output_schema,
        title=spec.title,
        annotations=spec.annotations.model_dump(exclude_none=True),
        source=f"server:{server.name}",
        server=server.name,
        task=spec.execution.taskSupport if spec.llm is None and spec.workflow is None else "optional",
    )


def _workflow_tool(workflow: Workflow) -> Tool:
    mcp = workflow.on.mcp
    return Tool(
        name=(mcp.name if mcp else None) or workflow.name,
        description=workflow.description or workflow.title or f"Runs the workflow {workflow.name}.",
        input_schema=workflow.input,
        output_schema=workflow.output_schema,
        title=workflow.title,
        annotations=workflow.annotations,
        source=f"workflow:{workflow.name}",
        task="optional",
    )


def _skill(workflow: Workflow) -> Skill:
    a2a = workflow.on.a2a
    tags, examples = (a2a.tags, a2a.examples) if a2a else ((), ())
    return Skill(
        id=(a2a.skill if a2a else None) or workflow.name,
        name=workflow.title or workflow.name,
        description=workflow.description or workflow.title or f"Runs the workflow {workflow.name}.",
        workflow=workflow.name,
        tags=tags,
        examples=examples,
        input_schema=workflow.input,
        agent=a2a.agent if a2a else None,
        input_modes=(a2a.input_modes if a2a else None) or MODES,
        output_modes=(a2a.output_modes if a2a else None) or MODES,
        reply=a2a.reply if a2a else False,
    )


def _skill_of_tool(tool: Tool, spec: ToolSpec | None) -> Skill:
    """A tool as a skill: a message is a call of it, and the call a run."""
    workflow = tool.source.removeprefix("workflow:") if spec is None else spec.workflow or f"{CALL_OF}{tool.name}"
    return Skill(tool.name, tool.title or tool.name, tool.description, workflow, input_schema=tool.input_schema)


def definition_hash(document: Any) -> str:
    """Content address of a definition: SHA-256 over its JSON with sorted keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
