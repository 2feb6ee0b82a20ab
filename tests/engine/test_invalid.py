"""What follows an error, and an answer that did not pass: retry, repair, resample, escalate, fallback, ask, compensate, fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.context import Context
from agentmesh.core.question import questions
from agentmesh.core.run import Kind, Run, RunState, Why
from agentmesh.core.workflow import Step
from agentmesh.engine import Engine
from agentmesh.engine.attempts import GiveUp, Plan, Try, share
from agentmesh.errors import Fail, ModelUnavailable, NotSent, Retry, Unanswered
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow
from tests.engine.test_resume import Mortal

pytestmark = pytest.mark.anyio

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
CHECK = [{"ensure": "output.n == 3", "message": "must be three"}]


def llm(*on_invalid: Any, **more: Any) -> dict[str, Any]:
    spec = {"prompt": "P", "output": NUMBER, **more}
    return {"id": "q", "llm": spec, "validate": CHECK, "on_invalid": list(on_invalid)}


async def asked(script: Any, *steps: Mapping[str, Any], **more: Any) -> tuple[Run, ScriptedModel]:
    model = ScriptedModel(script)
    async with serving(mesh(workflow("w", *steps)), model=model, **more) as engine:
        return await finished(engine, "w"), model


# Errors


def rejected(code: str, retry: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "m", **({"retry": retry} if retry else {}), **more}}


def plan(risky: bool = False, **step: Any) -> Plan:
    return Plan(Step.model_validate({"id": "s", "set": 1, **step}), key="run/s", risky=risky)


@pytest.mark.parametrize(
    ("risky", "retry", "error", "again"),
    [
        (False, None, rejected("retry", "always"), True),
        (False, None, rejected("model_unavailable", "declared"), False),
        (False, {}, rejected("model_unavailable", "declared"), True),
        (False, {}, rejected("failed"), False),
        (False, {"on": ["failed"]}, rejected("failed"), True),
        (False, {"on": ["timeout"]}, rejected("retry", "always"), False),
        (True, None, rejected("not_sent", "always"), True),
        (True, None, rejected("unanswered", "always"), False),
        (True, {}, rejected("timeout", "declared"), False),
        (True, {"on": ["unanswered", "timeout", "failed"]}, rejected("unanswered", "always"), False),
        (True, {"on": ["unanswered", "timeout", "failed"]}, rejected("failed"), False),
        (False, {}, rejected("unanswered", "always"), True),
        (True, {}, rejected("child_failed", "declared"), True),
        (True, None, rejected("retry", "always"), True),
    ],
)
def test_what_is_tried_again(risky: bool, retry: Any, error: dict[str, Any], again: bool) -> None:
    """A write only where no byte was sent, or whoever did it says so; the rest as `retry` declares."""
    made = plan(risky, **({} if retry is None else {"retry": retry}))
    assert isinstance(made.note(error), Try if again else GiveUp)


def test_the_time_of_the_next_try_follows_from_the_key() -> None:
    """Backoff doubles up to its end; the jitter of a key and an attempt is always the same."""
    made = plan(retry={"attempts": 9, "backoff": 2, "max_backoff": 5, "jitter": 0.5})
    dues = [made.note(rejected("retry", "always"), 100.0) for _ in range(3)]
    expected = [100 + base * (1 + 0.5 * share(f"run/s#{n}")) for n, base in ((1, 2), (2, 4), (3, 5))]
    assert [try_.due for try_ in dues if isinstance(try_, Try)] == expected
    assert 0 <= share("a") < 1
    assert share("a") != share("b")


def test_a_recorded_time_is_kept_to() -> None:
    """Whatever the clock says when the rows are read again."""
    follows = plan().note(rejected("retry", "always") | {"retry_at": 7.0}, 1000.0)
    assert isinstance(follows, Try)
    assert follows.due == 7.0


async def test_the_time_of_the_next_try_is_journaled() -> None:
    """In the row of the attempt that failed."""
    calls = 0

    async def f() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Retry("not yet", after=4)
        return calls

    clock = Clock()
    step = {"id": "f", "python": "t:f", "effect": "read"}
    async with serving(mesh(workflow("w", step)), functions={"t:f": f}, clock=clock) as engine:
        begun = clock.now
        run = await finished(engine, "w")
        (first, _) = await journal(engine, run, Kind.STEP_ATTEMPT)
    assert run.output == 2
    assert first.payload["retry_at"] == begun + 4
    assert clock.slept == [4]


class Frozen(Clock):
    """A clock whose sleepers sleep until it is thawed."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = anyio.Event()
        self.thawed = False

    async def sleep(self, seconds: float) -> None:
        if not self.thawed:
            self.asleep.set()
            await anyio.sleep_forever()
        await super().sleep(seconds)


