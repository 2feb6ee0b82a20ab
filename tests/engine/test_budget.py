"""Budgets: reserved before the call, settled after it, and shared with child runs."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Kind, Run, RunState, StepState
from agentmesh.core.workflow import Budget as Limits
from agentmesh.engine.budget import UNSTATED, Budget, limits_of, within
from agentmesh.errors import BudgetExceeded
from tests.engine.meshes import finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"id": "q", "llm": {"prompt": "one two", "max_tokens": 10}}
INNER = workflow("inner", ASK, input={"type": "object"})


def say(n: int) -> Any:
    return lambda _: " ".join(["word"] * n)


def test_what_is_reserved_is_gone_until_it_is_settled() -> None:
    """Then what was spent is gone, and no more."""
    budget = Budget(Limits(tokens=100))
    with budget.reserve(60) as first:
        with pytest.raises(BudgetExceeded, match="has 40 left and the next answer may take 50"):
            budget.reserve(50)
        first.spent = 10
    with budget.reserve(90):
        pass
    with pytest.raises(BudgetExceeded):
        budget.reserve(91)


def test_a_question_that_does_not_say_takes_what_is_usual() -> None:
    """Or what is left, when that is less."""
    assert Budget(Limits(tokens=1000)).reserve(None).tokens == UNSTATED
    assert Budget(Limits(tokens=50)).reserve(None).tokens == 50


def test_without_limits_nothing_is_counted() -> None:
    """And nothing refused."""
    budget = Budget(Limits())
    assert budget.reserve(10**9).tokens == 0
    assert budget.seconds_left() is None
    assert budget.left() == Limits()


async def test_what_a_child_spent_is_the_parents() -> None:
    """It stands in the parent's row and counts against the parent's budget."""
    steps = [{"id": f"c{i}", "workflow": "inner"} for i in range(4)]
    model = ScriptedModel(say(6))
    async with serving(mesh(workflow("w", *steps, budget={"tokens": 26}), INNER), model=model) as engine:
        run = await finished(engine, "w")
        rows = await journal(engine, run, Kind.STEP_ATTEMPT)
    assert [row.payload["usage"].get("completion_tokens") for row in rows] == [6, 6, 6, None]
    assert run.usage.tokens == 24
    assert run.error is not None
    assert (run.error["path"], run.error["code"]) == ("c3", "child_failed"), "2 of 26 are left"


async def test_a_child_may_spend_what_its_parent_has_left() -> None:
    """Its own budget may be larger: it ends when the parent's does, and the grandchild's too."""
    middle = workflow("middle", {"id": "m", "workflow": "inner"}, input={"type": "object"}, budget={"tokens": 1000})
    steps = [{"id": f"c{i}", "workflow": "middle"} for i in range(3)]
    model = ScriptedModel(say(6))
    async with serving(mesh(workflow("w", *steps, budget={"tokens": 20}), middle, INNER), model=model) as engine:
        run = await finished(engine, "w")
    assert len(model.requests) == 2
    assert run.error is not None
    assert run.error["path"] == "c2"
    assert "budget of 4 tokens has 4 left" in run.error["message"]


async def test_a_parent_that_has_spent_all_starts_no_child() -> None:
    """Not even one that might ask no model."""
    model = ScriptedModel(say(30))
    steps = [ASK, {"id": "c", "workflow": "inner"}]
    async with serving(mesh(workflow("w", *steps, budget={"tokens": 12}), INNER), model=model) as engine:
        run = await finished(engine, "w")
        assert not await journal(engine, run, Kind.STEP_CHILD)
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("budget", "c")
    assert run.state is RunState.FAILED


async def test_what_a_child_spent_before_a_timeout_is_counted() -> None:
    """As far as it is journaled."""

    async def hang() -> None:
        await anyio.sleep_forever()

    inner = workflow("inner", ASK, {"id": "f", "python": "t:hang"}, input={"type": "object"})
    of = mesh(workflow("w", {"id": "c", "workflow": "inner", "timeout": 0.3}), inner)
    async with serving(of, model=ScriptedModel(say(6)), functions={"t:hang": hang}) as engine:
        run = await finished(engine, "w")
    assert run.error is not None
    assert run.error["code"] == "timeout"
    assert run.usage.tokens == 8


async def test_seconds_of_a_child_that_waits_are_not_counted() -> None:
    """Only those in models and tools are: a parent with a second left may wait for a child for longer."""

    async def answer(_: ChatRequest) -> str:
        await anyio.sleep(0.05)
        return "done"

    waits = workflow("waits", ASK, {"id": "w", "wait": 4}, input={"type": "object"})
    step = {"id": "c", "workflow": "waits"}
    async with serving(mesh(workflow("w", step, budget={"seconds": 1}), waits), model=ScriptedModel(answer)) as engine:
        run = await finished(engine, "w")
    assert run.steps["c"].state is StepState.COMPLETED
    assert 0.05 <= run.usage.seconds < 1


def test_only_a_child_heeds_what_a_message_says_is_left() -> None:
    """A caller from outside cannot lower, nor raise, a budget by it."""
    message = within({"parts": [], "metadata": {"x": 1}}, Limits(tokens=5))
    run = Run("1", "w", "d", {}, message=message)
    assert limits_of(run, Limits(tokens=9)) == Limits(tokens=9)
    child = Run("1", "w", "d", {}, message=message, parent="0")
    assert limits_of(child, Limits(tokens=9, seconds=3)) == Limits(tokens=5, seconds=3)
    assert limits_of(child, Limits(tokens=2)) == Limits(tokens=2)
