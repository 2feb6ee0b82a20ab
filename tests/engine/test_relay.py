"""Relay: what becomes of a message that an agent elsewhere takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core.agent import HOPS, MOST_HOPS, Message, Part, Sending
from agentmesh.core.question import questions
from agentmesh.core.run import Kind, Run, RunState
from agentmesh.core.tool import ToolCall
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput
from tests.engine.meshes import LOCAL, Clock, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio
Act = Callable[[MemoryTask], Awaitable[None]]


async def echo(task: MemoryTask) -> None:
    task.status("WORKING", "looking at it")
    task.artifact("answer", {"text": f"you said {task.text}"})


@asynccontextmanager
async def with_peers(*peers: MemoryPeer, workflows: tuple[Any, ...] = (), **more: Any) -> AsyncIterator[Engine]:
    """An engine that knows these agents."""
    async with AsyncExitStack() as stack:
        for peer in peers:
            await stack.enter_async_context(peer)
        yield await stack.enter_async_context(serving(mesh(*workflows), sources=peers, **more))


def say(text: str, agent: str | None = "billing", **more: Any) -> Sending:
    return Sending(Message("m1", "user", [Part(text=text)], **more), agent=agent)


async def until(engine: Engine, run: Run, *states: RunState) -> Run:
    """The run when it is in one of these states."""
    if (now := await engine.runs.get(LOCAL, run.id)).state in states:
        return now
    async for event in engine.runs.watch(LOCAL, run.id):
        if event.run.state in states:
            return await engine.runs.get(LOCAL, run.id)
    raise AssertionError(f"it never was {states}")


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_message_becomes_a_task_of_the_agent_and_ends_as_that_ends(*, streaming: bool) -> None:
    """Whose it is stands in the journal before what it says; artifacts and the one value of them are there at the end."""
    peer = MemoryPeer("billing", echo, streaming=streaming)
    async with with_peers(peer) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        run = await until(engine, run, RunState.COMPLETED)
        assert run.output == "you said hello"
        assert [part["text"] for part in run.artifacts["answer"]["parts"]] == ["you said hello"]
        assert run.steps["task"].task == {"peer": "billing", "task": "billing-1", "context": "billing-c1"}
        kinds = [entry.kind for entry in await journal(engine, run)]
        assert kinds.index(Kind.STEP_TASK) < min(kinds.index(Kind.STEP_SAID), kinds.index(Kind.STEP_ARTIFACT))
        assert [message["messageId"] for message in peer.sent] == [f"{run.id}/task"]


@pytest.mark.parametrize("state", ["FAILED", "REJECTED", "CANCELED"])
async def test_a_task_that_does_not_complete_ends_the_run_likewise(state: str) -> None:
    """With what the agent said of it."""

    async def act(task: MemoryTask) -> None:
        task.status(state, "no invoices on Sundays")

    async with with_peers(MemoryPeer("billing", act)) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState[state])
        assert run.state is RunState[state]
        if state != "CANCELED":
            assert run.error is not None
            assert "no invoices on Sundays" in str(run.error["message"])


async def test_an_agent_may_answer_by_a_message() -> None:
    """Then the run says so."""

    async def act(task: MemoryTask) -> None:
        task.answer("42")

    async with with_peers(MemoryPeer("billing", act)) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        run = await until(engine, run, RunState.COMPLETED)
        assert (run.output, run.replied, engine.agents.replies(run)) == ("42", True, True)
        assert run.said is not None
        assert run.said["message"]["parts"] == [{"text": "42"}]


@pytest.mark.parametrize("streaming", [True, False])
async def test_what_the_task_asks_is_a_question_of_the_run(*, streaming: bool) -> None:
    """The answer's parts go on as they are, under an id of their own; the same task goes on."""

    async def act(task: MemoryTask) -> None:
        answer = await task.ask("Which invoice?")
        task.artifact("answer", {"text": f"sent {answer['parts'][0]['text']}"})

    peer = MemoryPeer("billing", act, streaming=streaming)
    async with with_peers(peer) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("send it")), RunState.INPUT_REQUIRED)
        assert [question.ask for question in questions(run)] == ["Which invoice?"]
        await engine.agents.follow_up(LOCAL, run.id, Message("m2", "user", [Part(text="number 7")]))
        run = await until(engine, run, RunState.COMPLETED)
        assert run.output == "sent number 7"
        assert [message["messageId"] for message in peer.sent] == [f"{run.id}/task", f"{run.id}/task/ask[0]"]
        assert [message["messageId"] for message in run.messages][-1] == "m2"
        assert len(peer.tasks) == 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_question_that_is_still_shown_is_not_asked_twice(*, streaming: bool) -> None:
    """An agent may take a moment after an answer; the same words a second time are a question of their own."""

    async def act(task: MemoryTask) -> None:
        for _ in range(2):
            await task.ask("Which one?")
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
        task.artifact("answer", {"text": "done"})

    peer = MemoryPeer("billing", act, streaming=streaming)
    peer.lingers = True
    async with with_peers(peer) as engine:
        run = await engine.agents.send(LOCAL, say("send it"))
        for number in range(2):
            question = f"task/ask[{number}]#1"
            async for event in engine.runs.watch(LOCAL, run.id):
                if event.run.state is RunState.INPUT_REQUIRED and [q.id for q in questions(event.run)] == [question]:
                    break
            await engine.runs.answer(LOCAL, run.id, question=question, value={"answer": str(number)})
        run = await until(engine, run, RunState.COMPLETED)
        assert [message["parts"][0]["text"] for message in peer.sent] == ["send it", "0", "1"]


