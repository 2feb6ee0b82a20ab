"""Tasks that ask their client: input-required, the answer, a signal; by the official client and on the wire."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict

from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind, RunState
from tests.a2a.conftest import Serving, serving_mesh
from tests.a2a.test_server import BINDINGS, client, data_of, message, send
from tests.engine.meshes import LOCAL, journal, mesh, workflow
from tests.http.test_waiting import FORM, on_failing_store
from tests.requirements import covers

pytestmark = pytest.mark.anyio

ANSWER, SIGNAL = "urn:agentmesh:a2a:answer:1", "urn:agentmesh:a2a:signal:1"
V = {"A2A-Version": "1.0"}


def asking_mesh(**more: Any) -> Any:
    """Skills: review (yes or no), fill (a form), both (two at once), hear (a signal), quick."""
    ask = {"ask": "Send this answer?", "show": {"text": "${{ input.text }}"}}
    two = {"a": [{"id": "one", "approve": ask}], "b": [{"id": "two", "approve": ask}]}
    steps: dict[str, list[dict[str, Any]]] = {
        "review": [
            {"id": "ok", "approve": {**ask, "expires": "1h"}},
            {"id": "z", "set": {"by": "${{ steps.ok.output.by }}"}},
        ],
        "fill": [{"id": "ok", "approve": {**ask, "form": FORM}}, {"id": "z", "set": "${{ steps.ok.output.values }}"}],
        "twice": [{"id": "a", "approve": ask}, {"id": "b", "approve": ask}, {"id": "z", "set": {"ok": True}}],
        "both": [{"id": "p", "parallel": two}],
        "hear": [{"id": "w", "wait": {"signal": "go"}}, {"id": "z", "set": {"heard": True}}],
        "quick": [{"id": "a", "set": {"x": 1}}],
    }
    return mesh(*(workflow(name, *these, on={"a2a": {}}) for name, these in steps.items()), **more)


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(asking_mesh()) as serving:
        yield serving


@covers("A2A-1.0.1 3.4.3#input-required")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_that_asks_is_input_required_and_goes_on_with_the_answer(on: Serving, binding: str) -> None:
    """The blocking call ends at the question, which stands in the status as text and data; the next call ends with the output."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message("hi", skill="review"))
        assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED
        text, data = task.status.message.parts
        question = MessageToDict(data.data)["question"]
        assert text.text.startswith('Send this answer?\n{"text":"hi"}')
        assert "yes or no" in text.text
        assert (question["id"], question["kind"], question["show"]) == ("ok#1", "approval", {"text": "hi"})
        assert len(question["digest"]) == 64
        assert (await made.get_task(pb.GetTaskRequest(id=task.id))).status.message.parts == task.status.message.parts
        bound = {ANSWER: {"question": question["id"], "digest": question["digest"]}}
        done = await send(made, message(data={"approved": True}, taskId=task.id, metadata=bound))
    assert (done.id, done.status.state) == (task.id, pb.TASK_STATE_COMPLETED)
    assert data_of(done) == {"by": "local"}


@pytest.mark.parametrize(
    ("skill", "part", "state", "value"),
    [
        ("review", {"text": "yes"}, RunState.COMPLETED, None),
        ("review", {"text": " OK. "}, RunState.COMPLETED, None),
        ("review", {"text": "No!"}, RunState.FAILED, None),
        ("review", {"data": {"approved": False}}, RunState.FAILED, None),
        ("fill", {"data": {"approved": True, "amount": 3}}, RunState.COMPLETED, {"amount": 3}),
        ("fill", {"data": {"amount": 3, "note": "x"}}, RunState.COMPLETED, {"amount": 3, "note": "x"}),
        ("fill", {"data": {"approved": False}}, RunState.FAILED, None),
        ("fill", {"text": "no"}, RunState.FAILED, None),
    ],
)
async def test_ways_to_answer(on: Serving, skill: str, part: dict[str, Any], state: RunState, value: Any) -> None:
    """In plain words, as a decision, as the form's values."""
    async with client(on, streaming=False) as made:
        task = await send(made, message("hi", skill=skill))
        await send(made, message(part.get("text"), data=part.get("data"), taskId=task.id))
    run = await on.engine.runs.get(LOCAL, task.id)
    assert run.state is state
    if value is not None:
        assert run.output == value


async def test_a_second_question_is_the_next_turn(on: Serving) -> None:
    """Each call ends at the next question; a stream does, too."""
    async with client(on, streaming=False) as made:
        task = await send(made, message("hi", skill="twice"))
        task = await send(made, message("yes", taskId=task.id))
        assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED
        assert "b#1" in task.status.message.parts[0].text
    async with client(on) as made:
        with anyio.fail_after(5):
            events = [event async for event in made.send_message(message("yes", taskId=task.id))]
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    assert events[-2].HasField("artifact_update")


