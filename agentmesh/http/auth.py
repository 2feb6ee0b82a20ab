"""Guard: stands before every HTTP edge and lets in only requests that were meant for this server.

On its outside is the socket; on its inside every application may rely on: the Host and Origin were checked exactly,
the body is whole and within its limit, the headers too, `scope["state"]["principal"]` says who asks, and an exception
that leaves the application has become a problem with an id. Of the paths it knows only in which form a refusal is read there.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentmesh.core.policy import Principal
from agentmesh.engine.identity import principal_for_open_server
from agentmesh.errors import ServeError
from agentmesh.http.problems import problem, problem_response, refusal_response, retry_headers, to_problem
from agentmesh.settings import Limits

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0
"""How long a client may take to send its body."""
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
    ) -> None:
        """`host`: the address bound, beside the loopback names. The port is that of the socket a request came in by.
        `url`: the mesh's own address for clients (`mesh.file.url`), whose host is let in too.
        `attended`: prefixes of paths where a call that has not begun to answer is cancelled when its client leaves.
        """
        self.app = app
        self.limits = limits or Limits()
        bound = host if ":" not in host or host.startswith("[") else f"[{host}]"
        self._hosts = {"localhost", "127.0.0.1", "[::1]", bound.lower()}
        self._public = _public_origin(url)
        self._identify = identify or (lambda _: principal_for_open_server())
        self._attended = tuple(attended)
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server speaks no WebSocket"})
            return
        response = _Response(send)
        refusal = self._refusal(scope)
        if refusal is None:
            try:
                body = await self._read(scope, receive)
            except _Refused as refused:
                refusal = refused.problem
        if refusal is not None:
            # What is left of the body is not read, so the connection cannot carry another request.
            await refusal_response(scope["path"], refusal, {"connection": "close"})(scope, receive, response)
            return
        if body is None:
            return
        scope["state"] = {**scope.get("state", {}), "principal": self._identify(scope)}
        try:
            if scope["path"].startswith(self._attended):
                await self._attend(scope, body, receive, response)
            else:
                await self.app(scope, _replay(body, receive), response)
        except Exception as error:
            if response.complete:
                return  # the application's own handler has answered and logged it
            answer = to_problem(error)
            if response.started:
                raise  # half a response: only breaking the connection tells the client
            await problem_response(answer, retry_headers(error))(scope, receive, response)

    def _refusal(self, scope: Scope) -> dict[str, object] | None:
        """What is wrong with the request line and headers, before anything is read."""
        raw = scope["headers"]
        if sum(len(k) + len(v) + 4 for k, v in raw) > self.limits.headers:
            return problem(431, f"the headers are over {self.limits.headers} bytes")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_BYTES:
            return problem(414, f"the path is over {TARGET_BYTES} bytes")
        hosts = [v.decode("latin-1") for k, v in raw if k == b"host"]
        if len(hosts) != 1:
            return problem(400, "send exactly one Host header", code="host")
        server = scope.get("server")
        port = server[1] if server else None
        if not self._allowed(parse_authority(hosts[0]), port) and not self._is_public_host(hosts[0]):
            detail = f"this server is not {hosts[0][:200]!r}; use the address it was started on"
            return problem(421, detail, code="host")
        for value in [v.decode("latin-1") for k, v in raw if k == b"origin"]:
            origin = parse_origin(value)
            if origin is None or not (self._allowed(origin, port) or origin == self._public):
                return problem(403, f"pages from {value[:200]!r} may not use this server", code="origin")
        length = Headers(raw=raw).get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit()):
                return problem(400, "Content-Length is not a number")
            if len(length) > 18 or int(length) > self.limits.body:
                return self._too_large()
        return None

    def _allowed(self, origin: Origin | None, port: int | None) -> bool:
        return origin is not None and origin.scheme == "http" and origin.host in self._hosts and origin.port == port

    def _is_public_host(self, host: str) -> bool:
        return self._public is not None and parse_authority(host, self._public.scheme) == self._public

    def _too_large(self) -> dict[str, object]:
        return problem(413, f"the body is over {self.limits.body} bytes", code="too_large", limit=self.limits.body)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client left before it was complete."""
        chunks: list[bytes] = []
        size = 0
        with anyio.move_on_after(self._body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > self.limits.body:
                    raise _Refused(self._too_large())
                if not message.get("more_body", False):
                    return b"".join(chunks)
        raise _Refused(problem(408, f"the body did not arrive within {self._body_seconds:g} seconds"))

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

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


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
