"""Cycle: workflows that start themselves again whatever happens, so that a run of them would never end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentmesh.core.checker import World
from agentmesh.core.document import Path
from agentmesh.core.mesh import Mesh, offered_name
from agentmesh.core.server_file import ServerFile
from agentmesh.core.shape import Source
from agentmesh.core.tool import matching_tools
from agentmesh.core.workflow import Step, Workflow

_Arrow = tuple[Path, str, str]
"""Where it is said, the workflow it starts, and the way out when that leads back."""


def endless(workflows: Sequence[Source[Workflow]], servers: Sequence[Source[ServerFile]], world: World) -> None:
    """Told at each workflow, and each tool that a model with tools stands behind, of a circle: at what closes it."""
    mesh = world.mesh
    arrows = {name: list(_arrows(workflow, mesh)) for name, workflow in mesh.workflows.items()}
    for name, spec in mesh.specs.items():
        if spec.llm is not None and spec.llm.tools:
            arrows[_node(name)] = list(_calls(spec.llm.tools, (), mesh))
    for source in workflows:
        _tell(source, source.value.name, list(_arrows(source.value, mesh)), arrows, world)
    for server in servers:
        for name, spec in server.value.tools.items():
            if spec.llm is not None and spec.llm.tools:
                own = list(_calls(spec.llm.tools, ("tools", name, "llm", "tools"), mesh))
                _tell(server, _node(offered_name(server.value, name)), own, arrows, world)


def _tell(
    source: Source[Any], start: str, own: Sequence[_Arrow], arrows: Mapping[str, Sequence[_Arrow]], world: World
) -> None:
    told: set[str] = set()
    for path, first, way_out in own:
        way = _way(first, start, arrows)
        if way is not None and first not in told:
            told.add(first)
            kind = "tool" if start.startswith(_TOOL) else "workflow"
            message = f"the {kind} would start itself again and never end: {' -> '.join((start, *way))}; {way_out}"
            world.faults.append(source.document.fault(path, message))


_TOOL = "tool "


def _node(tool: str) -> str:
    """A tool that a model with tools stands behind, among the workflows."""
    return _TOOL + tool


def _calls(patterns: Sequence[str], path: Path, mesh: Mesh) -> Iterator[_Arrow]:
    """What a model with tools could start."""
    for tool in matching_tools(patterns, mesh.tools):
        target = _behind(tool, mesh)
        if target is not None:
            yield path, target, f"the model could call {tool!r} at each turn: name tools without it"


def _way(first: str, goal: str, arrows: Mapping[str, Sequence[_Arrow]]) -> tuple[str, ...] | None:
    waiting: list[tuple[str, tuple[str, ...]]] = [(first, (first,))]
    seen = {first}
    while waiting:
        name, way = waiting.pop()
        if name == goal:
            return way
        for _, following, _ in arrows.get(name, ()):
            if following not in seen:
                seen.add(following)
                waiting.append((following, (*way, following)))
    return None


def _arrows(workflow: Workflow, mesh: Mesh) -> Iterator[_Arrow]:
    if workflow.on_failure is not None:
        yield ("on_failure",), workflow.on_failure, "name another workflow, or none"
    yield from _of_steps(workflow.steps, ("steps",), mesh)


def _of_steps(steps: Sequence[Step], path: Path, mesh: Mesh) -> Iterator[_Arrow]:
    """What steps start that are always reached: not behind an `if`, a `when`, a list that may be empty or a `while`."""
    for i, step in enumerate(steps):
        at = (*path, i)
        if step.if_ is not None:
            continue
        for below, name in _started(step, mesh):
            yield (*at, *below), name, "put an `if` before it"
        if step.llm is not None and step.llm.tools:
            yield from _calls(step.llm.tools, (*at, "llm", "tools"), mesh)
        for branch, inner in (step.parallel or {}).items():
            yield from _of_steps(inner, (*at, "parallel", branch), mesh)
        if step.loop is not None and step.loop.while_ is None:
            yield from _of_steps(step.steps or (), (*at, "steps"), mesh)


def _started(step: Step, mesh: Mesh) -> Iterator[tuple[Path, str]]:
    if step.workflow is not None:
        yield ("workflow",), step.workflow
    elif step.agent is not None and step.agent.skill is not None and step.agent.skill in mesh.skills:
        yield ("agent", "skill"), mesh.skills[step.agent.skill].workflow
    elif step.tool is not None and (name := _behind(step.tool, mesh)) is not None:
        yield ("tool",), name


def _behind(tool: str, mesh: Mesh) -> str | None:
    """The workflow behind a tool, or the tool itself when a model with tools is."""
    if tool not in mesh.tools:
        return None
    spec = mesh.specs.get(tool)
    if spec is not None:
        return _node(tool) if spec.llm is not None and spec.llm.tools else spec.workflow
    kind, _, name = mesh.tools[tool].source.partition(":")
    return name if kind == "workflow" else None
