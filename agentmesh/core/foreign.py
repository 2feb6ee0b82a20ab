"""Foreign: what others serve and this mesh offers, as far as its files tell: which names may mean such a tool, and whether it writes.

Their tools are known once they have answered, which is after the files are read. Until then a name is let stand when a server file
of that prefix (or a peer) may have it: as a tool that takes anything, and that writes unless `reads:` of the operator says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from agentmesh.core.policy import PolicyFile
from agentmesh.core.tool import Tool, ToolSpec
from agentmesh.core.workflow import LlmSpec, Step, Validator, Workflow

if TYPE_CHECKING:
    from agentmesh.core.mesh import Mesh


def sources_of(mesh: Mesh) -> frozenset[str]:
    """What the names of somebody else's tools begin with, before the dot."""
    return frozenset(name for name, server in mesh.servers.items() if server.is_source) | frozenset(mesh.file.agents)


def stand_in(name: str, mesh: Mesh) -> Tool | None:
    """The tool of this name that a source may have; None when none can, by the mesh's own files."""
    prefix, dot, own = name.partition(".")
    if not dot or not own or name in mesh.tools:
        return None
    server = mesh.servers.get(prefix)
    if server is not None and server.is_source:
        if server.expose is not None and not _any(server.expose, own):
            return None
        kind = "upstream" if server.upstream is not None else "openapi"
        reads = {"readOnlyHint": True} if _any(server.reads, own) else {}
        return Tool(name, "", {}, annotations=reads, source=f"{kind}:{prefix}", server=prefix)
    if prefix in mesh.file.agents:
        return Tool(name, "", {}, source=f"peer:{prefix}")
    return None


def with_foreign(mesh: Mesh) -> Mesh:
    """The mesh, with a tool standing in for each foreign one that its files name. For checking; never for serving."""
    if not sources_of(mesh):
        return mesh
    found = {name: tool for name in sorted(set(_named(mesh))) if (tool := stand_in(name, mesh)) is not None}
    return replace(mesh, tools={**mesh.tools, **found})


def may_mean_foreign(pattern: str, mesh: Mesh) -> list[str]:
    """Sources of which a pattern with `*` may mean a tool."""
    fixed = pattern.partition("*")[0]
    return [s for s in sorted(sources_of(mesh)) if f"{s}.".startswith(fixed) or fixed.startswith(f"{s}.")]


def foreign_may_write(pattern: str, mesh: Mesh) -> bool:
    """Whether a pattern may mean somebody else's tool that writes."""
    servers = [mesh.servers.get(name) for name in may_mean_foreign(pattern, mesh)]
    return any(server is None or "*" not in server.reads for server in servers)


def _any(globs: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _named(mesh: Mesh) -> Iterator[str]:
    """Every name of a tool that the files say, patterns left out."""
    for workflow in mesh.workflows.values():
        yield from _of_workflow(workflow)
    for spec in mesh.specs.values():
        yield from _of_spec(spec)
    for policy in mesh.policies:
        yield from _of_policy(policy)


def _of_workflow(workflow: Workflow) -> Iterator[str]:
    waiting: list[Step] = list(workflow.steps)
    while waiting:
        step = waiting.pop()
        waiting += [inner for _, steps in step.blocks() for inner in steps]
        if step.tool is not None:
            yield step.tool
        yield from _of_checks(step.llm, step.validate_)


def _of_spec(spec: ToolSpec) -> Iterator[str]:
    yield from _of_checks(spec.llm, spec.validate_)


def _of_checks(llm: LlmSpec | None, validators: Iterable[Validator]) -> Iterator[str]:
    if llm is not None:
        yield from (name for name in llm.tools or () if "*" not in name)
    yield from (validator.tool.name for validator in validators if validator.tool is not None)


def _of_policy(policy: PolicyFile) -> Iterator[str]:
    said = [*(resource for rule in policy.rules for resource in rule.on), *(case.on for case in policy.cases)]
    yield from (resource.removeprefix("tool:") for resource in said if resource.startswith("tool:"))
