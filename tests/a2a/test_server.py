"""The official client against our server, over real sockets and both bindings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client import Client
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    A2AError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import MessageToDict, ParseDict

from agentmesh.core.run import RunState
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.engine.meshes import LOCAL
from tests.requirements import covers

pytestmark = pytest.mark.anyio

BINDINGS = ["JSONRPC", "HTTP+JSON"]


@asynccontextmanager
async def client(on: Serving, binding: str = "JSONRPC", *, streaming: bool = True) -> AsyncIterator[Client]:
    """The SDK's client, made from our card."""
    config = ClientConfig(streaming=streaming, supported_protocol_bindings=[binding], use_client_preference=True)
    made = await ClientFactory(config).create_from_url(on.url)
    async with made:
        yield made


def message(
    text: str | None = None,
    *,
    data: Any = None,
    skill: str | None = None,
    configuration: dict[str, Any] | None = None,
    **more: Any,
) -> pb.SendMessageRequest:
    part = {"text": text} if text is not None else {"data": data}
    body: dict[str, Any] = {"messageId": "m-1", "role": "ROLE_USER", "parts": [part], **more}
    if skill:
        body["metadata"] = {"skill": skill}
    wire = {"message": body, "configuration": configuration or {}}
    return ParseDict(wire, pb.SendMessageRequest())


async def send(made: Client, request: pb.SendMessageRequest) -> pb.Task:
    """One answer, the task."""
    [answer] = [event async for event in made.send_message(request)]
    return answer.task


def data_of(task: pb.Task) -> Any:
    [artifact] = task.artifacts
    text, data = artifact.parts
    value = MessageToDict(data.data)
    assert json.loads(text.text) == value
    return value


@covers("A2A-1.0.1 3.1.1#send-message", "A2A-1.0.1 3.2.2#return-immediately")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_message_is_answered_by_its_skills_output(on: Serving, binding: str) -> None:
    """The task is complete, with the message in its history and the output as text and as data; it is a run."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message("hello", contextId="ctx-1"))
    assert task.status.state == pb.TASK_STATE_COMPLETED
    assert data_of(task) == {"said": "HELLO", "length": 5}
    assert (task.context_id, task.history[0].parts[0].text) == ("ctx-1", "hello")
    run = await on.engine.runs.get(LOCAL, task.id)
    assert (run.workflow, run.source, run.output) == ("shout", "a2a", {"said": "HELLO", "length": 5})


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_object_data_part_is_the_input(on: Serving, binding: str) -> None:
    """Numbers come back as the integers they were."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message(data={"item": "tea", "count": 3}, skill="order"))
    assert (await on.engine.runs.get(LOCAL, task.id)).input == {"item": "tea", "count": 3}
    assert data_of(task) == {"item": "tea", "count": 3}


@pytest.mark.parametrize("key", ["skill", "urn:agentmesh:a2a:skill:1"])
async def test_metadata_of_the_message_or_of_its_request_names_the_skill(on: Serving, key: str) -> None:
    """By the extension's URI or the bare key."""
    async with client(on, streaming=False) as made:
        request = message(data={"item": "tea", "count": 1})
        request.metadata.update({key: "order"})
        assert (await send(made, request)).status.state == pb.TASK_STATE_COMPLETED


@covers("A2A-1.0.1 3.1.2#stream")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_stream_is_the_task_its_updates_its_artifact_and_its_end(on: Serving, binding: str) -> None:
    """The Task comes first, each status says in plain words what goes on, and the artifact precedes the last state."""
    on.gate.go.set()
    async with client(on, binding) as made:
        events = [event async for event in made.send_message(message("hi", skill="gate"))]
    kinds = [event.WhichOneof("payload") for event in events]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("task", "artifact_update", "status_update")
    assert set(kinds[1:-2]) == {"status_update"}
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    said = [event.status_update.status.message for event in events if event.HasField("status_update")]
    assert {"work started", "work completed"} <= {message.parts[0].text for message in said}
    ids = [message.message_id for message in said]
    assert len(set(ids)) == len(ids)
    assert {event.status_update.task_id for event in events[1:-2]} == {events[0].task.id}


