"""The shorter path by itself: what it takes, and how it behaves around the call."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from agentmesh.mcp.fast import Fast
from agentmesh.mcp.server import McpEdge
from tests.mcp.asgi import HEADERS, META, Waiting, ask, call, edge
from tests.requirements import covers

pytestmark = pytest.mark.anyio


class Counted:
    """Stands where the SDK's path is, and counts what comes to it."""

    def __init__(self, built: McpEdge) -> None:
        self.count = 0
        self._app = built.app._front
        built.app._front = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        await self._app(scope, receive, send)


@covers("MCP-2026-07-28 server/tools#calling")
async def test_a_plain_call_is_answered_at_once() -> None:
    """One JSON response with the whole shape of a result (server/tools, Calling Tools), and the SDK is not asked."""
    async with edge() as (built, _):
        sdk = Counted(built)
        answer = await ask(built.app, call(ident="a"), chunks=3)
    assert answer.status == 200
    assert (b"content-type", b"application/json") in answer.headers
    assert sdk.count == 0
    result = answer.json["result"]
    assert answer.json["id"] == "a"
    assert result.pop("_meta").keys() == {"io.modelcontextprotocol/serverInfo"}
    assert result == {
        "content": [{"type": "text", "text": '{"text": "hello"}'}],
        "structuredContent": {"text": "hello"},
        "isError": False,
        "resultType": "complete",
    }


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (call(progressToken=1), {}),
        (call(**{"io.modelcontextprotocol/logLevel": "info"}), {}),
        (call(**{"io.agentmesh/idempotency-key": "k"}), {}),
        (call("run"), {"mcp-name": "run"}),
        (call("desk.mirrored", {"region": "eu"}), {"mcp-name": "desk.mirrored", "mcp-param-region": "eu"}),
        (call("desk.asks", {}, **{"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}), {"mcp-name": "desk.asks"}),
        (call("desk.elicits", {}, **{"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}), {"mcp-name": "desk.elicits"}),
        (call("unknown"), {"mcp-name": "unknown"}),
        (call() | {"more": 1}, {}),
        ({**call(), "params": {**call()["params"], "requestState": "x"}}, {}),
        ({**call(), "id": True}, {}),
        (call(arguments={"text": "\ud800"}), {}),
        (call(arguments={"text": [[[]] * 70]}), {}),
        (call(), {"mcp-session-id": "s"}),
        (call(), {"accept": "application/json"}),
        (call(), {"content-type": "text/plain"}),
        (call(), {"mcp-name": "=?base64?ZGVzay5lY2hv?="}),
        (call(), {"mcp-protocol-version": "2025-11-25"}),
    ],
)  # fmt: skip
async def test_what_is_not_plain_goes_on(body: Any, headers: dict[str, str]) -> None:
    """What needs more than one response, and what is unusual or wrong, comes to the SDK as it was sent."""
    async with edge() as (built, _):
        sdk = Counted(built)
        answer = await ask(built.app, body, {**HEADERS, **headers}, chunks=2)
    assert sdk.count == 1
    assert answer.status != 0


async def test_a_client_that_may_be_asked_is_served_too() -> None:
    """A tool that asks nobody is answered at once, whatever the client can; whether it asks is known after its first call."""
    able = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}}
    async with edge() as (built, _):
        sdk = Counted(built)
        for _ in range(3):
            answer = await ask(built.app, call(**able))
            assert answer.json["result"]["structuredContent"] == {"text": "hello"}
    assert sdk.count == 1


@covers("MCP-2026-07-28 basic/transports/streamable-http#cancellation")
async def test_a_client_that_leaves_cancels_its_call() -> None:
    """Closing the response stream is the cancellation (streamable-http, Cancellation); nothing is sent any more."""
    waiting, leaves = Waiting(), anyio.Event()
    async with edge(waiting) as (built, engine):
        sdk = Counted(built)
        answers: list[Any] = []

        async def client() -> None:
            headers = {**HEADERS, "mcp-name": "desk.waits"}
            answers.append(await ask(built.app, call("desk.waits", {}), headers, leaves=leaves))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                await waiting.started.wait()
                leaves.set()
                await waiting.cancelled.wait()
        counted = {labels[3] for labels, _, _ in engine.meter.operations.series()}
    assert answers[0].status == 0
    assert sdk.count == 0
    assert counted == {"cancelled"}


async def test_whoever_stops_the_server_is_not_taken_for_the_client() -> None:
    """A cancellation from outside goes through: only the client's own is taken back."""
    waiting = Waiting()
    async with edge(waiting) as (built, _), anyio.create_task_group() as group:
        group.start_soon(ask, built.app, call("desk.waits", {}), {**HEADERS, "mcp-name": "desk.waits"})
        with anyio.fail_after(5):
            await waiting.started.wait()
            group.cancel_scope.cancel()
    assert waiting.cancelled.is_set()


@covers("MCP-2026-07-28 basic#ids-in-parallel")
async def test_forty_calls_with_one_id_get_forty_answers() -> None:
    """Each request stands alone: an id is the sender's, and two connections may use the same at once (basic, Requests)."""
    async with edge() as (built, _):
        texts: dict[int, Any] = {}

        async def one(number: int) -> None:
            answer = await ask(built.app, call(arguments={"text": f"t{number}"}, ident=7), chunks=1 + number % 3)
            texts[number] = answer.json

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for number in range(40):
                    group.start_soon(one, number)
    assert all(texts[n]["id"] == 7 and texts[n]["result"]["structuredContent"] == {"text": f"t{n}"} for n in range(40))


@covers("MCP-2026-07-28 basic#repeated-names")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", None])
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
        json.dumps(call()).replace('"text": "hello"', '"text": "hello", "text": "bye"').encode(),
        json.dumps(call()).replace('"jsonrpc"', '"method": "tools/list", "jsonrpc"').encode(),
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[{"\\u0062":1,"b":2}]}}',
    ],
)
async def test_a_name_twice_is_refused(body: bytes, version: str | None) -> None:
    """Two readers would take it for two different calls (RFC 8259 section 4): -32700, in both eras."""
    headers = {k: v for k, v in HEADERS.items() if not k.startswith("mcp-")}
    if version is not None:
        headers["mcp-protocol-version"] = version
    async with edge() as (built, engine):
        answer = await ask(built.app, body, headers)
        assert not list(engine.meter.calls.series())
    assert answer.status == 400
    assert answer.json["error"]["code"] == -32700
    assert answer.json["id"] is None
    assert "twice" in answer.json["error"]["message"]


