"""Steps: each verb, and what stands around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.context import Context
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Kind, Run, RunState, StepState
from agentmesh.errors import Fail, InvalidInput, ModelUnavailable, Retry
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio


async def outcome(*steps: Mapping[str, Any], functions: Any = None, model: Any = None, **more: Any) -> Run:
    """The end of a run of these steps."""
    async with serving(mesh(workflow("w", *steps, **more)), functions=functions, model=model) as engine:
        return await finished(engine, "w")


def states(run: Run) -> dict[str, str]:
    return {path: step.state.value for path, step in run.steps.items()}


async def test_a_python_step_gets_its_arguments_by_name() -> None:
    """Plain functions run in a thread, coroutines on the loop; both get `with`."""

    def plain(a: str, b: int = 0) -> dict[str, Any]:
        return {"got": [a, b]}

    async def coroutine(a: str) -> tuple[str, ...]:
        return (a, a)

    run = await outcome(
        {"id": "x", "python": "t:plain", "with": {"a": "${{ input.text }}", "b": 2}},
        {"id": "y", "python": "t:coroutine", "with": {"a": "${{ steps.x.output.got[0] }}"}},
        functions={"t:plain": plain, "t:coroutine": coroutine},
        output=["${{ steps.x.output }}", "${{ steps.y.output }}"],
    )
    assert run.output == [{"got": ["hello", 2]}, ["hello", "hello"]]


async def test_a_context_says_which_run_and_keeps_values() -> None:
    """The key is RUN/PATH; what is put is there for the next run, and not when the step fails."""
    seen: list[Context] = []

    def count(ctx: Context, fail: bool = False) -> int:
        seen.append(ctx)
        ctx.put("n", ctx.state.get("n", 0) + 1)
        if fail:
            raise Fail("no")
        return int(ctx.state.get("n", 0))

    good = workflow("count", {"id": "c", "python": "t:count"})
    bad = workflow("bad", {"id": "c", "python": "t:count", "with": {"fail": True}})
    async with serving(mesh(good, bad), functions={"t:count": count}) as engine:
        runs = [await finished(engine, "count") for _ in range(3)]
        assert [run.output for run in runs] == [0, 1, 2]
        assert seen[0].key == f"{runs[0].id}/c"
        assert seen[0].run_id == runs[0].id
        assert (await finished(engine, "bad")).state is RunState.FAILED
        assert await engine.store.scan("workflow:bad") == {}
        assert await engine.store.scan("workflow:count") == {"n": 3}


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({1: 2}, "has a key 1 that is not a string"),
        ({"a": [object()]}, r"result of t:f\.a\[0\] is a object, which is not JSON"),
        ({"a": ["x" * 1_000_000] * 20}, r"result of t:f is larger than 16 MB"),
        ("x" * 20_000_000, r"result of t:f is larger than 16 MB"),
        (float("nan"), "is nan"),
    ],
)
async def test_what_is_not_json_cannot_be_an_output(result: Any, why: str) -> None:
    """The step fails and says where in the result."""
    run = await outcome({"id": "x", "python": "t:f"}, functions={"t:f": lambda: result})
    assert run.state is RunState.FAILED
    assert run.error is not None
    assert re.search(why, run.error["message"])


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), SystemExit(3), KeyError("x")])
async def test_a_bug_in_a_function_fails_its_step_only(error: BaseException) -> None:
    """Type and message, no traceback; the worker goes on."""

    def f() -> None:
        raise error

    of = mesh(workflow("w", {"id": "x", "python": "t:f"}), workflow("fine", {"id": "x", "set": 1}))
    async with serving(of, functions={"t:f": f}) as engine:
        run = await finished(engine, "w")
        message = f"{type(error).__name__}: {error}"
        assert run.error == {"code": "failed", "message": message, "unexpected": True, "path": "x"}
        assert (await finished(engine, "fine")).state is RunState.COMPLETED


async def test_a_declared_output_is_checked() -> None:
    """`output` of a python step is a promise."""
    run = await outcome(
        {"id": "x", "python": "t:f", "output": {"type": "object", "required": ["a"]}}, functions={"t:f": dict}
    )
    assert run.error == {
        "code": "invalid_output", "message": "did not pass its checks: output: 'a' is missing", "path": "x"
    }  # fmt: skip


async def test_if_skips_and_its_output_is_null() -> None:
    """A skipped step is a row; an expression that cannot be evaluated fails the step."""
    run = await outcome(
        {"id": "a", "if": "input.text == 'other'", "python": "t:never"},
        {"id": "b", "if": "input.text == 'hello'", "set": "${{ steps.a.state }}"},
    )
    assert states(run) == {"a": "skipped", "b": "completed"}
    assert run.output == "skipped"
    run = await outcome({"id": "a", "if": "input.missing == 1", "set": 1})
    assert run.error is not None
    assert run.error["code"] == "expression"


async def test_on_error_continue_goes_on() -> None:
    """The failed step's error is there for later steps."""

    def f() -> None:
        raise Fail("out of order")

    run = await outcome(
        {"id": "a", "python": "t:f", "on_error": "continue"},
        {"id": "b", "set": {"state": "${{ steps.a.state }}", "why": "${{ steps.a.error.message }}"}},
        functions={"t:f": f},
    )
    assert run.state is RunState.COMPLETED
    assert run.output == {"state": "failed", "why": "out of order"}


