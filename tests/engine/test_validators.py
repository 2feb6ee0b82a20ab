"""Validators that ask somebody: a tool, a judge, a vote, a person; in order, and never a silent pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.context import Context
from agentmesh.core.model import ChatRequest
from agentmesh.core.question import questions
from agentmesh.core.run import Kind, Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from agentmesh.engine.checks import VERDICT, same
from agentmesh.errors import Fail, ModelUnavailable
from tests.engine.meshes import LOCAL, TEXT, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

REPLY = {
    "type": "object",
    "properties": {"reply": {"type": "string"}},
    "required": ["reply"],
    "additionalProperties": False,
}
GOOD, BAD = {"reply": "good"}, {"reply": "bad"}
LENGTH = {"description": "Measures.", "python": "t:measure", "input": TEXT, "annotations": {"readOnlyHint": True}}


def llm(*validators: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "q", "llm": {"prompt": "P", "output": REPLY}, "validate": list(validators), **more}


def judge(**more: Any) -> dict[str, Any]:
    return {"judge": {"model": "large", "rubric": "Polite to ${{ input.text }}.", "at_least": 0.8, **more}}


def score(value: float, reason: str = "why not") -> dict[str, Any]:
    return {"score": value, "reason": reason}


class Script:
    """Answers of the model, and of the judge, each in order; the last one for ever."""

    def __init__(self, answers: list[Any], verdicts: list[Any]) -> None:
        self._of = {"tiny": answers, "large": verdicts}
        self.asked = {"tiny": 0, "large": 0}

    def __call__(self, request: ChatRequest) -> Any:
        said = self._of[request.model]
        self.asked[request.model] += 1
        return said.pop(0) if len(said) > 1 else said[0]


async def asked(script: Any, step: Mapping[str, Any], **more: Any) -> tuple[Run, list[Any], ScriptedModel]:
    """The run, the payloads of its attempts, and the model."""
    model = ScriptedModel(script)
    functions = more.pop("functions", {})
    async with serving(
        mesh(workflow("w", step, **more), tools={"measure": LENGTH}), model=model, functions=functions
    ) as engine:
        run = await finished(engine, "w")
        return run, [e.payload for e in await journal(engine, run, Kind.STEP_ATTEMPT, path=step["id"])], model


# judge


async def test_a_judge_scores_the_output() -> None:
    """At the path, against the rubric, decoded under its schema; the score stands in the row."""
    run, (row,), model = await asked(Script([GOOD], [score(0.9)]), llm(judge(path="output.reply")))
    assert run.output == GOOD
    assert row["verdicts"][-1] == {"validator": "judge", "outcome": "pass", "path": "output.reply", "score": 0.9}
    request = model.requests[1]
    assert (request.model, request.schema, request.temperature) == ("large", VERDICT, 0.0)
    assert request.messages[1]["content"] == "Rubric:\nPolite to hello.\n\nThe value:\n-----\ngood\n-----"


async def test_a_judge_that_says_no_sends_its_reason_back() -> None:
    """A repair hears the path and the reason; both calls of each attempt are counted in its usage."""
    script = Script([BAD, GOOD], [score(0.3, "it is rude"), score(0.8)])
    run, rows, model = await asked(script, llm(judge(), on_invalid=[{"repair": 1}]))
    assert run.output == GOOD
    assert rows[0]["verdicts"][-1] == {
        "validator": "judge", "outcome": "fail", "message": "it is rude", "path": "output", "score": 0.3
    }  # fmt: skip
    repair = next(r for r in model.requests if r.model == "tiny" and len(r.messages) == 3)
    assert repair.messages[-1]["content"] == "Not accepted:\n- output: it is rude\nAnswer again."
    asked_words = sum(len(str(m["content"]).split()) for r in model.requests[:2] for m in r.messages)
    assert rows[0]["usage"]["prompt_tokens"] == asked_words
    assert run.usage.tokens == sum(r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"] for r in rows)


@pytest.mark.parametrize(
    "said", [ModelUnavailable("down"), "no idea", {"score": 2, "reason": ""}, {"reason": "x"}, "[" * 100_000]
)
async def test_a_judge_that_cannot_judge_is_no_fault_of_the_answer(said: Any) -> None:
    """`could_not_check`: no repair is used up, and nothing passes."""
    script = Script([GOOD], [said])
    run, rows, _ = await asked(script, llm(judge(), on_invalid=[{"repair": 3}]))
    assert run.error is not None
    assert run.error["code"] == "could_not_check"
    assert [v["outcome"] for v in rows[0]["verdicts"]] == ["pass", "could_not_check"]
    assert script.asked == {"tiny": 1, "large": 1}


async def test_a_check_that_could_not_be_made_is_made_again_alone() -> None:
    """Where `retry` is declared: the judge is asked again, the model is not."""
    script = Script([GOOD], [ModelUnavailable("down"), ModelUnavailable("down"), score(1)])
    run, rows, _ = await asked(script, llm(judge(), retry={"attempts": 3, "backoff": 0.1}))
    assert run.output == GOOD
    assert script.asked == {"tiny": 1, "large": 3}
    assert [[v["outcome"] for v in row["verdicts"]] for row in rows] == [
        ["pass", "could_not_check"], ["pass", "could_not_check"], ["pass", "pass"],
    ]  # fmt: skip


async def test_a_write_whose_check_failed_to_answer_is_not_done_again() -> None:
    """Only its check is; what it put is kept at the end."""
    calls = 0

    async def do(ctx: Context) -> dict[str, str]:
        nonlocal calls
        calls += 1
        ctx.put("done", calls)
        return GOOD

    step = {"id": "q", "python": "t:do", "validate": [judge()], "retry": {"attempts": 2, "backoff": 0.1}}
    model = ScriptedModel(Script([GOOD], [ModelUnavailable("down"), score(1)]))
    async with serving(mesh(workflow("w", step)), model=model, functions={"t:do": do}) as engine:
        run = await finished(engine, "w")
        kept = await engine.store.scan("workflow:w")
    assert run.output == GOOD
    assert calls == 1
    assert kept == {"done": 1}


async def test_a_judge_spends_the_budget_of_the_run() -> None:
    """It is reserved before it is asked."""
    script = Script([GOOD], [score(1)])
    run, _, _ = await asked(script, llm(judge(max_tokens=100)), budget={"tokens": 99})
    assert run.error is not None
    assert run.error["code"] == "budget"
    assert script.asked == {"tiny": 1, "large": 0}


# order


async def test_the_cheapest_are_asked_first_and_the_rest_not_at_all() -> None:
    """In whatever order the file has them."""
    script = Script([BAD], [score(1)])
    validators = [
        judge(),
        {"tool": {"name": "desk.measure", "with": {"text": "x"}}},
        {"ensure": "output.reply == 'good'"},
    ]
    run, rows, _ = await asked(script, llm(*validators))
    assert run.error is not None
    assert run.error["code"] == "invalid_output"
    assert [v["validator"] for v in rows[0]["verdicts"]] == ["schema", "ensure"]
    assert script.asked["large"] == 0


# tool


async def test_a_tool_checks_the_output() -> None:
    """Called with what the step says; `passes` looks at its result; what it could not do is no fault."""
    keys: list[str] = []

    async def measure(ctx: Context, text: str) -> dict[str, Any]:
        keys.append(ctx.key)
        if text == "?":
            raise Fail("cannot measure that")
        return {"ok": len(text) == 4, "length": len(text)}

    check = {"tool": {"name": "desk.measure", "with": {"text": "${{ output.reply }}"}, "path": "output.reply"}}
    functions = {"t:measure": measure}
    run, rows, _ = await asked([BAD, GOOD], llm(check, on_invalid=[{"repair": 1}]), functions=functions)
    assert run.output == GOOD
    assert rows[0]["verdicts"][-1]["message"] == 'desk.measure did not pass it: {"ok": false, "length": 3}'
    assert len(set(keys)) == 2, "a second answer is checked under a key of its own"
    run, rows, _ = await asked([{"reply": "?"}], llm(check), functions=functions)
    assert run.error is not None
    assert run.error["code"] == "could_not_check"
    longer = {"tool": {**check["tool"], "passes": "result.length > 2 && output.reply != 'good'"}}
    run, _, _ = await asked([BAD], llm(longer), functions=functions)
    assert run.output == BAD


async def test_a_tool_that_is_a_run_may_check() -> None:
    """Its tokens are the attempt's."""
    fine = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    ask = {"description": "Asks.", "input": TEXT, "llm": {"prompt": "Fine? ${{ input.text }}", "output": fine}}
    step = llm({"tool": {"name": "desk.ask", "with": {"text": "${{ output.reply }}"}}})
    model = ScriptedModel(lambda r: {"ok": True} if "Fine?" in r.messages[0]["content"] else GOOD)
    async with serving(mesh(workflow("w", step), tools={"ask": ask}), model=model) as engine:
        run = await finished(engine, "w")
    assert run.output == GOOD
    assert len(model.requests) == 2
    assert run.usage.prompt_tokens == 1 + 2