async def test_a_stream_ends_at_the_question(on: Serving) -> None:
    """With the question in its last status; who subscribes to a task that asks is shown it, and what comes of the answer."""
    async with client(on) as made:
        with anyio.fail_after(5):
            events = [event async for event in made.send_message(message("hi", skill="review"))]
            last = events[-1].status_update.status
            assert last.state == pb.TASK_STATE_INPUT_REQUIRED
            assert MessageToDict(last.message.parts[1].data)["question"]["ask"] == "Send this answer?"
            task = events[0].task.id
            again: list[pb.StreamResponse] = []
            async for event in made.subscribe(pb.SubscribeToTaskRequest(id=task)):
                again.append(event)
                if len(again) == 1:
                    assert event.task.status.state == pb.TASK_STATE_INPUT_REQUIRED
                    answered = await rpc(on, "SendMessage", {"message": said({"text": "yes"}, taskId=task)})
                    assert "task" in answered["result"]
    assert again[-1].status_update.status.state == pb.TASK_STATE_COMPLETED


async def test_a_signal_is_a_message_with_its_extension(on: Serving) -> None:
    """Twenty with one key are one signal; the task goes on with it."""
    async with client(on, streaming=False) as made:
        task = await send(made, message("hi", skill="hear", configuration={"returnImmediately": True}))
        signal = {SIGNAL: {"name": "go", "value": {"n": 1}, "key": "k"}}
        now = {"returnImmediately": True}

        async def say() -> None:
            try:
                await send(made, message("go", taskId=task.id, metadata=signal, configuration=now))
            except Exception as error:
                assert "completed" in str(error)  # the first one has done its work  # noqa: PT017

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(say)
    ended = await on.engine.runs.wait(LOCAL, task.id)
    assert ended.output == {"heard": True}
    assert len(await journal(on.engine, ended, Kind.RUN_SIGNALED)) == 1


async def rpc(on: Serving, method: str, params: Any) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await on.http.post("/a2a", json=body, headers=V)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def asked(on: Serving, skill: str) -> str:
    """A task that stands at its question, or at its signal."""
    wire = {"message": said({"text": "hi"}, metadata={"skill": skill})}
    started = await rpc(on, "SendMessage", {**wire, "configuration": {"returnImmediately": skill == "hear"}})
    return str(started["result"]["task"]["id"])


def said(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"messageId": "m", "role": "ROLE_USER", "parts": list(parts), **more}


@pytest.mark.parametrize(
    ("skill", "given", "code", "words"),
    [
        ("review", {"parts": [{"text": "perhaps"}]}, -32602, "neither yes nor no"),
        ("review", {"parts": [{"text": "  "}]}, -32602, "empty"),
        ("review", {"parts": [{"data": {}}]}, -32602, "approved"),
        ("review", {"parts": [{"data": {"approved": "yes"}}]}, -32602, "approved"),
        ("review", {"parts": [{"data": {"approved": None}}]}, -32602, "approved"),
        ("review", {"parts": [{"data": {"approve": False}}]}, -32602, "approved"),
        ("review", {"parts": [{"data": {"approved": True, "more": 1}}]}, -32602, "more"),
        ("review", {"parts": [{"data": [True]}]}, -32602, "object"),
        ("review", {"parts": [{"data": {"approved": True}}, {"data": {"approved": False}}]}, -32602, "several"),
        ("review", {"parts": [{"data": {"approved": True}}, {"text": "no"}]}, -32602, "several"),
        ("review", {"parts": [{"text": "yes"}], "metadata": {ANSWER: "ok#1"}}, -32602, "object"),
        ("review", {"parts": [{"text": "yes"}], "metadata": {ANSWER: {"question": 1}}}, -32602, "strings"),
        ("review", {"parts": [{"text": "yes"}], "metadata": {ANSWER: {"question": "ok#9"}}}, -32602, "ok#1"),
        ("review", {"parts": [{"text": "yes"}], "metadata": {ANSWER: {"digest": "0"}}}, -32004, "something else"),
        ("review", {"parts": [{"text": "yes"}], "contextId": "another"}, -32602, "context"),
        ("fill", {"parts": [{"text": "yes"}]}, -32602, "amount"),
        ("fill", {"parts": [{"data": {"approved": True}}]}, -32602, "amount"),
        ("fill", {"parts": [{"data": {"amount": "3"}}]}, -32602, "amount"),
        ("fill", {"parts": [{"data": {"amount": 3, "more": 1}}]}, -32602, "more"),
        ("both", {"parts": [{"text": "yes"}]}, -32004, "say which one"),
        ("hear", {"parts": [{"text": "yes"}]}, -32004, "asks nothing"),
        ("hear", {"parts": [{"text": "x"}], "metadata": {SIGNAL: "go"}}, -32602, "name"),
        ("hear", {"parts": [{"text": "x"}], "metadata": {SIGNAL: {"name": ""}}}, -32602, "name"),
        ("hear", {"parts": [{"text": "x"}], "metadata": {SIGNAL: {"name": "gone"}}}, -32602, "go"),
        ("hear", {"parts": [{"text": "x"}], "metadata": {SIGNAL: {"name": "go", "key": 1}}}, -32602, "key"),
        ("quick", {"parts": [{"text": "yes"}]}, -32004, "completed"),
    ],
)
async def test_bad_follow_ups_are_the_clients(
    on: Serving, skill: str, given: dict[str, Any], code: int, words: str
) -> None:
    """Each has the protocol's code and says what is wrong; the task stays where it was."""
    task = await asked(on, skill)
    before = await on.engine.runs.get(LOCAL, task)
    answer = await rpc(on, "SendMessage", {"message": {**said(), "taskId": task, **given}})
    assert "error" in answer, answer
    assert (answer["error"]["code"], words in answer["error"]["message"]) == (code, True), answer["error"]
    after = await on.engine.runs.get(LOCAL, task)
    assert (after.state, after.seq) == (before.state, before.seq) or skill == "hear"