@pytest.mark.parametrize(("moved", "slept"), [(0, 4), (1, 3), (-86_400 * 365, 4), (86_400 * 365, 0)])
async def test_a_restart_neither_shortens_nor_prolongs_a_wait(moved: float, slept: float) -> None:
    """Nor does a clock that was set back meanwhile; one that was set forward ends it."""
    calls = 0

    async def f() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Retry("not yet")
        return calls

    clock = Frozen()
    step = {"id": "f", "python": "t:f", "effect": "read", "retry": {"backoff": 4, "jitter": 0}}
    async with MemoryStore(clock=clock) as store:
        of = mesh(workflow("w", step))
        async with serving(of, functions={"t:f": f}, clock=clock, store=Mortal(store, 99, made=True)) as engine:
            run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
            await clock.asleep.wait()
        clock.thawed = True
        clock.now += moved
        async with serving(of, functions={"t:f": f}, clock=clock, store=Mortal(store, 99, made=True)) as engine:
            assert (await engine.runs.wait(LOCAL, run.id)).output == 2
    assert sum(clock.slept) == slept


@pytest.mark.parametrize(("error", "calls"), [(NotSent("x"), 2), (Unanswered("x"), 1), (Fail("x"), 1)])
@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_write_is_repeated_only_when_that_is_safe(error: Exception, calls: int, idempotent: bool) -> None:
    """No byte was sent, or the file says that twice is once."""
    keys: list[str] = []

    async def f(ctx: Context) -> str:
        keys.append(ctx.key)
        if len(keys) == 1:
            raise error
        return "done"

    step = {"id": "f", "python": "t:f", **({"idempotent": True} if idempotent else {})}
    await asked([], step, functions={"t:f": f})
    assert len(keys) == (2 if idempotent and isinstance(error, Retry) else calls)
    assert len(set(keys)) == 1


async def test_a_failed_child_is_tried_again_by_another() -> None:
    """When that is declared; each has a key of its own, so that a resume finds the one that was cut off."""
    calls = 0

    async def f() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Fail("no")
        return calls

    inner = workflow("inner", {"id": "f", "python": "t:f"}, input={"type": "object"})
    step = {"id": "c", "workflow": "inner", "retry": {"attempts": 3, "backoff": 0.1}}
    async with serving(mesh(workflow("w", step), inner), functions={"t:f": f}) as engine:
        run = await finished(engine, "w")
        children = [e.payload["run"] for e in await journal(engine, run, Kind.STEP_CHILD)]
        keys = [found.key for child in children if (found := await engine.store.get_run(child))]
    assert run.output == 3
    assert keys == [f"{run.id}/c", f"{run.id}/c~1", f"{run.id}/c~2"]


async def test_a_failed_child_is_not_tried_again_undeclared() -> None:
    """Its own retries are its own."""
    inner = workflow("inner", {"id": "f", "python": "t:f"}, input={"type": "object"})

    async def f() -> None:
        raise Fail("no")

    async with serving(
        mesh(workflow("w", {"id": "c", "workflow": "inner"}), inner), functions={"t:f": f}
    ) as engine:  # fmt: skip
        run = await finished(engine, "w")
        assert len(await journal(engine, run, Kind.STEP_CHILD)) == 1
    assert run.error is not None
    assert run.error["code"] == "child_failed"


# Answers that did not pass


async def test_a_resample_asks_afresh_with_another_seed() -> None:
    """The same question, warm enough for another answer; each sample has its own seed, the same in every life of the run."""
    run, model = await asked([{"n": 1}, {"n": 2}, {"n": 3}], llm({"resample": 2}, seed=5, temperature=0))
    assert run.output == {"n": 3}
    assert [(r.seed, r.temperature, len(r.messages)) for r in model.requests] == [(5, 0, 1), (6, 0.7, 1), (7, 0.7, 1)]
    run, model = await asked([{"n": 1}, {"n": 3}], llm({"resample": 1}))
    assert model.requests[0].seed is None
    assert model.requests[1].seed is not None


async def test_a_fallback_is_the_output_and_its_row_says_why() -> None:
    """A value of the file, with expressions; it is not checked, and no model is asked for it."""
    step = llm({"repair": 1}, {"fallback": {"n": "${{ size(input.text) }}"}})
    model = ScriptedModel([{"n": 1}, {"n": 2}])
    async with serving(mesh(workflow("w", step)), model=model) as engine:
        run = await finished(engine, "w")
        whys = [e.payload["why"] for e in await journal(engine, run, Kind.STEP_STARTED)]
        rows = await journal(engine, run, Kind.STEP_ATTEMPT)
    assert run.output == {"n": 5}
    assert whys == [Why.FIRST, Why.REPAIR, Why.FALLBACK]
    assert rows[-1].payload["output"] == {"n": 5}


async def test_a_null_fallback_is_a_value() -> None:
    """Not the want of one."""
    run, _ = await asked([{"n": 1}], llm({"fallback": None}))
    assert run.state is RunState.COMPLETED
    assert run.output is None