async def test_cancelling_reaches_the_agent_first() -> None:
    """And an agent that will not stop leaves the run as it was."""

    async def act(task: MemoryTask) -> None:
        task.status("WORKING")
        await anyio.sleep_forever()

    peer = MemoryPeer("billing", act)
    async with with_peers(peer) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.run.steps and event.run.steps["task"].task:
                break
        run = await engine.agents.cancel_task(LOCAL, run.id)
        assert (run.state, peer.cancelled) == (RunState.CANCELED, ["billing-1"])


async def test_cancelling_before_the_agent_has_said_which_task_it_is_ends_that_task_too() -> None:
    """It is found by the message that began it."""
    heard = anyio.Event()

    async def act(task: MemoryTask) -> None:
        heard.set()
        await anyio.sleep_forever()  # without a word

    peer = MemoryPeer("billing", act)
    async with with_peers(peer) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        await heard.wait()
        run = await engine.agents.cancel_task(LOCAL, run.id)
        assert (run.state, peer.cancelled) == (RunState.CANCELED, ["billing-1"])


async def test_a_step_that_fails_otherwise_leaves_no_task_running() -> None:
    """An answer that is none fails the step, and the agent is told to stop; the run goes on."""
    followed = anyio.Event()

    async def act(task: MemoryTask) -> None:
        task.status("WORKING")
        await followed.wait()
        task._tell({"statusUpdate": {"taskId": "another", "status": {"state": "TASK_STATE_COMPLETED"}}})
        await anyio.sleep_forever()

    asks = workflow(
        "asks",
        {"id": "bill", "agent": {"peer": "billing", "message": "x"}, "on_error": "continue"},
        {"id": "b", "set": 1},
    )
    peer = MemoryPeer("billing", act)
    async with with_peers(peer, workflows=(asks,)) as engine:
        run = await engine.runs.start(LOCAL, "asks", {"text": "x"})
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.entry is not None and event.entry.kind is Kind.STEP_SAID:
                followed.set()
        run = await engine.runs.get(LOCAL, run.id)
        assert run.steps["bill"].error is not None
        assert "speaks of task another" in str(run.steps["bill"].error["message"])
        assert peer.cancelled == ["billing-1"]


