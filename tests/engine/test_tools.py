"""Tools: listed and called."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.context import Context
from agentmesh.core.model import ChatRequest
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import Kind, RunEvent, RunState
from agentmesh.core.store import RunFilter
from agentmesh.core.tool import ToolCall
from agentmesh.errors import InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, TEXT, mesh, serving, workflow

pytestmark = pytest.mark.anyio

QUEUE = {"type": "object", "properties": {"queue": {"enum": ["bug", "billing"]}}, "required": ["queue"]}
CLASSIFY: dict[str, Any] = {
    "description": "Sorts.",
    "input": TEXT,
    "llm": {"prompt": "Sort: ${{ input.text }}", "output": QUEUE},
    "validate": [{"ensure": "output.queue != 'billing'", "message": "never billing"}],
    "on_invalid": [{"repair": 1}, "fail"],
}
COUNT: dict[str, Any] = {"description": "Counts.", "input": TEXT, "python": "t:count", "output": {"type": "integer"}}
ECHO = workflow(
    "echo", {"id": "a", "set": "${{ input.text }}"}, {"id": "b", "set": "${{ steps.a.output }}"}, on={"mcp": {}}
)


async def test_a_question_is_a_run_of_one_step() -> None:
    """Validated and repaired like any step, durable, and found again by its id."""
    model = ScriptedModel([{"queue": "billing"}, {"queue": "bug"}])
    async with serving(mesh(tools={"classify": CLASSIFY}), model=model) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.classify", {"text": "help"}))
        assert (result.structured, result.text, result.is_error) == ({"queue": "bug"}, '{"queue": "bug"}', False)
        assert result.run_id is not None
        run = await engine.runs.get(LOCAL, result.run_id)
        assert (run.workflow, run.source, run.state) == ("tool:desk.classify", "mcp", RunState.COMPLETED)
        assert [r.messages[0]["content"] for r in model.requests] == ["Sort: help"] * 2


async def test_a_failed_question_is_a_result() -> None:
    """With the sentence, not an exception."""
    model = ScriptedModel([{"queue": "billing"}] * 2)
    async with serving(mesh(tools={"classify": CLASSIFY}), model=model) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.classify", {"text": "help"}))
        assert result.is_error
        assert result.text == "did not pass its checks: never billing"
        assert result.structured is None


@pytest.mark.parametrize("arguments", [{}, {"text": 1}, {"text": "a", "more": 1}])
async def test_wrong_arguments_are_refused_before_a_model_is_asked(arguments: dict[str, Any]) -> None:
    """Nothing is recorded either."""
    model = ScriptedModel([])
    async with serving(mesh(tools={"classify": CLASSIFY}), model=model) as engine:
        with pytest.raises(InvalidInput, match="arguments"):
            await engine.tools.call(LOCAL, ToolCall("desk.classify", arguments))
        assert model.requests == []
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


async def test_a_long_wrong_argument_makes_a_short_message() -> None:
    """The value does not come back."""
    async with serving(mesh(tools={"classify": CLASSIFY})) as engine:
        with pytest.raises(InvalidInput) as caught:
            await engine.tools.call(LOCAL, ToolCall("desk.classify", {"text": ["x" * 10_000], "y" * 5000: 1}))
        assert len(caught.value.message) < 1000


async def test_a_function_passes_through() -> None:
    """No run; its key is the caller's; what it keeps is kept; progress is heard."""

    def count(ctx: Context, text: str) -> int:
        ctx.progress("counting")
        ctx.put("last", text)
        assert ctx.run_id is None
        assert ctx.key == "k1"
        return len(text) + len(ctx.state)

    heard: list[Any] = []
    async with serving(mesh(tools={"count": COUNT}), functions={"t:count": count}) as engine:
        call = ToolCall("desk.count", {"text": "four"}, key="k1")
        assert (await engine.tools.call(LOCAL, call, on_progress=heard.append)).structured == 4
        assert (await engine.tools.call(LOCAL, call)).structured == 5
        assert heard == ["counting"]
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bug"), "ValueError: bug"),
        ("wrong type", "answered what does not pass its checks: output: must be integer"),
    ],
)
async def test_a_function_that_fails_is_a_result(error: Any, text: str) -> None:
    """Its exception as a sentence, or what is wrong with its answer."""

    def count(text: str) -> Any:
        if isinstance(error, Exception):
            raise error
        return error

    async with serving(mesh(tools={"count": COUNT}), functions={"t:count": count}) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.count", {"text": ""}))
        assert result.is_error
        assert text in result.text


