"""LLM steps: what is asked, what is accepted, and what goes back when it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.model import ChatRequest
from agentmesh.core.run import Kind, Run, RunState
from tests.engine.meshes import finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

PLACE = {
    "type": "object",
    "properties": {"place": {"enum": "${{ steps.cut.output.places }}"}, "quotes": {"type": "array", "items": {"type": "string"}}},
    "required": ["place"],
    "additionalProperties": False,
}  # fmt: skip
CUT: dict[str, Any] = {"id": "cut", "set": {"places": ["a.py:1", "b.py:2"]}}


async def asked(script: Any, *steps: Mapping[str, Any], **more: Any) -> tuple[Run, ScriptedModel]:
    model = ScriptedModel(script)
    async with serving(mesh(workflow("w", *steps, **more)), model=model) as engine:
        return await finished(engine, "w"), model


async def test_the_schema_takes_its_enum_from_the_step_before() -> None:
    """The model decodes under the candidates, and cannot invent one."""
    step = {
        "id": "q",
        "llm": {"system": "Be brief.", "prompt": "Where? ${{ input.text }}", "output": PLACE, "max_tokens": 9},
    }
    run, model = await asked([{"place": "b.py:2"}], CUT, step)
    assert run.output == {"place": "b.py:2"}
    (request,) = model.requests
    assert request.schema is not None
    assert request.schema["properties"]["place"] == {"enum": ["a.py:1", "b.py:2"]}
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where? hello"}]
    assert (request.model, request.max_tokens) == ("tiny", 9)
    run, _ = await asked([{"place": "c.py:3"}], CUT, step)
    assert run.error == {
        "code": "invalid_output", "path": "q",
        "message": "did not pass its checks: output.place: must be one of 'a.py:1', 'b.py:2'",
    }  # fmt: skip


async def test_an_empty_enum_allows_only_null() -> None:
    """No candidates, no place."""
    none = {"id": "cut", "set": {"places": []}}
    run, model = await asked([{"place": None}], none, {"id": "q", "llm": {"prompt": "?", "output": PLACE}})
    assert run.output == {"place": None}
    assert model.requests[0].schema is not None
    assert model.requests[0].schema["properties"]["place"] == {"enum": [None]}


async def test_a_repair_sends_only_what_was_wrong() -> None:
    """The conversation gets the last answer, the failed paths and their messages, and nothing of earlier repairs."""
    step = {
        "id": "q",
        "llm": {"prompt": "P", "output": PLACE},
        "validate": [
            {"ensure": "size(output.quotes) == 1", "message": "one quote only"},
            {"grounded": ["output.quotes"], "message": "quote the log"},
        ],
        "on_invalid": [{"repair": 2}],
    }
    answers = [
        {"place": "a.py:1", "quotes": ["hello", "made up"]},
        {"place": "a.py:1", "quotes": ["also made up"]},
        {"place": "a.py:1", "quotes": ["hell"]},
    ]
    run, model = await asked(answers, CUT, step)
    assert run.output == answers[2]
    first, second, third = (list(request.messages) for request in model.requests)
    assert first == [{"role": "user", "content": "P"}]
    assert second[:1] == first
    assert second[1]["role"] == "assistant"
    assert "made up" in second[1]["content"]
    assert second[2]["content"] == "Not accepted:\n- one quote only\n- output.quotes[1]: quote the log\nAnswer again."
    assert third[2]["content"] == "Not accepted:\n- output.quotes[0]: quote the log\nAnswer again."
    assert len(third) == 3


async def test_escalation_asks_the_other_model_afresh() -> None:
    """After the repairs; then its own repairs; then the step fails with what was wrong last."""
    step = {
        "id": "q",
        "llm": {"prompt": "P"},
        "validate": [{"ensure": "output == 'right'", "message": "wrong"}],
        "on_invalid": [{"repair": 1}, {"escalate": {"model": "large", "repair": 1}}, "fail"],
    }
    model = ScriptedModel(["no"] * 9)
    async with serving(mesh(workflow("w", step)), model=model) as engine:
        run = await finished(engine, "w")
        assert [(r.model, len(r.messages)) for r in model.requests] == [
            ("tiny", 1),
            ("tiny", 3),
            ("large", 1),
            ("large", 3),
        ]
        assert [e.payload["why"] for e in await journal(engine, run, Kind.STEP_STARTED)] == [
            "first", "repair", "escalate", "repair",
        ]  # fmt: skip
        rows = await journal(engine, run, Kind.STEP_ATTEMPT)
        assert [row.payload["model"] for row in rows] == ["tiny@scripted"] * 2 + ["large@scripted"] * 2
        assert len({row.payload["prompt_hash"] for row in rows}) == 4
        assert rows[0].payload["output"] == "no"
        assert rows[0].payload["verdicts"] == [{"validator": "ensure", "outcome": "fail", "message": "wrong"}]
    assert run.error == {"code": "invalid_output", "message": "did not pass its checks: wrong", "path": "q"}
    assert run.usage.tokens == sum(row.payload["usage"]["prompt_tokens"] + 1 for row in rows)


@pytest.mark.parametrize(
    "said", ["", "not json", '{"place": "a.py:1"', "NaN", "[" * 100_000, '{"place": 1e999}', '{"place": "\\ud800"}']
)
async def test_an_answer_that_is_no_json_is_a_failed_check(said: str) -> None:
    """Never an exception."""
    step = {"id": "q", "llm": {"prompt": "P", "output": PLACE}, "on_invalid": [{"repair": 1}]}
    run, model = await asked([said, {"place": "a.py:1"}], CUT, step)
    assert run.state is RunState.COMPLETED
    assert "is not JSON" in str(model.requests[1].messages[2]["content"])
    assert len(str(model.requests[1].messages)) < 3000, "a small model's context must hold it"


@pytest.mark.parametrize(
    ("validator", "output", "failed"),
    [
        ({"grounded": ["output.quotes"]}, {"quotes": ["hello", "ell"]}, None),
        ({"grounded": ["output.quotes"]}, {"quotes": ["bye"]}, "output.quotes[0]: 'bye' does not stand in the text"),
        ({"grounded": ["output.a.b"]}, {"a": {"b": "x"}}, "output.a.b: 'x' does not stand in the text"),
        ({"grounded": ["output.a[].b"]}, {"a": [{"b": "hello"}, {"b": "x"}]}, "output.a[1].b: 'x' does not stand in the text"),
        ({"grounded": ["output"]}, {"deep": [{"q": "x"}]}, "output.deep[0].q: 'x' does not stand in the text"),
        ({"grounded": ["output.none"]}, {"none": None}, None),
        ({"grounded": ["output.q"], "in": "steps.cut.output.places"}, {"q": "b.py"}, None),
        ({"grounded": ["output.q"], "in": "steps.cut.output.places"}, {"q": "hello"}, "output.q: 'hello' does not stand in the text"),
        ({"schema": {"required": ["z"]}}, {}, "output: 'z' is missing"),
        ({"schema": {"required": ["z"]}, "message": "give z"}, {}, "output: give z"),
        ({"ensure": "output.n > input.text.size()"}, {"n": 6}, None),
        ({"ensure": "output.n > 5"}, {"n": 5}, "must hold: output.n > 5"),
    ],
)  # fmt: skip
async def test_validators(validator: dict[str, Any], output: Any, failed: str | None) -> None:
    """Each validator passes or says what is wrong and where."""
    step = {"id": "q", "llm": {"prompt": "P", "output": {"type": "object"}}, "validate": [validator]}
    run, _ = await asked([output], CUT, step)
    message = None if run.error is None else run.error["message"].removeprefix("did not pass its checks: ")
    assert message == failed


async def test_what_cannot_be_checked_does_not_pass() -> None:
    """An expression that fails is neither true nor the answer's fault: the step fails without a repair."""
    step = {
        "id": "q", "llm": {"prompt": "P", "output": {"type": "object"}}, "on_invalid": [{"repair": 3}],
        "validate": [{"ensure": "output.missing == 1"}],
    }  # fmt: skip
    run, model = await asked([{}, {}], CUT, step)
    assert run.error is not None
    assert run.error["code"] == "could_not_check"
    assert len(model.requests) == 1