@covers("A2A-1.0.1 3.5.2#disconnect", "A2A-1.0.1 3.1.6#subscribe", "A2A-1.0.1 3.1.3#get-task")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_task_outlives_its_stream_and_can_be_taken_up_again(on: Serving, binding: str) -> None:
    """A client that leaves cancels nothing: another finds the task working, subscribes, and sees it end."""
    async with client(on, binding) as made, aclosing(made.send_message(message("hi", skill="gate"))) as stream:
        task = (await anext(stream)).task
    with anyio.fail_after(5):
        await on.gate.reached.wait()
    async with client(on, binding) as made:
        again = await made.get_task(pb.GetTaskRequest(id=task.id))
        assert again.status.state == pb.TASK_STATE_WORKING
        seen = []
        async for event in made.subscribe(pb.SubscribeToTaskRequest(id=task.id)):
            seen.append(event)
            on.gate.go.set()
        assert seen[0].task.id == task.id
        assert seen[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
        assert (await made.get_task(pb.GetTaskRequest(id=task.id))).status.state == pb.TASK_STATE_COMPLETED
    assert on.gate.calls == 1


@covers("A2A-1.0.1 3.1.6#terminal", "A2A-1.0.1 3.1.5#cancel-task", "A2A-1.0.1 3.1.1#terminal")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_cancel_ends_the_task_and_what_it_does(on: Serving, binding: str) -> None:
    """A cancelled task takes no second cancel, no message and no subscriber."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message("hi", skill="gate", configuration={"returnImmediately": True}))
        assert task.status.state in (pb.TASK_STATE_SUBMITTED, pb.TASK_STATE_WORKING)
        with anyio.fail_after(5):
            await on.gate.reached.wait()
        cancelled = await made.cancel_task(pb.CancelTaskRequest(id=task.id))
        assert cancelled.status.state == pb.TASK_STATE_CANCELED
        with anyio.fail_after(5):
            await on.gate.left.wait()
        with pytest.raises(TaskNotCancelableError):
            await made.cancel_task(pb.CancelTaskRequest(id=task.id))
        with pytest.raises(UnsupportedOperationError, match="new task"):
            await send(made, message("more", taskId=task.id))
    async with client(on, binding) as made:
        with pytest.raises(UnsupportedOperationError):
            [event async for event in made.subscribe(pb.SubscribeToTaskRequest(id=task.id))]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_that_fails_says_why(on: Serving, binding: str) -> None:
    """FAILED is a task, not an error, and its message has the step's words."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message("hi", skill="broken"))
    assert task.status.state == pb.TASK_STATE_FAILED
    assert "the printer is on fire" in task.status.message.parts[0].text
    assert not task.artifacts


@covers("A2A-1.0.1 3.3.2#errors")
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (message("hi", skill="shuot"), InvalidParamsError, "did you mean 'shout'"),
        (message("hi", skill="order"), InvalidParamsError, "item, count"),
        (message(data={"item": "tea", "count": "x"}, skill="order"), InvalidParamsError, "count"),
        (message(data={"text": 5}), InvalidParamsError, "text"),
        (message("hi", taskId="no-such"), TaskNotFoundError, "no-such"),
        (
            message("hi", configuration={"taskPushNotificationConfig": {"url": "http://127.0.0.1/"}}),
            PushNotificationNotSupportedError,
            "GetTask",
        ),
    ],
)
async def test_a_callers_mistake_is_its_error_before_anything_runs(
    on: Serving, binding: str, request_: pb.SendMessageRequest, error: type[A2AError], words: str
) -> None:
    """In the protocol's form, with words that say what to do; no run is recorded. Streams too."""
    for streaming in (False, True):
        async with client(on, binding, streaming=streaming) as made:
            with pytest.raises(error, match=words):
                [event async for event in made.send_message(request_)]
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


@pytest.mark.parametrize("binding", BINDINGS)
async def test_tasks_that_never_were_are_not_found(on: Serving, binding: str) -> None:
    """Over both bindings, for reading, cancelling and subscribing."""
    async with client(on, binding) as made:
        with pytest.raises(TaskNotFoundError):
            await made.get_task(pb.GetTaskRequest(id="no-such"))
        with pytest.raises(TaskNotFoundError):
            await made.cancel_task(pb.CancelTaskRequest(id="no-such"))
        with pytest.raises(TaskNotFoundError):
            [event async for event in made.subscribe(pb.SubscribeToTaskRequest(id="no-such"))]


