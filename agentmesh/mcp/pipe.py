"""`agentmesh mcp`: a pipe from stdio to a running server's `/mcp`.

On one side an MCP client that started us and speaks newline-delimited JSON-RPC (2026-07-28 basic/transports/stdio);
on the other the mesh's own server over streamable HTTP. The pipe knows no tool and keeps no state but what HTTP needs
and stdio does not have: the headers of each era, the session of a client that opened with `initialize`, and which
POST belongs to which id, so that a cancelled one can be closed. A session that the server has forgotten (it was
restarted) is opened again without the client noticing.

It imports neither the SDK nor the engine: an IDE starts one pipe per window.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx2
from anyio.abc import TaskGroup

from agentmesh.mcp.wire import (
    HEADER_MISMATCH,
    INVALID_REQUEST,
    NAMED_BY,
    PARSE_ERROR,
    UNAVAILABLE,
    cancelled_id,
    events_of,
    to_answer,
    to_error,
    to_header,
    to_line,
    version_of,
)

log = logging.getLogger("agentmesh.mcp.pipe")

Write = Callable[[bytes], Awaitable[None]]

GRACE: Final = 1.0
"""Seconds that requests in flight get when stdin ends: enough for `echo … | agentmesh mcp`."""
RECONNECTS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to reach a server that is not there (being restarted, say)."""

_ACCEPT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


async def run_pipe(
    url: str,
    *,
    stdin: AsyncIterator[bytes],
    stdout: Write,
    headers: Mapping[str, str],
    reconnects: Sequence[float] = RECONNECTS,
    grace: float = GRACE,
) -> None:
    """Pipes until stdin ends. `stdin` yields lines; `stdout` takes whole lines, one call at a time."""
    timeout = httpx2.Timeout(10.0, read=None)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
    async with httpx2.AsyncClient(
        headers={**_ACCEPT, **headers}, timeout=timeout, limits=limits, trust_env=False
    ) as http:
        await _Pipe(url, http, stdout, reconnects).run(stdin, grace)


@dataclass
class _Flight:
    """A request that is not answered yet."""

    modern: bool
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    cancelled: bool = False
    """The client no longer waits: whatever still comes for it is dropped."""


@dataclass(frozen=True)
class _Session:
    """What a client that opened with `initialize` has at the server."""

    id: str
    version: str

    def headers(self) -> dict[str, str]:
        return {"mcp-session-id": self.id, "mcp-protocol-version": self.version}


class _Gone(Exception):
    """The server does not know the session any more."""


