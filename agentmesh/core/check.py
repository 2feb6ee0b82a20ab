"""Check: do the files of a mesh make sense together. Everything that shape alone cannot tell, each fault at its place.

The files were read and have (mostly) their shape; nothing runs here, and nothing is imported or fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from agentmesh.core.checker import NOT_BUILT, Checker, Function, World
from agentmesh.core.document import Document, Path
from agentmesh.core.flow import RUN_TYPES, FlowChecker
from agentmesh.core.inference import DYN, closest
from agentmesh.core.mesh import Mesh, MeshFile, offered_name
from agentmesh.core.model import Model
from agentmesh.core.policy import PolicyFile
from agentmesh.core.rule import PolicyChecker
from agentmesh.core.schema import schema_faults, validator
from agentmesh.core.secret import check_strays
from agentmesh.core.shape import Source
from agentmesh.core.tool import ServerFile, ToolSpec
from agentmesh.core.workflow import Schedule, Workflow
from agentmesh.errors import Fault

__all__ = ["Function", "Project", "check"]


@dataclass(frozen=True, slots=True)
class Project:
    """The files of one mesh folder, as far as they could be read."""

    mesh: Source[MeshFile] | None
    servers: Sequence[Source[ServerFile]]
    workflows: Sequence[Source[Workflow]]
    policies: Sequence[Source[PolicyFile]]
    unreadable: frozenset[str] = frozenset()
    """`mesh`, `servers`, `workflows`: kinds of which a file could not be read at all."""


def check(
    project: Project,
    mesh: Mesh,
    *,
    find_function: Callable[[str], Function | str],
    find_weights: Callable[[str], str | None],
    secrets: frozenset[str],
) -> list[Fault]:
    """Every fault of every file. `mesh`: the project assembled; `secrets`: names that are set.

    `find_weights` says what is wrong with a model's `source`, or None.
    """
    world = World(mesh, find_function, _unsure(project), _declared(project))
    _unique(project, world)
    _endless(project, world)
    if project.mesh is not None:
        _MeshChecker(world, project.mesh).check(project.mesh.value, find_weights)
    for server in project.servers:
        _ServerChecker(world, server).check(server)
    for workflow in project.workflows:
        _TriggerChecker(world, workflow).check(workflow)
        FlowChecker(world, workflow).check()
    for policy in project.policies:
        PolicyChecker(world, policy).check(policy.value)
    sources: list[Source[Any]] = [*project.servers, *project.workflows, *project.policies]
    for source in [*([project.mesh] if project.mesh is not None else []), *sources]:
        check_strays(world, source, secrets)
    return world.faults


def _unsure(project: Project) -> frozenset[str]:
    found = set()
    if project.unreadable & {"servers", "workflows"}:
        found.add("tools")
    if "workflows" in project.unreadable:
        found |= {"workflows", "skills"}
    if project.mesh is None or ("models",) in project.mesh.removed:
        found.add("models")
    return frozenset(found)


def _declared(project: Project) -> Mapping[str, frozenset[str]]:
    """Names of tools and models whose declaration did not fit: they exist, though nothing is known of them."""
    tools = set()
    for server in project.servers:
        for path in server.removed:
            if path[:1] == ("tools",):
                given = server.document.get(("tools",))
                names = [path[1]] if len(path) > 1 else list(given) if isinstance(given, Mapping) else []
                tools |= {offered_name(server.value, str(name)) for name in names}
    models = {str(p[1]) for p in project.mesh.removed if p[:1] == ("models",) and len(p) > 1} if project.mesh else set()
    skills = set()
    for workflow in project.workflows:
        if any(path[:1] == ("on",) for path in workflow.removed):
            given = workflow.document.get(("on", "a2a", "skill"))
            skills.add(given if isinstance(given, str) else workflow.value.name)
            tools.add(workflow.value.name)
    return {"tools": frozenset(tools), "models": frozenset(models), "skills": frozenset(skills)}


def _unique(project: Project, world: World) -> None:
    """Names that two files claim."""
    seen: dict[tuple[str, str], Document] = {}

    def claim(kind: str, name: str, source: Source[Any], path: Path, *, key: bool = False) -> None:
        first = seen.setdefault((kind, name), source.document)
        if first is not source.document or (kind, name, path) in claimed:
            world.faults.append(
                source.document.fault(path, f"the {kind} {name!r} stands in {first.file} already", key=key)
            )
        claimed.add((kind, name, path))

    claimed: set[tuple[str, str, Path]] = set()
    for server in project.servers:
        claim("server", server.value.name, server, ("name",))
        for tool in server.value.tools:
            claim("tool", offered_name(server.value, tool), server, ("tools", tool), key=True)
    for workflow in project.workflows:
        value = workflow.value
        claim("workflow", value.name, workflow, ("name",))
        if value.on.mcp is not None:
            claim("tool", value.on.mcp.name or value.name, workflow, ("on", "mcp"), key=True)
        if value.on.a2a is not None:
            claim("skill", value.on.a2a.skill or value.name, workflow, ("on", "a2a"), key=True)


def _endless(project: Project, world: World) -> None:
    """Workflows that start themselves again whatever happens: a run of them would never end."""
    mesh = world.mesh

    def targets(workflow: Workflow) -> list[tuple[Path, str]]:
        """What the steps start that are always reached."""
        found: list[tuple[Path, str]] = []
        for i, step in enumerate(workflow.steps):
            if step.if_ is not None:
                continue
            if step.workflow is not None:
                found.append((("steps", i, "workflow"), step.workflow))
            elif step.agent is not None and step.agent.skill is not None and step.agent.skill in mesh.skills:
                found.append((("steps", i, "agent", "skill"), mesh.skills[step.agent.skill].workflow))
            elif step.tool is not None and step.tool in mesh.tools:
                spec = mesh.specs.get(step.tool)
                name = mesh.tools[step.tool].source.removeprefix("workflow:") if spec is None else spec.workflow
                if name is not None:
                    found.append((("steps", i, "tool"), name))
        return found

    for source in project.workflows:
        start = source.value.name
        for path, first in targets(source.value):
            waiting: list[tuple[str, tuple[str, ...]]] = [(first, (start, first))]
            seen = {first}
            while waiting:
                name, way = waiting.pop()
                if name == start:
                    message = f"the workflow would start itself again and never end: {' -> '.join(way)}; put an `if` before it"
                    world.faults.append(source.document.fault(path, message))
                    break
                for _, following in targets(mesh.workflows[name]) if name in mesh.workflows else ():
                    if following not in seen:
                        seen.add(following)
                        waiting.append((following, (*way, following)))


class _MeshChecker(Checker):
    """agentmesh.yaml."""

    def check(self, file: MeshFile, find_weights: Callable[[str], str | None]) -> None:
        self.not_built(("databases",), "`databases` are")
        if file.agents:
            self.fault(
                ("agents",),
                f"calling peers is {NOT_BUILT}; agents of this mesh are its workflows with on.a2a",
                key=True,
            )
        scheme = file.store.partition("://")[0]
        if scheme not in ("sqlite", "postgresql"):
            self.fault(("store",), "must be sqlite:///FILE or postgresql://...")
        elif scheme == "sqlite" and not file.store.removeprefix("sqlite:///").strip("/"):
            self.fault(("store",), "the store must be a file to be durable: sqlite:///agentmesh.db")
        if file.url is not None:
            self.address(("url",), file.url)
        for name, model in file.models.items():
            self.one_model(("models", name), model, find_weights)
        if file.default_model is not None and (
            message := self.world.unknown("models", file.default_model, file.models)
        ):
            self.fault(("default_model",), message)
        skills = self.world.mesh.skills
        if file.a2a.default is not None and (message := self.world.unknown("skills", file.a2a.default, skills)):
            self.fault(("a2a", "default"), message)

    def address(self, path: Path, url: str) -> None:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            right = False
        if not right:
            self.fault(path, f"{url!r} is not an address: http://HOST[:PORT]/... or https://...")

    def one_model(self, path: Path, model: Model, find_weights: Callable[[str], str | None]) -> None:
        if (model.source is None) == (model.url is None) and not self.damaged(path):
            self.fault(path, "a model has either `source` and `deploy`, or `url` and `model`", key=True)
        if model.url is not None:
            self.address((*path, "url"), model.url)
            if model.model is None and not self.damaged(path):
                self.fault(path, "'model' is missing: the name that the endpoint knows it by", key=True)
            if model.deploy is not None:
                self.fault((*path, "deploy"), "a model with `url` is deployed by somebody else", key=True)
        if model.source is not None:
            if model.deploy is None and model.url is None and not self.damaged(path):
                self.fault(
                    path, "'deploy' is missing: {engine: vllm, device: cpu} or {engine: vllm, gpus: 1}", key=True
                )
            if message := find_weights(model.source):
                self.fault((*path, "source"), message)
            for name in ("model", "key") if model.url is None else ():
                self.only_remote((*path, name), name)
        if model.deploy is not None:
            self.deploy((*path, "deploy"), model)

    def only_remote(self, path: Path, name: str) -> None:
        if self.document.get(path) is not None:
            self.fault(path, f"`{name}` belongs to a model with `url`", key=True)

    def deploy(self, path: Path, model: Model) -> None:
        deploy = model.deploy
        if deploy is None:
            return
        if deploy.adapters:
            self.fault((*path, "adapters"), f"`adapters` (LoRA) are {NOT_BUILT}; deploy the merged weights", key=True)
        if deploy.replicas.min == 0:
            self.fault((*path, "replicas", "min"), f"`min: 0` (scaling to zero) is {NOT_BUILT}; the least is 1")
        elif deploy.replicas.max < deploy.replicas.min:
            self.fault((*path, "replicas"), "`max` is less than `min`")
        if deploy.device == "cpu" and deploy.gpus:
            self.fault((*path, "gpus"), "`device: cpu` uses no gpus")


_TOOL_VERBS = ("llm", "python", "workflow", "http")


class _ServerChecker(Checker):
    """A file in servers/."""

    def check(self, source: Source[ServerFile]) -> None:
        server = source.value
        for name in ("upstream", "openapi", "resources", "prompts"):
            self.not_built((name,), f"`{name}` {'are' if name in ('resources', 'prompts') else 'is'}")
        for name in ("expose", "approve"):
            self.not_built((name,), f"`{name}` goes with `upstream`, which is")
        if not server.tools and source.whole and server.upstream is None:
            self.fault((), "a server file declares `tools`")
        for name, tool in server.tools.items():
            self.tool(("tools", name), name, tool, offered_name(server, name))

    def tool(self, path: Path, name: str, tool: ToolSpec, offered: str) -> None:
        if not (
            offered.isascii()
            and offered.replace(".", "").replace("-", "").replace("_", "").isalnum()
            and len(offered) <= 64
        ):
            self.fault(
                path,
                f"{name!r} cannot name a tool: letters, digits, '_', '-' and '.', at most 64 with the server's",
                key=True,
            )
        given = [v for v in _TOOL_VERBS if v in tool.model_fields_set]
        if len(given) > 1 or (not given and not self.damaged(path)):
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"a tool has exactly one of llm, python, workflow; {says}", key=True)
        elif given == ["http"]:
            self.fault((*path, "http"), f"'http' tools are {NOT_BUILT}; there are llm, python, workflow", key=True)
        sound = self.schema((*path, "input"), must_be_object=True)
        types = {"input": tool.input if sound else DYN, **RUN_TYPES}
        output = DYN
        if tool.llm is not None:
            output = self.llm((*path, "llm"), tool.llm, types, frozenset())
        if tool.python is not None:
            self.python_tool(path, tool)
        if tool.workflow is not None:
            self.workflow_tool(path, tool)
        if tool.output is not None:
            if tool.python is None:
                self.fault(
                    (*path, "output"),
                    "`output` belongs to a python tool; an llm's output schema stands inside `llm`",
                    key=True,
                )
            elif self.schema((*path, "output")):
                output = tool.output
        self.duration((*path, "timeout"))
        if tool.validate_ and tool.llm is None:
            self.fault(
                (*path, "validate"),
                "`validate` belongs to an llm tool here; give a python tool an `output` schema",
                key=True,
            )
        self.validators(path, tool.validate_, types, output, frozenset())
        self.on_invalid(path, tool.on_invalid, asks_model=tool.llm is not None)

    def python_tool(self, path: Path, tool: ToolSpec) -> None:
        function = self.python((*path, "python"))
        if function is None or function.parameters is None:
            return
        schema = self.world.sound(tool.input)
        if not schema:
            return
        given = schema.get("properties", {})
        where: Path = (*path, "input") if self.document.get((*path, "input")) is not None else path
        for name in given if isinstance(given, Mapping) else ():
            if name not in function.parameters:
                hint = closest(name, function.parameters) or f"; it takes {', '.join(function.parameters) or 'nothing'}"
                self.fault((*where, "properties", name), f"{tool.python!r} takes no {name!r}{hint}", key=True)
        for name in function.required:
            if name not in schema.get("required", ()):
                self.fault(where, f"{tool.python!r} needs {name!r}, which the input does not require", key=True)

    def workflow_tool(self, path: Path, tool: ToolSpec) -> None:
        workflows = self.world.mesh.workflows
        if message := self.world.unknown("workflows", tool.workflow or "", workflows):
            self.fault((*path, "workflow"), message)
        elif tool.workflow and tool.workflow in workflows and "input" in tool.model_fields_set:
            wanted = self.world.sound(workflows[tool.workflow].input)
            given = {"properties": self.world.sound(tool.input).get("properties", {})}
            self.arguments((*path, "input"), given, wanted, f"workflow {tool.workflow!r}")


class _TriggerChecker(Checker):
    """What stands around the steps of a workflow."""

    def check(self, source: Source[Workflow]) -> None:
        workflow = source.value
        self.duration(("deadline",))
        self.not_built(("concurrency",), "`concurrency` is")
        self.not_built(("on", "webhook"), "`webhook` is")
        name = workflow.on.mcp.name if workflow.on.mcp is not None else None
        if name is not None and not (
            name.isascii() and name.replace(".", "").replace("-", "").replace("_", "").isalnum()
        ):
            self.fault(("on", "mcp", "name"), "a tool's name holds letters, digits, '_', '-' and '.'")
        for i, schedule in enumerate(workflow.on.cron):
            self.schedule(("on", "cron", i), schedule, workflow)

    def schedule(self, path: Path, schedule: Schedule, workflow: Workflow) -> None:
        try:
            if len(schedule.schedule.split()) != 5:
                raise CronSimError("a cron line has five fields: minute hour day month weekday")
            CronSim(schedule.schedule, _EPOCH)
        except CronSimError as error:
            self.fault((*path, "schedule"), f"{schedule.schedule!r} is not a cron line: {error}")
        try:
            ZoneInfo(schedule.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            hint = closest(schedule.timezone, available_timezones()) or "; write it as in Europe/Berlin"
            self.fault((*path, "timezone"), f"unknown time zone {schedule.timezone!r}{hint}")
        self.duration((*path, "catch_up_window"))
        if not schema_faults(workflow.input):
            for wrong in list(validator(workflow.input).iter_errors(schedule.input))[:5]:
                message = f"does not fit the workflow's input: {wrong.message[:200]}"
                self.fault((*path, "input", *wrong.absolute_path), message)


_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""A moment to try cron lines at; any will do."""