async def test_a_login_that_the_agent_waits_for_is_shown_and_over_when_it_goes_on() -> None:
    """AUTH_REQUIRED is a state of the run, without anybody of this mesh being asked."""
    go_on = anyio.Event()

    async def act(task: MemoryTask) -> None:
        task.status("AUTH_REQUIRED", "log in at https://billing.example.com")
        await go_on.wait()
        task.status("WORKING", "thank you")
        task.artifact("answer", {"data": {"ok": True}})

    async with with_peers(MemoryPeer("billing", act)) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.AUTH_REQUIRED)
        assert run.said is not None
        go_on.set()
        run = await until(engine, run, RunState.COMPLETED)
        assert run.output == {"ok": True}


async def test_an_agent_that_cannot_be_reached_is_tried_again_and_then_given_up() -> None:
    """Nothing was sent, so nothing can have been done twice."""
    peer = MemoryPeer("billing", echo)
    peer.down = True
    async with with_peers(peer) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.FAILED)
        assert run.error is not None
        assert (run.error["code"], peer.sent) == ("not_sent", [])
        assert len(await journal(engine, run, Kind.STEP_ATTEMPT)) == 3


async def test_a_message_whose_answer_was_lost_is_found_again_not_sent_again() -> None:
    """The agent is asked which task the message began."""
    peer = MemoryPeer("billing", echo)
    peer.mute = 1
    async with with_peers(peer) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.COMPLETED)
        assert (run.output, len(peer.sent)) == ("you said hello", 1)


async def test_a_message_that_may_have_arrived_is_not_sent_again_blindly() -> None:
    """An agent that cannot say what became of it leaves the run failed, with the reason."""
    peer = MemoryPeer("billing", echo)
    peer.mute, peer.lists = 1, False
    async with with_peers(peer) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.FAILED)
        assert run.error is not None
        assert run.error["code"] == "unanswered"
        assert "may have got the message" in str(run.error["message"])
        assert len(peer.sent) == 1


async def test_an_agent_that_declares_idempotency_is_sent_the_same_again() -> None:
    """One task, under one id."""
    peer = MemoryPeer("billing", echo, idempotent=True)
    peer.mute, peer.lists = 2, False
    async with with_peers(peer) as engine:
        run = await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.COMPLETED)
        assert (len(peer.sent), len(peer.tasks)) == (3, 1)
        assert {message["messageId"] for message in peer.sent} == {f"{run.id}/task"}


async def test_after_a_crash_the_agent_is_asked_how_its_task_stands() -> None:
    """The next worker follows the same task; nothing is sent again, nothing is lost."""
    go_on = anyio.Event()

    async def act(task: MemoryTask) -> None:
        task.artifact("answer", {"text": "first, "})
        await go_on.wait()
        task.artifact("answer", {"text": "second"}, append=True)

    peer = MemoryPeer("billing", act)
    clock = Clock()
    store = MemoryStore(clock=clock)
    async with peer:
        async with serving(mesh(), sources=[peer], store=store, clock=clock) as engine:
            run = await engine.agents.send(LOCAL, say("hello"))
            async for event in engine.runs.watch(LOCAL, run.id):
                if event.run.artifacts:
                    break
        go_on.set()
        async with serving(mesh(), sources=[peer], store=store, clock=clock) as engine:
            run = await until(engine, run, RunState.COMPLETED)
            assert run.output == "first, second"
            assert len(peer.sent) == 1


async def test_a_task_that_the_agent_forgot_ends_the_run() -> None:
    """FAILED with the reason, never WORKING for ever."""

    async def act(task: MemoryTask) -> None:
        task.status("WORKING")
        await anyio.sleep_forever()

    peer = MemoryPeer("billing", act, streaming=False)
    async with with_peers(peer) as engine:
        run = await engine.agents.send(LOCAL, say("hello"))
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.run.steps and event.run.steps["task"].task:
                peer.tasks.clear()
                break
        run = await until(engine, run, RunState.FAILED)
        assert run.error is not None
        assert "does not know task" in str(run.error["message"])