async def until_asked(engine: Engine, run: Run) -> Run:
    """The run when it asks somebody."""
    async for event in engine.runs.watch(LOCAL, run.id):
        if event.entry is not None and event.entry.kind is Kind.STEP_WAITING:
            break
    return await engine.runs.get(LOCAL, run.id)


async def answered(engine: Engine, run: Run, **more: Any) -> None:
    await engine.runs.answer(LOCAL, run.id, **more)


async def test_a_person_gives_what_the_model_could_not() -> None:
    """It is asked with what was wrong, and the value is checked like the model's: one that does not pass goes on in the plan."""
    step = llm({"ask": {"question": "Which number instead of ${{ output.n }}?"}}, {"ask": {"question": "Again?"}})
    model = ScriptedModel([{"n": 1}])
    async with serving(mesh(workflow("w", step)), model=model) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        (question,) = questions(await until_asked(engine, run))
        assert (question.kind, question.ask, question.id) == ("input", "Which number instead of 1?", "q#2")
        assert question.form == NUMBER
        assert question.show["output"] == {"n": 1}
        assert question.show["not_accepted"][0]["message"] == "must be three"
        await answered(engine, run, question="q#2", value={"n": 2})
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.entry is not None and (event.entry.kind, event.entry.attempt) == (Kind.STEP_WAITING, 3):
                break
        await answered(engine, run, question="q#3", value={"n": 3})
        await engine.runs.wait(LOCAL, run.id)
        run = await engine.runs.get(LOCAL, run.id)
        whys = [e.payload["why"] for e in await journal(engine, run, Kind.STEP_STARTED)]
        by = (await journal(engine, run, Kind.STEP_ATTEMPT))[-1].payload["by"]
    assert run.output == {"n": 3}
    assert whys == ["first", "ask", "ask"]
    assert by == "local"
    assert len(model.requests) == 1


async def test_a_question_that_nobody_answers_fails_the_step() -> None:
    """When its time is over, with that code."""
    ask = {"ask": {"question": "?", "expires": "3s"}}
    run, _ = await asked([{"n": 1}], llm(ask))
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("expired", "q")
    run, _ = await asked([{"n": 1}], llm(ask, {"fallback": {"n": 3}}))
    assert run.output == {"n": 3}, "unless something stands after it"


async def test_a_step_that_did_not_pass_is_undone_and_fails() -> None:
    """`compensate` does what the step says undoes it, which sees the output that was not accepted."""
    undone: list[Any] = []

    async def do() -> dict[str, int]:
        return {"n": 1}

    async def undo(what: Any) -> None:
        undone.append(what)

    step = {
        "id": "f", "python": "t:do", "validate": CHECK, "on_invalid": ["compensate"],
        "compensate": {"python": "t:undo", "with": {"what": "${{ output.n }}"}},
    }  # fmt: skip
    run, _ = await asked([], step, functions={"t:do": do, "t:undo": undo})
    assert run.error is not None
    assert (run.error["code"], run.error["path"]) == ("invalid_output", "f")
    assert undone == [1]


@pytest.mark.parametrize(
    "step",
    [
        {"id": "s", "set": {"n": 1}},
        {"id": "s", "map": {"over": "${{ [1] }}"}, "steps": [{"id": "x", "set": {"n": 1}}]},
        {"id": "s", "parallel": {"a": [{"id": "x", "set": 1}]}},
        {"id": "s", "python": "t:one"},
    ],
)
async def test_any_step_may_have_a_fallback(step: dict[str, Any]) -> None:
    """Its output is checked like a model's."""

    async def one() -> dict[str, int]:
        return {"n": 1}

    step = {**step, "validate": [{"ensure": "output == {'n': 3}"}], "on_invalid": [{"fallback": {"n": 3}}]}
    run, _ = await asked([], step, functions={"t:one": one})
    assert run.output == {"n": 3}


async def test_a_person_may_give_the_output_of_a_block() -> None:
    """Asked while the run is parked, once."""
    step = {
        "id": "s", "set": {"n": 1}, "validate": CHECK, "on_invalid": [{"ask": {"question": "Which?"}}],
    }  # fmt: skip
    async with serving(mesh(workflow("w", step))) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        await until_asked(engine, run)
        await answered(engine, run, value={"n": 3})
        ended = await engine.runs.wait(LOCAL, run.id)
        assert len(await journal(engine, run, Kind.STEP_WAITING)) == 1
    assert ended.output == {"n": 3}


async def test_an_outage_uses_up_no_repair() -> None:
    """Errors and answers that did not pass are counted apart."""
    step = {**llm({"repair": 1}), "retry": {"attempts": 2, "backoff": 0.1}}
    script = [{"n": 1}, ModelUnavailable("down"), {"n": 3}]
    run, model = await asked(script, step)
    assert run.output == {"n": 3}
    assert [len(r.messages) for r in model.requests] == [1, 3, 3], "the retry repairs what the repair was to"
