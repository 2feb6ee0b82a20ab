"""Effect: does a step change the world outside its run, and has a model a say in what it gives.

What a model said may not change the world unchecked (`core.acting`).
"""

from __future__ import annotations

from collections.abc import Mapping

from agentmesh.core.foreign import foreign_may_write
from agentmesh.core.mesh import Mesh
from agentmesh.core.tool import Tool, matching_tools
from agentmesh.core.workflow import Step, Workflow

READING_METHODS = ("GET", "HEAD")


def writes(step: Step, tools: Mapping[str, Tool]) -> bool:
    """By what the step says, else by its verb: agents, functions, requests other than GET and HEAD, tools that do not say
    `readOnlyHint: true`. Child workflows are not looked into: see `writes_within`.
    """
    if step.effect is not None:
        return step.effect == "write"
    if step.tool is not None:
        return tool_writes(step.tool, tools)
    if step.http is not None:
        return step.http.method not in READING_METHODS
    return step.python is not None or step.agent is not None


def tool_writes(name: str, tools: Mapping[str, Tool]) -> bool:
    return name in tools and tools[name].annotations.get("readOnlyHint") is not True


def writes_within(step: Step, mesh: Mesh, seen: frozenset[str] = frozenset()) -> bool:
    """Like `writes`; a child workflow writes when any step of it does."""
    if step.effect is None and step.workflow is not None:
        child = mesh.workflows.get(step.workflow)
        return child is not None and child.name not in seen and _any_writes(child, mesh, seen | {child.name})
    if step.effect is None and step.llm is not None and step.llm.tools:
        patterns = step.llm.tools
        return any(tool_writes(name, mesh.tools) for name in matching_tools(patterns, mesh.tools)) or any(
            foreign_may_write(pattern, mesh) for pattern in patterns if "*" in pattern
        )
    return writes(step, mesh.tools)


def _any_writes(workflow: Workflow, mesh: Mesh, seen: frozenset[str]) -> bool:
    waiting = list(workflow.steps)
    while waiting:
        step = waiting.pop()
        if writes_within(step, mesh, seen):
            return True
        waiting += [inner for _, steps in step.blocks() for inner in steps]
    return False


def asks_model(workflow: Workflow, mesh: Mesh, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a model has a say in a workflow's output: in a step of its own, or in what it calls."""
    waiting = list(workflow.steps)
    while waiting:
        step = waiting.pop()
        waiting += [inner for _, steps in step.blocks() for inner in steps]
        if step.llm is not None:
            return True
        child = child_of(step, mesh)
        if child is not None and child.name not in seen and asks_model(child, mesh, seen | {child.name}):
            return True
        spec = mesh.specs.get(step.tool or "")
        if spec is not None and spec.llm is not None:
            return True
        if step.tool is not None and step.tool in mesh.tools and mesh.tools[step.tool].by_agent:
            return True
        if step.agent is not None and step.agent.peer is not None:
            return True
    return False


def child_of(step: Step, mesh: Mesh) -> Workflow | None:
    """The workflow that does a step's work."""
    name = step.workflow
    if step.agent is not None and step.agent.peer is not None:
        return None
    if step.agent is not None and step.agent.skill is not None and step.agent.skill in mesh.skills:
        name = mesh.skills[step.agent.skill].workflow
    elif step.tool is not None and step.tool in mesh.tools:
        spec = mesh.specs.get(step.tool)
        kind, _, behind = mesh.tools[step.tool].source.partition(":")
        name = spec.workflow if spec is not None else behind if kind == "workflow" else None
    return mesh.workflows.get(name or "")