async def test_a_step_of_a_workflow_asks_an_agent_elsewhere() -> None:
    """Its output is what the task came to; its question is the run's."""

    async def act(task: MemoryTask) -> None:
        await task.ask("Sure?")
        task.artifact("answer", {"data": {"sum": 12}})

    asks = workflow(
        "asks", {"id": "bill", "agent": {"peer": "billing", "skill": "ask", "message": "${{ input.text }}"}}
    )
    peer = MemoryPeer("billing", act)
    async with with_peers(peer, workflows=(asks,)) as engine:
        run = await engine.runs.start(LOCAL, "asks", {"text": "hello"})
        run = await until(engine, run, RunState.INPUT_REQUIRED)
        await engine.runs.answer(LOCAL, run.id, value={"answer": "yes"})
        run = await until(engine, run, RunState.COMPLETED)
        assert run.output == {"sum": 12}
        assert run.artifacts == {}
        assert peer.sent[1]["parts"] == [{"text": "yes"}]
        assert peer.sent[0]["metadata"]["skill"] == "ask"


@pytest.mark.parametrize(("made", "state"), [({"sum": 12}, RunState.COMPLETED), ({"sum": "a lot"}, RunState.FAILED)])
async def test_what_an_agent_elsewhere_answers_is_held_to_the_steps_schema(made: Any, state: RunState) -> None:
    """Before anything is done with it."""

    async def act(task: MemoryTask) -> None:
        task.artifact("answer", {"data": made})

    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    asks = workflow("asks", {"id": "bill", "agent": {"peer": "billing", "message": "x"}, "output": schema})
    async with with_peers(MemoryPeer("billing", act), workflows=(asks,)) as engine:
        run = await until(
            engine, await engine.runs.start(LOCAL, "asks", {"text": "x"}), RunState.COMPLETED, RunState.FAILED
        )
        assert run.state is state
        assert state is RunState.COMPLETED or "must be integer" in str(run.error)


async def test_a_skill_of_an_agent_elsewhere_is_a_tool_whose_call_is_a_run() -> None:
    """Durable like any other, and found under its run's id."""
    peer = MemoryPeer("billing", echo)
    async with with_peers(peer) as engine:
        tool = engine.tools.get(LOCAL, "billing.ask")
        assert engine.tools.is_run(tool)
        result = await engine.tools.call(LOCAL, ToolCall("billing.ask", {"message": "hello"}))
        assert (result.text, result.is_error) == ("you said hello", False)
        assert result.run_id is not None
        assert (await engine.runs.get(LOCAL, result.run_id)).workflow == "tool:billing.ask"


async def test_the_next_agent_takes_what_the_first_never_got() -> None:
    """Only when no byte was sent; the journal says why, and a crash later does not go back to the first."""
    first, second = MemoryPeer("billing", echo), MemoryPeer("invoices", echo)
    first.shut = True
    async with with_peers(first, second) as engine:
        run = await engine.agents.send(LOCAL, Sending(Message("m1", "user", [Part(text="hi")]), skill="ask"))
        routed = [entry.payload for entry in await journal(engine, run, Kind.RUN_ROUTED)]
        assert (routed[0]["agent"], routed[0]["others"][0]["agent"]) == ("billing", "invoices")
        run = await until(engine, run, RunState.COMPLETED, RunState.FAILED)
        assert run.output == "you said hi"
        assert run.route is not None
        assert run.route["agent"] == "invoices"
        assert "billing could not be reached, and nothing was sent to it" in str(run.route["reason"])
        assert (first.sent, len(second.sent)) == ([], 1)


async def test_an_agent_that_may_have_got_the_message_is_not_replaced() -> None:
    """The next one would do it a second time."""
    first, second = MemoryPeer("billing", echo), MemoryPeer("invoices", echo)
    first.mute, first.lists = 1, False
    async with with_peers(first, second) as engine:
        run = await engine.agents.send(LOCAL, Sending(Message("m1", "user", [Part(text="hi")]), skill="ask"))
        run = await until(engine, run, RunState.COMPLETED, RunState.FAILED)
        assert (run.state, len(first.sent), second.sent) == (RunState.FAILED, 1, [])