async def test_switch_takes_the_first_true_branch() -> None:
    """Else when none is true, null when there is no else; the choice is journaled."""
    cases = [
        {"when": "input.text == 'x'", "steps": [{"id": "x", "set": "x"}]},
        {"when": "input.text.startsWith('h')", "steps": [{"id": "h", "set": "first"}, {"id": "h2", "set": "h"}]},
        {"when": "true", "steps": [{"id": "t", "set": "t"}]},
    ]
    async with serving(mesh(workflow("w", {"id": "s", "switch": cases}))) as engine:
        run = await finished(engine, "w")
        assert run.output == "h"
        assert states(run) == {"s": "completed", "s/h": "completed", "s/h2": "completed"}
        (started,) = await journal(engine, run, Kind.STEP_STARTED, path="s")
        assert started.payload["choice"] == 1
    otherwise = {"id": "s", "switch": cases[:1], "else": [{"id": "e", "set": "else"}]}
    assert (await outcome(otherwise)).output == "else"
    assert (await outcome({"id": "s", "switch": cases[:1]})).output is None


async def test_map_keeps_order_and_its_bound() -> None:
    """Outputs in the order of `over`, never more than `at_once` at work."""
    working, most = 0, 0
    turns = [anyio.Event() for _ in range(6)]

    async def f(i: int) -> int:
        nonlocal working, most
        working += 1
        most = max(most, working)
        if i % 3 < 2:  # ends after its successor
            await turns[i + 1].wait()
        turns[i].set()
        working -= 1
        return i * 10

    run = await outcome(
        {
            "id": "m",
            "map": {"over": "${{ [0, 1, 2, 3, 4, 5] }}", "as": "i", "at_once": 3},
            "steps": [{"id": "f", "python": "t:f", "with": {"i": "${{ i }}"}}],
        },
        functions={"t:f": f},
    )
    assert run.output == [0, 10, 20, 30, 40, 50]
    assert most == 3
    assert run.steps["m[4]/f"].output == 40


@pytest.mark.parametrize("on_error", ["fail", "collect"])
async def test_a_failed_item_fails_its_map_unless_collected(on_error: str) -> None:
    """With `collect` it is null in its place."""

    def f(i: int) -> int:
        if i == 1:
            raise Fail("one is bad")
        return i

    step = {
        "id": "m",
        "map": {"over": "${{ [0, 1, 2] }}", "as": "i", "on_error": on_error},
        "steps": [{"id": "f", "python": "t:f", "with": {"i": "${{ i }}"}}],
    }
    run = await outcome(step, functions={"t:f": f})
    if on_error == "collect":
        assert run.output == [0, None, 2]
    else:
        assert run.error == {"code": "failed", "message": "one is bad", "path": "m[1]/f"}
        assert run.steps["m"].state is StepState.FAILED


