"""The MCP server at `/mcp`: the SDK's low-level Server over the engine's tools, resources and prompts, for both eras of the
protocol on one URL.

On one side the SDK: wire, sessions, versions. On the other the engine, which checks arguments, asks policy and
records. Requests with `MCP-Protocol-Version: 2026-07-28` stand alone; older ones open with `initialize` and keep an
`Mcp-Session-Id`. `http/auth.py` has been there before: who asks is in `scope["state"]["principal"]`, and Host, Origin
and sizes are checked, which is why the SDK's own checks of Host and Origin are off (they compare by prefix, and two
lists would sooner or later disagree).

Importing this module costs 0.7 s and 53 MB, all of it the SDK: import it late.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.inbound import x_mcp_header_map

from agentmesh import __version__
from agentmesh.core.policy import Principal
from agentmesh.core.tool import Tool
from agentmesh.mcp.calls import Calls
from agentmesh.mcp.exchange import Exchange
from agentmesh.mcp.fast import Fast
from agentmesh.mcp.front import Front
from agentmesh.mcp.greeting import greeting, instructions
from agentmesh.mcp.listen import STREAMS, STREAMS_OF_ONE, Hub
from agentmesh.mcp.metering import metering
from agentmesh.mcp.offered import Offered
from agentmesh.mcp.state import Seals
from agentmesh.mcp.tracing import carry_trace

if TYPE_CHECKING:
    from agentmesh.engine import Engine
    from agentmesh.settings import Settings

LIST_TTL_MS: Final = 10_000
"""How long a client may keep a list. Files and upstreams change, and not every client listens for that."""
READ_TTL_MS: Final = 0
"""How long a client may keep a resource: most are what something is now."""
MAX_SESSIONS: Final = 1000
"""Sessions of the older era at once; the next client is told to come back (HTTP 503). One caller may have half of them."""
SESSION_IDLE_SECONDS: Final = 30 * 60.0
"""A session without a request or a GET stream open for this long ends; what it still runs is cancelled."""
_MIRRORS: Final = 4096
"""Tools of which it is remembered whether they mirror arguments into headers."""


class McpEdge:
    """What app.py mounts at `/mcp` (`app`) and holds open in its lifespan (`run`). `server` also serves in process."""

    def __init__(self, server: Server[Any], manager: StreamableHTTPSessionManager, app: Fast, hub: Hub) -> None:
        self.server = server
        self.app = app
        self.hub = hub
        self._manager = manager

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Holds every session; leaving it ends them and cancels what runs for them. May be entered once."""
        async with self._manager.run(), self.hub.run(), self.app.run():
            yield

    def close_streams(self) -> None:
        """Ends the listen streams, each with its result, so that a server that stops need not wait for them."""
        self.hub.close()


def build_mcp(
    engine: Engine,
    settings: Settings,
    *,
    keys: Sequence[bytes] = (),
    in_process: Principal | None = None,
    max_sessions: int = MAX_SESSIONS,
    session_idle_seconds: float = SESSION_IDLE_SECONDS,
    max_streams: int = STREAMS,
    max_streams_of_one: int = STREAMS_OF_ONE,
) -> McpEdge:
    """The MCP edge of a mesh. `in_process`: who calls when there is no HTTP request, else such calls are refused.

    `keys`: at least 32 bytes each; they seal what clients carry back, the first seals and all open. Replicas need the same. None:
    a key of this process, and what it sealed ends with it.
    """
    mesh, limits = engine.mesh, settings.limits
    seals = Seals(keys or (os.urandom(32),), mesh=mesh.name, clock=engine.clock)
    exchange = Exchange(seals, depth=limits.json_depth, in_process=in_process)
    hub = Hub(engine, streams=max_streams, streams_of_one=max_streams_of_one, sessions_of_one=max(1, max_sessions // 2))
    calls, offered = Calls(engine, exchange), Offered(engine, exchange, hub)
    hub.tasks = calls.tasks
    kept = CacheHint(ttl_ms=LIST_TTL_MS, scope="private")
    with warnings.catch_warnings():
        # Logging of older clients is deprecated, not gone: they ask for it until they are gone themselves.
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        server: Server[Any] = Server(
            mesh.name,
            version=__version__,
            title=mesh.name,
            description=mesh.file.description or None,
            instructions=instructions(mesh),
            cache_hints={
                "tools/list": kept, "prompts/list": kept, "resources/list": kept, "resources/templates/list": kept,
                "resources/read": CacheHint(ttl_ms=READ_TTL_MS, scope="private"),
            },
            get_tool_input_schema=_Mirrors(engine.tools.find),
            on_list_tools=calls.list_tools,
            on_call_tool=calls.call_tool,
            on_list_resources=offered.list_resources,
            on_list_resource_templates=offered.list_templates,
            on_read_resource=offered.read_resource,
            on_subscribe_resource=offered.subscribe,
            on_unsubscribe_resource=offered.unsubscribe,
            on_subscriptions_listen=offered.listen,
            on_list_prompts=offered.list_prompts,
            on_get_prompt=offered.get_prompt,
            on_completion=offered.complete,
            on_set_logging_level=offered.set_level,
        )  # fmt: skip
    calls.tasks.register(server)
    # The SDK's only middleware opens a span per message; without an exporter it is a cost and nothing else.
    server.middleware.clear()
    server.middleware.append(metering(engine.meter, engine.tools))
    server.middleware.append(carry_trace)
    server.middleware.append(greeting(mesh, hub, exchange.principal))
    manager = StreamableHTTPSessionManager(
        server,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        session_idle_timeout=session_idle_seconds,
        max_sessions=max_sessions,
        max_request_body_size=limits.body,
    )
    front = Front(manager, full=hub.full)
    return McpEdge(server, manager, Fast(engine, server, front, body=limits.body, depth=limits.json_depth), hub)


class _Mirrors:
    """Input schemas of the tools that mirror arguments into `Mcp-Param-*` headers (2026-07-28 server/tools, x-mcp-header).

    Without this lookup each tools/call would cost a tools/list; with None for every other tool it costs a dict access.
    """

    def __init__(self, find: Callable[[str], Tool | None]) -> None:
        self._find = find
        self._known: dict[str, tuple[Tool, Mapping[str, Any] | None]] = {}

    def __call__(self, name: str) -> Mapping[str, Any] | None:
        tool = self._find(name)
        if tool is None:
            return None
        known = self._known.get(name)
        if known is not None and known[0] is tool:  # tools come and go, by reload and with their upstreams
            return known[1]
        if len(self._known) >= _MIRRORS:
            self._known.clear()
        schema = tool.input_schema if x_mcp_header_map(tool.input_schema) else None
        self._known[name] = (tool, schema)
        return schema