@covers("A2A-1.0.1 3.3.4#capabilities")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_the_card_does_not_offer_is_refused(on: Serving, binding: str) -> None:
    """Push notifications, where the mesh has nobody who sends them."""
    async with client(on, binding) as made:
        with pytest.raises(PushNotificationNotSupportedError):
            await made.list_task_push_notification_configs(pb.ListTaskPushNotificationConfigsRequest(task_id="x"))


@covers("A2A-1.0.1 3.2.4#history-length")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_history_length(on: Serving, binding: str) -> None:
    """All without it, none with 0; a negative one is refused."""
    async with client(on, binding, streaming=False) as made:
        task = await send(made, message("hello", configuration={"historyLength": 0}))
        assert not task.history
        assert len((await made.get_task(pb.GetTaskRequest(id=task.id))).history) == 1
        assert len((await made.get_task(pb.GetTaskRequest(id=task.id, history_length=1))).history) == 1
        with pytest.raises(InvalidParamsError, match="negative"):
            await made.get_task(pb.GetTaskRequest(id=task.id, history_length=-1))


@covers("A2A-1.0.1 3.1.4#list-tasks")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_tasks_are_listed_in_pages(on: Serving, binding: str) -> None:
    """Each once, of one context, by state; without artifacts unless they are asked for."""
    async with client(on, binding, streaming=False) as made:
        ids = [(await send(made, message("hello", contextId="ctx"))).id for _ in range(3)]
        await send(made, message("hello"))
        seen: list[str] = []
        token = ""
        for _ in range(2):
            page = await made.list_tasks(pb.ListTasksRequest(context_id="ctx", page_size=2, page_token=token))
            assert page.total_size == 3
            seen += [task.id for task in page.tasks]
            token = page.next_page_token
        assert (sorted(seen), token) == (sorted(ids), "")
        assert not page.tasks[0].artifacts
        assert not page.tasks[0].history
        full = await made.list_tasks(pb.ListTasksRequest(context_id="ctx", include_artifacts=True))
        assert data_of(full.tasks[0]) == {"said": "HELLO", "length": 5}
        failed = pb.ListTasksRequest(context_id="ctx", status=pb.TASK_STATE_FAILED)
        assert not (await made.list_tasks(failed)).tasks
        for bad in (pb.ListTasksRequest(page_size=0), pb.ListTasksRequest(page_token="no-such")):
            with pytest.raises(InvalidParamsError):
                await made.list_tasks(bad)


async def test_accepted_output_modes_choose_the_parts(on: Serving) -> None:
    """A client that takes text only gets text only."""
    async with client(on, streaming=False) as made:
        task = await send(made, message("hello", configuration={"acceptedOutputModes": ["text/*"]}))
    assert [part.WhichOneof("content") for part in task.artifacts[0].parts] == ["text"]


@covers("A2A-1.0.1 4.1.3#rejected")
async def test_a_message_that_nobody_takes_is_a_rejected_task() -> None:
    """It is over at once, and its status says so."""
    async with serving_mesh(skills_mesh(default=None)) as on, client(on, streaming=False) as made:
        task = await send(made, message("qqqq zzzz xxxx"))
        assert task.status.state == pb.TASK_STATE_REJECTED
        assert task.status.message.parts[0].text.startswith("rejected: ")
        assert (await made.get_task(pb.GetTaskRequest(id=task.id))).status.state == pb.TASK_STATE_REJECTED
        with pytest.raises(InvalidParamsError, match="no skill 'nosuch'"):
            await send(made, message("hello", skill="nosuch"))


async def test_a_client_that_leaves_a_blocking_call_cancels_nothing(on: Serving) -> None:
    """The connection is closed while the server still waits for the run; the run ends all the same."""
    async with client(on, streaming=False) as made, anyio.create_task_group() as group:
        group.start_soon(send, made, message("hi", skill="gate"))
        with anyio.fail_after(5):
            await on.gate.reached.wait()
        group.cancel_scope.cancel()
    on.gate.go.set()
    [run] = (await on.http.get("/v1/runs")).json()["runs"]
    with anyio.fail_after(5):
        assert (await on.engine.runs.wait(LOCAL, run["id"])).state is RunState.COMPLETED
