"""An llm step with tools: turns of the model and calls of tools, until it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel, use
from agentmesh.adapters.model_script import Script, ScriptFile
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.scripted_server import serving as scripted_server
from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatRequest, Model, ToolUse
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind, Run, RunState, StepState
from agentmesh.engine.calls import RESULT, legal_names
from agentmesh.errors import Fail, ModelUnavailable, NotSent
from tests.engine.meshes import TEXT, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

FIND = {
    "description": "Finds an order.", "python": "t:find", "annotations": {"readOnlyHint": True},
    "input": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"], "additionalProperties": False},
}  # fmt: skip
SEND = {"description": "Sends a mail.", "python": "t:send", "input": TEXT}
ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
AGENT: dict[str, Any] = {"id": "q", "llm": {"prompt": "Do: ${{ input.text }}", "tools": ["desk.*"], "max_turns": 4}}


async def find(order: int) -> dict[str, Any]:
    return {"order": order, "state": "sent"}


async def send(text: str) -> str:
    return f"sent {text}"


FUNCTIONS: dict[str, Callable[..., Any]] = {"t:find": find, "t:send": send}


def of(step: Mapping[str, Any] = AGENT, *more: Any, policies: tuple[PolicyFile, ...] = (), **keys: Any) -> Mesh:
    return mesh(workflow("w", step, **keys), *more, tools={"find": FIND, "send": SEND}, policies=policies)


async def asked(script: Any, step: Mapping[str, Any] = AGENT, **more: Any) -> tuple[Run, ScriptedModel]:
    model = ScriptedModel(script)
    functions = more.pop("functions", FUNCTIONS)
    async with serving(of(step, **more), model=model, functions=functions) as engine:
        return await finished(engine, "w"), model


def llm(**more: Any) -> dict[str, Any]:
    return {**AGENT, "llm": {**AGENT["llm"], **more}}


async def test_the_model_calls_a_tool_and_then_answers() -> None:
    """It hears the tool's answer; each turn and each call is a step of the journal with its own rows."""
    model = ScriptedModel([use("desk.find", id="c1", order=7), "It was sent."])
    async with serving(of(), model=model, functions=FUNCTIONS) as engine:
        run = await finished(engine, "w")
        kinds = [(e.kind, e.path, e.payload.get("why")) for e in await journal(engine, run) if e.path]
    assert run.output == "It was sent."
    assert kinds == [
        (Kind.STEP_STARTED, "q", "first"),
        (Kind.STEP_STARTED, "q/turn[0]", "first"),
        (Kind.STEP_ATTEMPT, "q/turn[0]", None),
        (Kind.STEP_COMPLETED, "q/turn[0]", None),
        (Kind.STEP_STARTED, "q/turn[0]/call[0]", "first"),
        (Kind.STEP_ATTEMPT, "q/turn[0]/call[0]", None),
        (Kind.STEP_COMPLETED, "q/turn[0]/call[0]", None),
        (Kind.STEP_STARTED, "q/turn[1]", "first"),
        (Kind.STEP_ATTEMPT, "q/turn[1]", None),
        (Kind.STEP_COMPLETED, "q/turn[1]", None),
        (Kind.STEP_ATTEMPT, "q", None),
        (Kind.STEP_COMPLETED, "q", None),
    ]
    first, second = model.requests
    assert [tool["function"]["name"] for tool in first.tools] == ["desk_find", "desk_send"], "no dots for OpenAI"
    assert first.tools[0]["function"]["parameters"] == FIND["input"]
    assert first.messages == ({"role": "user", "content": "Do: hello"},)
    assert list(second.messages[1:]) == [
        {
            "role": "assistant", "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "desk_find", "arguments": '{"order": 7}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"order": 7, "state": "sent"}'},
    ]  # fmt: skip
    assert run.steps["q/turn[0]/call[0]"].output == {"order": 7, "state": "sent"}
    assert run.steps["q"].model == "tiny@scripted"


async def test_each_turn_counts_its_own_tokens_once() -> None:
    """The run's usage is the sum of the turns; the agent's own row adds nothing to it."""
    run, _ = await asked([use("desk.find", order=7), "It was sent."])
    turns = [run.steps[f"q/turn[{i}]"].usage.tokens for i in (0, 1)]
    assert min(turns) > 0
    assert run.usage.tokens == sum(turns)
    assert run.steps["q"].usage.tokens == 0


async def test_calls_of_one_turn_go_on_at_once() -> None:
    """Each waits for the other to have begun; their answers come in the order in which they were asked for."""
    begun = [anyio.Event(), anyio.Event()]

    async def meet(order: int) -> int:
        begun[order].set()
        with anyio.fail_after(5):
            await begun[1 - order].wait()
        return order

    run, model = await asked(
        [[use("desk_find", order=0), use("desk_find", order=1)], "done"], functions={**FUNCTIONS, "t:find": meet}
    )
    assert run.output == "done"
    told = [m for m in model.requests[1].messages if m["role"] == "tool"]
    assert [(m["tool_call_id"], m["content"]) for m in told] == [("call_0_0", "0"), ("call_0_1", "1")]


@pytest.mark.parametrize(
    ("asked_for", "told"),
    [
        (use("desk.fly"), "Error (invalid_call): there is no tool 'desk.fly'; there are: desk_find, desk_send"),
        (use("desk.find", order="x"), "Error (invalid_input): arguments.order: must be integer, this is string"),
        (use("desk.find"), "Error (invalid_input): arguments: 'order' is missing"),
        (ToolUse("", "desk.find", "{not json"), "Error (invalid_call): the arguments of desk_find are no JSON: is not JSON"),
        (ToolUse("", "desk.find", "[1]"), "Error (invalid_call): the arguments of desk_find must be a JSON object"),
        (use("desk.find", order=99), "Error (failed): there is no order 99"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_call_goes_back_to_the_model(asked_for: ToolUse, told: str) -> None:
    """It may do better; the step goes on."""

    async def none(order: int) -> None:
        raise Fail(f"there is no order {order}")

    run, model = await asked([asked_for, "sorry"], functions={**FUNCTIONS, "t:find": none})
    assert run.output == "sorry"
    assert str(model.requests[1].messages[-1]["content"]).startswith(told)
    said = model.requests[1].messages[-2]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(json.loads(said), dict), "what the next question repeats must be JSON"
    assert run.steps["q/turn[0]/call[0]"].state is StepState.FAILED


async def test_what_a_model_gives_as_arguments_is_data() -> None:
    """An expression in them is never evaluated."""
    run, _ = await asked([use("desk.send", text="${{ input.text }} ${{ secrets.X }}"), "done"])
    assert run.steps["q/turn[0]/call[0]"].output == "sent ${{ input.text }} ${{ secrets.X }}"


async def test_the_policies_are_asked_about_each_call() -> None:
    """What they deny is told to the model; what they allow is done."""
    policy = PolicyFile.model_validate(
        {"name": "p", "rules": [{"allow": "*"}, {"deny": "tools.call", "on": ["tool:desk.send"]}]}
    )
    run, model = await asked(
        [[use("desk.send", text="x"), use("desk.find", order=1)], "done"], policies=(policy,)
    )  # fmt: skip
    assert run.output == "done"
    denied, done = (m["content"] for m in model.requests[1].messages[-2:])
    assert denied.startswith("Error (denied): local may not do tools.call on tool:desk.send")
    assert "sent" in done


async def test_the_policies_are_asked_about_the_model() -> None:
    """A step asks it as the run's owner."""
    policy = PolicyFile.model_validate(
        {"name": "p", "rules": [{"allow": "*"}, {"deny": "models.chat", "on": ["model:tiny"]}]}
    )
    run, model = await asked(["never"], policies=(policy,))
    assert run.error is not None
    assert run.error["code"] == "denied"
    assert model.requests == []


async def test_turns_come_to_an_end() -> None:
    """A model that never answers fails the step; what it asks for in its last turn is not done."""
    calls = 0

    async def count(order: int) -> int:
        nonlocal calls
        calls += 1
        return order

    run, model = await asked(lambda _: use("desk.find", order=1), functions={**FUNCTIONS, "t:find": count})
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("max_turns", "q")
    assert "within its 4 turns" in run.error["message"]
    assert (len(model.requests), calls) == (4, 3)


async def test_an_answer_that_fits_the_schema_is_taken_as_it_came() -> None:
    """No further turn is spent; a question offers tools or a schema, never both."""
    run, model = await asked([use("desk.find", order=7), {"n": 3}], llm(output=ANSWER))
    assert run.output == {"n": 3}
    assert [(bool(r.tools), r.schema is not None) for r in model.requests] == [(True, False), (True, False)]


async def test_an_answer_in_words_is_asked_for_once_more_under_the_schema() -> None:
    """Without tools, with what the model said before it."""
    run, model = await asked([use("desk.find", order=7), "It is three.", {"n": 3}], llm(output=ANSWER))
    assert run.output == {"n": 3}
    last = model.requests[-1]
    assert (last.tools, last.schema) == ((), ANSWER)
    assert [m["role"] for m in last.messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert last.messages[-2]["content"] == "It is three."
    assert "q/turn[2]" in run.steps


async def test_a_repair_keeps_what_the_tools_said() -> None:
    """The second try has turns of its own, goes on from the first one's calls, and hears only what was wrong."""
    step = {
        **llm(output=ANSWER), "validate": [{"ensure": "output.n == 3", "message": "must be three"}],
        "on_invalid": [{"repair": 2}],
    }  # fmt: skip
    script = [use("desk.find", order=7), {"n": 1}, use("desk.find", order=8), {"n": 2}, {"n": 3}]
    run, model = await asked(script, step)
    assert run.output == {"n": 3}
    assert {"q/turn[1]", "q/try[2]/turn[0]", "q/try[2]/turn[0]/call[0]", "q/try[3]/turn[0]"} <= run.steps.keys()
    roles = [m["role"] for m in model.requests[2].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert model.requests[2].messages[-1]["content"] == "Not accepted:\n- must be three\nAnswer again."
    last = model.requests[-1].messages
    assert [m["role"] for m in last] == ["user", "assistant", "tool", "assistant", "tool", "assistant", "user"]
    assert last[-2]["content"] == '{"n": 2}', "an earlier answer that was not accepted is not repeated"


async def test_an_escalated_agent_begins_anew() -> None:
    """Another model, the same question, none of the first one's calls."""
    step = {
        **llm(output=ANSWER), "validate": [{"ensure": "output.n == 3"}],
        "on_invalid": [{"escalate": {"model": "large"}}],
    }  # fmt: skip
    run, model = await asked([use("desk.find", order=7), {"n": 1}, {"n": 3}], step)
    assert run.output == {"n": 3}
    assert (model.requests[-1].model, len(model.requests[-1].messages)) == ("large", 1)


async def test_a_retry_goes_on_where_the_agent_was() -> None:
    """An outage of the model in the second turn repeats neither the first turn nor its calls."""
    calls = 0

    async def count(order: int) -> int:
        nonlocal calls
        calls += 1
        return order

    step = {**AGENT, "retry": {"attempts": 2, "backoff": "1s"}}
    script = [use("desk.find", order=7), ModelUnavailable("loading"), "done"]
    run, model = await asked(script, step, functions={**FUNCTIONS, "t:find": count})
    assert run.output == "done"
    assert (len(model.requests), calls) == (3, 1)
    assert run.steps["q/turn[1]"].state is StepState.COMPLETED


async def test_what_a_timeout_cut_off_is_taken_up_by_the_retry() -> None:
    """The call that hung is an attempt of its own, under the same key; what had completed beside it is not done again."""
    keys: list[str] = []

    async def slow(ctx: Context, order: int) -> int:
        keys.append(ctx.key)
        if order == 1 and len(keys) <= 2:
            await anyio.sleep_forever()
        return order

    step = {**AGENT, "timeout": 0.2, "retry": {"attempts": 2, "backoff": 0.1}}
    model = ScriptedModel([[use("desk.find", order=1), use("desk.find", order=2)], "done"])
    async with serving(of(step), model=model, functions={**FUNCTIONS, "t:find": slow}) as engine:
        run = await finished(engine, "w")
        begun = [(e.path, e.attempt, e.payload["why"]) for e in await journal(engine, run, Kind.STEP_STARTED)]
    assert run.output == "done"
    calls = [f"{run.id}/q/turn[0]/call[{i}]" for i in (0, 1)]
    assert keys == [*calls, calls[0]]
    assert [b for b in begun if b[0] == "q/turn[0]/call[0]"] == [
        ("q/turn[0]/call[0]", 1, "first"), ("q/turn[0]/call[0]", 2, "resume"),
    ]  # fmt: skip


async def test_a_call_that_was_not_sent_is_made_again() -> None:
    """Under the same key, before the model hears of it."""
    keys: list[str] = []

    async def flaky(ctx: Context, order: int) -> int:
        keys.append(ctx.key)
        if len(keys) < 3:
            raise NotSent("no connection")
        return order

    run, model = await asked([use("desk.find", order=7), "done"], functions={**FUNCTIONS, "t:find": flaky})
    assert run.output == "done"
    assert model.requests[1].messages[-1]["content"] == "7"
    assert keys == [f"{run.id}/q/turn[0]/call[0]"] * 3


async def test_a_tool_that_is_a_run_is_called_by_a_child() -> None:
    """Its key is the call's path; its tokens are counted in this run."""
    ask = {"description": "Asks.", "input": TEXT, "llm": {"prompt": "Q ${{ input.text }}"}}

    def answer(request: ChatRequest) -> Any:
        if request.messages[0]["content"].startswith("Q "):
            return "an answer"
        return use("desk.ask", text="why") if len(request.messages) == 1 else "done"

    model = ScriptedModel(answer)
    of_ = mesh(workflow("w", AGENT), tools={"ask": ask})
    async with serving(of_, model=model) as engine:
        run = await finished(engine, "w")
        call = run.steps["q/turn[0]/call[0]"]
        assert call.child is not None
        child = await engine.store.get_run(call.child)
    assert run.output == "done"
    assert child is not None
    assert (child.key, child.output) == (f"{run.id}/q/turn[0]/call[0]", "an answer")
    assert call.usage.tokens == child.usage.tokens > 0
    assert run.usage.tokens == sum(step.usage.tokens for step in run.steps.values())


async def test_a_spent_budget_ends_the_agent() -> None:
    """Before the turn that may take more than is left."""
    run, model = await asked(lambda _: use("desk.find", order=1), llm(max_tokens=20), budget={"tokens": 30})
    assert run.error is not None
    assert run.error["code"] == "budget"
    assert len(model.requests) == 2


async def test_spent_seconds_end_a_turn() -> None:
    """Those in models and tools: a turn that takes longer than the run has left is cut off."""

    async def answer(request: ChatRequest) -> Any:
        if len(request.messages) == 1:
            return use("desk.find", order=1)
        await anyio.sleep_forever()
        raise AssertionError

    run, _ = await asked(answer, budget={"seconds": 0.05})
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("budget", "q")
    assert "0.05 seconds ran out" in run.error["message"]


async def test_only_the_named_tools_are_offered() -> None:
    """And a call of another is none."""
    script = [use("desk.send", text="x"), "done"]
    run, model = await asked(script, llm(tools=["desk.f*"]))
    assert run.state is RunState.COMPLETED
    assert [tool["function"]["name"] for tool in model.requests[0].tools] == ["desk_find"]
    assert "there is no tool 'desk.send'" in model.requests[1].messages[-1]["content"]


async def test_a_long_answer_of_a_tool_is_cut() -> None:
    """A model's context has an end; the journal has all of it."""

    async def long(order: int) -> str:
        return "x" * (RESULT + order)

    run, model = await asked([use("desk.find", order=5), "done"], functions={**FUNCTIONS, "t:find": long})
    assert model.requests[1].messages[-1]["content"].endswith("(cut: 5 characters more)")
    assert len(run.steps["q/turn[0]/call[0]"].output) == RESULT + 5


async def test_a_tool_of_a_server_may_be_an_agent() -> None:
    """A run of one step, like every tool that asks a model."""
    agent = {"description": "Looks.", "input": TEXT, "llm": {"prompt": "${{ input.text }}", "tools": ["desk.find"]}}
    of_ = mesh(
        workflow("w", {"id": "a", "tool": "desk.look", "with": {"text": "hi"}}), tools={"look": agent, "find": FIND}
    )
    model = ScriptedModel([use("desk.find", order=7), "sent"])
    async with serving(of_, model=model, functions=FUNCTIONS) as engine:
        run = await finished(engine, "w")
    assert run.output == "sent"


async def test_an_agent_asks_an_openai_endpoint() -> None:
    """Over HTTP: tools by legal names, an outage asked again under the same key, an answer under the schema."""
    script = Script(
        ScriptFile.model_validate(
            {
                "answers": [
                    {"turn": 1, "attempt": 1, "error": {"status": 503, "retry_after": 0}},
                    {"turn": 1, "tools": [{"name": "desk.find", "arguments": {"order": 7}}, {"name": "desk.send", "arguments": "{"}]},
                    {"turn": 2, "say": "I shall say it."},
                    {"turn": 3, "say": {"n": 3}},
                ]
            }
        )
    )  # fmt: skip
    async with scripted_server(script) as (url, server):
        models = {"tiny": Model(url=url, model="x"), "large": Model(url=url, model="x")}
        async with (
            OpenAiHttp(models) as backend,
            serving(of(llm(output=ANSWER)), model=backend, functions=FUNCTIONS) as engine,
        ):
            run = await finished(engine, "w")
        keys = [request["key"] for request in server.requests]
    assert run.output == {"n": 3}
    turns = [f"{run.id}/q/turn[{i}]" for i in (0, 1, 2)]
    assert keys[-3:] == turns
    assert set(keys[:-3]) == {turns[0]}
    assert run.steps["q/turn[0]/call[0]"].output == {"order": 7, "state": "sent"}
    assert run.steps["q/turn[0]/call[1]"].state is StepState.FAILED


def test_names_are_made_legal_and_stay_apart() -> None:
    """Two names that differ only in signs OpenAI does not know get two legal names."""
    names = legal_names(["a.b", "a_b", "x" * 80, "x" * 81])
    assert list(names.values()) == ["a.b", "a_b", "x" * 80, "x" * 81]
    assert list(names)[:2] == ["a_b", "a_b_2"]
    assert all(len(name) <= 64 for name in names)
