"""Check: do the files of a mesh make sense together. Everything that shape alone cannot tell, each fault at its place.

The files were read and have (mostly) their shape; nothing runs here, and nothing is imported or fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from agentmesh.core.checker import NOT_BUILT, Checker, Function, World
from agentmesh.core.document import Document, Path, strings
from agentmesh.core.flow import RUN_TYPES, FlowChecker
from agentmesh.core.inference import DYN, STRING, closest
from agentmesh.core.mesh import Mesh, MeshFile, offered_name
from agentmesh.core.model import Model
from agentmesh.core.policy import ACTIONS, KINDS, PolicyFile
from agentmesh.core.schema import schema_faults, validator
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
    if project.mesh is not None:
        _MeshChecker(world, project.mesh).check(project.mesh.value, find_weights)
    for server in project.servers:
        _ServerChecker(world, server).check(server)
    for workflow in project.workflows:
        _TriggerChecker(world, workflow).check(workflow)
        FlowChecker(world, workflow).check()
    for policy in project.policies:
        _PolicyChecker(world, policy).check(policy.value)
    sources: list[Source[Any]] = [*project.servers, *project.workflows, *project.policies]
    for source in [*([project.mesh] if project.mesh is not None else []), *sources]:
        _stray_expressions(world, source, secrets)
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

POLICY_TYPES: Mapping[str, Any] = {
    "input": DYN,
    "action": STRING,
    "resource": STRING,
    "principal": {
        "type": "object",
        "properties": {"subject": STRING, "tenant": STRING, "claims": {"type": "object"}},
        "additionalProperties": False,
    },
}
"""What `when` of a rule may read."""


class _PolicyChecker(Checker):
    """A file in policies/."""

    def check(self, policy: PolicyFile) -> None:
        for name in ("limits", "guards"):
            if self.document.get((name,)):
                self.fault((name,), f"`{name}` are {NOT_BUILT}; there are rules that allow and deny", key=True)
        for i, rule in enumerate(policy.rules):
            path: Path = ("rules", i)
            given = [e for e in ("allow", "deny", "approve", "redact") if self.document.get((*path, e)) is not None]
            for effect in given:
                if effect in ("approve", "redact"):
                    self.fault((*path, effect), f"`{effect}` rules are {NOT_BUILT}; there are allow and deny", key=True)
            if len(given) != 1:
                says = f"this has {' and '.join(given)}" if given else "this has neither"
                self.fault(path, f"a rule either allows or denies; {says}")
            for effect in given:
                actions = self.document.get((*path, effect))
                for n, action in enumerate(actions if isinstance(actions, list) else [actions]):
                    self.action((*path, effect, n) if isinstance(actions, list) else (*path, effect), action)
            for n, resource in enumerate(rule.on):
                self.resource((*path, "on", n), resource)
            for n, role in enumerate(rule.to or ()):
                if role not in policy.roles:
                    self.fault(
                        (*path, "to", n), f"unknown role {role!r}{closest(role, policy.roles) or self.roles(policy)}"
                    )
            if rule.when is not None:
                self.expression((*path, "when"), POLICY_TYPES, boolean=True)
        for i, case in enumerate(policy.cases):
            self.action(("cases", i, "do"), case.do, exact=True)
            self.resource(("cases", i, "on"), case.on)
            if case.as_ not in policy.roles and ":" not in case.as_ and case.as_ != "local":
                hint = closest(case.as_, policy.roles) or "; or write a subject such as token:ide-1"
                self.fault(("cases", i, "as"), f"unknown role {case.as_!r}{hint}")

    def roles(self, policy: PolicyFile) -> str:
        return f"; this file has {', '.join(policy.roles)}" if policy.roles else "; this file has no roles"

    def action(self, path: Path, action: Any, *, exact: bool = False) -> None:
        if not isinstance(action, str):
            return
        known = action in ACTIONS if exact else any(fnmatchcase(a, action) for a in ACTIONS)
        if not known:
            self.fault(
                path, f"unknown action {action!r}{closest(action, ACTIONS) or '; there are ' + ', '.join(ACTIONS)}"
            )

    def resource(self, path: Path, resource: str) -> None:
        kind, separator, name = resource.partition(":")
        if resource == "*":
            return
        if not separator or not (kind in KINDS or "*" in kind):
            hint = closest(kind, KINDS) or f"; write KIND:NAME with {', '.join(KINDS)}"
            self.fault(path, f"{resource!r} names no kind of thing{hint}")
            return
        mesh = self.world.mesh
        among: Mapping[str, Mapping[str, Any]] = {
            "tool": mesh.tools, "workflow": mesh.workflows, "agent": mesh.skills, "model": mesh.file.models,
        }  # fmt: skip
        exact = not set(name) & set("*?[")
        if exact and kind in among:
            names = "skills" if kind == "agent" else f"{kind}s"
            if message := self.world.unknown(names, name, among[kind]):
                self.fault(path, message)


def _stray_expressions(world: World, source: Source[Any], secrets: frozenset[str]) -> None:
    """`${{ }}` where nothing would fill it in, and secrets where they may not stand or are not set."""
    document = source.document
    for path, text in strings(document.value):
        if any(path[: len(p)] == p for p in source.removed if p):
            continue
        if "${{" not in text or (document.file, path) in world.visited:
            if "${{" in text and "secrets." in text:
                world.faults.append(document.fault(path, _WHERE_SECRETS_STAND))
            continue
        offset = text.index("${{")
        if "secrets." not in text:
            world.faults.append(
                document.fault(path, "an expression may not stand here: nothing would fill it in", offset=offset)
            )
        elif not _may_hold_secret(path):
            world.faults.append(document.fault(path, _WHERE_SECRETS_STAND, offset=offset))
        else:
            for name in secret_names(text):
                if name is None:
                    world.faults.append(document.fault(path, "write ${{ secrets.NAME }}", offset=offset))
                elif name not in secrets:
                    variable = f"AGENTMESH_SECRET_{name}"
                    world.faults.append(
                        document.fault(
                            path,
                            f"the secret {name} is not set: give it in the environment as {variable}",
                            offset=offset,
                        )
                    )


_WHERE_SECRETS_STAND = "a secret may stand only in `key`, `token`, `headers` and `env`"


def _may_hold_secret(path: Path) -> bool:
    return bool(path) and (path[-1] in ("key", "token") or any(p in ("headers", "env") for p in path[:-1]))


def secret_names(text: str) -> list[str | None]:
    """Names of the secrets in a text; None for an expression that is not one secret."""
    found = re.findall(r"\$\{\{(.*?)\}\}", text)
    matches = [re.fullmatch(r"\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*", inner) for inner in found]
    return [m[1] if m else None for m in matches]


def fill_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """A text with its secrets in place."""
    return re.sub(r"\$\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}", lambda m: secrets[m[1]], text)
