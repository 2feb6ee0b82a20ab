"""Version 0.3 at the same addresses, by the SDK's own clients of 0.3 and on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from a2a.client.client import ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.compat.v0_3.jsonrpc_transport import CompatJsonRpcTransport
from a2a.compat.v0_3.rest_transport import CompatRestTransport
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError
from google.protobuf.json_format import MessageToDict

from agentmesh.adapters.memory_peer import MemoryPeer
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.a2a.test_addresses import echo
from tests.a2a.test_server import data_of, message
from tests.a2a.test_waiting import asking_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio

BINDINGS = ["JSONRPC", "HTTP+JSON"]
Transport = CompatJsonRpcTransport | CompatRestTransport


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", echo)]) as serving:
        yield serving


def transport(on: Serving, binding: str, agent: str | None = None) -> Transport:
    url = f"{on.url}/a2a" + (f"/{agent}" if agent else "")
    if binding == "JSONRPC":
        return CompatJsonRpcTransport(on.http, None, url)
    return CompatRestTransport(on.http, None, url)


@covers("A2A-0.3 7#methods", "A2A-0.3 3.5.3#rest")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_client_of_0_3_sends_reads_and_cancels(on: Serving, binding: str) -> None:
    """The same task is seen by clients of both versions."""
    old = transport(on, binding)
    answer = await old.send_message(message("hello", contextId="ctx"))
    task = answer.task
    assert task.status.state == pb.TASK_STATE_COMPLETED
    assert data_of(task) == {"said": "HELLO", "length": 5}
    assert (task.context_id, task.history[0].parts[0].text) == ("ctx", "hello")
    again = await old.get_task(pb.GetTaskRequest(id=task.id))
    assert MessageToDict(again) == MessageToDict(task)
    new = await on.http.get(f"/a2a/tasks/{task.id}", headers={"A2A-Version": "1.0"})
    assert new.json()["status"]["state"] == "TASK_STATE_COMPLETED"
    waiting = await old.send_message(message("hi", skill="gate", configuration={"returnImmediately": True}))
    canceled = await old.cancel_task(pb.CancelTaskRequest(id=waiting.task.id))
    assert canceled.status.state == pb.TASK_STATE_CANCELED


@covers("A2A-0.3 7.2#final")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_client_of_0_3_streams_and_subscribes_again(on: Serving, binding: str) -> None:
    """The Task, its updates, its artifact, and a last status that is final."""
    old = transport(on, binding)
    events = []
    with anyio.fail_after(10):
        async for event in old.send_message_streaming(message("hi", skill="gate")):
            events.append(event)
            if len(events) == 1:
                break
        async for event in old.subscribe(pb.SubscribeToTaskRequest(id=events[0].task.id)):
            events.append(event)
            on.gate.go.set()
    assert events[1].task.id == events[0].task.id
    assert events[-2].HasField("artifact_update")
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_elsewhere_is_reached_in_0_3_too(on: Serving, binding: str) -> None:
    """At its own address."""
    answer = await transport(on, binding, "billing").send_message(message("hello"))
    assert answer.task.artifacts[0].parts[0].text == "you said hello"


@covers("A2A-0.3 8#errors")
async def test_errors_of_0_3_have_their_classes(on: Serving) -> None:
    """The SDK's client of 0.3 raises the same error over JSON-RPC as a client of 1.0 does."""
    old = transport(on, "JSONRPC")
    done = (await old.send_message(message("hello"))).task.id
    with pytest.raises(TaskNotFoundError):
        await old.get_task(pb.GetTaskRequest(id="no-such"))
    with pytest.raises(TaskNotCancelableError):
        await old.cancel_task(pb.CancelTaskRequest(id=done))
    with pytest.raises(UnsupportedOperationError):
        [event async for event in old.subscribe(pb.SubscribeToTaskRequest(id=done))]
    with pytest.raises(UnsupportedOperationError):
        await old.send_message(message("again", taskId=done))
    with pytest.raises(InvalidParamsError):
        await old.send_message(message("hello", skill="nosuch"))
    rest = transport(on, "HTTP+JSON")
    with pytest.raises(TaskNotFoundError):
        await rest.get_task(pb.GetTaskRequest(id="no-such"))
    with pytest.raises((TaskNotCancelableError, A2AClientError)):
        await rest.cancel_task(pb.CancelTaskRequest(id=done))