async def test_a_body_that_is_too_large_is_not_kept() -> None:
    """Past the limit nothing more is read here; the whole edge refuses it."""
    async with edge() as (built, engine):
        small = Fast(engine, built.server, built.app._front, body=100, depth=64)
        async with small.run():
            answer = await ask(small, call(), chunks=9)
    assert answer.status == 200  # the SDK's own limit is larger: what was read went on whole


async def test_both_paths_are_counted() -> None:
    """Every call stands once among the calls of tools and once among MCP's operations, whichever way it went."""
    async with edge() as (built, engine):
        for body in (
            call(),
            call(progressToken=3),
            call(arguments={"text": 1}),
            call(arguments={"text": 1}, progressToken=3),
        ):
            await ask(built.app, body)
        await ask(built.app, call("nosuch"), {**HEADERS, "mcp-name": "nosuch"})
        calls = {labels: sum(counts) for labels, _, counts in engine.meter.calls.series()}
        operations = {labels: sum(counts) for labels, _, counts in engine.meter.operations.series()}
    assert calls == {
        ("desk.echo", "mcp", ""): 2, ("desk.echo", "mcp", "invalid_input"): 2, ("unknown", "mcp", "not_found"): 1,
    }  # fmt: skip
    assert operations == {
        ("tools/call", "desk.echo", "2026-07-28", ""): 2,
        ("tools/call", "desk.echo", "2026-07-28", "tool_error"): 2,
        ("tools/call", "unknown", "2026-07-28", "-32602"): 1,
    }


async def test_the_way_back_is_open_when_the_edge_is_closed() -> None:
    """Before and after its lifetime nothing is taken: there would be nobody to watch for clients that leave."""
    async with edge() as (built, engine):
        closed = Fast(engine, built.server, built.app._front, body=10_000, depth=64)
        sdk = Counted(built)
        closed._front = sdk
        answer = await ask(closed, call())
    assert sdk.count == 1
    assert answer.json["result"]["structuredContent"] == {"text": "hello"}
    assert META
