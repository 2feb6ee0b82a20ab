"""Streams: the first event at once, the same events for everybody, and nothing left behind when somebody leaves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest
from starlette.types import Message

from agentmesh.a2a.answer import events_of
from agentmesh.a2a.errors import rest_error, to_a2a_error
from agentmesh.a2a.stream import EventStream, Streams, event_of
from agentmesh.core.run import RunState
from agentmesh.errors import StoreError
from tests.a2a.calling import BINDINGS, V, call, sent, streaming
from tests.a2a.conftest import Serving
from tests.engine.meshes import LOCAL
from tests.requirements import covers

pytestmark = pytest.mark.anyio


@covers("A2A-1.0.1 3.1.2#first")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_first_event_is_the_task_while_nothing_has_happened(on: Serving, binding: str) -> None:
    """It goes out before the work has come anywhere."""
    params = sent(metadata={"skill": "gate"})
    with anyio.fail_after(5):
        async with streaming(on, binding, "SendStreamingMessage", params) as events:
            first = await anext(events)
            assert first["task"]["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
            on.gate.go.set()
            rest = [event async for event in events]
    assert rest[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@covers("A2A-1.0.1 3.5.2#subscribers", "A2A-1.0.1 3.1.6#methods")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_two_subscribers_see_the_same(on: Serving, binding: str) -> None:
    """Event by event; a third that leaves disturbs none. Over HTTP+JSON by GET as by POST."""
    params = {**sent(metadata={"skill": "gate"}), "configuration": {"returnImmediately": True}}
    task = (await call(on, binding, "SendMessage", params)).result["task"]["id"]
    with anyio.fail_after(5):
        await on.gate.reached.wait()
    seen: list[list[Any]] = [[], []]
    ready = anyio.Event()

    async def watch(index: int) -> None:
        async with streaming(on, binding, "SubscribeToTask", {"id": task}) as events:
            async for event in events:
                seen[index].append(event)
                if all(seen):
                    ready.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(watch, 0)
            group.start_soon(watch, 1)
            await ready.wait()
            async with on.http.stream("GET", f"/a2a/tasks/{task}:subscribe", headers=V) as third:
                assert third.headers["content-type"].startswith("text/event-stream")
                assert "task" in json.loads((await anext(third.aiter_lines()))[5:])
            on.gate.go.set()
    assert seen[0] == seen[1]
    assert [next(iter(event)) for event in seen[0]][-2:] == ["artifactUpdate", "statusUpdate"]


@covers("A2A-1.0.1 3.5.2#disconnect")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_streams_that_are_dropped_leave_nothing_behind(on: Serving, binding: str) -> None:
    """No task of the server, no subscription to the run; the run itself goes on to its end."""
    started = {**sent(metadata={"skill": "gate"}), "configuration": {"returnImmediately": True}}
    task = (await call(on, binding, "SendMessage", started)).result["task"]["id"]
    with anyio.fail_after(5):
        await on.gate.reached.wait()
    await call(on, binding, "ListTasks")
    subscriptions = on.engine.runs._bus._subscriptions
    before = len(asyncio.all_tasks())

    async def look() -> None:
        async with streaming(on, binding, "SubscribeToTask", {"id": task}) as events:
            assert "task" in await anext(events)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(look)
    with anyio.fail_after(10):
        while task in subscriptions or len(asyncio.all_tasks()) > before:
            await anyio.lowlevel.checkpoint()
    on.gate.go.set()
    with anyio.fail_after(5):
        assert (await on.engine.runs.wait(LOCAL, task)).state is RunState.COMPLETED


async def test_a_server_that_stops_ends_its_streams() -> None:
    """At once, and those that would still begin; an end that is whole, so that clients subscribe again."""
    streams = Streams()
    sent_: list[Message] = []
    waiting = anyio.Event()

    async def quiet() -> Any:
        waiting.set()
        await anyio.sleep_forever()
        yield b""

    async def never() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        sent_.append(message)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(EventStream(event_of(b"1"), quiet(), streams, {}), {"type": "http"}, never, send)
            await waiting.wait()
            assert len(streams) == 1
            streams.close()
        await EventStream(None, quiet(), streams, {})({"type": "http"}, never, send)
    assert len(streams) == 0
    assert [message.get("more_body") for message in sent_] == [None, True, False, None, False]
    assert sent_[1]["body"] == b"data: 1\n\n"


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    """In the binding's form, and no broken connection; what was streamed from is closed."""
    closed = False

    async def failing() -> Any:
        nonlocal closed
        try:
            yield {"n": 1}
            raise to_a2a_error(StoreError("the disk is full"))
        finally:
            closed = True

    found = [data async for data in events_of(failing(), lambda event: event, rest_error)]
    assert found[0] == b'data: {"n":1}\n\n'
    assert found[1].startswith(b"event: error\ndata: ")
    assert json.loads(found[1].split(b"data: ")[1])["error"]["status"] == "UNAVAILABLE"
    assert closed