def tokens(n: int) -> Callable[[ChatRequest], str]:
    return lambda _: " ".join(["word"] * n)


async def test_a_budget_of_tokens_ends_the_run_before_the_call() -> None:
    """What an answer may take is reserved, what it took is settled."""
    ask: dict[str, Any] = {"prompt": "one two", "max_tokens": 10}
    steps = [{"id": f"q{i}", "llm": ask} for i in range(3)]
    run, model = await asked(tokens(6), *steps, budget={"tokens": 24})
    assert len(model.requests) == 2, "8 and 8 of 24 are spent: the third may take 10"
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("budget", "q2")
    assert "24 tokens has 8 left and the next answer may take 10" in run.error["message"]
    assert run.usage.tokens == 16


async def test_calls_at_once_share_the_budget() -> None:
    """Reservations count while the answers are on their way."""
    step = {
        "id": "m", "map": {"over": "${{ [1, 2, 3, 4] }}", "at_once": 4, "on_error": "collect"},
        "steps": [{"id": "q", "llm": {"prompt": "x", "max_tokens": 10}}],
    }  # fmt: skip
    run, model = await asked(tokens(1), step, budget={"tokens": 25})
    assert len(model.requests) == 2
    assert [output is None for output in run.output] == [False, False, True, True]


async def test_a_budget_of_seconds_ends_a_call() -> None:
    """Seconds in models and tools."""

    async def answer(_: ChatRequest) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    run, _ = await asked(answer, {"id": "q", "llm": {"prompt": "x"}, "timeout": 60}, budget={"seconds": 0.02})
    assert run.error is not None
    assert run.error["code"] == "budget"
    assert "0.02 seconds ran out" in run.error["message"]


async def test_a_text_answer_is_the_output() -> None:
    """Without `output` the answer is text."""
    run, model = await asked(["Some words."], {"id": "q", "llm": {"prompt": "${{ input }}", "model": "large"}})
    assert run.output == "Some words."
    assert model.requests[0].messages == [{"role": "user", "content": '{"text": "hello"}'}]
    assert model.requests[0].model == "large"
