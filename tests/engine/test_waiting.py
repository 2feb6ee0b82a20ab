"""Waiting: timers, signals, questions and children that wait, in runs that hold no task meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.question import Question
from agentmesh.core.run import Kind, Run, RunState, StepState
from agentmesh.engine import Engine
from agentmesh.errors import Conflict, InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, Clock, ended, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio
HOUR = 3600.0
APPROVE = {"id": "review", "approve": {"ask": "Send it?", "show": "${{ input.text }}", "expires": "2d"}}
GO = {"id": "go", "wait": {"signal": "go"}}


async def until(engine: Engine, run: Run, holds: Callable[[Run], bool]) -> Run:
    """The run once that holds of it and nobody executes it."""
    while True:
        found = await engine.runs.get(LOCAL, run.id)
        if holds(found) and engine.worker.active == 0:
            return found
        await anyio.lowlevel.checkpoint()


async def parked(engine: Engine, run: Run) -> Run:
    return await until(engine, run, lambda r: any(s.state is StepState.WAITING for s in r.steps.values()))


async def asked(engine: Engine, run: Run) -> Question:
    await until(engine, run, lambda r: r.state is RunState.INPUT_REQUIRED)
    (question,) = await engine.runs.questions(LOCAL, run.id)
    return question


async def test_a_timer_holds_no_task_and_ends_when_it_is_due() -> None:
    """A run that waits an hour is executed by nobody, and goes on when the hour is over."""
    clock = Clock()
    flow = workflow("nap", {"id": "nap", "wait": "1h"}, {"id": "after", "set": "${{ steps.nap.state }}"})
    async with serving(mesh(flow), clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "nap", {"text": "x"})
        resting = await parked(engine, run)
        assert resting.state is RunState.WORKING
        clock.now += HOUR - 1
        engine.worker.nudge()
        await anyio.sleep(0.02)
        assert not (await engine.runs.get(LOCAL, run.id)).state.terminal
        clock.now += 1
        engine.worker.nudge()
        last = await engine.runs.wait(LOCAL, run.id)
        assert (last.state, last.output) == (RunState.COMPLETED, "completed")


async def test_wait_until_takes_a_time_with_its_offset() -> None:
    """`until` is an instant; one without an offset fails the step and says what is wanted."""
    flow = workflow("w", {"id": "w", "wait": {"until": "input.text"}})
    async with serving(mesh(flow)) as engine:
        assert (await finished(engine, "w", {"text": "2020-01-01T00:00:00Z"})).state is RunState.COMPLETED
        failed = await finished(engine, "w", {"text": "2020-01-01"})
        assert failed.error is not None
        assert "2026-11-22T16:00:00Z" in failed.error["message"]


async def test_a_signal_wakes_its_run_with_its_value() -> None:
    """The value is the step's output; another signal of the same key is not a second one."""
    flow = workflow("s", GO, {"id": "again", "wait": {"signal": "go"}})
    async with serving(mesh(flow)) as engine:
        run = await engine.runs.start(LOCAL, "s", {"text": "x"})
        await parked(engine, run)
        for _ in range(20):
            await engine.runs.signal(LOCAL, run.id, "go", {"n": 1}, key="one")
        resting = await until(engine, run, lambda r: "again" in r.steps)
        assert resting.steps["go"].output == {"n": 1}
        await engine.runs.signal(LOCAL, run.id, "go", 2)
        assert (await engine.runs.wait(LOCAL, run.id)).output == 2
        assert len(await journal(engine, run, Kind.RUN_SIGNALED)) == 2


async def test_the_key_of_a_signal_is_not_used_for_another() -> None:
    """The caller hears of it instead of being told that it was taken."""
    async with serving(mesh(workflow("s", GO, {"id": "again", "wait": {"signal": "go"}}))) as engine:
        run = await engine.runs.start(LOCAL, "s", {"text": "x"})
        await engine.runs.signal(LOCAL, run.id, "go", 1, key="one")
        with pytest.raises(Conflict, match="another signal"):
            await engine.runs.signal(LOCAL, run.id, "go", 2, key="one")