async def test_map_over_what_is_no_list_fails() -> None:
    """And over nothing it is an empty list."""
    step = {"id": "m", "map": {"over": "${{ input.text }}"}, "steps": [{"id": "s", "set": 1}]}
    run = await outcome(step)
    assert run.error is not None
    assert "must be a list" in run.error["message"]
    assert (await outcome({**step, "map": {"over": "${{ [] }}"}})).output == []


async def test_names_inside_a_block_stay_inside() -> None:
    """An item sees what stood before its map, and not its neighbours' steps."""
    run = await outcome(
        {"id": "a", "set": "before"},
        {
            "id": "m",
            "map": {"over": "${{ [1, 2] }}", "as": "i"},
            "steps": [
                {"id": "x", "set": "${{ i }}"},
                {"id": "y", "set": {"x": "${{ steps.x.output }}", "a": "${{ steps.a.output }}"}},
            ],
        },
    )
    assert run.output == [{"x": 1, "a": "before"}, {"x": 2, "a": "before"}]


async def test_a_function_that_says_retry_is_tried_again() -> None:
    """Backoff doubles; `after` is kept to."""
    calls = 0

    def f() -> str:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise Retry("not yet", after=4.5 if calls == 3 else None)
        return "yes"

    clock = Clock()
    step = {"id": "f", "python": "t:f", "retry": {"attempts": 4, "backoff": "1s", "jitter": 0}}
    async with serving(mesh(workflow("w", step)), functions={"t:f": f}, clock=clock) as engine:
        run = await finished(engine, "w")
        assert run.output == "yes"
        assert clock.slept == [1, 2, 4.5]
        attempts = await journal(engine, run, Kind.STEP_ATTEMPT)
        assert [a.attempt for a in attempts] == [1, 2, 3, 4]
        whys = [e.payload["why"] for e in await journal(engine, run, Kind.STEP_STARTED)]
        assert whys == ["first", "retry", "retry", "retry"]


async def test_retries_come_to_an_end() -> None:
    """The last error is the step's."""

    def f() -> None:
        raise Retry("not yet")

    run = await outcome({"id": "f", "python": "t:f", "retry": {"attempts": 2}}, functions={"t:f": f})
    assert run.error == {"code": "retry", "message": "not yet", "path": "f"}
    assert len(run.steps["f"].attempts) == 2


async def test_a_bug_is_not_retried() -> None:
    """Only what says that it may succeed later is."""

    def f() -> None:
        raise ValueError("bug")

    run = await outcome({"id": "f", "python": "t:f", "retry": {"attempts": 5}}, functions={"t:f": f})
    assert len(run.steps["f"].attempts) == 1


async def test_a_model_that_is_away_is_asked_again_when_the_file_says_so() -> None:
    """Without `retry` the step fails at once."""
    step: dict[str, Any] = {"id": "q", "llm": {"prompt": "?"}}
    run = await outcome(step, model=ScriptedModel([ModelUnavailable("away"), "back"]))
    assert run.error == {"code": "model_unavailable", "message": "away", "path": "q"}
    run = await outcome({**step, "retry": {"attempts": 2}}, model=ScriptedModel([ModelUnavailable("away"), "back"]))
    assert run.output == "back"


@pytest.mark.parametrize(("effect", "tries"), [("write", 1), ("read", 2)])
async def test_a_write_is_not_repeated_after_a_timeout(effect: str, tries: int) -> None:
    """It may have acted before its time was over."""

    async def f() -> None:
        await anyio.sleep_forever()

    step = {"id": "f", "python": "t:f", "timeout": "10ms", "effect": effect, "retry": {"attempts": 2}}
    run = await outcome(step, functions={"t:f": f})
    assert run.error == {"code": "timeout", "message": "step f took longer than its timeout of 0.01 s", "path": "f"}
    assert len(run.steps["f"].attempts) == tries


