"""Upstreams over HTTP that answer what nobody should: each call ends in plain words, and the others' tools answer in the usual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.upstream_mcp_listing import prompts, resources
from agentmesh.core.server_file import ServerFile
from agentmesh.errors import MeshError
from tests.adapters.upstreams import call, listening, upstream
from tests.faults.test_upstream import _body, _lifespan, well_beside

pytestmark = [pytest.mark.anyio, pytest.mark.faults]
GOOD = {"content": [{"type": "text", "text": "good"}]}
Said = Callable[[int], AsyncIterator[bytes]]


def message(ident: Any, result: Any = None) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": ident, "result": {"resultType": "complete", **(result or GOOD)}}
    ).encode()


def event(data: bytes) -> bytes:
    return b"event: message\ndata: " + data + b"\n\n"


def upstream_that(says: Said, *, stream: bool = False, tools: list[dict[str, Any]] | None = None) -> ASGIApp:
    """An upstream whose tool `t` is answered with these bytes, given the request's id."""
    offered = tools or [{"name": "t", "inputSchema": {"type": "object"}}]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        body = json.loads(await _body(receive) or b"{}")
        kind = b"application/json"
        if body.get("method") == "tools/call":
            kind = b"text/event-stream" if stream else kind
            pieces = says(body["id"])
        else:
            known = {
                "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
                "tools/list": {"tools": offered},
            }
            pieces = _whole(message(body["id"], known[body["method"]]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return serve


async def _whole(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _endless(piece: bytes) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await anyio.sleep(0.01)


JSON: dict[str, Said] = {
    "another's id": lambda ident: _whole(message(ident + 1)),
    "its id as text": lambda ident: _whole(message(str(ident))),
    "no id": lambda _: _whole(message(None)),
    "many pieces of content": lambda ident: _whole(message(ident, {"content": [{"type": "text", "text": ""}] * 50_000})),
    "many objects": lambda ident: _whole(message(ident, {"content": [], "structuredContent": {"a": [{}] * 2_000_000}})),
    "too deep": lambda ident: _whole(message(ident).replace(b'"good"', b"[" * 100_000 + b"]" * 100_000)),
    "half a pair": lambda ident: _whole(message(ident).replace(b"good", b"\\ud800")),
    "no UTF-8": lambda ident: _whole(message(ident).replace(b"good", b"\xff\xfe")),
    "content of no kind": lambda ident: _whole(message(ident, {"content": "x", "isError": "yes"})),
    "a result of no kind": lambda ident: _whole(message(ident, {"resultType": "zzz"})),
    "questions of no kind": lambda ident: _whole(
        message(ident, {"resultType": "input_required", "inputRequests": {"a": {"method": "evil/x", "params": {}}}})
    ),
    "an error of no kind": lambda ident: _whole(json.dumps({"jsonrpc": "2.0", "id": ident, "error": {"code": "x"}}).encode()),
    "half of it": lambda ident: _whole(message(ident)[:20]),
    "spaces for ever": lambda _: _endless(b" "),
}  # fmt: skip
STREAMED: dict[str, Said] = {
    "comments for ever": lambda _: _endless(b": still here\n\n"),
    "an event without an end": lambda _: _endless(b"data: {}\n" * 1000),
    "other answers only": lambda ident: _whole(event(message(ident + 1)), event(message(str(ident)))),
}


@pytest.mark.parametrize("what", [*JSON, *STREAMED])
async def test_an_answer_that_is_none(what: str) -> None:
    """It is refused, or waited for no longer than its timeout."""
    says, stream = (JSON[what], False) if what in JSON else (STREAMED[what], True)
    app = upstream_that(says, stream=stream)
    async with well_beside(), listening(app) as url, upstream("evil", {"url": url, "timeout": 2}) as source:
        with anyio.fail_after(15), pytest.raises(MeshError) as refused:
            await call(source, "evil.t")
        assert len(refused.value.message) < 3000


async def test_the_right_answer_among_others() -> None:
    """Answers to nobody are passed over, and what comes after the answer is not heard."""

    def says(ident: int) -> AsyncIterator[bytes]:
        wrong = {"content": [{"type": "text", "text": "wrong"}]}
        return _whole(
            *(event(message(*one)) for one in ((ident + 1, wrong), (ident, GOOD), (ident, wrong), (ident + 2, wrong)))
        )

    async with listening(upstream_that(says, stream=True)) as url, upstream("evil", {"url": url}) as source:
        for _ in range(3):
            assert (await call(source, "evil.t")).content == ({"type": "text", "text": "good"},)


def test_entries_of_megabytes_are_not_listed() -> None:
    """A prompt of three megabytes would be in every list that anybody asks for."""
    server = ServerFile.model_validate({"name": "evil", "upstream": {"url": "http://127.0.0.1:9/"}})
    long: list[dict[str, Any]] = [
        {"name": "a"},
        {"name": "b", "description": "x" * 3_000_000},
        {"name": "c", "arguments": [{"name": "a"}] * 20_000},
    ]
    found, _ = prompts(long, server)
    assert list(found) == ["evil.a"]
    given = [
        {"uri": "evil://a", "name": "a"},
        {"uri": "", "name": "b"},
        {"uri": "evil://c", "name": "c", "description": "x" * 300_000},
    ]
    assert [one.uri for one in resources(given, "evil")] == ["evil://a"]
