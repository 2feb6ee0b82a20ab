"""The wire to an upstream over HTTP: what of it is a clause of the transport, and what a server may do to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.server_events import events
from agentmesh.adapters.upstream_mcp import UpstreamMcp
from agentmesh.adapters.upstream_mcp_wire import Pace
from agentmesh.errors import Fail, InvalidInput, Retry, Unanswered
from tests.adapters.upstreams import call, listening, until, upstream

pytestmark = pytest.mark.anyio
MODERN = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
OLDER = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
Answer = Callable[[Request, Mapping[str, Any]], Awaitable[Response | None]]


def result(message: Mapping[str, Any], value: Mapping[str, Any], **headers: str) -> JSONResponse:
    return JSONResponse(
        {"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", **value}}, headers=headers
    )


def served(answer: Answer, *, modern: bool = True, schema: Mapping[str, Any] | None = None) -> ASGIApp:
    """A server with one tool, `act`; `answer` may take any request first."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        request = Request(scope, receive)
        body = await request.body()
        message = json.loads(body) if body else {}
        response = await answer(request, message)
        if response is None:
            response = common(message)
        await response(scope, receive, send)

    def common(message: Mapping[str, Any]) -> Response:
        match message.get("method"):
            case "server/discover" if modern:
                return result(message, MODERN)
            case "initialize":
                return result(message, OLDER, **{"mcp-session-id": "s1"})
            case "tools/list":
                tool = {"name": "act", "description": "Acts.", "inputSchema": schema or {"type": "object"}}
                return result(message, {"tools": [tool]})
            case "tools/call":
                return result(message, {"content": [{"type": "text", "text": "done"}]})
            case None | "notifications/initialized" | "notifications/cancelled":
                return Response(status_code=405 if not message else 202)
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}, 404)

    return app


@asynccontextmanager
async def at(answer: Answer, **given: Any) -> AsyncIterator[UpstreamMcp]:
    modern = given.pop("modern", True)
    async with (
        listening(served(answer, modern=modern, schema=given.pop("schema", None))) as url,
        upstream("x", {"url": url, **given}) as source,
    ):
        yield source


async def test_a_modern_request_says_what_it_is_in_its_headers() -> None:
    """Mcp-Method, Mcp-Name and Mcp-Param-* (2026-07-28 basic/transports/streamable-http), and the operator's own."""
    seen: list[Mapping[str, str]] = []

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        if message.get("method") == "tools/call":
            seen.append(dict(request.headers))
        return None

    region = {"type": "string", "x-mcp-header": "Region"}
    schema = {"type": "object", "properties": {"region": region, "level": {"type": "integer", "x-mcp-header": "Level"}}}
    async with at(answer, schema=schema, headers={"X-Team": "ops"}, token="t1") as source:
        assert "x-mcp-header" not in json.dumps(source.tools()["x.act"].input_schema)
        await call(source, "x.act", {"region": "eu süd", "level": 3})
    (headers,) = seen
    assert headers["mcp-protocol-version"] == "2026-07-28"
    assert (headers["mcp-method"], headers["mcp-name"]) == ("tools/call", "act")
    assert headers["mcp-param-level"] == "3"
    assert headers["mcp-param-region"].startswith("=?base64?")
    assert (headers["x-team"], headers["authorization"]) == ("ops", "Bearer t1")


@pytest.mark.parametrize("status", [404, 400])
async def test_a_session_that_was_forgotten_is_begun_again_and_the_call_made_once(status: int) -> None:
    """404 to a session says that nothing was done (2025-11-25 basic/transports, Session Management); some servers say 400."""
    calls: list[str | None] = []
    begun: list[str] = []

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        if message.get("method") == "initialize":
            begun.append(f"s{len(begun) + 1}")
            return result(message, OLDER, **{"mcp-session-id": begun[-1]})
        if message.get("method") == "tools/call":
            calls.append(request.headers.get("mcp-session-id"))
            if calls[-1] == "s1":
                error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
                return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status)
        return None

    async with at(answer, modern=False) as source:
        assert (await call(source, "x.act")).text == "done"
    assert calls == ["s1", "s2"]


async def test_a_stream_that_breaks_is_gone_on_with() -> None:
    """By GET with Last-Event-ID, after the time that the server named (2025-11-25 basic/transports, Resumability)."""
    asked: list[str | None] = []

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        if message.get("method") == "tools/call":
            ident = message["id"]

            async def first() -> AsyncIterator[bytes]:
                yield b"id: e1\nretry: 20\ndata:\n\n"

            async def rest() -> AsyncIterator[bytes]:
                said = {"jsonrpc": "2.0", "id": ident, "result": {"content": [{"type": "text", "text": "late"}]}}
                yield f"id: e2\ndata: {json.dumps(said)}\n\n".encode()

            held["rest"] = rest
            return StreamingResponse(first(), media_type="text/event-stream")
        if request.method == "GET" and "rest" in held:
            asked.append(request.headers.get("last-event-id"))
            return StreamingResponse(held["rest"](), media_type="text/event-stream")
        return None

    held: dict[str, Any] = {}
    async with at(answer, modern=False) as source:
        assert (await call(source, "x.act")).text == "late"
    assert asked == ["e1"]


