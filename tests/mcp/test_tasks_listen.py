"""Status notices of tasks on `subscriptions/listen`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from tests.engine import meshes
from tests.mcp.tasks import EXTENSION, KNOWS, Client, Gate, client_of, tasks_of
from tests.mcp.test_wire import CAPABILITIES, VERSION
from tests.requirements import covers

pytestmark = pytest.mark.anyio

NEVER = "01900000-0000-7000-8000-000000000000"


def request(client: Client, can: Any = KNOWS, **notifications: Any) -> httpx2.Request:
    meta = {VERSION: "2026-07-28", CAPABILITIES: can}
    params = {"notifications": notifications, "_meta": meta}
    return client.http.build_request(
        "POST", "", json={"jsonrpc": "2.0", "id": "listen-1", "method": "subscriptions/listen", "params": params},
        headers={"mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"},
    )  # fmt: skip


@asynccontextmanager
async def listening(client: Client, *tasks: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The messages of a stream that asks for these tasks."""
    response = await client.http.send(request(client, taskIds=list(tasks)), stream=True)
    try:
        with anyio.fail_after(10):
            yield messages(response)
    finally:
        await response.aclose()


async def messages(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            message = json.loads(line[5:])
            body = message.get("params", message.get("result"))
            assert body.pop("_meta")["io.modelcontextprotocol/subscriptionId"] == "listen-1"
            yield message


@covers("MCP-EXT-TASKS-draft tasks#task-status-notifications")
async def test_a_stream_tells_of_its_tasks() -> None:
    """First what it will tell of, then each task as tasks/get would give it, whenever it is another."""
    async with tasks_of() as (_, client, _):
        task, other = await client.task("review", {"text": "hello"}), await client.task("hear", {"text": "x"})
        await client.until(task, "input_required")
        async with listening(client, task, NEVER, "x", task) as stream:
            first = await anext(stream)
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"]["notifications"] == {"taskIds": [task]}
            now = await anext(stream)
            assert now["method"] == "notifications/tasks"
            assert (now["params"]["taskId"], now["params"]["status"]) == (task, "input_required")
            (key,) = now["params"]["inputRequests"]
            await client.update(task, {key: {"action": "accept"}})
            await client.result("tasks/cancel", {"taskId": other})
            seen = [now["params"]["status"]]
            async for message in stream:
                assert message["params"]["taskId"] == task
                seen.append(message["params"]["status"])
                if seen[-1] == "completed":
                    got = await client.get(task)
                    got.pop("resultType")
                    assert message["params"] == got
                    break
        assert seen[0] == "input_required"
        assert seen.count("completed") == 1
        assert set(seen) <= {"input_required", "working", "completed"}


@covers("MCP-EXT-TASKS-draft tasks#task-status-notifications")
async def test_who_knows_no_tasks_hears_of_none() -> None:
    """-32021 from a client that does not declare the extension; nothing of somebody else's tasks."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, _, url), client_of(url, "ann") as ann, client_of(url, "bob") as bob:
        task = await ann.task("slow")
        refused = (await ann.http.send(request(ann, {}, taskIds=[task]))).json()["error"]
        assert refused["code"] == -32021
        assert refused["data"]["requiredCapabilities"] == {"extensions": {EXTENSION: {}}}
        for wrong in ("x", [1], {"a": 1}, [NEVER] * 101):
            assert (await ann.http.send(request(ann, taskIds=wrong))).json()["error"]["code"] == -32602
        response = await bob.http.send(request(bob, taskIds=[task], toolsListChanged=True), stream=True)
        with anyio.fail_after(5):
            first = await anext(messages(response))
        assert first["params"]["notifications"] == {"toolsListChanged": True}
        await response.aclose()
        gate.go.set()
        await ann.until(task, "completed")


async def test_a_task_that_has_ended_is_told_once() -> None:
    """Whoever listens late hears the end at once, and that of the others when it comes."""
    gate = Gate()
    async with tasks_of(gate=gate) as (engine, client, _):
        done, slow = await client.task("must"), await client.task("slow")
        await client.until(done, "completed")
        async with listening(client, done, slow) as stream:
            await anext(stream)
            told = {message["params"]["taskId"]: message["params"] for message in [await anext(stream) for _ in (1, 2)]}
            assert {task: params["status"] for task, params in told.items()} == {done: "completed", slow: "working"}
            assert told[done]["result"]["structuredContent"] == {"quick": True}
            gate.go.set()
            async for message in stream:
                assert message["params"]["taskId"] == slow
                if message["params"]["status"] == "completed":
                    break
        assert (await engine.runs.get(meshes.LOCAL, slow)).output == {"said": ""}


async def test_a_question_within_is_told_too() -> None:
    """What a run asks that does the work of a step changes the outer task."""
    async with tasks_of() as (_, client, _):
        task = await client.task("outer", {"text": "hello"})
        async with listening(client, task) as stream:
            await anext(stream)
            async for message in stream:
                if message["params"]["status"] == "input_required":
                    (key,) = message["params"]["inputRequests"]
                    await client.update(task, {key: {"action": "accept"}})
                if message["params"]["status"] == "completed":
                    break
