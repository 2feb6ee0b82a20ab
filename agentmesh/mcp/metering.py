"""Metering: counts every MCP request that takes the SDK's path, as one middleware of its server; `fast.py` counts its own."""

from __future__ import annotations

import time
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import ValidationError

from agentmesh.engine.meter import CANCELLED, OTHER, TOOL_ERROR, UNKNOWN, Meter
from agentmesh.engine.tools import Tools

METHODS: Final = frozenset(
    {
        "initialize", "ping", "server/discover", "tools/list", "tools/call", "resources/list", "resources/read",
        "resources/templates/list", "resources/subscribe", "resources/unsubscribe", "prompts/list", "prompts/get",
        "completion/complete", "logging/setLevel", "subscriptions/listen", "tasks/get", "tasks/update", "tasks/cancel",
        "tasks/list", "tasks/result", "notifications/initialized", "notifications/cancelled",
        "notifications/progress", "notifications/roots/list_changed",
    }
)  # fmt: skip
"""Methods that are counted by name; a caller may send any, and the others are counted together."""


def metering(meter: Meter, tools: Tools) -> ServerMiddleware[Any]:
    """The middleware. It stands outermost, so that it sees what becomes of a request whoever answers it."""

    async def measure(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        began = time.perf_counter()
        kind = CANCELLED
        try:
            result = await call_next(ctx)
            kind = TOOL_ERROR if isinstance(result, dict) and result.get("isError") is True else ""
            return result
        except MCPError as error:
            kind = str(error.error.code)
            raise
        except ValidationError:
            kind = str(INVALID_PARAMS)
            raise
        except Exception:
            kind = "failed"
            raise
        finally:
            method = ctx.method if ctx.method in METHODS else OTHER
            meter.operations.record(
                (method, _tool(ctx, tools), ctx.protocol_version, kind), time.perf_counter() - began
            )

    return measure


def _tool(ctx: ServerRequestContext[Any, Any], tools: Tools) -> str:
    """The tool that a call names, when there is one: callers choose the name."""
    name = (ctx.params or {}).get("name") if ctx.method == "tools/call" else None
    if name is None:
        return ""
    return name if isinstance(name, str) and tools.find(name) is not None else UNKNOWN