@pytest.mark.parametrize(
    ("status", "headers", "error", "said"),
    [
        (429, {"retry-after": "7"}, Retry, "busy"),
        (503, {}, Retry, "busy"),
        (504, {}, Unanswered, "did not answer"),
        (401, {}, Fail, "refuses our credentials"),
        (500, {}, Fail, "HTTP 500"),
        (202, {}, Fail, "HTTP 202"),
        (302, {"location": "/elsewhere"}, Fail, "HTTP 302"),
        (307, {"location": "http://127.0.0.2:1/mcp"}, Fail, "redirects to another server"),
    ],
)
async def test_a_status_is_told_for_what_it_is(
    status: int, headers: dict[str, str], error: type[Exception], said: str
) -> None:
    """What may be tried again says so, with the time that the server named."""

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        return Response(status_code=status, headers=headers) if message.get("method") == "tools/call" else None

    async with at(answer) as source:
        with pytest.raises(error, match=said) as caught:
            await call(source, "x.act")
        assert getattr(caught.value, "after", None) == (7.0 if headers.get("retry-after") else None)


async def test_a_redirect_on_the_same_server_is_followed() -> None:
    """307 keeps method and body; a trailing slash is the commonest reason."""

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        return RedirectResponse("/mcp/", 307) if request.url.path == "/mcp" else None

    async with at(answer) as source:
        assert (await call(source, "x.act")).text == "done"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{", "application/json", "no JSON"),
        (b"[]", "application/json", "no JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":"other","result":{}}', "application/json", "no answer to it"),
        (b'{"jsonrpc":"2.0","id":%d,"result":7}', "application/json", "no object"),
        (
            b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"sound"}]}}',
            "application/json",
            "content that is none",
        ),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"resultType":"task"}}', "application/json", "result of type 'task'"),
        (b'{"jsonrpc":"2.0","id":%d,"result":{"resultType":"input_required"}}', "application/json", "which"),
        (b"hello", "text/html", "text/html"),
        (b'{"x": "' + b"y" * (17 * 1024 * 1024) + b'"}', "application/json", "more than 16 MB"),
    ],
    ids=range(9),
)
async def test_an_answer_that_is_none_is_an_error(body: bytes, kind: str, said: str) -> None:
    """Nothing of it reaches a caller."""

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        if message.get("method") != "tools/call":
            return None
        return Response(body.replace(b"%d", str(message["id"]).encode()), media_type=kind)

    async with at(answer) as source:
        with pytest.raises(Fail, match=said):
            await call(source, "x.act")
        assert source.status().state == "ready"


async def test_an_error_of_the_protocol_says_whose_it_is() -> None:
    """-32602 is the caller's to mend."""

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        if message.get("method") != "tools/call":
            return None
        error = {"code": -32602, "message": "no such city"}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error}, 400)

    async with at(answer) as source:
        with pytest.raises(InvalidInput, match="x refuses tools/call: no such city"):
            await call(source, "x.act")


async def test_a_server_of_no_common_revision_is_said_so() -> None:
    """-32022 that names only what we do not speak."""

    async def answer(request: Request, message: Mapping[str, Any]) -> Response | None:
        error = {"code": -32022, "message": "no", "data": {"supported": ["2030-01-01"], "requested": "2026-07-28"}}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error}, 400)

    async with listening(served(answer)) as url, upstream("x", {"url": url}, ready=False) as source:
        await until(lambda: source.status().state == "failed")
        assert "2030-01-01" in source.status().detail


async def test_events_are_read_however_they_are_cut() -> None:
    """Byte by byte, with either line end, with comments and data of several lines."""
    whole = b": hi\r\nid: 1\r\ndata: a\r\ndata: b\r\n\r\nretry: 1500\ndata: c\n\n"

    async def parts() -> AsyncIterator[bytes]:
        for byte in whole:
            yield bytes([byte])

    found = [(event.data, event.id, event.retry) async for event in events(parts())]
    assert found == [(b"a\nb", "1", None), (b"c", None, 1.5)]


async def test_the_pace_lets_a_burst_pass_and_slows_a_flood() -> None:
    """By a clock: after the burst each message takes its part of a second."""
    now = 0.0
    pace = Pace(rate=1000, burst=10, clock=lambda: now)
    with anyio.fail_after(1):
        for _ in range(10):
            await pace.passing(10)
    began = anyio.current_time()
    await pace.passing(160_000)
    assert anyio.current_time() - began >= 0.01