async def test_a_signal_may_come_before_its_step() -> None:
    """It is kept until the step is there; what came first is taken first."""
    gate = anyio.Event()

    async def work() -> None:
        await gate.wait()

    flow = workflow("s", {"id": "work", "python": "m:work"}, GO, {"id": "then", "wait": {"signal": "go"}})
    async with serving(mesh(flow), functions={"m:work": work}) as engine:
        run = await engine.runs.start(LOCAL, "s", {"text": "x"})
        await engine.runs.signal(LOCAL, run.id, "go", "early")
        await engine.runs.signal(LOCAL, run.id, "go", "later")
        gate.set()
        found = await ended(engine, run)
        assert [found.steps[s].output for s in ("go", "then")] == ["early", "later"]


async def test_a_signal_that_does_not_come_in_time_fails_its_step() -> None:
    """With code `expired`, and a signal after the end is refused."""
    clock = Clock()
    flow = workflow("s", {"id": "go", "wait": {"signal": "go", "expires": "1h"}})
    async with serving(mesh(flow), clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "s", {"text": "x"})
        await parked(engine, run)
        clock.now += HOUR
        engine.worker.nudge()
        last = await engine.runs.wait(LOCAL, run.id)
        assert last.error is not None
        assert (last.error["code"], last.error["path"]) == ("expired", "go")
        with pytest.raises(Conflict):
            await engine.runs.signal(LOCAL, run.id, "go")


async def test_a_signal_nobody_waits_for_is_refused() -> None:
    """The caller hears what the workflow waits for, and what the value must be."""
    flow = workflow("s", {"id": "go", "wait": {"signal": "go", "schema": {"type": "integer"}}})
    async with serving(mesh(flow)) as engine:
        run = await engine.runs.start(LOCAL, "s", {"text": "x"})
        with pytest.raises(InvalidInput, match="did you mean 'go'"):
            await engine.runs.signal(LOCAL, run.id, "goo")
        with pytest.raises(InvalidInput, match="must be integer"):
            await engine.runs.signal(LOCAL, run.id, "go", "x")
        await engine.runs.signal(LOCAL, run.id, "go", 7)
        assert (await engine.runs.wait(LOCAL, run.id)).output == 7


async def test_an_approval_is_asked_kept_and_taken_once() -> None:
    """The run waits for a person, the first answer counts, and says who gave it."""
    async with serving(mesh(workflow("a", APPROVE))) as engine:
        run = await engine.runs.start(LOCAL, "a", {"text": "hello"})
        question = await asked(engine, run)
        assert (question.ask, question.show, question.kind) == ("Send it?", "hello", "approval")
        with pytest.raises(Conflict, match="shows something else"):
            await engine.runs.answer(LOCAL, run.id, digest="0" * 64)
        with pytest.raises(NotFound):
            await engine.runs.answer(LOCAL, run.id, question="other#1")
        await engine.runs.answer(LOCAL, run.id, question=question.id, digest=question.digest)
        last = await engine.runs.wait(LOCAL, run.id)
        assert last.output["approved"] is True
        assert last.output["by"] == "local"
        with pytest.raises(Conflict):
            await engine.runs.answer(LOCAL, run.id, question=question.id, yes=False)


async def test_of_twenty_answers_at_once_one_counts() -> None:
    """The others are told that somebody was there before, unless they say the same."""
    async with serving(mesh(workflow("a", APPROVE))) as engine:
        run = await engine.runs.start(LOCAL, "a", {"text": "hello"})
        await asked(engine, run)
        refused: list[str] = []

        async def say(yes: bool) -> None:
            try:
                await engine.runs.answer(LOCAL, run.id, yes=yes)
            except Conflict as error:
                refused.append(error.message)

        async with anyio.create_task_group() as group:
            for i in range(20):
                group.start_soon(say, i == 0)
        last = await engine.runs.wait(LOCAL, run.id)
        assert last.state is RunState.COMPLETED
        assert len(refused) == 19
        assert len(await journal(engine, run, Kind.RUN_ANSWERED)) == 1