async def test_a_timeout_begins_when_the_model_is_there() -> None:
    """Loading is not the step's fault: from its first line on the backend keeps the time."""

    async def answer(_: ChatRequest) -> str:
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()
        return "there"

    step = {"id": "q", "llm": {"prompt": "?"}, "timeout": 0.01}
    model = ScriptedModel(answer, loading=["loading weights"])
    assert (await outcome(step, model=model)).output == "there"
    assert model.requests[0].timeout == 0.01
    run = await outcome(step, model=ScriptedModel(answer))
    assert run.error is not None
    assert run.error["code"] == "timeout"


async def test_a_timeout_around_a_block_cancels_the_child_inside() -> None:
    """Nothing of it goes on."""

    async def f() -> None:
        await anyio.sleep_forever()

    inner = workflow("inner", {"id": "f", "python": "t:f"})
    block = {
        "id": "m", "timeout": "20ms", "map": {"over": "${{ [1] }}"},
        "steps": [{"id": "call", "workflow": "inner", "with": {"text": ""}}],
    }  # fmt: skip
    async with serving(mesh(inner, workflow("w", block)), functions={"t:f": f}) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert run.error["code"] == "timeout"
        child = run.steps["m[0]/call"].child
        assert child is not None
        assert (await engine.runs.wait(LOCAL, child)).state is RunState.CANCELED


async def test_a_deadline_ends_the_run() -> None:
    """Counted from its start, by the engine's clock."""

    async def f() -> None:
        await anyio.sleep_forever()

    run = await outcome({"id": "f", "python": "t:f"}, functions={"t:f": f}, deadline="20ms")
    assert run.error == {"code": "deadline", "message": "the run did not end within its deadline of 20ms", "path": ""}


async def test_a_workflow_step_yields_its_childs_output() -> None:
    """The child is a run of its own, with the step's key, and knows its parent."""
    inner = workflow("inner", {"id": "s", "set": "${{ input.text }}!"})
    outer = workflow("outer", {"id": "c", "workflow": "inner", "with": {"text": "${{ input.text }}"}})
    async with serving(mesh(inner, outer)) as engine:
        run = await finished(engine, "outer")
        assert run.output == "hello!"
        child_id = run.steps["c"].child
        assert child_id is not None
        child = await engine.runs.get(LOCAL, child_id)
        assert (child.parent, child.parent_path, child.key, child.source) == (run.id, "c", f"{run.id}/c", "step")


async def test_a_failed_child_fails_its_step() -> None:
    """With the child's own sentence, and its id."""

    def f() -> None:
        raise Fail("broken")

    inner = workflow("inner", {"id": "f", "python": "t:f"})
    outer = workflow("outer", {"id": "c", "workflow": "inner", "with": {"text": ""}})
    async with serving(mesh(inner, outer), functions={"t:f": f}) as engine:
        run = await finished(engine, "outer")
        assert run.error is not None
        child = run.steps["c"].child
        assert run.error["code"] == "child_failed"
        assert run.error["message"] == f"run {child} of inner did not complete: broken"


async def test_children_need_no_place_of_their_own() -> None:
    """A worker full of parents still runs their children."""
    inner = workflow("inner", {"id": "s", "set": "${{ input.text }}"})
    middle = workflow("middle", {"id": "c", "workflow": "inner", "with": {"text": "${{ input.text }}"}})
    outer = workflow("outer", {"id": "c", "workflow": "middle", "with": {"text": "${{ input.text }}"}})
    async with serving(mesh(inner, middle, outer), concurrency=2) as engine:
        runs = [await engine.runs.start(LOCAL, "outer", {"text": str(i)}) for i in range(20)]
        assert [(await engine.runs.wait(LOCAL, run.id)).output for run in runs] == [str(i) for i in range(20)]