class _Pipe:
    def __init__(self, url: str, http: httpx2.AsyncClient, write: Write, reconnects: Sequence[float]) -> None:
        self._url = url
        self._http = http
        self._out = write
        self._reconnects = reconnects
        self._flights: dict[str | int, _Flight] = {}
        self._session: _Session | None = None
        self._initialize: dict[str, Any] | None = None
        self._mirrors: dict[str, Any] = {}
        """By tool: which arguments go into `Mcp-Param-*` headers, for tools that have any."""
        self._writing = anyio.Lock()
        self._opening = anyio.Lock()
        self._group: TaskGroup | None = None

    async def run(self, lines: AsyncIterator[bytes], grace: float) -> None:
        try:
            async with anyio.create_task_group() as self._group:
                async with anyio.create_task_group() as requests:
                    async for line in lines:
                        if line.strip():
                            await self._take(line, requests)
                    requests.cancel_scope.deadline = anyio.current_time() + grace
                self._group.cancel_scope.cancel()
        finally:
            if self._session is not None:  # what still runs for it ends with it
                with anyio.move_on_after(grace, shield=True):
                    await self._close(self._session)

    async def _take(self, line: bytes, requests: TaskGroup) -> None:
        """Sends one line on its way; waits only where the order matters: the handshake and notifications."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            await self._fail(None, PARSE_ERROR, "The line is not JSON; send one JSON-RPC message per line.")
            return
        if not isinstance(message, dict):
            await self._fail(None, INVALID_REQUEST, "The line is not one JSON-RPC message; batches are not accepted.")
            return
        method, ident = message.get("method"), message.get("id")
        if not isinstance(method, str) or "id" not in message:
            await self._tell(message)
        elif not isinstance(ident, (str, int)) or isinstance(ident, bool):
            await self._fail(None, INVALID_REQUEST, "The id of a request is a string or an integer.")
        elif ident in self._flights:
            await self._fail(ident, INVALID_REQUEST, f"Request {ident!r} is still in flight; use another id.")
        else:
            flight = self._flights[ident] = _Flight(modern=version_of(message) is not None)
            if method == "initialize":
                self._session, self._initialize = None, message
                await self._request(message, ident, flight)
            else:
                requests.start_soon(self._request, message, ident, flight)

    async def _tell(self, message: dict[str, Any]) -> None:
        """Posts a notification, or the client's response to a request of the server."""
        method = message.get("method")
        if method == "notifications/cancelled":
            flight = self._flights.get(cancelled_id(message))
            if flight is not None:
                flight.cancelled = True
                if flight.modern:  # closing the response stream is the cancellation (streamable-http, Cancellation)
                    flight.scope.cancel()
                    return
            elif self._session is None:
                return
        headers = self._headers(message)
        try:
            with anyio.fail_after(10):
                response = await self._http.post(self._url, content=to_line(message), headers=headers)
            if response.status_code >= 400:
                log.warning("%s was refused: %s", method, response.text[:500])
        except (httpx2.HTTPError, TimeoutError) as error:
            log.warning("%s was not delivered: %s", method, error)
        if method == "notifications/initialized" and self._session is not None and self._group is not None:
            self._group.start_soon(self._listen, self._session)

    async def _request(self, message: dict[str, Any], ident: str | int, flight: _Flight) -> None:
        try:
            with flight.scope:
                try:
                    await self._exchange(message, ident, flight)
                except httpx2.ConnectError as error:
                    text = f"No AgentMesh server answers at {self._url} ({error}); start it with `agentmesh serve`."
                    await self._answer_error(flight, ident, UNAVAILABLE, text)
                except httpx2.HTTPError as error:
                    text = (
                        f"The connection to {self._url} broke before the answer came ({type(error).__name__}); what it"
                    )
                    await self._answer_error(flight, ident, UNAVAILABLE, f"{text} began is in `agentmesh runs list`.")
                except ValueError:
                    text = f"What answers at {self._url} does not speak MCP; give the address of an AgentMesh server."
                    await self._answer_error(flight, ident, UNAVAILABLE, text)
        finally:
            self._flights.pop(ident, None)

    async def _exchange(self, message: dict[str, Any], ident: str | int, flight: _Flight) -> None:
        """Posts a request; once more if its session was forgotten, or a header was due that only a list tells of."""
        for last in (False, True):
            session = self._session
            try:
                answer = await self._post(message, ident, flight)
            except _Gone:
                if not last and await self._reopen(session):
                    continue
                answer = to_error(ident, INVALID_REQUEST, "The server has ended this session; initialize again.")
            if not last and await self._must_mirror(message, answer):
                continue
            self._learn(message, answer)
            if not flight.cancelled:
                await self._write(to_line(answer))
            return

    async def _post(self, message: dict[str, Any], ident: str | int, flight: _Flight) -> dict[str, Any]:
        """One POST. Writes what comes before the answer; returns the answer, under the request's id."""
        headers = self._headers(message)
        async with self._connected(to_line(message), headers) as response:
            if response.status_code == 404 and "mcp-session-id" in headers:
                raise _Gone
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                async for data in events_of(response):
                    event = json.loads(data)
                    if "method" not in event:
                        self._keep_session(message, event, response)
                        return {**event, "id": ident}
                    if not flight.cancelled:
                        await self._write(data)
                text = "The server closed the stream before the answer came; what it began is in `agentmesh runs list`."
                return to_error(ident, UNAVAILABLE, text)
            answer = to_answer(response.status_code, await response.aread(), ident)
            self._keep_session(message, answer, response)
            return answer

    @asynccontextmanager
    async def _connected(self, content: bytes, headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        """A POST, tried again while nothing listens: no byte of it was sent then."""
        for pause in (*self._reconnects, None):
            request = self._http.build_request("POST", self._url, content=content, headers=headers)
            try:
                response = await self._http.send(request, stream=True)
            except httpx2.ConnectError:
                if pause is None:
                    raise
                await anyio.sleep(pause)
                continue
            try:
                yield response
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
            return

    def _headers(self, message: Mapping[str, Any]) -> dict[str, str]:
        """The headers that streamable HTTP wants beside the body, which stdio does not have."""
        version = version_of(message)
        if version is None:
            initialize = message.get("method") == "initialize"
            return {} if self._session is None or initialize else self._session.headers()
        method = str(message.get("method"))
        headers = {"mcp-protocol-version": to_header(version), "mcp-method": to_header(method)}
        params = message["params"]
        name = params.get(NAMED_BY.get(method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = to_header(name)
            if (
                method == "tools/call"
                and (mirror := self._mirrors.get(name))
                and isinstance(params.get("arguments"), dict)
            ):
                from mcp.shared.inbound import mcp_param_headers

                headers |= mcp_param_headers(mirror, params["arguments"])
        return headers

    def _learn(self, message: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Remembers from a tools/list which tools mirror arguments into headers."""
        if message.get("method") != "tools/list" or "x-mcp-header" not in json.dumps(answer):
            return
        from mcp.shared.inbound import x_mcp_header_map

        for tool in answer.get("result", {}).get("tools", []):
            if mirror := x_mcp_header_map(tool["inputSchema"]):
                self._mirrors[tool["name"]] = mirror

    async def _must_mirror(self, message: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
        """Whether a call failed for `Mcp-Param-*` headers that a list would have told us of, and now has."""
        code = answer.get("error", {}).get("code")
        if (
            code != HEADER_MISMATCH
            or message.get("method") != "tools/call"
            or message["params"].get("name") in self._mirrors
        ):
            return False
        meta = message["params"]["_meta"]
        cursor: str | None = None
        for _ in range(100):
            params = {"_meta": meta} | ({} if cursor is None else {"cursor": cursor})
            listing = {"jsonrpc": "2.0", "id": "list", "method": "tools/list", "params": params}
            page = await self._post(listing, "list", _Flight(modern=True, cancelled=True))
            self._learn(listing, page)
            cursor = page.get("result", {}).get("nextCursor")
            if cursor is None:
                break
        return message["params"].get("name") in self._mirrors

    def _keep_session(self, message: Mapping[str, Any], answer: Mapping[str, Any], response: httpx2.Response) -> None:
        ident = response.headers.get("mcp-session-id")
        if message.get("method") == "initialize" and ident is not None and "result" in answer:
            self._session = _Session(ident, str(answer["result"].get("protocolVersion")))

    async def _reopen(self, forgotten: _Session | None) -> bool:
        """Opens the client's session again; True when there is one other than the forgotten."""
        async with self._opening:
            if self._session is not forgotten or self._initialize is None:
                return self._session is not forgotten
            await self._post(self._initialize, "reopen", _Flight(modern=False, cancelled=True))
            if self._session is forgotten or self._session is None:
                return False
            log.warning("the server had forgotten the session (restarted?); opened another")
            done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            await self._tell(done)
            return True

    async def _listen(self, session: _Session) -> None:
        """Writes what the server says outside of any request, while this is the session."""
        pauses = iter(self._reconnects)
        while self._session is session:
            try:
                headers = session.headers() | {"accept": "text/event-stream"}
                async with self._http.stream("GET", self._url, headers=headers) as response:
                    if response.status_code >= 400:
                        return  # no such stream, or no such session: the next request opens another, and listens again
                    pauses = iter(self._reconnects)
                    async for data in events_of(response):
                        await self._write(data)
            except httpx2.HTTPError as error:
                log.debug("the server's notices broke off: %s", error)
            pause = next(pauses, None)
            if pause is None:
                return
            await anyio.sleep(pause)

    async def _close(self, session: _Session) -> None:
        try:
            await self._http.delete(self._url, headers=session.headers())
        except httpx2.HTTPError as error:
            log.debug("the session was not closed: %s", error)

    async def _answer_error(self, flight: _Flight, ident: str | int, code: int, text: str) -> None:
        if not flight.cancelled:
            await self._fail(ident, code, text)

    async def _fail(self, ident: str | int | None, code: int, text: str) -> None:
        await self._write(to_line(to_error(ident, code, text)))

    async def _write(self, line: bytes) -> None:
        async with self._writing:
            await self._out(line + b"\n")
