"""The MCP server at `/mcp`: the SDK's low-level Server over Tools.list and Tools.call, for both eras of the protocol
on one URL.

On one side the SDK: wire, sessions, versions. On the other the engine, which checks arguments, asks policy and
records. Requests with `MCP-Protocol-Version: 2026-07-28` stand alone; older ones open with `initialize` and keep an
`Mcp-Session-Id`. `http/auth.py` has been there before: who asks is in `scope["state"]["principal"]`, and Host, Origin
and sizes are checked, which is why the SDK's own checks of Host and Origin are off (they compare by prefix, and two
lists would sooner or later disagree).

Importing this module costs 0.7 s and 53 MB, all of it the SDK: import it late.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import x_mcp_header_map
from mcp_types import INVALID_REQUEST, CallToolRequestParams, PaginatedRequestParams
from mcp_types.version import LATEST_MODERN_VERSION

from agentmesh import __version__
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunEvent
from agentmesh.core.tool import ToolCall
from agentmesh.errors import MeshError
from agentmesh.mcp.convert import (
    KEY_META,
    check_arguments,
    from_cursor,
    is_tool_failure,
    to_cursor,
    to_line,
    to_mcp_error,
    to_mcp_failure,
    to_mcp_result,
    to_mcp_tool,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentmesh.engine import Engine
    from agentmesh.settings import Settings

log = logging.getLogger("agentmesh.mcp")

PAGE: Final = 200
"""Tools in one answer to tools/list: large, since some clients never ask for the next page."""
LIST_TTL_MS: Final = 10_000
"""How long a client may keep a list. Tools change only when the server restarts, and a developer restarts often."""
MAX_SESSIONS: Final = 1000
SESSION_IDLE_SECONDS: Final = 30 * 60.0
"""A session without a request or a GET stream open for this long ends; what it still runs is cancelled."""
NOTICES: Final = 64
"""Progress lines that wait for a slow client; further ones are dropped, the call goes on."""


class McpEdge:
    """What app.py mounts at `/mcp` (`app`) and holds open in its lifespan (`run`). `server` also serves in process."""

    def __init__(self, server: Server[Any], manager: StreamableHTTPSessionManager) -> None:
        self.server = server
        self.app: ASGIApp = _Front(manager)
        self._manager = manager

    def run(self) -> AbstractAsyncContextManager[None]:
        """Holds every session; leaving it ends them and cancels what runs for them. May be entered once."""
        return self._manager.run()


def build_mcp(engine: Engine, settings: Settings, *, in_process: Principal | None = None) -> McpEdge:
    """The MCP edge of a mesh. `in_process`: who calls when there is no HTTP request, else such calls are refused."""
    mesh = engine.mesh
    handlers = _Handlers(engine, settings.limits.json_depth, in_process)
    server: Server[Any] = Server(
        mesh.name,
        version=__version__,
        title=mesh.name,
        description=mesh.file.description or None,
        instructions=_instructions(mesh),
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL_MS, scope="private")},
        get_tool_input_schema=_mirrored(mesh),
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
    )
    # The SDK's only middleware opens a span per message; without an exporter it is a cost and nothing else.
    server.middleware.clear()
    manager = StreamableHTTPSessionManager(
        server,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        session_idle_timeout=SESSION_IDLE_SECONDS,
        max_sessions=MAX_SESSIONS,
        max_request_body_size=settings.limits.body,
    )
    return McpEdge(server, manager)


class _Handlers:
    """tools/list and tools/call."""

    def __init__(self, engine: Engine, depth: int, in_process: Principal | None) -> None:
        self._engine = engine
        self._depth = depth
        self._in_process = in_process

    async def list_tools(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        try:
            principal = self._principal(ctx)
            after = from_cursor(params.cursor) if params is not None and params.cursor is not None else None
            tools = sorted(self._engine.tools.list(principal), key=lambda tool: tool.name)
        except Exception as error:
            raise _reported(error, "tools/list") from error
        rest = tools if after is None else [tool for tool in tools if tool.name > after]
        page = rest[:PAGE]
        wire: dict[str, Any] = {
            "resultType": "complete",
            "tools": [to_mcp_tool(tool, ctx.protocol_version) for tool in page],
        }
        if len(rest) > PAGE:
            wire["nextCursor"] = to_cursor(page[-1].name)
        return wire

    async def call_tool(self, ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> Any:
        version = ctx.protocol_version
        try:
            principal = self._principal(ctx)
            arguments: Mapping[str, Any] = params.arguments or {}
            check_arguments(arguments, self._depth)
            meta: Mapping[str, Any] = ctx.meta or {}
            key = meta.get(KEY_META)
            call = ToolCall(params.name, arguments, key if isinstance(key, str) else None)
            if meta.get("progress_token") is None:
                result = await self._engine.tools.call(principal, call, source="mcp")
            else:
                async with _progress(ctx) as on_progress:
                    result = await self._engine.tools.call(principal, call, source="mcp", on_progress=on_progress)
        except MeshError as error:
            if is_tool_failure(error, version):
                return to_mcp_failure(error)
            raise to_mcp_error(error) from error
        except Exception as error:
            raise _reported(error, f"tools/call of {params.name!r}") from error
        return to_mcp_result(result, version)

    def _principal(self, ctx: ServerRequestContext[Any]) -> Principal:
        """Who asks. Without `http/auth.py` in front nobody is anybody: refuse rather than guess."""
        if ctx.request is None:
            principal = self._in_process
        else:
            principal = ctx.request.scope.get("state", {}).get("principal")
        if isinstance(principal, Principal):
            return principal
        raise RuntimeError("a request reached /mcp without a principal; mount it behind http/auth.py")


@asynccontextmanager
async def _progress(ctx: ServerRequestContext[Any]) -> AsyncIterator[Callable[[RunEvent | str], None]]:
    """A callback that never blocks; what it is told goes out as notifications/progress, all of it before the result."""
    send, receive = anyio.create_memory_object_stream[str](NOTICES)

    def on_progress(event: RunEvent | str) -> None:
        if text := to_line(event):
            try:
                send.send_nowait(text)
            except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
                log.debug("dropped a progress line: %s", text)

    async def forward() -> None:
        with receive:
            count = 0
            async for text in receive:
                count += 1
                await ctx.session.report_progress(count, None, text)

    failure: BaseException | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(forward)
        with send:
            try:
                yield on_progress
            except Exception as error:  # carried past the task group, which would wrap it into an ExceptionGroup
                failure = error
    if failure is not None:
        raise failure


def _reported(error: Exception, what: str) -> MCPError:
    if not isinstance(error, (MeshError, MCPError)):
        log.error("%s failed", what, exc_info=error)
    return to_mcp_error(error)


def _instructions(mesh: Mesh) -> str | None:
    """What a model should know before it picks a tool: the mesh's description, then a line per server that has one."""
    lines = [mesh.file.description] if mesh.file.description else []
    for name, server in sorted(mesh.servers.items()):
        if server.description:
            lines.append(f"{name}.*: {server.description}" if server.prefix else server.description)
    return "\n".join(lines) or None