async def test_nobody_fits_is_a_rejected_task() -> None:
    """Recorded, over at once, with what comes nearest."""
    two = [workflow(name, {"id": "a", "set": "x"}, on={"a2a": {"tags": [name]}}) for name in ("refund", "invoice")]
    async with with_peers(workflows=tuple(two)) as engine:
        run = await engine.agents.send(LOCAL, say("sing me a lullaby", agent=None))
        assert run.state is RunState.REJECTED
        run = await engine.runs.get(LOCAL, run.id)
        assert run.error is not None
        assert run.error["code"] == "no_agent"


async def test_the_same_message_twice_is_one_task_when_it_says_so() -> None:
    """Another message under the same id is a conflict; without the extension each is a task of its own."""
    from dataclasses import replace

    from agentmesh.errors import Conflict

    flow = workflow("echo", {"id": "a", "set": "${{ input }}"}, on={"a2a": {}})
    async with with_peers(workflows=(flow,)) as engine:
        asked = replace(say("hello", agent=None), idempotent=True)
        first, again = await engine.agents.send(LOCAL, asked), await engine.agents.send(LOCAL, asked)
        assert first.id == again.id
        with pytest.raises(Conflict, match="messageId"):
            await engine.agents.send(LOCAL, replace(say("good-bye", agent=None), idempotent=True))
        assert (await engine.agents.send(LOCAL, say("hello", agent=None))).id != first.id


async def test_a_workflow_reads_the_conversation() -> None:
    """What was said in the context before, oldest first; a run alone has none."""
    reads = workflow("reads", {"id": "a", "set": "${{ context.messages }}"}, on={"a2a": {}})
    async with with_peers(workflows=(reads,)) as engine:
        first = await engine.agents.send(LOCAL, say("one", agent=None, context_id="c"))
        assert (await until(engine, first, RunState.COMPLETED)).output == []
        second = await engine.agents.send(LOCAL, say("two", agent=None, context_id="c"))
        said = (await until(engine, second, RunState.COMPLETED)).output
        assert [(one["role"], one["text"]) for one in said] == [("user", "one"), ("agent", "[]")]


async def test_a_workflow_may_answer_by_a_message() -> None:
    """Where its condition says so."""
    flow = workflow(
        "flow", {"id": "a", "set": "${{ context.message.text }}"},
        on={"a2a": {"reply": "context.message.id.startsWith('quick')"}},
    )  # fmt: skip
    async with with_peers(workflows=(flow,)) as engine:
        for ident, replies in (("quick-1", True), ("slow-1", False)):
            message = Message(ident, "user", [Part(text="hello")])
            run = await engine.agents.send(LOCAL, Sending(message))
            assert engine.agents.replies(run) is replies
            run = await until(engine, run, RunState.COMPLETED)
            assert (run.output, run.replied) == ("hello", replies)


async def test_a_message_that_goes_round_in_a_circle_ends() -> None:
    """Each mesh on its way counts; an agent that is the mesh itself gets it a few times, and no more."""
    peer = MemoryPeer("billing", echo)
    async with with_peers(peer) as engine:
        await until(engine, await engine.agents.send(LOCAL, say("hello")), RunState.COMPLETED)
        assert peer.sent[0]["metadata"][HOPS] == 1
        for hops in (MOST_HOPS - 1, MOST_HOPS):
            message = say("hello", metadata={HOPS: hops})
            if hops < MOST_HOPS:
                await until(engine, await engine.agents.send(LOCAL, message), RunState.COMPLETED)
                assert peer.sent[-1]["metadata"][HOPS] == MOST_HOPS
            else:
                with pytest.raises(InvalidInput, match="in a circle"):
                    await engine.agents.send(LOCAL, message)