async def test_a_check_that_waits_is_one_check() -> None:
    """The answer is journaled before a run checks it: after the wait neither the model nor the checker begins anew."""
    asks = workflow(
        "asks", {"id": "a", "approve": {"ask": "Fine?"}}, output={"ok": "${{ steps.a.output.approved }}"}, on={"mcp": {}}
    )  # fmt: skip
    step = llm({"tool": {"name": "asks", "with": {"text": "${{ output.reply }}"}}})
    script = Script([GOOD, BAD], [score(1)])
    async with serving(mesh(workflow("w", step), asks), model=ScriptedModel(script)) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        child = None
        while child is None:
            page = await engine.runs.list(LOCAL, RunFilter(workflow="asks"))
            child = page.runs[0] if page.runs else None
            await anyio.lowlevel.checkpoint()
        await until_asked(engine, child)
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.entry is not None and event.entry.kind is Kind.STEP_ATTEMPT:
                break
        await engine.runs.answer(LOCAL, child.id, yes=True)
        assert (await engine.runs.wait(LOCAL, run.id)).output == GOOD
        assert (await engine.runs.list(LOCAL, RunFilter(workflow="asks"))).total == 1
        rows = [e.payload for e in await journal(engine, run, Kind.STEP_ATTEMPT)]
    assert script.asked["tiny"] == 1
    assert [row.get("awaits") for row in rows] == ["checks", None]
    assert rows[1]["verdicts"][-1]["validator"] == "tool"


