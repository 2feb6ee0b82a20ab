"""Tasks of agents elsewhere as their callers see them: the agent's words, its artifacts as they come, its questions, its replies."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core.agent import ROUTE, Skill
from tests.a2a.calling import BINDINGS, call, events_of, sent, streaming
from tests.a2a.conftest import serving_mesh, skills_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio


async def work(task: MemoryTask) -> None:
    """Says what it does and makes one artifact in two pieces, another one whole."""
    task.status("WORKING", "looking at it")
    task.artifact("report", {"text": "one "})
    task.artifact("report", {"text": "two"}, append=True)
    task.artifact("file", {"raw": "aGk=", "mediaType": "text/csv", "filename": "a.csv"})
    task.status("COMPLETED", "that is all")


@covers("A2A-1.0.1 3.1.2#first", "A2A-1.0.1 4.2.2#append")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_stream_tells_what_the_agent_says(binding: str) -> None:
    """In its words and order, under ids of this mesh; nothing of what the mesh does about it."""
    go = anyio.Event()

    async def when_asked(task: MemoryTask) -> None:
        task.status("WORKING", "one moment")
        await go.wait()
        await work(task)

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", when_asked)]) as on:
        with anyio.fail_after(10):
            async with streaming(on, binding, "SendStreamingMessage", sent(), agent="billing") as coming:
                events = [await anext(coming)]
                go.set()
                events += [event async for event in coming]
        task = events[0]["task"]
        assert all(len(event) == 1 for event in events)
        updates = [next(iter(event.values())) for event in events[1:]]
        assert {(u["taskId"], u["contextId"]) for u in updates} == {(task["id"], task["contextId"])}
        pieces = [(u["artifact"]["parts"], u.get("append", False)) for u in updates if "artifact" in u]
        file = {"raw": "aGk=", "filename": "a.csv", "mediaType": "text/csv"}
        assert pieces == [([{"text": "one "}], False), ([{"text": "two"}], True), ([file], False)]
        told = [u["status"] for u in updates if "status" in u]
        words = [status["message"]["parts"][0]["text"] for status in told]
        assert words[-2:] == ["looking at it", "that is all"]
        assert told[-1]["state"] == "TASK_STATE_COMPLETED"
        assert all("task" not in word and "billing-1" not in word for word in words), words
        seen = (await call(on, binding, "GetTask", {"id": task["id"]})).result
        assert [a["artifactId"] for a in seen["artifacts"]] == ["report", "file"]
        assert seen["artifacts"][0]["parts"] == [{"text": "one "}, {"text": "two"}]
        assert seen["artifacts"][1]["parts"] == [file]
        assert seen["status"]["message"]["parts"] == [{"text": "that is all"}]


@covers("A2A-1.0.1 3.1.4#artifacts")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_list_shows_what_agents_elsewhere_made(binding: str) -> None:
    """With artifacts and history it says what GetTask says."""
    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", work)]) as on:
        task = (await call(on, binding, "SendMessage", sent(), agent="billing")).result["task"]
        await call(on, binding, "SendMessage", sent("own", metadata={"skill": "shout"}))
        full = await call(on, binding, "ListTasks", {"includeArtifacts": True, "historyLength": 9})
        for one in full.result["tasks"]:
            assert one == (await call(on, binding, "GetTask", {"id": one["id"]})).result
        bare = await call(on, binding, "ListTasks", {})
        assert all("artifacts" not in one and "history" not in one for one in bare.result["tasks"])
        by_id = {one["id"]: one for one in bare.result["tasks"]}
        assert by_id[task["id"]]["status"] == task["status"]


@covers("A2A-1.0.1 3.4.3#history")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_it_asks_is_answered_by_the_next_message(binding: str) -> None:
    """input-required in the agent's words; the answer reaches it as it is, and history has all of it in order."""
    answers: list[Any] = []

    async def asks(task: MemoryTask) -> None:
        answer = await task.ask("which account?")
        answers.append(answer["parts"])
        task.artifact("answer", {"text": "done"})

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", asks)]) as on:
        task = (await call(on, binding, "SendMessage", sent("pay"), agent="billing")).result["task"]
        assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert task["status"]["message"]["parts"] == [{"text": "which account?"}]
        listed = (await call(on, binding, "ListTasks", {"status": "TASK_STATE_INPUT_REQUIRED"})).result["tasks"]
        assert [one["status"] for one in listed] == [task["status"]]
        follow = {"taskId": task["id"], "messageId": "m2", "parts": [{"data": {"account": 7}}]}
        done = (await call(on, binding, "SendMessage", sent(**follow), agent="billing")).result["task"]
        assert (done["id"], done["status"]["state"]) == (task["id"], "TASK_STATE_COMPLETED")
        assert answers == [[{"data": {"account": 7}}]]
        history = (await call(on, binding, "GetTask", {"id": task["id"]})).result["history"]
        said = [(m["role"], m["parts"][0].get("text")) for m in history]
        assert said == [("ROLE_USER", "pay"), ("ROLE_AGENT", "which account?"), ("ROLE_USER", None)]
        assert {(m["taskId"], m["contextId"]) for m in history} == {(task["id"], task["contextId"])}
        last = (await call(on, binding, "GetTask", {"id": task["id"], "historyLength": 1})).result["history"]
        assert last == history[-1:]


