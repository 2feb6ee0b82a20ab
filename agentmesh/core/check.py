"""Check: do the files of a mesh make sense together. Everything that shape alone cannot tell, each fault at its place.

The files were read and have (mostly) their shape; nothing runs here, and nothing is imported or fetched.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from agentmesh.core.acting import ActingCheck
from agentmesh.core.agent import EXTENSIONS
from agentmesh.core.checker import NOT_BUILT, Checker, Function, World
from agentmesh.core.cycle import endless
from agentmesh.core.document import Document, Path
from agentmesh.core.flow import FlowChecker
from agentmesh.core.foreign import may_mean_foreign, sources_of, with_foreign
from agentmesh.core.inference import closest
from agentmesh.core.mesh import Mesh, MeshFile, offered_name
from agentmesh.core.model import Model
from agentmesh.core.policy import PolicyFile
from agentmesh.core.rule import PolicyChecker
from agentmesh.core.secret import check_strays
from agentmesh.core.server import ServerChecker
from agentmesh.core.server_file import ServerFile
from agentmesh.core.shape import Source
from agentmesh.core.trigger import PATHS, TriggerChecker
from agentmesh.core.workflow import NAME, Workflow
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
    find_path: Callable[[str, str], str | None] = lambda path, kind: None,
    secrets: frozenset[str],
) -> list[Fault]:
    """Every fault of every file. `mesh`: the project assembled; `secrets`: names that are set.

    `find_weights` says what is wrong with a model's `source`, or None; `find_path` with a `file` or `folder` of the mesh's folder.
    """
    world = World(with_foreign(mesh), find_function, _unsure(project), find_path, _declared(project))
    _unique(project, world)
    endless(project.workflows, project.servers, world)
    if project.mesh is not None:
        _MeshChecker(world, project.mesh).check(project.mesh.value, find_weights)
    for server in project.servers:
        ServerChecker(world, server).check()
    webhooks: dict[str, Document] = {}
    for workflow in project.workflows:
        TriggerChecker(world, workflow, webhooks).check(workflow.value)
        flow = FlowChecker(world, workflow)
        flow.check()
        ActingCheck(flow).check()
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
    if project.mesh is None or ("databases",) in project.mesh.removed:
        found.add("databases")
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
    seen: dict[tuple[str, str], tuple[Document, Path]] = {}
    others = sources_of(world.mesh)

    def claim(kind: str, name: str, source: Source[Any], path: Path, *, key: bool = False) -> None:
        first, where = seen.setdefault((kind, name), (source.document, path))
        if first is not source.document or where != path:
            world.faults.append(
                source.document.fault(path, f"the {kind} {name!r} stands in {first.file} already", key=key)
            )

    def bare(name: str, source: Source[Any], path: Path) -> None:
        prefix, dot, _ = name.partition(".")
        if dot and prefix in others:
            said = f"{name!r} would hide what {prefix} offers, whose names begin so: take another name"
            world.faults.append(source.document.fault(path, said, key=True))

    for server in project.servers:
        for kind, names in (("tools", server.value.tools), ("prompts", server.value.prompts)):
            for name in () if server.value.prefix else names:
                bare(name, server, (kind, name))
        claim("server", server.value.name, server, ("name",))
        for tool in server.value.tools:
            claim("tool", offered_name(server.value, tool), server, ("tools", tool), key=True)
        for prompt in server.value.prompts:
            claim("prompt", offered_name(server.value, prompt), server, ("prompts", prompt), key=True)
        for name, resource in server.value.resources.items():
            claim("resource", resource.uri, server, ("resources", name, "uri"))
    if project.mesh is not None:
        for peer in project.mesh.value.agents:
            claim("server", peer, project.mesh, ("agents", peer), key=True)
        for i, tool in enumerate(project.mesh.value.a2a.tools):
            claim("skill", tool, project.mesh, ("a2a", "tools", i))
    for workflow in project.workflows:
        value = workflow.value
        claim("workflow", value.name, workflow, ("name",))
        if value.on.mcp is not None:
            claim("tool", value.on.mcp.name or value.name, workflow, ("on", "mcp"), key=True)
            bare(value.on.mcp.name or value.name, workflow, ("on", "mcp"))
        if value.on.a2a is not None:
            claim("skill", value.on.a2a.skill or value.name, workflow, ("on", "a2a"), key=True)


class _MeshChecker(Checker):
    """agentmesh.yaml."""

    def check(self, file: MeshFile, find_weights: Callable[[str], str | None]) -> None:
        if file.retention is not None:
            self.duration(("retention",))
        for name, peer in file.agents.items():
            if not re.fullmatch(NAME, name):
                said = f"{name!r} cannot name a peer: a small letter, then small letters, digits, '_' or '-'"
                self.fault(("agents", name), said, key=True)
            elif name in PATHS or name == file.name:
                self.fault(
                    ("agents", name), f"a peer cannot be called {name!r}: the address means something else", key=True
                )
            self.address(("agents", name, "card"), peer.card)
            if peer.jwks is not None:
                self.address(("agents", name, "jwks"), peer.jwks)
        self.mcp(file)
        scheme = file.store.partition("://")[0]
        if scheme not in ("sqlite", "postgresql"):
            self.fault(("store",), "must be sqlite:///FILE or postgresql://...")
        elif scheme == "sqlite" and not file.store.removeprefix("sqlite:///").strip("/"):
            self.fault(("store",), "the store must be a file to be durable: sqlite:///agentmesh.db")
        if file.url is not None:
            self.address(("url",), file.url)
        for name, url in file.databases.items():
            self.database(("databases", name), url, file.store)
        for name, model in file.models.items():
            self.one_model(("models", name), model, find_weights)
        if file.default_model is not None and (
            message := self.world.unknown("models", file.default_model, file.models)
        ):
            self.fault(("default_model",), message)
        skills = self.world.mesh.skills
        if "1.0" not in file.a2a.versions:
            self.fault(("a2a", "versions"), "1.0 is always spoken: name it, and 0.3 beside it if you want", key=True)
        if file.a2a.default is not None and (message := self.world.unknown("skills", file.a2a.default, skills)):
            self.fault(("a2a", "default"), message)
        if file.a2a.embed is not None and (message := self.world.unknown("models", file.a2a.embed, file.models)):
            self.fault(("a2a", "embed"), message)
        for i, uri in enumerate(file.a2a.required_extensions):
            if uri not in EXTENSIONS:
                known = dict.fromkeys(EXTENSIONS)
                said = f"this mesh has no extension {uri!r}{closest(uri, known)}; there are {', '.join(known)}"
                self.fault(("a2a", "required_extensions", i), said)
        for i, tool in enumerate(file.a2a.tools):
            spec = self.world.mesh.specs.get(tool)
            if tool not in self.world.mesh.tools and "tools" not in self.world.unsure:
                problem = self.world.unknown("tools", tool, self.world.mesh.tools) or f"{tool!r} is served by others"
                self.fault(
                    ("a2a", "tools", i), f"{problem}; tools of servers/ and workflows with `on.mcp` can be skills"
                )
            elif spec is not None and spec.elicit:
                said = f"{tool!r} asks its caller before it begins, which a message cannot be: leave it out"
                self.fault(("a2a", "tools", i), said)

    def mcp(self, file: MeshFile) -> None:
        tools = self.world.mesh.tools
        for i, glob in enumerate(file.mcp.pin):
            known = any(fnmatchcase(name, glob) for name in tools) or may_mean_foreign(glob, self.world.mesh)
            if not known and "tools" not in self.world.unsure:
                self.fault(("mcp", "pin", i), f"no tool fits {glob!r}{closest(glob.strip('*.'), tools)}")
        if file.mcp.task_ttl is not None:
            self.duration(("mcp", "task_ttl"))

    def address(self, path: Path, url: str) -> None:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            right = False
        if not right:
            self.fault(path, f"{url!r} is not an address: http://HOST[:PORT]/... or https://...")

    def database(self, path: Path, url: str, store: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in ("sqlite", "postgresql") or not rest.strip("/"):
            hint = closest(scheme, ("sqlite", "postgresql"))
            self.fault(path, f"must be sqlite:///FILE or postgresql://USER@HOST/NAME{hint}")
        elif scheme == "sqlite" and not rest.startswith("/"):
            self.fault(path, f"a file has three slashes: sqlite:///{rest}")
        elif same_database(url, store, self.world.mesh.folder):
            self.fault(
                path, "this is the mesh's own store, where runs live; steps may not reach it: name another database"
            )

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


def same_database(url: str, store: str, folder: PurePath) -> bool:
    """Whether two addresses mean one database, whoever logs in."""
    one, other = url.partition("://"), store.partition("://")
    if one[0] != other[0].partition("+")[0]:
        return False
    if one[0] == "sqlite":
        return _file(one[2], folder) == _file(other[2], folder)
    try:
        parts, others = urlsplit(url), urlsplit(store)
        return (parts.hostname, parts.port or 5432, parts.path) == (others.hostname, others.port or 5432, others.path)
    except ValueError:
        return False


def _file(rest: str, folder: PurePath) -> str:
    return posixpath.normpath(posixpath.join(str(folder), rest.removeprefix("/").partition("?")[0]))
