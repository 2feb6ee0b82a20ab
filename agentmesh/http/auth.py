"""Guard: stands before every HTTP edge and lets in only requests that were meant for this server.

On its outside is the socket; on its inside every application may rely on: the Host and Origin were checked exactly,
the body is whole and within its limit, the headers too, `scope["state"]["principal"]` says who asks and `core.trace.current()`
to which trace it belongs, and an exception that leaves the application has become a problem with an id. Of the paths it knows
only in which form a refusal is read there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentmesh.core.policy import Principal
from agentmesh.core.trace import TRACEPARENT, TRACESTATE, trace_of, traced
from agentmesh.engine.identity import principal_for_open_server
from agentmesh.engine.meter import CANCELLED, OTHER, Meter
from agentmesh.errors import ServeError
from agentmesh.http.first_step import FirstStep
from agentmesh.http.problems import RETRY_AFTER, problem, problem_response, refusal_response, retry_headers, to_problem
from agentmesh.settings import Limits

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0
"""How long a client may take to send its body."""
UNREAD = 64 * 1024 * 1024
"""Bytes of bodies that have begun and not ended, of all requests together: what has arrived whole at once is not among them."""
TARGET_BYTES = 16 * 1024
"""Longest path with its query."""
PORTS = {"http": 80, "https": 443}

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""On every response that does not say otherwise itself."""
_SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
KNOWN_HOSTS = 64
"""Spellings of this server's addresses that are remembered; Host and Origin are the same in nearly every request."""


_TRACEPARENT, _TRACESTATE = TRACEPARENT.encode(), TRACESTATE.encode()
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ROUTES = (
    "/mcp",
    "/a2a",
    "/v1",
    "/healthz",
    "/readyz",
    "/metrics",
    "/webhooks",
    "/a2a-push",
    "/.well-known/agent-card.json",
    "/.well-known/jwks.json",
)
"""By what begins a path it is counted; the rest is up to callers, and counted together."""


def route_of(path: str) -> str:
    """The part of the server that a path is in, for the metrics."""
    if path in ROUTES:
        return path
    return next((route for route in ROUTES if path.startswith(route + "/")), OTHER)


def check_bind(host: str) -> None:
    """ServeError unless `host` is a loopback address: without identity, whoever reaches the port may do everything."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise ServeError(
        f"refused to listen on {host}: this release knows no callers apart, so it serves loopback only; "
        "use --host 127.0.0.1, and a tunnel or an authenticating proxy on this machine to reach it from elsewhere"
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request says that it belongs, in parts that compare exactly."""

    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin | None:
    """A serialized origin (RFC 6454 section 6.1) and nothing more: no path, no user, no trailing dot or slash."""
    scheme, mark, authority = text.partition("://")
    if not mark or scheme not in PORTS:
        return None
    return parse_authority(authority, scheme)


