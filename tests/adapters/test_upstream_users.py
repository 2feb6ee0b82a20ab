"""An upstream where each user logs in: a session for each, with nobody's token but theirs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_mcp import UpstreamMcp
from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.policy import Principal
from agentmesh.core.source import SourceCall
from agentmesh.errors import LoginRequired, MeshError, Unanswered
from tests.adapters.upstreams import FAST, Desk, listening, server_file, until

pytestmark = pytest.mark.anyio
ANNA, BEN = Principal(subject="anna"), Principal(subject="ben")


class _Token(httpx2.Auth):
    def __init__(self, logins: Logins, subject: str) -> None:
        self._logins, self._subject = logins, subject

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["authorization"] = f"Bearer {self._logins.tokens[self._subject]}"
        response = yield request
        if response.status_code == 401:
            self._logins.now.refusal = LoginRequired(f"{self._subject} has to log in")


class Logins:
    """What `UpstreamOAuth` is to an upstream; tokens are what a test puts there."""

    per_user = True
    way_in = "http://mesh/v1/oauth/start/desk"

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.hearing: list[Callable[[Principal], None]] = []
        self.now = SimpleNamespace(refusal=None)
        self.renewed: list[str] = []

    def auth(self, principal: Principal | None = None) -> httpx2.Auth:
        assert principal is not None
        return _Token(self, principal.subject)

    @contextmanager
    def attempt(self) -> Iterator[Any]:
        self.now = SimpleNamespace(refusal=None)
        yield self.now

    async def require(
        self, principal: Principal, caller: Caller = NOBODY, *, after: Any = None, wait: float = 60
    ) -> None:
        if principal.subject not in self.tokens:
            raise LoginRequired(f"log in at {self.way_in}", url=self.way_in)
        if after is not None and after.refusal is not None:
            self.renewed.append(principal.subject)
            self.tokens[principal.subject] = f"new-{principal.subject}"

    async def token(self, principal: Principal | None) -> str | None:
        return None if principal is None else self.tokens.get(principal.subject)

    async def someone(self) -> Principal | None:
        return Principal(subject=next(iter(self.tokens))) if self.tokens else None

    def on_login(self, hear: Callable[[Principal], None]) -> None:
        self.hearing.append(hear)


def checked(app: ASGIApp, seen: list[tuple[str, str]], bad: set[str]) -> ASGIApp:
    """Notes who asks what; refuses bad tokens with 401."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        token = headers.get("authorization", "none").removeprefix("Bearer ")
        seen.append((headers.get("mcp-method", ""), token))
        if token in bad:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await app(scope, receive, send)

    return serve


def _source(url: str, logins: Any) -> UpstreamMcp:
    oauth = {"flow": "authorization_code"}
    return UpstreamMcp(
        server_file("desk", {"url": url, "oauth": oauth}), folder=Path(), store=MemoryStore(),
        oauth=logins, pace=FAST,
    )  # fmt: skip


async def _echo(source: UpstreamMcp, who: Principal, text: str = "x") -> str:
    return (await source.call(SourceCall(source.tools()["desk.echo"], {"text": text}, who))).text


async def test_each_user_has_a_session_and_a_token_of_their_own() -> None:
    """Nobody calls with another's token; the lists are had as somebody who logged in."""
    logins, seen = Logins(), list[tuple[str, str]]()
    async with listening(checked(Desk(modern=True).app(), seen, set())) as url, _source(url, logins) as source:
        assert "log in at" in source.status().detail
        assert source.tools() == {}
        logins.tokens["anna"] = "t-anna"
        for hear in logins.hearing:
            hear(ANNA)
        await until(lambda: bool(source.tools()))
        assert await _echo(source, ANNA) == "x"
        with pytest.raises(LoginRequired, match="log in at"):
            await _echo(source, BEN)
        logins.tokens["ben"] = "t-ben"
        assert await _echo(source, BEN, "b") == "b"
        assert [token for method, token in seen if method == "tools/call"] == ["t-anna", "t-ben"]
        assert all(token == "t-anna" for method, token in seen if method == "tools/list")


async def test_a_token_that_is_refused_is_renewed_once() -> None:
    """401 says that nothing was done: the call is sent once more, with another token."""
    logins, seen, bad = Logins(), list[tuple[str, str]](), set[str]()
    logins.tokens["anna"] = "t-anna"
    async with listening(checked(Desk(modern=True).app(), seen, bad)) as url, _source(url, logins) as source:
        await until(lambda: bool(source.tools()))
        bad.add("t-anna")
        assert await _echo(source, ANNA) == "x"
        assert logins.renewed == ["anna"]
        bad.add("new-anna")
        with pytest.raises(MeshError):
            await _echo(source, ANNA)
        assert json.dumps(seen).count("tools/call") == 4


async def test_a_refusal_of_something_else_does_not_send_a_call_again() -> None:
    """A call was taken, its stream broke, and going on with it is refused: it may have been done."""
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", scope["method"] == "POST"
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)

        async def say(value: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
            kind = (b"content-type", b"application/json")
            await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
            await send({"type": "http.response.body", "body": json.dumps(value).encode()})

        if scope["method"] != "POST":
            await say({}, 401 if any(name == b"last-event-id" for name, _ in scope["headers"]) else 405)
            return
        message = json.loads(body)
        answer = {"jsonrpc": "2.0", "id": message.get("id")}
        match message["method"]:
            case "server/discover":
                await say(answer | {"error": {"code": -32601, "message": "no"}}, 400)
            case "initialize":
                about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
                result = {"protocolVersion": "2025-11-25", **about}
                await say(answer | {"result": result}, 200, (b"mcp-session-id", b"s"))
            case "tools/list":
                await say(answer | {"result": {"tools": [{"name": "pay", "inputSchema": {"type": "object"}}]}})
            case "tools/call":
                done.append("paid")
                start = {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", b"text/event-stream")],
                }
                await send(start)
                await send({"type": "http.response.body", "body": b"id: 1\nretry: 10\ndata: \n\n"})
            case _:
                await say({}, 202)

    logins = Logins()
    logins.tokens["anna"] = "t"
    async with listening(app) as url, _source(url, logins) as source:
        await until(lambda: bool(source.tools()))
        with pytest.raises(Unanswered):
            await source.call(SourceCall(source.tools()["desk.pay"], {}, ANNA))
    assert done == ["paid"]