async def test_an_agent_step_hands_over_to_a_skill() -> None:
    """Text fills the skill's only required text; the run shows who took it."""
    fix = workflow("fix-code", {"id": "s", "set": "fixed ${{ input.text }}"}, on={"a2a": {"skill": "fix"}})
    send = {"id": "send", "agent": {"skill": "fix", "message": "${{ input.text }}"}}
    async with serving(mesh(fix, workflow("w", send))) as engine:
        run = await finished(engine, "w")
        assert run.output == "fixed hello"
        (handed,) = await journal(engine, run, Kind.STEP_CHILD)
        assert handed.payload == {"run": run.steps["send"].child, "workflow": "fix-code", "skill": "fix"}
        (intent,) = await journal(engine, run, Kind.STEP_INTENT)
        assert intent.payload == {"key": f"{run.id}/send"}
        child = await engine.runs.get(LOCAL, handed.payload["run"])
        assert child.message is not None
        assert child.message["messageId"] == f"{run.id}/send"


async def test_tools_of_every_kind_can_be_steps() -> None:
    """A function passes through, a question and a workflow are runs of their own."""
    tools: dict[str, Any] = {
        "count": {"description": "c", "python": "t:count", "input": {"type": "object", "required": ["text"]}},
        "ask": {"description": "a", "llm": {"prompt": "${{ input.q }}"}, "annotations": {"readOnlyHint": True}},
        "go": {"description": "g", "workflow": "inner"},
    }
    inner = workflow("inner", {"id": "s", "set": "in"}, input={"type": "object"})
    w = workflow(
        "w",
        {"id": "a", "tool": "desk.count", "with": {"text": "${{ input.text }}"}},
        {"id": "b", "tool": "desk.ask", "with": {"q": "why"}},
        {"id": "c", "tool": "desk.go"},
        output=["${{ steps.a.output }}", "${{ steps.b.output }}", "${{ steps.c.output }}"],
    )
    keys: list[str] = []

    def count(ctx: Context, text: str) -> int:
        keys.append(ctx.key)
        return len(text)

    model = ScriptedModel(["because"])
    async with serving(mesh(w, inner, tools=tools), functions={"t:count": count}, model=model) as engine:
        run = await finished(engine, "w")
        assert run.output == [5, "because", "in"]
        assert keys == [f"{run.id}/a"]
        assert [step.child is not None for step in run.steps.values()] == [False, True, True]
        intents = [e.path for e in await journal(engine, run, Kind.STEP_INTENT)]
        assert intents == ["a", "c"], "only what is not said to read is announced before it acts"


async def test_wrong_arguments_of_a_tool_step_fail_it() -> None:
    """Before the tool is called."""
    tools = {"t": {"description": "t", "python": "t:never", "input": {"type": "object", "required": ["x"]}}}
    async with serving(mesh(workflow("w", {"id": "a", "tool": "desk.t"}), tools=tools)) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert (run.error["code"], run.error["message"]) == ("invalid_input", "with: 'x' is missing")


async def test_a_function_may_refuse_its_arguments() -> None:
    """InvalidInput of a step's function is the step's failure, not the caller's."""

    def f() -> None:
        raise InvalidInput("no such folder")

    run = await outcome({"id": "f", "python": "t:f"}, functions={"t:f": f})
    assert run.error == {"code": "invalid_input", "message": "no such folder", "path": "f"}


async def test_validators_stand_around_any_verb() -> None:
    """`ensure` on a `set` and on a map."""
    run = await outcome({"id": "a", "set": 3, "validate": [{"ensure": "output > 3", "message": "too small"}]})
    assert run.error == {"code": "invalid_output", "message": "did not pass its checks: too small", "path": "a"}


async def test_the_output_is_checked_against_its_schema() -> None:
    """What a tool's outputSchema promises holds."""
    run = await outcome({"id": "a", "set": 3}, output_schema={"type": "string"})
    assert run.error is not None
    assert run.error["message"] == "the run's output does not fit: output: must be string, this is number"