@covers("A2A-0.3 7.2#final")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_that_asks_is_answered_in_0_3(binding: str) -> None:
    """input-required, final; the answer completes it."""
    async with serving_mesh(asking_mesh()) as on:
        old = transport(on, binding)
        task = (await old.send_message(message("hi", skill="review"))).task
        assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED
        done = (await old.send_message(message("yes", taskId=task.id))).task
        assert (done.id, done.status.state) == (task.id, pb.TASK_STATE_COMPLETED)
        events: list[Any] = []
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "message/stream",
            "params": sent03("hi", metadata={"skill": "review"}),
        }
        async with on.http.stream("POST", "/a2a", json=body) as answer:
            events = [
                httpx.Response(200, text=line[5:]).json() async for line in answer.aiter_lines() if line[:5] == "data:"
            ]
        assert [event["result"].get("final", False) for event in events[1:]] == [False] * (len(events) - 2) + [True]
        assert events[-1]["result"]["status"]["state"] == "input-required"


@pytest.mark.parametrize("binding", BINDINGS)
async def test_files_go_through_in_0_3(binding: str) -> None:
    """As bytes and by address; the agent elsewhere sees what was sent."""
    seen: list[Any] = []

    async def keep(task: Any) -> None:
        seen.extend(task.message["parts"])
        task.artifact("file", {"raw": "aGk=", "mediaType": "text/csv", "filename": "a.csv"})

    async with serving_mesh(skills_mesh(), peers=[MemoryPeer("billing", keep)]) as on:
        request = message("look")
        request.message.parts.append(pb.Part(raw=b"\x00\xff", media_type="image/png", filename="a.png"))
        request.message.parts.append(pb.Part(url="http://127.0.0.1:9/x", media_type="image/png"))
        answer = await transport(on, binding, "billing").send_message(request)
    assert seen[1] == {"raw": "AP8=", "mediaType": "image/png", "filename": "a.png"}
    assert seen[2] == {"url": "http://127.0.0.1:9/x", "mediaType": "image/png"}
    [part] = answer.task.artifacts[0].parts
    assert (part.raw, part.media_type, part.filename) == (b"hi", "text/csv", "a.csv")


async def test_extensions_of_0_3_have_their_old_name(on: Serving) -> None:
    """X-A2A-Extensions."""
    idempotency = "urn:agentmesh:a2a:idempotency:1"
    context = ClientCallContext(service_parameters={"X-A2A-Extensions": idempotency})
    old = transport(on, "JSONRPC")
    ids = {(await old.send_message(message("hello"), context=context)).task.id for _ in range(2)}
    assert len(ids) == 1


def sent03(text: str = "hi", **message: Any) -> dict[str, Any]:
    part = {"kind": "text", "text": text}
    return {"message": {"kind": "message", "messageId": "m", "role": "user", "parts": [part], **message}}


def file03(**file: Any) -> dict[str, Any]:
    return sent03(parts=[{"kind": "file", "file": file}])


BAD: list[tuple[str, Any, int]] = [
    ("ListTasks", {}, -32601),
    ("SendMessage", sent03(), -32601),
    ("nope", {}, -32601),
    ("tasks/list", {}, -32601),
    ("tasks/get", ["x"], -32602),
    ("tasks/get", {}, -32602),
    ("tasks/get", {"id": {"a": 1}}, -32602),
    ("tasks/get", {"id": "x", "historyLength": -1}, -32602),
    ("tasks/get", {"id": "x", "historyLength": 2**40}, -32602),
    ("tasks/get", {"id": "no-such"}, -32001),
    ("tasks/get", {"id": "a\0b"}, -32001),
    ("tasks/cancel", {"id": "no-such"}, -32001),
    ("tasks/cancel", {"id": "x", "metadata": {"n": 2**60}}, -32602),
    ("tasks/resubscribe", {"id": "no-such"}, -32001),
    ("message/send", {}, -32602),
    ("message/send", {"message": 5}, -32602),
    ("message/send", sent03(role="agent"), -32602),
    ("message/send", sent03(role="nobody"), -32602),
    ("message/send", sent03(parts=[]), -32602),
    ("message/send", sent03(parts=[{}]), -32602),
    ("message/send", sent03(parts=[{"kind": "text"}]), -32602),
    ("message/send", sent03(parts=[{"kind": "data", "data": [1]}]), -32602),
    ("message/send", sent03(parts=[{"kind": "data", "data": {"n": 2**60}}]), -32602),
    ("message/send", sent03(parts=[{"kind": "data", "data": {}, "metadata": {"data_part_compat": True}}]), -32602),
    ("message/send", file03(bytes="%%%"), -32602),
    ("message/send", file03(bytes="AAAAA"), -32602),
    ("message/send", file03(bytes="aGk=", mimeType="application/x-no-such"), -32005),
    ("message/send", file03(), -32602),
    ("message/send", sent03(contextId="c" * 513), -32602),
    ("message/send", sent03(taskId="no-such"), -32001),
    ("message/send", {**sent03(), "configuration": {"acceptedOutputModes": ["image/png"]}}, -32005),
    ("message/send", {**sent03(), "configuration": {"historyLength": "many"}}, -32602),
    ("message/send", {**sent03(), "configuration": {"pushNotificationConfig": {"url": "http://x"}}}, -32003),
    ("message/stream", sent03(parts=[]), -32602),
    ("tasks/pushNotificationConfig/set", {"taskId": "x"}, -32602),
    ("tasks/pushNotificationConfig/list", {"id": "x"}, -32003),
]


