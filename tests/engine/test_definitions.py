"""A definition holds everything that its run may come to need, wherever in the file it is named."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.mesh import Mesh
from agentmesh.core.workflow import Step, Workflow
from agentmesh.engine.definitions import Definition, Definitions, load, steps_of
from tests.engine.meshes import TEXT, mesh, workflow

PASS = {"description": "P.", "python": "t:f", "input": TEXT}
ASKS = {"description": "A.", "input": TEXT, "llm": {"prompt": "x", "model": "large"}}


def pinned(of: Mesh) -> Definition:
    """The definition of workflow `w`, as it comes back from a store."""
    definition = Definitions(of, ScriptedModel([]), MemoryStore()).pin("w")
    return load(definition.digest, definition.document)


def having(step: dict[str, Any], *workflows: Workflow) -> Definition:
    return pinned(mesh(workflow("w", step), *workflows, tools={"a": PASS, "b": PASS, "asks": ASKS}))


@pytest.mark.parametrize(
    "step",
    [
        {"id": "s", "tool": "desk.a"},
        {"id": "s", "set": 1, "validate": [{"tool": {"name": "desk.a"}}]},
        {"id": "s", "llm": {"prompt": "p", "tools": ["desk.a"]}},
        {"id": "s", "set": 1, "on_error": {"steps": [{"id": "t", "tool": "desk.a"}]}},
        {"id": "s", "python": "t:f", "compensate": {"tool": "desk.a"}},
        {"id": "s", "parallel": {"x": [{"id": "t", "tool": "desk.a"}], "y": [{"id": "u", "set": 1}]}},
        {"id": "s", "loop": {"max": 2}, "steps": [{"id": "t", "tool": "desk.a"}]},
        {
            "id": "s",
            "switch": [{"when": "true", "steps": [{"id": "u", "set": 1}]}],
            "else": [{"id": "t", "tool": "desk.a"}],
        },
    ],
)
def test_a_tool_is_held_wherever_it_is_named(step: dict[str, Any]) -> None:
    """And no other."""
    definition = having(step)
    assert list(definition.tools) == list(definition.specs) == ["desk.a"]


def test_wildcards_are_resolved_when_the_run_is_pinned() -> None:
    """With the models that those tools ask, and the workflows behind them."""
    definition = having({"id": "s", "llm": {"prompt": "p", "tools": ["desk.a*"]}})
    assert list(definition.tools) == ["desk.a", "desk.asks"]
    assert definition.revisions == {"tiny": "scripted", "large": "scripted"}


def test_the_judge_and_what_a_tool_checks_with_are_held() -> None:
    """Models by the revision of their weights."""
    definition = having({"id": "s", "set": 1, "validate": [{"judge": {"model": "large", "rubric": "r"}}]})
    assert definition.revisions == {"large": "scripted"}
    checked = {**ASKS, "validate": [{"tool": {"name": "desk.a"}}]}
    of = mesh(workflow("w", {"id": "s", "tool": "desk.c"}), tools={"a": PASS, "c": checked})
    assert list(pinned(of).tools) == ["desk.a", "desk.c"]


def test_a_version_changes_with_anything_behind_the_name() -> None:
    """And with nothing else: the workflow that calls it may change."""
    inner = workflow("inner", {"id": "x", "tool": "desk.a"})
    step = {"id": "s", "workflow": "inner"}

    def version(step: dict[str, Any], inner: Workflow, tool: dict[str, Any]) -> str:
        return pinned(mesh(workflow("w", step), inner, tools={"a": tool})).version_of("inner")

    first = version(step, inner, PASS)
    assert version({**step, "timeout": 5}, inner, PASS) == first
    assert version(step, inner, {**PASS, "description": "Q."}) != first
    assert version(step, workflow("inner", {"id": "y", "tool": "desk.a"}), PASS) != first


@pytest.mark.parametrize(
    ("step", "writes"),
    [
        ({"http": {"url": "http://x"}}, False),
        ({"http": {"url": "http://x", "method": "POST"}}, True),
        ({"http": {"url": "http://x", "method": "DELETE"}}, True),
        ({"http": {"url": "http://x", "method": "POST"}, "effect": "read"}, False),
        ({"sql": {"database": "d", "query": "select 1"}}, False),
        ({"sql": {"database": "d", "query": "select 1"}, "effect": "write"}, True),
        ({"python": "t:f"}, True),
        ({"agent": {"peer": "p", "skill": "s", "message": "m"}}, True),
        ({"tool": "desk.a"}, True),
        ({"workflow": "w"}, False),
        ({"llm": {"prompt": "p"}}, False),
    ],
)
def test_what_is_a_write(step: dict[str, Any], writes: bool) -> None:
    """By the verb, unless the file says otherwise."""
    definition = having({"id": "s", "tool": "desk.a"})
    assert definition.facts(Step.model_validate({"id": "x", **step})).writes is writes


def test_validators_are_sorted_by_what_they_cost() -> None:
    """Whatever order the file has."""
    validators = [
        {"approve": {"ask": "?"}}, {"judge": {"rubric": "r"}}, {"tool": {"name": "desk.a"}}, {"grounded": ["output"]},
        {"vote": {}}, {"schema": {}}, {"ensure": "true"},
    ]  # fmt: skip
    definition = having({"id": "s", "llm": {"prompt": "p"}, "validate": validators})
    (step,) = steps_of(definition.workflow)
    facts = definition.facts(step)
    assert [v.kind for v in (*facts.free, *facts.costly, *facts.approvals)] == [
        "schema", "ensure", "grounded", "tool", "vote", "judge", "approve",
    ]  # fmt: skip
    assert not facts.checked_by_run
