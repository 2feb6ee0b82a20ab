"""`cache`: an output is found again by everything that decided it, and by nothing less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind, Run, RunState
from tests.engine.meshes import LOCAL, TEXT, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

REPLY = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STEP: dict[str, Any] = {"id": "q", "llm": {"prompt": "P ${{ input.text }}", "output": REPLY}, "cache": True}


class World:
    """One store, however often the mesh is served."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.asked = 0
        self.calls = 0

    async def run(
        self, of: Mesh, text: str = "a", *, revision: str = "1", say: Any = None
    ) -> tuple[Run, dict[str, Any]]:
        """A run, and the payload of its last attempt."""

        def answer(_: object) -> Any:
            self.asked += 1
            return {"n": self.asked} if say is None else say

        async def f(**_: Any) -> int:
            self.calls += 1
            return self.calls

        model = ScriptedModel(answer, revision=revision)
        async with serving(of, store=_Open(self.store), model=model, functions={"t:f": f}, clock=self.clock) as engine:
            run = await finished(engine, "w", {"text": text})
            rows = await journal(engine, run, Kind.STEP_ATTEMPT, path="q")
            return run, dict(rows[-1].payload) if rows else {}


class _Open:
    """A store that serving may enter again and again."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def of(step: Mapping[str, Any] = STEP, **more: Any) -> Mesh:
    return mesh(workflow("w", step), **more)


def changed(**llm: Any) -> Mesh:
    return of({**STEP, "llm": {**STEP["llm"], **llm}})


async def test_the_same_question_is_not_asked_again() -> None:
    """The hit is an attempt that says so, and costs no tokens and no time."""
    world = World()
    first, row = await world.run(of())
    again, hit = await world.run(of())
    assert (first.output, again.output, world.asked) == ({"n": 1}, {"n": 1}, 1)
    assert "cached" not in row
    assert hit["cached"] is True
    assert hit["usage"] == {}
    assert (hit["model"], hit["prompt_hash"]) == (row["model"], row["prompt_hash"])
    assert again.usage.tokens == 0


@pytest.mark.parametrize(
    ("other", "more"),
    [
        (of(), {"text": "b"}),
        (of(), {"revision": "2"}),
        (changed(system="S"), {}),
        (changed(temperature=0.5), {}),
        (changed(seed=1), {}),
        (changed(max_tokens=9), {}),
        (changed(model="large"), {}),
        (changed(output={**REPLY, "additionalProperties": False}), {}),
        (of({**STEP, "validate": [{"ensure": "output.n < 5"}]}), {}),
    ],
)
async def test_another_question_is_asked(other: Mesh, more: dict[str, Any]) -> None:
    """Prompt, system, sampling, schema, model, its weights and the validators are all of the key."""
    world = World()
    await world.run(of())
    _, row = await world.run(other, **more)
    assert world.asked == 2
    assert "cached" not in row


async def test_what_is_too_old_is_asked_again() -> None:
    """`ttl` runs from the answer, by the engine's clock."""
    world = World()
    step = {**STEP, "cache": {"ttl": "1h"}}
    await world.run(of(step))
    world.clock.now += 3599
    await world.run(of(step))
    assert world.asked == 1
    world.clock.now += 2
    run, _ = await world.run(of(step))
    assert (world.asked, run.output) == (2, {"n": 2})


async def test_only_what_passed_is_kept() -> None:
    """A fallback is not what was asked for, a failure is nothing; a hit that would not pass now is none."""
    world = World()
    step = {**STEP, "validate": [{"ensure": "output.n == 7"}], "on_invalid": [{"fallback": {"n": 0}}]}
    await world.run(of(step))
    await world.run(of(step))
    assert world.asked == 2
    step = {**STEP, "validate": [{"ensure": "output.n > 2 && input.text != 'x'"}], "on_invalid": [{"repair": 2}]}
    run, _ = await world.run(of(step))
    assert run.output == {"n": 3}
    run, row = await world.run(of(step))
    assert (run.output, row["cached"]) == ({"n": 3}, True)


