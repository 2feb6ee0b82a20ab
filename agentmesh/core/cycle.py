"""Cycle: workflows that start themselves again whatever happens, so that a run of them would never end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentmesh.core.checker import World
from agentmesh.core.document import Path
from agentmesh.core.mesh import Mesh
from agentmesh.core.shape import Source
from agentmesh.core.tool import matching_tools
from agentmesh.core.workflow import Step, Workflow

_Arrow = tuple[Path, str, str]
"""Where it is said, the workflow it starts, and the way out when that leads back."""


def endless(sources: Sequence[Source[Workflow]], world: World) -> None:
    """Told at each workflow of a circle, at what closes it."""
    mesh = world.mesh
    arrows = {name: list(_arrows(workflow, mesh)) for name, workflow in mesh.workflows.items()}
    for source in sources:
        start = source.value.name
        told: set[str] = set()
        for path, first, way_out in _arrows(source.value, mesh):
            way = _way(first, start, arrows)
            if way is not None and first not in told:
                told.add(first)
                message = (
                    f"the workflow would start itself again and never end: {' -> '.join((start, *way))}; {way_out}"
                )
                world.faults.append(source.document.fault(path, message))


def _way(first: str, goal: str, arrows: dict[str, list[_Arrow]]) -> tuple[str, ...] | None:
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
            for tool in matching_tools(step.llm.tools, mesh.tools):
                target = _behind(tool, mesh)
                if target is not None:
                    yield (
                        (*at, "llm", "tools"),
                        target,
                        f"the model could call {tool!r} at each turn: name tools without it",
                    )
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
    """The workflow behind a tool."""
    if tool not in mesh.tools:
        return None
    spec: Any = mesh.specs.get(tool)
    if spec is not None:
        found: str | None = spec.workflow
        return found
    kind, _, name = mesh.tools[tool].source.partition(":")
    return name if kind == "workflow" else None
