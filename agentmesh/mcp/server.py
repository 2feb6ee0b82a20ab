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

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import x_mcp_header_map
from mcp_types import CallToolRequestParams, PaginatedRequestParams

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
from agentmesh.mcp.fast import Fast
from agentmesh.mcp.front import Front
from agentmesh.mcp.metering import metering
from agentmesh.mcp.people import People
from agentmesh.mcp.tasks import Tasks

if TYPE_CHECKING:

    from agentmesh.engine import Engine
    from agentmesh.settings import Settings

log = logging.getLogger("agentmesh.mcp")

PAGE: Final = 200
"""Tools in one answer to tools/list: large, since some clients never ask for the next page."""
LIST_TTL_MS: Final = 10_000
"""How long a client may keep a list. Tools change only when the server restarts, and a developer restarts often."""
MAX_SESSIONS: Final = 1000
"""Sessions of the older era at once; the next client is told to come back (HTTP 503)."""
SESSION_IDLE_SECONDS: Final = 30 * 60.0
"""A session without a request or a GET stream open for this long ends; what it still runs is cancelled."""
NOTICES: Final = 64
"""Progress lines that wait for a slow client; further ones are dropped, the call goes on."""


class McpEdge:
    """What app.py mounts at `/mcp` (`app`) and holds open in its lifespan (`run`). `server` also serves in process."""

    def __init__(self, server: Server[Any], manager: StreamableHTTPSessionManager, app: Fast) -> None:
        self.server = server
        self.app = app
        self._manager = manager

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Holds every session; leaving it ends them and cancels what runs for them. May be entered once."""
        async with self._manager.run(), self.app.run():
            yield


def build_mcp(
    engine: Engine,
    settings: Settings,
    *,
    in_process: Principal | None = None,
    max_sessions: int = MAX_SESSIONS,
    session_idle_seconds: float = SESSION_IDLE_SECONDS,
) -> McpEdge:
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
    handlers.tasks.register(server)
    # The SDK's only middleware opens a span per message; without an exporter it is a cost and nothing else.
    server.middleware.clear()
    server.middleware.append(metering(engine.meter, engine.tools))
    manager = StreamableHTTPSessionManager(
        server,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        session_idle_timeout=session_idle_seconds,
        max_sessions=max_sessions,
        max_request_body_size=settings.limits.body,
    )
    limits = settings.limits
    return McpEdge(server, manager, Fast(engine, server, Front(manager), body=limits.body, depth=limits.json_depth))


class _Handlers:
    """tools/list and tools/call."""

    def __init__(self, engine: Engine, depth: int, in_process: Principal | None) -> None:
        self._engine = engine
        self._depth = depth
        self._in_process = in_process
        self._people = People(engine)
        self.tasks = Tasks(engine, self._principal, depth=depth)

    async def list_tools(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        try:
            principal = self._principal(ctx)
            after = from_cursor(params.cursor) if params is not None and params.cursor is not None else None
            offered = [*self._engine.tools.list(principal), *self._people.list(principal)]
            tools = sorted(offered, key=lambda tool: tool.name)
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
            tool = None if call.name in self._people.tools else self._engine.tools.find(call.name)
            if call.name in self._people.tools:
                result = await self._people.call(principal, call)
            elif tool is not None and self.tasks.takes(ctx, tool):
                return await self.tasks.call(ctx, principal, call, tool)
            elif meta.get("progress_token") is None:
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