async def test_declined_and_expired_fail_the_step_with_their_codes() -> None:
    """And `on_error` steps see the code."""
    clock = Clock()
    handled = {**APPROVE, "on_error": {"steps": [{"id": "why", "set": "${{ error.code }}"}]}}
    async with serving(mesh(workflow("a", handled), workflow("b", APPROVE)), clock=clock) as engine:
        run = await engine.runs.start(LOCAL, "a", {"text": "hello"})
        await asked(engine, run)
        await engine.runs.answer(LOCAL, run.id, yes=False)
        assert (await engine.runs.wait(LOCAL, run.id)).output == "declined"
        run = await engine.runs.start(LOCAL, "b", {"text": "hello"})
        await asked(engine, run)
        clock.now += 2 * 24 * HOUR + 1
        with pytest.raises(Conflict, match="expired"):
            await engine.runs.answer(LOCAL, run.id)
        engine.worker.nudge()
        last = await engine.runs.wait(LOCAL, run.id)
        assert last.error is not None
        assert last.error["code"] == "expired"


async def test_a_form_is_filled_in_and_checked() -> None:
    """Values that do not fit are the answerer's fault; the right ones are the step's output."""
    form = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    step = {"id": "pay", "approve": {"ask": "How much?", "form": form}}
    async with serving(mesh(workflow("a", step))) as engine:
        run = await engine.runs.start(LOCAL, "a", {"text": "hello"})
        await asked(engine, run)
        with pytest.raises(InvalidInput, match="sum"):
            await engine.runs.answer(LOCAL, run.id)
        await engine.runs.answer(LOCAL, run.id, value={"sum": 3})
        assert (await engine.runs.wait(LOCAL, run.id)).output["values"] == {"sum": 3}


async def test_nobody_approves_what_they_asked_for_themselves() -> None:
    """Unless a rule names runs.answer for them; another one may."""
    policy = PolicyFile.model_validate(
        {
            "roles": {"all": {"subjects": ["token:*"]}, "boss": {"subjects": ["token:boss"]}},
            "rules": [{"allow": "*", "on": ["*"], "to": ["all"]}],
        }
    )
    caller, other = Principal("token:one"), Principal("token:one")
    async with serving(mesh(workflow("a", APPROVE), policies=(policy,))) as engine:
        run = await engine.runs.start(caller, "a", {"text": "hello"})
        while (await engine.runs.get(caller, run.id)).state is not RunState.INPUT_REQUIRED:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(PolicyDenied, match="somebody else"):
            await engine.runs.answer(other, run.id)


async def test_what_waits_survives_a_restart() -> None:
    """Another process finds the timer, the question and the early signal in the store."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    flow = workflow("a", {"id": "nap", "wait": "1h"}, APPROVE, GO)
    async with serving(mesh(flow), clock=clock, store=store) as engine:
        run = await engine.runs.start(LOCAL, "a", {"text": "hello"})
        await engine.runs.signal(LOCAL, run.id, "go", "early")
        await parked(engine, run)
    clock.now += HOUR
    async with serving(mesh(flow), clock=clock, store=store) as engine:
        question = await asked(engine, run)
    async with serving(mesh(flow), clock=clock, store=store) as engine:
        await engine.runs.answer(LOCAL, run.id, digest=question.digest)
        assert (await engine.runs.wait(LOCAL, run.id)).output == "early"
    assert [e.path for e in await store.entries(run.id) if e.kind is Kind.STEP_WAITING] == ["nap", "review", "go"]


async def test_a_parent_waits_with_its_child() -> None:
    """Neither is executed while the child waits; the child's end takes the parent further."""
    child = workflow("child", GO)
    parent = workflow("parent", {"id": "sub", "workflow": "child", "with": {"text": "x"}})
    async with serving(mesh(child, parent)) as engine:
        run = await engine.runs.start(LOCAL, "parent", {"text": "x"})
        resting = await until(engine, run, lambda r: "sub" in r.steps and r.steps["sub"].child is not None)
        child_id = resting.steps["sub"].child
        assert child_id is not None
        await parked(engine, await engine.runs.get(LOCAL, child_id))
        await engine.runs.signal(LOCAL, child_id, "go", "done")
        assert (await engine.runs.wait(LOCAL, run.id)).output == "done"