async def test_twenty_answers_at_once(on: Serving) -> None:
    """One wins; the others are told who was quicker, as an operation that is not supported now."""
    task = await asked(on, "fill")
    answers: list[dict[str, Any]] = []

    async def say(n: int) -> None:
        wire = said({"data": {"amount": n}}, taskId=task)
        answers.append(await rpc(on, "SendMessage", {"message": wire, "configuration": {"returnImmediately": True}}))

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(say, n)
    assert Counter(answer.get("error", {}).get("code") for answer in answers) == {None: 1, -32004: 19}
    run = await on.engine.runs.wait(LOCAL, task)
    (entry,) = await journal(on.engine, run, Kind.RUN_ANSWERED)
    assert run.output == entry.payload["value"]


async def test_a_task_that_asks_can_be_cancelled(on: Serving) -> None:
    """It ends at once, and takes no answer any more."""
    for skill in ("review", "both", "hear"):
        task = await asked(on, skill)
        canceled = await rpc(on, "CancelTask", {"id": task})
        assert canceled["result"]["status"]["state"] == "TASK_STATE_CANCELED"
        late = await rpc(on, "SendMessage", {"message": said({"text": "yes"}, taskId=task)})
        assert (late["error"]["code"], "canceled" in late["error"]["message"]) == (-32004, True)


async def test_who_may_not_answer_is_told_so_in_a2as_form() -> None:
    """-32000, and PERMISSION_DENIED over HTTP+JSON."""
    rules = PolicyFile.model_validate({"rules": [{"allow": "*"}, {"deny": "runs.answer"}]})
    async with serving_mesh(asking_mesh(policies=(rules,))) as on:
        task = await asked(on, "review")
        denied = await rpc(on, "SendMessage", {"message": said({"text": "yes"}, taskId=task)})
        assert denied["error"]["code"] == -32000
        rest = await on.http.post(
            "/a2a/message:send", content=json.dumps({"message": said({"text": "yes"}, taskId=task)}),
            headers={**V, "Content-Type": "application/a2a+json"},
        )  # fmt: skip
        assert (rest.status_code, rest.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


async def test_the_list_shows_who_waits(on: Serving) -> None:
    """By their state."""
    task = await asked(on, "review")
    found = await rpc(on, "ListTasks", {"status": "TASK_STATE_INPUT_REQUIRED"})
    assert [one["id"] for one in found["result"]["tasks"]] == [task]


@covers("A2A-1.0.1 3.3.2#unavailable")
async def test_a_store_in_trouble_is_unavailable() -> None:
    """-32050 over JSON-RPC, UNAVAILABLE and 503 over HTTP+JSON, each with Retry-After; well again when the store is."""
    async with on_failing_store() as (store, engine, http):
        on = Serving("", engine, None, http)  # type: ignore[arg-type]
        store.failing = True
        got = await rpc(on, "GetTask", {"id": "00000000-0000-7000-8000-000000000000"})
        assert (got["error"]["code"], "disk is full" in got["error"]["message"]) == (-32050, True)
        rest: httpx.Response = await http.get("/a2a/tasks/00000000-0000-7000-8000-000000000000", headers=V)
        assert (rest.status_code, rest.json()["error"]["status"]) == (503, "UNAVAILABLE")
        assert rest.headers["retry-after"] == "1"
        sent = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "SendStreamingMessage",
            "params": {"message": said({"text": "hi"})},
        }
        stream = await http.post("/a2a", json=sent, headers=V)
        assert (stream.json()["error"]["code"], stream.headers["retry-after"]) == (-32050, "1")
        store.failing = False
        got = await rpc(on, "GetTask", {"id": "00000000-0000-7000-8000-000000000000"})
        assert got["error"]["code"] == -32001