def parse_authority(text: str, scheme: str = "http") -> Origin | None:
    """`host`, `host:port` or `[v6]:port` of a Host header; None when anything else stands in it."""
    if text.startswith("["):
        inside, mark, rest = text[1:].partition("]")
        try:
            host = f"[{ipaddress.IPv6Address(inside)}]" if mark else ""
        except ValueError:
            return None
        if rest and not rest.startswith(":"):
            return None
        port = rest[1:] if rest else str(PORTS[scheme])
    else:
        host, mark, port = text.lower().partition(":")
        port = port if mark else str(PORTS[scheme])
        if not host or not all(c.isascii() and (c.isalnum() or c in "-._") for c in host):
            return None
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or port != str(int(port)):
        return None
    return Origin(scheme, host, int(port))


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        url: str | None = None,
        limits: Limits | None = None,
        identify: Callable[[Scope], Principal] | None = None,
        attended: Sequence[str] = ("/v1/", "/a2a"),
        body_seconds: float = BODY_SECONDS,
        meter: Meter | None = None,
        unread: int = UNREAD,
    ) -> None:
        """`host`: the address bound, beside the loopback names. The port is that of the socket a request came in by.
        `url`: the mesh's own address for clients (`mesh.file.url`), whose host is let in too.
        `attended`: prefixes of paths where a call that has not begun to answer is cancelled when its client leaves.
        """
        self.app = app
        self.limits = limits or Limits()
        bound = host if ":" not in host or host.startswith("[") else f"[{host}]"
        self._hosts = {"localhost", "127.0.0.1", "[::1]", bound.lower()}
        self._known: set[tuple[bytes, bytes | None, object]] = set()
        self._public = _public_origin(url)
        self._identify = identify or (lambda _: principal_for_open_server())
        self._attended = tuple(attended)
        self._body_seconds = body_seconds
        self._meter = meter or Meter()
        self._unread = 0
        self._most_unread = unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server speaks no WebSocket"})
            return
        response = _Response(send)
        began = time.perf_counter()
        trace = _trace(scope["headers"])
        try:
            if trace is None:
                await self._serve(scope, receive, response)
            else:
                with traced(trace):
                    await self._serve(scope, receive, response)
        finally:
            self._record(scope, response.status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], route_of(scope["path"])
        code = str(status) if status else ""
        error = (
            "" if 0 < status < 500 else code or CANCELLED
        )  # OpenTelemetry's rule for servers: 4xx is no error of theirs
        self._meter.requests.record((method if method in METHODS else OTHER, route, code, error), seconds)

    async def _serve(self, scope: Scope, receive: Receive, response: _Response) -> None:
        refusal = self._refusal(scope)
        if refusal is None:
            try:
                body = await self._read(scope, receive)
            except _Refused as refused:
                refusal = refused.problem
        if refusal is not None:
            # What is left of the body is not read, so the connection cannot carry another request.
            headers = {"connection": "close"}
            if refusal["status"] == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
                headers["accept-encoding"] = "identity"  # RFC 9110 section 15.5.16
            await refusal_response(scope["path"], refusal, headers)(scope, receive, response)
            return
        if body is None:
            return
        scope["state"] = {**scope.get("state", {}), "principal": self._identify(scope)}
        try:
            if scope["path"].startswith(self._attended):
                await self._attend(scope, body, receive, response)
            else:
                await self.app(scope, _replay(body, receive), response)
        except asyncio.CancelledError:
            if response.started:
                raise
            # The server stops, and its moment for open answers is over: say so, and leave the log to what went wrong.
            stopping = problem(503, "the server is stopping; try again in a moment", code="stopping")
            headers = {"connection": "close", "retry-after": RETRY_AFTER}
            await refusal_response(scope["path"], stopping, headers)(scope, receive, response)
        except Exception as error:
            if response.complete:
                return  # the application's own handler has answered and logged it
            answer = to_problem(error)
            if response.started:
                raise  # half a response: only breaking the connection tells the client
            await problem_response(answer, retry_headers(error))(scope, receive, response)

    def _refusal(self, scope: Scope) -> dict[str, object] | None:
        """What is wrong with the request line and headers, before anything is read."""
        size = 0
        hosts, origins = [], []
        length: bytes | None = None
        coding: bytes | None = None
        for name, value in scope["headers"]:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == b"content-length":
                length = value if length is None else length
            elif name == b"content-encoding":
                coding = value if coding is None else coding + b"," + value
        if size > self.limits.headers:
            return problem(431, f"the headers are over {self.limits.headers} bytes")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_BYTES:
            return problem(414, f"the path is over {TARGET_BYTES} bytes")
        if len(hosts) != 1:
            return problem(400, "send exactly one Host header", code="host")
        refused = self._foreign(scope, hosts[0], origins)
        if refused is not None:
            return refused
        if coding is not None and coding.strip().lower() not in (b"", b"identity"):
            said = coding.decode("latin-1")[:200]
            return problem(415, f"bodies are read as they are, not {said!r}; send the body without Content-Encoding")
        if length is not None:
            if not length.isdigit():
                return problem(400, "Content-Length is not a number")
            if len(length) > 18 or int(length) > self.limits.body:
                return self._too_large()
        return None

    def _foreign(self, scope: Scope, host: bytes, origins: Sequence[bytes]) -> dict[str, object] | None:
        """What is wrong with where the request says that it belongs."""
        server = scope.get("server")
        port = server[1] if server else None
        known = (host, origins[0] if origins else None, port)
        if known in self._known and len(origins) <= 1:
            return None
        text = host.decode("latin-1")
        if not self._allowed(parse_authority(text), port) and not self._is_public_host(text):
            return problem(421, f"this server is not {text[:200]!r}; use the address it was started on", code="host")
        for value in [v.decode("latin-1") for v in origins]:
            origin = parse_origin(value)
            if origin is None or not (self._allowed(origin, port) or origin == self._public):
                return problem(403, f"pages from {value[:200]!r} may not use this server", code="origin")
        if len(self._known) >= KNOWN_HOSTS:
            self._known.clear()
        if len(origins) <= 1:
            self._known.add(known)
        return None

    def _allowed(self, origin: Origin | None, port: int | None) -> bool:
        return origin is not None and origin.scheme == "http" and origin.host in self._hosts and origin.port == port

    def _is_public_host(self, host: str) -> bool:
        return self._public is not None and parse_authority(host, self._public.scheme) == self._public

    def _too_large(self) -> dict[str, object]:
        return problem(413, f"the body is over {self.limits.body} bytes", code="too_large", limit=self.limits.body)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client left before it was complete."""
        first = FirstStep(receive())
        if first.done and first.result["type"] == "http.request" and not first.result.get("more_body", False):
            body: bytes = first.result.get("body", b"")
            if len(body) > self.limits.body:
                raise _Refused(self._too_large())
            return body  # it was here already, as nearly always: no clock needs to be set
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_seconds):
                message = await first
                while message["type"] == "http.request":
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    self._unread += len(chunks[-1])
                    if size > self.limits.body:
                        raise _Refused(self._too_large())
                    if self._unread > self._most_unread:
                        raise _Refused(problem(503, "too many bodies arrive slowly; try again later", code="busy"))
                    if not message.get("more_body", False):
                        return b"".join(chunks)
                    message = await receive()
                return None
        except TimeoutError:
            raise _Refused(problem(408, f"the body did not arrive within {self._body_seconds:g} seconds")) from None
        finally:
            self._unread -= size

    async def _attend(self, scope: Scope, body: bytes, receive: Receive, response: _Response) -> None:
        """Runs the application until it is done, or its client has left without having been answered."""
        gone = anyio.Event()
        failure: Exception | None = None

        async def watch(cancel: anyio.CancelScope) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not response.started:
                cancel.cancel()

        async def wait_gone() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            try:
                await self.app(scope, _replay(body, wait_gone), response)
            except Exception as error:
                failure = error  # out of the group, which would wrap it
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Refused(Exception):
    def __init__(self, problem: dict[str, object]) -> None:
        self.problem = problem


class _Response:
    """Sends on, with the security headers; remembers how far the response came."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.complete = False
        self.status = 0
        """Of the response; 0 while there is none."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = message.setdefault("headers", [])
            own = {name for name, _ in headers}
            message["headers"] = [*headers, *(pair for pair in _SECURITY if pair[0] not in own)]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


def _trace(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str] | None:
    """The trace that a request belongs to. None for most, found out at the cost of a look at each name."""
    for name, _ in headers:
        if name == _TRACEPARENT:
            break
    else:
        return None
    parents = [value.decode("latin-1").strip() for name, value in headers if name == _TRACEPARENT]
    states = [value.decode("latin-1").strip() for name, value in headers if name == _TRACESTATE]
    if len(parents) != 1:
        return None  # two of them say nothing (W3C Trace Context section 3.2); several states are one list (3.3.1)
    return trace_of({TRACEPARENT: parents[0], TRACESTATE: ",".join(states)})


def _replay(body: bytes, then: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what `then` gives."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await then()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _public_origin(url: str | None) -> Origin | None:
    if url is None:
        return None
    parts = urlsplit(url)
    return parse_origin(f"{parts.scheme}://{parts.netloc}")
