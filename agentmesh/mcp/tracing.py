"""Tracing: has a request belong to the trace that its `_meta` names (SEP-414), else its HTTP headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from agentmesh.core.trace import current, trace_of, traced


async def carry_trace(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """A middleware of the SDK's server. A session's handlers run as its first request did: what that belonged to is not theirs."""
    meta: Mapping[str, Any] = ctx.meta or {}
    trace = trace_of(meta) or (ctx.request and trace_of(ctx.request.headers)) or None
    if trace == (current() or None):
        return await call_next(ctx)
    with traced(trace):
        return await call_next(ctx)