@covers("A2A-1.0.1 7.6.1#auth-required")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_that_waits_for_a_log_in(binding: str) -> None:
    """A blocking call comes back with it; a stream stays, and tells how it goes on without a further message."""
    logged_in = anyio.Event()

    async def logs_in(task: MemoryTask) -> None:
        task.status("AUTH_REQUIRED", "log in at https://example.org")
        await logged_in.wait()
        task.status("WORKING", "thank you")

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", logs_in)]) as on:
        task = (await call(on, binding, "SendMessage", sent(), agent="billing")).result["task"]
        assert task["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
        assert task["status"]["message"]["parts"] == [{"text": "log in at https://example.org"}]
        with anyio.fail_after(10):
            async with streaming(on, binding, "SubscribeToTask", {"id": task["id"]}) as events:
                first = await anext(events)
                assert first["task"]["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
                logged_in.set()
                rest = [event async for event in events]
        assert rest[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@covers("A2A-1.0.1 3.1.1#message", "A2A-1.0.1 3.1.2#message-only")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_that_answers_by_a_message(binding: str) -> None:
    """SendMessage has the message, and so has the stream, as its one event."""

    async def replies(task: MemoryTask) -> None:
        task.answer(f"hello {task.text}")

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", replies)]) as on:
        for params in (sent("you"), {**sent("you"), "configuration": {"returnImmediately": True}}):
            answer = (await call(on, binding, "SendMessage", params, agent="billing")).result
            assert list(answer) == ["message"]
            message = answer["message"]
            assert (message["role"], message["parts"]) == ("ROLE_AGENT", [{"text": "hello you"}])
            assert message["contextId"]
            assert "taskId" not in message
        events = await events_of(on, binding, "SendStreamingMessage", sent("you"), agent="billing")
        assert [list(event) for event in events] == [["message"]]
        assert events[0]["message"]["parts"] == [{"text": "hello you"}]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_that_takes_its_time_is_shown_as_a_task(binding: str) -> None:
    """After a second without a word there is a Task; a reply that comes then is its last status, and no second kind of stream."""
    go = anyio.Event()

    async def late(task: MemoryTask) -> None:
        await go.wait()
        task.answer("at last")

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", late)]) as on:
        with anyio.fail_after(10):
            async with streaming(on, binding, "SendStreamingMessage", sent(), agent="billing") as events:
                assert "task" in await anext(events)
                go.set()
                rest = [event async for event in events]
    assert all("message" not in event for event in rest)
    last = rest[-1]["statusUpdate"]["status"]
    assert (last["state"], last["message"]["parts"]) == ("TASK_STATE_COMPLETED", [{"text": "at last"}])


@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_the_agent_refuses_is_shown_as_it_was(binding: str) -> None:
    """REJECTED and FAILED, with its reason."""

    async def refuses(task: MemoryTask) -> None:
        task.status("REJECTED" if "please" in task.text else "FAILED", "not today")

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", refuses)]) as on:
        for text, state in (("please", "REJECTED"), ("now", "FAILED")):
            task = (await call(on, binding, "SendMessage", sent(text), agent="billing")).result["task"]
            assert task["status"]["state"] == f"TASK_STATE_{state}"
            assert "not today" in task["status"]["message"]["parts"][0]["text"]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_cancelling_reaches_the_agent(binding: str) -> None:
    """Its own task is ended before the caller's is."""

    async def waits(task: MemoryTask) -> None:
        task.status("WORKING")
        await anyio.sleep_forever()

    peer = MemoryPeer("billing", waits)
    async with serving_mesh(skills_mesh(), peers=[peer]) as on:
        configuration = {"configuration": {"returnImmediately": True}}
        task = (await call(on, binding, "SendMessage", {**sent(), **configuration}, agent="billing")).result["task"]
        async with streaming(on, binding, "SubscribeToTask", {"id": task["id"]}) as events:
            async for event in events:
                if "statusUpdate" in event or event["task"]["status"]["state"] == "TASK_STATE_WORKING":
                    break
        canceled = (await call(on, binding, "CancelTask", {"id": task["id"]}, agent="billing")).result
        assert canceled["status"]["state"] == "TASK_STATE_CANCELED"
        assert peer.cancelled == ["billing-1"]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_message_to_the_mesh_shows_who_took_it_and_why(binding: str) -> None:
    """In the task's metadata; who else there is stays unsaid."""
    skill = Skill("refund", "Refund", "Refunds an invoice.", "", agent="billing", tool="billing.refund")
    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", work, skills=[skill])]) as on:
        params = sent("refund invoice 7", metadata={"skill": "refund"})
        task = (await call(on, binding, "SendMessage", params)).result["task"]
        route = task["metadata"][ROUTE]
        assert (route["agent"], route["skill"]) == ("billing", "refund")
        assert route["reason"]
        assert "others" not in route