async def test_a_hit_is_checked_against_this_run() -> None:
    """`ensure` may look at more than was asked."""
    world = World()
    step = {
        "id": "q",
        "llm": {"prompt": "P", "output": REPLY},
        "cache": True,
        "validate": [{"ensure": "input.text == 'a'"}],
    }
    await world.run(of(step), "a")
    run, _ = await world.run(of(step), "b")
    assert run.state is RunState.FAILED
    assert world.asked == 2


async def test_the_policies_are_asked_before_a_hit() -> None:
    """What one may not ask, one may not find."""
    world = World()
    await world.run(of())
    policy = PolicyFile.model_validate({"name": "p", "rules": [{"allow": "*"}, {"deny": "models.chat"}]})
    run, _ = await world.run(of(policies=(policy,)))
    assert run.error is not None
    assert run.error["code"] == "denied"


@pytest.mark.parametrize(
    "step",
    [
        {"id": "q", "python": "t:f", "with": {"x": "${{ input.text }}"}, "effect": "read"},
        {"id": "q", "tool": "desk.f", "with": {"text": "${{ input.text }}"}},
        {"id": "q", "workflow": "inner", "with": {"text": "${{ input.text }}"}},
    ],
)
async def test_other_verbs_are_found_by_name_and_arguments(step: dict[str, Any]) -> None:
    """And by the definition of what stands behind the name."""
    world = World()
    inner = workflow("inner", {"id": "f", "python": "t:f", "effect": "read"})
    tool = {"description": "F.", "python": "t:f", "input": TEXT, "annotations": {"readOnlyHint": True}}

    def having(inner: Any, tool: Any) -> Mesh:
        return mesh(workflow("w", {**step, "cache": True}), inner, tools={"f": tool})

    await world.run(having(inner, tool))
    run, row = await world.run(having(inner, tool))
    assert (run.output, world.calls, row["cached"]) == (1, 1, True)
    await world.run(having(inner, tool), "b")
    assert world.calls == 2
    if "python" not in step:
        other = workflow("inner", {"id": "f", "python": "t:f", "effect": "read", "timeout": 9})
        await world.run(having(other, {**tool, "description": "G."}))
        assert world.calls == 3


async def test_an_agent_is_found_by_its_tools_too() -> None:
    """A tool that has changed may answer otherwise."""
    world = World()
    tool = {"description": "F.", "python": "t:f", "input": TEXT, "annotations": {"readOnlyHint": True}}
    step = {"id": "q", "llm": {"prompt": "P", "tools": ["desk.*"]}, "cache": True}
    for description, asked in (("F.", 1), ("F.", 1), ("G.", 2)):
        await world.run(of(step, tools={"f": {**tool, "description": description}}), say="done")
        assert world.asked == asked


async def test_a_person_is_asked_about_a_hit_too() -> None:
    """What was approved for one run is not for another; and a hit is no newer than the answer it is."""
    world = World()
    step = {**STEP, "validate": [{"approve": {"ask": "Fine?"}}], "cache": {"ttl": "1h"}}
    for _ in range(2):
        model = ScriptedModel(lambda _: {"n": 1})
        async with serving(of(step), store=_Open(world.store), model=model, clock=world.clock) as engine:
            run = await engine.runs.start(LOCAL, "w", {"text": "a"})
            async for event in engine.runs.watch(LOCAL, run.id):
                if event.entry is not None and event.entry.kind is Kind.STEP_WAITING:
                    break
            await engine.runs.answer(LOCAL, run.id, yes=True)
            assert (await engine.runs.wait(LOCAL, run.id)).output == {"n": 1}
        (kept,) = (await world.store.scan("cache:local")).values()
        assert kept["at"] == Clock().now
        world.clock.now += 60
    assert not model.requests


async def test_tenants_find_only_their_own() -> None:
    """The key is not all: values are kept per tenant."""
    world = World()
    await world.run(of())
    assert list(await world.store.scan("cache:local"))
    assert not await world.store.scan("cache:other")
    assert LOCAL.tenant == "local"