def _mirrored(mesh: Mesh) -> Callable[[str], Mapping[str, Any] | None]:
    """Input schemas of the tools that mirror arguments into `Mcp-Param-*` headers (2026-07-28 server/tools,
    x-mcp-header).

    Without this lookup each tools/call would cost a tools/list; with None for every other tool it costs a dict access.
    """
    schemas = {name: tool.input_schema for name, tool in mesh.tools.items() if x_mcp_header_map(tool.input_schema)}
    return schemas.get


class _Front:
    """The SDK's ASGI app with our manners: sessions belong to their principal, and a refusal says what to do.

    The SDK compares the credential that opened a session with that of each later request; it reads it from
    `scope["user"]`. Its refusals before JSON-RPC starts are bare texts or pydantic's; they become JSON-RPC errors of
    one sentence.
    """

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._app: ASGIApp = manager.asgi_app
        self._whole: ASGIApp = RequestBodyLimitMiddleware(self._check_id, manager.max_request_body_size)
        self._users: dict[tuple[str, str], AuthenticatedUser] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        principal = scope.get("state", {}).get("principal")
        if isinstance(principal, Principal):
            scope = {**scope, "user": self._user(principal)}
        held: Message | None = None

        async def plainly(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held = message
            elif held is None:
                await send(message)
            else:
                start, held = held, None
                body = _refusal(start["status"], message.get("body", b""))
                headers = [h for h in start["headers"] if h[0].lower() not in (b"content-length", b"content-type")]
                headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await send({**start, "headers": headers})
                await send({**message, "body": body})

        legacy = scope["method"] == "POST" and _MODERN not in scope["headers"]
        await (self._whole if legacy else self._app)(scope, receive, plainly)

    async def _check_id(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request whose id is no id: in this era the SDK takes it for a notification and never answers."""
        whole = await receive()  # the whole body, by RequestBodyLimitMiddleware
        again = iter((whole,))

        async def replay() -> Message:
            return next(again, None) or await receive()

        if _has_bad_id(whole.get("body", b"")):
            body = _error(INVALID_REQUEST, "The id of a request is a string or an integer.")
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, replay, send)

    def _user(self, principal: Principal) -> AuthenticatedUser:
        key = (principal.tenant, principal.subject)
        user = self._users.get(key)
        if user is None:
            if len(self._users) >= MAX_SESSIONS:
                self._users.clear()
            token = AccessToken(token="", client_id=principal.tenant, scopes=[], subject=principal.subject)
            user = self._users[key] = AuthenticatedUser(token)
        return user


_MODERN: Final = (b"mcp-protocol-version", LATEST_MODERN_VERSION.encode())

_REFUSALS: Final = {
    400: "Send the message with Content-Type: application/json.",
    405: "This URL takes POST; GET and DELETE only with the Mcp-Session-Id of a session opened with initialize.",
    406: "Send Accept: application/json, text/event-stream.",
    413: "The request body is over the server's limit.",
}


def _refusal(status: int, body: bytes) -> bytes:
    """The body of a response that refuses: as it is when it is a JSON-RPC error in plain words, else one that is."""
    try:
        text = json.loads(body)["error"]["message"]
        if not text.startswith("Validation error"):
            return body
        text = "The body is not one JSON-RPC 2.0 request, notification or response."
    except (ValueError, TypeError, KeyError):
        text = _REFUSALS.get(status) or body.decode("utf-8", "replace") or "Refused."
    return _error(INVALID_REQUEST, text)


def _error(code: int, text: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}).encode()


_PERHAPS_BAD_ID: Final = re.compile(rb'"id"\s*:\s*(?!"|-?\d+\s*[,}])')


def _has_bad_id(body: bytes) -> bool:
    if _PERHAPS_BAD_ID.search(body) is None:  # the usual case, without parsing a long log twice
        return False
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False  # the SDK says what is wrong with it
    if not isinstance(message, dict) or "id" not in message:
        return False
    return not isinstance(message["id"], (str, int)) or isinstance(message["id"], bool)