@covers("A2A-0.3 8#errors")
async def test_what_is_wrong_in_0_3_is_the_callers(on: Serving) -> None:
    """Never -32603, and no words of Python's."""
    for method, params, code in BAD:
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        answer = await on.http.post("/a2a", json=body, headers={"A2A-Version": "0.3"})
        told = answer.json()
        assert (answer.status_code, told.get("error", {}).get("code"), told["id"]) == (200, code, 7), (
            body,
            answer.text,
        )
        for word in ("Traceback", "pydantic", "validation error", "Input should", "type_error", "object has no"):
            assert word not in answer.text, body
    nested: Any = {}
    for _ in range(60):
        nested = {"a": nested}
    deep = {"jsonrpc": "2.0", "id": 7, "method": "message/send", "params": sent03(metadata=nested)}
    assert (await on.http.post("/a2a", json=deep)).json()["error"]["code"] in (-32602, -32700)


BAD_REST: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/message:send", None, 400),
    ("POST", "/v1/message:send", [], 400),
    ("POST", "/v1/message:send", {"message": 5}, 400),
    ("POST", "/v1/message:send", {"message": {"messageId": "m", "role": "ROLE_USER", "content": [{}]}}, 400),
    ("POST", "/v1/message:send", {"message": {"messageId": "m", "role": "ROLE_AGENT", "content": [{"text": "x"}]}}, 400),
    ("POST", "/v1/message:send", {"message": {"messageId": "m", "content": [{"text": "x"}]}}, 400),
    (
        "POST", "/v1/message:send",
        {"message": {"messageId": "m", "role": "ROLE_USER", "content": [{"file": {"fileWithBytes": "/w=="}}]}}, 400,
    ),
    ("POST", "/v1/message:stream", {}, 400),
    ("GET", "/v1/tasks/no-such", None, 404),
    ("GET", "/v1/tasks/x?historyLength=-1", None, 400),
    ("GET", "/v1/tasks/x?historyLength=99999999999", None, 400),
    ("POST", "/v1/tasks/no-such:cancel", None, 404),
    ("POST", "/v1/tasks/no-such:subscribe", None, 404),
    ("GET", "/v1/tasks/no-such:subscribe", None, 404),
    ("PUT", "/v1/tasks/x", None, 405),
    ("GET", "/v1/nope", None, 404),
]  # fmt: skip


@covers("A2A-0.3 8#errors")
async def test_what_is_wrong_over_http_in_0_3(on: Serving) -> None:
    """google.rpc.Status, and what clients of 0.3 read: the error's class and words."""
    for method, path, body, status in BAD_REST:
        more = {} if body is None else {"json": body}
        answer = await on.http.request(method, "/a2a" + path, **more)
        told = answer.json()
        assert (answer.status_code, told["error"]["code"]) == (status, status), (method, path, body, answer.text)
        if status == 400:
            assert told["type"].endswith("Error"), path
            assert told["message"] == told["error"]["message"]
        for word in ("Traceback", "codec", "validation error", "Unsupported part"):
            assert word not in answer.text, (path, body)
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("agent", [None, "billing"])
async def test_the_extended_card_of_0_3(on: Serving, binding: str, agent: str | None) -> None:
    """Of the agent at whose address it is asked for, with interfaces of 0.3."""
    card = await transport(on, binding, agent).get_extended_agent_card(pb.GetExtendedAgentCardRequest())
    assert card.name == (agent or "test")
    assert {i.protocol_version for i in card.supported_interfaces} == {"0.3"}
    assert card.skills