# vote


def by_seed(answers: list[Any]) -> Any:
    """Answers in the order in which they are asked for, and the seeds."""
    seeds: list[Any] = []

    def say(request: ChatRequest) -> Any:
        seeds.append((request.seed, request.temperature))
        return answers[len(seeds) - 1]

    return say, seeds


async def test_enough_samples_must_agree() -> None:
    """Each with a seed of its own; no more are asked for than it takes."""
    say, seeds = by_seed([GOOD, GOOD])
    run, rows, _ = await asked(say, llm({"vote": {"samples": 3}}))
    assert run.output == GOOD
    assert rows[0]["verdicts"][-1] == {
        "validator": "vote", "outcome": "pass", "message": "2 of 2 agree", "path": "output", "score": 1.0
    }  # fmt: skip
    assert seeds[0] == (None, None)
    assert seeds[1][1] == 0.7
    say, seeds = by_seed([GOOD, BAD, GOOD, BAD, GOOD])
    run, rows, _ = await asked(say, llm({"vote": {"samples": 5, "temperature": 0.2}}))
    assert run.output == GOOD
    assert len({seed for seed, _ in seeds[1:]}) == 4
    assert {t for _, t in seeds[1:]} == {0.2}


async def test_samples_that_disagree_fail_the_answer() -> None:
    """As soon as it is certain; only the path is compared."""
    step = llm({"vote": {"samples": 3, "agree": 3, "path": "output.reply"}})
    run, _, _ = await asked([GOOD, GOOD, BAD], step)
    assert run.error is not None
    assert "only 2 of 3 samples agree, 3 must" in run.error["message"]
    say, _ = by_seed([GOOD, "not json", ModelUnavailable("down")])
    run, _, _ = await asked(say, llm({"vote": {"samples": 3, "agree": 2}}))
    assert run.error is not None
    assert run.error["code"] == "could_not_check", "an outage is no vote against it"


def test_values_are_compared_as_json() -> None:
    """True is not 1; the order of keys is nothing."""
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same(True, 1)
    assert not same(1, 1.5)


# approve