async def test_branches_wait_beside_those_that_work() -> None:
    """A signal reaches a waiting branch while another works; the run is parked when all wait, and each branch runs once."""
    calls: list[str] = []
    gate = anyio.Event()

    async def work() -> str:
        calls.append("work")
        await gate.wait()
        return "worked"

    both = {
        "id": "both",
        "parallel": {
            "a": [{"id": "work", "python": "m:work"}, {"id": "rest", "wait": "1h"}],
            "b": [GO, {"id": "said", "set": "${{ steps.go.output }}"}],
        },
    }
    clock = Clock()
    async with serving(mesh(workflow("p", both)), clock=clock, functions={"m:work": work}) as engine:
        run = await engine.runs.start(LOCAL, "p", {"text": "x"})
        while not any(s.state is StepState.WAITING for s in (await engine.runs.get(LOCAL, run.id)).steps.values()):
            await anyio.lowlevel.checkpoint()
        await engine.runs.signal(LOCAL, run.id, "go", "now")
        while "both/b/said" not in (await engine.runs.get(LOCAL, run.id)).steps:
            await anyio.lowlevel.checkpoint()
        gate.set()
        await until(engine, run, lambda r: "both/a/rest" in r.steps)
        clock.now += HOUR
        engine.worker.nudge()
        last = await engine.runs.wait(LOCAL, run.id)
        assert last.output == {"a": None, "b": "now"}
        assert calls == ["work"]


async def test_the_deadline_of_a_run_that_waits_is_kept() -> None:
    """A parked run is woken to fail; so is a block with a timeout."""
    clock = Clock()
    late = workflow("late", GO, deadline="1h")
    block = workflow("block", {"id": "p", "parallel": {"a": [GO]}, "timeout": "30m"})
    async with serving(mesh(late, block), clock=clock) as engine:
        first = await engine.runs.start(LOCAL, "late", {"text": "x"})
        second = await engine.runs.start(LOCAL, "block", {"text": "x"})
        await parked(engine, first)
        await parked(engine, second)
        clock.now += HOUR + 1
        engine.worker.nudge()
        codes = [(await engine.runs.wait(LOCAL, r.id)).error for r in (first, second)]
        assert [c and c["code"] for c in codes] == ["deadline", "timeout"]


async def test_a_run_that_waits_is_canceled_at_once() -> None:
    """Cancelling wakes it, and its parent's child with it."""
    child = workflow("child", GO)
    parent = workflow("parent", {"id": "sub", "workflow": "child", "with": {"text": "x"}})
    async with serving(mesh(child, parent)) as engine:
        run = await engine.runs.start(LOCAL, "parent", {"text": "x"})
        resting = await until(engine, run, lambda r: "sub" in r.steps and r.steps["sub"].child is not None)
        await engine.runs.cancel(LOCAL, run.id)
        assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.CANCELED
        child_id = resting.steps["sub"].child
        assert child_id is not None
        assert (await engine.runs.wait(LOCAL, child_id)).state is RunState.CANCELED


async def test_concurrency_bounds_the_runs_that_work_not_those_that_wait() -> None:
    """At most n of a workflow at once; one that waits for a person makes room."""
    most = 0
    now = 0
    gate = anyio.Event()

    async def work() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await gate.wait()
        now -= 1

    flow = workflow("w", GO, {"id": "work", "python": "m:work"}, concurrency=2)
    async with serving(mesh(flow), functions={"m:work": work}) as engine:
        runs: list[Any] = [await engine.runs.start(LOCAL, "w", {"text": "x"}) for _ in range(5)]
        for run in runs:
            await parked(engine, run)
        for run in runs:
            await engine.runs.signal(LOCAL, run.id, "go")
        while now < 2:
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.02)
        gate.set()
        for run in runs:
            assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.COMPLETED
        assert most == 2
