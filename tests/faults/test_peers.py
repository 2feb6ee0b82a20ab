"""Runs that agents elsewhere work on, over real sockets that break: each ends, with a reason, and nothing is done twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.core.agent import Message, Part, Sending
from agentmesh.core.mesh import Peer
from agentmesh.core.run import Run, RunState
from agentmesh.engine import Engine
from tests.adapters.a2a_agents import WELL_KNOWN, Liar, card, interface, sdk_agent
from tests.engine.meshes import LOCAL, mesh, serving
from tests.http.serving import served

pytestmark = pytest.mark.anyio
STREAMS: dict[str, Any] = {"streaming": True}


def task(state: str, **more: Any) -> dict[str, Any]:
    return {"id": "t", "contextId": "c", "status": {"state": f"TASK_STATE_{state}"}, **more}


DONE = task("COMPLETED", artifacts=[{"artifactId": "a", "parts": [{"text": "done"}]}])
Connection = Callable[[Any, asyncio.StreamWriter], Awaitable[bool]]


class Breaking:
    """An agent whose answers are bytes: by method, what is done to the connection; it keeps what it was asked."""

    def __init__(self, **answers: Connection) -> None:
        self.answers, self.asked = answers, list[Any]()

    def count(self, method: str) -> int:
        return sum(one["method"] == method for one in self.asked)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                self.asked.append(asked)
                if not await self.answers.get(asked["method"], vanishes)(asked, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def says(result: Any) -> Connection:
    """A whole answer."""

    async def answer(asked: Any, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        return True

    return answer


def begins(*results: Any) -> Connection:
    """A stream that breaks after these."""

    async def answer(asked: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for result in results:
            event = f"data: {json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': result})}\n\n".encode()
            writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
        await writer.drain()
        return False

    return answer


async def vanishes(asked: Any, writer: asyncio.StreamWriter) -> bool:
    """Takes the request and says nothing."""
    return False


@asynccontextmanager
async def meeting(*agents: tuple[str, Breaking, dict[str, Any]]) -> AsyncIterator[Engine]:
    """An engine that knows these agents by name, each by a card of its own."""
    async with AsyncExitStack() as stack:
        sources = []
        store = await stack.enter_async_context(MemoryStore())
        for name, agent, can in agents:
            server = await asyncio.start_server(agent, "127.0.0.1", 0)
            stack.callback(server.close)
            made = Liar()
            url = await stack.enter_async_context(served(made.app))
            port = server.sockets[0].getsockname()[1]
            made.card = card(interface(f"http://127.0.0.1:{port}/", "JSONRPC"), capabilities=can)
            source = await stack.enter_async_context(PeerSource(name, Peer(card=url + WELL_KNOWN), store=store))
            with anyio.fail_after(10):
                await source.looked.wait()
            sources.append(source)
        yield await stack.enter_async_context(serving(mesh(), sources=sources))


async def ask(engine: Engine, agent: str = "one") -> Run:
    sent = await engine.agents.send(LOCAL, Sending(Message("m", "user", [Part(text="go")]), agent))
    with anyio.fail_after(20):
        return await engine.runs.end_of(sent.id)


async def test_a_stream_that_breaks_is_gone_on_with() -> None:
    """The task is known: the agent is asked for it, and sent nothing twice."""
    agent = Breaking(
        SendStreamingMessage=begins({"task": task("WORKING")}),
        SubscribeToTask=begins({"task": task("WORKING")}),
        GetTask=says(DONE),
    )
    async with meeting(("one", agent, STREAMS)) as engine:
        run = await ask(engine)
    assert (run.state, agent.count("SendStreamingMessage")) == (RunState.COMPLETED, 1)
    assert run.output == "done"


@pytest.mark.parametrize("can", [STREAMS, {}], ids=["streams", "polled"])
async def test_a_message_whose_answer_was_lost_is_found_by_its_task(can: dict[str, Any]) -> None:
    """By the messages that the agent's tasks began with."""

    async def listed(asked: Any, writer: asyncio.StreamWriter) -> bool:
        [sent] = [one for one in agent.asked if one["method"].startswith("Send")]
        tasks = [{**DONE, "id": "other"}, {**DONE, "history": [sent["params"]["message"]]}]
        return await says({"tasks": tasks, "nextPageToken": ""})(asked, writer)

    agent = Breaking(SendStreamingMessage=vanishes, SendMessage=vanishes, ListTasks=listed, GetTask=says(DONE))
    async with meeting(("one", agent, can)) as engine:
        run = await ask(engine)
    assert run.state is RunState.COMPLETED
    assert agent.count("SendMessage") + agent.count("SendStreamingMessage") == 1


async def test_a_message_that_nobody_knows_of_is_not_sent_again() -> None:
    """It may have been done: FAILED, and the reason says so."""
    agent = Breaking(SendStreamingMessage=vanishes, ListTasks=says({"tasks": []}))
    async with meeting(("one", agent, STREAMS)) as engine:
        run = await ask(engine)
    assert (run.state, agent.count("SendStreamingMessage")) == (RunState.FAILED, 1)
    assert run.error is not None
    assert "not sent again" in run.error["message"]


async def test_a_task_of_an_agent_that_is_gone_for_good_fails() -> None:
    """After the minutes that it gets to come back, and never works for ever."""

    async def once(asked: Any, writer: asyncio.StreamWriter) -> bool:
        agent.answers = dict.fromkeys(("GetTask", "SubscribeToTask"), vanishes)
        return await begins({"task": task("WORKING")})(asked, writer)

    agent = Breaking(SendStreamingMessage=once)
    async with meeting(("one", agent, STREAMS)) as engine:
        run = await ask(engine)
    assert run.state is RunState.FAILED
    assert run.error is not None
    assert "could not be asked" in run.error["message"]


async def test_lies_in_the_middle_end_the_task_they_are_about() -> None:
    """An event of another task, or a state that is none: the agent is told to stop, and the run says why it failed."""
    for lie in (
        {"statusUpdate": {"taskId": "other", "status": {"state": "TASK_STATE_WORKING"}}},
        {"task": {**DONE, "status": 7}},
    ):
        agent = Breaking(SendStreamingMessage=begins({"task": task("WORKING")}, lie), CancelTask=says(task("CANCELED")))
        async with meeting(("one", agent, STREAMS)) as engine:
            run = await ask(engine)
        assert run.state is RunState.FAILED
        assert agent.count("CancelTask") == 1


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_a_run_is_a_task_of_a_real_agent(binding: str, version: str) -> None:
    """Of each version, over each binding: its artifact is the output, in one piece."""
    async with AsyncExitStack() as stack:
        url, _ = await stack.enter_async_context(sdk_agent((binding, version)))
        store = await stack.enter_async_context(MemoryStore())
        source = await stack.enter_async_context(PeerSource("one", Peer(card=url + WELL_KNOWN), store=store))
        with anyio.fail_after(10):
            await source.looked.wait()
        engine = await stack.enter_async_context(serving(mesh(), sources=[source]))
        run = await ask(engine)
        assert (run.state, run.output) == (RunState.COMPLETED, "one two go")