async def until_asked(engine: Engine, run: Run, number: int = 1) -> Run:
    async for event in engine.runs.watch(LOCAL, run.id):
        if event.entry is not None and (event.entry.kind, event.entry.attempt) == (Kind.STEP_WAITING, number):
            break
    return await engine.runs.get(LOCAL, run.id)


async def test_a_person_approves_what_everything_else_has_passed() -> None:
    """The answer is journaled before anybody is asked, so that the model is not asked again after the wait."""
    step = llm(
        {"approve": {"ask": "Send ${{ output.reply }}?", "path": "output.reply"}}, judge(), on_invalid=[{"repair": 1}]
    )  # fmt: skip
    script = Script([BAD, GOOD], [score(1)])
    model = ScriptedModel(script)
    async with serving(mesh(workflow("w", step)), model=model) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        (question,) = questions(await until_asked(engine, run))
        assert (question.kind, question.ask, question.show, question.subject) == (
            "approval",
            "Send bad?",
            "bad",
            "step:q",
        )
        await engine.runs.answer(LOCAL, run.id, yes=False)
        (question,) = questions(await until_asked(engine, run, 2))
        assert (question.id, question.show) == ("q#2", "good")
        await engine.runs.answer(LOCAL, run.id, question="q#2", yes=True)
        assert (await engine.runs.wait(LOCAL, run.id)).output == GOOD
        rows = [e.payload for e in await journal(engine, run, Kind.STEP_ATTEMPT)]
    assert script.asked == {"tiny": 2, "large": 2}
    assert [row["verdicts"][-1]["validator"] for row in rows] == ["judge", "approve", "judge", "approve"]
    assert rows[1]["verdicts"][-1]["outcome"] == "fail"
    assert rows[3]["verdicts"][-1] == {
        "validator": "approve", "outcome": "pass", "message": "approved by local", "path": "output.reply"
    }  # fmt: skip
    assert "local said no" in str(model.requests[-2].messages[-1]["content"])


async def test_two_approvals_are_two_questions() -> None:
    """Each with a number of its own, so that one answer is not taken for both."""
    step = llm({"approve": {"ask": "First?"}}, {"approve": {"ask": "Second?"}})
    async with serving(mesh(workflow("w", step)), model=ScriptedModel([GOOD])) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        await until_asked(engine, run)
        await engine.runs.answer(LOCAL, run.id, yes=True)
        (question,) = questions(await until_asked(engine, run, 2))
        assert question.ask == "Second?"
        await engine.runs.answer(LOCAL, run.id, yes=True)
        assert (await engine.runs.wait(LOCAL, run.id)).output == GOOD


async def test_an_approval_of_an_approval_is_another_question() -> None:
    """One yes is not taken for both."""
    step = {"id": "a", "approve": {"ask": "First?"}, "validate": [{"approve": {"ask": "Second?"}}]}
    async with serving(mesh(workflow("w", step))) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        await until_asked(engine, run)
        await engine.runs.answer(LOCAL, run.id, yes=True)
        (question,) = questions(await until_asked(engine, run, 2))
        assert question.ask == "Second?"
        await engine.runs.answer(LOCAL, run.id, yes=True)
        assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.COMPLETED


@pytest.mark.parametrize(
    "block",
    [
        {"set": GOOD},
        {"switch": [{"when": "true", "steps": [{"id": "x", "set": GOOD}]}]},
        {"python": "t:good"},
        {"loop": {"max": 1}, "steps": [{"id": "x", "set": GOOD}]},
    ],
)
@pytest.mark.parametrize("verdict", [score(1), score(0), ModelUnavailable("down")])
async def test_validators_look_at_every_verb(block: dict[str, Any], verdict: Any) -> None:
    """A judge of a block's output passes it, fails it or could not check it, and stands in its row."""

    async def good() -> dict[str, str]:
        return GOOD

    script = Script([GOOD], [verdict])
    run, rows, _ = await asked(script, {"id": "s", **block, "validate": [judge()]}, functions={"t:good": good})
    expected = None if verdict == score(1) else "invalid_output" if verdict == score(0) else "could_not_check"
    assert (run.error or {}).get("code") == expected
    assert run.state is (RunState.FAILED if expected else RunState.COMPLETED)
    assert rows[-1]["verdicts"][-1]["validator"] == "judge"
    assert script.asked["large"] == 1