async def test_a_function_may_refuse_its_arguments() -> None:
    """InvalidInput is the caller's."""

    def count(text: str) -> int:
        raise InvalidInput("not that text")

    async with serving(mesh(tools={"count": COUNT}), functions={"t:count": count}) as engine:
        with pytest.raises(InvalidInput, match="not that text"):
            await engine.tools.call(LOCAL, ToolCall("desk.count", {"text": ""}))


async def test_a_function_may_take_its_time_only() -> None:
    """`timeout` of a tool."""

    async def count(text: str) -> int:
        await anyio.sleep_forever()
        return 0

    async with serving(mesh(tools={"count": {**COUNT, "timeout": "10ms"}}), functions={"t:count": count}) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.count", {"text": ""}))
        assert (result.is_error, result.text) == (True, "tool desk.count took longer than its timeout of 0.01 s")


async def test_a_workflow_as_a_tool_reports_progress() -> None:
    """Every entry is an event, in order; the last tells the end."""
    heard: list[RunEvent | str] = []
    async with serving(mesh(ECHO)) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("echo", {"text": "hi"}), on_progress=heard.append)
        assert (result.structured, result.text) == ("hi", "hi")
        events = [event for event in heard if isinstance(event, RunEvent)]
        assert [event.entry.seq for event in events if event.entry] == list(range(1, len(events) + 1))
        assert events[-1].entry is not None
        assert events[-1].entry.kind is Kind.RUN_COMPLETED


async def test_the_same_key_is_the_same_call() -> None:
    """A client that asks again after a lost answer gets the first one's."""
    model = ScriptedModel([{"queue": "bug"}])
    async with serving(mesh(tools={"classify": CLASSIFY}), model=model) as engine:
        call = ToolCall("desk.classify", {"text": "help"}, key="again")
        first, second = await engine.tools.call(LOCAL, call), await engine.tools.call(LOCAL, call)
        assert first == second
        assert len(model.requests) == 1


@pytest.mark.parametrize("watched", [False, True])
async def test_a_cancelled_call_cancels_its_run(watched: bool) -> None:
    """The client went: nothing goes on for it."""
    asked = anyio.Event()

    async def answer(_: ChatRequest) -> str:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with serving(mesh(tools={"classify": CLASSIFY}), model=ScriptedModel(answer)) as engine:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                on_progress = (lambda _: None) if watched else None
                await engine.tools.call(LOCAL, ToolCall("desk.classify", {"text": ""}), on_progress=on_progress)

            group.start_soon(call)
            await asked.wait()
            group.cancel_scope.cancel()
        (head,) = (await engine.runs.list(LOCAL, RunFilter())).runs
        assert (await engine.runs.wait(LOCAL, head.id)).state is RunState.CANCELED


async def test_policies_decide_what_is_listed_and_called() -> None:
    """Lists are filtered by the answer a call gets; a step's tool asks for the run's owner."""
    rules = [
        {"allow": ["tools.list", "tools.call"], "on": ["tool:desk.count", "tool:w"], "to": ["ide"]},
        {"allow": "*", "to": ["boss"]},
    ]
    policy = PolicyFile.model_validate(
        {"name": "p", "roles": {"ide": {"subjects": ["token:ide-*"]}, "boss": {"subjects": ["local"]}}, "rules": rules}
    )
    w = workflow("w", {"id": "a", "tool": "desk.classify", "with": {"text": ""}}, on={"mcp": {}})
    of = mesh(w, ECHO, tools={"count": COUNT, "classify": CLASSIFY}, policies=(policy,))
    ide = Principal("token:ide-1")
    async with serving(of, functions={"t:count": len}) as engine:
        assert [tool.name for tool in engine.tools.list(LOCAL)] == ["desk.classify", "desk.count", "echo", "w"]
        assert [tool.name for tool in engine.tools.list(ide)] == ["desk.count", "w"]
        with pytest.raises(PolicyDenied, match=r"token:ide-1 may not do tools\.call on tool:echo"):
            await engine.tools.call(ide, ToolCall("echo", {"text": ""}))
        result = await engine.tools.call(ide, ToolCall("w", {"text": ""}))
        assert result.is_error
        assert "token:ide-1 may not do tools.call on tool:desk.classify" in result.text


async def test_an_unknown_tool_gets_the_nearest_name() -> None:
    """NotFound says what was probably meant."""
    async with serving(mesh(ECHO)) as engine:
        with pytest.raises(NotFound, match="did you mean 'echo'"):
            await engine.tools.call(LOCAL, ToolCall("ecko", {}))
